"""The start page: a picture, its boxes, the knobs that choose them."""

from __future__ import annotations

import streamlit as st

from pages._shared.setup import prepare

prepare()

from pages._shared import explore, gallery, sidebar, state  # noqa: E402 - after the page settings

state.check_url()
spec = sidebar.model_controls()
picture = gallery.open_picture()
state.show_notices()
strip, uploader = st.columns([5, 3], gap="medium", vertical_alignment="top")
with strip:
    gallery.sample_strip(picture.key)
    gallery.camera_control()
with uploader:
    gallery.upload_control()
explore.show(spec, picture)
