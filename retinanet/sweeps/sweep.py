"""Every setting of a grid scored on a data set, from stored candidates, without the network."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from retinanet.coco import CocoDataset
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.evaluation import METRICS
from retinanet.sweeps.average_precision import ALL_AREAS, IOU_50, ClassPrecisions, class_precisions
from retinanet.sweeps.candidate_store import CandidateStore, StoreProgress
from retinanet.sweeps.grid import DEFAULT_GRID, Grid
from retinanet.sweeps.latency import Latency, measure_latency
from retinanet.sweeps.matched import MatchedDetections, collect
from retinanet.sweeps.truths import Truths

RANKED_BY: tuple[str, ...] = (*METRICS, "precision", "recall", "f1", "macro_f1")
"""What `Sweep.best` may be asked for."""


@dataclass(frozen=True)
class Counts:
    """Detections that are right and wrong, and objects that are missed, at IoU .5.

    A detection is right when COCO's matching gives it an object that is no crowd; one that lies in
    a crowd is neither. Classes that the data set has not are left out.
    """

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        """Share of the detections that are right; nan without any."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else math.nan

    @property
    def recall(self) -> float:
        """Share of the objects that are found; nan without any."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else math.nan

    @property
    def f1(self) -> float:
        """Their harmonic mean, 2 tp / (2 tp + fp + fn); nan where there is nothing at all."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else math.nan


@dataclass(frozen=True)
class SweepRow:
    """How one setting does. Shares are in [0, 1], nan where nothing can be measured.

    AP rewards low thresholds: a false detection below all true ones costs it nothing. So beside it
    stand the counts at IoU .5, crowds left out, which are what a person meets.

    Args:
        config: the setting.
        metrics: `METRICS` -> value, as pycocotools has them.
        counts: over all classes together (micro).
        macro_f1: mean of the F1 of the classes that have objects.
        detections_per_image: mean number of boxes kept, whatever their class.
        postprocess_seconds: median of one photo's post-processing, on this machine's CPU.
        postprocess_p95: its 95th percentile.
        postprocess_share: the median as a share of the network's median seconds.
    """

    config: PostprocessConfig
    metrics: dict[str, float]
    counts: Counts
    macro_f1: float
    detections_per_image: float
    postprocess_seconds: float = math.nan
    postprocess_p95: float = math.nan
    postprocess_share: float = math.nan

    def to_row(self) -> dict[str, Any]:
        """Plain data, one value a column."""
        counts = self.counts
        return (
            self.config.to_dict()
            | self.metrics
            | {name: getattr(counts, name) for name in ("precision", "recall", "f1")}
            | {"macro_f1": self.macro_f1, "tp": counts.tp, "fp": counts.fp, "fn": counts.fn}
            | {"detections_per_image": self.detections_per_image}
            | {"postprocess_seconds": self.postprocess_seconds}
            | {"postprocess_p95": self.postprocess_p95}
            | {"postprocess_share": self.postprocess_share}
        )


@dataclass(frozen=True, eq=False)
class Sweep:
    """A grid of settings and how each does.

    Args:
        grid: the settings.
        rows: one for each, in the order of `grid.settings`.
        matched: the detections behind them.
        skipped: (image id, sentence) of the photos that could not be read and are not in it.
    """

    grid: Grid
    rows: tuple[SweepRow, ...]
    matched: MatchedDetections
    skipped: tuple[tuple[int, str], ...] = ()

    @property
    def photos(self) -> int:
        """How many photos were scored."""
        return len(self.matched.image_ids)

    @cached_property
    def network_seconds(self) -> float:
        """Median of what the network took for a photo when it was stored."""
        return float(np.median(self.matched.network_seconds))

    def to_rows(self) -> list[dict[str, Any]]:
        """The rows as plain data, for CSV."""
        return [row.to_row() for row in self.rows]

    def best(self, metric: str = "f1") -> SweepRow:
        """The row with the highest value; of equal ones the first.

        Raises:
            ConfigError: there is no such metric (`RANKED_BY`).
        """
        if metric not in RANKED_BY:
            raise ConfigError(f"There is no metric {metric!r}; use one of {', '.join(RANKED_BY)}.")
        values = [row.to_row()[metric] for row in self.rows]
        known = [-math.inf if math.isnan(value) else value for value in values]
        return self.rows[int(np.argmax(known))]

    def at(self, config: PostprocessConfig) -> SweepRow:
        """The row of a setting.

        Raises:
            ConfigError: it is not in the grid.
        """
        for row in self.rows:
            if row.config == config:
                return row
        raise ConfigError("This setting is not in the swept grid; sweep a grid that has it.")

    def per_class(self, config: PostprocessConfig) -> list[dict[str, Any]]:
        """How a setting does for each class of the data set that has objects or detections.

        Returns:
            Rows with "category", "category_id", "label" (None if the model has not the class),
            "AP", "AP50" (nan without objects), "precision", "recall", "f1", "tp", "fp", "fn",
            "gts" (objects that are no crowds), and the photos behind them: "image_ids" with such
            objects, "missed_image_ids" where one is missed, "false_image_ids" with a wrong
            detection.

        Raises:
            ConfigError: the setting is not in the grid.
        """
        self.at(config)
        return class_rows(self.matched, config)


