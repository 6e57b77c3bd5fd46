"""The greedy NMS of a trace, told round by round.

In the order of the scores the best undecided box is kept, and takes out every undecided box of its
class that overlaps it by more than `nms_thresh`. That is one round.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinanet.nms import pairwise_iou

if TYPE_CHECKING:
    from retinanet.detection import DetectionTrace


@dataclass(frozen=True, eq=False, slots=True)
class NmsRound:
    """One survivor and what it was compared with. T = number of boxes that overlap it.

    Rows are those of `DetectionTrace.candidates`.

    Args:
        keeper: the row that survives.
        compared: [T] int64 rows of its class that were undecided and overlap it, best first.
        iou: [T] float32 in (0, 1] with each, as NMS computed it.
        removed: [T] bool, which of them it takes out: those with an IoU above `nms_thresh`.
        apart: how many more undecided boxes of its class it was compared with; they do not
            overlap it.
    """

    keeper: int
    compared: np.ndarray
    iou: np.ndarray
    removed: np.ndarray
    apart: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "keeper": self.keeper,
            "compared": self.compared.tolist(),
            "iou": self.iou.tolist(),
            "removed": self.removed.tolist(),
            "apart": self.apart,
        }


def nms_rounds(trace: DetectionTrace, limit: int | None = None) -> list[NmsRound]:
    """The rounds of a trace's NMS, one for each survivor, within `detections_per_img` or not.

    Each suppressed candidate is removed in exactly one round: by `trace.suppressed_by`, at
    `trace.suppressed_iou`. Survivors come in NMS's order: by score, and among equal scores by
    level and rank.

    Args:
        trace: of any setting.
        limit: tell only the first rounds, 0 or more; None tells all.

    Raises:
        ValueError: the limit is negative.
        TypeError: the limit is no integer.
    """
    if limit is not None and operator.index(limit) < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}.")
    order, boxes = trace.nms_order, trace.compared_boxes
    by, labels = trace.suppressed_by.numpy(), trace.candidates.label.numpy()
    undecided = {label: order[labels[order] == label] for label in np.unique(labels[order])}
    rounds = []
    for keeper in order[by[order] < 0][:limit]:
        others = undecided[labels[keeper]][1:]
        iou, removed = pairwise_iou(boxes[keeper], boxes[others]), by[others] == keeper
        touching = iou > 0
        undecided[labels[keeper]] = others[~removed]
        rounds.append(
            NmsRound(
                keeper=int(keeper),
                compared=others[touching],
                iou=iou[touching],
                removed=removed[touching],
                apart=int(len(others) - touching.sum()),
            )
        )
    return rounds
