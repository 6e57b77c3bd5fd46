"""What the Evaluate page works out: the network pass, a setting, and what is read from it.

Each is a task of the process: done once however many ask, watched, stopped, kept for a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from pages._shared import engine, tasks, workroom
from pages._shared.data_panel import DataSets
from pages._shared.evaluate_state import Desk
from pages._shared.tasks import Task
from retinanet.analysis import ErrorTypes, error_types
from retinanet.coco import CocoDataset
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.engine import Cancelled, ModelSpec
from retinanet.sweeps import (
    SCORE_FLOOR,
    TOPK,
    CandidateStore,
    Grid,
    StoreProgress,
    Sweep,
    SweepRow,
    model_key,
    results,
    sweep,
)

T = TypeVar("T")

TIMED_PHOTOS = 2
"""Photos that tell what one costs; the first forward of a model takes longer than the rest."""

KEPT_SETTINGS = 6
"""Settings of which what is worked out is kept in memory, of all sessions together."""

OF_A_SETTING: tuple[str, ...] = ("measured", "confusion", "scores", "report")
"""Tasks that hold a setting's detections: their names, before its key."""


def part_of(data: DataSets, part: str) -> CocoDataset:
    """A part of a data set, "train" or "val"."""
    return data.train if part == "train" else data.val


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated.

    Args:
        data: the data set.
        dataset: the photos of it that are asked for.
        desk: which ones those are.
        spec: the model.
        config: its configuration.
        weights: names its numbers, size and precision (`model_key`).
    """

    data: DataSets
    dataset: CocoDataset
    desk: Desk
    spec: ModelSpec
    config: ModelConfig
    weights: str

    @property
    def key(self) -> tuple[Hashable, ...]:
        """The same for the same photos, annotations and model."""
        stamp = self.dataset.annotation_file.stat().st_mtime_ns
        desk = self.desk
        return (self.data.key, desk.part, desk.photos, desk.sample_seed, stamp, self.weights)

    @property
    def whole(self) -> CocoDataset:
        """All photos of the part that is evaluated."""
        return part_of(self.data, self.desk.part)

    @property
    def folder(self) -> Path:
        """Where its candidates lie, those of all numbers of photos and of all models."""
        return workroom.folder("evaluations", f"{self.data.key}-{self.desk.part}")


@st.cache_data(max_entries=32, show_spinner=False)
def weights_name(spec: ModelSpec, stamp: float) -> str:
    """Names a loaded model by its numbers: the same file under another name is the same model.

    Args:
        spec: the model, loaded.
        stamp: when its file was last written; 0 for weights by name.
    """
    return model_key(engine.get_engine().model(spec), spec.precision or "fp32")


def stamp_of(spec: ModelSpec) -> float:
    """When the file of the weights was last written; 0 for weights by name."""
    path = Path(spec.weights)
    return path.stat().st_mtime if path.is_absolute() else 0.0


# ------------------------------------------------------------------ the network pass


def pass_key(subject: Subject) -> Hashable:
    """What the task of the network pass is called."""
    return ("candidates", *subject.key)


def missing(subject: Subject) -> int:
    """How many photos the network has not seen yet; unreadable ones among them."""
    seen: list[StoreProgress] = []
    fill = _filling(subject)
    stop = threading.Event()
    stop.set()
    with contextlib.suppress(Cancelled):  # it is only to count
        fill(subject.dataset, seen.append, stop)
    return seen[0].total - seen[0].done


def begin_pass(subject: Subject) -> None:
    """Run the network on the photos that are not on disk; what is there stays."""
    fill = _filling(subject)

    def work(task: Task) -> CandidateStore:
        def told(at: StoreProgress) -> None:
            task.done, task.total = at.done, at.total
            # What was on disk before costs nothing: the core's own estimate knows that.
            task.eta_seconds = at.eta_seconds if at.eta_seconds == at.eta_seconds else None

        return fill(subject.dataset, told, task.cancel)

    tasks.get_tasks().start(pass_key(subject), "Running the network on photo", work)


def timed(subject: Subject) -> float | None:
    """Seconds that a photo costs, from the first two, which are then on disk.

    None while they are at work or where they cannot be read.
    """
    fill = _filling(subject)

    def work(task: Task) -> float | None:
        first = replace(subject.dataset, photos=subject.dataset.photos[:TIMED_PHOTOS])
        store = fill(first, lambda at: task.tell(at.done, at.total), task.cancel)
        return min((seconds_of(store, image_id) for image_id in store.image_ids), default=None)

    return worked(("timed", *subject.key), "Timing the network on two photos", work)


def seconds_of(store: CandidateStore, image_id: int) -> float:
    """What the network and the storing of a photo took."""
    stored = store.read(image_id)
    return stored.network_seconds + stored.prepare_seconds


_Fill = Callable[[CocoDataset, Callable[[StoreProgress], None], threading.Event], CandidateStore]


def _filling(subject: Subject) -> _Fill:
    """What runs the network on photos that are not on disk."""
    # Looked up here: a task's thread has no Streamlit session to look it up in.
    core, folder = engine.get_engine(), subject.folder

    def fill(
        dataset: CocoDataset,
        progress: Callable[[StoreProgress], None],
        cancel: threading.Event,
    ) -> CandidateStore:
        return CandidateStore.fill(
            folder,
            lambda image: core.outputs(image, subject.spec, cancel, keep=False),
            dataset,
            key=subject.weights,
            score_floor=SCORE_FLOOR,
            topk=TOPK,
            progress=progress,
            cancel=cancel,
        )

    return fill


# ------------------------------------------------------------------ a setting


@dataclass(frozen=True, eq=False)
class Setting:
    """What is evaluated, at one setting.

    Args:
        subject: what it is of.
        store: its candidates.
        dataset: the photos that could be read.
        knobs: the setting.
    """

    subject: Subject
    store: CandidateStore
    dataset: CocoDataset
    knobs: PostprocessConfig

    @property
    def key(self) -> tuple[Hashable, ...]:
        """The same for the same photos, model and setting."""
        return (*self.subject.key, self.knobs)

    @property
    def tag(self) -> str:
        """The key, short: for the keys of widgets whose selection means this setting only."""
        return hashlib.sha256(repr(self.key).encode()).hexdigest()[:10]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a setting gives.

    Args:
        setting: that was measured.
        results: its detections, in COCO's results format.
        swept: its metrics, as a sweep of one setting.
        errors: what became of every detection and every object.
    """

    setting: Setting
    results: list[dict[str, Any]]
    swept: Sweep
    errors: ErrorTypes

    @property
    def row(self) -> SweepRow:
        """The metrics."""
        return self.swept.rows[0]


