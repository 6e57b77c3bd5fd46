"""The start page: a picture, its boxes, the knobs that choose them."""

from __future__ import annotations

import streamlit as st

from pages._shared.setup import prepare

prepare()

from pages._shared import (  # noqa: E402 - after the page settings
    explore,
    gallery,
    sidebar,
    state,
    view,
)

state.check_url()
view.follow_history()
view.write_link()
spec = sidebar.model_controls()
picture = gallery.open_picture()
with st.container():  # always there: an element more or less here would rebuild the workbench
    state.show_notices()
gallery.controls(picture.key)
explore.show(spec, picture)
