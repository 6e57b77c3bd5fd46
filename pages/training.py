"""Training: freeze, train, compare, on shapes that are made here or a data set of yours."""

from __future__ import annotations

import streamlit as st

from pages._shared.setup import prepare

prepare()

from pages._shared import (  # noqa: E402 - after the page settings
    data_panel,
    plan,
    runs,
    sidebar,
    state,
    tasks,
    training_room,
    training_runs,
    view,
)

state.check_url()
view.follow_history()
sidebar.model_controls()
notices = st.container()  # filled at the end: reading the link below may leave sentences
st.title("Training")
st.markdown(
    "Choose what learns from what, see what it costs, and watch it. IoU bounds, alpha, gamma and "
    "frozen stages mean something here."
)
try:
    runs.get_queue()
except tasks.FAILURES as fault:  # its folder cannot be written
    st.error(state.plain(str(fault)))
    st.stop()
data = data_panel.choose("shapes")
if data is not None:
    training_room.checked(data)
    request = training_room.controls(data)
    if request is not None:
        training_room.cost(request, data)
        training_room.begin(request)
training_runs.show()
plan.write_link()
with notices:
    state.show_notices()
