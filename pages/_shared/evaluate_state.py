"""How the Evaluate page stands: which photos, which grid, which pictures; all of it in the link.

The knobs are the session's (`view.View`): what is set here holds on Detect too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages._shared import data_choice, state, view
from pages._shared.parsing import one_of, whole
from retinanet.coco import CocoDataset
from retinanet.config import PostprocessConfig
from retinanet.sweeps import DEFAULT_GRID, SCORE_FLOOR, TOPK, Grid, parse_grid

PARTS: dict[str, str] = {"val": "Held out", "train": "To train on"}
"""The two parts of a data set, and what a person calls them."""

MAX_PHOTOS = 1_000_000
MAX_GRID_TEXT = 400
KNOBS: tuple[str, ...] = tuple(f.name for f in fields(DEFAULT_GRID))
"""The settings that a grid has."""

OPENS: dict[str, str] = {
    "Detect": "pages/detect.py",
    "Anchors": "pages/anchors.py",
    "Focal loss": "pages/focal_loss.py",
    "Feature pyramid": "pages/feature_pyramid.py",
}
"""Where a click on a photo leads."""

SWEEP = "sweep_"
"""Of the grid's names in the link: the knobs have those without it."""


def _start_texts() -> dict[str, str]:
    return {name: ", ".join(f"{v:g}" for v in getattr(DEFAULT_GRID, name)) for name in KNOBS}


@dataclass(frozen=True)
class Desk:
    """What a person can change on this page besides the data set, the model and the knobs.

    Args:
        part: of `PARTS`.
        photos: at most so many; 0 for all.
        sample_seed: which ones, where not all are taken.
        grid: the values of each knob that a sweep tries, as text.
        opens: where a click on a photo leads, of `OPENS`.
    """

    part: str = "val"
    photos: int = 0
    sample_seed: int = 0
    grid: Mapping[str, str] = field(default_factory=_start_texts)
    opens: str = "Detect"


def _text(text: str) -> str:
    if len(text) > MAX_GRID_TEXT:
        raise ValueError(f"it takes at most {MAX_GRID_TEXT} characters")
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "part": one_of(tuple(PARTS)),
    "photos": whole(0, MAX_PHOTOS),
    "sample_seed": whole(0, 10**6),
    "opens": one_of(tuple(OPENS)),
    **{f"{SWEEP}{name}": _text for name in KNOBS},
}
"""What the link may say, by name; ValueError says what it takes."""


def current() -> Desk:
    """The session's desk; a new session takes it from the link."""
    if "desk" not in st.session_state:
        st.session_state["desk"] = from_query(st.query_params.to_dict())
    return st.session_state["desk"]


def read_link() -> None:
    """Let a new session take all from the link now, so that what it does not say is told first."""
    current()
    view.current()
    data_choice.current()


def change(**changes: Any) -> None:
    """Change some of the desk's fields; the link follows with the next `write_link`."""
    st.session_state["desk"] = replace(current(), **changes)


def from_query(query: Mapping[str, str]) -> Desk:
    """The desk that a link describes; what it does not understand is left out with a sentence."""
    found = state.parsed(query, _PARSERS)
    grid = {name: found.pop(f"{SWEEP}{name}", text) for name, text in Desk().grid.items()}
    return Desk(**found, grid=grid)


def to_query(desk: Desk) -> dict[str, str]:
    """The query parameters that `from_query` reads back; what stands at its start is left out."""
    now, start = _flat(desk), _flat(Desk())
    return {name: text for name, text in now.items() if text != start[name]}


def _flat(desk: Desk) -> dict[str, str]:
    values = {f.name: f"{getattr(desk, f.name)}" for f in fields(desk) if f.name != "grid"}
    return values | {f"{SWEEP}{name}": text for name, text in desk.grid.items()}


def write_link() -> None:
    """Make the address say what the page shows."""
    knobs = view.to_query(view.View(knobs=view.current().knobs))
    wanted = {**to_query(current()), **data_choice.to_query(), **knobs}
    state.write_query((*_PARSERS, *data_choice.QUERY_NAMES, *view.NAMES, "photo", "truth"), wanted)


def follow_history() -> None:
    """After Back or Forward the desk and the knobs are what the address says."""
    context = get_script_run_ctx()
    if context is None or not context.is_history_navigation:
        return
    query = st.query_params.to_dict()
    st.session_state["desk"] = from_query(query)
    names = {f.name for f in fields(PostprocessConfig)}
    told = view.from_query({name: text for name, text in query.items() if name in names})
    view.change(knobs=told.knobs)


def chosen(dataset: CocoDataset, desk: Desk) -> CocoDataset:
    """The photos that are evaluated: all, or as many as asked for, the same for the same seed."""
    count = len(dataset.photos)
    if not 0 < desk.photos < count:
        return dataset
    taken = sorted(random.Random(desk.sample_seed).sample(range(count), desk.photos))  # noqa: S311
    return replace(dataset, photos=tuple(dataset.photos[number] for number in taken))


def grid_words(desk: Desk) -> list[str]:
    """The grid as the command line has it: SETTING=VALUES each."""
    return [f"{name}={text.replace(' ', '')}" for name, text in desk.grid.items()]


def grid_of(desk: Desk) -> Grid:
    """The grid that a sweep tries.

    Raises:
        ConfigError: a text cannot be read, or a value is outside its range.
    """
    return parse_grid(grid_words(desk), PostprocessConfig())


def answerable(knobs: PostprocessConfig) -> PostprocessConfig:
    """The nearest setting that the candidates on disk can answer."""
    return replace(
        knobs,
        score_thresh=max(knobs.score_thresh, SCORE_FLOOR),
        topk_candidates=min(knobs.topk_candidates, TOPK),
    )
