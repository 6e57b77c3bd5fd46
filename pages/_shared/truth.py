"""What is in the open picture, as somebody says: shared by the pages, kept for the session.

A sample comes with boxes drawn by hand. For another picture the detections stand in until objects
are drawn, uploaded or adopted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from pages._shared import state
from retinanet.detection import DetectionTrace
from retinanet.samples import SAMPLES
from retinanet.truth import (
    MAX_OBJECTS,
    TruthBox,
    TruthError,
    clip_truth,
    parse_truth_text,
    truth_from_detections,
    truth_text,
)

if TYPE_CHECKING:
    from pages._shared.gallery import Picture

__all__ = ["MAX_OBJECTS", "Truth", "TruthBox", "TruthError", "clip_truth"]

MAX_LINK_TEXT = 1500
"""Characters that the link gives to the ground truth; with more objects it is left out."""

MAX_UNDO = 50
STAND_IN_SCORE = 0.5
"""The least score of a detection that stands in for ground truth."""

SOURCES: dict[str, str] = {
    "sample": "drawn by hand for this sample",
    "drawn": "drawn here",
    "file": "from your file",
    "link": "from the link",
    "adopted": "adopted from the detections",
    "detections": "the detections from score 0.5 on stand in, as nobody has said what is there",
    "none": "nobody has said what is there",
}


@dataclass(frozen=True)
class Truth:
    """The ground truth of a picture.

    Args:
        objects: what is there.
        source: who says so, of `SOURCES`.
        past: what it was before, oldest first; undo goes back through it.
    """

    objects: tuple[TruthBox, ...]
    source: str
    past: tuple[Truth, ...] = ()

    @property
    def words(self) -> str:
        """How many objects, and who says so."""
        count = "1 object" if len(self.objects) == 1 else f"{len(self.objects)} objects"
        return f"{count}, {SOURCES[self.source]}"


def _kept() -> dict[str, Truth]:
    return st.session_state.setdefault("truths", {})


def of(picture: Picture, trace: Callable[[], DetectionTrace] | None) -> Truth:
    """The ground truth of the picture.

    Args:
        picture: that is open.
        trace: gives its detections at the session's settings, asked for only where they stand in;
            None while the model is not there.
    """
    kept = _kept()
    if picture.key not in kept and (told := _from_link(picture)) is not None:
        kept[picture.key] = told
    if picture.key in kept:
        return kept[picture.key]
    sample = next((one for one in SAMPLES if picture.is_sample and one.key == picture.key), None)
    if sample is not None:
        return Truth(tuple(TruthBox(box.category, box.xyxy) for box in sample.boxes), "sample")
    if trace is None:
        return Truth((), "none")
    found = clip_truth(truth_from_detections(trace(), STAND_IN_SCORE), picture.image.size)
    # What the browser is shown is what an edit starts from.
    st.session_state["stand_in"] = (picture.key, found)
    return Truth(found, "detections" if found else "none")


def _from_link(picture: Picture) -> Truth | None:
    text = unread_link()
    return None if text is None else _parsed(text, picture.image.size)


def unread_link() -> str | None:
    """What the link says of the ground truth, once: it speaks of the picture that it opens."""
    if st.session_state.get("truth_link_read"):
        return None
    st.session_state["truth_link_read"] = True
    return st.query_params.get("truth")


def take_link(key: str, text: str | None, size: tuple[int, int]) -> None:
    """What a link said of a picture that has now arrived."""
    told = None if text is None else _parsed(text, size)
    if told is not None:
        _kept()[key] = told


def _parsed(text: str, size: tuple[int, int]) -> Truth | None:
    try:
        return Truth(clip_truth(parse_truth_text(text), size), "link")
    except ValueError as fault:  # a TruthError is one
        state.say(f"The link's truth is ignored: {fault}")
        return None


def edit(key: str, objects: Sequence[TruthBox]) -> None:
    """Follow what a hand drew, moved, named or removed."""
    objects = tuple(objects)
    if objects != _shown(key).objects:
        put(key, objects, "drawn")


def put(key: str, objects: Sequence[TruthBox], source: str) -> None:
    """Replace the ground truth of a picture; undo brings the old one back."""
    before = _shown(key)
    past = (*before.past, Truth(before.objects, before.source))[-MAX_UNDO:]
    _kept()[key] = Truth(tuple(objects), source, past)


def undo(key: str) -> None:
    """Back to what it was before the last change."""
    now = _kept().get(key)
    if now is not None and now.past:
        last = now.past[-1]
        _kept()[key] = Truth(last.objects, last.source, now.past[:-1])


def _shown(key: str) -> Truth:
    """What the browser shows of the picture with this key."""
    kept = _kept().get(key)
    if kept is not None:
        return kept
    sample = next((one for one in SAMPLES if one.key == key), None)
    if sample is not None:
        return Truth(tuple(TruthBox(box.category, box.xyxy) for box in sample.boxes), "sample")
    owner, found = st.session_state.get("stand_in", ("", ()))
    return Truth(found, "detections") if owner == key and found else Truth((), "none")


def link_text(key: str) -> str | None:
    """What the link says of the ground truth: None where it is the picture's own, or too much."""
    kept = _kept().get(key)
    if kept is None or kept.source in ("sample", "detections", "none"):
        return None
    text = truth_text(kept.objects)
    return text if len(text) <= MAX_LINK_TEXT else None
