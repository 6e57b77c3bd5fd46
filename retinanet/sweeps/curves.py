"""Precision over recall, per class and for all classes, as COCO's evaluation draws it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from retinanet.average_precision import RECALLS, interpolated, precision_recall
from retinanet.coco import CocoDataset
from retinanet.coco_matching import IOU_THRESHOLDS
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.sweeps.average_precision import ALL_AREAS, unpacked
from retinanet.sweeps.candidate_store import CandidateStore, StoreProgress
from retinanet.sweeps.grid import Grid
from retinanet.sweeps.matched import MatchedDetections, collect, counted

ALL = "all classes"


@dataclass(frozen=True, eq=False)
class PRCurve:
    """Precision over recall of one class, or of all. N = number of detections that count.

    Args:
        category: name of the class, `ALL` for all of them.
        label: label index; None for all classes, or where the model has not the class.
        gts: objects to be found, 1 or more.
        recall: [N] float64 in [0, 1], rising: after each detection, best score first.
        precision: [N] float64 in [0, 1].
        scores: [N] float32: of each detection.
        interpolated: [101] float64: precision at `RECALLS`, as pycocotools has it; for all classes
            the mean of the classes' (its mean is their AP), while the three above are of all
            classes' detections in one list.
        ap: mean of `interpolated`.
    """

    category: str
    label: int | None
    gts: int
    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    interpolated: np.ndarray
    ap: float

    def point_at(self, score_thresh: float) -> tuple[float, float] | None:
        """(recall, precision) of the detections above a threshold; None without any."""
        count = int((self.scores > np.float32(score_thresh)).sum())
        return (float(self.recall[count - 1]), float(self.precision[count - 1])) if count else None


def pr_curves(
    store: CandidateStore,
    dataset: CocoDataset,
    config: PostprocessConfig,
    iou: float = 0.5,
    *,
    progress: Callable[[StoreProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> list[PRCurve]:
    """The curve of all classes first, then those of the classes with objects, by category id.

    They reach as far as `config.score_thresh` lets them: take the store's floor to see what lies
    below a threshold, and `PRCurve.point_at` for where that threshold is.

    Args:
        store: the candidates.
        dataset: its annotations are what is scored against.
        config: one setting.
        iou: from which IoU on a detection is right: .5, .55, ..., .95.
        progress, cancel: as in `sweep`.

    Raises:
        Cancelled, ConfigError, DatasetError: as `sweep`; ConfigError also for another IoU.
    """
    place = _place(iou)
    matched = collect(
        store,
        dataset,
        Grid.of(config),
        class_score_thresh=config.class_score_thresh,
        progress=progress,
        cancel=cancel,
    )
    return curves_of(matched, config, place)


def curves_of(matched: MatchedDetections, config: PostprocessConfig, place: int) -> list[PRCurve]:
    """The curves of a setting of a grid; `place` of the IoU among the ten thresholds."""
    values = (config.score_thresh, config.nms_thresh, config.topk_candidates)
    rows = counted(matched.at(*values, config.detections_per_img))
    objects = matched.truths.counts[ALL_AREAS]
    wanted = rows[objects[rows["column"]] > 0]
    curves = []
    for column in np.flatnonzero(objects).tolist():
        own = rows[rows["column"] == column]
        name, label = matched.truths.names[column], matched.labels.get(column)
        curves.append(_curve(own, place, int(objects[column]), name, label))
    if not curves:
        return []
    by_score = wanted[np.lexsort([wanted["rank"], wanted["image"], -wanted["score"]])]
    pooled = _curve(by_score, place, int(objects.sum()), ALL, None)
    mean = np.mean([curve.interpolated for curve in curves], axis=0)
    columns = (pooled.recall, pooled.precision, pooled.scores)
    return [PRCurve(ALL, None, pooled.gts, *columns, mean, float(mean.mean())), *curves]


def _curve(rows: np.ndarray, place: int, gts: int, name: str, label: int | None) -> PRCurve:
    true, ignored = (unpacked(rows[own])[place : place + 1] for own in ("true", "ignored"))
    counts = ~ignored[0]  # what is neither right nor wrong moves nothing
    true, scores = true[:, counts], rows["score"][counts]
    precision, recall = precision_recall(true, ~true, np.array([gts]))
    sampled = interpolated(precision, recall)[0]
    columns = (recall[0], precision[0], scores, sampled)
    return PRCurve(name, label, gts, *columns, float(sampled.mean()))


def _place(iou: float) -> int:
    near = np.flatnonzero(np.abs(IOU_THRESHOLDS - iou) < 1e-6)
    if not len(near):
        raise ConfigError(f"iou must be one of .5, .55, ..., .95, as in COCO's AP, not {iou!r}.")
    return int(near[0])


__all__ = ["ALL", "RECALLS", "PRCurve", "curves_of", "pr_curves"]
