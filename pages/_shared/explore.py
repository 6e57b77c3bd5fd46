"""The workbench and the panels below it."""

from __future__ import annotations

import streamlit as st

from pages._shared import answer, contact, demonstration, engine, panels, state, takehome, view
from pages._shared.answer import Scene
from pages._shared.answering import POLL_SECONDS, photo_for_canvas, what_can_answer
from pages._shared.canvas import (
    draw_canvas,
    follow_canvas,
    send_photo,
    send_table,
    send_workbench,
)
from pages._shared.canvas.kit import DOORS
from pages._shared.gallery import Picture
from pages._shared.setup import go_to
from pages._shared.stored import START, Result, first_example, result_from_trace
from retinanet.config import PostprocessConfig
from retinanet.detection import DetectionTrace, detect
from retinanet.engine import ModelSpec
from retinanet.figures.candidate_table import candidate_table
from retinanet.samples import SAMPLES


def show(spec: ModelSpec, picture: Picture) -> None:
    """The whole room below the gallery."""
    send_workbench()
    send_photo(picture.image.id, photo_for_canvas(picture.image.id, picture.image))
    # What is there only at times has a place that is always there: an element more or less above
    # the workbench would rebuild it under the person's hands.
    with st.container():
        spec, progress = what_can_answer(spec, picture)
    with st.container():
        if progress.state == "ready":
            send_table(candidate_table(engine.get_engine().outputs(picture.image, spec)))
    view.begin(spec, picture.image.id)
    st.session_state.pop("redraw", None)  # this very run redraws the canvas
    _workbench(spec, picture, progress)
    demonstration.beside_detections(spec, progress)
    _details(spec, picture, progress)
    if progress.state == "working" or _pin_is_working(picture):
        _look_again(spec, picture)
    contact.show(spec)


def _pin_is_working(picture: Picture) -> bool:
    pin = view.current().pin if view.current().mode == "compare" else None
    return pin is not None and engine.ask_outputs(pin.spec, picture.image).state == "working"


@st.fragment(run_every=POLL_SECONDS)
def _look_again(spec: ModelSpec, picture: Picture) -> None:
    """Wait without holding the page: once the work is done, draw everything anew."""
    working = engine.ask_outputs(spec, picture.image).state == "working"
    if not working and not _pin_is_working(picture):
        st.rerun()


@st.fragment
def _workbench(spec: ModelSpec, picture: Picture, progress: engine.Progress) -> None:
    if (page := st.session_state.pop("go_to", None)) is not None:
        go_to(page)
    now = view.current()
    trace, result = _answer(spec, picture, progress, now.knobs)
    scene = Scene(picture, spec, progress, result, trace)
    # For the panels: numbers only. A trace here would keep its outputs alive past the cache.
    st.session_state["shown"] = (answer.details_stamp(scene, now), result)
    st.session_state["answered"] = now.serial

    def command(name: str) -> None:
        if name == "pin":
            view.change(pin=view.Pin(spec, view.current().knobs))
        elif name in DOORS:
            st.session_state["go_to"] = DOORS[name][1]
        else:
            view.change(pin=None)

    draw_canvas(answer.pack_answer(scene, now), view.take_message, command)


@st.fragment
def _details(spec: ModelSpec, picture: Picture, progress: engine.Progress) -> None:
    """The tabs and the link. A fragment of its own: they come after the boxes are drawn."""
    # What a panel asked for, or a message that came with this fragment's own: Streamlit then reruns
    # this fragment alone, and the workbench would wait for ever.
    is_behind = st.session_state["answered"] != view.current().serial
    if st.session_state.pop("redraw", False) or is_behind:
        st.rerun()
    view.write_link()
    stamp, result = st.session_state["shown"]
    follow_canvas(stamp)
    if result is not None:
        _tabs(spec, picture, progress, result)


def _answer(
    spec: ModelSpec, picture: Picture, progress: engine.Progress, config: PostprocessConfig
) -> tuple[DetectionTrace | None, Result | None]:
    """The live trace and what is shown of it; the stored result while the model loads."""
    if progress.state == "ready":
        trace = detect(engine.get_engine().outputs(picture.image, spec), config)
        return trace, result_from_trace(trace)
    is_first = picture.key == SAMPLES[0].key and spec == ModelSpec("embedded", precision="fp32")
    if progress.state == "working" and is_first and config == START:
        return None, first_example()
    return None, None


def _tabs(
    spec: ModelSpec,
    picture: Picture,
    progress: engine.Progress,
    result: Result,
) -> None:
    """Only the open tab is worked out, so that a moved knob waits for nothing it does not show."""
    config = view.current().knobs

    def trace() -> DetectionTrace:
        return detect(engine.get_engine().outputs(picture.image, spec), config)

    tabs = st.tabs(state.TABS, key="tab", on_change="rerun", bind="query-params")
    contents = (
        lambda: panels.detections_table(result.table),
        lambda: panels.ledger_panel(result),
        lambda: takehome.downloads(
            spec, picture, result.table, trace if progress.state == "ready" else None
        ),
        lambda: takehome.reproduce(spec, picture, config),
    )
    for tab, content in zip(tabs, contents, strict=True):
        if tab.open:
            with tab:
                content()
