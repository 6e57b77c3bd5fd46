"""From the network's outputs to boxes, with a ledger of what became of every candidate.

Paper, section 4.1 "Inference"; order and rules are those of torchvision's
`RetinaNet.postprocess_detections`: per level, scores above `score_thresh` and of those the
`topk_candidates` best; decode, clip; all levels together, NMS per class; the `detections_per_img`
best. `detect` is a pure function of cached outputs: a settings change never runs the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retinanet.candidates import (
    CUT,
    CUT_SHOWN,
    FATES,
    KEPT,
    OVER_LIMIT,
    SUPPRESSED,
    candidates_of,
    selected,
)
from retinanet.config import PostprocessConfig
from retinanet.explain import explain
from retinanet.images import resize_boxes
from retinanet.level_head import Floors, LevelHead
from retinanet.nms import (
    coordinate_trick_limit,
    find_overlaps,
    score_order,
    shifted,
    suppressors,
)
from retinanet.types import LEVELS, Outputs


@dataclass(frozen=True, eq=False, slots=True)
class CandidateTable:
    """The candidates that a trace lists, as columns on the CPU. C = number of candidates.

    Order: the kept ones as in `DetectionTrace.boxes`, those over the limit, the suppressed (each
    by score), then those cut by top-K: of every level the 1,000 that come next (all, if fewer
    have a score above the threshold). Pairs below the score threshold are not listed.

    Args:
        level: [C] int64 index into `LEVELS`.
        anchor: [C] int64 index of the anchor within its level.
        label: [C] int64.
        score: [C] float32 in [0, 1].
        box: [C, 4] float32 xyxy, clipped, pixels of the resized image: what NMS compared.
        box_original: [C, 4] float32 xyxy, pixels of the original image.
        rank: [C] int64, 1 for the best pair of its level.
        fate: [C] int64 index into `FATES`.
        position: [C] int64, 1 for the best survivor of NMS, 0 for those that did not survive.
    """

    level: Tensor
    anchor: Tensor
    label: Tensor
    score: Tensor
    box: Tensor
    box_original: Tensor
    rank: Tensor
    fate: Tensor
    position: Tensor

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, eq=False)
class DetectionTrace:
    """The detections of one image under one setting, and the fate of everything else.

    N = number of detections. Everything beyond the three tensors is worked out when asked for.

    Args:
        boxes: [N, 4] float32 xyxy, pixels of the ORIGINAL image.
        scores: [N] float32 in [0, 1], descending.
        labels: [N] int64 label indices.
        config: the settings that made this.
        categories: class names by label index, "class 12" where the model gives none.
        outputs: what the trace was made from.
        heads: per level, the prepared pairs in the order of this setting.
        takes: per level, how many of them entered NMS.
        survivors: indices of NMS's survivors, best first, into those pairs level after level.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    config: PostprocessConfig
    categories: tuple[str, ...]
    outputs: Outputs
    heads: tuple[LevelHead, ...]
    takes: tuple[int, ...]
    survivors: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def counts_per_level(self) -> dict[str, dict[str, int]]:
        """{"P3": {fate: pairs}, ...}; each sums to the level's anchors x classes."""
        prepared, floors = candidates_of(self.outputs), Floors.of(self.outputs, self.config)
        level_of = np.repeat(np.arange(len(self.takes)), self.takes)[self.survivors.cpu().numpy()]
        levels = len(self.takes)
        kept = np.bincount(level_of[: len(self)], minlength=levels)
        over = np.bincount(level_of[len(self) :], minlength=levels)
        counts = {}
        for level, (name, take) in enumerate(zip(LEVELS, self.takes, strict=True)):
            above = prepared.count_above(self.outputs, level, self.config.score_thresh, floors)
            counts[name] = {
                "below_thresh": prepared.totals[level] - above,
                "cut_by_topk": above - take,
                "suppressed": take - int(kept[level]) - int(over[level]),
                "over_limit": int(over[level]),
                "kept": int(kept[level]),
            }
        return counts

    @cached_property
    def counts(self) -> dict[str, int]:
        """{fate: pairs} over all levels; sums to anchors x classes."""
        per_level = self.counts_per_level.values()
        return {fate: sum(level[fate] for level in per_level) for fate in FATES}

    @cached_property
    def candidates(self) -> CandidateTable:
        """The listed candidates; `explain(i)` tells the life of row i."""
        return _candidate_table(self)

    @cached_property
    def suppressed_by(self) -> Tensor:
        """[C] int64: the candidate that suppressed each suppressed one, -1 for all others.

        It is the first kept or over-limit candidate of its class, by score, whose IoU with it is
        above `nms_thresh`.
        """
        return self._suppression[0]

    @cached_property
    def suppressed_iou(self) -> Tensor:
        """[C] float32: IoU with that candidate as NMS computed it, 0 for all others.

        Where torchvision's NMS shifts classes apart, rounding makes it differ a little from the
        IoU of the two boxes.
        """
        return self._suppression[1]

    def explain(self, index: int) -> dict[str, Any]:
        """The life of one listed candidate as plain data, ready for JSON.

        Args:
            index: row of `candidates`, any integer type; 0..N-1 are the detections.

        Raises:
            IndexError: there is no such row.
            TypeError: the index is no integer.
        """
        return explain(self, index)

    @cached_property
    def max_coordinate(self) -> float | None:
        """By which coordinate NMS shifted the classes apart; None where it ran class by class."""
        boxes = selected(self.heads, self.takes)[0]
        if not len(boxes) or len(boxes) > coordinate_trick_limit(boxes.device.type):
            return None
        return float(boxes.max())

    @cached_property
    def nms_order(self) -> np.ndarray:
        """[E] int64: rows of the candidates that entered NMS, in its order: score, level, rank.

        They are the first E rows: those cut by top-K are listed last.
        """
        table = self.candidates
        columns = (table.rank, table.level, -table.score)
        return np.lexsort([column[: sum(self.takes)].numpy() for column in columns])

    @cached_property
    def compared_boxes(self) -> np.ndarray:
        """[E, 4] float32: the coordinates that NMS compared, of the first E rows (`shifted`)."""
        entered = slice(sum(self.takes))
        table = self.candidates
        boxes, labels = table.box[entered].numpy(), table.label[entered].numpy()
        return shifted(boxes, labels, self.max_coordinate)

    @cached_property
    def _suppression(self) -> tuple[Tensor, Tensor]:
        table, order = self.candidates, self.nms_order
        labels = table.label[: len(order)].numpy()
        kept = table.fate[: len(order)].numpy() != SUPPRESSED
        pairs = find_overlaps(self.compared_boxes, labels, order, self._least_suppressing_iou)
        by, iou = suppressors(kept, pairs, order)
        all_by, all_iou = np.full(len(table), -1, np.int64), np.zeros(len(table), np.float32)
        all_by[: len(by)], all_iou[: len(iou)] = by, iou
        return torch.from_numpy(all_by), torch.from_numpy(all_iou)

    @property
    def _least_suppressing_iou(self) -> float:
        # An accelerator's kernel may round the last bit of an IoU differently from the CPU.
        slack = 0.0 if self.survivors.device.type == "cpu" else 1e-5
        return max(0.0, self.config.nms_thresh - slack)


