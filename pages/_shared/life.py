"""The life of the selected box: a sentence beside the picture, numbers and formula in a tab."""

from __future__ import annotations

import html
import inspect
from collections.abc import Mapping

import streamlit as st

from pages._shared import state
from pages._shared.stored import Result
from retinanet import candidates
from retinanet.detection import DetectionTrace
from retinanet.figures.boxes import find_row
from retinanet.figures.ledger import FATE_WORDS
from retinanet.figures.life import life_formula, life_numbers, life_sentence
from retinanet.figures.palette import FATE_COLORS

HOW_TO_PICK = "Click a box, a row of the table, or step with N and P on the picture."
GONE = (
    "The selected box is below score_thresh at these settings, or so far down its level's ranking "
    "that it is no longer listed."
)


def summary(result: Result | None, trace: DetectionTrace | None, pair: int) -> None:
    """The ledger in five aligned rows, then why the selected box is here, in a sentence or two.

    One element: whatever stands beside the knobs is laid out again with each of their moves.
    """
    ledger = "" if result is None else _ledger_table(result.counts)
    sentence = html.escape(_sentence(trace, pair))
    st.html(f'{ledger}<p class="rn-why"><b>Why this box?</b> {sentence}</p>')


def _ledger_table(counts: Mapping[str, int]) -> str:
    rows = "".join(
        f'<tr><td><span style="background:{FATE_COLORS[fate]}"></span>{words}</td>'
        f"<td>{counts[fate]:,}</td></tr>"
        for fate, words in FATE_WORDS.items()
    )
    total = f"<tr><td>all (anchor, class) pairs</td><td>{sum(counts.values()):,}</td></tr>"
    return f'<table class="rn-ledger">{rows}{total}</table>'


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
    st.button("Let go of the box", key="let_go", on_click=_let_go)
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


def _let_go() -> None:
    state.pick(-1)
    state.redraw_canvas()
