"""Average precision of all bounds from matched detections, and COCO's summary of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet.average_precision import interpolated, precision_recall
from retinanet.coco_matching import AREAS, MAX_DETS
from retinanet.evaluation import METRICS
from retinanet.sweeps.truths import BITS, A, T

ALL_AREAS = AREAS.index("all")
IOU_50, IOU_75 = 0, 5  # places of .5 and .75 among the thresholds

_SHIFTS = np.arange(BITS, dtype=np.uint64)[:, None]


def unpacked(bits: np.ndarray) -> np.ndarray:
    """[BITS, N] bool from bits [N] uint64, bit 0 first."""
    return (bits[None, :] >> _SHIFTS & np.uint64(1)).astype(bool)


@dataclass(frozen=True, eq=False)
class ClassPrecisions:
    """Average precision by class.

    Args:
        ap: [A, T, K] float64 in [0, 1], nan for a class without objects of that area range.
    """

    ap: np.ndarray

    @property
    def summary(self) -> dict[str, float]:
        """`METRICS` as `COCOeval.summarize` has them; nan where nothing can be measured."""
        area = {name: self.ap[AREAS.index(name)] for name in AREAS}
        everything = area["all"]
        small, medium, large = (area[name] for name in ("small", "medium", "large"))
        parts = (everything, everything[IOU_50], everything[IOU_75], small, medium, large)
        return dict(zip(METRICS, map(_mean, parts), strict=True))


def class_precisions(
    columns: np.ndarray,
    class_rank: np.ndarray,
    true: np.ndarray,
    ignored: np.ndarray,
    objects: np.ndarray,
) -> ClassPrecisions:
    """AP of every class, threshold and area range.

    Args:
        columns: [N] int64 classes, ascending, and within a class by score, best first; equal
            scores by image id, then by rank.
        class_rank: [N] int64 place among the detections of its class and photo, from 0; COCO
            counts the first 100.
        true, ignored: [N] uint64, of `matching.Matches`.
        objects: [A, K] int64, objects to be found.
    """
    counted = class_rank < MAX_DETS
    columns, true, ignored = columns[counted], true[counted], ignored[counted]
    ap = np.full((A, T, objects.shape[1]), np.nan)
    for column in np.flatnonzero(objects[0]):
        start, end = np.searchsorted(columns, [column, column + 1])
        hits, skips = unpacked(true[start:end]), unpacked(ignored[start:end])
        wanted = np.repeat(objects[:, column], T)
        rows = np.flatnonzero(wanted)
        curves = precision_recall(hits[rows], ~(hits | skips)[rows], wanted[rows])
        ap.reshape(BITS, -1)[rows, column] = interpolated(*curves).mean(axis=1)
    return ClassPrecisions(ap)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