def sweep(
    store: CandidateStore,
    dataset: CocoDataset,
    grid: Grid = DEFAULT_GRID,
    *,
    class_score_thresh: Sequence[tuple[int, float]] = (),
    latency_photos: int = 8,
    progress: Callable[[StoreProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Sweep:
    """Score every setting of a grid on the stored photos of a data set.

    Each setting's detections are `detect`'s (see `detections`), and its AP is what pycocotools
    gives for them. Photos that could not be stored are left out, objects and all.

    Args:
        store: the candidates.
        dataset: its annotations are what is scored against.
        grid: the settings.
        class_score_thresh: floors of single classes, by label index, that all settings share.
        latency_photos: on how many photos post-processing is timed; 0 leaves that out.
        progress: called after each photo.
        cancel: set it to stop.

    Raises:
        Cancelled: `cancel` was set.
        ConfigError: a setting asks for more than is stored.
        DatasetError: no photo is stored, a file is damaged, or the annotation file has gone.
    """
    floors = PostprocessConfig(class_score_thresh=tuple(class_score_thresh)).class_score_thresh
    matched = collect(
        store, dataset, grid, class_score_thresh=floors, progress=progress, cancel=cancel
    )
    settings = [replace(own, class_score_thresh=floors) for own in grid.settings]
    times = measure_latency(store, matched.image_ids.tolist(), settings, latency_photos, cancel)
    network = float(np.median(matched.network_seconds))
    rows = tuple(_row(matched, own, times.get(own), network) for own in settings)
    return Sweep(grid, rows, matched, store.skipped)


def rows_at(matched: MatchedDetections, config: PostprocessConfig) -> np.ndarray:
    """[N] `RECORD` of a setting of the grid."""
    values = (config.score_thresh, config.nms_thresh, config.topk_candidates)
    return matched.at(*values, config.detections_per_img)


def _row(
    matched: MatchedDetections, config: PostprocessConfig, latency: Latency | None, network: float
) -> SweepRow:
    rows = rows_at(matched, config)
    known = rows[rows["column"] >= 0]
    counts = class_counts(known, matched.truths.counts[ALL_AREAS])
    with_objects = [own.f1 for own in counts if own.tp + own.fn]
    row = SweepRow(
        config=config,
        metrics=_precisions(matched, known).summary,
        counts=Counts(*(sum(getattr(own, n) for own in counts) for n in ("tp", "fp", "fn"))),
        macro_f1=float(np.mean(with_objects)) if with_objects else math.nan,
        detections_per_image=len(rows) / len(matched.image_ids),
    )
    if latency is None:
        return row
    return replace(
        row,
        postprocess_seconds=latency.median,
        postprocess_p95=latency.p95,
        postprocess_share=latency.median / network if network else math.nan,
    )


def _precisions(matched: MatchedDetections, known: np.ndarray) -> ClassPrecisions:
    columns = (known[name] for name in ("column", "class_rank", "true", "ignored"))
    return class_precisions(*columns, matched.truths.counts)


def right_and_wrong(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N] bool each: right, and wrong, at IoU .5 for objects of any size; others are neither."""
    bit = np.uint64(1 << IOU_50)
    right = rows["true"] & bit != 0
    return right, ~right & (rows["ignored"] & bit == 0)


def class_counts(rows: np.ndarray, objects: np.ndarray) -> list[Counts]:
    """The counts of each class.

    Args:
        rows: [N] `RECORD`, of classes of the data set.
        objects: [K] int64.
    """
    right, wrong = right_and_wrong(rows)
    hits = np.bincount(rows["column"][right], minlength=len(objects))
    misses = np.bincount(rows["column"][wrong], minlength=len(objects))
    counted = zip(hits.tolist(), misses.tolist(), (objects - hits).tolist(), strict=True)
    return [Counts(*own) for own in counted]


def class_rows(matched: MatchedDetections, config: PostprocessConfig) -> list[dict[str, Any]]:
    """See `Sweep.per_class`."""
    rows = rows_at(matched, config)
    known = rows[rows["column"] >= 0]
    truths, objects = matched.truths, matched.truths.counts[ALL_AREAS]
    ap = _precisions(matched, known).ap[ALL_AREAS]
    right, wrong = right_and_wrong(known)
    ids, photos = matched.image_ids, len(matched.image_ids)
    listed = []
    for column, counts in enumerate(class_counts(known, objects)):
        if not (objects[column] or counts.fp):
            continue
        own = known["column"] == column
        found = np.bincount(known["image"][own & right], minlength=photos)
        there = np.bincount(_images_of(truths, column), minlength=photos)
        listed.append(
            {
                "category": truths.names[column],
                "category_id": truths.category_ids[column],
                "label": matched.labels.get(column),
                "AP": float(ap[:, column].mean()),
                "AP50": float(ap[IOU_50, column]),
                **{n: getattr(counts, n) for n in ("precision", "recall", "f1", "tp", "fp", "fn")},
                "gts": int(objects[column]),
                "image_ids": ids[there > 0].tolist(),
                "missed_image_ids": ids[there > found].tolist(),
                "false_image_ids": ids[np.unique(known["image"][own & wrong])].tolist(),
            }
        )
    return listed


def _images_of(truths: Truths, column: int) -> np.ndarray:
    images, columns = truths.by_image
    return images[columns == column]
