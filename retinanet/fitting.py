"""Which weights fit which parts of a model, before anything is downloaded or loaded.

From names and shapes alone: both sides are built without memory behind their tensors, from their
configurations; of the embedded weights the file's header is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torchvision.models import WeightsEnum, get_model, get_model_weights

from retinanet.checkpoints import EMBEDDED_PATH, OFFICIAL_CONFIGS, list_weights, stated_config
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet

Extent = Literal["all", "some", "none"]
Shapes = Mapping[str, tuple[int, ...]]

PARTS: dict[str, str] = {
    "backbone": "backbone.body.",
    "fpn": "backbone.fpn.",
    "classification subnet": "head.classification_head.",
    "box subnet": "head.regression_head.",
}
"""The parts of a model, and how the names of their tensors begin."""


@dataclass(frozen=True, slots=True)
class PartFit:
    """How far some weights fit one part of a model.

    Args:
        extent: "all": both have the same tensors; "some" of the part's tensors are there in its
            shape; or "none".
        fitting: how many of the part's tensors are there in its shape.
        tensors: how many it has, counters of batch norms left out.
        reason: one sentence in words.
    """

    extent: Extent
    fitting: int
    tensors: int
    reason: str


@dataclass(frozen=True, slots=True)
class Fit:
    """How far one set of weights fits a model.

    Args:
        name: what `load_model` takes, or for `kind` "backbone" `load_backbone_weights`.
        title: a few words.
        kind: "detector" or "backbone" (a classifier's ResNet).
        parts: {each of `PARTS`: its fit}.
    """

    name: str
    title: str
    kind: Literal["detector", "backbone"]
    parts: dict[str, PartFit]

    @property
    def loads(self) -> bool:
        """Whether the function that `name` is for takes them for this model."""
        wanted = PARTS if self.kind == "detector" else ("backbone",)
        return all(self.parts[part].extent == "all" for part in wanted)


def weights_that_fit(config: ModelConfig) -> list[Fit]:
    """For each named set of weights, which parts of a model of this configuration it fits.

    Args:
        config: depth, classes, convolutions, variant and `stride_in_1x1` count.

    Returns:
        The embedded weights (where this installation has them), torchvision's two detectors and
        torchvision's ImageNet weights for this depth.
    """
    titles = {info.name: info.title for info in list_weights()}
    configs = dict(OFFICIAL_CONFIGS)
    if EMBEDDED_PATH.is_file():
        configs = {"embedded": stated_config("embedded"), **configs}
    detectors = [_detector_fit(name, titles[name], own, config) for name, own in configs.items()]
    backbones = [_backbone_fit(w, config) for w in get_model_weights(f"resnet{config.depth}")]
    return detectors + backbones


@lru_cache(maxsize=64)
def _shapes_of(config: ModelConfig) -> Shapes:
    with torch.device("meta"):
        return _shapes(RetinaNet(config).state_dict())


@lru_cache(maxsize=8)
def _classifier_shapes(depth: int) -> Shapes:
    with torch.device("meta"):
        state = get_model(f"resnet{depth}", weights=None).state_dict()
    prefix = PARTS["backbone"]
    return _shapes({prefix + name: t for name, t in state.items() if not name.startswith("fc.")})


def _shapes(state: Mapping[str, torch.Tensor]) -> Shapes:
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith(".num_batches_tracked")  # a frozen norm has none, others start anew
    }


def _architecture(config: ModelConfig) -> ModelConfig:
    """Only what decides names and shapes, so that equal ones are built once."""
    return ModelConfig(
        depth=config.depth,
        num_classes=config.num_classes,
        num_convs=config.num_convs,
        variant=config.variant,
    )


def _detector_fit(name: str, title: str, own: ModelConfig, wanted: ModelConfig) -> Fit:
    given, expected = _shapes_of(_architecture(own)), _shapes_of(_architecture(wanted))
    parts = {
        part: _part_fit(part, given, expected, _differences(part, own, wanted)) for part in PARTS
    }
    parts["backbone"] = _with_caution(parts["backbone"], own, wanted)
    return Fit(name, title, "detector", parts)


def _part_fit(part: str, given: Shapes, expected: Shapes, differences: str) -> PartFit:
    prefix = PARTS[part]
    own = {name: shape for name, shape in given.items() if name.startswith(prefix)}
    names = {name: shape for name, shape in expected.items() if name.startswith(prefix)}
    fitting = sum(own.get(name) == shape for name, shape in names.items())
    if own == names:
        return PartFit("all", fitting, len(names), f"All {len(names):,} tensors fit.")
    extent: Extent = "some" if fitting else "none"
    lead = f"{fitting:,} of {len(names):,} tensors fit" if fitting else "No tensor fits"
    if fitting == len(names):
        lead = f"All {fitting:,} tensors are there and {len(own) - fitting:,} more"
    return PartFit(extent, fitting, len(names), f"{lead}: {differences}.")


def _differences(part: str, own: ModelConfig, wanted: ModelConfig) -> str:
    """Why a part's tensors differ, in words that end a sentence."""
    reasons = []
    if part in ("backbone", "fpn") and own.depth != wanted.depth:
        reasons.append(f"the weights are a ResNet-{own.depth}'s, the model's is {wanted.depth}")
    if part == "fpn" and own.variant != wanted.variant:
        source = {"v1": "P5", "v2": "C5"}
        reasons.append(
            f"P6 is made from {source[own.variant]} in the weights and from "
            f"{source[wanted.variant]} in the model"
        )
    if part.endswith("subnet"):
        if own.variant != wanted.variant:
            norm = {"v1": "without a norm", "v2": "with group norm"}
            reasons.append(
                f"the weights are for convolutions {norm[own.variant]}, the model's are "
                f"{norm[wanted.variant]}"
            )
        if own.num_convs != wanted.num_convs:
            reasons.append(
                f"num_convs is {own.num_convs} in the weights and {wanted.num_convs} in the model"
            )
    if part == "classification subnet" and own.num_classes != wanted.num_classes:
        reasons.append(
            f"num_classes is {own.num_classes} in the weights and {wanted.num_classes} in the model"
        )
    return "; ".join(reasons)


def _with_caution(fit: PartFit, own: ModelConfig, wanted: ModelConfig) -> PartFit:
    """What shapes do not show: where the bottlenecks that the weights were made for stride."""
    misplaced = own.stride_in_1x1 != wanted.stride_in_1x1
    if not misplaced or fit.extent != "all" or own.depth < 50:  # smaller ones have no bottlenecks
        return fit
    caution = f"They work with stride_in_1x1={own.stride_in_1x1} only, which loading them sets."
    return replace(fit, reason=f"{fit.reason} {caution}")


def _backbone_fit(weights: WeightsEnum, wanted: ModelConfig) -> Fit:
    given, expected = _classifier_shapes(wanted.depth), _shapes_of(_architecture(wanted))
    nothing = "a classifier has no such part"
    parts = {part: _part_fit(part, given, expected, nothing) for part in PARTS}
    if wanted.stride_in_1x1 and wanted.depth >= 50:
        reason = "torchvision's ImageNet weights work with stride_in_1x1=False only."
        parts["backbone"] = replace(parts["backbone"], extent="none", fitting=0, reason=reason)
    title = f"ImageNet ResNet-{wanted.depth}, {weights.name}"
    return Fit(weights.name, title, "backbone", parts)
