"""COCO's matching of detections and objects, for all IoU thresholds and area ranges at once.

An exact restatement of `COCOeval.evaluateImg`, which takes each of 10 thresholds and 4 area ranges
in turn: here each is a bit of a whole number, and a detection is decided for all 40 together. It is
greedy by score, so the matches of the detections above a score are those of all detections, cut
off there; and so are those of the best n of a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask

from retinanet.sweeps.truths import ALL_BITS, IOU_THRESHOLDS, A, ImageTruths, T, outside

_REACHED = [sum(((1 << count) - 1) << (area * T) for area in range(A)) for count in range(T + 1)]
"""The bits of the first `count` IoU thresholds, in all area ranges."""

_BOUNDS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)  # pycocotools: an IoU of 1 reaches every threshold


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
        _match(_pairs(boxes, columns, truths), truths, true, ignored)
    hits, skips = np.array(true, np.uint64), np.array(ignored, np.uint64)
    unmatched = ~(hits | skips) & np.uint64(ALL_BITS)
    return Matches(hits, skips | (unmatched & outside(boxes[:, 2] * boxes[:, 3])))


def _pairs(
    boxes: np.ndarray, columns: np.ndarray, truths: ImageTruths
) -> list[tuple[int, int, int]]:
    """(detection, object, bits that their IoU reaches), by detection, then the better object first.

    Of objects with the same IoU COCO takes the one that is listed last.
    """
    rows = np.flatnonzero(np.isin(columns, truths.column))
    if not len(rows):
        return []
    iou = mask.iou(boxes[rows], truths.boxes, truths.crowd.astype(np.uint8))
    same = columns[rows][:, None] == truths.column[None, :]
    detection, object_ = np.nonzero(same & (iou >= _BOUNDS[0]))
    values = iou[detection, object_]
    order = np.lexsort([-object_, -values, detection])
    reached = np.searchsorted(_BOUNDS, values, side="right")
    return [
        (row, own, _REACHED[count])
        for row, own, count in zip(
            rows[detection[order]].tolist(),
            object_[order].tolist(),
            reached[order].tolist(),
            strict=True,
        )
    ]


def _match(
    pairs: list[tuple[int, int, int]], truths: ImageTruths, true: list[int], ignored: list[int]
) -> None:
    """Decide the detections of `pairs` in turn; `true` and `ignored` receive their bits."""
    crowd, need_not = truths.crowd.tolist(), truths.ignored.tolist()
    free = [ALL_BITS] * len(truths)  # a crowd stays free
    start = 0
    while start < len(pairs):
        row, end = pairs[start][0], start
        while end < len(pairs) and pairs[end][0] == row:
            end += 1
        undecided = ALL_BITS
        # Objects that count come first, however much better one that does not would fit.
        for counts in (True, False):
            for _, own, reached in pairs[start:end]:
                wanted = ~need_not[own] if counts else need_not[own]
                hit = undecided & reached & free[own] & wanted
                if hit:
                    undecided &= ~hit
                    if not crowd[own]:
                        free[own] &= ~hit
                    if counts:
                        true[row] |= hit
                    else:
                        ignored[row] |= hit
        start = end
