"""The pyramid as tables, sentences and a figure: its levels, one point of the photo, top-down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from retinanet.anchors import ANCHOR_SIZES, NUM_ANCHORS
from retinanet.cells import MAPS, cell_box, inside
from retinanet.figures.palette import LEVEL_COLORS, OKABE_ITO
from retinanet.pyramid import anchor_sizes
from retinanet.receptive import receptive_fields
from retinanet.types import LEVELS, Outputs

if TYPE_CHECKING:
    from retinanet.model import RetinaNet

STRIDE_COLOR, LATERAL_COLOR, FIELD_COLOR, SUBNET_COLOR = (
    OKABE_ITO[2],
    OKABE_ITO[0],
    OKABE_ITO[4],
    OKABE_ITO[6],
)

SERIES: dict[str, tuple[str, str, str]] = {
    "stride": ("one cell (the stride)", STRIDE_COLOR, "square"),
    "receptive_lateral": ("seen, lateral path", LATERAL_COLOR, "triangle-up"),
    "receptive_top_down": ("seen, with top-down", FIELD_COLOR, "diamond"),
    "receptive_classification": ("seen by the class subnet", SUBNET_COLOR, "cross"),
}
"""Column of `level_rows` -> name, colour and marker: a series is told by both."""


def level_rows(outputs: Outputs, model: RetinaNet) -> list[dict[str, Any]]:
    """One row for each of C3..C5 and P3..P7; lengths in pixels of the resized image.

    Returns:
        {"map", "channels", "rows", "columns", "cells", "cells_inside" (their centre is not in the
        padding), "stride", "receptive_lateral", "receptive_top_down", "receptive_classification",
        "receptive_regression", "anchors", "anchor_sizes", "anchor_sizes_original" (original px)};
        the last five are None on C3..C5.
    """
    fields = receptive_fields(model)
    rows = []
    for name in MAPS:
        channels, height, width = outputs.features[name].shape
        field, is_level = fields[name], name in LEVELS
        rows.append(
            {
                "map": name,
                "channels": channels,
                "rows": height,
                "columns": width,
                "cells": height * width,
                "cells_inside": int(inside(outputs, name).sum()),
                "stride": field.stride,
                "receptive_lateral": field.lateral,
                "receptive_top_down": field.top_down,
                "receptive_classification": field.classification,
                "receptive_regression": field.regression,
                "anchors": height * width * NUM_ANCHORS if is_level else None,
                "anchor_sizes": list(ANCHOR_SIZES[LEVELS.index(name)]) if is_level else None,
                "anchor_sizes_original": anchor_sizes(outputs, name) if is_level else None,
            }
        )
    return rows


def levels_figure(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """What a cell is, what it looks for and what it can see, on one logarithmic axis of pixels.

    Args:
        rows: `level_rows`.
    """
    figure = go.Figure()
    levels = [row for row in rows if row["anchor_sizes"]]
    figure.add_bar(
        name="anchor sizes",
        orientation="h",
        y=[row["map"] for row in levels],
        base=[row["anchor_sizes"][0] for row in levels],
        x=[row["anchor_sizes"][-1] - row["anchor_sizes"][0] for row in levels],
        marker={"color": [LEVEL_COLORS[row["map"]] for row in levels]},
        customdata=[", ".join(f"{size:,}" for size in row["anchor_sizes"]) for row in levels],
        hovertemplate="%{y}: anchors of %{customdata} px<extra></extra>",
    )
    for key, (name, color, symbol) in SERIES.items():
        known = [row for row in rows if row[key] is not None]
        figure.add_scatter(
            name=name,
            mode="markers",
            x=[row[key] for row in known],
            y=[row["map"] for row in known],
            marker={"color": color, "symbol": symbol, "size": 10},
            hovertemplate=f"%{{y}}: {name}, %{{x:,}} px<extra></extra>",
        )
    figure.update_layout(
        height=340,
        margin={"l": 0, "r": 10, "t": 8, "b": 36},
        bargap=0.5,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        xaxis={
            "type": "log",
            "title": "pixels of the resized image, log scale",
            "tickvals": [2**power for power in range(3, 13)],
            "tickformat": ",",
        },
        yaxis={"autorange": "reversed", "categoryarray": list(MAPS), "title": "map"},
    )
    return figure


def levels_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many cells and anchors the levels have, and which side they favour.

    Args:
        rows: `level_rows`.
    """
    levels = [row for row in rows if row["anchors"]]
    finest, coarsest = levels[0], levels[-1]
    total = sum(row["anchors"] for row in levels)
    return (
        f"From {finest['map']} ({finest['rows']:,} × {finest['columns']:,} cells, one every "
        f"{finest['stride']} px) to {coarsest['map']} ({coarsest['rows']:,} × "
        f"{coarsest['columns']:,}, one every {coarsest['stride']} px): "
        f"{sum(row['cells'] for row in levels):,} cells with {NUM_ANCHORS} anchors each are "
        f"{total:,} anchors, {_percent(finest['anchors'] / total)} of them on {finest['map']}. A "
        f"cell of {finest['map']} can see {finest['receptive_top_down']:,} px of the resized image "
        f"for anchors of {_listed(finest['anchor_sizes'])} px, one of {coarsest['map']} "
        f"{coarsest['receptive_top_down']:,} px for {_listed(coarsest['anchor_sizes'])} px."
    )


