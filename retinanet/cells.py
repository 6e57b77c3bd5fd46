"""Where a cell of a feature map lies on the photo, to the pixel.

Every strided layer of the network is centred (7x7 stride 2 padding 3, 3x3 stride 2 padding 1, 1x1
stride 2), so cell j of a map of stride s is centred on pixel j*s of the resized image: at j*s + 0.5
where pixel i covers [i, i + 1]. A cell covers one stride around its centre; the first ones begin
beyond the picture's edge, and the last ones may lie in the padding.

Anchors stand elsewhere: at j * (padded size // grid size), a shorter step on P6 and P7 of most
sizes (`retinanet.anchors`), and half a pixel less. The top-down path of the pyramid copies a coarse
cell to the finer ones at and after its centre, so what comes down it lies up to 1.5 finer cells
further right and down than it was seen.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from retinanet.types import LEVELS, STAGES, Outputs

MAPS: tuple[str, ...] = STAGES + LEVELS
"""All maps of an `Outputs`, in the order in which they come about."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the original picture."""


def level_stride(name: str) -> int:
    """The distance between the cells of a map, in pixels of the resized image: 8 to 128.

    Raises:
        ValueError: there is no such map.
    """
    check_map(name)
    return 2 ** int(name[1:])


def check_map(name: str, maps: tuple[str, ...] = MAPS) -> None:
    """Refuse a name that is not one of some maps.

    Raises:
        ValueError: it is not.
    """
    if name not in maps:
        raise ValueError(f"There is no map {name!r} here; choose one of {', '.join(maps)}.")


def grid_of(outputs: Outputs, level: str) -> tuple[int, int]:
    """(rows, columns) of a map.

    Raises:
        ValueError: there is no such map.
    """
    check_map(level)
    height, width = outputs.features[level].shape[-2:]
    return int(height), int(width)


def scales(outputs: Outputs) -> tuple[float, float]:
    """(x, y): how many pixels of the original picture one of the resized image is."""
    (height, width), (rows, columns) = outputs.original_size, outputs.image_size
    return width / columns, height / rows


def cell_box(outputs: Outputs, level: str, row: int, column: int) -> Box:
    """The square that a cell stands for: one stride wide, around its centre, not clipped.

    Raises:
        ValueError: there is no such map or no such cell in it.
    """
    rows, columns = grid_of(outputs, level)
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"{level} has {rows} rows and {columns} columns of cells, counted from 0; it has no "
            f"cell at row {row}, column {column}."
        )
    return _block(outputs, level, (row, row), (column, column))


def map_extent(outputs: Outputs, level: str) -> Box:
    """The rectangle that all cells of a map cover together, padding included.

    A picture of the map, one pixel for each cell, lies right on the photo when it is stretched to
    this rectangle.

    Raises:
        ValueError: there is no such map.
    """
    rows, columns = grid_of(outputs, level)
    return _block(outputs, level, (0, rows - 1), (0, columns - 1))


def _block(outputs: Outputs, level: str, rows: tuple[int, int], columns: tuple[int, int]) -> Box:
    """What the cells from the first to the last row and column cover."""
    stride, (x, y) = level_stride(level), scales(outputs)
    return (
        ((columns[0] - 0.5) * stride + 0.5) * x,
        ((rows[0] - 0.5) * stride + 0.5) * y,
        ((columns[1] + 0.5) * stride + 0.5) * x,
        ((rows[1] + 0.5) * stride + 0.5) * y,
    )


def cell_at(outputs: Outputs, level: str, x: float, y: float) -> tuple[int, int]:
    """(row, column) of the cell that covers a point, or else of the nearest one.

    Args:
        outputs: of the picture.
        level: one of `MAPS`.
        x, y: in pixels of the original picture.

    Raises:
        ValueError: there is no such map, or the point is not finite.
    """
    rows, columns = grid_of(outputs, level)
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"The point ({x}, {y}) is not finite; give a place on the picture.")
    stride, (scale_x, scale_y) = level_stride(level), scales(outputs)
    row = math.floor((y / scale_y - 0.5) / stride + 0.5)
    column = math.floor((x / scale_x - 0.5) / stride + 0.5)
    return min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)


def inside(outputs: Outputs, level: str) -> NDArray[np.bool_]:
    """[H, W] bool: the cells whose centre is a pixel of the picture, not of the padding.

    Raises:
        ValueError: there is no such map.
    """
    (rows, columns), stride = grid_of(outputs, level), level_stride(level)
    height, width = outputs.image_size
    return np.logical_and.outer(
        np.arange(rows) * stride < height, np.arange(columns) * stride < width
    )
