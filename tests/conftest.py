"""Settings for every test; the app in a browser, for those that drive it."""

import os

import pytest
import streamlit as st
import torch

from pages._shared import workroom
from retinanet.coco import load_coco
from retinanet.engine import Engine
from tests.browser import browsing, find_chromium, serving
from tests.shapes import write_shapes

# With one thread, convolutions add in one order: equal to torchvision means equal bit for bit.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chromium():
    if find_chromium() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs a Chromium: install it, e.g. apt-get install chromium.")
        pytest.skip("no Chromium or Chrome is installed, so the app cannot be driven in one")


@pytest.fixture(scope="session", autouse=True)
def _workroom(tmp_path_factory):
    """What the app keeps on disk is kept apart from what a person has there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(workroom.FOLDER, str(tmp_path_factory.mktemp("workroom")))
        yield


@pytest.fixture(scope="session")
def address(chromium, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server") / "log.txt") as url:
        yield url


@pytest.fixture(scope="module")
def context(chromium):
    with browsing(viewport={"width": 1280, "height": 900}, accept_downloads=True) as opened:
        yield opened


@pytest.fixture
def page(context):
    opened = context.new_page()
    opened.foreign = []
    opened.on(
        "request",
        lambda request: (
            opened.foreign.append(request.url)
            if not request.url.startswith(("http://127.0.0.1", "blob:", "data:"))
            else None
        ),
    )
    yield opened
    assert opened.foreign == [], "the page asked another host for something"
    opened.close()


@pytest.fixture(scope="session")
def core():
    return Engine()


@pytest.fixture
def saved(monkeypatch):
    """What the page offers to save: file name -> function that makes it, where it is enabled."""
    found = {}
    offer = st.download_button

    def keep(label, data, file_name, *rest, **settings):
        if not settings.get("disabled"):
            found[file_name] = data
        return offer(label, data, file_name, *rest, **settings)

    monkeypatch.setattr(st, "download_button", keep)
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Four tiny photos for the training loop; a module with photos of its own has its own."""
    folder = tmp_path_factory.mktemp("data") / "data"
    return load_coco(write_shapes(folder), folder / "images")


@pytest.fixture
def unsaved(monkeypatch):
    """Write no checkpoint, which takes longer than a step."""
    monkeypatch.setattr("retinanet.training_state.save_state", lambda path, stepper, step: None)
