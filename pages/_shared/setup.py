"""What every page needs before its first line, so that each is safe to open cold by its URL."""

from __future__ import annotations

import gc
import socket
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import streamlit as st
from streamlit.navigation.page import StreamlitPage
from streamlit.runtime.pages_manager import PagesManager
from streamlit.runtime.scriptrunner import get_script_run_ctx


@dataclass(frozen=True)
class PageInfo:
    """One room of the app: its script, its name in the navigation, its Material symbol."""

    path: str
    title: str
    icon: str
    default: bool = False


PAGES: tuple[PageInfo, ...] = (
    PageInfo("pages/detect.py", "Detect", ":material/center_focus_strong:", default=True),
    PageInfo("pages/feature_pyramid.py", "Feature pyramid", ":material/layers:"),
    PageInfo("pages/anchors.py", "Anchors", ":material/grid_on:"),
    PageInfo("pages/focal_loss.py", "Focal loss", ":material/target:"),
    PageInfo("pages/training.py", "Training", ":material/model_training:"),
    PageInfo("pages/evaluate.py", "Evaluate", ":material/monitoring:"),
    PageInfo("pages/model.py", "About the model", ":material/description:"),
)

_STYLE = """
<style>
.stMainBlockContainer { padding: 4.4rem 1.5rem 3rem; max-width: 1900px; }
[data-testid="stSidebarUserContent"] { padding-top: 0.5rem; }
[data-testid="stVerticalBlock"] { gap: 0.6rem; }
.stSlider, .stNumberInput, .stSelectbox { margin-bottom: -0.2rem; }
.rn-numbers { width: 100%; border-collapse: collapse; font-size: 0.88rem; }
.rn-numbers td { padding: 3px 12px 3px 0; vertical-align: top; font-variant-numeric: tabular-nums; }
.rn-numbers td:first-child { white-space: nowrap; opacity: 0.75; }
.rn-numbers tr + tr td { border-top: 1px solid rgba(128, 128, 128, 0.25); }
@media (max-width: 640px) { .stMainBlockContainer { padding: 4.4rem 0.8rem 3rem; } }
</style>
"""


@st.cache_resource(show_spinner=False)
def _icon() -> PIL.Image.Image:
    """A box around a dot. A Material symbol would be fetched from a font host by the browser."""
    icon = PIL.Image.new("RGBA", (64, 64))
    draw = PIL.ImageDraw.Draw(icon)
    draw.rectangle((6, 6, 57, 57), outline="#0072B2", width=8)
    draw.ellipse((22, 22, 42, 42), fill="#E69F00")
    return icon


def navigation() -> StreamlitPage:
    """The app's pages in the bar at the top; returns the one that the address names."""
    return st.navigation(
        [
            st.Page(page.path, title=page.title, icon=page.icon, default=page.default)
            for page in PAGES
        ],
        position="top",
    )


def _enter_by_the_door() -> None:
    """On a server that has just started, an address runs its page alone, without app.py.

    Streamlit takes the folder `pages` for an app of its older kind until `st.navigation` has been
    called once. So it is called, and the run begins anew, this time with app.py.
    """
    context = get_script_run_ctx()
    if context is None or Path(context.main_script_path).name != "app.py":
        return  # a page opened by itself, as a test does
    if not PagesManager.uses_pages_directory:
        return
    navigation()
    st.rerun()


def prepare() -> None:
    """Page settings, style and the quick connection; harmless when called twice in a run."""
    st.set_page_config(
        page_title="RetinaNet Explorer",
        page_icon=_icon(),
        layout="wide",
        menu_items={"About": "RetinaNet Explorer: from a photo to boxes, and why."},
    )
    _enter_by_the_door()  # after the icon: the navigation's would be fetched from a font host
    st.html(_STYLE)
    send_small_packets_at_once()


def go_to(path: str, **query: str) -> None:
    """Open another page.

    Args:
        path: of `PAGES`.
        query: its query parameters; what a widget holds, such as the weights, comes along without.
    """
    # Without parameters of its own Streamlit refuses to let go of those that widgets hold.
    st.switch_page(path, query_params=query)


@st.cache_resource(show_spinner=False)
def send_small_packets_at_once() -> int:
    """Set TCP_NODELAY on the server's sockets; returns how many were set.

    `streamlit run` opens its listener with protocol 0, for which asyncio leaves Nagle's algorithm
    on: up to 40 ms between a moved knob and its answer. A connection accepted later inherits the
    option from its listener, so one pass over the sockets that exist at the first run is enough.
    """
    count = 0
    for found in gc.get_objects():
        # type() and not isinstance(): some objects in the heap answer __class__ with side effects.
        if type(found) is not socket.socket or found.fileno() < 0:
            continue
        if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            count += 1
    return count
