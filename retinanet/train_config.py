"""How to train: the settings of a run, and the learning rate that they give each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from retinanet.config import (
    ConfigError,
    LossConfig,
    MatcherConfig,
    _boolean,
    _Config,
    _integer,
    _number,
)

_COUNTS = ("steps", "batch_size", "repeat_true", "finest_every", "checkpoint_every")
_NUMBERS = (
    *("lr", "body_lr", "momentum", "weight_decay", "clip_grad_norm", "ema_decay", "prior"),
    "checkpoint_seconds",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("step", "cosine"),
    "precision": ("fp32", "bf16"),
}
_NESTED = {"matcher": MatcherConfig, "loss": LossConfig}


class TrainingError(RuntimeError):
    """Training cannot go on; the message is a sentence that says why and what to do."""


@dataclass(frozen=True)
class TrainConfig(_Config):
    """How to train.

    Args:
        steps: optimiser steps in all.
        batch_size: images a step, over all processes together.
        optimizer: "sgd" (the paper's) or "adamw" (which suits short schedules).
        lr: peak learning rate; the paper's 0.01 is for SGD and 16 images a step.
        body_lr: the ResNet's learning rate as a part of `lr`. A trained ResNet under fresh layers
            wants smaller steps (DETR, arXiv 2005.12872, appendix A.4, takes a tenth).
        momentum: of SGD.
        weight_decay: not applied to biases and norms.
        warmup_steps: linear from 0 to `lr`.
        schedule: "step" divides by 10 at 2/3 and 8/9 of the steps (the paper's 60k and 80k of
            90k); "cosine" falls to 1% of `lr`.
        clip_grad_norm: gradients are scaled down to this norm.
        scale_jitter: smallest and largest zoom of a view.
        repeat_true: how often a photo with labels made by people occurs in an epoch.
        repeat_thresh: a photo with a class that fewer than this share f of the photos show occurs
            sqrt(repeat_thresh / f) times as often, the rarest class deciding (LVIS, arXiv
            1908.03195, appendix B.2, takes 0.001); 0 for no such repeats.
        ema_decay: decay of the average of the weights that is validated and saved; 0 for none.
        freeze_norms: the ResNet's batch norms stay as they are, also in stages that train; of
            "v1" they always do.
        precision: "fp32" or "bf16" (autocast).
        cache_views: with every ResNet stage frozen, run it once on so many views of each photo
            and train on its stored answers; 0 runs it in every step.
        finest_every: the subnets see P3 in every n-th step only. Three quarters of the anchors
            and of the subnets' cost are there, and the subnets are shared by all levels: more
            than 1 buys more steps in the same time.
        checkpoint_every: steps between checkpoints; one is written at the end as well.
        checkpoint_seconds: one is also written when so many seconds have passed since the last,
            so that a run that is killed outright loses no more; but so seldom that writing takes
            a tenth of the time at most. 0: only every `checkpoint_every` steps.
        seed: of the weights, the order and the views.
        prior: pi of the paper, sections 3.3 and 4.1: the score that a fresh classification layer
            gives every anchor and class, in (0, 1). It has no effect on trained logits.
        matcher: IoU bounds.
        loss: alpha and gamma.

    Raises:
        ConfigError: a value is outside its range.
    """

    steps: int = 1000
    batch_size: int = 8
    optimizer: str = "sgd"
    lr: float = 0.01
    body_lr: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    schedule: str = "cosine"
    clip_grad_norm: float = 10.0
    scale_jitter: tuple[float, float] = (0.7, 1.6)
    repeat_true: int = 1
    repeat_thresh: float = 0.0
    ema_decay: float = 0.0
    freeze_norms: bool = False
    precision: str = "fp32"
    cache_views: int = 0
    finest_every: int = 1
    checkpoint_every: int = 200
    checkpoint_seconds: float = 60.0
    seed: int = 0
    prior: float = 0.01
    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        owner = "TrainConfig"
        for name in _COUNTS:
            _integer(owner, name, getattr(self, name), 1)
        for name in ("warmup_steps", "cache_views"):
            _integer(owner, name, getattr(self, name), 0)
        _integer(owner, "seed", self.seed, -(2**63), 2**63 - 1)
        _boolean(owner, "freeze_norms", self.freeze_norms)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{owner}: {name} must be {' or '.join(choices)}.")
        for name in _NUMBERS:
            _number(owner, name, getattr(self, name), 0.0)
        if self.lr == 0 or self.ema_decay >= 1:
            raise ConfigError(f"{owner}: lr must be above 0 and ema_decay in [0, 1).")
        if self.momentum >= 1 or self.clip_grad_norm == 0:
            raise ConfigError(f"{owner}: momentum must be in [0, 1), clip_grad_norm above 0.")
        if not 0 < self.prior < 1:
            raise ConfigError(f"{owner}: prior must be between 0 and 1, for example 0.01.")
        _number(owner, "repeat_thresh", self.repeat_thresh, 0.0, 1.0)  # a share of the photos
        object.__setattr__(self, "scale_jitter", self._checked_jitter())
        for name, kind in _NESTED.items():
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"{owner}: {name} must be a {kind.__name__}.")

    def _checked_jitter(self) -> tuple[float, float]:
        """Two numbers, as a tuple; JSON has them as a list."""
        jitter = self.scale_jitter
        if not isinstance(jitter, list | tuple) or len(jitter) != 2:
            raise ConfigError("TrainConfig: scale_jitter must be two numbers, for example 0.7 1.6.")
        for end in jitter:
            _number("TrainConfig", "scale_jitter", end, 0.0)
        low, high = jitter
        if not 0 < low <= 1 <= high:
            raise ConfigError("TrainConfig: scale_jitter must enclose 1, for example 0.7 1.6.")
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, in order; `from_dict` reads it back."""
        return {
            name: value.to_dict() if name in _NESTED else value
            for name, value in _Config.to_dict(self).items()
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """The settings from plain data.

        Raises:
            ConfigError: a key is no field, or a value cannot work.
        """
        values = dict(data)
        for name, kind in _NESTED.items():
            if name in values and not isinstance(values[name], kind):
                if not isinstance(values[name], Mapping):
                    raise ConfigError(f"TrainConfig: {name} must be a dictionary of settings.")
                values[name] = kind.from_dict(dict(values[name]))
        return super().from_dict(values)


PLAIN_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(TrainConfig) if f.name not in _NESTED)
"""The settings that are numbers or words; the others are `matcher` and `loss`."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a 0-based step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "step":
        done = step / config.steps
        return config.lr * (1.0 if done < 2 / 3 else 0.1 if done < 8 / 9 else 0.01)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
