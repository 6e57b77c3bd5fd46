"""COCO's average precision at one IoU bound, from columns.

It restates pycocotools' `COCOeval.accumulate`, because the oracles of `error_types` ask for the AP
of detections whose fate was changed by hand.
"""

from __future__ import annotations

import numpy as np

RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads the precision."""


def average_precision(
    label: np.ndarray, score: np.ndarray, is_true: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """The AP of each class.

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
    is_true = is_true[order]
    return np.array(
        [
            _of_class(is_true[starts[k] : starts[k + 1]], count) if count > 0 else np.nan
            for k, count in enumerate(objects.tolist())
        ]
    )


def _of_class(is_true: np.ndarray, objects: int) -> float:
    """The AP of detections in order of their scores."""
    true = np.cumsum(is_true).astype(np.float64)
    recall = true / objects
    precision = true / (np.arange(1, len(true) + 1) + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best at this recall or more
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(np.where(at < len(true), np.append(precision, 0.0)[at], 0.0).mean())
