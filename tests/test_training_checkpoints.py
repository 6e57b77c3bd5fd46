"""When checkpoints are written, what they outlive, and what they can be gone on from."""

import random
import shutil
import threading

import numpy as np
import pytest
import torch

from retinanet.training import (
    Progress,
    TrainConfig,
    TrainingError,
    train,
)
from tests.tiny import QUICK, new_model


def test_resuming_gives_the_very_weights_of_an_uninterrupted_run(dataset, tmp_path):
    config = TrainConfig(steps=4, checkpoint_every=2, ema_decay=0.5, **QUICK)
    whole = train(new_model(dataset), dataset, config, run_folder=tmp_path / "whole")

    stop = threading.Event()
    seen = []

    def stop_after_three(progress):
        seen.append(progress.step)
        if progress.step == 3:
            stop.set()

    folder = tmp_path / "parts"
    train(
        new_model(dataset),
        dataset,
        config,
        run_folder=folder,
        on_progress=stop_after_three,
        cancel=stop,
    )
    assert seen == [1, 2, 3]
    torch.manual_seed(99)
    resumed = train(
        new_model(dataset),
        dataset,
        config,
        run_folder=folder,
        resume=True,
        on_progress=lambda p: seen.append(p.step),
    )
    assert seen == [1, 2, 3, 4]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    "error", [RuntimeError("[enforce fail at inline_container.cc]"), OSError(28, "No space left")]
)
def test_a_full_disk_is_a_sentence_and_leaves_no_half_checkpoint(
    dataset, two_steps, tmp_path, monkeypatch, error
):
    shutil.copy(two_steps / "last.pt", tmp_path)
    before = (tmp_path / "last.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"PK half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    more = TrainConfig(steps=3, **QUICK)
    with pytest.raises(TrainingError, match=r"last\.pt cannot be written"):
        train(new_model(dataset), dataset, more, run_folder=tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not (tmp_path / "last.part").exists()


@pytest.mark.parametrize(
    ("seconds", "writing", "saved"),
    [
        (0.0, 1.0, [10]),  # only by the steps, and at the end
        (3.0, 0.0, [3, 6, 9, 10]),  # each step takes a second
        (1.0, 0.5, [1, 6, 10]),  # 9 times as long as writing took, which makes a tenth
    ],
)
def test_a_checkpoint_is_written_when_it_has_been_too_long(
    dataset, tmp_path, monkeypatch, seconds, writing, saved
):
    now, written, validated = [0.0], [], []

    def save(path, stepper, step):
        written.append(step)
        now[0] += writing

    def step(self, views, keys, number):
        now[0] += 1.0
        return Progress(number + 1, 10, *[0.0] * 7)

    monkeypatch.setattr("retinanet.training_state.save_state", save)
    monkeypatch.setattr("retinanet.training_state.time.monotonic", lambda: now[0])
    monkeypatch.setattr("retinanet.training.Stepper.run", step)
    train(
        new_model(dataset),
        dataset,
        TrainConfig(steps=10, checkpoint_seconds=seconds),
        run_folder=tmp_path,
        on_checkpoint=lambda model, step: validated.append(step),
    )
    assert written == saved
    assert validated == [10]  # how fast the machine is decides nothing that a run shows


@pytest.fixture(scope="module")
def two_steps(dataset, tmp_path_factory):
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("two")
    train(new_model(dataset), dataset, TrainConfig(steps=2, **QUICK), run_folder=folder)
    return folder


@pytest.mark.parametrize(
    ("model", "config", "words"),
    [
        ({"depth": 34}, {}, "depth is 18 in the file and 34"),
        ({"frozen_stages": 4}, {}, "frozen_stages"),
        ({}, {"optimizer": "sgd"}, "optimizer"),
        ({}, {"steps": 1}, "is of step 2, and the run is to have 1; raise steps"),
    ],
)
def test_resuming_another_run_is_refused_in_a_sentence(dataset, two_steps, model, config, words):
    changed = TrainConfig(**{"steps": 3, **QUICK, **config})
    with pytest.raises(TrainingError, match=words) as refusal:
        train(new_model(dataset, **model), dataset, changed, run_folder=two_steps, resume=True)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(dataset, tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(TrainingError, match="damaged"):
        train(new_model(dataset), dataset, TrainConfig(), run_folder=tmp_path, resume=True)


def test_a_step_draws_no_random_numbers(dataset, tmp_path, unsaved):
    """What a checkpoint would have to keep as well, were it otherwise."""
    states = []

    def note(progress):
        numpy_state = np.random.get_state()  # noqa: NPY002
        states.append((torch.get_rng_state().tolist(), random.getstate(), numpy_state[1]))

    config = TrainConfig(steps=3, ema_decay=0.5, **QUICK)
    train(new_model(dataset), dataset, config, run_folder=tmp_path, on_progress=note)
    for torch_state, python_state, numpy_state in states[1:]:
        assert torch_state == states[0][0]
        assert python_state == states[0][1]
        assert (numpy_state == states[0][2]).all()


def test_a_checkpoint_outlives_a_kill_while_the_next_is_written(
    dataset, two_steps, tmp_path, monkeypatch
):
    shutil.copy(two_steps / "last.pt", tmp_path)
    before = (tmp_path / "last.pt").read_bytes()

    def killed(state, path):
        path.write_bytes(b"PK half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    more = TrainConfig(steps=3, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(dataset), dataset, more, run_folder=tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before
    monkeypatch.undo()
    seen = []
    train(
        new_model(dataset),
        dataset,
        more,
        run_folder=tmp_path,
        resume=True,
        on_progress=lambda progress: seen.append(progress.step),
    )
    assert seen == [3]


def test_a_run_begun_anew_is_not_resumed_from_the_checkpoint_of_another(
    dataset, two_steps, tmp_path
):
    shutil.copy(two_steps / "last.pt", tmp_path)

    def crash(progress):
        raise KeyboardInterrupt

    config = TrainConfig(steps=2, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(dataset), dataset, config, run_folder=tmp_path, on_progress=crash)
    assert not (tmp_path / "last.pt").exists()
    assert (tmp_path / "previous.pt").exists()
