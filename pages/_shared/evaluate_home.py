"""What a person takes home of an evaluation, and how to have the same again without the app."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import streamlit as st

from pages._shared import evaluate_state, takehome, tasks, workroom
from pages._shared.behind import csv_of
from pages._shared.engine import spec_name
from pages._shared.evaluate_data import coverage_work
from pages._shared.evaluate_sweep import sweep_key
from pages._shared.evaluate_work import Measured
from retinanet.config import PostprocessConfig
from retinanet.evaluation_report import evaluation_html
from retinanet.sweeps import Sweep


def show(told: Measured) -> None:
    """The files, the link, and the same in a terminal and in Python."""
    setting = told.setting
    stem = f"evaluation_{setting.tag}"
    swept = _swept(told)
    with st.container(horizontal=True):
        st.download_button(
            "Detections (COCO results JSON)",
            lambda: json.dumps(told.results),
            f"{stem}_results.json",
            "application/json",
            key="save_results",
            on_click="ignore",
        )
        st.download_button(
            "Metrics (JSON)",
            lambda: json.dumps(metrics(told), indent=1),
            f"{stem}_metrics.json",
            "application/json",
            key="save_metrics",
            on_click="ignore",
        )
        st.download_button(
            "Classes (CSV)",
            lambda: csv_of(told.swept.per_class(told.row.config)),
            f"{stem}_classes.csv",
            "text/csv",
            key="save_classes",
            on_click="ignore",
        )
        st.download_button(
            "Sweep (CSV)",
            lambda: csv_of(swept.to_rows()),
            f"{stem}_sweep.csv",
            "text/csv",
            key="save_sweep",
            on_click="ignore",
            disabled=swept is None,
            help=None if swept else "Run the sweep first: the tab Sweep.",
        )
    _report(told, stem)
    st.caption("This link opens the same data set, model, setting and grid.")
    st.code(takehome.share_link(), language=None, wrap_lines=True)
    st.caption("The same numbers without the app, on any machine with the same weights and photos.")
    st.code(command_line(told), language="bash", wrap_lines=True)
    st.code(python_code(told), language="python", wrap_lines=True)
    st.caption("The sweep of the grid:")
    st.code(sweep_line(told), language="bash", wrap_lines=True)


def _report(told: Measured, stem: str) -> None:
    """The report is long work (it draws photos), so it is made when it is asked for."""
    key = ("report", *told.setting.key)
    task = tasks.get_tasks().get(key)
    with st.container(horizontal=True, vertical_alignment="center"):
        if task is None:
            st.button(
                "Make the report (HTML, one file)",
                key="make_report",
                on_click=_begin_report,
                args=(key, told),
            )
            return
        task = tasks.show(key)
        if task is not None and task.state == "ready":
            st.download_button(
                "Report (HTML, one file)",
                task.result,
                f"{stem}.html",
                "text/html",
                key="save_report",
                on_click="ignore",
            )


def _begin_report(key: Any, told: Measured) -> None:
    setting, command = told.setting, command_line(told)
    subject = setting.subject
    coverage = coverage_work(subject)

    def make(task: tasks.Task) -> str:
        return evaluation_html(
            setting.dataset,
            told.results,
            title=subject.data.title,
            command=command,
            model_name=spec_name(subject.spec),
            config=setting.knobs,
            errors=told.errors,
            coverage=coverage(task),
            score_thresh=setting.knobs.score_thresh,
        )

    tasks.get_tasks().start(key, "Drawing the report", make)


def metrics(told: Measured) -> dict[str, Any]:
    """The setting and what it gives, as plain data."""
    row = told.row.to_row()
    plain = {name: None if value != value else value for name, value in row.items()}
    return {
        "setting": told.setting.knobs.to_dict(),
        "photos": told.swept.photos,
        "metrics": {k: v for k, v in plain.items() if k not in told.setting.knobs.to_dict()},
        "errors": [
            {name: row[name] for name in ("type", "count", "dAP50")} for row in told.errors.rows
        ],
        "skipped": [list(one) for one in told.setting.store.skipped],
    }


def _swept(told: Measured) -> Sweep | None:
    task = tasks.get_tasks().get(sweep_key(told.setting))
    return task.result if task is not None and task.state == "ready" else None


def _places(told: Measured) -> tuple[str, str]:
    """The annotation file and the photos' folder; strangers are told no path of the server."""
    subject = told.setting.subject
    data, part = subject.data, subject.desk.part
    annotations = subject.whole.annotation_file
    images = data.train_images if part == "train" else data.val_images
    if workroom.is_local():
        return str(annotations), str(images)
    return annotations.name, "images"


def _weights(told: Measured) -> str:
    path = Path(told.setting.subject.spec.weights)
    if not path.is_absolute() or workroom.is_local():
        return str(path)
    return f"your_checkpoint{path.suffix}"


def command_line(told: Measured) -> str:
    """The `python -m retinanet evaluate` line."""
    annotations, images = _places(told)
    spec, knobs = told.setting.subject.spec, told.setting.knobs
    sizes = {name: getattr(spec, name) for name in ("min_size", "max_size")}
    values = {"images": images, "weights": _weights(told), **sizes, **knobs.to_dict()}
    floors = values.pop("class_score_thresh", {})
    options = [
        f"--{name.replace('_', '-')} {shlex.quote(f'{value}')}"
        for name, value in values.items()
        if value is not None
    ]
    if floors:
        pairs = " ".join(f"{label}={floor}" for label, floor in floors.items())
        options.append(f"--class-score-thresh {pairs}")
    return f"python -m retinanet evaluate {shlex.quote(annotations)} {' '.join(options)}"


def sweep_line(told: Measured) -> str:
    """The same line with the grid that the tab Sweep has."""
    words = " ".join(map(shlex.quote, evaluate_state.grid_words(evaluate_state.current())))
    return f"{command_line(told)} --sweep {words} --csv sweep.csv"


def python_code(told: Measured) -> str:
    """The same in Python."""
    annotations, images = _places(told)
    spec, knobs = told.setting.subject.spec, told.setting.knobs
    values = ", ".join(f"{name}={value!r}" for name, value in _arguments(knobs).items())
    subset = [f"# The page draws {len(told.setting.subject.dataset.photos):,} of its photos."]
    is_subset = told.setting.subject.dataset is not told.setting.subject.whole
    lines = [
        "from pathlib import Path",
        "",
        "import retinanet as rn",
        "from retinanet.analysis import error_types",
        "from retinanet.coco import load_coco",
        "from retinanet.sweeps import CandidateStore, Grid, model_key, results, sweep",
        "",
        f"dataset = load_coco({annotations!r}, {images!r})",
        *(subset if is_subset else []),
        f"model = rn.load_model({_weights(told)!r}, {spec.overrides()!r})",
        "store = CandidateStore.fill(",
        '    Path("runs/evaluate"), model, dataset, key=model_key(model)',
        ")  # the network runs here, once for each photo",
        f"config = rn.PostprocessConfig({values})",
        "row = sweep(",
        "    store, dataset, Grid.of(config), class_score_thresh=config.class_score_thresh",
        ").rows[0]",
        "print(row.metrics, row.counts.precision, row.counts.recall, row.counts.f1)",
        "for one in error_types(dataset, list(results(store, config, dataset))).rows:",
        '    print(one["sentence"])',
    ]
    return "\n".join(lines)


def _arguments(knobs: PostprocessConfig) -> dict[str, Any]:
    values = knobs.to_dict()
    if knobs.class_score_thresh:
        values["class_score_thresh"] = dict(knobs.class_score_thresh)
    return values
