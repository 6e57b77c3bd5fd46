"""The life of the selected box: a sentence beside the picture, numbers and formula in a tab."""

from __future__ import annotations

import html
import inspect

import streamlit as st

from pages._shared import state
from retinanet import candidates
from retinanet.detection import DetectionTrace
from retinanet.figures.boxes import find_row
from retinanet.figures.life import life_formula, life_numbers, life_sentence

HOW_TO_PICK = "Click a box, a row of the table, or step with N and P on the picture."
GONE = (
    "The selected box is below score_thresh at these settings, or so far down its level's ranking "
    "that it is no longer listed."
)


def sentence_panel(trace: DetectionTrace | None, pair: int) -> None:
    """What the selected box is and why it is here, in a sentence or two."""
    with st.container(border=True, key="life"):
        st.markdown(f"**Why this box?** {state.plain(_sentence(trace, pair))}")
        if pair >= 0:
            st.button("Let go of the box", key="let_go", on_click=state.pick, args=(-1,))


def _sentence(trace: DetectionTrace | None, pair: int) -> str:
    if pair < 0:
        return HOW_TO_PICK
    if trace is None:
        return "The answer comes with the model."
    row = find_row(trace, pair)
    return GONE if row is None else life_sentence(trace.explain(row), trace.config)


def details_panel(trace: DetectionTrace | None, pair: int) -> None:
    """The numbers of the selected box, the formula with them in it, and the source."""
    row = None if trace is None or pair < 0 else find_row(trace, pair)
    if row is None:
        st.caption(_sentence(trace, pair))
        return
    life = trace.explain(row)
    numbers, formula = st.columns(2, gap="medium", wrap=True)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
        for name, text in life_numbers(life)
    )
    numbers.html(f'<table class="rn-numbers">{rows}</table>')
    with formula:
        st.code(life_formula(life, trace.config), language=None, wrap_lines=True)
        with st.expander("The function that decodes the box"):
            st.code(inspect.getsource(candidates.decode), language="python", wrap_lines=True)
