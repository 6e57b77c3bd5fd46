"""Opening the app's pages without a browser, and reading what they show."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import PIL.Image
from streamlit.testing.v1 import AppTest

from pages._shared.truth import Truth
from retinanet.figures.columns import unpack_columns
from retinanet.samples import SAMPLES

ROOT = Path(__file__).parent.parent
SMALL = {"weights": "random", "depth": "18", "min_size": "64", "max_size": "128"}
ALL_BOXES = {**SMALL, "score_thresh": "0.0", "detections_per_img": "20"}


def open_app(path: str = "pages/detect.py", **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / path), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def component(app: AppTest, name: str) -> bytes:
    """The data of a mounted component."""
    found = [
        element.proto
        for element in app.get("bidi_component")
        if element.proto.component_name == f"retinanet_{name}"
    ]
    assert len(found) == 1, f"{name}: {len(found)}"
    return found[0].bytes


def header(packed: bytes) -> dict:
    """The JSON at the head of a block of bytes."""
    (length,) = struct.unpack_from("<I", packed)
    return json.loads(packed[4 : 4 + length])


def canvas(app: AppTest) -> dict:
    """What the workbench is told, less its columns."""
    return unpack_columns(component(app, "canvas"))[0]


def kept_pairs(app: AppTest) -> list[int]:
    """The pairs that the workbench shows as kept, best first."""
    return unpack_columns(component(app, "canvas"))[1]["kept_pairs"].tolist()


def widget(app: AppTest, kind: str, key: str):
    return next(one for one in getattr(app, kind) if one.key == key)


def words(app: AppTest) -> str:
    blocks = (app.markdown, app.warning, app.error, app.caption, app.info)
    texts = [element.value for block in blocks for element in block]
    return "\n".join(texts)


def jpeg(color: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    target = io.BytesIO()
    PIL.Image.new("RGB", size, color).save(target, "JPEG")
    return target.getvalue()


def upload(app: AppTest, *files: tuple[str, bytes]) -> None:
    uploader = next(one for one in app.file_uploader if one.key.startswith("uploader_"))
    uploader.set_value([(name, data, "image/jpeg") for name, data in files])
    app.run()
    assert not app.exception


INSIDE = {
    "anchors": "pages/anchors.py",
    "loss": "pages/focal_loss.py",
    "pyramid": "pages/feature_pyramid.py",
}
"""The pages that look inside, by the name of their bench."""


def open_inside(name: str, *, tab: str = "", objects: tuple | None = None, **query: str) -> AppTest:
    """A page that looks inside by its URL.

    Args:
        name: of `INSIDE`.
        tab: that is opened.
        objects: `TruthBox`es that were drawn in the open picture before.
        query: of the URL.
    """
    app = AppTest.from_file(str(ROOT / INSIDE[name]), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    if objects is not None:
        photo = query.get("photo", SAMPLES[0].key)
        app.session_state["truths"] = {photo: Truth(tuple(objects), "drawn")}
    if tab:
        app.session_state[f"{name}_tab"] = tab
    # A first visit is answered in two steps; the browser, which is not here, asks for the second.
    app.session_state["lens_page"] = name
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def open_tab(app: AppTest, name: str, tab: str) -> AppTest:
    """The same page with another tab open."""
    app.session_state[f"{name}_tab"] = tab
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def bench(app: AppTest, name: str) -> tuple[dict, dict]:
    """What a bench is told: the header and the columns."""
    return unpack_columns(component(app, name))


def tab_words(app: AppTest) -> str:
    """The words in the open tab."""
    kinds = ("markdown", "caption", "error", "info", "code")
    return "\n".join(
        element.value for tab in app.tabs for kind in kinds for element in tab.get(kind)
    )
