"""One training run: its parameters, losses, gradients, step times and AP, over its steps.

Each figure has a sibling that gives its numbers as rows. A curve is `RunRecord.curve`, validations
are `RunRecord.validations`; a value that is None (no finite number) leaves a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from retinanet.figures.curves import SERIES
from retinanet.figures.palette import FATE_COLORS, OKABE_ITO
from retinanet.parameter_groups import PARAMETER_STAGES

Point = Mapping[str, Any]

MARGIN = {"l": 0, "r": 10, "t": 8, "b": 40}
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
MEGABYTE = 1e6

STAGE_STYLES: dict[str, tuple[str, str]] = dict(
    zip(
        PARAMETER_STAGES,
        (
            (OKABE_ITO[6], "dot"),
            (OKABE_ITO[1], "solid"),
            (OKABE_ITO[1], "dash"),
            (OKABE_ITO[4], "solid"),
            (OKABE_ITO[4], "dash"),
            (OKABE_ITO[2], "dashdot"),
            (OKABE_ITO[0], "longdash"),
            (OKABE_ITO[5], "longdashdot"),
        ),
        strict=True,
    )
)
"""Stage -> colour and dash; no two stages share both."""

PART_STYLES: dict[str, tuple[str, str, str]] = {
    "seconds_data": ("photos", OKABE_ITO[6], "."),
    "seconds_forward": ("forward", OKABE_ITO[1], ""),
    "seconds_backward": ("backward", OKABE_ITO[4], "/"),
    "seconds_optimizer": ("optimiser", OKABE_ITO[0], "x"),
}
"""Part of a step's time -> name, colour and pattern."""

AP_STYLES: dict[str, tuple[str, str, str]] = {
    "AP": (OKABE_ITO[4], "solid", "circle"),
    "AP50": (OKABE_ITO[2], "dot", "square"),
    "AP75": (OKABE_ITO[5], "dash", "diamond"),
}
"""Metric -> colour, dash and mark."""


