"""The queue of runs, with a child that only looks like `train`, and once with the real one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from retinanet.checkpoints import load_model
from retinanet.config import ModelConfig
from retinanet.runs import RunError, RunQueue, RunRequest, process, store
from retinanet.runs.process import environment, is_alive
from retinanet.train_config import TrainConfig
from tests.shapes import write_shapes

ROOT = Path(__file__).parent.parent

CHILD = r'''
"""Looks like `train`: --seed says how it behaves, --steps how long it takes."""
import json, os, pathlib, signal, sys, time

words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
folder = pathlib.Path(value("--run-folder"))
steps, seed = int(value("--steps")), int(value("--seed"))
stop = []
signal.signal(signal.SIGTERM, (lambda *_: None) if seed == 3 else (lambda *_: stop.append(1)))
facts = {
    "argv": words,
    "session": os.getsid(0),
    "nice": os.nice(0),
    "stdin": sys.stdin.read(),
    "threads": os.environ["OMP_NUM_THREADS"],
    "began": time.time(),
}
log = (folder / "steps.jsonl").open("a")
last = folder / "last.pt"
begin = int(last.read_text()) if "--resume" in words and last.exists() else 0
def leave(code, state, text=""):
    facts["ended"] = time.time()
    status = {"state": state, "sentence": text, "pid": os.getpid()}
    (folder / "status.json").write_text(json.dumps(status))
    with (folder / "facts.jsonl").open("a") as file:
        file.write(json.dumps(facts) + "\n")
    if text:
        print("some progress\nretinanet train: " + text, file=sys.stderr)
    sys.exit(code)
if seed == 1:
    leave(2, "failed", "There is no folder nowhere; name the one that holds the images.")
for step in range(begin + 1, steps + 1):
    time.sleep(0.02)
    point = {"step": step, "steps": steps, "classification": 1 / step, "seconds": 0.02}
    log.write(json.dumps(point) + "\n")
    log.flush()
    last.write_text(str(step))
    if seed == 2 and step == 2:
        leave(2, "failed", "The loss is no longer a finite number in step 3. Lower the rate.")
    if stop:
        leave(143, "stopped")
pathlib.Path(value("--out")).write_text("weights")
leave(0, "done")
'''

OK, FAILS, DIVERGES, STUBBORN = range(4)
LONG = 100_000


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    path = tmp_path_factory.mktemp("child") / "child.py"
    path.write_text(CHILD)
    return (sys.executable, "-S", str(path))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", photos=4)


@pytest.fixture
def queue(child, tmp_path):
    made = RunQueue(tmp_path / "runs", child, poll_seconds=0.02, cancel_seconds=0.3)
    yield made
    for run in made.runs():
        if run.place >= 0:
            made.cancel(run.id)
    made.close()


@pytest.fixture
def request_of(data):
    def make(seed=OK, steps=3, name="a run", **changes):
        train = TrainConfig(steps=steps, seed=seed)
        return RunRequest(name, data, data.parent / "images", train=train, **changes)

    return make


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def facts(run):
    return [json.loads(line) for line in (run.folder / "facts.jsonl").read_text().splitlines()]


def pid_of(folder):
    return json.loads((folder / "state.json").read_text())["pid"]


def at_step(queue, run_id, step):
    until(lambda: queue.get(run_id).record.step >= step)


# ------------------------------------------------------------------ the queue


def test_runs_go_one_after_the_other_in_order(queue, request_of):
    ids = [queue.submit(request_of(steps=8, name=f"run {number}")) for number in range(3)]
    until(lambda: queue.get(ids[0]).state == "running")
    assert [queue.get(run_id).place for run_id in ids] == [0, 1, 2]
    assert [queue.get(run_id).state for run_id in ids] == ["running", "queued", "queued"]
    done = [queue.wait(run_id, 10) for run_id in ids]
    assert [run.state for run in done] == ["done"] * 3
    assert [run.place for run in done] == [-1] * 3
    assert [run.out.read_text() for run in done] == ["weights"] * 3
    assert done[0].out == queue.store.folder / ids[0] / "model.safetensors"
    assert [run.id for run in queue.runs()] == ids[::-1]
    assert done[0].record.step == 8
    spans = [(facts(run)[0]["began"], facts(run)[0]["ended"]) for run in done]
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_a_run_has_a_session_of_its_own_and_leaves_a_core(queue, request_of, monkeypatch):
    run = queue.wait(queue.submit(request_of(steps=1)), 10)
    found = facts(run)[0]
    assert found["session"] != os.getsid(0)
    assert found["stdin"] == ""
    assert found["nice"] >= 5 > os.nice(0)
    assert "--resume" not in found["argv"]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert environment()["OMP_NUM_THREADS"] == str(max(1, cores - 1))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment()["OMP_NUM_THREADS"] == "7"


def test_a_paused_run_goes_on_where_it_stopped(queue, request_of):
    run_id = queue.submit(request_of(steps=LONG))
    at_step(queue, run_id, 2)
    queue.pause(run_id)
    queue.pause(run_id)  # a second click changes nothing
    run = queue.wait(run_id, 10)
    assert run.state == "paused"
    assert "checkpoint" in run.sentence
    stopped_at = run.record.step
    assert queue.get(run_id).out is None
    queue.resume(run_id)
    at_step(queue, run_id, stopped_at + 2)
    queue.pause(run_id)
    run = queue.wait(run_id, 10)
    steps = [point["step"] for point in run.record.curve]
    assert steps == list(range(1, run.record.step + 1))
    assert "--resume" not in facts(run)[0]["argv"]
    assert "--resume" in facts(run)[1]["argv"]


def test_one_that_waits_is_paused_without_having_begun(queue, request_of):
    first, second = queue.submit(request_of(steps=LONG)), queue.submit(request_of(steps=1))
    until(lambda: queue.get(first).state == "running")
    queue.pause(second)
    assert queue.get(second).state == "paused"
    assert queue.get(second).place == -1
    queue.resume(second)
    queue.cancel(first)
    run = queue.wait(second, 10)
    assert run.state == "done"
    assert "--resume" not in facts(run)[0]["argv"]  # it has no checkpoint to go on from


def test_a_cancelled_run_that_does_not_end_is_killed(queue, request_of):
    run_id = queue.submit(request_of(STUBBORN, steps=LONG))
    waiting = queue.submit(request_of(steps=1))
    at_step(queue, run_id, 1)
    pid = pid_of(queue.store.folder / run_id)
    began = time.monotonic()
    queue.cancel(run_id)
    assert queue.get(run_id).state == "cancelling"
    run = queue.wait(run_id, 10)
    assert run.state == "cancelled"
    assert time.monotonic() - began >= 0.3
    assert not is_alive(pid, run.folder)
    assert queue.wait(waiting, 10).state == "done"
    for move in (queue.resume, queue.pause):
        with pytest.raises(RunError, match="it is cancelled"):
            move(run_id)


def test_a_failure_is_the_childs_own_line_and_the_next_goes_on(queue, request_of):
    failing, good = queue.submit(request_of(FAILS)), queue.submit(request_of(steps=1))
    run = queue.wait(failing, 10)
    assert run.state == "failed"
    assert run.sentence == "There is no folder nowhere; name the one that holds the images."
    assert queue.wait(good, 10).state == "done"
    with pytest.raises(RunError, match="it is done"):
        queue.cancel(good)


def test_a_killed_run_says_so_and_can_be_resumed(queue, request_of):
    run_id = queue.submit(request_of(steps=30))
    at_step(queue, run_id, 2)
    os.kill(pid_of(queue.store.folder / run_id), signal.SIGKILL)
    run = queue.wait(run_id, 10)
    assert run.state == "failed"
    assert "signal 9" in run.sentence
    assert "memory" in run.sentence
    queue.resume(run_id)
    run = queue.wait(run_id, 10)
    assert run.state == "done"
    assert [point["step"] for point in run.record.curve] == list(range(1, 31))


def test_a_program_that_is_not_there_fails_and_the_queue_lives(tmp_path, request_of):
    queue = RunQueue(tmp_path / "runs", ("no-such-program",), poll_seconds=0.02)
    runs = [queue.wait(queue.submit(request_of()), 10) for _ in range(2)]
    assert {run.state for run in runs} == {"failed"}
    assert "could not be started" in runs[0].sentence
    queue.close()


APP = """
import os, sys
from pathlib import Path
from retinanet.runs import RunQueue, RunRequest
from retinanet.train_config import TrainConfig
folder, data, steps, *child = sys.argv[1:]
queue = RunQueue(Path(folder), child, poll_seconds=0.02)
data = Path(data)
train = TrainConfig(steps=int(steps))
run_id = queue.submit(RunRequest("a", data, data.parent / "images", train=train))
while queue.get(run_id).record.step < 2:
    pass
