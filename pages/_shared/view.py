"""How the workbench stands: knobs, what is shown, what is asked. One value, all of it in the URL.

The browser sends the whole view at each release of a control, so a message that is overtaken by the
next one loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages._shared import state
from pages._shared.parsing import corners, number, one_of, whole
from pages._shared.stored import START
from retinanet.config import ConfigError, LossConfig, MatcherConfig, PostprocessConfig
from retinanet.engine import ModelSpec

COLORS: tuple[str, ...] = ("class", "level")
STAGES: tuple[str, ...] = ("all", "above", "topk", "nms", "kept")
"""Steps of the funnel: which pairs the canvas shows."""

MODES: tuple[str, ...] = ("box", "whynot", "nms", "compare")
MAX_TOPK = 10_000
MAX_DETECTIONS = 10_000
MAX_PIN_TEXT = 1000


@dataclass(frozen=True)
class Pin:
    """Settings put aside to compare with: a model and its knobs."""

    spec: ModelSpec
    knobs: PostprocessConfig


@dataclass(frozen=True)
class View:
    """Everything that a person can change in the workbench.

    Args:
        knobs: post-processing.
        matcher, loss: what would change training only.
        color: what the colour of a box means, of `COLORS`.
        stage: of `STAGES`.
        mode: which question the panel answers, of `MODES`.
        box: the selected (anchor, class) pair, -1 for none.
        why: the drawn object, xyxy in pixels of the picture; None for none.
        why_class: its label, -1 for any.
        lesson: whether a box that a higher knob removes is asked for.
        pin: what to compare with.
        serial: of the browser's message that this answers; not part of the link.
        fault: a sentence about a message that could not be followed; not part of the link.
        hurried: a knob has just been released: the boxes come first, what takes longer in the next
            answer; not part of the link.
    """

    knobs: PostprocessConfig = START
    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    color: str = "class"
    stage: str = "kept"
    mode: str = "box"
    box: int = -1
    why: tuple[float, float, float, float] | None = None
    why_class: int = -1
    lesson: bool = False
    pin: Pin | None = None
    serial: int = 0
    fault: str = ""
    hurried: bool = False


def current() -> View:
    """The session's view; a new session takes it from the link."""
    if "view" not in st.session_state:
        st.session_state["view"] = from_query(st.query_params.to_dict())
    return st.session_state["view"]


def change(**changes: Any) -> None:
    """Change some of the view's fields."""
    keep(replace(current(), **changes))


def keep(view: View) -> None:
    """Make this the session's view; the link follows with the next `write_link`."""
    st.session_state["view"] = view


def take_message(message: Any) -> None:
    """Follow what the workbench sends at each release; what cannot be meant leaves a sentence."""
    view = current()
    try:
        told = from_message(message, view)
    except (ValueError, TypeError, KeyError) as fault:
        words = str(fault) if isinstance(fault, ConfigError) else "That setting cannot be followed."
        serial = message.get("serial") if isinstance(message, Mapping) else None
        known = serial if isinstance(serial, int) else view.serial
        keep(replace(view, serial=known, hurried=False, fault=words))
        return
    if message.get("image_id") != st.session_state.get("open_image"):
        # It was on its way when another photo was opened: what it asks is about the last one.
        told = replace(told, box=view.box, why=view.why, why_class=view.why_class)
    keep(told)


def begin(spec: ModelSpec, image_id: str) -> None:
    """From a run of the page: this model answers about this picture.

    A pair's number means another anchor with another model or input size, so it is let go.
    """
    if st.session_state.get("open_spec", spec) != spec:
        change(box=-1)
    st.session_state["open_spec"] = spec
    st.session_state["open_image"] = image_id


def follow_history() -> None:
    """After Back or Forward the view is what the address says."""
    context = get_script_run_ctx()
    if context is None or not context.is_history_navigation:
        return
    query = st.query_params.to_dict()
    st.session_state["photo"] = query.get("photo", "")
    keep(replace(from_query(query), serial=current().serial))


def write_link() -> None:
    """Make the address say what the view is: only what differs from the start."""
    wanted = to_query(current())
    if state.photo():
        wanted["photo"] = state.photo()
    state.write_query((*NAMES, "photo"), wanted)


def pick(pair: int) -> None:
    """Select an (anchor, class) pair, -1 to let go."""
    change(box=pair)


def open_photo(photo_id: str) -> None:
    """Open a picture; the link follows, and what was asked about the last one is let go."""
    if photo_id != state.photo():
        change(box=-1, why=None)
        st.session_state["open_image"] = ""  # until the page has run: messages on their way are old
    st.session_state["photo"] = photo_id  # the link follows whole, with `write_link`


# ------------------------------------------------------------------ the link


def _class_floors(text: str) -> tuple[tuple[int, float], ...]:
    try:
        pairs = [part.split(":") for part in text.split(",") if part]
        floors = {int(label): float(floor) for label, floor in pairs}
        return PostprocessConfig(class_score_thresh=floors).class_score_thresh
    except ValueError as fault:  # a ConfigError is one
        raise ValueError("it takes label:threshold pairs, such as 0:0.5,16:0.3") from fault


