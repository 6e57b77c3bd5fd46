"""A run that is terminated or killed goes on to the very weights of one that was not."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest
import torch

import retinanet.cli.train as training_command
from retinanet import training_run
from retinanet.__main__ import main
from retinanet.cli.signals import stopping
from retinanet.run_log import read_run
from retinanet.train_config import TrainConfig
from retinanet.training_run import TrainingRun
from tests import preloaded
from tests.shapes import write_shapes

STEPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def command(folder):
    annotations = write_shapes(folder / "data", photos=3)
    options = {"depth": 18, "num_convs": 1, "variant": "v2", "min_size": 64, "max_size": 96}
    options |= {"frozen_stages": 3, "steps": STEPS, "batch_size": 2, "ema_decay": 0.5}
    options |= {"warmup_steps": 2, "finest_every": 2, "device": "cpu"}
    words = ["train", str(annotations), "--images", str(folder / "data" / "images"), "--no-probe"]
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def arguments(command, run_folder, *more):
    places = ["--run-folder", str(run_folder), "--out", f"{run_folder}.safetensors"]
    return [*command, *places, *more]


def state(run_folder):
    return torch.load(run_folder / "last.pt", weights_only=True)


@pytest.fixture(scope="module")
def whole(command, folder):
    """The checkpoint of a run that nothing disturbed."""
    assert main(arguments(command, folder / "whole")) == 0
    return state(folder / "whole")


def flat(value, name=""):
    """{name: leaf} of nested dictionaries and lists."""
    if not isinstance(value, dict | list | tuple):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: leaf for key, entry in items for k, leaf in flat(entry, f"{name}.{key}").items()}


def assert_same(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else None
        assert same or value == other[name], name


def started(command, run_folder, step, *more):
    """A process of its own that has made so many steps and is about to make more."""
    words = arguments(command, run_folder, "--checkpoint-every=1", *more)
    child = preloaded.start(words, run_folder.with_suffix(".err"))
    deadline = time.monotonic() + 60
    while read_run(run_folder).step < step and child.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return child


def test_killed_in_mid_step_it_loses_only_what_came_after_the_checkpoint(command, folder, whole):
    run_folder = folder / "killed"
    child = started(command, run_folder, step=2)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    reached = read_run(run_folder).step
    assert state(run_folder)["step"] in (reached - 1, reached)
    assert reached < STEPS
    assert read_run(run_folder).state == "running"  # it had no time to say otherwise
    assert main(arguments(command, run_folder, "--resume")) == 0
    assert_same(state(run_folder), whole)
    run = read_run(run_folder)
    assert (run.state, run.fault) == ("done", "")
    assert [point["step"] for point in run.curve] == list(range(1, STEPS + 1))


def test_terminated_it_finishes_its_step_and_says_so(command, folder, whole):
    run_folder = folder / "terminated"
    child = started(command, run_folder, step=2)
    child.terminate()
    child.join(60)
    errors = run_folder.with_suffix(".err").read_text()
    assert child.exitcode == 143, errors
    run = read_run(run_folder)
    assert run.state == "stopped"
    assert f"stopped after step {run.step} of {STEPS}" in errors
    assert state(run_folder)["step"] == run.step < STEPS
    assert not Path(f"{run_folder}.safetensors").exists()
    assert main(arguments(command, run_folder, "--resume")) == 0
    assert_same(state(run_folder), whole)
    undisturbed = read_run(folder / "whole").curve
    for one, other in zip(read_run(run_folder).curve, undisturbed, strict=True):
        for name in ("step", "classification", "bbox_regression", "grad_norm", "lr"):
            assert one[name] == other[name]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_ctrl_c_and_a_closed_terminal_end_it_after_the_step(
    command, folder, monkeypatch, number, code
):
    run_folder = folder / f"ended-{code}"
    monkeypatch.setattr(training_run, "SHOW_EVERY", 2)
    monkeypatch.setattr(training_run, "_line", lambda progress: os.kill(os.getpid(), number))

    def unheard(line):
        raise OSError(errno.EIO, "the terminal has gone")

    monkeypatch.setattr("retinanet.cli.train.say", unheard)
    before = signal.getsignal(number)
    assert main(arguments(command, run_folder)) == code
    assert signal.getsignal(number) is before
    assert (read_run(run_folder).state, state(run_folder)["step"]) == ("stopped", 2)


def test_under_nohup_a_closed_terminal_is_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping(once=True) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.event.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("owner", "name", "made"),
    [
        (training_command, "load_coco", 1),
        (training_run, "probe", 1),
        (training_run, "evaluate_shared", 4),
    ],
)
def test_terminated_outside_a_step_it_loses_nothing(
    command, folder, monkeypatch, owner, name, made, whole
):
    """While the data is read, a probe is made, or held-out photos are evaluated."""
    run_folder = folder / f"during-{name}"
    real = getattr(owner, name)

    def terminated(*given, **options):
        monkeypatch.setattr(owner, name, real)  # a second signal would end the process at once
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given, **options)

    words = arguments(command, run_folder, "--val", command[1], "--no-preview")
    words += ["--val-every", "1", "--checkpoint-every", "4"]
    if name == "probe":
        words.remove("--no-probe")
    monkeypatch.setattr(owner, name, terminated)
    assert main(words) == 143
    run = read_run(run_folder)
    assert (run.state, run.step, state(run_folder)["step"]) == ("stopped", made, made)
    assert run.validations == []
    if name == "evaluate_shared":
        assert main([*words, "--resume"]) == 0
        assert_same(state(run_folder), whole)
        assert [v["step"] for v in read_run(run_folder).validations] == [4, 8]  # no hole


def test_two_runs_cannot_write_to_one_folder(command, folder, capsys):
    run_folder = folder / "shared"
    config = TrainConfig(steps=STEPS)
    with TrainingRun(run_folder, config):
        before = sorted(run_folder.iterdir())
        for more in ([], ["--resume"]):
            assert main(arguments(command, run_folder, *more)) == 2
        assert "Another run is being written to" in capsys.readouterr().err
        assert sorted(run_folder.iterdir()) == before
        assert read_run(run_folder).state == "preparing"  # the first one's word
    TrainingRun(run_folder, config).__exit__(None, None, None)


def test_a_failure_is_the_status(command, folder):
    run_folder = folder / "failed"
    assert main(arguments(command, run_folder, "--lr", "1e30", "--warmup-steps", "0")) == 2
    run = read_run(run_folder)
    assert run.state == "failed"
    assert "Lower the learning rate" in run.sentence
