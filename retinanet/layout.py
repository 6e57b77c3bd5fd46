"""Where the anchors of a picture lie, without running a network.

Anchors depend on the picture's size, the input size and the anchors' shape, and on nothing that a
network learns: what is drawn from a layout is what a model of any depth has.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from retinanet.anchors import DEFAULT_SHAPE, AnchorShape, grid_anchors
from retinanet.config import ModelConfig
from retinanet.images import padded_size, resize_boxes, resized_size
from retinanet.types import LEVELS

STRIDES: tuple[int, ...] = (8, 16, 32, 64, 128)
"""How many times smaller than the padded picture the maps of P3..P7 are, rounded up."""


class Frame(NamedTuple):
    """The sizes that decide where anchors lie, each (height, width).

    Args:
        image_size: of the resized picture.
        padded_size: of the tensor that a network would see.
        grid_sizes: of the feature maps P3..P7.
    """

    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    grid_sizes: list[tuple[int, int]]


def frame_of(original_size: tuple[int, int], min_size: int, max_size: int) -> Frame:
    """The sizes that a picture of (height, width) has on its way through any network here.

    Raises:
        ImageError: the picture has no pixels, or a side would vanish at this input size.
    """
    image_size = resized_size(original_size, min_size, max_size)
    padded = padded_size([image_size])
    grids = [(math.ceil(padded[0] / s), math.ceil(padded[1] / s)) for s in STRIDES]
    return Frame(image_size, padded, grids)


@dataclass(frozen=True, eq=False)
class AnchorLayout:
    """The anchors of one picture. The names are those of `Outputs` and mean the same.

    Args:
        original_size: (height, width) of the picture as uploaded.
        image_size: (height, width) of the resized picture, without padding.
        padded_size: (height, width) of the tensor that a network would see.
        grid_sizes: per level P3..P7, (H, W).
        anchors: per level [H*W*A, 4] float32 xyxy, pixels of the resized picture; rows over H, W,
            A, and the A anchors of a location ratio by ratio, all scales of each.
        shape: which anchors lie at each location.
    """

    original_size: tuple[int, int]
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    grid_sizes: list[tuple[int, int]]
    anchors: list[Tensor]
    shape: AnchorShape

    @property
    def anchors_per_level(self) -> list[int]:
        """Number of anchors on each level."""
        return [len(anchors) for anchors in self.anchors]

    @property
    def num_anchors(self) -> int:
        """Number of anchors on all levels together."""
        return sum(self.anchors_per_level)

    @property
    def nbytes(self) -> int:
        """Bytes held by the anchors."""
        return sum(anchors.nbytes for anchors in self.anchors)


def layout_of(
    original_size: tuple[int, int],
    min_size: int,
    max_size: int,
    shape: AnchorShape = DEFAULT_SHAPE,
) -> AnchorLayout:
    """Lay the anchors out for a picture, as a model with this input size would.

    Args:
        original_size: (height, width) in pixels.
        min_size: as in `ModelConfig`.
        max_size: as in `ModelConfig`.
        shape: which anchors lie at each location.

    Raises:
        ConfigError: the input size is outside `ModelConfig`'s range.
        ImageError: the picture has no pixels, or a side would vanish at this input size.
    """
    ModelConfig(min_size=min_size, max_size=max_size)  # refuses what no model could have
    height, width = original_size
    frame = frame_of((height, width), min_size, max_size)
    anchors = grid_anchors(frame.padded_size, frame.grid_sizes, shape=shape)
    return AnchorLayout((height, width), *frame, anchors=anchors, shape=shape)


def place_in_layout(layout: AnchorLayout, anchor_index: int) -> dict[str, Any]:
    """Where an anchor lies and which it is, as plain data.

    Args:
        layout: of the picture.
        anchor_index: over all levels, finest level first.

    Returns:
        {"level": "P3".."P7", "row", "column", "index_in_cell" (0..A-1), "size" (whole pixels of
        the resized picture), "aspect_ratio" (height / width), "box" (xyxy, pixels of the resized
        picture), "box_original" (the same in pixels of the picture as uploaded)}. Both boxes may
        reach beyond the picture.

    Raises:
        IndexError: there is no such anchor.
    """
    index = operator.index(anchor_index)  # a NumPy or tensor integer is no JSON
    if not 0 <= index < layout.num_anchors:
        raise IndexError(f"There is no anchor {index}: the layout has {layout.num_anchors:,}.")
    level = 0
    while index >= len(layout.anchors[level]):
        index -= len(layout.anchors[level])
        level += 1
    cell, kind = divmod(index, layout.shape.num_anchors)
    ratio, scale = divmod(kind, len(layout.shape.scales))
    row, column = divmod(cell, layout.grid_sizes[level][1])
    box = layout.anchors[level][index]
    original = resize_boxes(box[None], layout.image_size, layout.original_size)[0]
    return {
        "level": LEVELS[level],
        "row": row,
        "column": column,
        "index_in_cell": kind,
        "size": layout.shape.sizes()[level][scale],
        "aspect_ratio": layout.shape.aspect_ratios[ratio],
        "box": box.tolist(),
        "box_original": original.tolist(),
    }