@torch.no_grad()
def detect(outputs: Outputs, config: PostprocessConfig | None = None) -> DetectionTrace:
    """Boxes from cached outputs: those of torchvision, in its order.

    The first call for some outputs prepares their candidates, a few tenths of a second for a
    large picture; every later one only slices them and runs NMS. Equal scores are taken in
    torchvision's order: levels in turn, within a level as `torch.topk` leaves them. A score that is
    not a number passes no threshold.

    Args:
        outputs: of the model, for one image.
        config: the settings; the defaults are torchvision's.
    """
    config = config or PostprocessConfig()
    prepared = candidates_of(outputs)
    levels = range(len(prepared.heads))
    heads, takes = zip(*(prepared.enter(outputs, level, config) for level in levels), strict=True)
    survivors = prepared.nms(heads, takes, config.nms_thresh)
    kept = survivors[: config.detections_per_img]
    boxes, scores, labels = selected(heads, takes)
    return DetectionTrace(
        boxes=resize_boxes(boxes.index_select(0, kept), outputs.image_size, outputs.original_size),
        scores=scores.index_select(0, kept),
        labels=labels.index_select(0, kept),
        config=config,
        categories=prepared.names,
        outputs=outputs,
        heads=heads,
        takes=takes,
        survivors=survivors,
    )


def _candidate_table(trace: DetectionTrace) -> CandidateTable:
    # In NumPy: indexing a tensor starts threads, which wait for each other on a busy machine.
    heads, takes = trace.heads, np.array(trace.takes)
    shown = [
        take + min(CUT_SHOWN, head.count_above(trace.config.score_thresh) - take)
        for head, take in zip(heads, trace.takes, strict=True)
    ]
    boxes, scores, labels = (part.cpu().numpy() for part in selected(heads, shown))
    anchors = torch.cat([head.anchors[:count] for head, count in zip(heads, shown, strict=True)])
    rank = np.concatenate([np.arange(1, count + 1) for count in shown])
    level = np.repeat(np.arange(len(shown)), shown)
    entered = np.flatnonzero(rank <= takes[level])

    survivors = entered[trace.survivors.cpu().numpy()]
    position = np.zeros(len(rank), dtype=np.int64)
    position[survivors] = np.arange(1, len(survivors) + 1)
    fate = np.full(len(rank), CUT)
    fate[entered] = SUPPRESSED
    fate[survivors] = np.where(position[survivors] <= len(trace), KEPT, OVER_LIMIT)

    by_score = score_order(scores)
    fate_by_score = fate[by_score]
    rows = np.concatenate(
        [survivors, by_score[fate_by_score == SUPPRESSED], by_score[fate_by_score == CUT]]
    )
    columns = (level, anchors.cpu().numpy(), labels, scores, boxes, rank, fate, position)
    level, anchor, label, score, box, rank, fate, position = (
        torch.from_numpy(column[rows]) for column in columns
    )
    sizes = trace.outputs.image_size, trace.outputs.original_size
    return CandidateTable(
        level=level,
        anchor=anchor,
        label=label,
        score=score,
        box=box,
        box_original=resize_boxes(box, *sizes),
        rank=rank,
        fate=fate,
        position=position,
    )
