"""The ledger of fates as a table, a sentence that adds up, and a figure."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from retinanet.figures.palette import FATE_COLORS

FATE_WORDS: dict[str, str] = {
    "below_thresh": "below score_thresh",
    "cut_by_topk": "cut by topk_candidates",
    "suppressed": "suppressed by NMS",
    "over_limit": "over detections_per_img",
    "kept": "kept",
}
"""The fates in the order in which they are decided, in words."""

STEP_COLOR = "#7A8794"
"""Pairs whose fate is still open."""


def ledger_rows(per_level: Mapping[str, Mapping[str, int]]) -> list[dict[str, str | int]]:
    """One row per fate and one for the sum; a column per level and one for all of them.

    Args:
        per_level: `DetectionTrace.counts_per_level`.
    """
    rows = []
    for fate, words in FATE_WORDS.items():
        cells = {level: counts[fate] for level, counts in per_level.items()}
        rows.append({"fate": words, **cells, "all": sum(cells.values())})
    sums = {level: sum(counts.values()) for level, counts in per_level.items()}
    return [*rows, {"fate": "sum", **sums, "all": sum(sums.values())}]


def ledger_sentence(counts: Mapping[str, int], num_anchors: int, num_classes: int) -> str:
    """The counts as a sum that a reader can check."""
    parts = " + ".join(f"{counts[fate]:,} {words}" for fate, words in FATE_WORDS.items())
    total = sum(counts.values())
    return f"{num_anchors:,} anchors × {num_classes} classes = {total:,} pairs = {parts}."


def funnel(counts: Mapping[str, int]) -> go.Figure:
    """How many pairs are left after each step, on a logarithmic axis.

    Args:
        counts: `DetectionTrace.counts`.
    """
    steps = ("all pairs", "above score_thresh", "within topk_candidates", "after NMS", "kept")
    fates = list(FATE_WORDS)
    left = [sum(counts[fate] for fate in fates[start:]) for start in range(len(fates))]
    figure = go.Figure(
        go.Bar(
            x=[max(count, 0.6) for count in left],  # a logarithmic axis has no 0
            y=list(steps),
            orientation="h",
            marker={"color": [STEP_COLOR] * 4 + [FATE_COLORS["kept"]]},
            text=[f"{count:,}" for count in left],
            textposition="auto",
            customdata=left,
            hovertemplate="%{y}: %{customdata:,} pairs<extra></extra>",
        )
    )
    figure.update_layout(
        height=210,
        margin={"l": 0, "r": 10, "t": 6, "b": 36},
        bargap=0.25,
        showlegend=False,
        xaxis={"type": "log", "title": "(anchor, class) pairs left, log scale", "dtick": 1},
        yaxis={"autorange": "reversed"},
    )
    return figure
