"""What post-processing needs of an image, prepared once.

A settings change must not touch the 18 million (anchor, class) pairs of an 800x1333 picture again.
So for each level the best pairs are picked, ordered and decoded once (`LevelHead`), and the scores
are put in order once so that any threshold can be counted (`ScoreLadder`). What is left for each
change is slicing and NMS.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from retinanet.box_coder import decode
from retinanet.config import PostprocessConfig
from retinanet.nms import (
    PAIR_BUDGET,
    Overlaps,
    coordinate_trick_limit,
    count_pairs,
    find_overlaps,
    score_order,
    survivors,
)
from retinanet.types import Outputs

FATES: tuple[str, ...] = ("below_thresh", "cut_by_topk", "suppressed", "over_limit", "kept")
"""What can become of an (anchor, class) pair, in the order in which it is decided."""

BELOW, CUT, SUPPRESSED, OVER_LIMIT, KEPT = range(len(FATES))

HEAD_PAIRS = 5000
"""Pairs prepared per level at first; more when `topk_candidates` asks for more."""

CUT_SHOWN = 1000
"""Pairs after the last one that top-K lets through which a trace still lists, per level."""

LADDER_FLOORS: tuple[float, ...] = (0.0, 1e-3, 1e-2)
LADDER_SCORES = 1_000_000
"""From the lowest of these floors that at most so many scores of a level reach, scores are kept and
put in order at once; the others, millions in a large picture, when a threshold first asks."""

_UPPER_BITS_OF_ONE = 0x3F80  # of the float32 1.0, the largest score


@dataclass(frozen=True, eq=False, slots=True)
class LevelHead:
    """The best M pairs of one level, by score; equal scores by flat index (anchor, then class).

    In the head that `Candidates.enter` gives, equal scores are in torchvision's order instead, and
    of those that the cut divides, torchvision's are before it.

    Args:
        scores: [M] float32 in [0, 1]; 0 where the logit is not a number.
        anchors: [M] int64 index of the anchor within its level.
        labels: [M] int64.
        boxes: [M, 4] float32 xyxy, decoded and clipped, pixels of the resized image.
        negated: [M] float32 on the CPU, -scores: ascending, so that it can be searched.
        rows: [M] int64 place of each pair in the order by flat index, M for a pair beyond it.
    """

    scores: Tensor
    anchors: Tensor
    labels: Tensor
    boxes: Tensor
    negated: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.negated)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        tensors = (self.scores, self.anchors, self.labels, self.boxes)
        return sum(part.nbytes for part in (*tensors, self.negated, self.rows))

    def count_above(self, score_thresh: float) -> int:
        """How many of these pairs have a score strictly above the threshold."""
        return int(np.searchsorted(self.negated, -np.float32(score_thresh), side="left"))

    def has_ties(self, count: int) -> bool:
        """Whether two of the first `count` scores are equal."""
        return bool((self.negated[1:count] == self.negated[: max(count - 1, 0)]).any())


@dataclass(frozen=True, eq=False, slots=True)
class ScoreLadder:
    """The scores of one level in order, two bytes each, to count those above any threshold.

    The bits of a float that is not negative sort as the float does. The lower 16 bits are kept in
    the order of the scores, and for every value of the upper 16 bits where its run starts.

    Args:
        starts: int64: scores whose upper bits are u lie in `low[starts[u]:starts[u + 1]]`.
        low: [S] uint16.
    """

    starts: np.ndarray
    low: np.ndarray

    @classmethod
    def build(cls, scores: np.ndarray) -> ScoreLadder:
        """From scores [S] float32 in [0, 1], which are put in order in place."""
        scores.sort()
        bits = scores.view(np.uint32)
        starts = np.searchsorted(bits, np.arange(_UPPER_BITS_OF_ONE + 2, dtype=np.uint32) << 16)
        return cls(starts, (bits & 0xFFFF).astype(np.uint16))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.starts.nbytes + self.low.nbytes

    def count_above(self, score_thresh: float) -> int:
        """How many scores are strictly above the threshold."""
        bits = int(np.float32(score_thresh).view(np.uint32))
        start, end = self.starts[bits >> 16], self.starts[(bits >> 16) + 1]
        not_above = np.searchsorted(self.low[start:end], np.uint16(bits & 0xFFFF), side="right")
        return len(self.low) - int(start) - int(not_above)


class FlatScores(NamedTuple):
    """The scores of one level from a floor up, in the order of the flat index. S = their number.

    Args:
        floor: the least score that is listed.
        index: [S] int32 flat index, anchor * classes + class.
        scores: [S] float32.
    """

    floor: float
    index: Tensor
    scores: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.index.nbytes + self.scores.nbytes


class Candidates:
    """The prepared levels of one image. Safe to share between threads.

    Its methods take the `Outputs` that it was made from: holding them here would be a cycle.
    `heads` are the prepared pairs and `totals` the number of all pairs, per level;
    `names` are the class names by label index.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._lock = threading.Lock()
        self.totals = [logits.numel() for logits in outputs.cls_logits]
        self.names = tuple(map(outputs.category_name, range(outputs.num_classes)))
        self.heads: list[LevelHead] = []
        self._positive: list[int] = []
        self._ladders: list[tuple[float, ScoreLadder]] = []  # (counts from here up, ladder)
        self._flat: dict[int, FlatScores] = {}  # only of levels where equal scores asked for it
        self._overlaps: tuple[list[int], Overlaps | None] | None = None
        for level, logits in enumerate(outputs.cls_logits):
            scores = _level_scores(logits)
            self.heads.append(_make_head(outputs, level, scores, HEAD_PAIRS))
            self._positive.append(int(torch.count_nonzero(scores)))
            if scores.device.type == "cpu":
                self._ladders.append(_first_ladder(scores))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        parts = [*self.heads, *(ladder for _, ladder in self._ladders)]
        parts += list(self._flat.values())
        if self._overlaps and self._overlaps[1]:
            parts.append(self._overlaps[1])
        return sum(part.nbytes for part in parts)

    def enter(
        self, outputs: Outputs, level: int, config: PostprocessConfig
    ) -> tuple[LevelHead, int]:
        """A level's pairs in torchvision's order, and how many of them it sends to NMS.

        Only where scores are equal is there a choice. It is made by `torch.topk`, from all the
        scores above the threshold and their order, so there it is asked the same question again.
        """
        take = self.take(outputs, level, config)
        head = self.heads[level]
        above = head.count_above(config.score_thresh)
        if not head.has_ties(min(take + 1, above)):
            return head, take
        flat = head.anchors * outputs.num_classes + head.labels
        if above < len(head) or len(head) == self.totals[level]:
            rows = flat[:above].sort().indices
            chosen = flat[rows[head.scores[rows].topk(take).indices]]
        else:
            chosen = self._topk(outputs, level, config.score_thresh, take)
        return _starting_with(outputs, level, head, flat, chosen), take

    def _topk(self, outputs: Outputs, level: int, score_thresh: float, take: int) -> Tensor:
        """[take] int64 flat indices of a level's best pairs, as torchvision picks them."""
        known = self._flat_scores(outputs, level) if self._ladders else None
        if known is None or np.float32(score_thresh) < np.float32(known.floor):
            scores = _level_scores(outputs.cls_logits[level]).flatten()
            above = scores > score_thresh
            return above.nonzero().flatten()[scores[above].topk(take).indices]
        above = known.scores > score_thresh
        return known.index[above][known.scores[above].topk(take).indices].long()

    def _flat_scores(self, outputs: Outputs, level: int) -> FlatScores:
        with self._lock:
            if level not in self._flat:
                scores = _level_scores(outputs.cls_logits[level]).flatten()
                floor, reached = _first_floor(scores)
                index = reached.nonzero().flatten()
                self._flat[level] = FlatScores(floor, index.int(), scores[index])
            return self._flat[level]

    def count_above(self, outputs: Outputs, level: int, score_thresh: float) -> int:
        """Pairs of a level with a score strictly above the threshold, exactly."""
        head = self.heads[level]
        count = head.count_above(score_thresh)
        if count < len(head) or len(head) == self.totals[level]:
            return count
        if np.float32(score_thresh) == 0:
            return self._positive[level]
        if not self._ladders:  # an accelerator counts them all in no time
            return int((_level_scores(outputs.cls_logits[level]) > score_thresh).sum())
        with self._lock:
            floor, ladder = self._ladders[level]
            if np.float32(score_thresh) < np.float32(floor):
                scores = _level_scores(outputs.cls_logits[level]).flatten().numpy()
                ladder = ScoreLadder.build(scores)
                self._ladders[level] = (0.0, ladder)
        return ladder.count_above(score_thresh)

    def take(self, outputs: Outputs, level: int, config: PostprocessConfig) -> int:
        """How many pairs a level sends to NMS; prepares more of them where needed."""
        head = self.heads[level]
        count = head.count_above(config.score_thresh)
        if count == len(head) and config.topk_candidates + CUT_SHOWN > len(head):
            count = self.count_above(outputs, level, config.score_thresh)
            wanted = min(config.topk_candidates + CUT_SHOWN, count)
            with self._lock:
                if wanted > len(self.heads[level]):
                    scores = _level_scores(outputs.cls_logits[level])
                    size = max(wanted, 2 * len(head))
                    self.heads[level] = _make_head(outputs, level, scores, size)
        return min(count, config.topk_candidates)

    def nms(self, heads: Sequence[LevelHead], takes: Sequence[int], nms_thresh: float) -> Tensor:
        """Indices that survive NMS, best first, into the levels' first `takes` pairs in a row.

        It is `torchvision.ops.batched_nms`, except where that runs class by class on the CPU:
        there, the same decisions are read from overlaps that are worked out once per image.
        """
        boxes, scores, labels = selected(heads, takes)
        on_cpu = boxes.device.type == "cpu"
        by_class = len(boxes) > coordinate_trick_limit(boxes.device.type)
        table = self._prefix_overlaps(takes) if on_cpu and by_class else None
        if table is None:
            return batched_nms(boxes, scores, labels, nms_thresh)
        prefixes, overlaps = table
        place = _places(heads, takes, prefixes)
        if place is None:
            return batched_nms(boxes, scores, labels, nms_thresh)
        pairs = _in_order(overlaps.above(nms_thresh), place, scores.numpy())
        kept = torch.from_numpy(np.flatnonzero(survivors(len(boxes), pairs)))
        # torchvision's last step. (`index_select`: plain indexing starts threads, and a knob that
        # is dragged would wait for them on a busy machine.)
        return kept.index_select(0, scores.index_select(0, kept).sort(descending=True)[1])

    def _prefix_overlaps(self, takes: Sequence[int]) -> tuple[list[int], Overlaps] | None:
        """Overlaps among the first pairs of `self.heads`, and how many of each level are in it.

        None where one class has so many pairs that torchvision's way is the better one.
        """
        with self._lock:
            known = self._overlaps
            if known is None or (np.array(takes) > known[0]).any():
                longest = max(*takes, CUT_SHOWN)
                own = list(self.heads)
                prefixes = [min(longest, len(head)) for head in own]
                boxes, scores, labels = (part.numpy() for part in selected(own, prefixes))
                feasible = count_pairs(labels) <= PAIR_BUDGET
                overlaps = find_overlaps(boxes, labels, score_order(scores)) if feasible else None
                known = self._overlaps = (prefixes, overlaps)
        prefixes, overlaps = known
        return None if overlaps is None else (prefixes, overlaps)


