"""How well each class is found."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from retinanet.card_reading import ClassRow
from retinanet.figures.palette import OKABE_ITO

ROW_PX = 22


def class_bars(rows: Sequence[ClassRow]) -> go.Figure:
    """AP50 of classes as bars, the first on top; beside each how many objects it rests on.

    Args:
        rows: one or more.
    """
    figure = go.Figure(
        go.Bar(
            x=[row.AP50 for row in rows],
            y=[html.escape(row.category) for row in rows],
            orientation="h",
            marker_color=OKABE_ITO[2],
            text=[f"{row.AP50:.2f} of {row.objects:,}" for row in rows],
            textposition="outside",
            cliponaxis=False,
            customdata=[(row.AP, row.objects) for row in rows],
            hovertemplate=(
                "%{y}<br>AP50 %{x:.3f}<br>AP %{customdata[0]:.3f}<br>"
                "%{customdata[1]:,} objects<extra></extra>"
            ),
        )
    )
    figure.update_layout(
        height=70 + ROW_PX * len(rows),
        margin={"l": 8, "r": 70, "t": 8, "b": 40},
        xaxis={"title": "AP50; of how many objects", "range": [0, 1]},
        yaxis={"type": "category", "autorange": "reversed", "automargin": True},
        bargap=0.3,
    )
    return figure
