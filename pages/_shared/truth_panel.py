"""The tab for ground truth: files in, COCO JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import streamlit as st

from pages._shared import state, truth
from pages._shared.gallery import Picture, image_of
from pages._shared.inside import Scene
from pages._shared.takehome import file_stem
from retinanet.truth import clip_truth, to_coco
from retinanet.truth_class_names import read_class_names
from retinanet.truth_files import TruthFileError, read_truth

FILE_TYPES = ["json", "xml", "txt", "yaml", "yml", "names"]
NAME_FILES = ("classes.txt", "obj.names", "data.yaml", "data.yml")
"""Files that say what YOLO's class numbers mean, in lower case."""


def show(scene: Scene) -> None:
    """What is there as a table, a file of yours instead of it, and the file to take along."""
    left, right = st.columns([3, 2], gap="large", wrap=True)
    with left:
        _table(scene)
        _download(scene)
    with right:
        _upload(scene.picture)
        st.caption(
            "Draw on the picture: A begins a new object, its corners and sides can be dragged, "
            "Delete removes it, U undoes. Whatever is drawn here holds on all pages and stays "
            "for this session; up to some twenty objects are also in the link."
        )


def _table(scene: Scene) -> None:
    st.markdown(f"**{state.plain(scene.truth.words)}**")
    rows = [
        {
            "category": one.category,
            "x1, px": one.box[0],
            "y1, px": one.box[1],
            "width, px": one.box[2] - one.box[0],
            "height, px": one.box[3] - one.box[1],
        }
        for one in scene.truth.objects
    ]
    if rows:
        pixels = st.column_config.NumberColumn(format="%.1f", width="small")
        names = ("x1, px", "y1, px", "width, px", "height, px")
        st.dataframe(
            pd.DataFrame(rows), hide_index=True, column_config=dict.fromkeys(names, pixels)
        )


def _download(scene: Scene) -> None:
    picture = scene.picture
    entry = (picture.image.name, picture.image.size, scene.truth.objects)
    st.download_button(
        "Ground truth (COCO JSON)",
        lambda: json.dumps(to_coco([entry]), indent=1),
        f"{file_stem(picture.image.name)}_truth.json",
        "application/json",
        key="save_truth",
        on_click="ignore",
    )


def _upload(picture: Picture) -> None:
    """A file of annotations; it is read for the open picture and for the other uploads too."""
    turn = st.session_state.setdefault("truth_turn", 0)
    key = f"truth_file_{turn}"

    def arrived() -> None:
        take_in([(file.name, file.getvalue()) for file in st.session_state[key]], picture)
        st.session_state["truth_turn"] = turn + 1
        state.redraw_canvas()

    st.file_uploader(
        "Annotations: COCO JSON, Pascal VOC XML, or YOLO txt with its classes.txt",
        type=FILE_TYPES,
        accept_multiple_files=True,
        key=key,
        on_change=arrived,
        max_upload_size=64,
        help="Matched to your pictures by file name. It stays in this session's memory.",
    )


def take_in(files: list[tuple[str, bytes]], picture: Picture) -> None:
    """Give the pictures at hand what files say of them; what is wrong with one is said."""
    class_names: tuple[str, ...] = ()
    for name, data in files:
        if name.lower() in NAME_FILES:
            with _saying():
                class_names = read_class_names(data)
    known = _pictures(picture)  # once: their sizes come from decoding them
    for name, data in files:
        if name.lower() not in NAME_FILES:
            with _saying():
                _take_in_one(name, data, known, class_names)


@contextmanager
def _saying() -> Iterator[None]:
    try:
        yield
    except TruthFileError as fault:
        state.say(str(fault))


def _take_in_one(
    name: str,
    data: bytes,
    known: list[tuple[str, tuple[int, int], str]],
    class_names: tuple[str, ...],
) -> None:
    sizes = [(file_name, size) for file_name, size, _ in known]
    found = read_truth(data, name, image_names=sizes, class_names=class_names)
    for file_name, size, key in known:
        objects = found.objects_by_image.get(file_name)
        if objects is not None:
            truth.put(key, clip_truth(objects, size), "file")
    for note in found.notes:
        state.say(note)


def _pictures(picture: Picture) -> list[tuple[str, tuple[int, int], str]]:
    """(file name, size, key) of the open picture and of the uploads."""
    found: dict[str, Any] = {picture.key: (picture.image.name, picture.image.size, picture.key)}
    for upload in state.uploads().values():
        found.setdefault(upload.id, (upload.name, image_of(upload).size, upload.id))
    return list(found.values())
