"""A photo of a data set on another page: with its boxes, within the session's limits."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import PIL.Image
import pytest
import streamlit as st

from pages._shared import open_photo, state
from retinanet.coco import load_coco
from tests.shapes import write_shapes


class QueryParams(dict):
    """The address of a session without a browser."""

    def to_dict(self) -> dict[str, str]:
        return dict(self)


@pytest.fixture
def session(monkeypatch):
    """A session of its own, and where it was led."""
    values: dict = {}
    went: list[str] = []
    monkeypatch.setattr(st, "session_state", values)
    monkeypatch.setattr(st, "query_params", QueryParams())
    monkeypatch.setattr(st, "switch_page", lambda page, query_params: went.append(page))
    return SimpleNamespace(values=values, went=went)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    return load_coco(write_shapes(folder, photos=6), folder / "images")


def test_a_photo_opens_elsewhere_with_its_boxes(session, boxes):
    photo = boxes.photos[1]
    open_photo.open_in("pages/anchors.py", boxes, photo.image_id)
    assert session.went == ["pages/anchors.py"]
    (upload,) = state.uploads().values()
    assert upload.data == photo.path.read_bytes()
    assert state.photo() == upload.id
    kept = session.values["truths"][upload.id]
    assert kept.source == "file"
    assert [one.category for one in kept.objects] == [
        boxes.categories[label] for label in photo.target.labels.tolist()
    ]
    assert [list(one.box) for one in kept.objects] == photo.target.boxes.tolist()
    changed = replace(kept, objects=kept.objects[:1], source="drawn")
    session.values["truths"][upload.id] = changed
    open_photo.open_in("pages/anchors.py", boxes, photo.image_id)
    assert session.values["truths"][upload.id] is changed  # a hand's work stays
    assert len(state.uploads()) == 1


def test_the_oldest_photo_of_a_data_set_gives_way_and_no_other(session, boxes, monkeypatch):
    monkeypatch.setattr(open_photo, "MAX_UPLOADS", 3)
    own = state.Upload("mine.png", b"mine")
    state.uploads()[own.id] = own
    for photo in boxes.photos[:3]:
        open_photo.open_in("pages/detect.py", boxes, photo.image_id)
    names = [upload.name for upload in state.uploads().values()]
    assert names == ["mine.png", boxes.photos[1].path.name, boxes.photos[2].path.name]
    monkeypatch.setattr(open_photo, "MAX_UPLOADS", 1)
    open_photo.open_in("pages/detect.py", boxes, boxes.photos[3].image_id)
    assert list(state.uploads()) == [own.id]
    assert "was not opened" in session.values["notices"][-1]
    assert len(session.went) == 3


def test_a_photo_that_cannot_be_opened_leaves_a_sentence(session, tmp_path):
    dataset = load_coco(write_shapes(tmp_path, photos=3), tmp_path / "images")
    first, second, third = dataset.photos
    first.path.write_bytes(b"no picture")
    PIL.Image.new("RGB", (11, 7)).save(second.path)
    third.path.unlink()
    for photo in dataset.photos:
        open_photo.open_in("pages/detect.py", dataset, photo.image_id)
    open_photo.open_in("pages/detect.py", dataset, 999)
    assert session.went == []
    assert len(session.values["notices"]) == 4
    assert not state.uploads()
