"""A map of numbers as a picture, and laid over the photo to the pixel."""

from __future__ import annotations

import base64
from functools import lru_cache

import numpy as np
import plotly.colors
import plotly.graph_objects as go
from numpy.typing import NDArray

from retinanet.cells import grid_of, level_stride, map_extent, scales
from retinanet.figures.pictures import display_jpeg
from retinanet.types import Image, Outputs

COLORSCALES: tuple[str, ...] = ("Viridis", "Cividis", "Magma", "Inferno", "Plasma")
"""Scales that rise evenly in lightness, so that they also work in grey and for the colour-blind."""

NO_VALUE = 128
"""The grey of a cell that holds no finite number."""

STEPS = 256


@lru_cache(maxsize=len(COLORSCALES))
def color_table(colorscale: str = "Viridis") -> NDArray[np.uint8]:
    """A colour scale as [256, 3] uint8, from the low end to the high one; read-only.

    Raises:
        ValueError: it is none of `COLORSCALES`.
    """
    if colorscale not in COLORSCALES:
        raise ValueError(
            f"There is no colour scale {colorscale!r} here; use one of {', '.join(COLORSCALES)}."
        )
    stops, names = zip(*plotly.colors.get_colorscale(colorscale), strict=True)
    colors = np.array([_rgb(name) for name in names], np.float64)
    places = np.linspace(0, 1, STEPS)
    table = np.stack([np.interp(places, stops, colors[:, i]) for i in range(3)], axis=1)
    table = np.rint(table).astype(np.uint8)
    table.flags.writeable = False
    return table


def _rgb(color: str) -> tuple[int, ...]:
    if color.startswith("#"):
        return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
    return plotly.colors.unlabel_rgb(color)


def map_image(
    map2d: NDArray[np.floating], low: float, high: float, colorscale: str = "Viridis"
) -> NDArray[np.uint8]:
    """A map [H, W] as colours [H, W, 3] uint8, one pixel for each cell.

    Args:
        map2d: any numbers; what is not finite becomes grey.
        low: the value at the low end of the scale; what is below it looks the same.
        high: the value at the high end. When it is not above `low`, every cell is at the low end.
        colorscale: one of `COLORSCALES`.

    Raises:
        ValueError: no such colour scale, or the map has not two dimensions.
    """
    values = np.asarray(map2d, np.float64)
    if values.ndim != 2:
        raise ValueError(f"A map has rows and columns; this has the shape {values.shape}.")
    span = high - low
    scaled = (values - low) / span if span > 0 else np.zeros_like(values)
    steps = np.rint(np.nan_to_num(scaled).clip(0, 1) * (STEPS - 1)).astype(np.intp)
    image = color_table(colorscale)[steps]
    image[~np.isfinite(values)] = NO_VALUE
    return image


def overlay_figure(
    image: Image,
    outputs: Outputs,
    map2d: NDArray[np.floating],
    level: str,
    low: float,
    high: float,
    title: str,
    colorscale: str = "Viridis",
    opacity: float = 0.6,
) -> go.Figure:
    """A map over the photo, each cell where it looks, with a colour bar; for Jupyter and export.

    Args:
        image: the photo that the outputs were made from.
        outputs: of the photo.
        map2d: [H, W], the grid of `level`.
        level: one of `retinanet.cells.MAPS`.
        low, high: what the ends of the colour scale stand for.
        title: of the figure, and what the numbers are.
        colorscale: one of `COLORSCALES`.
        opacity: of the map, 0..1.

    Raises:
        ValueError: the map has not the level's grid, the photo is another, or no such scale.
    """
    grid, (width, height) = grid_of(outputs, level), image.size
    if map2d.shape != grid:
        raise ValueError(f"{level} has a grid of {grid}, this map one of {map2d.shape}.")
    if (height, width) != tuple(outputs.original_size):
        raise ValueError(
            f"The photo is {width}x{height} pixels, but the outputs are of one of "
            f"{outputs.original_size[1]}x{outputs.original_size[0]}."
        )
    color_table(colorscale)  # refuses what it does not know
    x1, y1, _, _ = map_extent(outputs, level)
    step_x, step_y = (level_stride(level) * scale for scale in scales(outputs))
    figure = go.Figure(
        go.Heatmap(
            z=map2d,
            x0=x1 + step_x / 2,
            dx=step_x,
            y0=y1 + step_y / 2,
            dy=step_y,
            zmin=low,
            zmax=high,
            colorscale=colorscale,
            opacity=opacity,
            colorbar={"title": {"text": level}, "thickness": 14},
            hovertemplate="x %{x:.0f}, y %{y:.0f} px: %{z:.4g}<extra></extra>",
        )
    )
    photo = "data:image/jpeg;base64," + base64.b64encode(display_jpeg(image)).decode()
    figure.add_layout_image(
        source=photo,
        xref="x",
        yref="y",
        x=0,
        y=0,
        sizex=width,
        sizey=height,
        sizing="stretch",
        layer="below",
    )
    figure.update_layout(
        title={"text": title},
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        xaxis={
            "range": [0, width],
            "showgrid": False,
            "constrain": "domain",
            "title": "x in the photo, px",
        },
        yaxis={
            "range": [height, 0],
            "showgrid": False,
            "scaleanchor": "x",
            "constrain": "domain",
            "title": "y in the photo, px",
        },
    )
    return figure
