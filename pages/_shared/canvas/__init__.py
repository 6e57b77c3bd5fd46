"""The picture components: the canvas, the photos it draws, and sheets of small pictures.

Four components of one folder. `photo` hands a JPEG to the browser once; `canvas` draws it with
packed boxes; `follow` reruns its fragment once the canvas has painted something new; `sheet` is a
row or grid of thumbnails that act as buttons.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

_FOLDER = Path(__file__).parent


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


_photo = st.components.v2.component(
    "retinanet_photo", html="<span hidden></span>", js=_read("photos.js")
)
_canvas = st.components.v2.component(
    "retinanet_canvas",
    html=_read("canvas.html"),
    css=_read("canvas.css"),
    js=_read("canvas.js"),
)
_follow = st.components.v2.component(
    "retinanet_follow", html="<span hidden></span>", js=_read("follow.js")
)
_sheet = st.components.v2.component(
    "retinanet_sheet", html=_read("sheet.html"), css=_read("sheet.css"), js=_read("sheet.js")
)


def send_photo(image_id: str, jpeg: bytes) -> None:
    """Hand the browser a photo for the canvas; call it outside the fragment that reruns.

    Args:
        image_id: 64 characters, `Image.id`.
        jpeg: the photo at the size at which it shall be drawn.
    """
    _photo(key="photo", data=image_id.encode() + jpeg, height=1)


def draw_canvas(packed: bytes, on_pick: Callable[[int], None]) -> None:
    """The photo with its boxes.

    Args:
        packed: from `retinanet.figures.boxes.pack_boxes`.
        on_pick: called with the (anchor, class) pair of the box that was clicked, -1 for none.
    """
    _canvas(
        key="canvas",
        data=packed,
        on_pick_change=lambda: on_pick(st.session_state["canvas"]["pick"]),
    )


def follow_canvas(stamp: str) -> None:
    """Rerun the fragment that calls this when the canvas shows other boxes than these.

    Args:
        stamp: of the block (`retinanet.figures.boxes.stamp_of`) that the fragment speaks of.
    """
    _follow(key="follow", data={"stamp": stamp}, height=1, on_behind_change=lambda: None)


def draw_sheet(packed: bytes, key: str, on_open: Callable[[str], None]) -> None:
    """A row or grid of small pictures.

    Args:
        packed: from `retinanet.figures.pictures.pack_sheet`.
        key: tells two sheets of a page apart.
        on_open: called with the id of the picture that was clicked.
    """
    _sheet(key=key, data=packed, on_open_change=lambda: on_open(st.session_state[key]["open"]))
