"""A run that is terminated or killed goes on to the very weights of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from retinanet.__main__ import main
from retinanet.run_log import read_run
from tests.shapes import write_shapes

ROOT = Path(__file__).parent.parent
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


def started(command, run_folder, step):
    """A process of its own that has made so many steps and is about to make more."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "retinanet",
            *arguments(command, run_folder),
            "--checkpoint-every=1",
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while read_run(run_folder).step < step and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


def test_killed_in_mid_step_it_loses_only_what_came_after_the_checkpoint(command, folder, whole):
    run_folder = folder / "killed"
    child = started(command, run_folder, step=2)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
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
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 143, errors
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


def test_interrupted_by_ctrl_c_it_ends_with_130(command, folder, monkeypatch):
    from retinanet import training_run

    run_folder = folder / "interrupted"
    monkeypatch.setattr(training_run, "SHOW_EVERY", 2)
    monkeypatch.setattr(
        training_run, "_line", lambda progress: os.kill(os.getpid(), signal.SIGINT) or "a line"
    )
    before = signal.getsignal(signal.SIGINT)
    assert main(arguments(command, run_folder)) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert (read_run(run_folder).state, state(run_folder)["step"]) == ("stopped", 2)


def test_a_failure_is_the_status(command, folder):
    run_folder = folder / "failed"
    assert main(arguments(command, run_folder, "--lr", "1e30", "--warmup-steps", "0")) == 2
    run = read_run(run_folder)
    assert run.state == "failed"
    assert "Lower the learning rate" in run.sentence
