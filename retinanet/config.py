"""The settings of the model, of matching, of the loss and of post-processing.

Frozen dataclasses, named as torchvision names them, checked when they are made: a value that
cannot work is refused here, in words, before anything is computed with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

Variant = Literal["v1", "v2"]

DEPTHS: tuple[int, ...] = (18, 34, 50, 101, 152)
VARIANTS: tuple[str, ...] = get_args(Variant)
NUM_CONVS_RANGE: tuple[int, int] = (1, 8)
FROZEN_STAGES_RANGE: tuple[int, int] = (-1, 4)


class ConfigError(ValueError):
    """A setting is outside what can work; the message is a sentence for the person who set it."""


def _integer(owner: str, name: str, value: Any, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{owner}: {name} must be a whole number, not {value!r}.")
    if value < low or (high is not None and value > high):
        bounds = f"between {low} and {high}" if high is not None else f"{low} or more"
        raise ConfigError(f"{owner}: {name} must be {bounds}, not {value}.")


def _number(owner: str, name: str, value: Any, low: float, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:  # not a number
        raise ConfigError(f"{owner}: {name} must be a number, not {value!r}.")
    if not low <= value <= high or value == math.inf:
        bounds = f"between {low:g} and {high:g}" if math.isfinite(high) else f"{low:g} or more"
        shown = f"{value:g}" if abs(value) < 1e300 else "so large a number"
        raise ConfigError(f"{owner}: {name} must be {bounds}, not {shown}.")


def _boolean(owner: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{owner}: {name} must be True or False, not {value!r}.")


def _floors(owner: str, name: str, value: Any) -> tuple[tuple[int, float], ...]:
    """A number in [0, 1] for each of some labels, from a mapping or pairs, in order of the labels.

    A label may be text, as every key in JSON is.
    """
    pairs = value.items() if isinstance(value, Mapping) else value
    form = f"{owner}: {name} must give a number for each of some labels, as {{0: 0.5}}"
    if isinstance(pairs, str | bytes):
        raise ConfigError(f"{form}, not {value!r}.")
    try:
        pairs = [(label, floor) for label, floor in pairs]
    except (TypeError, ValueError):
        raise ConfigError(f"{form}, not {value!r}.") from None
    floors: dict[int, float] = {}
    for label, floor in pairs:
        if isinstance(label, str) and label.isascii() and label.isdecimal() and len(label) < 10:
            label = int(label)
        _integer(owner, f"a label of {name}", label, 0)
        _number(owner, name, floor, 0.0, 1.0)
        if int(label) in floors:
            raise ConfigError(f"{owner}: {name} names label {label} twice.")
        floors[int(label)] = float(floor)
    return tuple(sorted(floors.items()))


class _Config:
    """What the four configurations share: reading from and writing to plain data."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, in order; `from_dict` reads it back."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """A configuration from plain data.

        Raises:
            ConfigError: a key is no field of this configuration, or a value cannot work.
        """
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"{cls.__name__} has no setting named {', '.join(unknown)}.")
        return cls(**data)


