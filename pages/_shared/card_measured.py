"""The card's measured part as a page: how good, on which classes, at which thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from pages._shared import state
from retinanet.card_reading import (
    ClassRow,
    MetricRow,
    class_rows,
    data_sentence,
    metric_rows,
    size_and_speed_sentences,
    threshold_sentences,
)
from retinanet.figures.classes import class_bars

BEST = 20
BEST_ONE = "**The class that works best**"


def show(found: Mapping[str, Any]) -> None:
    """The part `card_reading.measured` gave."""
    st.markdown("#### How good it is")
    st.markdown(state.plain(data_sentence(found)))
    _metrics(found)
    _classes(class_rows(found))
    for sentence in (*threshold_sentences(found), *size_and_speed_sentences(found)):
        st.markdown(state.plain(sentence))


def _metrics(found: Mapping[str, Any]) -> None:
    st.dataframe(
        [
            {"metric": row.metric, "value": row.value, "interval": _interval(row)}
            for row in metric_rows(found)
        ],
        hide_index=True,
        key="card_metrics",
        column_config={"value": st.column_config.NumberColumn(format="%.3f")},
    )
    if isinstance(said := found.get("interval"), str):
        st.caption(
            f"Interval: {state.plain(said)}. A model that was "
            "chosen on these photos is flattered by them."
        )


def _interval(row: MetricRow) -> str:
    return "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"


def _classes(rows: list[ClassRow]) -> None:
    best = [row for row in rows if row.found][:BEST]
    if best:
        many = len(best) > 1
        st.markdown(f"**The {len(best)} classes that work best**" if many else BEST_ONE)
        st.plotly_chart(class_bars(best), key="card_classes", config={"displayModeBar": False})
    never = [row.category for row in rows if not row.found]
    if never:
        st.markdown(f"**Never found on these photos:** {state.plain(', '.join(never))}.")
