"""COCO's matching of detections and objects, for all IoU thresholds and area ranges at once.

pycocotools takes each of 10 thresholds and 4 area ranges in turn: here each is a bit of a whole
number, and `greedy` decides a detection for all 40 together. It goes by score, so the matches of
the detections above a score are those of all detections, cut off there; and so are those of the
best n of a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet.coco_matching import (
    IOU_THRESHOLDS,
    greedy,
    pairs_within,
    photo_ious,
    reached_at,
)
from retinanet.sweeps.truths import ALL_BITS, A, ImageTruths, T, outside

_REACHED = [sum(((1 << count) - 1) << (area * T) for area in range(A)) for count in range(T + 1)]
"""The bits of the first `count` IoU thresholds, in all area ranges."""

_BOUNDS = reached_at(IOU_THRESHOLDS)


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of the detections of one photo. N = number of detections.

    Args:
        true: [N] uint64: the bits for which it found an object that counts.
        ignored: [N] uint64: the bits for which it is neither right nor wrong: its match need not
            be found, or it has none and its area is outside the range.
    """

    true: np.ndarray
    ignored: np.ndarray


def match_image(boxes: np.ndarray, columns: np.ndarray, truths: ImageTruths) -> Matches:
    """Match one photo's detections.

    Args:
        boxes: [N, 4] float64 [x, y, width, height] in pixels of the photo, best score first.
        columns: [N] int64 their classes, as `Truths.columns` numbers them.
        truths: the photo's objects.
    """
    true, ignored = [0] * len(boxes), [0] * len(boxes)
    if len(boxes) and len(truths):
        crowd, need_not = truths.crowd.tolist(), truths.ignored.tolist()
        pairs = _pairs(boxes, columns, truths)
        for row, _, bits, counts in greedy(pairs, crowd, need_not, ALL_BITS):
            (true if counts else ignored)[row] |= bits
    hits, skips = np.array(true, np.uint64), np.array(ignored, np.uint64)
    unmatched = ~(hits | skips) & np.uint64(ALL_BITS)
    return Matches(hits, skips | (unmatched & outside(boxes[:, 2] * boxes[:, 3])))


def _pairs(
    boxes: np.ndarray, columns: np.ndarray, truths: ImageTruths
) -> list[tuple[int, int, int]]:
    """(detection, object, bits that their IoU reaches), in the order of `pairs_within`."""
    rows = np.flatnonzero(np.isin(columns, truths.column))
    ious = photo_ious(boxes[rows], truths.boxes, truths.crowd)
    same = columns[rows][:, None] == truths.column[None, :]
    detection, object_, values = pairs_within(ious, same, _BOUNDS[0])
    reached = np.searchsorted(_BOUNDS, values, side="right")
    return [
        (row, own, _REACHED[count])
        for row, own, count in zip(
            rows[detection].tolist(), object_.tolist(), reached.tolist(), strict=True
        )
    ]
