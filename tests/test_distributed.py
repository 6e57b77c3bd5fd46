"""Two processes make the steps of one: same losses, same validation, one checkpoint."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from retinanet.__main__ import main
from retinanet.config import ModelConfig
from retinanet.distributed import (
    ALONE,
    World,
    check_batch,
    joined,
    norm_note,
    prepare_norms,
    trains_batch_norm,
)
from retinanet.model import RetinaNet
from retinanet.run_log import read_run
from retinanet.train_config import TrainingError
from tests import preloaded
from tests.shapes import write_shapes

ROOT = Path(__file__).parent.parent
STEPS = 5


def test_shares_make_up_the_whole():
    items = list(range(7))
    shares = [World(rank, 3).share(items) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert World(2, 3).share(items[:2]) == []
    assert ALONE.share(items) == items
    assert ALONE.is_main
    assert not World(1, 2).is_main


def test_one_process_agrees_with_itself():
    assert ALONE.sum([1.5, 2.0]) == ALONE.maximum([1.5, 2.0]) == [1.5, 2.0]
    assert (ALONE.any(True), ALONE.any(False)) == (True, False)
    assert ALONE.gather([3, 1]) == [3, 1]


def test_a_batch_must_be_divisible():
    check_batch(8, World(0, 4))
    with pytest.raises(TrainingError, match="choose a multiple of 3"):
        check_batch(8, World(0, 3))


def test_a_device_of_its_own_for_each(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as (world, device):
        assert (world, device) == (ALONE, torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("retinanet.distributed.pick_device", torch.device)
    for device in ("mps", "cuda:0"):
        with pytest.raises(TrainingError, match="cannot share"), joined(device):
            pass


def test_restarts_that_would_hang_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(TrainingError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), joined("cpu"):
        pass


def test_batch_norms_that_train_are_synchronised_or_said():
    def model(variant, frozen_stages):
        settings = {"depth": 18, "num_classes": 2, "num_convs": 1, "variant": variant}
        return RetinaNet(ModelConfig(frozen_stages=frozen_stages, **settings))

    cpu, cuda, two = torch.device("cpu"), torch.device("cuda"), World(0, 2)
    assert "own images" in norm_note(model("v2", 1), cpu, two)
    assert norm_note(model("v2", 4), cpu, two) == ""  # they do not train
    assert norm_note(model("v1", -1), cpu, two) == ""  # FrozenBatchNorm
    assert norm_note(model("v2", 1), cuda, two) == norm_note(model("v2", 1), cpu, ALONE) == ""
    changed = model("v2", 1)
    names = list(changed.state_dict())
    prepare_norms(changed, cuda, two)
    kinds = {
        type(m) for m in changed.modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase)
    }
    assert kinds == {torch.nn.SyncBatchNorm}
    assert list(changed.state_dict()) == names
    assert trains_batch_norm(model("v2", 3))
    assert not changed.backbone.body["conv1"].weight.requires_grad


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Five photos in batches of two: an epoch ends with a batch that has one for one process."""
    folder = tmp_path_factory.mktemp("ddp")
    annotations = write_shapes(folder / "data", photos=5)
    words = ["train", str(annotations), "--images", str(folder / "data" / "images")]
    words += ["--val", str(annotations), "--val-every", "1", "--device", "cpu", "--no-preview"]
    options = {"depth": 18, "num_convs": 1, "min_size": 64, "max_size": 96, "frozen_stages": 2}
    options |= {"steps": STEPS, "batch_size": 2, "warmup_steps": 1, "lr": 0.002, "prior": 0.1}
    options |= {"ema_decay": 0.5, "finest_every": 2, "checkpoint_every": 3}
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def written_to(run_folder, command):
    return [*command, "--run-folder", str(run_folder), "--out", f"{run_folder}.safetensors"]


@pytest.fixture(scope="module")
def one(command, tmp_path_factory):
    """The folder of one process's run."""
    run_folder = tmp_path_factory.mktemp("runs") / "one"
    assert main([*written_to(run_folder, command), "--no-probe"]) == 0
    return run_folder


def torchrun(command):
    """The exit code, output and errors of two processes that torchrun starts."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*words, "-m", "retinanet", *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def stopped_at_once(command, folder):
    """Exit codes and errors of two processes; after the first step the second is terminated.

    They find each other as torchrun's do, but without 8 seconds of imports.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run_folder = Path(command[command.index("--run-folder") + 1])
    files = [folder / f"rank{rank}.err" for rank in range(2)]
    ranks = [
        preloaded.start(command, file, world | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, file in enumerate(files)
    ]
    try:
        deadline = time.monotonic() + 60
        while read_run(run_folder).step < 1 and ranks[0].is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(ranks[1].pid, signal.SIGTERM)
        for rank in ranks:
            rank.join(60)
    finally:
        for rank in ranks:
            rank.kill()
    return [rank.exitcode for rank in ranks], [file.read_text() for file in files]


def test_two_processes_make_the_steps_of_one(command, one, tmp_path):
    """Also when a signal to one of them stops both, and torchrun starts others that go on."""
    two = tmp_path / "two"
    command = written_to(two, command)
    codes, errors = stopped_at_once(command, tmp_path)
    assert codes == [143, 143], errors
    assert [text.count(f"of {STEPS}; --resume goes on") for text in errors] == [1, 0]
    assert not Path(f"{two}.safetensors").exists()
    stopped = read_run(two)
    assert (stopped.state, stopped.step < STEPS) == ("stopped", True)
    code, out, errors = torchrun([*command, "--resume"])
    assert code == 0, errors
    assert out.count(f"{two}.safetensors") == 1  # rank 0 alone speaks
    assert_alike(one, two)


def assert_alike(one, two):
    """The folders of one process's run and of two processes' run."""
    ours, theirs = read_run(two), read_run(one)
    assert (ours.state, ours.step, ours.fault) == ("done", STEPS, "")
    for own, other in zip(ours.curve, theirs.curve, strict=True):
        for name in ("step", "lr", "num_foreground", "classification", "bbox_regression"):
            assert own[name] == pytest.approx(other[name], rel=1e-4), name
        assert own["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert own["grad_norms"] == pytest.approx(other["grad_norms"], rel=1e-3, abs=1e-6)
        assert [own["grad_norms"][stage] for stage in ("stem", "layer1", "layer2")] == [0, 0, 0]
    assert [point["step"] for point in ours.validations] == [3, STEPS]
    for own, other in zip(ours.validations, theirs.validations, strict=True):
        assert own["AP"] == pytest.approx(other["AP"], abs=1e-3)
        assert own["AP50"] == pytest.approx(other["AP50"], abs=1e-3)
    assert ours.cost["batch_size"] == 1  # of one process
    names = {path.name for path in two.iterdir()}
    assert names == {path.name for path in one.iterdir()} | {"cost.json"}
    weights = [torch.load(f / "last.pt", weights_only=True)["model"] for f in (one, two)]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], rtol=1e-3, atol=1e-5), name