def stage_sentence(row: Mapping[str, Any]) -> str:
    """What one map is: its shape, its stride, what a cell sees and which anchors it carries.

    Args:
        row: one of `level_rows`.
    """
    sentence = (
        f"{row['channels']:,} channels of {row['rows']:,} × {row['columns']:,} cells, one every "
        f"{row['stride']} px; a cell sees {row['receptive_top_down']:,} px."
    )
    if not row["anchors"]:
        return f"{sentence} It feeds the pyramid and carries no anchors."
    return (
        f"{sentence} Its {row['anchors']:,} anchors of {_listed(row['anchor_sizes'])} px look for "
        f"objects of {_listed([f'{size:.0f}' for size in row['anchor_sizes_original']])} px in the "
        "photo."
    )


def point_numbers(values: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(map and cell, what it says), a pair of texts for each map.

    Args:
        values: `retinanet.pyramid.values_at`.
    """
    rows = []
    for value in values:
        said = f"strength {value['strength']:.3g}, {value['percentile']:.0f}% are no stronger"
        if value["score"] is not None:
            said += f"; {value['category']} {value['score']:.3f}"
        rows.append((f"{value['map']}, row {value['row']}, column {value['column']}", said))
    return rows


def map_rows(outputs: Outputs, name: str, values: Any) -> list[dict[str, Any]]:
    """A map cell by cell: {"row", "column", "x", "y" (its centre, original px), "value"}.

    Args:
        outputs: of the picture.
        name: of the map, "C3".."P7".
        values: [H, W].
    """
    rows = []
    for (row, column), value in np.ndenumerate(values):
        x1, y1, x2, y2 = cell_box(outputs, name, row, column)
        centre = {"x": round((x1 + x2) / 2, 2), "y": round((y1 + y2) / 2, 2)}
        rows.append({"row": row, "column": column, **centre, "value": float(value)})
    return rows


def point_rows(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each map says at a point, flat for a table or CSV.

    Args:
        values: `retinanet.pyramid.values_at`.
    """
    rows = []
    for value in values:
        sizes = value["anchor_sizes"]
        rows.append(
            {
                "map": value["map"],
                "row": value["row"],
                "column": value["column"],
                **dict(zip(("x1", "y1", "x2", "y2"), value["cell_box"], strict=True)),
                "inside": value["inside"],
                "strength": value["strength"],
                "percentile": value["percentile"],
                "category": value["category"],
                "score": value["score"],
                "anchor_sizes": None if sizes is None else " ".join(f"{s:.0f}" for s in sizes),
            }
        )
    return rows


def point_sentence(values: Sequence[Mapping[str, Any]]) -> str:
    """Where the point stands out, and the best score there, in two sentences.

    Args:
        values: `retinanet.pyramid.values_at`.
    """
    levels = [value for value in values if value["score"] is not None]
    loudest = max(levels, key=lambda value: value["percentile"])
    best = max(levels, key=lambda value: value["score"])
    beyond = "" if all(value["inside"] for value in levels) else " (some centres in the padding)"
    strong = "the strongest of the picture's cells"
    if loudest["percentile"] < 100:
        share = _percent(loudest["percentile"] / 100)
        strong = f"at least as strong as {share} of the picture's cells"
    return (
        f"Each of the five levels has one cell for this point{beyond}; it stands out most on "
        f"{loudest['map']}, where its cell at row {loudest['row']}, column {loudest['column']} is "
        f"{strong}. The best score here is {best['score']:.3f} for {best['category']}, on "
        f"{best['map']} with "
        f"anchors of {_listed([f'{size:.0f}' for size in best['anchor_sizes']])} px in the photo."
    )


def top_down_rows(shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """{"level", "top_down_share"} of P3..P5, for CSV.

    Args:
        shares: `retinanet.pyramid.top_down_share`.
    """
    return [{"level": level, "top_down_share": share} for level, share in shares.items()]


def top_down_sentence(shares: Mapping[str, float]) -> str:
    """How much of P3 and P4 comes down from coarser levels.

    Args:
        shares: `retinanet.pyramid.top_down_share`.
    """
    parts = " and ".join(
        f"{_percent(share)} of {level}" for level, share in shares.items() if level != "P5"
    )
    return (
        f"What comes down from coarser levels has a strength of {parts} (root mean square of what "
        "it adds over that of the whole map); P5 gets nothing from above."
    )


def _percent(share: float) -> str:
    """A share with the digits that tell it from nothing and from all."""
    percent = 100 * share
    for decimals in (0, 1, 2):
        text = f"{percent:.{decimals}f}"
        if percent in (0, 100) or float(text) not in (0, 100):
            return f"{text}%"
    return f"{percent:.{math.ceil(-math.log10(min(percent, abs(100 - percent))))}f}%"


def _listed(values: Sequence[Any]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last
