"""One optimiser step: data, forward, backward, update, and what each of them cost.

Paper, section 4.1 "Optimization": SGD on the sum of the focal loss and the box loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from retinanet.assignment import ignore_background_in, match_anchors
from retinanet.coco import Target
from retinanet.distributed import ALONE, World, parallel
from retinanet.losses import image_losses
from retinanet.model import RawOutputs, RetinaNet
from retinanet.parameter_groups import parameters_by_stage
from retinanet.train_config import TrainConfig, TrainingError, learning_rate
from retinanet.types import LEVELS
from retinanet.views import Batch, Views


@dataclass(frozen=True)
class Progress:
    """One finished step, over all processes together.

    Args:
        step: 1-based; of `steps`.
        classification, bbox_regression: losses of the step.
        num_foreground: foreground anchors an image, on average.
        grad_norm: before clipping.
        lr: learning rate used.
        seconds: for this step, from asking for its data to the updated weights.
        eta_seconds: left, at the pace so far, validating included.
        grad_norms: {stage: norm before clipping}, in the order of `PARAMETER_STAGES`; exactly 0
            for a frozen stage, which has no gradient at all. Their squares add up to that of
            `grad_norm`.
        seconds_data: reading and augmenting photos, and the way to the device.
        seconds_forward: the network, matching and the losses.
        seconds_backward: gradients, and averaging them over the processes.
        seconds_optimizer: norms, clipping, the update and the average of the weights. The four
            add up to nearly `seconds`; the device is waited for before each reading of the clock.
        memory_bytes: CUDA: the most that tensors have held so far
            (`torch.cuda.max_memory_allocated`). Otherwise the largest resident set of the process
            seen in this step, after its forward and after its backward; 0 where the system does
            not say. Of one process.
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
    grad_norms: dict[str, float] = field(default_factory=dict)
    seconds_data: float = 0.0
    seconds_forward: float = 0.0
    seconds_backward: float = 0.0
    seconds_optimizer: float = 0.0
    memory_bytes: int = 0


def parameter_groups(model: RetinaNet, config: TrainConfig) -> list[dict[str, Any]]:
    """The trainable parameters as an optimiser takes them, each group with its peak "lr".

    Vectors (biases, norms) are not decayed. With a `body_lr` of its own the ResNet's parameters
    are two groups in front of the others.
    """
    body = set(model.backbone.body.parameters()) if config.body_lr != 1 else set()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {
            "params": [p for p in trainable if (p in body) == of_body and (p.dim() > 1) == decayed],
            "lr": config.lr * (config.body_lr if of_body else 1.0),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for of_body in ([True, False] if body else [False])
        for decayed in (True, False)
    ]


