"""What a training run will cost, measured on a few steps of a copy before it is begun.

Frozen stages need no gradients, no optimiser state and no backward pass: `probe` shows by how much
that makes a step cheaper, on this machine and these photos.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retinanet.coco import CocoDataset
from retinanet.model import RetinaNet
from retinanet.parameter_groups import trainable_parameters
from retinanet.single_flight import Cancelled
from retinanet.train_config import TrainConfig
from retinanet.training_step import Progress, Stepper
from retinanet.views import Views

__all__ = ["Cost", "probe", "trainable_parameters"]

PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Cost:
    """What a run costs, of one process.

    Args:
        parameters: {stage: {"trainable", "total"}}, in the order of `PARAMETER_STAGES`.
        parameter_bytes: of all weights, buffers left out.
        gradient_bytes: of the gradients, which only what trains has.
        optimizer_bytes: of the optimiser's state: momentum, or AdamW's two moments.
        average_bytes: of the average of the weights; 0 without `ema_decay`.
        peak_memory_bytes: the largest `Progress.memory_bytes` of the probe. On a CPU it is the
            whole process, with PyTorch itself and the model that was copied.
        seconds_data, seconds_forward, seconds_backward, seconds_optimizer: of a step, on average
            over the steps with and without P3 where `finest_every` leaves it out.
        seconds_step: their sum.
        seconds_run: of all steps; validating and filling a feature cache come on top.
        steps: of the run.
        batch_size: images a step.
        device: that it was measured on, "cpu" or "cuda:0".
    """

    parameters: dict[str, dict[str, int]]
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    peak_memory_bytes: int
    seconds_data: float
    seconds_forward: float
    seconds_backward: float
    seconds_optimizer: float
    seconds_step: float
    seconds_run: float
    steps: int
    batch_size: int
    device: str

    @property
    def trainable(self) -> int:
        """Parameters that train."""
        return sum(stage["trainable"] for stage in self.parameters.values())

    @property
    def total(self) -> int:
        """Parameters in all."""
        return sum(stage["total"] for stage in self.parameters.values())

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, with "trainable" and "total" over all stages."""
        return asdict(self) | {"trainable": self.trainable, "total": self.total}

    def sentences(self) -> tuple[str, ...]:
        """What a person should know before the run, numbers included."""
        share = f"{self.trainable / self.total:.0%}"
        frozen = [name for name, count in self.parameters.items() if not count["trainable"]]
        shares = ", ".join(
            f"{part} {getattr(self, f'seconds_{part}') / self.seconds_step:.0%}" for part in PARTS
        )
        words = [
            f"{self.trainable:,} of {self.total:,} parameters train ({share}); "
            + (f"frozen: {', '.join(frozen)}." if frozen else "nothing is frozen."),
            f"Weights {_size(self.parameter_bytes)}, gradients {_size(self.gradient_bytes)}, "
            f"optimiser {_size(self.optimizer_bytes)}"
            + (f", average {_size(self.average_bytes)}" if self.average_bytes else "")
            + f"; at most {_size(self.peak_memory_bytes)} were in use on {self.device}.",
            f"A step of {self.batch_size:,} images takes {_time(self.seconds_step)}: {shares}.",
            f"{self.steps:,} steps take about {_time(self.seconds_run)}, validating not included.",
        ]
        return tuple(words)


def probe(
    model: RetinaNet,
    dataset: CocoDataset,
    config: TrainConfig,
    *,
    steps: int = 2,
    cancel: threading.Event | None = None,
) -> Cost:
    """Make a few training steps on a copy and measure them.

    The model is not changed, no file is written, and the feature cache is not used: with one, the
    steps of the run are cheaper than this says.

    Args:
        model: on its device.
        dataset: gives the photos; its categories must be as many as the model's classes.
        config: how the run will train.
        steps: to make, 2 or more so that the first, which also warms up, need not count.
        cancel: when set, the probe ends after the current step.

    Raises:
        Cancelled: `cancel` was set.
        TrainingError: the loss is no finite number, or the memory does not suffice.
        DatasetError, ImageError: a photo cannot be used.
    """
    config = replace(config, cache_views=0)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    twin = copy.deepcopy(model).train()
    twin.backbone.freeze_norms(config.freeze_norms)
    views = Views(dataset, twin, config, Path())  # without a cache there is no folder
    stepper = Stepper(twin, config)
    made: list[Progress] = []
    for step, keys in enumerate(islice(views.batches(), max(1, steps))):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        made.append(stepper.run(views, keys, step))
    return _cost(stepper, made)


def _cost(stepper: Stepper, made: list[Progress]) -> Cost:
    model, config = stepper.model, stepper.config
    seconds = {part: _mean_seconds(made, f"seconds_{part}", config.finest_every) for part in PARTS}
    step = sum(seconds.values())
    counts = trainable_parameters(model)
    return Cost(
        parameters={
            stage: {"trainable": trainable, "total": total}
            for stage, (trainable, total) in counts.items()
        },
        parameter_bytes=_bytes(model.parameters()),
        gradient_bytes=_bytes(p for p in model.parameters() if p.requires_grad),
        optimizer_bytes=_bytes(
            value
            for state in stepper.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ),
        average_bytes=_bytes(stepper.average.module.parameters()) if stepper.average else 0,
        peak_memory_bytes=max(progress.memory_bytes for progress in made),
        **{f"seconds_{part}": value for part, value in seconds.items()},
        seconds_step=step,
        seconds_run=step * config.steps,
        steps=config.steps,
        batch_size=config.batch_size,
        device=str(model.device),
    )


def _mean_seconds(made: list[Progress], name: str, finest_every: int) -> float:
    """Of a step of the run: the last one measured with P3 and without, each by how often it comes.

    The first of either kind also warms up, so the last is nearest to what the run will see.
    """
    finest = [getattr(p, name) for p in made if (p.step - 1) % finest_every == 0]
    others = [getattr(p, name) for p in made if (p.step - 1) % finest_every] or finest
    return (finest[-1] + (finest_every - 1) * others[-1]) / finest_every


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    if seconds >= 90:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
