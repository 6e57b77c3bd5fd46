"""What the session remembers and what the URL says.

Every control is bound to a query parameter named as the core names its setting, so a link carries
the whole view. Streamlit drops a value it cannot use without a word; `check_url` adds the word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from retinanet.config import DEPTHS, NUM_CONVS_RANGE, VARIANTS

BADGES: dict[str, str] = {
    "now": ":green-badge[now]",
    "loss only": ":orange-badge[loss only]",
    "training only": ":violet-badge[training only]",
    "rebuilds the model": ":blue-badge[rebuilds the model]",
}
"""What a control changes (Markdown): each control carries exactly one."""

WEIGHTS: tuple[str, ...] = ("embedded", "coco-v1", "coco-v2", "random", "upload")
PRECISIONS: tuple[str, ...] = ("fp32", "bf16")
SIZE_RANGE: tuple[int, int] = (64, 2048)
TABS: tuple[str, ...] = ("Detections", "Ledger", "Take home", "Reproduce")


def _choice(options: tuple) -> Callable[[str], None]:
    def check(text: str) -> None:
        if text not in {str(option) for option in options}:
            raise ValueError(f"it takes {', '.join(map(str, options))}")

    return check


def _between(kind: type, low: float, high: float) -> Callable[[str], None]:
    def check(text: str) -> None:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:  # also refuses nan
            raise ValueError(f"it takes {low:g} to {high:g}")

    return check


CHECKS: dict[str, Callable[[str], None]] = {
    "depth": _choice(DEPTHS),
    "num_convs": _between(int, *NUM_CONVS_RANGE),
    "variant": _choice(VARIANTS),
    "min_size": _between(int, *SIZE_RANGE),
    "max_size": _between(int, *SIZE_RANGE),
    "precision": _choice(PRECISIONS),
    "tab": _choice(TABS),
}


@dataclass(eq=False)
class Upload:
    """A picture that someone brought: its file's bytes, kept for this session only."""

    name: str
    data: bytes = field(repr=False)
    id: str = ""

    def __post_init__(self) -> None:
        self.id = self.id or hashlib.sha256(self.data).hexdigest()


def uploads() -> dict[str, Upload]:
    """The session's uploaded pictures by id, in the order in which they came."""
    return st.session_state.setdefault("uploads", {})


def say(sentence: str) -> None:
    """Keep a sentence for the person until they dismiss it; the same one is not repeated."""
    notices = st.session_state.setdefault("notices", [])
    if sentence not in notices:
        notices.append(sentence)


def show_notices() -> None:
    """The kept sentences, in one box, with a button that dismisses them."""
    notices = st.session_state.setdefault("notices", [])
    if not notices:
        return
    with st.container(key="notices", horizontal=True, vertical_alignment="center"):
        st.warning("  \n".join(plain(notice) for notice in notices))
        st.button("Dismiss", on_click=notices.clear)


def plain(text: str) -> str:
    """Text in which Markdown finds nothing to interpret: file names come from strangers."""
    # An address becomes a link of itself; a break that takes no room ends that.
    text = text.replace("://", ":\u200b//").replace("www.", "www\u200b.")
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-!|$:~" else c for c in text)


def check_url() -> None:
    """On a session's first run, say which query parameters are not understood."""
    if st.session_state.get("url_checked"):
        return
    st.session_state["url_checked"] = True
    for name, text in st.query_params.to_dict().items():
        if name not in CHECKS:
            continue
        try:
            CHECKS[name](text)
        except ValueError as reason:
            say(f"The link's {name}={text[:40]} is ignored: {reason}.")


def write_query(names: Iterable[str], wanted: Mapping[str, str]) -> None:
    """Make these parameters of the address what is wanted; the others are removed.

    What is set is set at once: the browser keeps an entry of its history for each change, and Back
    would lead to an address that says half of it.
    """
    for name in names:
        if name not in wanted:
            st.query_params.pop(name, None)
    changed = {name: text for name, text in wanted.items() if st.query_params.get(name) != text}
    if changed:
        st.query_params.update(changed)


def parsed(query: Mapping[str, str], parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """What a link says, by name; what is not understood is left out with a sentence."""
    found: dict[str, Any] = {}
    for name, parse in parsers.items():
        if name in query:
            try:
                found[name] = parse(query[name])
            except ValueError as reason:
                say(f"The link's {name}={query[name][:40]} is ignored: {reason}.")
    return found


def redraw_canvas() -> None:
    """From a panel's callback: let the canvas follow, by a run of the whole page."""
    st.session_state["redraw"] = True


def photo() -> str:
    """The id of the open picture: a sample's name or an upload's SHA-256; "" for the first."""
    if "photo" not in st.session_state:
        st.session_state["photo"] = st.query_params.get("photo", "")
    return st.session_state["photo"]
