"""Which model answers, and the photo that a canvas draws: what every page with a picture asks."""

from __future__ import annotations

import streamlit as st

from pages._shared import engine, state
from pages._shared.gallery import Picture
from retinanet.engine import ModelSpec
from retinanet.figures.pictures import display_jpeg
from retinanet.types import Image

POLL_SECONDS = 0.4
"""How often a page looks whether the model or the forward is done."""


@st.cache_data(max_entries=24, show_spinner=False)
def photo_for_canvas(image_id: str, _image: Image) -> bytes:
    """The photo as the canvas draws it."""
    return display_jpeg(_image)


def what_can_answer(spec: ModelSpec, picture: Picture) -> tuple[ModelSpec, engine.Progress]:
    """The model asked for or, where it cannot be had, the embedded one, with a sentence."""
    progress = engine.ask_outputs(spec, picture.image)
    if progress.state != "failed":
        return spec, progress
    with st.container(key="fault"):
        st.error(state.plain(progress.sentence))
        st.button("Try again", on_click=engine.try_again, args=(spec, picture.image.id))
    fallback = ModelSpec("embedded", precision=spec.precision)
    if spec == fallback:
        return spec, progress
    st.caption("The embedded model answers meanwhile.")
    return fallback, engine.ask_outputs(fallback, picture.image)
