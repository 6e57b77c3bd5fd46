"""The panels around the picture: table, ledger, take home, reproduce."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import streamlit as st

from pages._shared import state
from pages._shared.stored import START, Result
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.figures.boxes import BoxTable
from retinanet.figures.ledger import funnel, ledger_rows, ledger_sentence
from retinanet.types import LEVELS

_PIXELS = st.column_config.NumberColumn(format="%.1f", width="small")


def detections_table(table: BoxTable) -> None:
    """The kept boxes as rows; a click on a row selects its box."""
    if not len(table):
        st.caption("No box passes at these settings. Lower score_thresh to see weaker ones.")
        return
    x1, y1, x2, y2 = table.boxes.T
    frame = pd.DataFrame(
        {
            "category": [table.names[label] for label in table.labels.tolist()],
            "score": table.scores,
            "level": np.array(LEVELS)[table.levels],
            "x1, px": x1,
            "y1, px": y1,
            "width, px": x2 - x1,
            "height, px": y2 - y1,
        },
        index=pd.RangeIndex(1, len(table) + 1, name="#"),
    )
    row = table.row_of(state.picked())
    shown = [] if row is None else [row]
    # The row follows the canvas: the selection is set before the table is drawn.
    st.session_state["table"] = {"selection": {"rows": shown}}

    def row_chosen() -> None:
        rows = st.session_state["table"]["selection"]["rows"]
        if rows == shown:  # Streamlit also calls this for the selection that was set above
            return
        state.pick(int(table.pairs[rows[0]]) if rows else -1)
        state.redraw_canvas()

    st.dataframe(
        frame,
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


def knobs() -> PostprocessConfig:
    """The four post-processing controls; none of them runs the network."""
    now = state.BADGES["now"]
    score_thresh = st.slider(
        f"score_thresh {now}",
        0.0,
        1.0,
        START.score_thresh,
        0.01,
        key="score_thresh",
        bind="query-params",
        help="An (anchor, class) pair goes on when its score is above this. torchvision: 0.05.",
    )
    nms_thresh = st.slider(
        f"nms_thresh {now}",
        0.0,
        1.0,
        START.nms_thresh,
        0.01,
        key="nms_thresh",
        bind="query-params",
        help="A box goes when a better one of its class overlaps it by more than this IoU "
        "(intersection over union).",
    )
    topk_candidates = st.select_slider(
        f"topk_candidates {now}",
        state.TOPK_CHOICES,
        START.topk_candidates,
        key="topk_candidates",
        bind="query-params",
        help="The best pairs that each pyramid level may send to NMS.",
    )
    detections_per_img = st.slider(
        f"detections_per_img {now}",
        1,
        state.MAX_DETECTIONS,
        START.detections_per_img,
        key="detections_per_img",
        bind="query-params",
        help="The best boxes kept after NMS. COCO's AP counts 100; torchvision: 300.",
    )
    return PostprocessConfig(score_thresh, nms_thresh, topk_candidates, detections_per_img)


def current_knobs() -> PostprocessConfig:
    """The knobs as they stand; where they start before they have been drawn."""
    start = START.to_dict()
    return PostprocessConfig(**{name: st.session_state.get(name, start[name]) for name in start})
