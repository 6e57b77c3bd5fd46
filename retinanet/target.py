"""An object that someone drew, and how it stands under a setting.

A pair (anchor, class) finds the object when its decoded and clipped box overlaps the drawn one by
at least `match_iou` and, where a label was given, its class is that label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from retinanet.box_coder import decode
from retinanet.candidates import candidates_of, selected
from retinanet.config import PostprocessConfig
from retinanet.detection import DetectionTrace
from retinanet.images import resize_boxes
from retinanet.level_head import LevelHead, level_scores
from retinanet.nms import pairwise_iou
from retinanet.types import Outputs


class Pair(NamedTuple):
    """An (anchor, class) pair: its level, its anchor within the level, its label and its score."""

    level: int
    anchor: int
    label: int
    score: float


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """The drawn object. R = anchors of all levels, finest first; M = those whose box finds it.

    Args:
        outputs: what the model said about the picture.
        box: [4] float64 xyxy, pixels of the original picture.
        label: the class it must have; None for any.
        match_iou: from this IoU on a box finds it.
        iou: [R] float64, of every anchor's decoded box; 0 where that is not a number.
        finds: per level [anchors] bool, whose boxes reach `match_iou`.
        anchors: [M, 2] int64, level and index within it.
        scores: [M, K] float32, of every class.
    """

    outputs: Outputs
    box: np.ndarray
    label: int | None
    match_iou: float
    iou: np.ndarray
    finds: tuple[np.ndarray, ...]
    anchors: np.ndarray
    scores: np.ndarray
    _ranks: dict[Pair, tuple[float, int]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, outputs: Outputs, box: np.ndarray, label: int | None, match_iou: float) -> Target:
        """From a box [4] float64 within the original picture."""
        iou = np.nan_to_num(pairwise_iou(box, original_boxes(outputs).astype(np.float64)))
        ends = np.cumsum(outputs.anchors_per_level)
        finds = tuple(np.split(iou >= match_iou, ends[:-1]))
        rows = [np.flatnonzero(level) for level in finds]
        parts = [
            level_scores(logits[torch.from_numpy(own).to(logits.device)]).cpu().numpy()
            for logits, own in zip(outputs.cls_logits, rows, strict=True)
        ]
        levels = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        anchors = np.stack([levels, np.concatenate(rows)], axis=1)
        return cls(outputs, box, label, match_iou, iou, finds, anchors, np.concatenate(parts))

    def among(self, head: LevelHead, level: int) -> np.ndarray:
        """Which of a level's prepared pairs find it, [pairs] bool."""
        hits = self.finds[level][head.anchors.cpu().numpy()]
        return hits if self.label is None else hits & (head.labels.cpu().numpy() == self.label)

    def best(self, where: np.ndarray) -> Pair | None:
        """The best-scored pair that finds it, of those where [M, K] is True."""
        if self.label is not None:
            where = where & (np.arange(self.scores.shape[1]) == self.label)
        scores = np.where(where, self.scores, np.float32(-1))
        if not scores.size or scores.max() < 0:
            return None
        row, label = np.unravel_index(scores.argmax(), scores.shape)
        return Pair(*self.anchors[row].tolist(), int(label), float(scores[row, label]))

    def passing(self, config: PostprocessConfig) -> np.ndarray:
        """Which of `scores` are above the thresholds of a setting, [M, K] bool."""
        return self.scores > thresholds(config, self.scores.shape[1])

    def rank(self, pair: Pair) -> tuple[float, int]:
        """A pair's exact score, and 1 + the number of pairs of its level with a larger one."""
        if pair not in self._ranks:
            self._ranks[pair] = _exact_rank(self.outputs, pair)
        return self._ranks[pair]


def _exact_rank(outputs: Outputs, pair: Pair) -> tuple[float, int]:
    head = candidates_of(outputs).heads[pair.level]
    row = ((head.anchors == pair.anchor) & (head.labels == pair.label)).nonzero().flatten()
    if len(row):
        score = float(head.scores[row[0]])
        return score, head.count_above(score) + 1
    # Not among the prepared: count the whole level, some 50 ms for 14 million pairs on a CPU. The
    # sigmoid of a part of it may differ in the last bit.
    scores = level_scores(outputs.cls_logits[pair.level])
    own = scores[pair.anchor, pair.label]
    return float(own), int(torch.count_nonzero(scores > own)) + 1


def original_boxes(outputs: Outputs) -> np.ndarray:
    """Every anchor's decoded and clipped box, [R, 4] float32, pixels of the original picture.

    Worked out once and kept with the outputs: 3 MB for a picture of 800x1333.
    """
    return outputs.derived("original_boxes", _original_boxes)


def original_anchors(outputs: Outputs) -> np.ndarray:
    """Every anchor in the same form and kept in the same way; it may reach beyond the picture."""
    return outputs.derived("original_anchors", lambda own: _in_original(own, own.anchors))


