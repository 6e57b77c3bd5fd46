"""The frame of the pages that look inside: picture, model, bench, tabs. A page adds its own part.

As on Detect, the bench and the tabs are two fragments: what a hand changed is drawn first, what is
read comes after it has been painted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import streamlit as st

from pages._shared import engine, gallery, lens, sidebar, state, truth, view
from pages._shared.answering import POLL_SECONDS, photo_for_canvas, what_can_answer
from pages._shared.canvas import draw_bench, follow_canvas, send_bench, send_photo
from pages._shared.gallery import Picture
from pages._shared.lens import Lens
from pages._shared.truth import Truth
from retinanet.config import ModelConfig
from retinanet.detection import DetectionTrace, detect
from retinanet.engine import ModelSpec
from retinanet.figures.columns import pack_columns
from retinanet.truth import clip_truth, known_categories, truth_from_detections
from retinanet.types import Outputs

Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Scene:
    """What a page has to show.

    Args:
        picture: that is open.
        spec: the model that answers.
        progress: where its work stands.
        outputs: what it says; None while it is not there.
        truth: what is in the picture.
        lens: what is shown of it.
    """

    picture: Picture
    spec: ModelSpec
    progress: engine.Progress
    outputs: Outputs | None
    truth: Truth
    lens: Lens

    @property
    def config(self) -> ModelConfig:
        """Of the model that answers."""
        return self.outputs.config


class Part(Protocol):
    """What a page adds to the frame.

    Args:
        name: of its bench.
        names: the lens's fields that it has.
        tabs: titles and contents; only the open one is worked out.
    """

    name: str
    names: tuple[str, ...]
    tabs: Mapping[str, Callable[[Scene], None]]

    def send_tables(self, scene: Scene) -> None:
        """Hand the browser what it draws from, outside the fragment that reruns."""

    def answer(self, scene: Scene) -> tuple[dict[str, Any], Columns]:
        """The page's own part of what the bench is told."""


def show(part: Part) -> None:
    """The whole page."""
    state.check_url()
    lens.follow_history()
    spec = sidebar.model_controls()
    picture = gallery.open_picture()
    truth.of(picture, None)  # reads it from the link, before the link is written anew
    lens.write_link(part.names, picture.key)
    with st.container():  # always there: an element more or less here would rebuild the bench
        state.show_notices()
    gallery.controls(picture.key)
    send_bench(part.name)
    send_photo(picture.image.id, photo_for_canvas(picture.image.id, picture.image))
    with st.container():
        spec, progress = what_can_answer(spec, picture)
    _let_go_of_the_last(picture)
    if st.session_state.get("lens_page") != part.name:
        # The picture first, what takes longer with the next answer; a fault was the last page's.
        lens.change(hurried=True, fault="")
    st.session_state["lens_page"] = part.name
    scene = _scene(spec, picture, progress)
    with st.container():
        if scene.outputs is not None:
            part.send_tables(scene)
    _bench(part, spec, picture, progress)
    _details(part, spec, picture, progress)
    if progress.state == "working":
        _look_again(spec, picture)


def _let_go_of_the_last(picture: Picture) -> None:
    """What was asked about another picture is let go."""
    if st.session_state.setdefault("lens_photo", picture.key) != picture.key:
        lens.change(point=None, object=-1, fault="")
    st.session_state["lens_photo"] = picture.key


def _scene(spec: ModelSpec, picture: Picture, progress: engine.Progress) -> Scene:
    outputs = None
    if progress.state == "ready":
        outputs = engine.get_engine().outputs(picture.image, spec)
    trace = None if outputs is None else lambda: detect(outputs, view.current().knobs)
    told = truth.of(picture, trace)
    return Scene(picture, spec, progress, outputs, told, lens.current())


@st.fragment(run_every=POLL_SECONDS)
def _look_again(spec: ModelSpec, picture: Picture) -> None:
    """Wait without holding the page: once the work is done, draw everything anew."""
    if engine.ask_outputs(spec, picture.image).state != "working":
        st.rerun()


