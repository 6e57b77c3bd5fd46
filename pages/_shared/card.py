"""The model card as a page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import streamlit as st

from pages._shared import card_measured, demonstration, engine, state
from retinanet.card_reading import ENTRY, measured
from retinanet.engine import ModelSpec
from retinanet.figures.curves import CURVES, points_of, training_curves

POLL_SECONDS = 0.5
LONG = 900
"""Characters beyond which a part of the card, such as a loss curve, is folded away."""


def show(spec: ModelSpec) -> None:
    """The card of the model the sidebar asks for."""
    st.title("About the model")
    progress = engine.ask_model(spec)
    if spec.weights == "embedded":
        st.markdown(demonstration.WORDS)
        with st.container(horizontal=True):
            demonstration.buttons()
    if progress.state == "failed":
        st.error(state.plain(progress.sentence))
        st.button("Try again", on_click=engine.try_again, args=(spec, ""))
        return
    if progress.state == "working":
        st.info(f"{progress.sentence} ({progress.seconds:.0f} s)")
        _look_again(spec)
        return
    _card(spec)


@st.fragment(run_every=POLL_SECONDS)
def _look_again(spec: ModelSpec) -> None:
    if engine.ask_model(spec).state != "working":
        st.rerun()


def _card(spec: ModelSpec) -> None:
    model = engine.get_engine().model(spec)
    left, right = st.columns([3, 2], gap="large", wrap=True)
    with left:
        st.markdown(f"#### {state.plain(model.name)}")
        if not model.card:
            st.markdown("This checkpoint brings no card: nothing is known of its data or recipe.")
        if (found := measured(model.card)) is not None:
            card_measured.show(found)
        curve, validations = (points_of(model.card, name) for name in CURVES)
        if curve or validations:
            st.markdown("**Training**")
            figure = training_curves(curve, validations)
            st.plotly_chart(figure, key="curves", config={"displayModeBar": False})
        for name, value in model.card.items():
            if name not in CURVES and (name != ENTRY or found is None):
                _entry(name, value)
    with right:
        st.markdown("#### Network")
        named = [category for category in model.categories if category]
        facts = {**model.config.to_dict(), "named categories": len(named)}
        st.html(_table(facts))
        if named:
            with st.expander(f"The {len(named)} categories"):
                st.markdown(state.plain(", ".join(named)))


def _entry(name: str, value: Any) -> None:
    """One part of the card: nested data as a table, a list as bullets, the rest as text."""
    title = state.plain(name.replace("_", " ").capitalize())
    if isinstance(value, Mapping | list) and len(str(value)) > LONG:
        with st.expander(title):
            st.json(value)
        return
    st.markdown(f"**{title}**")
    if isinstance(value, Mapping):
        st.html(_table(value))
    elif isinstance(value, list):
        st.markdown("\n".join(f"- {state.plain(str(item))}" for item in value))
    else:
        st.markdown(state.plain(str(value)))


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(_cell(value))}</td></tr>"
        for name, value in values.items()
    )
    return f'<table class="rn-numbers">{rows}</table>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_cell(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)
