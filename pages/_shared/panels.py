"""The panels below the workbench: the table of detections and the ledger."""

from __future__ import annotations

import inspect

import pandas as pd
import pyarrow as pa
import streamlit as st

from pages._shared import state, view
from pages._shared.stored import Result
from retinanet.box_table import BoxTable
from retinanet.detection import detect
from retinanet.figures.ledger import funnel, ledger_rows, ledger_sentence
from retinanet.types import LEVELS

_PIXELS = st.column_config.NumberColumn(format="%.1f", width="small")


def detections_table(table: BoxTable) -> None:
    """The kept boxes as rows; a click on a row selects its box."""
    if not len(table):
        st.caption("No box passes at these settings. Lower score_thresh to see weaker ones.")
        return
    x1, y1, x2, y2 = table.boxes.T
    # An Arrow table is what travels to the browser; a data frame would be turned into one first.
    rows_shown = pa.table(
        {
            "category": [table.names[label] for label in table.labels.tolist()],
            "score": table.scores,
            "level": [LEVELS[level] for level in table.levels.tolist()],
            "x1, px": x1,
            "y1, px": y1,
            "width, px": x2 - x1,
            "height, px": y2 - y1,
        }
    )
    row = table.row_of(view.current().box)
    shown = [] if row is None else [row]
    # The row follows the canvas: the selection is set before the table is drawn.
    st.session_state["table"] = {"selection": {"rows": shown}}

    def row_chosen() -> None:
        rows = st.session_state["table"]["selection"]["rows"]
        if rows == shown:  # Streamlit also calls this for the selection that was set above
            return
        view.pick(int(table.pairs[rows[0]]) if rows else -1)
        state.redraw_canvas()

    st.dataframe(
        rows_shown,
        height=min(320, 38 + 35 * len(table)),
        key="table",
        on_select=row_chosen,
        selection_mode="single-row",
        alt=f"{len(table)} detections, best first",
        column_config={
            "score": st.column_config.NumberColumn(format="%.3f", width="small"),
            "level": st.column_config.TextColumn(width="small"),
            **dict.fromkeys(("x1, px", "y1, px", "width, px", "height, px"), _PIXELS),
        },
    )


def ledger_panel(result: Result) -> None:
    """What became of every (anchor, class) pair, three depths: a sentence, numbers, the source."""
    st.markdown(ledger_sentence(result.counts, result.num_anchors, result.num_classes))
    frame = pd.DataFrame(ledger_rows(result.counts_per_level)).set_index("fate")
    numbers = st.column_config.NumberColumn(format="localized")
    left, right = st.columns([3, 2], gap="medium", wrap=True)
    left.dataframe(frame, column_config=dict.fromkeys(frame.columns, numbers), key="ledger")
    right.plotly_chart(funnel(result.counts), key="funnel", config={"displayModeBar": False})
    with st.expander("The function that counts them"):
        st.code(inspect.getsource(detect), language="python", wrap_lines=True)