print(run_id, flush=True)
os._exit(1)  # as if it were killed
"""


def died_with_a_run(folder, data, steps, child):
    done = subprocess.run(
        [sys.executable, "-c", APP, str(folder), str(data), str(steps), *child],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.stdout.strip()


def test_a_run_that_outlives_its_app_is_watched_further(tmp_path, data, child):
    run_id = died_with_a_run(tmp_path / "runs", data, 60, child)
    queue = RunQueue(tmp_path / "runs", child, poll_seconds=0.02)
    assert queue.get(run_id).state == "running"
    assert queue.get(run_id).place == 0
    run = queue.wait(run_id, 10)
    assert run.state == "done"
    assert len(facts(run)) == 1  # it was not started again
    queue.close()


def test_a_run_that_died_with_its_app_is_paused_and_goes_on(tmp_path, data, child):
    run_id = died_with_a_run(tmp_path / "runs", data, 60, child)
    folder = tmp_path / "runs" / run_id
    pid = pid_of(folder)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid, folder))
    queue = RunQueue(tmp_path / "runs", child, poll_seconds=0.02)
    run = queue.get(run_id)
    assert run.state == "paused"
    assert "checkpoint" in run.sentence
    queue.resume(run_id)
    run = queue.wait(run_id, 10)
    assert run.state == "done"
    assert [point["step"] for point in run.record.curve] == list(range(1, 61))
    queue.close()


def test_another_process_with_a_runs_old_id_is_not_taken_for_it(queue, request_of, tmp_path, child):
    run_id = queue.submit(request_of(steps=1))
    queue.wait(run_id, 10)
    queue.close()
    file = tmp_path / "runs" / run_id / "state.json"
    (file.parent / "model.safetensors").unlink()
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"state": "running", "pid": os.getpid()})
    )
    (file.parent / "status.json").unlink()
    again = RunQueue(tmp_path / "runs", child, poll_seconds=0.02)
    assert again.get(run_id).state == "paused"
    again.close()


def test_closing_pauses_what_is_at_work_and_the_next_queue_goes_on(tmp_path, child, request_of):
    queue = RunQueue(tmp_path / "runs", child, poll_seconds=0.02)
    first, second = queue.submit(request_of(steps=LONG)), queue.submit(request_of(steps=2))
    at_step(queue, first, 1)
    queue.close()
    assert [queue.get(run_id).state for run_id in (first, second)] == ["paused", "queued"]
    with pytest.raises(RunError, match="closed"):
        queue.submit(request_of())
    again = RunQueue(tmp_path / "runs", child, poll_seconds=0.02)
    assert again.wait(second, 10).state == "done"
    assert again.get(first).state == "paused"
    again.close()


def test_two_queues_on_one_folder_share_one_place_at_work(queue, tmp_path, child, request_of):
    other = RunQueue(tmp_path / "runs", child, poll_seconds=0.02)
    ids, faults = [], []

    def use(one):
        try:
            ids.extend(one.submit(request_of(steps=1)) for _ in range(2))
        except RunError as error:
            faults.append(error)

    threads = [threading.Thread(target=use, args=(one,)) for one in (queue, other) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(set(ids)) == 12
    runs = [queue.wait(run_id, 20) for run_id in ids]
    assert {run.state for run in runs} == {"done"}
    assert all(len(facts(run)) == 1 for run in runs)
    spans = sorted((facts(run)[0]["began"], facts(run)[0]["ended"]) for run in runs)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    other.close()


def test_removing_deletes_a_run_that_is_not_at_work(queue, request_of):
    run_id = queue.submit(request_of(steps=LONG))
    until(lambda: queue.get(run_id).state == "running")
    with pytest.raises(RunError, match="cancel it first"):
        queue.remove(run_id)
    queue.cancel(run_id)
    run = queue.wait(run_id, 10)
    queue.remove(run_id)
    assert not run.folder.exists()
    for call in (queue.get, queue.remove, queue.pause):
        with pytest.raises(RunError, match="no such run"):
            call(run_id)


@pytest.mark.parametrize("run_id", ["", "..", "../runs", "x" * 16, "0" * 16, "0" * 15 + "\n"])
def test_an_id_leads_nowhere_else(queue, run_id):
    with pytest.raises(RunError, match="no such run"):
        queue.get(run_id)
    with pytest.raises(RunError, match="no such run"):
        queue.remove(run_id)


def test_damaged_files_cost_their_own_run_only(queue, request_of):
    ids = [queue.submit(request_of(steps=1)) for _ in range(3)]
    for run_id in ids:
        queue.wait(run_id, 10)
    (queue.store.folder / ids[0] / "state.json").write_text('{"state": "run')
    assert queue.get(ids[0]).state == "failed"
    assert "damaged" in queue.get(ids[0]).sentence
    (queue.store.folder / ids[1] / "request.json").write_text("[" * 10_000)
    queue.close()
    again = RunQueue(queue.store.folder, queue.command)
    assert {run.id for run in again.runs()} == {ids[0], ids[2]}
    again.remove(ids[0])
    again.close()


def test_a_request_without_its_data_is_refused_at_once(queue, request_of, tmp_path):
    base = request_of()
    for change in (
        {"annotations": tmp_path / "no.json"},
        {"images": tmp_path / "no"},
        {"val": tmp_path / "no.json"},
    ):
        with pytest.raises(RunError, match="There is no"):
            queue.submit(replace(base, **change))
    assert queue.runs() == []


def test_the_real_command_is_paused_resumed_and_leaves_a_model(tmp_path, data):
    queue = RunQueue(tmp_path / "runs", poll_seconds=0.05)
    request = RunRequest(
        "real",
        data,
        data.parent / "images",
        val=data,
        model=ModelConfig(depth=18, num_convs=1, min_size=64, max_size=96, frozen_stages=4),
        train=TrainConfig(steps=12, batch_size=2, warmup_steps=2),
        device="cpu",
        val_every=0,
    )
    run_id = queue.submit(request)
    until(lambda: queue.get(run_id).record.step >= 1, 150)
    queue.pause(run_id)
    run = queue.wait(run_id, 150)
    assert run.state == "paused", run.sentence
    assert 1 <= run.record.step < 12
    queue.resume(run_id)
    run = queue.wait(run_id, 150)
    assert run.state == "done", run.sentence
    assert [point["step"] for point in run.record.curve] == list(range(1, 13))
    assert run.record.validations[-1]["step"] == 12
    model = load_model(run.out, device="cpu")
    assert (model.config.depth, model.categories) == (18, ("red", "blue"))
    queue.close()


def test_a_run_whose_start_cannot_be_noted_leaves_no_process(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("{}")
    full, started = [True], []
    write, start = store._write, process.start

    def written(path, content):
        if full and content.get("state") == "running":
            raise OSError(28, "No space left on device")
        write(path, content)

    def begun(command, folder):
        started.append(start(command, folder))
        return started[-1]

    monkeypatch.setattr(store, "_write", written)
    monkeypatch.setattr(process, "start", begun)
    sleeper = (sys.executable, "-c", "import time; time.sleep(30)")
    queue = RunQueue(tmp_path / "runs", command=sleeper, poll_seconds=0.02)
    run_id = queue.submit(RunRequest("one", tmp_path / "a.json", tmp_path))
    until = time.monotonic() + 10
    while len(started) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    full.clear()  # there is room again
    while queue.get(run_id).state != "running" and time.monotonic() < until:
        time.sleep(0.01)
    assert len(started) >= 3
    assert [child.poll() is None for child in started] == [False] * (len(started) - 1) + [True]
    queue.cancel(run_id)
    queue.wait(run_id, 10)
    queue.close()