@dataclass(frozen=True, slots=True)
class ModelConfig(_Config):
    """What decides the network's shape and its input size.

    Args:
        depth: layers of the ResNet: 18, 34, 50, 101 or 152.
        num_classes: sigmoid columns of the classification head. 91 is torchvision's COCO layout
            (the column index is the COCO category id), 80 the contiguous one.
        num_convs: 3x3 convolutions in each subnet before its prediction layer, 1 to 8
            (4 in the paper, section 4, and in torchvision, which hard-codes it).
        variant: "v1" is `retinanet_resnet50_fpn` (FrozenBatchNorm, P6 from P5, L1 box loss);
            "v2" is `retinanet_resnet50_fpn_v2` (BatchNorm, GroupNorm in the subnets, P6 from C5,
            GIoU box loss).
        min_size: the shorter image side is scaled to this, in pixels ...
        max_size: ... unless the longer side would then exceed this.
        frozen_stages: -1 trains everything; 0 freezes the stem; n freezes the stem and
            layer1..layer n. torchvision's `trainable_layers` is 4 - frozen_stages.
        stride_in_1x1: the bottleneck's stride sits in its first 1x1 convolution (Caffe and
            Detectron2) rather than in the 3x3 (torchvision). Weights fit both ways and work in
            one only, so it travels with every checkpoint.
        norm_eps: epsilon of the backbone's batch norm; torchvision's COCO_V1 weights want 0.

    Raises:
        ConfigError: a value is outside its range.
    """

    depth: int = 50
    num_classes: int = 91
    num_convs: int = 4
    variant: Variant = "v1"
    min_size: int = 800
    max_size: int = 1333
    frozen_stages: int = 1
    stride_in_1x1: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        owner = "ModelConfig"
        if isinstance(self.depth, bool) or self.depth not in DEPTHS:
            raise ConfigError(
                f"{owner}: depth must be one of {', '.join(map(str, DEPTHS))}, not {self.depth!r}."
            )
        if self.variant not in VARIANTS:
            raise ConfigError(f"{owner}: variant must be v1 or v2, not {self.variant!r}.")
        _integer(owner, "num_classes", self.num_classes, 1, 100_000)
        _integer(owner, "num_convs", self.num_convs, *NUM_CONVS_RANGE)
        _integer(owner, "min_size", self.min_size, 32, 4096)
        _integer(owner, "max_size", self.max_size, 32, 4096)
        if self.max_size < self.min_size:
            raise ConfigError(
                f"{owner}: max_size ({self.max_size}) must not be below min_size ({self.min_size})."
            )
        _integer(owner, "frozen_stages", self.frozen_stages, *FROZEN_STAGES_RANGE)
        _boolean(owner, "stride_in_1x1", self.stride_in_1x1)
        _number(owner, "norm_eps", self.norm_eps, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class MatcherConfig(_Config):
    """How anchors are matched to ground truth (paper, section 4 "Anchors"; torchvision `Matcher`).

    Args:
        fg_iou_thresh: an anchor whose best IoU reaches this is foreground, in [0, 1].
        bg_iou_thresh: an anchor whose best IoU is below this is background, in [0, 1];
            one in between is ignored. Not above `fg_iou_thresh`.
        allow_low_quality_matches: give each ground truth the anchors that tie for its best IoU,
            however low it is.

    Raises:
        ConfigError: a value is outside its range, or the bounds are the wrong way round.
    """

    fg_iou_thresh: float = 0.5
    bg_iou_thresh: float = 0.4
    allow_low_quality_matches: bool = True

    def __post_init__(self) -> None:
        owner = "MatcherConfig"
        _number(owner, "fg_iou_thresh", self.fg_iou_thresh, 0.0, 1.0)
        _number(owner, "bg_iou_thresh", self.bg_iou_thresh, 0.0, 1.0)
        _boolean(owner, "allow_low_quality_matches", self.allow_low_quality_matches)
        if self.bg_iou_thresh > self.fg_iou_thresh:
            raise ConfigError(
                f"{owner}: bg_iou_thresh ({self.bg_iou_thresh:g}) must not be above "
                f"fg_iou_thresh ({self.fg_iou_thresh:g})."
            )


@dataclass(frozen=True, slots=True)
class LossConfig(_Config):
    """The focal loss's two parameters (paper, equation 5).

    Args:
        alpha: weight of the foreground term, in [0, 1]; 1 - alpha weighs the background term.
        gamma: focusing parameter, 0 or more; 0 is alpha-balanced cross entropy.

    Raises:
        ConfigError: a value is outside its range.
    """

    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        _number("LossConfig", "alpha", self.alpha, 0.0, 1.0)
        _number("LossConfig", "gamma", self.gamma, 0.0, 100.0)


@dataclass(frozen=True, slots=True)
class PostprocessConfig(_Config):
    """From the network's outputs to boxes (torchvision `RetinaNet.postprocess_detections`).

    Args:
        score_thresh: an (anchor, class) pair goes on when its score is strictly above this; [0, 1].
        nms_thresh: a box is suppressed by a better one of its class at an IoU strictly above
            this; [0, 1].
        topk_candidates: the best pairs that each pyramid level may send to NMS, 1 or more.
        detections_per_img: the best boxes kept after NMS, 1 or more (COCO's AP counts 100).
        class_score_thresh: a floor for some classes, by label index: there the score must be
            strictly above this too; each in [0, 1]. Given as {label: floor} or as pairs, held as
            pairs in order of the labels. Not in torchvision; empty there and by default. A label
            that a model has not changes nothing.

    Raises:
        ConfigError: a value is outside its range, or a label is named twice.
    """

    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    topk_candidates: int = 1000
    detections_per_img: int = 300
    class_score_thresh: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        owner = "PostprocessConfig"
        _number(owner, "score_thresh", self.score_thresh, 0.0, 1.0)
        _number(owner, "nms_thresh", self.nms_thresh, 0.0, 1.0)
        _integer(owner, "topk_candidates", self.topk_candidates, 1)
        _integer(owner, "detections_per_img", self.detections_per_img, 1)
        floors = _floors(owner, "class_score_thresh", self.class_score_thresh)
        object.__setattr__(self, "class_score_thresh", floors)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, in order; `from_dict` reads it back.

        "class_score_thresh" is there only when it is not empty: {"0": 0.5}, as JSON has it.
        """
        plain = _Config.to_dict(self)  # `super()` does not work in a dataclass with slots
        floors = plain.pop("class_score_thresh")
        if floors:
            plain["class_score_thresh"] = {str(label): floor for label, floor in floors}
        return plain