def build_optimizer(model: RetinaNet, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser over the `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def run_batch(model: RetinaNet, batch: Batch, levels: Sequence[str] = LEVELS) -> RawOutputs:
    """Forward a batch, from its images or from its stored stages, through some levels."""
    batch = batch.to(model.device)
    if batch.stages is not None:
        return model.forward_stages(batch.stages, batch.padded_size, levels)
    return model.forward_batch(batch.images, levels)


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


class _Losses(nn.Module):
    """Network and losses as one module, whose forward `DistributedDataParallel` can follow."""

    def __init__(self, model: RetinaNet, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Batch, levels: Sequence[str]) -> tuple[Tensor, Tensor, float]:
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=bf16):
            raw = run_batch(self.model, batch, levels)
        return batch_losses(raw, batch.targets, self.model, self.config)


class Stepper:
    """A model with its optimiser and its average, ready to be stepped.

    Args:
        model: on its device; trained in place.
        config: how.
        world: the processes that share each batch.

    Attributes:
        optimizer: over the trainable parameters.
        average: of the weights; None without `ema_decay`.
    """

    def __init__(self, model: RetinaNet, config: TrainConfig, world: World = ALONE) -> None:
        self.model = model
        self.config = config
        self.world = world
        self.optimizer = build_optimizer(model, config)
        # Not read from the optimizer, whose rates a resumed run finds where they were.
        self._lr_scales = [group["lr"] / config.lr for group in self.optimizer.param_groups]
        self.average: AveragedModel | None = None
        if config.ema_decay:
            averaging = get_ema_multi_avg_fn(config.ema_decay)
            self.average = AveragedModel(model, multi_avg_fn=averaging, use_buffers=False)
        self._stages = parameters_by_stage(model)
        self._losses = parallel(
            _Losses(model, config),
            world,
            find_unused=config.finest_every > 1,  # P3's own convolutions, where it did not run
        )

    @property
    def result(self) -> RetinaNet:
        """The model to use, in eval mode: the average where there is one."""
        return (self.average.module if self.average else self.model).eval()

    def run(self, views: Views, keys: list[str], step: int) -> Progress:
        """Make one step; the model is in training mode.

        Args:
            views: give the data.
            keys: of the global batch, of which this process takes its share.
            step: 0-based.

        Raises:
            TrainingError: the loss or its gradient is no finite number, or the memory does not
                suffice; the weights are then those of the step before.
            DatasetError, ImageError: a photo cannot be used.
        """
        try:
            return self._run(views, keys, step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"The memory does not suffice for a step of {len(keys)} images at min_size "
                f"{self.model.config.min_size}; lower batch_size or min_size, or freeze more "
                "stages."
            ) from error

    def _run(self, views: Views, keys: list[str], step: int) -> Progress:
        device = self.model.device
        clock = _Clock(device)
        batch = views.load(keys, self.world).to(device)
        seconds_data = clock.lap()
        lr = learning_rate(step, self.config)
        for group, scale in zip(self.optimizer.param_groups, self._lr_scales, strict=True):
            group["lr"] = lr * scale
        levels = LEVELS if step % self.config.finest_every == 0 else LEVELS[1:]
        classification, bbox_regression, foreground = self._losses(batch, levels)
        means = self._global_means(batch, classification, bbox_regression, foreground, step)
        seconds_forward, memory = clock.lap(), memory_bytes(device)
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes, so their losses must add up to size x the mean.
        ((classification + bbox_regression) * (batch.share * self.world.size)).backward()
        seconds_backward, memory = clock.lap(), max(memory, memory_bytes(device))
        grad_norm, grad_norms = self._clip()
        self._check_finite("gradient", [grad_norm], step)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        seconds_optimizer = clock.lap()
        return Progress(
            step + 1,
            self.config.steps,
            *means,
            grad_norm=grad_norm,
            lr=lr,
            seconds=clock.total,
            eta_seconds=0.0,
            grad_norms=grad_norms,
            seconds_data=seconds_data,
            seconds_forward=seconds_forward,
            seconds_backward=seconds_backward,
            seconds_optimizer=seconds_optimizer,
            memory_bytes=memory,
        )

    def _global_means(
        self, batch: Batch, classification: Tensor, boxes: Tensor, foreground: float, step: int
    ) -> list[float]:
        """Both losses and the foreground count, means over the images of the global batch."""
        own = (classification.item(), boxes.item(), foreground)
        means = self.world.sum([value * batch.share for value in own])
        self._check_finite("loss", means, step)
        return means

    def _check_finite(self, what: str, values: Sequence[float], step: int) -> None:
        """Stop before the weights, and the next checkpoint, are no numbers either."""
        if not all(map(math.isfinite, values)):
            raise TrainingError(
                f"The {what} is no longer a finite number in step {step + 1}. Lower the learning "
                f"rate ({self.config.lr:g}) or lengthen the warm-up ({self.config.warmup_steps} "
                "steps); the last checkpoint is kept."
            )

    def _clip(self) -> tuple[float, dict[str, float]]:
        """Scale the gradients down to `clip_grad_norm`; their norm before, in all and by stage."""
        gradients = {
            stage: [p.grad for p in own if p.grad is not None]
            for stage, own in self._stages.items()
        }
        norms = {stage: get_total_norm(own) for stage, own in gradients.items() if own}
        total = get_total_norm(list(norms.values()))
        clip_grads_with_norm_(self.model.parameters(), self.config.clip_grad_norm, total)
        values = iter(torch.stack([total, *norms.values()]).tolist())
        grad_norm, by_stage = next(values), dict(zip(norms, values, strict=True))
        return grad_norm, {stage: by_stage.get(stage, 0.0) for stage in self._stages}


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch could not get the memory that it asked for."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def memory_bytes(device: torch.device) -> int:
    """What `Progress.memory_bytes` is made of."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    try:
        return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # macOS, which gives the peak since the process began, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Clock:
    """Seconds between readings, each after the device has done what it was given."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = self._last = self._now()

    @property
    def total(self) -> float:
        """Seconds from the start to the last reading."""
        return self._last - self._began

    def lap(self) -> float:
        """Seconds since the last reading."""
        before, self._last = self._last, self._now()
        return self._last - before

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()
