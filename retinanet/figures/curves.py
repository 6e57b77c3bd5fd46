"""A training run's losses and validations over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from retinanet.figures.palette import OKABE_ITO

SERIES: dict[str, tuple[str, str, str]] = {
    "classification": ("focal loss", OKABE_ITO[0], "solid"),
    "bbox_regression": ("box loss", OKABE_ITO[1], "dash"),
    "AP50": ("AP50 on the validation photos", OKABE_ITO[2], "dot"),
}
"""Key -> name, colour and dash: a line is told by both."""

CURVES: dict[str, tuple[str, ...]] = {
    "curve": ("step", "classification", "bbox_regression"),
    "validations": ("step", "AP50"),
}
"""The parts of a model card that hold points, and what each point must have."""


def points_of(card: Mapping[str, Any], name: str) -> list[Mapping[str, float]]:
    """The points of a card's part that can be drawn; a card is somebody's file, so it is checked.

    Args:
        card: of a model.
        name: one of `CURVES`.
    """
    points = card.get(name)
    if not isinstance(points, list):
        return []
    return [
        point
        for point in points
        if isinstance(point, Mapping)
        and all(isinstance(point.get(key), int | float) for key in CURVES[name])
    ]


def training_curves(
    curve: Sequence[Mapping[str, float]], validations: Sequence[Mapping[str, float]]
) -> go.Figure:
    """Losses on the left axis, AP50 on the right one.

    Args:
        curve: {"step", "classification", "bbox_regression"} of some steps, in order.
        validations: {"step", "AP50", ...} of some steps, in order.
    """
    figure = go.Figure()
    for key, (name, color, dash) in SERIES.items():
        points = validations if key == "AP50" else curve
        figure.add_scatter(
            x=[point["step"] for point in points],
            y=[point[key] for point in points],
            name=name,
            yaxis="y2" if key == "AP50" else "y",
            mode="lines+markers" if key == "AP50" else "lines",
            line={"color": color, "dash": dash, "width": 2},
            hovertemplate="step %{x:,}: %{y:.3f}",
        )
    figure.update_layout(
        height=260,
        margin={"l": 0, "r": 0, "t": 8, "b": 36},
        legend={"orientation": "h", "y": 1.12},
        xaxis={"title": "step"},
        yaxis={"title": "loss of one step", "rangemode": "tozero"},
        yaxis2={"title": "AP50", "overlaying": "y", "side": "right", "rangemode": "tozero"},
        hovermode="x unified",
    )
    return figure
