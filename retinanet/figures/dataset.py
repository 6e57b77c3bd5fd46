"""What a data set is made of: classes, box sizes, aspect ratios; as figures and as rows.

The arguments are fields of `datasets.DatasetReport`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from retinanet.datasets.report import MEDIUM, SMALL, size_name
from retinanet.figures.palette import ASSIGNMENT_COLORS, OKABE_ITO, label_color

LOG_FROM = 20.0
"""From this imbalance on, counts are drawn on a logarithmic axis."""

SYMBOLS: tuple[str, ...] = ("circle", "square", "triangle-up", "diamond", "cross", "x", "star")
"""Markers by label, beside the colours."""

MAX_CLASSES_APART = 14
"""With more classes, boxes are not told apart: nobody could."""

ANCHOR_RATIOS: tuple[float, ...] = (0.5, 1.0, 2.0)
"""Height to width of the anchors (paper, section 4)."""

_BINS = 4  # of the histogram for each doubling
_GREY = ASSIGNMENT_COLORS["background"]
_MANY = 2000  # points from which on the browser's graphics card draws them


def class_count_rows(objects: Mapping[str, int], photos: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row for each class, the most frequent first.

    Args:
        objects: objects by class name.
        photos: photos that show it, by class name.

    Returns:
        {"class", "objects", "photos", "share" (of all objects, 0 to 1)}.
    """
    total = sum(objects.values()) or 1
    ordered = sorted(objects, key=lambda name: -objects[name])
    return [
        {
            "class": name,
            "objects": objects[name],
            "photos": photos[name],
            "share": objects[name] / total,
        }
        for name in ordered
    ]


def class_counts(objects: Mapping[str, int], photos: Mapping[str, int]) -> go.Figure:
    """Objects and photos of each class, the most frequent on top.

    The axis is logarithmic from an imbalance of `LOG_FROM` on; a class without objects then
    stands at the left edge, as a logarithm has no 0.

    Args:
        objects: objects by class name.
        photos: photos that show it, by class name.
    """
    rows = class_count_rows(objects, photos)
    there = [count for count in objects.values() if count]
    log = bool(there) and max(there) / min(there) >= LOG_FROM
    figure = go.Figure()
    for key, color, symbol in (
        ("objects", OKABE_ITO[4], "circle"),
        ("photos", OKABE_ITO[0], "diamond-open"),
    ):
        figure.add_scatter(
            x=[max(row[key], 0.5) if log else row[key] for row in rows],
            y=[row["class"] for row in rows],
            customdata=[row[key] for row in rows],
            name=key,
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 9},
            hovertemplate="%{y}: %{customdata:,} " + key + "<extra></extra>",
        )
    title = "objects, photos"
    figure.update_layout(
        height=90 + 22 * max(1, len(rows)),
        margin={"l": 0, "r": 8, "t": 8, "b": 40},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        xaxis={"title": f"{title} (logarithmic)", "type": "log", "tickformat": ",", "dtick": 1}
        if log
        else {"title": title, "rangemode": "tozero", "tickformat": ",d"},
        yaxis={"autorange": "reversed", "type": "category", "automargin": True},
    )
    return figure