@st.fragment
def _bench(part: Part, spec: ModelSpec, picture: Picture, progress: engine.Progress) -> None:
    if st.session_state.pop("redraw", False):
        st.rerun()
    scene = _scene(spec, picture, progress)
    stamp = _details_stamp(part, scene)
    st.session_state["details"] = stamp
    st.session_state["answered"] = scene.lens.serial

    def command(name: str) -> None:
        lens.change(fault="")
        # A command has no serial: where the tabs' fragment runs first, they see it by this.
        st.session_state["answered"] = None
        if name == "adopt":
            _adopt(scene)
        elif name.startswith("size "):
            _set_size(name)

    draw_bench(
        part.name,
        pack_columns(*_told(part, scene, stamp)),
        lambda message: lens.take_message(message, picture),
        command,
    )


def _set_size(command: str) -> None:
    """The sidebar's input size; the whole page follows."""
    for name, text in zip(("min_size", "max_size"), command.split()[1:], strict=False):
        if text.isdecimal() and state.SIZE_RANGE[0] <= int(text) <= state.SIZE_RANGE[1]:
            st.session_state[name] = int(text)
    st.session_state["redraw"] = True


def _adopt(scene: Scene) -> None:
    trace = detect(scene.outputs, view.current().knobs)
    found = clip_truth(truth_from_detections(trace, 0.0), scene.picture.image.size)
    truth.put(scene.picture.key, found, "adopted")


def _told(part: Part, scene: Scene, stamp: str) -> tuple[dict[str, Any], Columns]:
    width, height = scene.picture.image.size
    header: dict[str, Any] = {
        "image_id": scene.picture.image.id,
        "width": width,
        "height": height,
        "title": scene.picture.title,
        "status": _status(scene),
        "ready": scene.outputs is not None,
        "details": stamp,
        "view": lens.for_browser(scene.lens),
        "truth": _truth_for_browser(scene),
        "story": {"sentences": []},
        "more": False,
    }
    columns: Columns = {}
    if scene.outputs is not None:
        own, columns = part.answer(scene)
        header |= own
    return header, columns


def _status(scene: Scene) -> str:
    if scene.progress.state == "working":
        return f"{scene.progress.sentence}."
    return scene.lens.fault


def _truth_for_browser(scene: Scene) -> dict[str, Any]:
    names: list[str] = []
    if scene.outputs is not None:
        names = list(known_categories(scene.outputs.categories, scene.outputs.num_classes))
    return {
        "objects": [[one.category, *one.box] for one in scene.truth.objects],
        "words": f"{scene.truth.words}.".capitalize(),
        "can_undo": bool(scene.truth.past),
        "can_adopt": scene.outputs is not None,
        "categories": names,
    }


def _details_stamp(part: Part, scene: Scene) -> str:
    """Names what the tabs show, and the link."""
    now = view.current()
    shown = (
        part.name,
        scene.picture.key,
        scene.spec,
        scene.progress.state,
        scene.truth.objects,
        scene.truth.source,
        now.matcher,
        now.loss,
        lens.to_query(scene.lens),
    )
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


@st.fragment
def _details(part: Part, spec: ModelSpec, picture: Picture, progress: engine.Progress) -> None:
    """The tabs and the link. A fragment of its own: they come after the picture is drawn."""
    # What a tab asked for, or a message that came with this fragment's own: Streamlit then reruns
    # this fragment alone, and the bench would wait for ever.
    is_behind = st.session_state["answered"] != lens.current().serial
    if st.session_state.pop("redraw", False) or is_behind:
        st.rerun()
    lens.write_link(part.names, picture.key)
    follow_canvas(st.session_state["details"])
    scene = _scene(spec, picture, progress)
    tabs = st.tabs(list(part.tabs), key=f"{part.name}_tab", on_change="rerun")
    for tab, content in zip(tabs, part.tabs.values(), strict=True):
        if tab.open and scene.outputs is not None:
            with tab:
                content(scene)


def knobs_trace(scene: Scene) -> DetectionTrace:
    """The detections of the open picture at the session's knobs."""
    return detect(scene.outputs, view.current().knobs)
