"""The rules by which COCO's evaluation matches detections to objects, in arrays.

An exact restatement of pycocotools' `COCOeval.evaluateImg`: within a photo and a class the best
score chooses first and takes the free object of highest IoU; objects that need not be found (crowds
and areas outside the range) are taken only when no other is left, and a crowd by any number. The
bits of a whole number stand for bounds that are decided together, so `sweeps` matches at forty at
once, and `analysis` at one of any value.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import Params

PARAMS = Params(iouType="bbox")
"""pycocotools' own bounds: ten IoU thresholds, four area ranges, 101 recalls, 100 detections."""

IOU_THRESHOLDS: np.ndarray = PARAMS.iouThrs
AREAS: tuple[str, ...] = tuple(PARAMS.areaRngLbl)
AREA_RANGES: np.ndarray = np.array(PARAMS.areaRng)

MAX_DETS: int = PARAMS.maxDets[-1]
"""Detections of one class in one photo that COCO counts, the best first."""


def reached_at(iou: float | np.ndarray) -> float | np.ndarray:
    """The IoU from which pycocotools takes a bound as reached: an IoU of 1 reaches every bound."""
    return np.minimum(iou, 1 - 1e-10)


def outside_range(areas: np.ndarray, area: str = "all") -> np.ndarray:
    """[N] bool: whether areas [N], px², are outside one of `AREAS`."""
    low, high = AREA_RANGES[AREAS.index(area)]
    return (areas < low) | (areas > high)


def photo_ious(detections: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """[D, G] float64 IoUs of [D, 4] and [G, 4] boxes [x, y, width, height], by pycocotools.

    With a crowd it is the share of the detection that lies in it.
    """
    if not len(detections) or not len(objects):
        return np.zeros((len(detections), len(objects)))
    return mask.iou(detections, objects, crowd.astype(np.uint8))


def class_ranks(*groups: np.ndarray) -> np.ndarray:
    """[N] int64: the place of each row among those of its group, from 0, in the order given.

    Args:
        groups: [N] whole numbers each (class; photo); a group is the rows that agree in all.
    """
    order = np.lexsort(groups)  # stable: the best score stays first
    keys = np.stack(groups)[:, order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    places = np.arange(len(order))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return ranks


def pairs_within(
    ious: np.ndarray, same: np.ndarray, bound: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of a photo that may match, by detection, then the better object first.

    Of objects with the same IoU COCO takes the one that is listed last.

    Args:
        ious: [D, G].
        same: [D, G] bool: of one class.
        bound: the least IoU, of `reached_at`.

    Returns:
        Detections [N] int64, objects [N] int64 and IoUs [N] float64.
    """
    detection, object_ = np.nonzero(same & (ious >= bound))
    values = ious[detection, object_]
    order = np.lexsort([-object_, -values, detection])
    return detection[order], object_[order], values[order]


def greedy(
    pairs: list[tuple[int, int, int]], crowd: list[bool], need_not: list[int], bounds: int
) -> list[tuple[int, int, int, bool]]:
    """Decide a photo's detections in turn.

    Args:
        pairs: (detection, object, bits of the bounds that their IoU reaches), in the order of
            `pairs_within`, the best score first.
        crowd: of each object.
        need_not: of each object the bits for which it need not be found (a crowd: all of them).
        bounds: all bits.

    Returns:
        (detection, object, bits for which it has it, whether the object counts for them), in turn.
        A detection has one object at most for a bit.
    """
    matched = []
    free = [bounds] * len(crowd)  # a crowd stays free
    start = 0
    while start < len(pairs):
        row, end = pairs[start][0], start
        while end < len(pairs) and pairs[end][0] == row:
            end += 1
        undecided = bounds
        # Objects that count come first, however much better one that does not would fit.
        for counts in (True, False):
            for _, own, reached in pairs[start:end]:
                wanted = ~need_not[own] if counts else need_not[own]
                hit = undecided & reached & free[own] & wanted
                if hit:
                    undecided &= ~hit
                    if not crowd[own]:
                        free[own] &= ~hit
                    matched.append((row, own, hit, counts))
        start = end
    return matched