def box_size_rows(
    widths: Sequence[float], heights: Sequence[float], labels: Sequence[int], names: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each box.

    Args:
        widths: in pixels of the photo.
        heights: in pixels of the photo.
        labels: class of each box.
        names: class names by label.

    Returns:
        {"class", "width", "height" (px), "area" (px²), "size" (COCO's word)}.
    """
    return [
        {
            "class": names[label],
            "width": round(width, 2),
            "height": round(height, 2),
            "area": round(width * height, 1),
            "size": size_name(width * height),
        }
        for width, height, label in zip(widths, heights, labels, strict=True)
    ]


def box_sizes(
    widths: Sequence[float], heights: Sequence[float], labels: Sequence[int], names: Sequence[str]
) -> go.Figure:
    """Width and height of boxes on logarithmic axes, with COCO's borders of size.

    Args:
        widths: in pixels of the photo.
        heights: in pixels of the photo.
        labels: class of each box.
        names: class names by label.
    """
    columns = np.array([widths, heights], np.float64).reshape(2, -1)
    own = np.asarray(labels, np.int64)
    scatter = go.Scattergl if columns.shape[1] > _MANY else go.Scatter
    figure = go.Figure()
    apart = len(names) <= MAX_CLASSES_APART
    for label in sorted(set(own.tolist())) if apart else [None]:
        chosen = columns if label is None else columns[:, own == label]
        figure.add_trace(
            scatter(
                x=chosen[0],
                y=chosen[1],
                name="boxes" if label is None else names[label],
                mode="markers",
                marker={
                    "color": OKABE_ITO[4] if label is None else label_color(label),
                    "symbol": SYMBOLS[(label or 0) % len(SYMBOLS)]
                    + ("-open" if label is not None and label >= len(SYMBOLS) else ""),
                    "size": 6,
                    "opacity": 0.7,
                },
                hovertemplate="%{x:.0f} × %{y:.0f} px",
            )
        )
    low, high = _limits(columns)
    for area, words, dash in (
        (SMALL, "32² px: small below", "dot"),
        (MEDIUM, "96² px: medium below", "dash"),
    ):
        figure.add_scatter(
            x=[low, high],
            y=[area / low, area / high],  # a hyperbola is straight on logarithmic axes
            name=words,
            mode="lines",
            line={"color": _GREY, "dash": dash, "width": 1.5},
            hoverinfo="skip",
        )
    ends = [math.log10(low), math.log10(high)]
    axis = {"type": "log", "range": ends, "dtick": "D2", "tickformat": ",~r"}
    figure.update_layout(
        height=420,
        margin={"l": 0, "r": 8, "t": 8, "b": 40},
        xaxis={"title": "box width, px", **axis},
        yaxis={"title": "box height, px", **axis},
    )
    return figure


def _limits(columns: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest side with a margin, and COCO's borders between them."""
    if not columns.size:
        return 10.0, 300.0
    return min(float(columns.min()) / 1.3, 24.0), max(float(columns.max()) * 1.3, 130.0)


def aspect_ratio_rows(widths: Sequence[float], heights: Sequence[float]) -> list[dict[str, Any]]:
    """The histogram of height to width, four bins for each doubling, ends included.

    Args:
        widths: in pixels.
        heights: in pixels.

    Returns:
        {"from", "to" (height : width), "boxes"}, from the lowest to the highest that occurs.
    """
    octaves = [math.log2(h / w) for w, h in zip(widths, heights, strict=True)]
    if not octaves:
        return []
    bins = [math.floor(octave * _BINS + 0.5) for octave in octaves]  # 1 : 1 in the middle of one
    first, last = min(bins), max(bins)
    counts = np.bincount(np.array(bins) - first, minlength=last - first + 1)
    return [
        {
            "from": round(2 ** ((number - 0.5) / _BINS), 4),
            "to": round(2 ** ((number + 0.5) / _BINS), 4),
            "boxes": int(count),
        }
        for number, count in enumerate(counts, first)
    ]


def aspect_ratios(widths: Sequence[float], heights: Sequence[float]) -> go.Figure:
    """How many boxes have which shape, and which shapes the anchors have.

    Args:
        widths: in pixels.
        heights: in pixels.
    """
    rows = aspect_ratio_rows(widths, heights)
    middles = [math.log2(row["from"] * row["to"]) / 2 for row in rows]
    figure = go.Figure()
    figure.add_bar(
        x=middles,
        y=[row["boxes"] for row in rows],
        width=1 / _BINS,
        customdata=[[row["from"], row["to"]] for row in rows],
        marker={"color": OKABE_ITO[4]},
        name="boxes",
        hovertemplate="%{y:,} boxes of %{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>",
    )
    for ratio in ANCHOR_RATIOS:
        figure.add_vline(
            math.log2(ratio), line={"color": OKABE_ITO[5], "dash": "dash", "width": 1.5}
        )
    reach = math.ceil(max([1.5, *map(abs, middles)]))
    figure.update_layout(
        height=260,
        margin={"l": 0, "r": 8, "t": 8, "b": 40},
        showlegend=False,
        bargap=0,
        xaxis={
            "title": "height : width of the box; dashed: the anchors'",
            "range": [-reach - 0.2, reach + 0.2],
            "tickvals": list(range(-reach, reach + 1)),
            "ticktext": [_ratio(octave) for octave in range(-reach, reach + 1)],
        },
        yaxis={"title": "boxes", "rangemode": "tozero", "tickformat": ",d"},
    )
    return figure


def _ratio(octave: int) -> str:
    return f"1 : {2**-octave:,}" if octave < 0 else f"{2**octave:,} : 1"
