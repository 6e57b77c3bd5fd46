"""How the three pages that look inside stand: what is shown, where, of which object; in the URL.

The bounds, alpha and gamma are the session's (`view.View`): what is set on one page holds on all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages._shared import state, truth, view
from pages._shared.parsing import corners, number, one_of, whole
from retinanet.anchors import AnchorShape
from retinanet.config import FROZEN_STAGES_RANGE, ConfigError, LossConfig, MatcherConfig
from retinanet.samples import SAMPLES
from retinanet.types import LEVELS

if TYPE_CHECKING:
    from pages._shared.gallery import Picture

MAPS: tuple[str, ...] = ("strength", "score", "pca", "channel")
SCALES: tuple[str, ...] = ("unit", "level", "all")
RANKS: tuple[str, ...] = ("active", "varied")
SHOWN: tuple[str, ...] = ("fates", "iou", "dialect")
KINDS: tuple[str, ...] = ("all", "foreground", "background")
FEATURES: tuple[str, ...] = ("C3", "C4", "C5", "P3", "P4", "P5", "P6", "P7")
DIALECTS: tuple[str, ...] = ("paper", "detectron2", "mmdetection")
"""Whose matching is compared with torchvision's."""

TRAINING = ("fg_iou_thresh", "bg_iou_thresh", "alpha", "gamma", "allow_low_quality_matches")
"""What the pages share with Detect, by its name in the link."""


@dataclass(frozen=True)
class Lens:
    """What a person can change on these pages besides the training settings and the ground truth.

    Args:
        level: the pyramid level that is shown, or "all".
        point: the place asked about, xy in pixels of the picture; None for none.
        object: the selected object of the ground truth, -1 for none.
        map, feature, scale, channel, rank, lateral, frozen: the Feature pyramid page: what is
            mapped, of which feature map, with which range of colours, which channel (-1: the first
            of the ranking), how channels are ranked, whether the lateral path alone is set beside
            it, and the frozen stages of the drawn architecture.
        range: the range of colours of the Anchors and the Focal loss page.
        show, dialect, base_size, scales, aspect_ratios: the Anchors page: what is drawn, whose
            rules are compared, and the anchors' shape.
        kind: the Focal loss page: whose loss is mapped.
        serial: of the browser's message that this answers; not part of the link.
        fault: a sentence about a message that could not be followed; not part of the link.
        hurried: something has just been changed: what is drawn comes first, what takes longer in
            the next answer; not part of the link.
        acts: how many times a hand has changed the ground truth or taken a change back, as far as
            this lens has followed; what is sent twice is done once. Not part of the link.
    """

    level: str = "all"
    point: tuple[float, float] | None = None
    object: int = -1
    map: str = "strength"
    feature: str = "P3"
    scale: str = "level"
    channel: int = -1
    rank: str = "active"
    lateral: bool = False
    frozen: int = 1
    range: str = "all"
    show: str = "fates"
    dialect: str = "paper"
    base_size: float = 32.0
    scales: tuple[float, ...] = AnchorShape().scales
    aspect_ratios: tuple[float, ...] = AnchorShape().aspect_ratios
    kind: str = "all"
    serial: int = 0
    fault: str = ""
    hurried: bool = False
    acts: int = 0

    @property
    def shape(self) -> AnchorShape:
        """The anchors' shape.

        Raises:
            ConfigError: it cannot be built; the message is a sentence.
        """
        return AnchorShape(self.base_size, self.scales, self.aspect_ratios)


@dataclass(frozen=True)
class Act:
    """What a hand did to the ground truth.

    Args:
        objects: what is there now; None: as it was.
        undos: how many changes, this one among them, are then taken back.
    """

    objects: tuple[truth.TruthBox, ...] | None = None
    undos: int = 0


def _point(text: str) -> tuple[float, float]:
    x1, y1, *_ = corners(f"{text},0,0")
    return (x1, y1)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        values = ()
    if not values or len(values) > 9:
        raise ValueError("it takes numbers with commas between them")
    return values


def _switch(text: str) -> bool:
    return one_of(("True", "False"))(text) == "True"


_PARSERS: dict[str, Callable[[str], Any]] = {
    "level": one_of(("all", *LEVELS)),
    "point": _point,
    "object": whole(0, 10_000),
    "map": one_of(MAPS),
    "feature": one_of(FEATURES),
    "scale": one_of(SCALES),
    "channel": whole(0, 4096),
    "rank": one_of(RANKS),
    "lateral": _switch,
    "frozen": whole(*FROZEN_STAGES_RANGE),
    "range": one_of(SCALES),
    "show": one_of(SHOWN),
    "dialect": one_of(DIALECTS),
    "base_size": number(4, 256),
    "scales": _numbers,
    "aspect_ratios": _numbers,
    "kind": one_of(KINDS),
}
"""What the link may say, by name; ValueError says what it takes."""


def current() -> Lens:
    """The session's lens; a new session takes it from the link."""
    if "lens" not in st.session_state:
        st.session_state["lens"] = from_query(st.query_params.to_dict())
    return st.session_state["lens"]


def keep(lens: Lens) -> None:
    """Make this the session's lens; the link follows with the next `write_link`."""
    st.session_state["lens"] = lens


def change(**changes: Any) -> None:
    """Change some of the lens's fields."""
    keep(replace(current(), **changes))


def from_query(query: Mapping[str, str]) -> Lens:
    """The lens that a link describes; what it does not understand is left out with a sentence."""
    found = state.parsed(query, _PARSERS)
    lens = Lens(**found)
    try:
        _ = lens.shape
    except ConfigError as fault:
        state.say(f"The link's anchors are left out: {fault}")
        start = Lens()
        shape = {name: getattr(start, name) for name in ("base_size", "scales", "aspect_ratios")}
        return replace(lens, **shape)
    return lens


