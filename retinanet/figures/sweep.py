"""A sweep as pictures: a measure over two settings or one, and precision over recall.

Each figure has a sibling that gives the same numbers as rows for CSV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from retinanet.average_precision import RECALLS
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.figures.palette import OKABE_ITO
from retinanet.sweeps import RANKED_BY, Grid, PRCurve, Sweep

KNOBS: dict[str, str] = {
    "score_thresh": "score_thresh",
    "nms_thresh": "nms_thresh (IoU)",
    "topk_candidates": "topk_candidates (pairs a level)",
    "detections_per_img": "detections_per_img (boxes)",
}
"""Setting -> axis title."""

MEASURES: dict[str, str] = {
    "AP": "AP (IoU .50 to .95)",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "AP of small objects",
    "AP_medium": "AP of medium objects",
    "AP_large": "AP of large objects",
    "precision": "precision at IoU .5",
    "recall": "recall at IoU .5",
    "f1": "F1 at IoU .5",
    "macro_f1": "F1 at IoU .5, mean of the classes",
}
"""`RANKED_BY` in words."""

STYLES: dict[str, tuple[str, str, str]] = {
    "AP": (OKABE_ITO[4], "solid", "circle"),
    "AP50": (OKABE_ITO[1], "longdash", "square"),
    "AP75": (OKABE_ITO[6], "dashdot", "diamond"),
    "f1": (OKABE_ITO[2], "solid", "diamond"),
    "precision": (OKABE_ITO[0], "dash", "triangle-up"),
    "recall": (OKABE_ITO[5], "dot", "triangle-down"),
}
"""Colour, dash and mark of what is drawn as a line."""

OTHER_STYLE = (OKABE_ITO[3], "longdashdot", "x")

CURVE_DASHES: tuple[str, ...] = ("dash", "dot", "dashdot", "longdash", "longdashdot", "solid")

MARGIN = {"l": 0, "r": 10, "t": 8, "b": 40}


def surface_rows(
    sweep: Sweep, metric: str = "f1", base: PostprocessConfig | None = None
) -> list[dict[str, Any]]:
    """What `surface` draws: "score_thresh", "nms_thresh" and the measure, a row for each cell.

    Args:
        sweep: the settings and how they do.
        metric: one of `RANKED_BY`.
        base: gives `topk_candidates` and `detections_per_img`; the best setting unless given.

    Raises:
        ConfigError: there is no such measure, or the sweep has not the base's caps.
    """
    base = _base(sweep, metric, base)
    rows = [
        {
            "score_thresh": row.config.score_thresh,
            "nms_thresh": row.config.nms_thresh,
            metric: row.to_row()[metric],
        }
        for row in sweep.rows
        if _same(row.config, base, ("topk_candidates", "detections_per_img"))
    ]
    if not rows:
        raise ConfigError("The sweep has no such topk_candidates and detections_per_img.")
    return rows


def shown_setting(
    sweep: Sweep, metric: str, current: PostprocessConfig | None
) -> PostprocessConfig:
    """Whose caps decide which settings `surface` shows: the current ones', else the best one's."""
    base = _base(sweep, metric, current)
    return base if _has_caps(sweep, base) else sweep.best(metric).config


def surface(
    sweep: Sweep, metric: str = "f1", current: PostprocessConfig | None = None
) -> go.Figure:
    """A measure over `score_thresh` and `nms_thresh`, the current setting and the best one marked.

    Every tried value has a column or row of the same width, however far it is from the next.

    Args:
        sweep: the settings and how they do.
        metric: one of `RANKED_BY`.
        current: a circle is drawn where it is; where it is not in the grid, its caps included, at
            no place. Its caps decide which settings are shown, the best one's where the sweep has
            not them.

    Raises:
        ConfigError: there is no such measure.
    """
    base = _base(sweep, metric, current)
    shown = shown_setting(sweep, metric, current)
    cells = surface_rows(sweep, metric, shown)
    grid = sweep.grid
    values = {(cell["score_thresh"], cell["nms_thresh"]): cell[metric] for cell in cells}
    z = [[values[s, n] for s in grid.score_thresh] for n in grid.nms_thresh]
    figure = go.Figure(
        go.Heatmap(
            x=[f"{value:g}" for value in grid.score_thresh],
            y=[f"{value:g}" for value in grid.nms_thresh],
            z=[[_plain(value) for value in row] for row in z],
            colorscale="Viridis",
            colorbar={"title": {"text": MEASURES[metric], "side": "right"}, "thickness": 12},
            hovertemplate="score_thresh %{x}, nms_thresh %{y}: %{z:.3f}<extra></extra>",
        )
    )
    known = [cell for cell in cells if not math.isnan(cell[metric])]
    if known:
        best = max(known, key=lambda cell: cell[metric])
        _mark(figure, best, f"best {MEASURES[metric]}", "star", OKABE_ITO[5])
    here = {"score_thresh": base.score_thresh, "nms_thresh": base.nms_thresh}
    if current is not None and shown is base and tuple(here.values()) in values:
        _mark(figure, here, "current setting", "circle-open", OKABE_ITO[0])
    figure.update_layout(
        height=340,
        margin=MARGIN,
        legend={"orientation": "h", "y": 1.12},
        xaxis={"title": KNOBS["score_thresh"], "type": "category"},
        yaxis={"title": KNOBS["nms_thresh"], "type": "category"},
    )
    return figure


def knob_rows(
    sweep: Sweep,
    knob: str,
    base: PostprocessConfig | None = None,
    metrics: Sequence[str] = ("AP", "AP50", "f1"),
) -> list[dict[str, Any]]:
    """What `knob_curves` draws: the knob's value and the measures, a row for each value.

    Args:
        sweep: the settings and how they do.
        knob: one of `KNOBS`.
        base: the other three settings; the best by F1 unless given.
        metrics: of `RANKED_BY`.

    Raises:
        ConfigError: there is no such knob or measure, or the sweep has not the base's others.
    """
    if knob not in KNOBS:
        raise ConfigError(f"There is no setting {knob!r}; use one of {', '.join(KNOBS)}.")
    for metric in metrics:
        _check(metric)
    base = sweep.best("f1").config if base is None else base
    others = [name for name in KNOBS if name != knob]
    rows = [row.to_row() for row in sweep.rows if _same(row.config, base, others)]
    if not rows:
        raise ConfigError(f"The sweep has no settings that differ from the base in {knob} only.")
    return [{name: row[name] for name in (knob, *metrics)} for row in rows]


def knob_curves(
    sweep: Sweep,
    knob: str,
    base: PostprocessConfig | None = None,
    metrics: Sequence[str] = ("AP", "AP50", "f1"),
) -> go.Figure:
    """Some measures over one setting, the other three as in `base`, whose own value is marked.

    Arguments and errors as `knob_rows`.
    """
    best = sweep.best("f1").config
    base = best if base is None else base
    rows = knob_rows(sweep, knob, base, metrics)
    figure = go.Figure()
    for metric in metrics:
        color, dash, symbol = STYLES.get(metric, OTHER_STYLE)
        figure.add_scatter(
            x=[row[knob] for row in rows],
            y=[_plain(row[metric]) for row in rows],
            name=MEASURES[metric],
            mode="lines+markers",
            line={"color": color, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 8},
            hovertemplate="%{y:.3f}",
        )
    figure.add_vline(
        x=getattr(base, knob),
        line={"color": OKABE_ITO[0], "dash": "dot", "width": 1},
        annotation_text="best by F1" if base == best else "current",
        annotation_position="top",
    )
    axis: dict[str, Any] = {"title": KNOBS[knob]}
    if knob in ("topk_candidates", "detections_per_img"):
        axis |= {"tickformat": ",d"}
    figure.update_layout(
        height=300,
        margin=MARGIN,
        legend={"orientation": "h", "y": 1.16},
        xaxis=axis,
        yaxis={"title": "share (0 to 1)", "range": [0, 1.02]},
        hovermode="x unified",
    )
    return figure


def threshold_rows(sweep: Sweep, base: PostprocessConfig | None = None) -> list[dict[str, Any]]:
    """What `threshold_curves` draws; arguments and errors as `knob_rows`."""
    return knob_rows(sweep, "score_thresh", base, ("f1", "precision", "recall"))


def threshold_curves(sweep: Sweep, base: PostprocessConfig | None = None) -> go.Figure:
    """F1, precision and recall over the score threshold; arguments and errors as `knob_rows`."""
    return knob_curves(sweep, "score_thresh", base, ("f1", "precision", "recall"))


def pr_rows(curves: Sequence[PRCurve]) -> list[dict[str, Any]]:
    """Precision at the 101 recalls: "category", "recall", "precision", a row for each point."""
    return [
        {"category": curve.category, "recall": float(recall), "precision": float(precision)}
        for curve in curves
        for recall, precision in zip(RECALLS, curve.interpolated, strict=True)
    ]


def pr_raw_rows(curves: Sequence[PRCurve]) -> list[dict[str, Any]]:
    """A row for each detection: "category", "score", "recall", "precision"."""
    return [
        {
            "category": curve.category,
            "score": float(score),
            "recall": float(recall),
            "precision": float(precision),
        }
        for curve in curves
        for score, recall, precision in zip(
            curve.scores, curve.recall, curve.precision, strict=True
        )
    ]


def pr_figure(curves: Sequence[PRCurve], score_thresh: float | None = None) -> go.Figure:
    """Precision over recall, with the point where a score threshold cuts each curve.

    The lines are COCO's, falling, read at 101 recalls; the point is what is really reached there,
    so it lies on or below its line. For all classes it is that of all detections together.

    Args:
        curves: those to draw, of `pr_curves`: more than seven repeat colours, not dashes.
        score_thresh: the threshold to mark; None marks none.
    """
    figure = go.Figure()
    for number, curve in enumerate(curves):
        color = OKABE_ITO[(number + 4) % len(OKABE_ITO)]
        dash = CURVE_DASHES[(number - 1) % len(CURVE_DASHES)]
        figure.add_scatter(
            x=RECALLS.tolist(),
            y=curve.interpolated.tolist(),
            name=f"{curve.category} (AP {curve.ap:.2f}, {curve.gts:,} objects)",
            legendgroup=curve.category,
            mode="lines",
            line={"color": color, "dash": dash, "width": 3 if number == 0 else 2},
            hovertemplate="recall %{x:.2f}: precision %{y:.3f}",
        )
        point = None if score_thresh is None else curve.point_at(score_thresh)
        if point is not None:
            figure.add_scatter(
                x=[point[0]],
                y=[point[1]],
                name=f"{curve.category} above {score_thresh:g}",
                legendgroup=curve.category,
                showlegend=False,
                mode="markers",
                marker={"color": color, "symbol": "circle-open", "size": 11, "line": {"width": 3}},
                hovertemplate="recall %{x:.3f}, precision %{y:.3f}",
            )
    figure.update_layout(
        height=340,
        margin=MARGIN,
        xaxis={"title": "recall (share of the objects)", "range": [0, 1.02]},
        yaxis={"title": "precision (share of the detections)", "range": [0, 1.02]},
    )
    return figure


def _base(sweep: Sweep, metric: str, base: PostprocessConfig | None) -> PostprocessConfig:
    _check(metric)
    return sweep.best(metric).config if base is None else base


def _check(metric: str) -> None:
    if metric not in RANKED_BY:
        raise ConfigError(f"There is no measure {metric!r}; use one of {', '.join(RANKED_BY)}.")


def _has_caps(sweep: Sweep, config: PostprocessConfig) -> bool:
    grid: Grid = sweep.grid
    return (
        config.topk_candidates in grid.topk_candidates
        and config.detections_per_img in grid.detections_per_img
    )


def _same(own: PostprocessConfig, base: PostprocessConfig, names: Sequence[str]) -> bool:
    return own == replace(own, **{name: getattr(base, name) for name in names})


def _plain(value: float) -> float | None:
    """None, which leaves a gap, for what cannot be measured."""
    return None if math.isnan(value) else value


def _mark(figure: go.Figure, cell: dict[str, Any], name: str, symbol: str, color: str) -> None:
    figure.add_scatter(
        x=[f"{cell['score_thresh']:g}"],
        y=[f"{cell['nms_thresh']:g}"],
        name=name,
        mode="markers",
        marker={"symbol": symbol, "size": 16, "color": color, "line": {"width": 2}},
        hoverinfo="skip",
    )
