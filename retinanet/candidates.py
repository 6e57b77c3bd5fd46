"""What post-processing needs of an image, prepared once.

A settings change must not touch the 18 million (anchor, class) pairs of an 800x1333 picture again.
So for each level the best pairs are picked, ordered and decoded once (`LevelHead`), and the scores
are put in order once so that any threshold can be counted (`ScoreLadder`). What is left for each
change is slicing and NMS; where single classes have floors, taking out the pairs under them.
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
from torchvision.ops import batched_nms

from retinanet.config import PostprocessConfig
from retinanet.level_head import BEYOND, Floors, LevelHead, level_scores, make_head, starting_with
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
        self._floored: dict[int, tuple[Floors, int, LevelHead]] = {}  # level: of `_from_all`
        self._columns: dict[tuple[int, int], np.ndarray] = {}  # (level, label): ascending scores
        for level, logits in enumerate(outputs.cls_logits):
            scores = level_scores(logits)
            self.heads.append(make_head(outputs, level, scores, HEAD_PAIRS))
            self._positive.append(int(torch.count_nonzero(scores)))
            if scores.device.type == "cpu":
                self._ladders.append(_first_ladder(scores))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        parts = [*self.heads, *(ladder for _, ladder in self._ladders)]
        parts += [*self._flat.values(), *self._columns.values()]
        parts += [head for _, _, head in list(self._floored.values())]
        if self._overlaps and self._overlaps[1]:
            parts.append(self._overlaps[1])
        return sum(part.nbytes for part in parts)

    def enter(
        self, outputs: Outputs, level: int, config: PostprocessConfig
    ) -> tuple[LevelHead, int]:
        """A level's pairs in torchvision's order, and how many of them it sends to NMS.

        Pairs under their class's floor are left out. Only where scores are equal is there a choice.
        It is made by `torch.topk`, from all the scores that pass and their order, so there it is
        asked the same question again.
        """
        score_thresh, floors = config.score_thresh, Floors.of(outputs, config)
        take = self.take(outputs, level, config)
        head = self.heads[level]
        has_all = self._has_all_above(level, head, score_thresh)
        if floors:
            head = floors.applied(head)
            wanted = config.topk_candidates + CUT_SHOWN
            if len(head) < wanted and not has_all:
                passing = self.count_above(outputs, level, score_thresh, floors)
                head = self.floored(outputs, level, floors, min(wanted, passing))
            take = min(head.count_above(score_thresh), config.topk_candidates)
        above = head.count_above(score_thresh)
        if not head.has_ties(min(take + 1, above)):
            return head, take
        flat = head.anchors * outputs.num_classes + head.labels
        if has_all:
            rows = flat[:above].sort().indices
            chosen = flat[rows[head.scores[rows].topk(take).indices]]
        else:
            chosen = self._topk(outputs, level, score_thresh, take, floors)
        return starting_with(outputs, level, head, flat, chosen), take

    def _has_all_above(self, level: int, head: LevelHead, score_thresh: float) -> bool:
        """Whether every pair of a level with a score above the threshold is among the prepared."""
        return len(head) == self.totals[level] or head.count_above(score_thresh) < len(head)

    def _topk(
        self, outputs: Outputs, level: int, score_thresh: float, take: int, floors: Floors | None
    ) -> Tensor:
        """[take] int64 flat indices of a level's best pairs, as torchvision picks them."""
        known = self._flat_scores(outputs, level) if self._ladders else None
        if known is None or np.float32(score_thresh) < np.float32(known.floor):
            scores = level_scores(outputs.cls_logits[level]).flatten()
            index = (scores > score_thresh).nonzero().flatten()
            scores = scores[index]
        else:
            above = known.scores > score_thresh
            index, scores = known.index[above].long(), known.scores[above]
        if floors:
            passed = floors.passed(scores, index % outputs.num_classes)
            index, scores = index[passed], scores[passed]
        return index[scores.topk(take).indices]

    def floored(self, outputs: Outputs, level: int, floors: Floors, wanted: int) -> LevelHead:
        """A level's best pairs above their class's floor: `wanted`, or more, or all there are."""
        prepared = self.heads[level]
        head = floors.applied(prepared)
        if len(head) >= wanted or len(prepared) == self.totals[level]:
            return head
        if floors.none_at_most(-float(prepared.negated[-1])):
            return head
        return self._from_all(outputs, level, floors, wanted, head)

    def _from_all(
        self, outputs: Outputs, level: int, floors: Floors, wanted: int, prepared: LevelHead
    ) -> LevelHead:
        """The same from all scores; `prepared` are those among the prepared pairs."""
        with self._lock:
            known = self._floored.get(level)
            if known is None or known[0].pairs != floors.pairs or known[1] < wanted:
                size = max(wanted, HEAD_PAIRS)
                scores = floors.masked(level_scores(outputs.cls_logits[level]))
                head = make_head(outputs, level, scores, size)
                rows = np.full(len(head), BEYOND)
                rows[: len(prepared)] = prepared.rows
                known = self._floored[level] = (floors, size, replace(head, rows=rows))
        return known[2]

    def _flat_scores(self, outputs: Outputs, level: int) -> FlatScores:
        with self._lock:
            if level not in self._flat:
                scores = level_scores(outputs.cls_logits[level]).flatten()
                floor, reached = _first_floor(scores)
                index = reached.nonzero().flatten()
                self._flat[level] = FlatScores(floor, index.int(), scores[index])
            return self._flat[level]

    def count_above(
        self, outputs: Outputs, level: int, score_thresh: float, floors: Floors | None = None
    ) -> int:
        """Pairs of a level with a score strictly above the threshold and any floor, exactly."""
        head = self.heads[level]
        if self._has_all_above(level, head, score_thresh):
            return (floors.applied(head) if floors else head).count_above(score_thresh)
        count = self._count_all_above(outputs, level, score_thresh)
        for label, floor in floors.pairs if floors else ():
            if np.float32(floor) > np.float32(score_thresh):
                ends = np.array([score_thresh, floor], np.float32)
                column = self._column(outputs, level, label, floors)
                below, above = np.searchsorted(column, ends, side="right")
                count -= int(above - below)
        return count

    def may_have_more(
        self, outputs: Outputs, level: int, config: PostprocessConfig, count: int
    ) -> bool:
        """Whether more pairs of a level than the best `count` prepared ones pass its thresholds.

        Without floors it is also True where that would have to be counted.
        """
        floors = Floors.of(outputs, config)
        if floors is None and not self._has_all_above(
            level, self.heads[level], config.score_thresh
        ):
            return True
        return self.count_above(outputs, level, config.score_thresh, floors) > count

    def _count_all_above(self, outputs: Outputs, level: int, score_thresh: float) -> int:
        """The same without floors, where not all those pairs are prepared."""
        if np.float32(score_thresh) == 0:
            return self._positive[level]
        if not self._ladders:  # an accelerator counts them all in no time
            return int((level_scores(outputs.cls_logits[level]) > score_thresh).sum())
        with self._lock:
            floor, ladder = self._ladders[level]
            if np.float32(score_thresh) < np.float32(floor):
                scores = level_scores(outputs.cls_logits[level]).flatten().numpy()
                ladder = ScoreLadder.build(scores)
                self._ladders[level] = (0.0, ladder)
        return ladder.count_above(score_thresh)

    def _column(self, outputs: Outputs, level: int, label: int, floors: Floors) -> np.ndarray:
        """The scores of one class on a level, ascending; those of all floored classes at once."""
        with self._lock:
            if (level, label) not in self._columns:
                # Of the whole level: the sigmoid of a column alone may differ in the last bit.
                scores = level_scores(outputs.cls_logits[level])
                for own, _ in floors.pairs:
                    self._columns[level, own] = np.sort(scores[:, own].cpu().numpy())
            return self._columns[level, label]

    def take(self, outputs: Outputs, level: int, config: PostprocessConfig) -> int:
        """How many pairs a level sends to NMS; prepares more of them where needed."""
        head = self.heads[level]
        count = head.count_above(config.score_thresh)
        if count == len(head) and config.topk_candidates + CUT_SHOWN > len(head):
            count = self.count_above(outputs, level, config.score_thresh)
            wanted = min(config.topk_candidates + CUT_SHOWN, count)
            with self._lock:
                if wanted > len(self.heads[level]):
                    scores = level_scores(outputs.cls_logits[level])
                    size = max(wanted, 2 * len(head))
                    self.heads[level] = make_head(outputs, level, scores, size)
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
        pairs = _in_order(overlaps.last_above(nms_thresh), place, scores.numpy())
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
                overlaps = None
                if feasible:
                    overlaps = find_overlaps(boxes, labels, score_order(scores)).ascending()
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
    place = np.full(starts[-1], -1, dtype=np.int32)
    place[np.concatenate([own + s for own, s in zip(rows, starts, strict=False)])] = np.arange(
        sum(takes)
    )
    return place


def _in_order(pairs: Overlaps, place: np.ndarray, scores: np.ndarray) -> Overlaps:
    """Pairs of the prefixes as pairs of NMS's input, whose order decides between equal scores."""
    first, second = place[pairs.first], place[pairs.second]
    entered = (first >= 0) & (second >= 0)
    first, second, iou = first[entered], second[entered], pairs.iou[entered]
    if len(np.unique(scores)) < len(scores):
        turned = (first > second) & (scores[first] == scores[second])
        first, second = np.where(turned, second, first), np.where(turned, first, second)
    return Overlaps(first, second, iou)


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
