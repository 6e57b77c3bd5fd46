"""The picture components: the workbench, the photos and tables it draws from, sheets of pictures.

Six components of one folder. `workbench`, `photo` and `table` hand the code, a JPEG and the
candidates to the browser once; `canvas` is where the workbench draws them with the core's answer;
`follow` reruns its fragment once the workbench has painted something new; `sheet` is a row or grid
of thumbnails that act as buttons.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from pages._shared.canvas import lens_kit
from pages._shared.canvas.kit import kit

_FOLDER = Path(__file__).parent
STAGE = ("columns", "geometry", "hands", "controls", "words", "talk")
"""The scripts that every picture with controls beside it is made of, read in this order."""

WORKBENCH = (
    *STAGE,
    "nms",
    "scene",
    "stage",
    "picking",
    "knobs",
    "panels",
    "story",
    "canvas",
    "bench",
)
"""The scripts of the Detect page's workbench: one module."""


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def script(*names: str) -> str:
    """Some of the folder's scripts as one module; only the last of them exports."""
    return "\n".join(_read(f"{name}.js") for name in names)


def _bench(name: str, style: tuple[str, ...], html: str, facts: str, *scripts: str) -> tuple:
    """A picture with controls beside it, as two components: its code, and its place on the page.

    The code comes once, outside the fragment that reruns with each knob: Streamlit sends a
    component's script again with each of its runs. The place is a few lines that look for it.
    """
    symbol = f"const BENCH = Symbol.for('retinanet.{name}');\n"
    page = "".join(f"<style>{_read(sheet)}</style>" for sheet in style)
    page += _read(html).replace("<!-- stage -->", _read("stage.html"))
    code = st.components.v2.component(
        f"retinanet_{name}_code",
        html="<span hidden></span>",
        js=f"{symbol}const PAGE = {json.dumps(page)};\n{facts}{script(*scripts)}",
    )
    place = st.components.v2.component(
        f"retinanet_{name}", html='<div class="rn-root"></div>', js=symbol + script("mount")
    )
    return code, place


_photo = st.components.v2.component(
    "retinanet_photo", html="<span hidden></span>", js=script("photos")
)
_table = st.components.v2.component(
    "retinanet_table",
    html="<span hidden></span>",
    js="const READY = readyTable;\n" + script("columns", "nms", "tables"),
)
_sums = st.components.v2.component(
    "retinanet_sums",
    html="<span hidden></span>",
    js="const READY = (sent) => sent;\n" + script("columns", "tables"),
)
_workbench, _canvas = _bench("canvas", ("canvas.css",), "canvas.html", kit(), *WORKBENCH)
_LENS = (*STAGE, "truth", "maps")
_benches = {
    name: _bench(
        name, ("canvas.css", "lens.css"), "lens.html", facts(), *_LENS, *own, "lens", "bench"
    )
    for name, facts, own in (
        ("anchors", lens_kit.anchors, ("match", "anchors")),
        ("loss", lens_kit.loss, ("match", "focal", "loss")),
        ("pyramid", lens_kit.pyramid, ("pyramid",)),
    )
}
_follow = st.components.v2.component(
    "retinanet_follow", html="<span hidden></span>", js=script("follow")
)
_sheet = st.components.v2.component(
    "retinanet_sheet", html=_read("sheet.html"), css=_read("sheet.css"), js=script("sheet")
)


def send_photo(image_id: str, jpeg: bytes) -> None:
    """Hand the browser a photo for the canvas; call it outside the fragment that reruns.

    Args:
        image_id: 64 characters, `Image.id`.
        jpeg: the photo at the size at which it shall be drawn.
    """
    _photo(key="photo_bytes", data=image_id.encode() + jpeg, height=1)


def send_table(packed: bytes) -> None:
    """Hand the browser the candidates; call it outside the fragment that reruns.

    Args:
        packed: from `retinanet.figures.candidate_table.candidate_table`.
    """
    _table(key="candidates", data=packed, height=1)


def send_sums(packed: bytes) -> None:
    """Hand the browser each anchor's sums; call it outside the fragment that reruns.

    Args:
        packed: the columns of `retinanet.focal.packed_nodes`.
    """
    _sums(key="sums", data=packed, height=1)


def send_workbench() -> None:
    """Hand the browser the workbench's code; call it outside the fragment that reruns."""
    _workbench(key="workbench", height=1)


def draw_canvas(
    packed: bytes,
    on_view: Callable[[Mapping[str, Any]], None],
    on_command: Callable[[str], None],
) -> None:
    """The workbench, once `send_workbench` has brought its code.

    Args:
        packed: from `pages._shared.answer.pack_answer`.
        on_view: called with what the controls say after each release (`view.from_message`).
        on_command: called with "pin", "unpin" or one of `kit.DOORS`.
    """
    _canvas(
        key="canvas",
        data=packed,
        on_view_change=lambda: on_view(st.session_state["canvas"]["view"]),
        on_command_change=lambda: on_command(st.session_state["canvas"]["command"]),
    )


def send_bench(name: str) -> None:
    """Hand the browser a bench's code; call it outside the fragment that reruns.

    Args:
        name: "anchors", "loss" or "pyramid".
    """
    _benches[name][0](key=f"{name}_code", height=1)


def draw_bench(
    name: str,
    packed: bytes,
    on_view: Callable[[Mapping[str, Any]], None],
    on_command: Callable[[str], None],
) -> None:
    """A bench of the pages that look inside, once `send_bench` has brought its code.

    Args:
        name: as in `send_bench`.
        packed: what it shows, from `retinanet.figures.columns.pack_columns`.
        on_view: called with what the controls say after each release (`lens.from_message`).
        on_command: called with "adopt", or "size" and the two lengths.
    """
    key = f"{name}_bench"
    _benches[name][1](
        key=key,
        data=packed,
        on_view_change=lambda: on_view(st.session_state[key]["view"]),
        on_command_change=lambda: on_command(st.session_state[key]["command"]),
    )


def follow_canvas(stamp: str) -> None:
    """Rerun the fragment that calls this when the workbench shows another result than this.

    Args:
        stamp: "details" of the answer that the fragment speaks of.
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
