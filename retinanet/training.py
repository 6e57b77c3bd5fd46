"""The training loop: SGD on the focal loss and the box loss, paper section 4.1 "Optimization".

`train` is the whole of it, for the command line, a notebook and the app alike. It can be watched
(`on_progress`), stopped (`cancel`) and resumed from its last checkpoint.
"""

from __future__ import annotations

import math
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from retinanet.assignment import ignore_background_in, match_anchors
from retinanet.coco import CocoDataset, Target
from retinanet.config import ConfigError, LossConfig, MatcherConfig
from retinanet.keymaps import diagnose_mismatch
from retinanet.losses import image_losses
from retinanet.model import RawOutputs, RetinaNet
from retinanet.types import LEVELS
from retinanet.views import Batch, Views


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        steps: optimiser steps in all.
        batch_size: images a step.
        optimizer: "sgd" (the paper's) or "adamw" (which suits short schedules).
        lr: peak learning rate; the paper's 0.01 is for SGD and 16 images a step.
        momentum: of SGD.
        weight_decay: not applied to biases and norms.
        warmup_steps: linear from 0 to `lr`.
        schedule: "step" divides by 10 at 2/3 and 8/9 of the steps (the paper's 60k and 80k of
            90k); "cosine" falls to 1% of `lr`.
        clip_grad_norm: gradients are scaled down to this norm.
        scale_jitter: smallest and largest zoom of a view.
        repeat_true: how often a photo with labels made by people occurs in an epoch.
        ema_decay: decay of the average of the weights that is validated and saved; 0 for none.
        precision: "fp32" or "bf16" (autocast).
        cache_views: with every ResNet stage frozen, run it once on so many views of each photo
            and train on its stored answers; 0 runs it in every step.
        finest_every: the subnets see P3 in every n-th step only. Three quarters of the anchors
            and of the subnets' cost are there, and the subnets are shared by all levels: more
            than 1 buys more steps in the same time.
        checkpoint_every: steps between checkpoints; one is written at the end as well.
        seed: of the weights, the order and the views.
        matcher: IoU bounds.
        loss: alpha and gamma.
    """

    steps: int = 1000
    batch_size: int = 8
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    schedule: str = "cosine"
    clip_grad_norm: float = 10.0
    scale_jitter: tuple[float, float] = (0.7, 1.6)
    repeat_true: int = 1
    ema_decay: float = 0.0
    precision: str = "fp32"
    cache_views: int = 0
    finest_every: int = 1
    checkpoint_every: int = 200
    seed: int = 0
    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "repeat_true", "finest_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"TrainConfig: {name} must be 1 or more.")
        for name, choices in (
            ("optimizer", ("sgd", "adamw")),
            ("schedule", ("step", "cosine")),
            ("precision", ("fp32", "bf16")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"TrainConfig: {name} must be {' or '.join(choices)}.")
        if not 0 < self.lr < math.inf or not 0 <= self.ema_decay < 1:
            raise ConfigError("TrainConfig: lr must be above 0 and ema_decay in [0, 1).")
        for name in ("warmup_steps", "cache_views", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"TrainConfig: {name} must be 0 or more.")
        if not 0 <= self.momentum < 1 or not self.clip_grad_norm > 0:
            raise ConfigError("TrainConfig: momentum must be in [0, 1), clip_grad_norm above 0.")
        low, high = self.scale_jitter
        if not 0 < low <= 1 <= high:
            raise ConfigError("TrainConfig: scale_jitter must enclose 1, for example 0.7 1.6.")


@dataclass(frozen=True)
class Progress:
    """One finished step.

    Args:
        step: 1-based; of `steps`.
        classification, bbox_regression: losses of the step.
        num_foreground: foreground anchors an image, on average.
        grad_norm: before clipping.
        lr: learning rate used.
        seconds: for this step, waiting for data included.
        eta_seconds: left, at the pace so far.
    """

    step: int
    steps: int
    classification: float
    bbox_regression: float
    num_foreground: float
    grad_norm: float
    lr: float
    seconds: float
    eta_seconds: float


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


class TrainingError(RuntimeError):
    """Training cannot go on; the message is a sentence that says why and what to do."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a 0-based step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "step":
        done = step / config.steps
        return config.lr * (1.0 if done < 2 / 3 else 0.1 if done < 8 / 9 else 0.01)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def build_optimizer(model: RetinaNet, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser over trainable parameters; vectors (biases, norms) are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def run_batch(model: RetinaNet, batch: Batch, levels: Sequence[str] = LEVELS) -> RawOutputs:
    """Forward a batch, from its images or from its stored stages, through some levels."""
    if batch.stages is not None:
        stages = {name: stage.to(model.device) for name, stage in batch.stages.items()}
        return model.forward_stages(stages, batch.padded_size, levels)
    return model.forward_batch(batch.images.to(model.device), levels)


def batch_losses(
    raw: RawOutputs, targets: list[Target], model: RetinaNet, config: TrainConfig
) -> tuple[Tensor, Tensor, float]:
    """Classification loss, box loss (each the mean over images) and mean foreground count.

    The losses are torchvision's `RetinaNet.compute_loss`, but for areas to ignore. Anchors are
    matched on all levels; those of levels that did not run take no part.
    """
    anchors = torch.cat(raw.anchors)
    logits = torch.cat(raw.cls_logits, dim=1).float()
    deltas = torch.cat(raw.bbox_regression, dim=1).float()
    skipped = len(anchors) - logits.shape[1]
    losses = []
    for index, target in enumerate(targets):
        boxes, labels = target.boxes.to(anchors.device), target.labels.to(anchors.device)
        matched = match_anchors(anchors, boxes, config.matcher).matched_idxs
        matched = ignore_background_in(matched, anchors, target.ignore.to(anchors.device))
        losses.append(
            image_losses(
                logits[index],
                deltas[index],
                anchors[skipped:],
                matched[skipped:],
                boxes,
                labels,
                model.config.variant,
                config.loss,
            )
        )
    classification = torch.stack([loss.classification for loss in losses]).mean()
    bbox_regression = torch.stack([loss.bbox_regression for loss in losses]).mean()
    return classification, bbox_regression, sum(len(x.foreground) for x in losses) / len(losses)


def train(
    model: RetinaNet,
    dataset: CocoDataset,
    config: TrainConfig,
    *,
    run_folder: Path,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_cache: Callable[[int, int], None] = lambda done, total: None,
    on_checkpoint: Callable[[RetinaNet, int], None] = lambda model, step: None,
    cancel: threading.Event | None = None,
) -> RetinaNet:
    """Train a model in place.

    Args:
        model: on its device; `frozen_stages` of its config decides what trains.
        dataset: its categories must be the model's, by id; a model without class names gets the
            data set's names and ids.
        config: how.
        run_folder: for the checkpoint and the feature cache; made when missing.
        resume: go on from the checkpoint in `run_folder` when there is one.
        on_progress: called after each step.
        on_cache: called with (views done, in all) while the feature cache is filled.
        on_checkpoint: called after a checkpoint with the weights to use (the average, where
            there is one) and the number of steps done; for validation.
        cancel: when set, training writes a checkpoint and returns after the current step.

    Returns:
        The model to use, in eval mode: the average of the weights where `ema_decay` is set.

    Raises:
        TrainingError: the model is for other categories, the checkpoint in `run_folder` does not
            fit, or the loss is no longer a finite number.
        DatasetError, ImageError: a photo cannot be used.
        OSError: `run_folder` cannot be written.
    """
    _take_categories(model, dataset)
    torch.manual_seed(config.seed)
    run_folder.mkdir(parents=True, exist_ok=True)
    views = Views(dataset, model, config, run_folder / "features")
    optimizer = build_optimizer(model, config)
    average = _average(model, config)
    checkpoint = run_folder / "last.pt"
    start = _restore(checkpoint, model, optimizer, average) if resume else 0
    views.fill_cache(model, on_cache)
    model.train()
    began = clock = time.perf_counter()
    for step, keys in enumerate(islice(views.batches(), start, config.steps), start):
        lr = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses = _step(model, views.load(keys), optimizer, config, step)
        if average is not None:
            average.update_parameters(model)
        now = time.perf_counter()
        done, left = step + 1 - start, config.steps - step - 1
        on_progress(
            Progress(
                step + 1,
                config.steps,
                *losses,
                lr=lr,
                seconds=now - clock,
                eta_seconds=(now - began) / done * left,
            )
        )
        clock = now
        stopped = cancel is not None and cancel.is_set()
        if stopped or step + 1 == config.steps or (step + 1) % config.checkpoint_every == 0:
            _save(checkpoint, model, optimizer, average, step + 1)
            on_checkpoint(average.module.eval() if average else model.eval(), step + 1)
            model.train()
        if stopped:
            break
    return (average.module if average else model).eval()


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


def _average(model: RetinaNet, config: TrainConfig) -> AveragedModel | None:
    if not config.ema_decay:
        return None
    averaging = get_ema_multi_avg_fn(config.ema_decay)
    return AveragedModel(model, multi_avg_fn=averaging, use_buffers=False)


def _step(
    model: RetinaNet,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
) -> tuple[float, float, float, float]:
    """One optimiser step; (classification, bbox_regression, num_foreground, grad_norm)."""
    bf16 = config.precision == "bf16"
    levels = LEVELS if step % config.finest_every == 0 else LEVELS[1:]
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        raw = run_batch(model, batch, levels)
    classification, bbox_regression, foreground = batch_losses(raw, batch.targets, model, config)
    loss = classification + bbox_regression
    if not torch.isfinite(loss):
        raise TrainingError(
            f"The loss is no longer a finite number in step {step + 1}. Lower the learning rate "
            f"({config.lr:g}) or lengthen the warm-up ({config.warmup_steps} steps); the last "
            "checkpoint is kept."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
    optimizer.step()
    return classification.item(), bbox_regression.item(), foreground, grad_norm.item()


def _save(
    path: Path,
    model: RetinaNet,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    step: int,
) -> None:
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict() if average else None,
        "step": step,
    }
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)  # killed in mid-write, the last whole checkpoint stays


def _restore(
    path: Path,
    model: RetinaNet,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
) -> int:
    """Load a checkpoint; the number of steps done, 0 when there is none.

    Raises:
        TrainingError: it is damaged, or of a run with another model or optimiser.
    """
    if not path.exists():
        return 0
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
    try:
        _check_optimizer(optimizer_state, optimizer)
        model.load_state_dict(weights)
        optimizer.load_state_dict(optimizer_state)
        if average is not None and averages is not None:
            average.load_state_dict(averages)
    except _DAMAGE as error:
        raise TrainingError(
            f"{path} is of a run with other settings (optimizer, frozen_stages); resume with the "
            "settings that it was begun with."
        ) from error
    return step


def _check_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Refuse another optimiser's state, which PyTorch would load and then miss values in."""
    for stored, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        if ("momentum" in stored) != ("momentum" in group):
            raise ValueError("the state of another optimiser")
