"""RetinaNet Explorer: `streamlit run app.py`."""

import streamlit as st

from pages._shared.setup import PAGES, prepare

prepare()
st.navigation(
    [st.Page(page.path, title=page.title, icon=page.icon, default=page.default) for page in PAGES],
    position="top",
).run()