def measured(setting: Setting) -> Measured | None:
    """The results at a setting; None while they are worked out."""

    def work(task: Task) -> Measured:
        found = list(_counted(setting, task))
        task.what = "Matching the detections"
        errors = error_types(setting.dataset, found)
        return Measured(setting, found, swept(setting, Grid.of(setting.knobs), task), errors)

    value = worked(("measured", *setting.key), "Taking the detections of photo", work)
    if value is not None:
        _let_old_settings_go(setting.key)
    return value


def swept(setting: Setting, grid: Grid, task: Task) -> Sweep:
    """A sweep that tells a task how far it is; the floors of single classes are the setting's."""
    return sweep(
        setting.store,
        setting.dataset,
        grid,
        class_score_thresh=setting.knobs.class_score_thresh,
        progress=lambda at: task.tell(at.done, at.total),
        cancel=task.cancel,
    )


def _counted(setting: Setting, task: Task) -> Iterator[dict[str, Any]]:
    """The detections, photo after photo."""
    total = len(setting.dataset.photos)
    for done, photo in enumerate(setting.dataset.photos, start=1):
        if task.cancel.is_set():
            raise Cancelled
        yield from results(setting.store, setting.knobs, replace(setting.dataset, photos=(photo,)))
        task.tell(done, total)


@st.cache_resource(show_spinner=False)
def _last_settings() -> OrderedDict[Hashable, None]:
    return OrderedDict()


def _let_old_settings_go(key: Hashable) -> None:
    """Of a setting that nobody has asked for in a while nothing is kept."""
    last = _last_settings()
    last[key] = None
    last.move_to_end(key)
    while len(last) > KEPT_SETTINGS:
        oldest, _ = last.popitem(last=False)
        for name in OF_A_SETTING:
            tasks.get_tasks().forget((name, *oldest))


def worked(key: Hashable, what: str, work: Callable[[Task], T]) -> T | None:
    """The result of a task that begins when it is first asked for; None while it is not there.

    One that was stopped or failed stands until its button is pressed.
    """
    if tasks.get_tasks().get(key) is None:
        tasks.get_tasks().start(key, what, work)
    task = tasks.show(key)
    return task.result if task is not None and task.state == "ready" else None
