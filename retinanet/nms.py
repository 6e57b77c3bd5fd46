"""Non-maximum suppression that equals torchvision's and can say who suppressed whom.

Paper, section 4.1 "Inference": the top candidates of all levels are merged and non-maximum
suppression with a threshold of 0.5 is applied, class by class. The rule is greedy: in the order of
the scores, a candidate goes unless a kept one of its class overlaps it by more than the threshold.

torchvision has two ways to keep classes apart. Up to a number of boxes it shifts each class by an
offset and runs once (the coordinate trick, which rounds the shifted coordinates to float32);
beyond it runs class by class. Here the number is measured from the library, never assumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torchvision.ops import batched_nms

PAIR_BUDGET = 4_000_000
"""Same-class pairs for which overlaps are worked out in full; about 0.1 s and at most 50 MB."""

_CHUNK = 1 << 20  # IoUs worked out at a time: keeps the temporary arrays in the cache


@dataclass(frozen=True, eq=False, slots=True)
class Overlaps:
    """The pairs of same-class boxes that overlap at all. E = number of pairs.

    Args:
        first: [E] int32 index of the box that comes first in the order of the scores.
        second: [E] int32 index of the other.
        iou: [E] float32 in (0, 1], as torchvision's kernel computes it.
    """

    first: np.ndarray
    second: np.ndarray
    iou: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.first.nbytes + self.second.nbytes + self.iou.nbytes

    def above(self, nms_thresh: float) -> Overlaps:
        """The pairs in which the first box, if kept, suppresses the second."""
        # np.float64 makes NumPy compare in double, as torchvision's kernel does.
        return self.where(self.iou > np.float64(nms_thresh))

    def ascending(self) -> Overlaps:
        """The pairs by IoU, the smallest first: what `last_above` wants."""
        order = np.argsort(self.iou, kind="stable")
        return Overlaps(self.first[order], self.second[order], self.iou[order])

    def last_above(self, nms_thresh: float) -> Overlaps:
        """`above` of pairs that are in ascending order: a slice, however many there are."""
        # A float32 is above the threshold when it is above the float32 next below or at it.
        floor = np.float32(nms_thresh)
        if floor > np.float64(nms_thresh):
            floor = np.nextafter(floor, np.float32(-1))
        start = np.searchsorted(self.iou, floor, side="right")
        return Overlaps(self.first[start:], self.second[start:], self.iou[start:])

    def where(self, mask: np.ndarray) -> Overlaps:
        """The pairs where `mask` [E] is True."""
        return Overlaps(self.first[mask], self.second[mask], self.iou[mask])


@lru_cache(maxsize=8)
def coordinate_trick_limit(device_type: str) -> float:
    """The most boxes for which `batched_nms` uses the coordinate trick on a kind of device.

    Asked of the installed torchvision: with negative coordinates, which detections never have,
    only the trick suppresses across classes.

    Args:
        device_type: "cpu", "cuda" or "mps".

    Returns:
        A whole number (1,000 on the CPU in torchvision 0.29), or infinity.
    """
    high = 2
    while _uses_coordinate_trick(high, device_type):
        high *= 2
        if high > 1 << 22:
            return math.inf
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if _uses_coordinate_trick(middle, device_type):
            low = middle
        else:
            high = middle
    return low


def _uses_coordinate_trick(count: int, device_type: str) -> bool:
    # The largest coordinate is 1, so the trick moves class 1 by 2: onto the box of class 0.
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).repeat(count, 1)
    boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    boxes[1] = torch.tensor([-2.0, -2.0, -1.0, -1.0])
    scores = torch.full((count,), 0.1)
    scores[:2] = torch.tensor([0.9, 0.8])
    labels = torch.zeros(count, dtype=torch.int64)
    labels[1] = 1
    kept = batched_nms(*(tensor.to(device_type) for tensor in (boxes, scores, labels)), 0.5)
    return not bool((kept == 1).any())


def shifted(boxes: np.ndarray, labels: np.ndarray, max_coordinate: float | None) -> np.ndarray:
    """The coordinates that NMS compares.

    Args:
        boxes: [N, 4] float32.
        labels: [N] int64.
        max_coordinate: the largest coordinate of all boxes that enter NMS, for the coordinate
            trick; None where NMS runs class by class on the boxes as they are.

    Returns:
        [N, 4] float32, with torchvision's float32 arithmetic.
    """
    if max_coordinate is None:
        return boxes
    offsets = labels.astype(np.float32) * (np.float32(max_coordinate) + np.float32(1))
    return boxes + offsets[:, None]


def pairwise_iou(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """IoU of boxes [..., 4] and [..., 4] (broadcast) in the order of torchvision's NMS kernel.

    inter / (area_a + area_b - inter), in float32. Two empty boxes give 0 / 0 = NaN, which is above
    no threshold, in the kernel too.
    """
    area_a = (boxes_a[..., 2] - boxes_a[..., 0]) * (boxes_a[..., 3] - boxes_a[..., 1])
    area_b = (boxes_b[..., 2] - boxes_b[..., 0]) * (boxes_b[..., 3] - boxes_b[..., 1])
    width = np.minimum(boxes_a[..., 2], boxes_b[..., 2]) - np.maximum(
        boxes_a[..., 0], boxes_b[..., 0]
    )
    height = np.minimum(boxes_a[..., 3], boxes_b[..., 3]) - np.maximum(
        boxes_a[..., 1], boxes_b[..., 1]
    )
    inter = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return inter / (area_a + area_b - inter)


def score_order(scores: np.ndarray) -> np.ndarray:
    """Indices by score, best first; equal scores stay in the order given, as in NMS."""
    return np.argsort(-scores, kind="stable")


def count_pairs(labels: np.ndarray) -> int:
    """How many pairs of boxes share a class."""
    sizes = np.bincount(labels)
    return int((sizes * (sizes - 1) // 2).sum())


def find_overlaps(
    boxes: np.ndarray, labels: np.ndarray, order: np.ndarray, nms_thresh: float = 0.0
) -> Overlaps:
    """All pairs of same-class boxes with an IoU above the threshold.

    Args:
        boxes: [N, 4] float32, the coordinates that NMS compares (`shifted`).
        labels: [N] int64.
        order: [N] indices by score, best first.
        nms_thresh: in [0, 1].

    Returns:
        Pairs ordered by class, then by the first box's place in `order`.
    """
    by_class = order[np.argsort(labels[order], kind="stable")]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    start = 0
    for end in np.cumsum(np.bincount(labels)):
        if end - start > 1:
            parts.extend(_class_overlaps(boxes, by_class[start:end], nms_thresh))
        start = end
    if not parts:
        return Overlaps(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    first, second, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Overlaps(first.astype(np.int32), second.astype(np.int32), iou)


def _class_overlaps(
    boxes: np.ndarray, members: np.ndarray, nms_thresh: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    own = boxes[members]  # [G, 4], best first
    rows = max(1, _CHUNK // len(members))
    parts = []
    for start in range(0, len(members) - 1, rows):
        # The pairs of these rows with every later box; the triangle keeps (earlier, later).
        iou = pairwise_iou(own[start : start + rows, None, :], own[None, start:, :])
        earlier, later = np.nonzero(np.triu(iou > np.float64(nms_thresh), k=1))
        parts.append((members[start + earlier], members[start + later], iou[earlier, later]))
    return parts


def survivors(count: int, suppressing: Overlaps) -> np.ndarray:
    """Greedy NMS over pairs instead of boxes.

    A box with no undecided box before it in a pair is kept and takes its partners out; this is
    repeated until no pair is left, which takes as many rounds as the longest chain.

    Args:
        count: number of boxes.
        suppressing: the pairs above the threshold (`Overlaps.above`).

    Returns:
        [count] bool, True for the kept boxes.
    """
    kept = np.ones(count, dtype=bool)
    first, second = suppressing.first, suppressing.second
    while len(first):
        blocked = np.zeros(count, dtype=bool)
        blocked[second] = True
        kept[second[~blocked[first]]] = False
        alive = kept[first] & kept[second]
        first, second = first[alive], second[alive]
    return kept


def suppressors(
    kept: np.ndarray, suppressing: Overlaps, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each dropped box the first kept box, by score, that overlaps it above the threshold.

    Args:
        kept: [N] bool.
        suppressing: the pairs above the threshold.
        order: [N] indices by score, best first.

    Returns:
        [N] int64 index of the suppressor and [N] float32 IoU with it; -1 and 0 where there is none.
    """
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    pairs = suppressing.where(kept[suppressing.first] & ~kept[suppressing.second])
    by = np.full(len(kept), -1, dtype=np.int64)
    iou = np.zeros(len(kept), dtype=np.float32)
    last_first = np.argsort(-place[pairs.first], kind="stable")  # the last write is the earliest
    by[pairs.second[last_first]] = pairs.first[last_first]
    iou[pairs.second[last_first]] = pairs.iou[last_first]
    return by, iou