def parameter_rows(parameters: Mapping[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """{"stage", "trainable", "frozen", "total"} for each stage, in order.

    Args:
        parameters: {stage: (trainable, total)}, as `trainable_parameters` gives it.
    """
    return [
        {"stage": stage, "trainable": trainable, "frozen": total - trainable, "total": total}
        for stage, (trainable, total) in parameters.items()
    ]


def parameter_figure(rows: Sequence[Point]) -> go.Figure:
    """A bar a stage: how many of its parameters train and how many are frozen.

    Args:
        rows: of `parameter_rows`.
    """
    figure = go.Figure()
    for key, color, pattern in (
        ("trainable", OKABE_ITO[2], ""),
        ("frozen", FATE_COLORS["below_thresh"], "/"),
    ):
        figure.add_bar(
            y=[row["stage"] for row in rows],
            x=[row[key] for row in rows],
            name=key,
            orientation="h",
            marker={"color": color, "pattern": {"shape": pattern}},
            hovertemplate=f"%{{y}}: %{{x:,}} {key}<extra></extra>",
        )
    figure.update_layout(
        height=300,
        barmode="stack",
        margin=MARGIN,
        legend=LEGEND,
        xaxis={"title": "parameters"},
        yaxis={"autorange": "reversed", "automargin": True},
    )
    return figure


def loss_rows(curve: Sequence[Point]) -> list[dict[str, Any]]:
    """{"step", "classification", "bbox_regression", "lr"} of each point."""
    return _columns(curve, ("classification", "bbox_regression", "lr"))


def loss_figure(
    curve: Sequence[Point], *, log: bool = False, diverged_in: int | None = None
) -> go.Figure:
    """Both losses over the steps.

    Args:
        curve: points with "step", "classification" and "bbox_regression".
        log: a logarithmic axis, on which a loss of 0 is not drawn.
        diverged_in: the step in which the loss stopped being a finite number; it is marked.
    """
    figure = go.Figure()
    for key in ("classification", "bbox_regression"):
        name, color, dash = SERIES[key]
        _add_line(figure, curve, key, name, color, dash, log, "step %{x:,}: %{y:.4g}")
    _finish(figure, "loss of one step", log)
    return _mark_divergence(figure, diverged_in)


def foreground_rows(curve: Sequence[Point]) -> list[dict[str, Any]]:
    """{"step", "num_foreground"} of each point."""
    return _columns(curve, ("num_foreground",))


def foreground_figure(curve: Sequence[Point]) -> go.Figure:
    """Foreground anchors an image over the steps: what the losses are divided by.

    Args:
        curve: points with "step" and "num_foreground".
    """
    figure = go.Figure()
    words = "step %{x:,}: %{y:,.1f} foreground anchors an image"
    _add_line(figure, curve, "num_foreground", "foreground", OKABE_ITO[1], "solid", False, words)
    _finish(figure, "foreground anchors an image", False)
    return figure.update_layout(showlegend=False)


def gradient_rows(curve: Sequence[Point]) -> list[dict[str, Any]]:
    """{"step", then the gradient norm of each stage and "grad_norm", that of all} of each point."""
    stages = _stages(curve)
    return [
        {"step": point["step"]}
        | {stage: point.get("grad_norms", {}).get(stage) for stage in stages}
        | {"grad_norm": point.get("grad_norm")}
        for point in curve
    ]


def gradient_figure(curve: Sequence[Point], *, log: bool = True) -> go.Figure:
    """The gradient norm of each stage, before clipping, over the steps.

    A stage whose norm is exactly 0 in every step is frozen: the legend says so and no line is
    drawn, as a logarithmic axis has no 0.

    Args:
        curve: points with "step" and "grad_norms" {stage: norm}.
        log: a logarithmic axis.
    """
    figure = go.Figure()
    rows = gradient_rows(curve)
    for stage in _stages(curve):
        color, dash = STAGE_STYLES.get(stage, (OKABE_ITO[3], "solid"))
        frozen = all(row[stage] == 0 for row in rows)
        name = f"{stage}: frozen, exactly 0" if frozen else stage
        words = "step %{x:,}: %{y:.3g}"
        _add_line(figure, [] if frozen else rows, stage, name, color, dash, log, words)
        figure.data[-1].showlegend = True
    _finish(figure, "gradient norm before clipping", log)
    return figure.update_layout(height=360)


def step_time_rows(curve: Sequence[Point]) -> list[dict[str, Any]]:
    """{"step", "seconds", "seconds_data", ..., "memory_bytes"} of each point."""
    return _columns(curve, ("seconds", *PART_STYLES, "memory_bytes"))


def step_time_figure(curve: Sequence[Point]) -> go.Figure:
    """Where the time of each step goes, stacked.

    Args:
        curve: points with "step" and the four parts of its seconds.
    """
    figure = go.Figure()
    for key, (name, color, pattern) in PART_STYLES.items():
        figure.add_scatter(
            x=[point["step"] for point in curve],
            y=[_times(point.get(key), 1000) for point in curve],
            name=name,
            stackgroup="time",
            mode="lines",
            line={"color": color, "width": 1},
            fillpattern={"shape": pattern, "fgcolor": color, "fillmode": "overlay"},
            hovertemplate="step %{x:,}: %{y:,.0f} ms",
        )
    _finish(figure, "time of a step, ms", False)
    return figure


def memory_figure(curve: Sequence[Point]) -> go.Figure:
    """The memory in use over the steps; `step_time_rows` holds its numbers.

    Args:
        curve: points with "step" and "memory_bytes"; of a CPU that is the whole process.
    """
    figure = go.Figure()
    scaled = [
        {"step": point["step"], "memory": _times(point.get("memory_bytes"), 1 / MEGABYTE)}
        for point in curve
    ]
    words = "step %{x:,}: %{y:,.0f} MB"
    _add_line(figure, scaled, "memory", "memory", OKABE_ITO[4], "solid", False, words)
    _finish(figure, "memory, MB", False)
    return figure.update_layout(showlegend=False)


def precision_rows(validations: Sequence[Point]) -> list[dict[str, Any]]:
    """{"step", "AP", "AP50", "AP75"} of each validation."""
    return _columns(validations, tuple(AP_STYLES))


def precision_figure(validations: Sequence[Point], *, steps: int | None = None) -> go.Figure:
    """COCO's AP on the validation photos over the steps.

    Args:
        validations: points with "step", "AP", "AP50" and "AP75", each 0..1.
        steps: of the run; the axis goes that far where given.
    """
    figure = go.Figure()
    for key, (color, dash, symbol) in AP_STYLES.items():
        words = "step %{x:,}: %{y:.3f}"
        _add_line(figure, validations, key, key, color, dash, False, words)
        figure.data[-1].update(mode="lines+markers", marker={"symbol": symbol, "size": 8})
    _finish(figure, "AP on the validation photos", False)
    if steps:
        figure.update_xaxes(range=[0, 1.02 * steps])
    return figure


# ------------------------------------------------------------------ what the figures share


def _columns(points: Sequence[Point], names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"step": point["step"]} | {name: point.get(name) for name in names} for point in points]


def _stages(curve: Sequence[Point]) -> list[str]:
    """The stages that the curve has norms of, in the network's order."""
    found = {stage for point in curve for stage in point.get("grad_norms", {})}
    known = [stage for stage in PARAMETER_STAGES if stage in found]
    return known + sorted(found.difference(known))


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _add_line(
    figure: go.Figure,
    points: Sequence[Point],
    key: str,
    name: str,
    color: str,
    dash: str,
    log: bool,
    words: str,
) -> None:
    values = [point.get(key) for point in points]
    figure.add_scatter(
        x=[point["step"] for point in points],
        # plotly would join the points on both sides of a 0 on a logarithmic axis
        y=[None if log and value is not None and value <= 0 else value for value in values],
        name=name,
        mode="lines" if len(points) > 1 else "lines+markers",
        line={"color": color, "dash": dash, "width": 2},
        hovertemplate=words,
    )


def _finish(figure: go.Figure, title: str, log: bool) -> None:
    scale = {"type": "log"} if log else {"rangemode": "tozero"}
    figure.update_layout(
        height=280,
        margin=MARGIN,
        legend=LEGEND,
        hovermode="x unified",
        xaxis={"title": "step", "tickformat": ",d"},
        yaxis={"title": title} | scale,
    )


def _mark_divergence(figure: go.Figure, step: int | None) -> go.Figure:
    if step is not None:
        figure.add_vline(
            x=step,
            line={"color": OKABE_ITO[5], "dash": "dashdot", "width": 2},
            annotation={"text": f"diverged in step {step:,}"},
        )
    return figure
