"""Anchors: the boxes, fixed before training, that every prediction is relative to.

Paper, section 4 "Anchors": three scales 2^(0, 1/3, 2/3) of 32..512 pixels on P3..P7 and three
aspect ratios at every grid location. The arithmetic is torchvision's `AnchorGenerator`, bit for
bit: sizes cut to whole pixels, corners rounded half to even, strides from the padded size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retinanet.config import ConfigError, _Config, _number

BASE_SIZES: tuple[int, ...] = (32, 64, 128, 256, 512)
ASPECT_RATIOS: tuple[float, ...] = (0.5, 1.0, 2.0)

ANCHOR_SIZES: tuple[tuple[int, int, int], ...] = tuple(
    (base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))) for base in BASE_SIZES
)
"""Per level P3..P7, the three anchor sizes (square root of the area) in pixels."""

NUM_ANCHORS: int = len(ANCHOR_SIZES[0]) * len(ASPECT_RATIOS)
"""A, the anchors at one grid location."""


MOST_SCALES, MOST_ASPECT_RATIOS = 5, 7


@dataclass(frozen=True, slots=True)
class AnchorShape(_Config):
    """Which anchors lie at each location: the paper's nine by default.

    A trained model works with the anchors that it was trained with and no others; other shapes
    say what another training would match. An anchor of about one pixel can lose its area when its
    corners are rounded; its IoU with everything is then 0.

    Args:
        base_size: square root of an anchor's area on P3 at scale 1, in pixels of the resized
            image, 4 to 256; it doubles with each level.
        scales: what the base size is multiplied by, 1 to 5 different ones, each 0.25 to 4.
        aspect_ratios: height / width, 1 to 7 different ones, each 0.05 to 20.

    Raises:
        ConfigError: a value is outside its range, or there are too few, too many or equal ones.
    """

    base_size: float = 32.0
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    aspect_ratios: tuple[float, ...] = ASPECT_RATIOS

    def __post_init__(self) -> None:
        _number("AnchorShape", "base_size", self.base_size, 4.0, 256.0)
        object.__setattr__(self, "base_size", float(self.base_size))
        for name, most, low, high in (
            ("scales", MOST_SCALES, 0.25, 4.0),
            ("aspect_ratios", MOST_ASPECT_RATIOS, 0.05, 20.0),
        ):
            values = _distinct_numbers(name, getattr(self, name), most, low, high)
            object.__setattr__(self, name, values)

    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Per level P3..P7 the sizes in pixels, cut to whole ones as torchvision's defaults are."""
        return tuple(tuple(int(size) for size in level) for level in self.exact_sizes())

    def exact_sizes(self) -> tuple[tuple[float, ...], ...]:
        """The same before they are cut: base_size * 2^level * scale, level 0 for P3."""
        bases = [self.base_size * 2**level for level in range(len(BASE_SIZES))]
        return tuple(tuple(base * scale for scale in self.scales) for base in bases)

    @property
    def num_anchors(self) -> int:
        """A, the anchors at one grid location."""
        return len(self.scales) * len(self.aspect_ratios)


def _distinct_numbers(
    name: str, values: Any, most: int, low: float, high: float
) -> tuple[float, ...]:
    """1 to `most` different numbers, each in [low, high], as floats in the order given."""
    owner = "AnchorShape"
    if not isinstance(values, tuple | list):
        raise ConfigError(f"{owner}: {name} must be a list of numbers, not {values!r}.")
    if not 1 <= len(values) <= most:
        raise ConfigError(f"{owner}: {name} must be 1 to {most} numbers, not {len(values)}.")
    for value in values:
        _number(owner, f"each of {name}", value, low, high)
    numbers = tuple(float(value) for value in values)
    if len(set(numbers)) < len(numbers):
        twice = next(value for value in numbers if numbers.count(value) > 1)
        raise ConfigError(f"{owner}: {name} has {twice:g} twice; leave one out.")
    return numbers


DEFAULT_SHAPE = AnchorShape()
"""The anchors of the paper and of every model here; its sizes are `ANCHOR_SIZES`."""


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
    shape: AnchorShape = DEFAULT_SHAPE,
) -> list[Tensor]:
    """All anchors of an image.

    Args:
        padded_size: (height, width) of the tensor that the network sees.
        grid_sizes: per level P3..P7, (H, W) of its feature map.
        device: where the anchors are made.
        shape: which anchors lie at each location.

    Returns:
        Per level [H*W*A, 4] float32 xyxy in pixels of the resized image, rows over H, W, A.
        Anchors may reach beyond the image.
    """
    strides = level_strides(padded_size, grid_sizes)
    return [
        anchors_at(
            cell_anchors(sizes, shape.aspect_ratios).to(device), range(rows), range(columns), stride
        )
        for sizes, (rows, columns), stride in zip(shape.sizes(), grid_sizes, strides, strict=True)
    ]


def anchors_at(cell: Tensor, rows: range, columns: range, stride: tuple[int, int]) -> Tensor:
    """The anchors of some locations of one level.

    Args:
        cell: [A, 4] float32 xyxy, the anchors of one location, centred on (0, 0).
        rows: of the grid, consecutive.
        columns: of the grid, consecutive.
        stride: (vertical, horizontal) distance between locations, in pixels.

    Returns:
        [len(rows) * len(columns) * A, 4] on the cell's device, in the order of `grid_anchors`.
    """
    y, x = (
        torch.arange(span.start, span.stop, dtype=torch.int32, device=cell.device) * step
        for span, step in zip((rows, columns), stride, strict=True)
    )
    centre_y, centre_x = (grid.flatten() for grid in torch.meshgrid(y, x, indexing="ij"))
    centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=1)  # [locations, 4]
    return (centres[:, None, :] + cell[None, :, :]).reshape(-1, 4)
