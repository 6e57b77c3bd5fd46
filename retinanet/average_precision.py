"""COCO's average precision from detections that are right or wrong.

It restates pycocotools' `COCOeval.accumulate` in arrays: `sweeps` scores hundreds of settings with
it, and the oracles of `analysis.error_types` ask for the AP of fates that were changed by hand.
"""

from __future__ import annotations

import numpy as np

from retinanet.coco_matching import PARAMS

RECALLS: np.ndarray = PARAMS.recThrs
"""The 101 recalls 0, .01, ..., 1 at which COCO reads the precision."""


def precision_recall(
    true: np.ndarray, false: np.ndarray, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall after each detection.

    Args:
        true, false: [B, N] bool, best score first; neither where a detection is ignored.
        objects: [B] int64, 1 or more: objects to be found.

    Returns:
        [B, N] float64 each, in [0, 1].
    """
    hits = np.cumsum(true, axis=1).astype(float)
    misses = np.cumsum(false, axis=1).astype(float)
    return hits / (misses + hits + np.spacing(1)), hits / objects[:, None]


def interpolated(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """[B, 101]: the best precision at each of `RECALLS` or a higher recall; 0 beyond the last."""
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    sampled = np.zeros((len(precision), len(RECALLS)))
    for row, (own, reached) in enumerate(zip(falling, recall, strict=True)):
        places = np.searchsorted(reached, RECALLS, side="left")
        count = int(np.searchsorted(places, len(own)))  # beyond, the recall is never reached
        sampled[row, :count] = own[places[:count]]
    return sampled


def average_precision(
    label: np.ndarray, score: np.ndarray, is_true: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """The AP of each class at one bound.

    Args:
        label: [N] int64 of the detections that count, photos in order of their ids.
        score: [N].
        is_true: [N] bool: true positive or false positive.
        objects: [K] int64: objects of each class.

    Returns:
        [K] float64 in [0, 1]; nan for a class without objects.
    """
    order = np.lexsort([-score, label])  # stable, as COCO's mergesort
    starts = np.searchsorted(label[order], np.arange(len(objects) + 1))
    values = np.full(len(objects), np.nan)
    for k in np.flatnonzero(objects > 0).tolist():
        true = is_true[order[starts[k] : starts[k + 1]]][None]
        values[k] = interpolated(*precision_recall(true, ~true, objects[k : k + 1])).mean()
    return values
