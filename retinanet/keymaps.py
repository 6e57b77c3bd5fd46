"""State dicts as plain mappings: old names upgraded, foreign ones recognised, shapes read.

Pure functions over `{name: tensor}`; none changes its argument or builds a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from retinanet.anchors import NUM_ANCHORS
from retinanet.config import ConfigError, ModelConfig

if TYPE_CHECKING:
    from retinanet.model import RetinaNet

StateDict = Mapping[str, Tensor]

ARCHITECTURE_FIELDS: tuple[str, ...] = ("depth", "num_classes", "num_convs", "variant")
"""The settings that decide names and shapes, so that a file either has them or does not fit."""

CLS_LOGITS = "head.classification_head.cls_logits.weight"
BBOX_REG = "head.regression_head.bbox_reg.weight"

_DEPTH_OF_BLOCKS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}

_OLD_HEAD = re.compile(r"(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)")
_OLD_FPN = re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)")
_BLOCK = re.compile(r"backbone\.body\.layer([1-4])\.(\d+)\.")
_SUBNET_CONV = re.compile(r"head\.classification_head\.conv\.(\d+)\.0\.weight")

# What a file is when its names are not ours: (a name's prefix, what to tell the person).
_FOREIGN: tuple[tuple[str, str], ...] = (
    (
        "backbone.bottom_up.",
        "comes from Detectron2, whose anchors, anchor order and pixel order differ, so its numbers "
        "would be wrong here even after renaming; convert it first or train here",
    ),
    (
        "bbox_head.",
        "comes from MMDetection, whose anchors and P6/P7 differ, so its numbers would be wrong "
        "here even after renaming; convert it first or train here",
    ),
    ("roi_heads.", "is a two-stage detector (Faster or Mask R-CNN), not a RetinaNet"),
    ("head.regression_head.bbox_ctrness.", "is an FCOS detector, not a RetinaNet"),
    (
        "layer1.0.conv1.weight",
        "is an image classifier's ResNet, not a detector; use it to start a backbone from "
        "(load_backbone_weights)",
    ),
)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one sentence for the person who chose it."""


def strip_prefix(state_dict: StateDict, prefix: str = "module.") -> dict[str, Tensor]:
    """The same tensors without the prefix that `DataParallel` puts before every name."""
    if state_dict and all(name.startswith(prefix) for name in state_dict):
        return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
    return dict(state_dict)


def upgrade_keys(state_dict: StateDict) -> dict[str, Tensor]:
    """The same tensors under torchvision's present names.

    Files of torchvision's first version number the subnets' convolutions 0, 2, 4, 6 (a ReLU
    between each) and have no `.0` inside the pyramid's blocks. Present names pass unchanged.
    """

    def upgraded(name: str) -> str:
        if head := _OLD_HEAD.fullmatch(name):
            stem, index, kind = head.groups()
            return f"{stem}.{int(index) // 2}.0.{kind}" if int(index) % 2 == 0 else name
        if block := _OLD_FPN.fullmatch(name):
            return f"{block[1]}.0.{block[2]}"
        return name

    return {upgraded(name): tensor for name, tensor in state_dict.items()}


def foreign_layout(state_dict: StateDict) -> str | None:
    """What the file is when its names belong to another project or task; None otherwise.

    The text completes a sentence that begins with the file's name.
    """
    for prefix, meaning in _FOREIGN:
        if any(name.startswith(prefix) for name in state_dict):
            return meaning
    return None


def infer_config(state_dict: StateDict) -> ModelConfig:
    """The settings that the tensors' names and shapes show: depth, classes, convolutions, variant.

    The rest keep their defaults. `stride_in_1x1` leaves no trace in names or shapes: it is False
    here, torchvision's placement, and a file that wants the other must say so in its metadata.

    Args:
        state_dict: torchvision's present names (see `upgrade_keys`).

    Raises:
        CheckpointError: the tensors are no RetinaNet of a kind that `ModelConfig` can describe;
            the text completes a sentence that begins with the file's name.
    """
    for name in (CLS_LOGITS, BBOX_REG):
        if name not in state_dict or state_dict[name].dim() != 4:
            raise CheckpointError(f"it is no RetinaNet: it has no usable {name}")
    boxes = len(state_dict[BBOX_REG])
    rows = len(state_dict[CLS_LOGITS])
    if boxes != 4 * NUM_ANCHORS or rows % NUM_ANCHORS:
        raise CheckpointError(
            f"it is for another set of anchors: {boxes / 4:g} per location, where this model has "
            f"{NUM_ANCHORS}"
        )
    convs = {int(match[1]) for name in state_dict if (match := _SUBNET_CONV.fullmatch(name))}
    try:
        return ModelConfig(
            depth=_infer_depth(state_dict),
            num_classes=rows // NUM_ANCHORS,
            num_convs=len(convs),
            variant="v2" if "head.classification_head.conv.0.1.weight" in state_dict else "v1",
        )
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def _infer_depth(state_dict: StateDict) -> int:
    blocks: dict[str, set[int]] = {stage: set() for stage in "1234"}
    for name in state_dict:
        if match := _BLOCK.match(name):
            blocks[match[1]].add(int(match[2]))
    counts = tuple(len(indices) for indices in blocks.values())
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state_dict
    if (bottleneck, counts) not in _DEPTH_OF_BLOCKS:
        raise CheckpointError(
            f"it has {counts} residual blocks in its four stages, which is none of ResNet 18, 34, "
            "50, 101 and 152"
        )
    return _DEPTH_OF_BLOCKS[bottleneck, counts]


def architecture_difference(found: ModelConfig, wanted: ModelConfig) -> str:
    """Where a file's architecture is not the one asked for, in words; "" when it is."""
    return ", ".join(
        f"{field} is {getattr(found, field)} in the file and {getattr(wanted, field)} was asked for"
        for field in ARCHITECTURE_FIELDS
        if getattr(found, field) != getattr(wanted, field)
    )


def diagnose_mismatch(state_dict: StateDict, model: RetinaNet | nn.Module) -> str:
    """Why the tensors do not fit the model: the likely cause and the first keys; "" when they do.

    The batch-norm counters (`num_batches_tracked`) never count: a frozen norm has none and a
    trained one starts its own. The model may live on the meta device: only shapes are read.

    Args:
        state_dict: torchvision's present names (see `upgrade_keys`).
        model: a RetinaNet, whose `config` says what was asked for.
    """
    wanted: Any = model.config
    expected = _counted(model.state_dict())
    given = _counted(state_dict)
    faults = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    ]
    faults += [f"{name} is missing" for name in expected if name not in given]
    faults += [f"{name} is not in the model" for name in given if name not in expected]
    if not faults:
        return ""
    try:
        cause = architecture_difference(infer_config(state_dict), wanted)
    except CheckpointError as error:
        cause = str(error)
    cause = cause or "the file is damaged or was made by another program"
    more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
    return f"{cause} (first keys that do not fit: {'; '.join(faults[:3])}{more})"


def _counted(state_dict: StateDict) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in state_dict.items()
        if not name.endswith(".num_batches_tracked")
    }