def to_query(lens: Lens) -> dict[str, str]:
    """The query parameters that `from_query` reads back; what stands at its start is left out."""
    start = Lens()
    return {
        name: _text(getattr(lens, name))
        for name in _PARSERS
        if getattr(lens, name) != getattr(start, name)
    }


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_digits, value))
    return _digits(value) if isinstance(value, float) else str(value)


def _digits(value: float) -> str:
    """As few as give the very number back."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def write_link(names: tuple[str, ...], picture_key: str) -> None:
    """Make the address say what the page shows.

    Args:
        names: the lens's fields that this page has.
        picture_key: of the open picture, whose ground truth may be in the link.
    """
    wanted = {name: text for name, text in to_query(current()).items() if name in names}
    training = view.to_query(view.current())
    wanted |= {name: training[name] for name in TRAINING if name in training}
    if state.photo():
        wanted["photo"] = state.photo()
    text = truth.link_text(picture_key)
    if text is not None:
        wanted["truth"] = text
    state.write_query((*view.NAMES, *_PARSERS, "photo", "truth"), wanted)


def follow_history() -> None:
    """After Back or Forward the lens and the training settings are what the address says."""
    context = get_script_run_ctx()
    if context is None or not context.is_history_navigation:
        return
    query = st.query_params.to_dict()
    st.session_state["photo"] = query.get("photo", "")
    # The point and the object of the address are this picture's: they are not let go.
    st.session_state["lens_photo"] = st.session_state["photo"] or SAMPLES[0].key
    keep(replace(from_query(query), serial=current().serial))
    told = view.from_query({name: query[name] for name in TRAINING if name in query})
    view.change(matcher=told.matcher, loss=told.loss)


# ------------------------------------------------------------------ the browser's messages


def take_message(message: Any, picture: Picture) -> None:
    """Follow what the bench sends at each release; what cannot be meant leaves a sentence.

    Args:
        message: of the bench.
        picture: that was open when the message was asked for.
    """
    lens = current()
    asked = replace(lens, serial=0, hurried=False, fault="")
    try:
        told, training, act = from_message(message, lens)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as fault:
        is_sentence = isinstance(fault, ConfigError | truth.TruthError)
        words = str(fault) if is_sentence else "That setting cannot be followed."
        serial = message.get("serial") if isinstance(message, Mapping) else None
        known = serial if isinstance(serial, int) else lens.serial
        keep(replace(lens, serial=known, fault=words, hurried=False))
        return
    before = (view.current().matcher, view.current().loss)
    view.change(matcher=training[0], loss=training[1])
    if message.get("image_id") != picture.image.id:
        # On its way when another photo was opened: what it asks is about the last one.
        told = replace(told, point=lens.point, object=lens.object)
    elif told.acts > lens.acts:
        _do(act, picture)
    again = training == before and replace(told, serial=0) == asked
    keep(replace(told, hurried=not again))


def _do(act: Act, picture: Picture) -> None:
    if act.objects is not None:
        truth.edit(picture.key, truth.clip_truth(act.objects, picture.image.size))
    for _ in range(act.undos):
        truth.undo(picture.key)


def from_message(
    message: Mapping[str, Any], lens: Lens
) -> tuple[Lens, tuple[MatcherConfig, LossConfig], Act]:
    """The lens, the training settings and what was done to the ground truth, of a message.

    Raises:
        ConfigError, TruthError: a setting or an object cannot be; the message is a sentence.
        ValueError, TypeError, KeyError, AttributeError, OverflowError: no message of these pages.
    """
    found: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        if name not in message:
            continue
        value = message[name]
        empty = value is None or (name in ("object", "channel") and value == -1)
        found[name] = getattr(Lens(), name) if empty else parse(_told(value))
    serial, acts = int(message["serial"]), max(lens.acts, int(message["acts"]))
    told = replace(lens, **found, serial=serial, acts=acts, fault="", hurried=False)
    _ = told.shape  # refuses what cannot be built
    training = message["training"]
    matcher = MatcherConfig(
        float(training["fg_iou_thresh"]),
        float(training["bg_iou_thresh"]),
        training["allow_low_quality_matches"] is True,
    )
    gamma = number(0, 5)(str(training["gamma"]))
    loss = LossConfig(float(training["alpha"]), gamma)
    objects = message.get("truth")
    boxes = None
    if objects is not None:
        if len(objects) > truth.MAX_OBJECTS:
            raise truth.TruthError(
                f"A picture holds {truth.MAX_OBJECTS} objects here; remove some first."
            )
        boxes = tuple(
            truth.TruthBox(str(name), tuple(float(edge) for edge in box)) for name, *box in objects
        )
    undos = min(max(0, int(message.get("undo", 0))), truth.MAX_UNDO)
    return told, (matcher, loss), Act(boxes, undos)


def _told(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def for_browser(lens: Lens) -> dict[str, Any]:
    """The lens and the training settings as the bench holds them; it sends the same back."""
    now = view.current()
    names = [f.name for f in fields(lens) if f.name not in ("fault", "hurried")]
    plain = {name: getattr(lens, name) for name in names}
    return {
        **plain,
        "training": {
            "fg_iou_thresh": now.matcher.fg_iou_thresh,
            "bg_iou_thresh": now.matcher.bg_iou_thresh,
            "allow_low_quality_matches": now.matcher.allow_low_quality_matches,
            "alpha": now.loss.alpha,
            "gamma": now.loss.gamma,
        },
    }
