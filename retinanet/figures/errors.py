"""What a detector gets wrong on a data set, and what its anchors reach there, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from retinanet.analysis.confusion import Confusion
from retinanet.analysis.dataset_coverage import DatasetCoverage
from retinanet.analysis.error_types import MAIN_TYPES, SPECIAL_TYPES, ErrorTypes, ap_name
from retinanet.analysis.score_split import ScoreSplit
from retinanet.figures.palette import FATE_COLORS, LEVEL_COLORS, OKABE_ITO

TYPE_STYLES: dict[str, tuple[str, str, str]] = {
    "classification": ("classification", OKABE_ITO[0], "/"),
    "localisation": ("localisation", OKABE_ITO[1], "\\"),
    "both": ("both", OKABE_ITO[2], "x"),
    "duplicate": ("duplicate", OKABE_ITO[3], "."),
    "background": ("background", OKABE_ITO[4], "-"),
    "missed": ("missed", OKABE_ITO[5], "|"),
    "false_positives": ("all false positives", "#7A8794", "+"),
    "false_negatives": ("all objects not found", "#7A8794", ""),
}
"""Type -> words, colour and pattern: a bar is told by both."""

STATUS_STYLES: dict[str, tuple[str, str, str]] = {
    "natural": ("natural match", FATE_COLORS["kept"], ""),
    "forced": ("forced match only", OKABE_ITO[0], "/"),
    "none": ("no anchor", OKABE_ITO[5], "x"),
}

SCORE_STYLES: dict[str, tuple[str, str, str]] = {
    "true_positives": ("true positives", FATE_COLORS["kept"], ""),
    "false_positives": ("false positives", FATE_COLORS["suppressed"], "/"),
}

MOST_NUMBERS = 12
"""A matrix of up to so many classes has its counts written into the cells."""

SCORE_BINS = 20


def error_rows(errors: ErrorTypes) -> list[dict[str, Any]]:
    """One row a type, six and two special ones, for a table: {"type", "count", "dAP50" (to 0.0001),
    "images" (number of photos, at most 500), "sentence"}.
    """
    return [
        {
            "type": row["type"],
            "count": row["count"],
            "dAP50": round(row["dAP50"], 4),
            "images": len(row["image_ids"]),
            "sentence": row["sentence"],
        }
        for row in errors.rows
    ]


def error_bars(errors: ErrorTypes) -> go.Figure:
    """Count and cost of each type, side by side; customdata holds the type's name."""
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    rows = {row["type"]: row for row in errors.rows}
    names = [*MAIN_TYPES, *SPECIAL_TYPES]
    words, colors, patterns = zip(*(TYPE_STYLES[name] for name in names), strict=True)
    marker = {"color": colors, "pattern": {"shape": patterns}}
    counts = [rows[name]["count"] for name in names]
    gains = [rows[name]["dAP50"] for name in names]
    ap = ap_name(errors.fg_iou)
    for column, values, texts, hover in (
        (1, counts, [f"{count:,}" for count in counts], "%{y}: %{x:,}"),
        (
            2,
            gains,
            ["" if np.isnan(gain) else f"{gain:.3f}" for gain in gains],
            f"%{{y}}: {ap} + %{{x:.3f}}",
        ),
    ):
        bar = go.Bar(
            x=values,
            y=words,
            orientation="h",
            marker=marker,
            text=texts,
            textposition="outside",
            cliponaxis=False,
            customdata=names,
            hovertemplate=f"{hover}<extra></extra>",
        )
        figure.add_trace(bar, row=1, col=column)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="errors", tickformat=",d", rangemode="tozero", col=1)
    figure.update_xaxes(title=f"{ap} gained without them", rangemode="tozero", col=2)
    return figure.update_layout(
        height=330, showlegend=False, bargap=0.3, margin={"l": 0, "r": 50, "t": 8, "b": 40}
    )


def confusion_rows(confusion: Confusion) -> list[dict[str, Any]]:
    """One row a cell that is not 0: {"truth", "detected_as", "count", "share" (of its row)}."""
    return [
        {key: row[key] for key in ("truth", "detected_as", "count")}
        | {"share": round(row["share"], 4)}
        for row in confusion.to_rows()
    ]


def confusion_heatmap(confusion: Confusion) -> go.Figure:
    """The matrix by shares of its rows, of the classes that occur.

    customdata of a cell is [row, column, count]: the indices for `Confusion.image_ids`.
    """
    chosen = np.array(confusion.occurring)
    names = _told_apart([confusion.names[index] for index in chosen])
    counts = confusion.matrix[np.ix_(chosen, chosen)]
    shares = confusion.normalised[np.ix_(chosen, chosen)]
    size = len(chosen)
    rows, columns = np.meshgrid(chosen, chosen, indexing="ij")
    texts = [[f"{count:,}" if count else "" for count in row] for row in counts.tolist()]
    figure = go.Figure(
        go.Heatmap(
            z=np.where(counts > 0, shares, np.nan),
            x=names,
            y=names,
            customdata=np.stack([rows, columns, counts], axis=-1),
            colorscale=list(zip(np.linspace(0, 1, 5).tolist(), LEVEL_COLORS.values(), strict=True)),
            zmin=0,
            zmax=1,
            text=texts if size <= MOST_NUMBERS + 1 else None,
            texttemplate="%{text}" if size <= MOST_NUMBERS + 1 else None,
            hovertemplate=(
                "%{y}, detected as %{x}: %{customdata[2]:,} (%{z:.1%} of the row)<extra></extra>"
            ),
            hoverongaps=False,
            xgap=1 if size <= 40 else 0,
            ygap=1 if size <= 40 else 0,
            colorbar={"title": "share of row", "tickformat": ".0%", "thickness": 14},
        )
    )
    ticks = {"type": "category", "tickmode": "array", "tickvals": names, "automargin": True}
    ticks["tickfont"] = {"size": 12 if size <= 20 else 10 if size <= 40 else 8}
    figure.update_xaxes(**ticks, title="detected as", tickangle=-60 if size > 8 else 0)
    figure.update_yaxes(**ticks, title="object is", autorange="reversed")
    return figure.update_layout(
        height=int(np.clip(200 + 26 * size, 320, 1000)),
        margin={"l": 0, "r": 0, "t": 8, "b": 40},
    )