def candidates_of(outputs: Outputs) -> Candidates:
    """The image's prepared candidates: made at the first call, kept with the outputs."""
    return outputs.derived("candidates", Candidates)


def selected(heads: Sequence[LevelHead], takes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [N, 4], scores [N] and labels [N] of the first pairs of each level, level by level."""
    slices = list(zip(heads, takes, strict=True))
    return (
        torch.cat([head.boxes[:take] for head, take in slices]),
        torch.cat([head.scores[:take] for head, take in slices]),
        torch.cat([head.labels[:take] for head, take in slices]),
    )


def _level_scores(logits: Tensor) -> Tensor:
    # A logit that is not a number passes no threshold in torchvision; a score of 0 neither.
    return torch.sigmoid(logits).nan_to_num_(nan=0.0)


def _starting_with(
    outputs: Outputs, level: int, head: LevelHead, flat: Tensor, chosen: Tensor
) -> LevelHead:
    """The head with other pairs of the same scores first.

    Args:
        flat: [M] int64 flat indices of the head's pairs.
        chosen: [take] int64 flat indices; one that is not the head's has the head's last score.
    """
    ascending, rows = flat.sort()
    near = torch.searchsorted(ascending, chosen).clamp_(max=len(flat) - 1)
    inside = ascending[near] == chosen
    first = rows[near]
    left = torch.ones_like(flat, dtype=torch.bool)
    left[first[inside]] = False
    left = left.nonzero().flatten()
    order = torch.cat([torch.where(inside, first, len(flat)), left])[: len(flat)]
    if bool(inside.all()):
        anchors, labels, boxes = (
            column.index_select(0, order) for column in (head.anchors, head.labels, head.boxes)
        )
    else:
        pairs = torch.cat([chosen, flat[left]])[: len(flat)]
        anchors, labels = pairs // outputs.num_classes, pairs % outputs.num_classes
        boxes = _boxes(outputs, level, anchors)
    return replace(head, anchors=anchors, labels=labels, boxes=boxes, rows=order.cpu().numpy())


def _places(
    heads: Sequence[LevelHead], takes: Sequence[int], prefixes: Sequence[int]
) -> np.ndarray | None:
    """Where NMS's input has each pair of the prefixes, -1 if it is not in it.

    None where the input has a pair that is in no prefix.
    """
    rows = [head.rows[:take] for head, take in zip(heads, takes, strict=True)]
    if any((own >= prefix).any() for own, prefix in zip(rows, prefixes, strict=True)):
        return None
    starts = np.cumsum([0, *prefixes])
    place = np.full(starts[-1], -1)
    place[np.concatenate([own + s for own, s in zip(rows, starts, strict=False)])] = np.arange(
        sum(takes)
    )
    return place


def _in_order(pairs: Overlaps, place: np.ndarray, scores: np.ndarray) -> Overlaps:
    """Pairs of the prefixes as pairs of NMS's input, whose order decides between equal scores."""
    first, second = place[pairs.first], place[pairs.second]
    entered = (first >= 0) & (second >= 0)
    first, second = first[entered], second[entered]
    turned = (first > second) & (scores[first] == scores[second])
    return Overlaps(
        np.where(turned, second, first), np.where(turned, first, second), pairs.iou[entered]
    )


def _boxes(outputs: Outputs, level: int, anchors: Tensor) -> Tensor:
    """The decoded and clipped boxes [N, 4] of a level's anchors [N]."""
    boxes = decode(outputs.bbox_regression[level][anchors], outputs.anchors[level][anchors])
    return clip_boxes_to_image(boxes, outputs.image_size)


def _make_head(outputs: Outputs, level: int, scores: Tensor, size: int) -> LevelHead:
    pairs = _best_pairs(scores, size)
    anchors, labels = pairs // scores.shape[1], pairs % scores.shape[1]
    best = scores.flatten()[pairs]
    return LevelHead(
        scores=best,
        anchors=anchors,
        labels=labels,
        boxes=_boxes(outputs, level, anchors),
        negated=-best.cpu().numpy(),
        rows=np.arange(len(best)),
    )


def _best_pairs(scores: Tensor, size: int) -> Tensor:
    """Flat indices of the best `size` of scores [R, K], by score, then by index."""
    flat = scores.flatten()
    if len(flat) <= size:
        return flat.sort(descending=True, stable=True).indices
    # The `size` best anchors alone hold `size` pairs this good, so nothing below can be in.
    enough = len(scores) >= size
    floor = scores.amax(dim=1).topk(size).values[-1] if enough else flat.new_zeros(())
    index = (flat >= floor).nonzero().flatten()
    values = flat[index]
    worst = values.topk(size).values[-1]
    tied = (values == worst).nonzero().flatten()
    above = (values > worst).nonzero().flatten()
    chosen = torch.cat([above, tied[: size - len(above)]]).sort().values
    return index[chosen][values[chosen].sort(descending=True, stable=True).indices]


def _first_ladder(scores: Tensor) -> tuple[float, ScoreLadder]:
    """The floor from which scores can be counted now, and the ladder for it."""
    floor, reached = _first_floor(scores.flatten())
    return floor, ScoreLadder.build(scores.flatten()[reached].numpy())


def _first_floor(scores: Tensor) -> tuple[float, Tensor]:
    """The first floor that few enough of the scores [S] reach, and which do, [S] bool."""
    for floor in (*LADDER_FLOORS, math.inf):
        reached = scores >= floor
        if floor == math.inf or int(torch.count_nonzero(reached)) <= LADDER_SCORES:
            break
    return floor, reached
