"""The picture with its boxes, the knobs beside it, the panels below."""

from __future__ import annotations

import streamlit as st

from pages._shared import contact, engine, life, panels, state, takehome
from pages._shared.canvas import draw_canvas, follow_canvas, send_photo
from pages._shared.gallery import Picture
from pages._shared.stored import START, Result, first_example, result_from_trace
from retinanet.config import PostprocessConfig
from retinanet.detection import DetectionTrace, detect
from retinanet.engine import ModelSpec
from retinanet.figures.boxes import BoxTable, pack_boxes, stamp_of
from retinanet.figures.pictures import display_jpeg
from retinanet.samples import SAMPLES
from retinanet.types import Image

POLL_SECONDS = 0.4
"""How often a page looks whether the model or the forward is done."""


@st.cache_data(max_entries=24, show_spinner=False)
def photo_for_canvas(image_id: str, _image: Image) -> bytes:
    """The photo as the canvas draws it."""
    return display_jpeg(_image)


def show(spec: ModelSpec, picture: Picture) -> None:
    """The whole room below the gallery."""
    send_photo(picture.image.id, photo_for_canvas(picture.image.id, picture.image))
    spec, progress = _what_can_answer(spec, picture)
    st.session_state.pop("redraw", None)  # this very run redraws the canvas
    _room(spec, picture, progress)
    _details(spec, picture, progress)
    if progress.state == "working":
        _look_again(spec, picture)
    contact.show(spec)


def _what_can_answer(spec: ModelSpec, picture: Picture) -> tuple[ModelSpec, engine.Progress]:
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


@st.fragment(run_every=POLL_SECONDS)
def _look_again(spec: ModelSpec, picture: Picture) -> None:
    """Wait without holding the page: once the work is done, draw everything anew."""
    if engine.ask_outputs(spec, picture.image).state != "working":
        st.rerun()


@st.fragment
def _room(spec: ModelSpec, picture: Picture, progress: engine.Progress) -> None:
    canvas, side = st.columns([7, 3], gap="medium", wrap=True)
    with side:
        config = panels.knobs()
        color_by = st.segmented_control(
            f"Colour boxes by {state.BADGES['now']}",
            state.COLOR_CHOICES,
            default="class",
            required=True,
            key="color",
            bind="query-params",
        )
    trace, result = _answer(spec, picture, progress, config)
    with canvas:
        _draw(picture, spec, progress, result, color_by)
    with side, st.container(key="life"):
        life.summary(result, trace, state.picked())


@st.fragment
def _details(spec: ModelSpec, picture: Picture, progress: engine.Progress) -> None:
    """The tabs. A fragment of their own: the browser lays them out after it has drawn the boxes."""
    if st.session_state.pop("redraw", False):
        st.rerun()
    follow_canvas(st.session_state["canvas_stamp"])
    config = panels.current_knobs()
    trace, result = _answer(spec, picture, progress, config)
    if result is not None:
        _tabs(spec, picture, config, trace, result)


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


def _draw(
    picture: Picture,
    spec: ModelSpec,
    progress: engine.Progress,
    result: Result | None,
    color_by: str,
) -> None:
    status = ""
    if progress.state == "working":
        lead = "Stored result, model loading. " if result is not None else ""
        status = f"{lead}{progress.sentence} ({progress.seconds:.0f} s)"
    packed = pack_boxes(
        result.table if result is not None else BoxTable.empty(),
        image_id=picture.image.id,
        size=picture.image.size,
        title=picture.title,
        color_by=color_by,
        selected=state.picked(),
        status=status,
        watermark="RANDOM WEIGHTS" if spec.weights == "random" else "",
    )
    st.session_state["canvas_stamp"] = stamp_of(packed)
    draw_canvas(packed, state.pick)


def _tabs(
    spec: ModelSpec,
    picture: Picture,
    config: PostprocessConfig,
    trace: DetectionTrace | None,
    result: Result,
) -> None:
    """Only the open tab is worked out, so that a moved knob waits for nothing it does not show."""
    tabs = st.tabs(state.TABS, key="tab", on_change="rerun", bind="query-params")
    contents = (
        lambda: panels.detections_table(result.table),
        lambda: life.details_panel(trace, state.picked()),
        lambda: panels.ledger_panel(result),
        lambda: takehome.downloads(picture, result.table),
        lambda: takehome.reproduce(spec, picture, config),
    )
    for tab, content in zip(tabs, contents, strict=True):
        if tab.open:
            with tab:
                content()