def _original_boxes(outputs: Outputs) -> np.ndarray:
    boxes = [
        clip_boxes_to_image(decode(deltas, anchors), outputs.image_size)
        for deltas, anchors in zip(outputs.bbox_regression, outputs.anchors, strict=True)
    ]
    return _in_original(outputs, boxes)


def _in_original(outputs: Outputs, levels: list[Tensor]) -> np.ndarray:
    """Boxes of all levels, [R, 4], from network pixels to those of the original picture."""
    boxes = resize_boxes(torch.cat(levels), outputs.image_size, outputs.original_size)
    return boxes.cpu().numpy()


def thresholds(config: PostprocessConfig, num_classes: int) -> np.ndarray:
    """What a score of each class must be above, [K] float32: `score_thresh`, or a higher floor."""
    least = np.full(num_classes, config.score_thresh, np.float32)
    for label, floor in config.class_score_thresh:
        if label < num_classes:
            least[label] = max(least[label], np.float32(floor))
    return least


@dataclass(frozen=True, eq=False)
class Standing:
    """How the object stands in a trace. N = pairs that entered NMS, level after level.

    Args:
        trace: of some setting.
        detection: the best kept detection that finds it, as plain data; None: it is missed.
        entered: [N] bool, which of the pairs that entered NMS find it.
        survived: places among NMS's survivors, best first and 0 for the best of all.
        cut: of each level the best prepared pair that finds it and was cut by top-K, and its rank
            among those above the thresholds.
    """

    trace: DetectionTrace
    detection: dict[str, Any] | None
    entered: np.ndarray
    survived: np.ndarray
    cut: tuple[tuple[int, Pair], ...]

    @classmethod
    def of(cls, trace: DetectionTrace, target: Target) -> Standing:
        """Of an object in a trace."""
        hits = [target.among(head, level) for level, head in enumerate(trace.heads)]
        parts = [hit[:take] for hit, take in zip(hits, trace.takes, strict=True)]
        entered = np.concatenate(parts)
        cut = []
        for level, (head, take) in enumerate(zip(trace.heads, trace.takes, strict=True)):
            above = head.count_above(trace.config.score_thresh)
            rows = np.flatnonzero(hits[level][take:above]) + take
            if len(rows):
                cut.append((int(rows[0]) + 1, pair_of(head, level, int(rows[0]))))
        return cls(
            trace=trace,
            detection=kept_on(trace, target),
            entered=entered,
            survived=np.flatnonzero(entered[trace.survivors.cpu().numpy()]),
            cut=tuple(cut),
        )

    @cached_property
    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [N, 4], scores [N] and labels [N] of all pairs that entered NMS."""
        parts: tuple[Tensor, ...] = selected(self.trace.heads, self.trace.takes)
        boxes, scores, labels = (part.cpu().numpy() for part in parts)
        return boxes, scores, labels

    def entered_pair(self, row: int) -> Pair:
        """Row `row` of those that entered NMS."""
        ends = np.cumsum(self.trace.takes)
        level = int(np.searchsorted(ends, row, side="right"))
        return pair_of(self.trace.heads[level], level, row - int(ends[level - 1] if level else 0))

    @property
    def best_survivor(self) -> Pair | None:
        """The best pair that finds it and survived NMS."""
        if not len(self.survived):
            return None
        return self.entered_pair(int(self.trace.survivors[self.survived[0]]))

    @property
    def best_suppressed(self) -> Pair | None:
        """The best pair that finds it and was suppressed."""
        lost = self.entered.copy()
        lost[self.trace.survivors.cpu().numpy()] = False
        rows = np.flatnonzero(lost)
        return self.entered_pair(int(rows[self.columns[1][rows].argmax()])) if len(rows) else None

    @property
    def stopped(self) -> Iterator[Pair]:
        """The best pair that finds it of each fate, of those above the thresholds and prepared."""
        best_cut = max((pair for _, pair in self.cut), key=lambda pair: pair.score, default=None)
        found = (self.best_survivor, self.best_suppressed, best_cut)
        return (pair for pair in found if pair is not None)


def pair_of(head: LevelHead, level: int, row: int) -> Pair:
    """A row of a level's prepared pairs."""
    anchor, label = int(head.anchors[row]), int(head.labels[row])
    return Pair(level, anchor, label, float(head.scores[row]))


def kept_on(trace: DetectionTrace, target: Target, other: bool = False) -> dict[str, Any] | None:
    """The best kept detection that finds the object, as plain data; None where there is none.

    Args:
        trace: of some setting.
        target: the object.
        other: find a detection on it of another class than its own instead.
    """
    iou = pairwise_iou(target.box, trace.boxes.cpu().numpy().astype(np.float64))
    hits = iou >= target.match_iou
    if target.label is not None:
        hits &= (trace.labels.cpu().numpy() == target.label) != other
    elif other:
        return None
    rows = np.flatnonzero(hits)
    if not len(rows):
        return None
    index, label = int(rows[0]), int(trace.labels[rows[0]])
    return {
        "index": index,
        "label": label,
        "category": trace.categories[label],
        "score": float(trace.scores[index]),
        "iou": float(iou[index]),
        "box": trace.boxes[index].tolist(),
    }
