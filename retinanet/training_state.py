"""The checkpoint that a run goes on from: weights, optimiser, average and the steps done.

A run needs no more: the order of the photos and their views are functions of the seed and the
step, and nothing else in a step draws random numbers.
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import torch

from retinanet.keymaps import diagnose_mismatch
from retinanet.train_config import TrainConfig, TrainingError
from retinanet.training_step import Stepper

MAX_SHARE = 0.1
"""Of the time, that checkpoints which no number of steps asks for may take to write."""

# What PyTorch raises on a file that it did not write, or on a state that is another model's.
_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)


def save_state(path: Path, stepper: Stepper, step: int) -> None:
    """Write the checkpoint; killed in mid-write, the last whole one stays.

    Raises:
        TrainingError: it cannot be written.
    """
    state: dict[str, Any] = {
        "model": stepper.model.state_dict(),
        "optimizer": stepper.optimizer.state_dict(),
        "average": stepper.average.state_dict() if stepper.average else None,
        "step": step,
    }
    unfinished = path.with_suffix(".part")
    try:
        torch.save(state, unfinished)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch's, where the disk is full
        unfinished.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else "the disk is full, or nearly"
        raise TrainingError(
            f"The checkpoint {path} cannot be written: {reason}; the last one is kept."
        ) from error


class Checkpoints:
    """Writes a run's checkpoint again and again, and knows when it has been too long.

    Args:
        path: of the checkpoint.
        config: says how many seconds are too long.
    """

    def __init__(self, path: Path, config: TrainConfig) -> None:
        self.path = path
        self._seconds = config.checkpoint_seconds
        self._wait = self._seconds
        self._last = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Whether to write one although no number of steps asks for it."""
        return self._seconds > 0 and time.monotonic() - self._last >= self._wait

    def save(self, stepper: Stepper, step: int) -> None:
        """Write one, after so many steps; raises as `save_state`."""
        began = time.monotonic()
        save_state(self.path, stepper, step)
        self._last = time.monotonic()
        self._wait = max(self._seconds, (1 / MAX_SHARE - 1) * (self._last - began))


def restore_state(path: Path, stepper: Stepper) -> int:
    """Load a checkpoint; the number of steps done, 0 when there is none.

    Raises:
        TrainingError: it is damaged, of a run with another model or optimiser, or further than
            the run is to go.
    """
    if not path.exists():
        return 0
    model, average = stepper.model, stepper.average
    try:
        state = torch.load(path, map_location=model.device, weights_only=True)
        weights, optimizer_state, step = state["model"], state["optimizer"], int(state["step"])
        averages = state["average"]
        fault = diagnose_mismatch(weights, model)
    except _DAMAGE as error:
        raise TrainingError(
            f"{path} is damaged or was made by another program; remove it, or do not resume."
        ) from error
    if fault:
        raise TrainingError(f"{path} does not fit the model that is to be trained: {fault}.")
    if not 0 <= step <= stepper.config.steps:
        raise TrainingError(
            f"{path} is of step {step:,}, and the run is to have {stepper.config.steps:,}; raise "
            "steps, or do not resume."
        )
    try:
        _check_optimizer(optimizer_state, stepper.optimizer)
        model.load_state_dict(weights)
        stepper.optimizer.load_state_dict(optimizer_state)
        if average is not None and averages is not None:
            average.load_state_dict(averages)
    except _DAMAGE as error:
        raise TrainingError(
            f"{path} is of a run with other settings (optimizer, frozen_stages, freeze_norms, "
            "body_lr from or to 1); resume with the settings that it was begun with."
        ) from error
    return step


def _check_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Refuse another optimiser's state, which PyTorch would load and then miss values in."""
    for stored, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        if ("momentum" in stored) != ("momentum" in group):
            raise ValueError("the state of another optimiser")
