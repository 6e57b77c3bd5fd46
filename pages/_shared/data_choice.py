"""Which data set is chosen: composed shapes, a file of yours, or a folder of this machine."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from pages._shared import parsing, state, workroom
from retinanet.shapes import ShapesConfig

KINDS: dict[str, str] = {
    "samples": "The sample photos",
    "shapes": "Shapes, made here",
    "upload": "A zip of mine",
    "folder": "A folder of this machine",
}


@dataclass(frozen=True)
class Choice:
    """What is chosen; all of it is in the link.

    Args:
        kind: of `KINDS`; "" for what the page begins with.
        shapes: how shapes are composed.
        upload: SHA-256 of the zip.
        folder: its path.
    """

    kind: str = ""
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    upload: str = ""
    folder: str = ""

    @property
    def key(self) -> Hashable:
        """What a task that opens it is called."""
        own = {"shapes": self.shapes, "upload": self.upload, "folder": self.folder}
        return ("data", self.kind, own.get(self.kind))


_PARSERS: dict[str, Callable[[str], Any]] = {
    "data": parsing.one_of(tuple(KINDS)),
    "images": parsing.whole(8, 5000),
    "imbalance": parsing.number(1, 100),
    "data_seed": parsing.whole(0, 10**6),
    "zip": lambda text: _sha(text),
    "folder": lambda text: _path(text),
}
QUERY_NAMES = tuple(_PARSERS)


def _sha(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError("it takes the 64 hex digits of a SHA-256")
    return text


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("no path has a NUL in it")
    return text


def current() -> Choice:
    """The session's choice; a new session takes it from the link."""
    if "data_choice" not in st.session_state:
        found = state.parsed(st.query_params.to_dict(), _PARSERS)
        start = ShapesConfig()
        shapes = replace(
            start,
            images=found.get("images", start.images),
            imbalance=found.get("imbalance", start.imbalance),
            seed=found.get("data_seed", start.seed),
        )
        choice = Choice(
            found.get("data", ""), shapes, found.get("zip", ""), found.get("folder", "")
        )
        if choice.kind == "folder" and not workroom.is_local():
            choice = replace(choice, kind="", folder="")
        st.session_state["data_choice"] = choice
    return st.session_state["data_choice"]


def keep(choice: Choice) -> None:
    """Make this the session's choice."""
    st.session_state["data_choice"] = choice


def to_query() -> dict[str, str]:
    """The query parameters of the choice; what stands at its start is left out."""
    choice, start = current(), Choice()
    told = {
        "data": (choice.kind, start.kind),
        "images": (choice.shapes.images, start.shapes.images),
        "imbalance": (choice.shapes.imbalance, start.shapes.imbalance),
        "data_seed": (choice.shapes.seed, start.shapes.seed),
        "zip": (choice.upload, ""),
        "folder": (choice.folder, ""),
    }
    return {name: f"{value}" for name, (value, at_start) in told.items() if value != at_start}