def _pin(text: str) -> Pin:
    try:
        data = json.loads(text) if len(text) <= MAX_PIN_TEXT else None
        settings = {f.name for f in fields(PostprocessConfig)}
        knobs = {name: value for name, value in data.items() if name in settings}
        model = {name: value for name, value in data.items() if name not in settings}
        for name, value in {"weights": None, **model}.items():
            _MODEL_CHECKS[name](str(value))
            if isinstance(value, str) != (name in ("weights", "variant", "precision")):
                raise TypeError(name)
        for name in {"topk_candidates", "detections_per_img"} & set(knobs):
            _PARSERS[name](str(knobs[name]))
        return Pin(ModelSpec(**model), PostprocessConfig.from_dict({**START.to_dict(), **knobs}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        raise ValueError("it takes the settings that this page wrote") from fault


def _weights(text: str) -> None:
    if text not in state.WEIGHTS or text == "upload":
        raise ValueError("unknown weights")


_MODEL_CHECKS: dict[str, Callable[[str], None]] = {
    **{name: state.CHECKS[name] for name in ("depth", "num_convs", "variant", "precision")},
    **{name: state.CHECKS[name] for name in ("min_size", "max_size")},
    "weights": _weights,
}
"""What a link may ask of a pinned model: no more than the page's own controls can."""

_PARSERS: dict[str, Callable[[str], Any]] = {
    "score_thresh": number(0, 1),
    "nms_thresh": number(0, 1),
    "topk_candidates": whole(1, MAX_TOPK),
    "detections_per_img": whole(1, MAX_DETECTIONS),
    "class_score_thresh": _class_floors,
    "fg_iou_thresh": number(0, 1),
    "bg_iou_thresh": number(0, 1),
    "allow_low_quality_matches": lambda text: one_of(("True", "False"))(text) == "True",
    "alpha": number(0, 1),
    "gamma": number(0, 5),
    "color": one_of(COLORS),
    "stage": one_of(STAGES),
    "mode": one_of(MODES),
    "box": whole(0, 2**31 - 1),
    "why": corners,
    "why_class": whole(0, 100_000),
    "lesson": lambda text: one_of(("1",))(text) == "1",
    "pin": _pin,
}
"""What the link may say, by name, and how it is read: ValueError says what it takes."""

NAMES: tuple[str, ...] = tuple(_PARSERS)
"""The query parameters that belong to the view."""

_KNOBS = tuple(f.name for f in fields(PostprocessConfig))
_BOUNDS = ("fg_iou_thresh", "bg_iou_thresh")
_MATCHER = (*_BOUNDS, "allow_low_quality_matches")
_LOSS = ("alpha", "gamma")


def from_query(query: Mapping[str, str]) -> View:
    """The view that a link describes; what it does not understand is left out with a sentence."""
    found = state.parsed(query, _PARSERS)
    try:
        return _assembled(found)
    except ConfigError as fault:
        state.say(f"The link's settings are left out: {fault}")
        return View()


def _assembled(found: Mapping[str, Any], view: View | None = None) -> View:
    view = view or View()
    rest = {n: v for n, v in found.items() if n not in (*_KNOBS, *_MATCHER, *_LOSS)}
    return replace(
        view,
        knobs=replace(view.knobs, **_part(found, _KNOBS)),
        matcher=replace(view.matcher, **_part(found, _MATCHER)),
        loss=replace(view.loss, **_part(found, _LOSS)),
        **rest,
    )


def _part(found: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: found[name] for name in names if name in found}


def to_query(view: View) -> dict[str, str]:
    """The query parameters that `from_query` reads back; what stands at its start is left out."""
    now, start = _flat(view), _flat(View())
    return {name: text for name, text in now.items() if text and text != start[name]}


def _flat(view: View) -> dict[str, str]:
    values: dict[str, Any] = {
        **{name: getattr(view.knobs, name) for name in _KNOBS},
        **{name: getattr(view.matcher, name) for name in _MATCHER},
        **{name: getattr(view.loss, name) for name in _LOSS},
    }
    floors = ",".join(f"{label}:{floor!r}" for label, floor in values.pop("class_score_thresh"))
    return {
        **{name: repr(value) for name, value in values.items()},
        "class_score_thresh": floors,
        "color": view.color,
        "stage": view.stage,
        "mode": view.mode,
        "box": str(view.box) if view.box >= 0 else "",
        "why": ",".join(map(repr, view.why)) if view.why else "",
        "why_class": str(view.why_class) if view.why_class >= 0 else "",
        "lesson": "1" if view.lesson else "",
        "pin": _pin_text(view.pin),
    }


def _pin_text(pin: Pin | None) -> str:
    if pin is None or pin.spec.weights not in state.WEIGHTS:
        return ""  # an uploaded checkpoint's path is nobody's business
    model = {"weights": pin.spec.weights, **pin.spec.overrides(), "precision": pin.spec.precision}
    return json.dumps({**model, **pin.knobs.to_dict()}, separators=(",", ":"))


# ------------------------------------------------------------------ the browser's messages


def from_message(message: Mapping[str, Any], view: View) -> View:
    """The view after a message of the canvas.

    Raises:
        ConfigError: a setting is outside its range; the message is a sentence.
        ValueError, TypeError, KeyError: no message of this page.
    """
    knobs, training = message["knobs"], message["training"]
    why = message["why"]
    found = {
        **PostprocessConfig.from_dict(dict(knobs)).to_dict(),
        "class_score_thresh": {int(k): v for k, v in knobs["class_score_thresh"].items()},
        **{name: float(training[name]) for name in (*_BOUNDS, *_LOSS)},
        "color": one_of(COLORS)(message["color"]),
        "stage": one_of(STAGES)(message["stage"]),
        "mode": one_of(MODES)(message["mode"]),
        "box": int(message["box"]),
        "why": None if why is None else corners(",".join(map(str, why))),
        "why_class": int(message["why_class"]),
        "lesson": message["lesson"] is True,
        "serial": int(message["serial"]),
    }
    changed = _assembled(found, view)
    return replace(changed, fault="", hurried=changed.knobs != view.knobs)
