"""A figure that is read: beside it what it says, below it the ways to take it along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages._shared import state
from retinanet.export import to_csv

FORMATS: tuple[str, ...] = ("PNG", "SVG")


def figure_panel(
    key: str,
    figure: go.Figure,
    rows: Sequence[Mapping[str, Any]],
    sentence: str,
    teaching: str,
) -> None:
    """A figure with its words and its files.

    Args:
        key: names it on the page and in file names.
        figure: that is shown.
        rows: its data, for the CSV file.
        sentence: what it says of this picture, plain text.
        teaching: what is seen, why it matters, what to try; Markdown of the page's own.
    """
    left, right = st.columns([5, 3], gap="large", wrap=True)
    with left:
        _chart(key, figure)
        _files(key, figure, rows)
    with right:
        st.markdown(f"**{state.plain(sentence)}**")
        st.markdown(teaching)


def _chart(key: str, figure: go.Figure) -> None:
    kind = st.session_state.get(f"{key}_format") or FORMATS[0]
    st.plotly_chart(
        figure,
        key=f"{key}_chart",
        config={
            "displaylogo": False,
            "toImageButtonOptions": {"format": kind.lower(), "filename": key, "scale": 2},
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        },
    )


def _files(key: str, figure: go.Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        table_file(key, rows)
        st.download_button(
            "Figure (HTML, one file)",
            lambda: figure.to_html(include_plotlyjs=True, full_html=True),
            f"{key}.html",
            "text/html",
            key=f"{key}_html",
            on_click="ignore",
        )
        st.segmented_control(
            "The camera saves",
            FORMATS,
            default=FORMATS[0],
            key=f"{key}_format",
            label_visibility="collapsed",
        )
        st.caption("is what the camera at the figure's upper right corner saves.")


def table(key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table, numbers aligned and without false digits, and a button that saves them."""
    shown = pd.DataFrame([_flat(row) for row in rows])
    columns = {}
    for name in shown.columns:
        title = str(name).replace("_", " ")
        if pd.api.types.is_float_dtype(shown[name]):
            small = shown[name].abs().max() <= 2
            columns[name] = st.column_config.NumberColumn(title, format="%.3f" if small else "%.1f")
        elif pd.api.types.is_integer_dtype(shown[name]):
            columns[name] = st.column_config.NumberColumn(title, format="localized")
        else:
            columns[name] = st.column_config.TextColumn(title)
    st.dataframe(shown, hide_index=True, column_config=columns)
    table_file(key, rows)


def table_file(key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A button that saves rows as CSV."""
    st.download_button(
        "Data (CSV)",
        lambda: to_csv([_flat(row) for row in rows], list(rows[0])),
        f"{key}.csv",
        "text/csv",
        key=f"{key}_csv",
        on_click="ignore",
        disabled=not rows,
    )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A list in a cell becomes its values with spaces between them."""
    return {
        name: " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in row.items()
    }


def formula(title: str, tex: str, words: str = "") -> None:
    """A formula of the paper, folded away under its title."""
    with st.expander(title):
        st.latex(tex)
        if words:
            st.caption(words)


def source(title: str, code: str) -> None:
    """A function's own source, folded away."""
    with st.expander(title):
        st.code(code, language="python", wrap_lines=True)
