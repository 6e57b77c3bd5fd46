"""The training loop: SGD on the focal loss and the box loss, paper section 4.1 "Optimization".

`train` is the whole of it, for the command line, a notebook and the app alike. It can be watched
(`on_progress`), stopped (`cancel`) and resumed from its last checkpoint. In processes that
torchrun started and `distributed.joined` connected, it trains with all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from retinanet.coco import CocoDataset
from retinanet.distributed import World, check_batch, current_world, prepare_norms
from retinanet.model import RetinaNet
from retinanet.parameter_groups import PARAMETER_STAGES
from retinanet.single_flight import Cancelled
from retinanet.train_config import TrainConfig, TrainingError, learning_rate
from retinanet.training_state import Checkpoints, restore_state
from retinanet.training_step import Progress, Stepper, batch_losses, build_optimizer, run_batch
from retinanet.views import Views

__all__ = [
    "CHECKPOINT",
    "PARAMETER_STAGES",
    "Progress",
    "TrainConfig",
    "TrainingError",
    "batch_losses",
    "build_optimizer",
    "learning_rate",
    "run_batch",
    "train",
]

CHECKPOINT = "last.pt"
"""The file in the run folder that a run goes on from."""

PREVIOUS = "previous.pt"
"""What a run that is begun anew in a used folder makes of the checkpoint it finds there."""


def train(
    model: RetinaNet,
    dataset: CocoDataset,
    config: TrainConfig,
    *,
    run_folder: Path,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_cache: Callable[[int, int], None] = lambda done, total: None,
    on_resume: Callable[[RetinaNet, int], None] = lambda model, step: None,
    on_checkpoint: Callable[[RetinaNet, int], None] = lambda model, step: None,
    cancel: threading.Event | None = None,
) -> RetinaNet:
    """Train a model in place.

    Args:
        model: on its device; `frozen_stages` of its config decides what trains.
        dataset: its categories must be the model's, by id; a model without class names gets the
            data set's names and ids.
        config: how. Its `prior` is not applied here but by `training_start`, to a fresh head.
        run_folder: for the checkpoint and the feature cache; made when missing. Another run's
            checkpoint in it is renamed to previous.pt.
        resume: go on from the checkpoint in `run_folder` when there is one.
        on_progress: called after each step; of several processes in rank 0.
        on_cache: called with (views done, in all) while the feature cache is filled; of several
            processes in each, for its share.
        on_resume: called before the first step of a run that is resumed, as `on_checkpoint`; with
            0 steps done where there was no checkpoint.
        on_checkpoint: called after every `checkpoint_every`-th step, the last and one that it was
            stopped after, with the weights to use (the average, where there is one) and the
            number of steps done; for validation. Of several processes in each, so that they can
            share it.
        cancel: when set, training writes a checkpoint and returns after the current step; before
            the first step, while the feature cache is filled, it returns at once. Set in one
            process it stops all after the same step.

    Returns:
        The model to use, in eval mode: the average of the weights where `ema_decay` is set.

    Raises:
        TrainingError: the model is for other categories, the checkpoint in `run_folder` does not
            fit or cannot be written, the batch cannot be shared out, the memory does not suffice,
            or the loss or its gradient is no longer a finite number.
        DatasetError, ImageError: a photo cannot be used.
        OSError: `run_folder` cannot be written.
    """
    world = current_world()
    _take_categories(model, dataset)
    check_batch(config.batch_size, world)
    torch.manual_seed(config.seed)
    run_folder.mkdir(parents=True, exist_ok=True)
    views = Views(dataset, model, config, run_folder / "features")
    model.backbone.freeze_norms(config.freeze_norms)
    prepare_norms(model, model.device, world)
    stepper = Stepper(model, config, world)
    checkpoint = run_folder / CHECKPOINT
    if not resume and world.is_main and checkpoint.exists():
        # Killed before its own first checkpoint, this run must not be resumed from another's.
        checkpoint.replace(run_folder / PREVIOUS)
    start = 0
    if resume:
        start = restore_state(checkpoint, stepper)
        on_resume(stepper.result, start)
    if not _fill_cache(views, model, on_cache, cancel, world):
        return stepper.result
    model.train()
    checkpoints = Checkpoints(checkpoint, config)
    began = time.perf_counter()
    for step, keys in enumerate(islice(views.batches(), start, config.steps), start):
        progress = stepper.run(views, keys, step)
        if world.is_main:
            pace = (time.perf_counter() - began) / (step + 1 - start)
            on_progress(replace(progress, eta_seconds=pace * (config.steps - step - 1)))
        stopped = _is_stopped(cancel, world)
        regular = stopped or step + 1 == config.steps or (step + 1) % config.checkpoint_every == 0
        if world.is_main and (regular or checkpoints.overdue):
            checkpoints.save(stepper, step + 1)
        if regular:
            on_checkpoint(stepper.result, step + 1)
            model.train()
            stopped = stopped or _is_stopped(cancel, world)
        if stopped:
            break
    return stepper.result


def _is_stopped(cancel: threading.Event | None, world: World) -> bool:
    """Whether any process is to stop; all must ask together."""
    return world.any(cancel is not None and cancel.is_set())


def _take_categories(model: RetinaNet, dataset: CocoDataset) -> None:
    """Give the model the data set's class names, unless it is a model of other categories."""
    count = model.config.num_classes
    if count != len(dataset.categories):
        raise TrainingError(
            f"The model has {count} classes and the data set {len(dataset.categories)} categories; "
            "build a model with as many classes."
        )
    nameless = not any(model.categories) and model.category_ids == tuple(range(count))
    if not nameless and model.category_ids != dataset.category_ids:
        raise TrainingError(
            "The model's category ids are not the data set's, so its classes would learn other "
            "things than their names say; give the data set the same ids, or start from a backbone."
        )
    model.categories, model.category_ids = dataset.categories, dataset.category_ids


def _fill_cache(
    views: Views,
    model: RetinaNet,
    on_cache: Callable[[int, int], None],
    cancel: threading.Event | None,
    world: World,
) -> bool:
    """Fill the feature cache, each process its share; whether to go on."""

    def watched(done: int, total: int) -> None:
        on_cache(done, total)
        if cancel is not None and cancel.is_set():
            raise Cancelled

    stopped = False
    try:
        views.fill_cache(model, watched, world)
    except Cancelled:
        stopped = True
    return not world.any(stopped)