def _told_apart(names: Sequence[str]) -> list[str]:
    """Categories of one name, or one named "background", would share a row of the figure."""
    used: dict[str, int] = {}
    told = []
    for name in names:
        used[name] = used.get(name, 0) + 1
        told.append(name if used[name] == 1 else f"{name} ({used[name]})")
    return told


def score_rows(
    split: ScoreSplit, category: str | None = None, bins: int = SCORE_BINS
) -> list[dict[str, Any]]:
    """{"from", "to" (not included, but for 1), "true_positives", "false_positives"}, score 0 to 1.

    Args:
        split: the scores.
        category: of one class; None for all.
        bins: how many.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    true, false = (np.histogram(scores.clip(0, 1), edges)[0] for scores in split.of(category))
    return [
        {
            "from": round(float(edges[at]), 6),
            "to": round(float(edges[at + 1]), 6),
            "true_positives": int(true[at]),
            "false_positives": int(false[at]),
        }
        for at in range(bins)
    ]


def score_histogram(
    split: ScoreSplit, category: str | None = None, bins: int = SCORE_BINS
) -> go.Figure:
    """How many true and how many false positives have each score, on a logarithmic axis."""
    rows = score_rows(split, category, bins)
    most = max(1, *(row[key] for row in rows for key in SCORE_STYLES))
    figure = go.Figure()
    for key, (name, color, pattern) in SCORE_STYLES.items():
        counts = [row[key] for row in rows]
        figure.add_bar(
            x=[(row["from"] + row["to"]) / 2 for row in rows],
            y=[count or None for count in counts],  # a logarithmic axis has no 0
            name=f"{name} ({sum(counts):,})",
            marker={"color": color, "pattern": {"shape": pattern}},
            customdata=[[row["from"], row["to"]] for row in rows],
            hovertemplate="score %{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:,}",
        )
    return figure.update_layout(
        height=280,
        barmode="group",
        bargap=0.1,
        margin={"l": 0, "r": 0, "t": 8, "b": 40},
        legend={"orientation": "h", "y": 1.15},
        xaxis={"title": "score", "range": [0, 1]},
        yaxis={"type": "log", "title": "detections, log scale", "tickformat": ",d", "dtick": 1}
        | {"range": [np.log10(0.5), np.log10(2 * most)]},  # a bar of one detection has a height
    )


def coverage_level_rows(coverage: DatasetCoverage) -> list[dict[str, Any]]:
    """One row a level: {"level", "objects", "natural", "forced", "none", "foreground", "ignored",
    "background"}; objects by the level of their best anchor, and anchors.
    """
    keys = ("level", "objects", *STATUS_STYLES, "foreground", "ignored", "background")
    return [{key: row[key] for key in keys} for row in coverage.levels]


def coverage_levels(coverage: DatasetCoverage) -> go.Figure:
    """Objects by the level of their best anchor and by what they have."""
    rows = coverage_level_rows(coverage)
    return _stacked([row["level"] for row in rows], rows, "pyramid level of the best anchor")


def coverage_size_rows(coverage: DatasetCoverage) -> list[dict[str, Any]]:
    """One row a size: {"from", "to" (None: and more), "objects", "natural", "forced", "none",
    "share"}; square root of the area in pixels of the resized photo.
    """
    keys = ("from", "to", "objects", *STATUS_STYLES, "share")
    return [{key: row[key] for key in keys} for row in coverage.sizes]


def coverage_sizes(coverage: DatasetCoverage) -> go.Figure:
    """Objects by size and by what they have."""
    rows = coverage_size_rows(coverage)
    names = [
        f"{row['from']} to {row['to']}" if row["to"] else f"{row['from']} and more" for row in rows
    ]
    return _stacked(names, rows, "√area of the object, pixels of the resized photo")


def _stacked(names: Sequence[str], rows: Sequence[dict[str, Any]], title: str) -> go.Figure:
    """Objects as stacked bars by what they have for anchors."""
    figure = go.Figure()
    for key, (words, color, pattern) in STATUS_STYLES.items():
        counts = [row[key] for row in rows]
        figure.add_bar(
            x=list(names),
            y=counts,
            name=f"{words} ({sum(counts):,})",
            marker={"color": color, "pattern": {"shape": pattern, "solidity": 0.15}},
            text=[f"{count:,}" if count else "" for count in counts],
            textposition="inside",
            customdata=[key] * len(counts),
            hovertemplate="%{x}: %{y:,} objects",
        )
    return figure.update_layout(
        height=300,
        barmode="stack",
        margin={"l": 0, "r": 0, "t": 8, "b": 40},
        legend={"orientation": "h", "y": 1.15, "traceorder": "normal"},
        xaxis={"title": title, "type": "category"},
        yaxis={"title": "objects", "tickformat": ",d"},
    )
