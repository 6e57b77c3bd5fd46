"""What a person takes home, and how to have the same result again without the app."""

from __future__ import annotations

import io
import json
import re
import shlex
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from pages._shared import engine, state
from pages._shared.gallery import Picture
from retinanet.box_table import BoxTable
from retinanet.config import PostprocessConfig
from retinanet.detection import DetectionTrace
from retinanet.engine import ModelSpec
from retinanet.export import draw_detections, encode_png, to_coco_results, to_csv, to_rows
from retinanet.report import html_report
from retinanet.types import Image

Entry = tuple[str, Image, BoxTable]
"""(file name, picture, its detections)."""


def coco_json(entries: Sequence[Entry]) -> str:
    """COCO results of one picture or many; image ids count from 1."""
    results = [
        result
        for number, (name, _, table) in enumerate(entries, 1)
        for result in to_coco_results(table, table, number, name)
    ]
    return json.dumps(results, indent=1)


def csv_table(entries: Sequence[Entry]) -> str:
    """The detections of one picture or many as CSV."""
    return to_csv(row for name, _, table in entries for row in to_rows(table, table, name))


def annotated_png(entry: Entry) -> bytes:
    """The picture with its boxes at full resolution."""
    _, image, table = entry
    return encode_png(draw_detections(image, table, table))


def annotated_zip(entries: Sequence[Entry]) -> bytes:
    """The annotated pictures of a batch, numbered in the order of the sheet."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, entry in enumerate(entries, 1):
            archive.writestr(f"{number:03d}_{file_stem(entry[0])}.png", annotated_png(entry))
    return target.getvalue()


def file_stem(name: str) -> str:
    """A file name's stem reduced to harmless characters; "picture" when none is left."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name.rsplit(".", 1)[0])[:60].strip("_")
    return stem or "picture"


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 detection", "2 detections"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def downloads(
    spec: ModelSpec,
    picture: Picture,
    table: BoxTable,
    trace: Callable[[], DetectionTrace] | None,
) -> None:
    """Four files of the open picture, each made when it is asked for, and the link to this view.

    Args:
        spec: the model that answered.
        picture: that is open.
        table: its detections.
        trace: gives the trace that they come from; None while the model is not there.
    """
    entry = (picture.image.name, picture.image, table)
    stem = file_stem(picture.image.name)
    count = counted(len(table), "detection")
    st.caption(f"{state.plain(picture.image.name)}: {count}, boxes in its own pixels.")
    with st.container(horizontal=True):
        st.download_button(
            "COCO results (JSON)",
            lambda: coco_json([entry]),
            f"{stem}.json",
            "application/json",
            key="save_json",
            on_click="ignore",
        )
        st.download_button(
            "Table (CSV)",
            lambda: csv_table([entry]),
            f"{stem}.csv",
            "text/csv",
            key="save_csv",
            on_click="ignore",
        )
        st.download_button(
            "Annotated picture (PNG, full size)",
            lambda: annotated_png(entry),
            f"{stem}_detections.png",
            "image/png",
            key="save_png",
            on_click="ignore",
        )
        st.download_button(
            "Report with its ledger (HTML, one file)",
            lambda: report(spec, picture, trace()),
            f"{stem}_report.html",
            "text/html",
            key="save_html",
            on_click="ignore",
            disabled=trace is None,
        )
    _share(picture)


def report(spec: ModelSpec, picture: Picture, trace: DetectionTrace) -> str:
    """The self-contained report of the open picture."""
    return html_report(
        picture.image,
        trace,
        title=picture.title,
        command=command_line(spec, picture, trace.config),
        model_name=engine.spec_name(spec),
    )


def _share(picture: Picture) -> None:
    """The link that restores the picture, the model and every control."""
    st.caption(
        "This link opens the same picture, model and settings."
        if picture.is_sample
        else "This link opens the same model and settings; the photo itself is not in it: whoever "
        "opens it in another session must bring the photo along."
    )
    st.code(share_link(), language=None, wrap_lines=True)


def share_link() -> str:
    """The address of the present view."""
    return f"{(st.context.url or '').split('?')[0]}?{urlencode(st.query_params.to_dict())}"


def batch_downloads(entries: Sequence[Entry]) -> None:
    """The same three for a batch."""
    with st.container(horizontal=True):
        st.download_button(
            "Batch: COCO results (JSON)",
            lambda: coco_json(entries),
            "batch.json",
            "application/json",
            key="save_batch_json",
            on_click="ignore",
        )
        st.download_button(
            "Batch: table (CSV)",
            lambda: csv_table(entries),
            "batch.csv",
            "text/csv",
            key="save_batch_csv",
            on_click="ignore",
        )
        st.download_button(
            "Batch: annotated pictures (ZIP of PNG)",
            lambda: annotated_zip(entries),
            "batch.zip",
            "application/zip",
            key="save_batch_zip",
            on_click="ignore",
        )


def reproduce(spec: ModelSpec, picture: Picture, config: PostprocessConfig) -> None:
    """The command line and the Python that give the open picture's result again."""
    st.caption("Either gives the boxes you see, on any machine with the same weights.")
    st.code(command_line(spec, picture, config), language="bash", wrap_lines=True)
    st.code(python_code(spec, picture, config), language="python", wrap_lines=True)


def _weights(spec: ModelSpec) -> str:
    """The weights' name; an uploaded checkpoint lies on the server under a name of its own."""
    path = Path(spec.weights)
    return f"your_checkpoint{path.suffix}" if path.is_absolute() else spec.weights


def command_line(spec: ModelSpec, picture: Picture, config: PostprocessConfig) -> str:
    """The `python -m retinanet detect` line."""
    settings = {"weights": _weights(spec), **spec.overrides(), **config.to_dict()}
    if spec.precision == "bf16":
        settings["precision"] = "bf16"
    floors = settings.pop("class_score_thresh", {})
    options = " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in settings.items()
    )
    if floors:
        pairs = " ".join(f"{label}={floor}" for label, floor in floors.items())
        options += f" --class-score-thresh {pairs}"
    if picture.is_sample:
        source = (
            '"$(python -c "from retinanet.samples import sample_path; '
            f"print(sample_path('{picture.key}'))\")\""
        )
    else:
        source = shlex.quote(picture.image.name)
    return f"python -m retinanet detect {source} {options} --json boxes.json --image boxes.png"


def python_code(spec: ModelSpec, picture: Picture, config: PostprocessConfig) -> str:
    """The same in Python."""
    if picture.is_sample:
        imports, load = (
            "from retinanet.samples import load_sample\n",
            f"load_sample({picture.key!r})",
        )
    else:
        imports, load = "", f"rn.load_image({picture.image.name!r})"
    values = config.to_dict()
    if config.class_score_thresh:
        values["class_score_thresh"] = dict(config.class_score_thresh)
    settings = ", ".join(f"{name}={value!r}" for name, value in values.items())
    if spec.precision == "bf16":
        imports = f"from retinanet.engine import Engine, ModelSpec\n{imports}"
        wanted = "".join(f", {name}={value!r}" for name, value in spec.overrides().items())
        run = f'Engine().outputs(image, ModelSpec({_weights(spec)!r}{wanted}, precision="bf16"))'
    else:
        run = f"rn.load_model({_weights(spec)!r}, {spec.overrides()!r})(image)"
    return (
        f"import retinanet as rn\n{imports}\n"
        f"image = {load}\n"
        f"outputs = {run}\n"
        f"trace = rn.detect(outputs, rn.PostprocessConfig({settings}))\n"
        f"print(trace.boxes, trace.scores, trace.labels)"
    )
