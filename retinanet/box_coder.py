"""Deltas to boxes and back: torchvision's `BoxCoder` with RetinaNet's weights."""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

BOX_CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [N, 4] from deltas [N, 4] and anchors [N, 4], not clipped.

    Centre = anchor centre + (dx, dy) * anchor size; size = anchor size * exp(dw, dh), with dw and
    dh at most log(1000 / 16).
    """
    return BOX_CODER.decode_single(deltas, anchors)
