"""Anchors: the boxes, fixed before training, that every prediction is relative to.

Paper, section 4 "Anchors": three scales 2^(0, 1/3, 2/3) of 32..512 pixels on P3..P7 and three
aspect ratios at every grid location. The arithmetic is torchvision's `AnchorGenerator`, bit for
bit: sizes cut to whole pixels, corners rounded half to even, strides from the padded size.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE_SIZES: tuple[int, ...] = (32, 64, 128, 256, 512)
ASPECT_RATIOS: tuple[float, ...] = (0.5, 1.0, 2.0)

ANCHOR_SIZES: tuple[tuple[int, int, int], ...] = tuple(
    (base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))) for base in BASE_SIZES
)
"""Per level P3..P7, the three anchor sizes (square root of the area) in pixels."""

NUM_ANCHORS: int = len(ANCHOR_SIZES[0]) * len(ASPECT_RATIOS)
"""A, the anchors at one grid location."""


def cell_anchors(sizes: tuple[int, ...], aspect_ratios: tuple[float, ...]) -> Tensor:
    """The anchors of one location, centred on (0, 0).

    Args:
        sizes: square roots of the areas, in pixels.
        aspect_ratios: height / width.

    Returns:
        [len(aspect_ratios) * len(sizes), 4] float32 xyxy, ratio-major: all sizes of the first
        ratio, then of the next.
    """
    scales = torch.as_tensor(sizes, dtype=torch.float32)
    height_ratios = torch.sqrt(torch.as_tensor(aspect_ratios, dtype=torch.float32))
    width_ratios = 1 / height_ratios
    widths = (width_ratios[:, None] * scales[None, :]).flatten()
    heights = (height_ratios[:, None] * scales[None, :]).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def level_strides(
    padded_size: tuple[int, int], grid_sizes: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Per level, the (vertical, horizontal) distance between locations, in pixels.

    It is `padded_size // grid_size`, so P6 and P7 can fall short of 64 and 128: anchors depend on
    the padding, in torchvision and here.
    """
    return [(padded_size[0] // rows, padded_size[1] // columns) for rows, columns in grid_sizes]


def grid_anchors(
    padded_size: tuple[int, int],
    grid_sizes: list[tuple[int, int]],
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """All anchors of an image.

    Args:
        padded_size: (height, width) of the tensor that the network sees.
        grid_sizes: per level P3..P7, (H, W) of its feature map.
        device: where the anchors are made.

    Returns:
        Per level [H*W*A, 4] float32 xyxy in pixels of the resized image, rows over H, W, A.
        Anchors may reach beyond the image.
    """
    anchors = []
    strides = level_strides(padded_size, grid_sizes)
    for sizes, (rows, columns), (stride_y, stride_x) in zip(
        ANCHOR_SIZES, grid_sizes, strides, strict=True
    ):
        cell = cell_anchors(sizes, ASPECT_RATIOS).to(device)  # [A, 4]
        y = torch.arange(rows, dtype=torch.int32, device=device) * stride_y
        x = torch.arange(columns, dtype=torch.int32, device=device) * stride_x
        centre_y, centre_x = (grid.flatten() for grid in torch.meshgrid(y, x, indexing="ij"))
        centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=1)  # [H*W, 4]
        anchors.append((centres[:, None, :] + cell[None, :, :]).reshape(-1, 4))
    return anchors
