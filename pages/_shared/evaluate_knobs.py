"""The setting that is evaluated: the session's knobs, and what they give, as numbers."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from pages._shared import evaluate_state, state, view
from pages._shared import evaluate_work as work
from pages._shared.evaluate_state import KNOBS
from pages._shared.evaluate_work import Measured, Setting, Subject
from retinanet.config import PostprocessConfig
from retinanet.sweeps import SCORE_FLOOR, TOPK, CandidateStore

NOW = state.BADGES["now"]
AP_ALONE = (
    "AP alone rewards low thresholds: a false detection below all true ones costs it nothing. "
    "Precision, recall and F1 count what a person meets at this very setting, at IoU 0.5."
)
HELP: dict[str, str] = {
    "score_thresh": "A pair of anchor and class goes on when its score is above this. Candidates "
    f"are kept from {SCORE_FLOOR:g} on.",
    "nms_thresh": "A box is suppressed by a better one of its class at an IoU above this.",
    "topk_candidates": f"The best pairs that each level may send to NMS; {TOPK:,} are kept.",
    "detections_per_img": "The best boxes kept after NMS; COCO's AP counts 100 of a class.",
}
RANGES: dict[str, tuple[Any, Any, Any, str]] = {
    "score_thresh": (SCORE_FLOOR, 1.0, 0.05, "%.3g"),
    "nms_thresh": (0.0, 1.0, 0.05, "%.3g"),
    "topk_candidates": (1, TOPK, 100, "%d"),
    "detections_per_img": (1, view.MAX_DETECTIONS, 10, "%d"),
}
"""Lowest, highest, step and format of each knob."""


def setting_of(subject: Subject, store: CandidateStore) -> Setting:
    """The session's knobs on these photos, as near as the candidates on disk can answer."""
    knobs = evaluate_state.answerable(view.current().knobs)
    return Setting(subject, store, store.stored_part(subject.dataset), knobs)


def take_over(knobs: PostprocessConfig) -> None:
    """Make a setting the session's; every page follows."""
    view.change(knobs=knobs)


def show(setting: Setting) -> Measured | None:
    """The knobs, and beside them what they give; None while that is worked out."""
    left, right = st.columns([3, 5], gap="large", wrap=True)
    with left:
        _knobs(setting)
    with right:
        told = work.measured(setting)
        if told is not None:
            st.html(strip(headline(told)))
            st.caption(f"{_found(told)} {AP_ALONE}")
    return told


def _knobs(setting: Setting) -> None:
    st.markdown(f"**Setting** {NOW}")
    # Two rows of two, so that a narrow window has them in this order too.
    columns = [*st.columns(2, gap="small", wrap=True), *st.columns(2, gap="small", wrap=True)]
    for column, name in zip(columns, KNOBS, strict=True):
        low, high, step, form = RANGES[name]
        key = f"knob_{name}"
        st.session_state[key] = getattr(setting.knobs, name)
        column.number_input(
            name,
            low,
            high,
            step=step,
            format=form,
            key=key,
            on_change=_turned,
            args=(name,),
            help=HELP[name],
        )
    asked = view.current().knobs
    if asked != setting.knobs:
        st.caption(
            f"Candidates are on disk from score {SCORE_FLOOR:g} on and {TOPK:,} a level; the "
            "session's setting asks for more, so the nearest one is evaluated."
        )
    if asked.class_score_thresh:
        with st.container(horizontal=True, vertical_alignment="center"):
            count = len(asked.class_score_thresh)
            st.caption(f"{count:,} classes have a threshold of their own.")
            st.button("Let them go", key="drop_floors", on_click=_drop_floors)


def _turned(name: str) -> None:
    take_over(replace(view.current().knobs, **{name: st.session_state[f"knob_{name}"]}))


def _drop_floors() -> None:
    take_over(replace(view.current().knobs, class_score_thresh=()))


# ------------------------------------------------------------------ the numbers


def headline(told: Measured) -> dict[str, str]:
    """What a setting gives, as a person reads it."""
    row = told.row
    shares = {name.replace("_", " "): share(value) for name, value in row.metrics.items()}
    counts = row.counts
    times = {
        "post-processing": milliseconds(row.postprocess_seconds),
        "network": milliseconds(told.swept.network_seconds),
    }
    return {
        **shares,
        "precision": share(counts.precision),
        "recall": share(counts.recall),
        "F1": share(counts.f1),
        "boxes a photo": f"{row.detections_per_image:.1f}",
        **times,
    }


def milliseconds(seconds: float) -> str:
    """A time without false digits."""
    return f"{1000 * seconds:,.1f} ms" if seconds < 0.01 else f"{1000 * seconds:,.0f} ms"


def share(value: float) -> str:
    """A share in [0, 1] to three digits; a dash where nothing can be measured."""
    return "–" if value != value else f"{value:.3f}"


def _found(told: Measured) -> str:
    counts = told.row.counts
    objects = counts.tp + counts.fn
    return (
        f"{counts.tp:,} of {objects:,} objects found, {counts.fp:,} false detections on "
        f"{told.swept.photos:,} photos."
    )


def strip(values: Mapping[str, str]) -> str:
    """Numbers beside each other, as HTML: each with its name above it."""
    cells = "".join(
        f"<div role='listitem' style='white-space:nowrap'><div style='font-size:.8rem;opacity:.75'>"
        f"{html.escape(name)}</div><div style='font-size:1.2rem;font-variant-numeric:tabular-nums'>"
        f"{html.escape(value)}</div></div>"
        for name, value in values.items()
    )
    return (
        "<div role='list' aria-label='what this setting gives' "
        f"style='display:flex;flex-wrap:wrap;gap:.5rem 1.5rem'>{cells}</div>"
    )
