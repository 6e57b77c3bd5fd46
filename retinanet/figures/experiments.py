"""Several training runs side by side: their losses, their AP, and bars of what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import cycle, islice
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from retinanet.figures.palette import OKABE_ITO
from retinanet.figures.training import LEGEND, MARGIN, MEGABYTE, Point

DASHES: tuple[str, ...] = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKS: tuple[str, ...] = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")

Text = Callable[[Mapping[str, Any], float], str]


def runs_loss_rows(curves: Mapping[str, Sequence[Point]]) -> list[dict[str, Any]]:
    """{"run", "step", "classification", "bbox_regression"} of each point of each run."""
    return [
        {
            "run": name,
            "step": point["step"],
            "classification": point.get("classification"),
            "bbox_regression": point.get("bbox_regression"),
        }
        for name, curve in curves.items()
        for point in curve
    ]


def runs_loss_figure(
    curves: Mapping[str, Sequence[Point]],
    *,
    key: str = "classification",
    log: bool = True,
    diverged: Mapping[str, int] | None = None,
) -> go.Figure:
    """One loss of several runs over their steps.

    Args:
        curves: {run: points with "step" and the loss}.
        key: "classification" or "bbox_regression".
        log: a logarithmic axis, on which a loss of 0 is not drawn.
        diverged: {run: the step in which its loss stopped being a finite number}; the legend says
            so.
    """
    diverged = diverged or {}
    names = {run: _diverged(run, diverged.get(run)) for run in curves}
    figure = _runs_figure(curves, key, names, log, "step %{x:,}: %{y:.4g}")
    return figure.update_yaxes(title=f"{key} loss of one step")


def runs_precision_rows(validations: Mapping[str, Sequence[Point]]) -> list[dict[str, Any]]:
    """{"run", "step", "AP", "AP50"} of each validation of each run."""
    return [
        {"run": name, "step": point["step"], "AP": point.get("AP"), "AP50": point.get("AP50")}
        for name, points in validations.items()
        for point in points
    ]


def runs_precision_figure(
    validations: Mapping[str, Sequence[Point]], *, key: str = "AP"
) -> go.Figure:
    """AP of several runs over their steps.

    Args:
        validations: {run: points with "step" and the metric, 0..1}.
        key: "AP" or "AP50".
    """
    names = {run: run for run in validations}
    figure = _runs_figure(validations, key, names, False, "step %{x:,}: %{y:.3f}")
    return figure.update_yaxes(title=f"{key} on the validation photos")


def comparison_rows(rows: Sequence[Point]) -> list[dict[str, Any]]:
    """The rows of `retinanet.runs.compare` as they are drawn and saved: the bars' columns."""
    columns = ("label", "name", "differs", "state", "seconds", "seconds_ratio", "memory_bytes")
    columns += ("memory_ratio", "AP", "AP50", "diverged_in")
    return [{name: row[name] for name in columns} for row in rows]


def comparison_figure(rows: Sequence[Point]) -> go.Figure:
    """Bars of what each run costs and reaches, with the ratios to the first run.

    Args:
        rows: of `retinanet.runs.compare`, of one experiment, or of `comparison_rows`.
    """
    panels: tuple[tuple[str, str, float, str, Text], ...] = (
        ("seconds", "median step, ms", 1000, OKABE_ITO[4], _ratio_text("seconds_ratio", "ms")),
        (
            "memory_bytes",
            "memory, MB",
            1 / MEGABYTE,
            OKABE_ITO[1],
            _ratio_text("memory_ratio", "MB"),
        ),
        ("AP", "AP", 1, OKABE_ITO[2], lambda row, value: f"{value:.3f}"),
    )
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.04)
    names = [row["label"] for row in rows]
    for column, (key, title, factor, color, text) in enumerate(panels, start=1):
        values = [None if row[key] is None else factor * row[key] for row in rows]
        figure.add_bar(
            y=names,
            x=[value or 0 for value in values],
            orientation="h",
            marker={"color": color},
            text=[_label(row, value, text) for row, value in zip(rows, values, strict=True)],
            # the words of a bar without length are shown outside it only
            textposition=["outside" if value is None else "auto" for value in values],
            hovertemplate="%{y}: %{text}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
        figure.update_xaxes(title=title, rangemode="tozero", tickformat=",~g", row=1, col=column)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure.update_layout(height=120 + 36 * len(rows), margin=MARGIN)


def experiment_page(
    title: str, sentences: Sequence[str], rows: Sequence[Point], figures: Sequence[go.Figure]
) -> str:
    """An HTML file that needs no network: sentences, a table and figures.

    Args:
        title: of the page.
        sentences: what the runs show.
        rows: of the table, with the same keys each.
        figures: below it, in order.
    """
    cells = [[_cell(value) for value in row.values()] for row in rows]
    head = "".join(f"<th>{escape(name)}</th>" for name in (rows[0] if rows else ()))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in cells
    )
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    drawn = "".join(
        figure.to_html(full_html=False, include_plotlyjs=number == 0)
        for number, figure in enumerate(figures)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        "<style>body{font-family:sans-serif}td,th{padding:.1em .6em;text-align:left}</style>"
        f"<h1>{escape(title)}</h1>{words}<table><tr>{head}</tr>{body}</table>{drawn}</html>"
    )


def _runs_figure(
    points: Mapping[str, Sequence[Point]],
    key: str,
    names: Mapping[str, str],
    log: bool,
    words: str,
) -> go.Figure:
    figure = go.Figure()
    styles = islice(zip(cycle(OKABE_ITO), cycle(DASHES), cycle(MARKS), strict=False), len(points))
    for (run, own), (color, dash, mark) in zip(points.items(), styles, strict=True):
        values = [point.get(key) for point in own]
        figure.add_scatter(
            x=[point["step"] for point in own],
            y=[None if log and value is not None and value <= 0 else value for value in values],
            name=names[run],
            mode="lines+markers" if len(own) <= 20 else "lines",
            line={"color": color, "dash": dash, "width": 2},
            marker={"symbol": mark, "size": 7},
            hovertemplate=words,
            showlegend=True,
        )
    return figure.update_layout(
        height=340,
        margin=MARGIN,
        legend=LEGEND,
        hovermode="x unified",
        xaxis={"title": "step", "tickformat": ",d"},
        yaxis={"type": "log"} if log else {"rangemode": "tozero"},
    )


def _diverged(run: str, step: int | None) -> str:
    return run if step is None else f"{run}: diverged in step {step:,}"


def _ratio_text(key: str, unit: str) -> Text:
    def text(row: Mapping[str, Any], value: float) -> str:
        ratio = row[key]
        return f"{value:,.0f} {unit}" + ("" if ratio is None else f", {ratio:.2f}×")

    return text


def _label(row: Mapping[str, Any], value: float | None, text: Text) -> str:
    if value is not None:
        return text(row, value)
    step = row["diverged_in"]
    return "not measured" if step is None else f"diverged in step {step:,}"


def _cell(value: Any) -> str:
    """A value of the table, without false digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
