"""What a run leaves in its folder: written line by line, read while it is, never torn."""

import json
import os
import random
from itertools import pairwise

import pytest

from retinanet.run_log import RunLog, RunReader, read_run
from retinanet.training import Progress, TrainingError


def progress(step, steps=100, loss=None):
    loss = 1 / step if loss is None else loss
    return Progress(step, steps, loss, 0.5, 3.0, 2.0, 1e-3, 0.25, 60.0, {"stem": 0.0})


def steps_of(record):
    return [point["step"] for point in record.curve]


def written(folder, last, resume=False, first=1):
    log = RunLog(folder, resume=resume)
    for step in range(first, last + 1):
        log.add_step(progress(step))
    return log


def test_a_run_is_read_as_it_was_written(tmp_path):
    log = written(tmp_path / "run", 3)
    log.set_status("validating", "almost")
    log.add_validation(3, {"AP": 1 / 3, "AP50": float("nan"), "AP50_per_class": {"red": 0.5}})
    log.add_preview(3, [tmp_path / "run" / "previews" / "000003-0.jpg"])
    run = read_run(tmp_path / "run")
    assert (run.state, run.sentence, run.step, run.steps) == ("validating", "almost", 3, 100)
    assert (run.pid, run.eta_seconds, run.fault) == (os.getpid(), 60.0, "")
    assert 0 <= run.heartbeat_age < 60
    assert steps_of(run) == [1, 2, 3]
    assert run.curve[2]["classification"] == 0.333333  # six digits
    assert run.curve[0]["grad_norms"] == {"stem": 0.0}
    validation = {"step": 3, "AP": 0.333333, "AP50": None, "AP50_per_class": {"red": 0.5}}
    assert run.validations == [validation]
    assert run.previews == [{"step": 3, "files": ["previews/000003-0.jpg"]}]
    log.set_status("done")
    assert read_run(tmp_path / "run").eta_seconds is None


def test_a_folder_without_a_run_is_an_empty_record(tmp_path):
    run = read_run(tmp_path / "nowhere")
    assert (run.state, run.step, run.curve, run.heartbeat_age) == ("none", 0, [], None)


def test_the_number_of_steps_is_known_before_the_first(tmp_path):
    log = RunLog(tmp_path, resume=False)
    log.expect(500)
    log.set_status("preparing", "features 10/100")
    run = read_run(tmp_path)
    assert (run.state, run.step, run.steps) == ("preparing", 0, 500)


def test_a_torn_last_line_is_skipped_and_the_next_run_writes_over_it(tmp_path):
    written(tmp_path, 3).close()
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 4, "classif')
    run = read_run(tmp_path)
    assert (steps_of(run), run.fault) == ([1, 2, 3], "")
    written(tmp_path, 5, resume=True, first=4).close()
    assert steps_of(read_run(tmp_path)) == [1, 2, 3, 4, 5]
    assert steps_of(RunReader(tmp_path).read()) == [1, 2, 3, 4, 5]


def test_a_step_done_twice_counts_once_with_what_followed_it(tmp_path):
    log = written(tmp_path, 10)
    log.add_validation(4, {"AP": 0.1})
    log.close()
    assert steps_of(read_run(tmp_path)) == list(range(1, 11))
    log = RunLog(tmp_path, resume=True)
    log.add_step(progress(5, loss=7.0))  # the checkpoint was of step 4
    log.add_validation(4, {"AP": 0.2})
    for run in (read_run(tmp_path), RunReader(tmp_path).read()):
        assert steps_of(run) == [1, 2, 3, 4, 5]
        assert run.curve[-1]["classification"] == 7.0
        assert run.validations == [{"step": 4, "AP": 0.2}]


def test_a_run_begun_anew_is_another_run_for_a_reader_too(tmp_path):
    written(tmp_path, 9).close()
    reader = RunReader(tmp_path)
    assert reader.read().step == 9
    log = RunLog(tmp_path, resume=False)
    for step in range(1, 13):
        log.add_step(progress(step, loss=2.0))
    run = reader.read()
    assert steps_of(run) == list(range(1, 13))
    assert {point["classification"] for point in run.curve} == {2.0}


@pytest.mark.parametrize("points", [2, 3, 50, 128])
def test_the_curve_is_thinned_evenly_and_ends_with_the_last_step(tmp_path, points):
    lines = [json.dumps({"step": step}) for step in range(1, 1235)]
    (tmp_path / "steps.jsonl").write_text("\n".join(lines) + "\n")
    steps = steps_of(read_run(tmp_path, points=points))
    assert steps[0] == 1
    assert steps[-1] == 1234
    assert points / 3 <= len(steps) <= points
    gaps = {b - a for a, b in pairwise(steps[:-1])}
    assert len(gaps) <= 1


def test_reading_in_pieces_gives_what_reading_at_once_gives(tmp_path):
    draw = random.Random(5)
    path = tmp_path / "steps.jsonl"
    content, step = b"", 0
    for _ in range(400):
        step = max(1, step - draw.randint(0, 30)) if draw.random() < 0.03 else step + 1
        content += json.dumps({"step": step, "x": draw.random()}).encode() + b"\n"
    reader, at = RunReader(tmp_path, points=40), 0
    while at < len(content):
        more = draw.randint(1, 900)
        with path.open("ab") as file:
            file.write(content[at : at + more])
        at += more
        assert reader.read().curve == RunReader(tmp_path, points=40).read().curve
    assert reader.read().step == step


def test_reading_again_reads_only_what_is_new(tmp_path, monkeypatch):
    log = written(tmp_path, 50)
    reader = RunReader(tmp_path)
    reader.read()
    parsed = []
    monkeypatch.setattr(
        "retinanet.run_record.parse_line", lambda line: parsed.append(line) or json.loads(line)
    )
    assert reader.read().step == 50
    log.add_step(progress(51))
    assert reader.read().step == 51
    assert len(parsed) == 1


@pytest.mark.parametrize(
    "line", ["x", "[]", '{"no": 1}', '{"step": "1"}', '{"step": true}', '{"step": -1}', "[" * 99999]
)
def test_a_damaged_line_is_left_out_by_readers_and_refused_by_the_writer(tmp_path, line):
    written(tmp_path, 2).close()
    path = tmp_path / "steps.jsonl"
    path.write_text(line + "\n" + path.read_text())
    run = read_run(tmp_path)
    assert steps_of(run) == [1, 2]
    assert "damaged line" in run.fault
    with pytest.raises(TrainingError, match="damaged; remove it"):
        RunLog(tmp_path, resume=True)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"state": ["x"]}', b" " * 2_000_000])
def test_a_status_that_is_none_is_said(tmp_path, content):
    written(tmp_path, 1).close()
    (tmp_path / "status.json").write_bytes(content)
    run = read_run(tmp_path)
    assert run.state == "running"  # as the steps say
    assert (run.fault == "") == (content[:1] == b"{")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        RunLog(tmp_path / "file", resume=False)


def test_every_status_is_whole_for_whoever_reads_meanwhile(tmp_path, monkeypatch):
    log = RunLog(tmp_path, resume=False)
    log.set_status("running")

    def killed(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.set_status("done")
    assert read_run(tmp_path).state == "running"
