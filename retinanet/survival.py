"""Over which values of a knob a candidate lives.

Greedy NMS is not monotone: a higher `nms_thresh` or `topk_candidates` can bring back the box that
suppresses a kept one. So the values at which a candidate survives are a union of intervals, and
here they are worked out exactly, for all values at once: with S_j the values at which candidate j
survives and R_ij those at which i, if it is there, suppresses it,

    S_j = (values at which j is there) without the union over earlier i of (S_i and R_ij).

Intervals are half-open, [from, to).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retinanet.nms import PAIR_BUDGET, Overlaps, count_pairs, find_overlaps, pairwise_iou, shifted

Intervals = list[tuple[float, float]]
"""Ascending, disjoint, half-open; infinity where there is no end."""

BY_CLASS = -1.0
"""In place of a largest coordinate: NMS runs class by class. Clipped boxes are never below 0."""


class Stretch(NamedTuple):
    """Values [start, stop) of a knob over which NMS compares the same coordinates.

    `max_coordinate` is what the coordinate trick shifts classes by (see `nms.shifted`), or
    `BY_CLASS`.
    """

    start: float
    stop: float
    max_coordinate: float


@dataclass(frozen=True, eq=False, slots=True)
class Rivals:
    """A candidate, last, and all that come before it in NMS's order. n = their number.

    Args:
        boxes: [n, 4] float32, clipped, pixels of the resized image.
        labels: [n] int64.
        ranks: [n] int64, 1 for the best pair of its level.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, mask: np.ndarray) -> Rivals:
        """Those where `mask` [n] is True, or with these indices."""
        return Rivals(self.boxes[mask], self.labels[mask], self.ranks[mask])

    @property
    def same_class(self) -> Rivals:
        """Those of the candidate's class: NMS depends on no others."""
        return self.where(self.labels == self.labels[-1])

    def relatives(self, stretch: Stretch, least_iou: float) -> Rivals:
        """Those that can matter: linked to the candidate by IoUs above `least_iou`."""
        boxes = shifted_for(self, stretch)
        related = np.zeros(len(self), dtype=bool)
        related[-1] = True
        waiting = [len(self) - 1]
        while waiting:
            index = waiting.pop()
            near = pairwise_iou(boxes[index], boxes[:index]) > np.float64(least_iou)
            new = np.flatnonzero(near & ~related[:index])
            related[new] = True
            waiting.extend(new.tolist())
        return self.where(related)


@dataclass(frozen=True, eq=False, slots=True)
class Lives:
    """At which values of a knob each of several candidates survives NMS. I = number of intervals.

    Args:
        owner: [I] int64 candidate, ascending.
        low: [I] float64 ...
        high: [I] float64 ... the ends of [low, high); ascending and apart for each candidate.
    """

    owner: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def of(self, index: int) -> Intervals:
        """Those of one candidate."""
        own = slice(*np.searchsorted(self.owner, [index, index + 1]))
        return list(zip(self.low[own].tolist(), self.high[own].tolist(), strict=True))

    def alive(self, value: float) -> np.ndarray:
        """The candidates that survive at a value, ascending."""
        return self.owner[(self.low <= value) & (value < self.high)]


@dataclass(frozen=True, eq=False, slots=True)
class Survival:
    """Values of one knob.

    Args:
        survives: at which the candidate survives NMS.
        kept: at which it is also among the `detections_per_img` best; None where so many
            candidates come before it that this was not worked out.
    """

    survives: Intervals
    kept: Intervals | None


def shifted_for(rivals: Rivals, stretch: Stretch) -> np.ndarray:
    """The coordinates [n, 4] that NMS compares over a stretch."""
    by_class = stretch.max_coordinate == BY_CLASS
    return shifted(rivals.boxes, rivals.labels, None if by_class else stretch.max_coordinate)


def over_nms_thresh(rivals: Rivals, stretch: Stretch, limit: int) -> Survival:
    """Values of `nms_thresh` from 0; one stretch, as the coordinates do not depend on it."""
    return _survival(rivals, [stretch], None, False, limit)


def over_score_thresh(
    rivals: Rivals, stretches: list[Stretch], nms_thresh: float, limit: int
) -> Survival:
    """Values of `score_thresh` below the candidate's score, where all its rivals are there."""
    return _survival(rivals, stretches, nms_thresh, False, limit)


def over_topk(rivals: Rivals, stretches: list[Stretch], nms_thresh: float, limit: int) -> Survival:
    """Values of `topk_candidates`: each rival is there from its rank on."""
    return _survival(rivals, stretches, nms_thresh, True, limit)


def lives_over_nms_thresh(candidates: Rivals, stretch: Stretch) -> Lives | None:
    """`over_nms_thresh` of all candidates at once, given in NMS's order; None: too many pairs."""
    return _all_lives(candidates, [stretch], None, False)


def lives_over_topk(
    candidates: Rivals, stretches: list[Stretch], nms_thresh: float
) -> Lives | None:
    """`over_topk` of all candidates at once, given in NMS's order; None: too many pairs."""
    return _all_lives(candidates, stretches, nms_thresh, True)


def _all_lives(
    candidates: Rivals, stretches: list[Stretch], nms_thresh: float | None, from_rank: bool
) -> Lives | None:
    if count_pairs(candidates.labels) > PAIR_BUDGET:
        return None
    parts = [(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))]
    for stretch in stretches:
        there = np.flatnonzero(candidates.ranks < stretch.stop) if from_rank else slice(None)
        group = candidates.where(there)
        lows, highs, offsets = _group_lives(group, stretch, nms_thresh, from_rank)
        numbers = np.arange(len(candidates))[there]
        parts.append((np.repeat(numbers, np.diff(offsets)), lows, highs))
    owner, low, high = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((low, owner))
    owner, low, high = owner[order], low[order], high[order]
    goes_on = (owner[1:] == owner[:-1]) & (low[1:] == high[:-1])
    starts, ends = np.append(True, ~goes_on)[: len(owner)], np.append(~goes_on, True)[: len(owner)]
    return Lives(owner[starts], low[starts], high[ends])


def _survival(
    rivals: Rivals,
    stretches: list[Stretch],
    nms_thresh: float | None,
    from_rank: bool,
    limit: int,
) -> Survival:
    """`nms_thresh` None: it is the knob, and a pair suppresses at values below its IoU."""
    limit_can_bind = len(rivals) > limit
    with_everyone = limit_can_bind and count_pairs(rivals.labels) <= PAIR_BUDGET
    survives: Intervals = []
    kept: Intervals = []
    for stretch in stretches:
        group = rivals
        if not with_everyone:
            group = rivals.same_class.relatives(stretch, nms_thresh or 0.0)
        lows, highs, offsets = _group_lives(group, stretch, nms_thresh, from_rank)
        own = list(zip(lows[offsets[-2] :].tolist(), highs[offsets[-2] :].tolist(), strict=True))
        survives += own
        if with_everyone:
            kept += _below_count(own, lows[: offsets[-2]], highs[: offsets[-2]], limit)
    survives = _joined(survives)
    if not limit_can_bind:
        return Survival(survives, survives)
    return Survival(survives, _joined(kept) if with_everyone else None)


def _group_lives(
    group: Rivals, stretch: Stretch, nms_thresh: float | None, from_rank: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_lives` over a stretch, where the group holds everyone who matters to its members."""
    order = np.arange(len(group))
    pairs = find_overlaps(shifted_for(group, stretch), group.labels, order, nms_thresh or 0.0)
    if nms_thresh is None:
        reach = pairs.iou.astype(np.float64)
    else:
        reach = np.full(len(pairs.iou), math.inf)
    starts = np.full(len(group), stretch.start)
    if from_rank:
        starts = np.maximum(starts, group.ranks)
    return _lives(starts, stretch.stop, pairs, reach)


def _lives(
    starts: np.ndarray, stop: float, pairs: Overlaps, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S_j of every candidate, in NMS's order (the module's formula).

    Args:
        starts: [n] each is there over [starts, stop).
        stop: where the knob's stretch ends.
        pairs: who can suppress whom; indices into `starts`.
        reach: [E] a pair suppresses at values below this.

    Returns:
        Ends [I] and [I] of all intervals, and [n + 1] offsets: candidate j has those from
        offsets[j] to offsets[j + 1].
    """
    by_second = np.argsort(pairs.second, kind="stable")
    first, reach = pairs.first[by_second], reach[by_second]
    row = np.searchsorted(pairs.second[by_second], np.arange(len(starts) + 1))
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    lows, highs = np.empty(2 * len(starts) + 8), np.empty(2 * len(starts) + 8)
    count = 0
    for index, start in enumerate(starts):
        earlier = slice(row[index], row[index + 1])
        if earlier.start == earlier.stop:
            gap_low, gap_high = start, stop
            size = int(start < stop)
        else:
            begin, end = offsets[first[earlier]], offsets[first[earlier] + 1]
            flat = _ranges(begin, end)
            low = np.maximum(lows[flat], start)
            high = np.minimum(highs[flat], np.repeat(reach[earlier], end - begin))
            gap_low, gap_high = _gaps(low, high, start, stop)
            size = len(gap_low)
        if count + size > len(lows):
            lows = np.concatenate([lows, np.empty(size + len(lows))])
            highs = np.concatenate([highs, np.empty(size + len(highs))])
        lows[count : count + size], highs[count : count + size] = gap_low, gap_high
        count += size
        offsets[index + 1] = count
    return lows[:count], highs[:count], offsets


def _ranges(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """begin[0], ..., end[0] - 1, begin[1], ..., end[1] - 1, ..."""
    sizes = end - begin
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(begin - before, sizes)


def _gaps(
    low: np.ndarray, high: np.ndarray, start: float, stop: float
) -> tuple[np.ndarray, np.ndarray]:
    """What the intervals [low, high) leave of [start, stop)."""
    real = low < high
    order = np.argsort(low[real], kind="stable")
    low, high = low[real][order], np.maximum.accumulate(high[real][order])
    gap_low = np.concatenate(([start], high))
    gap_high = np.minimum(np.concatenate((low, [stop])), stop)
    open_gap = gap_low < gap_high
    return gap_low[open_gap], gap_high[open_gap]


def _below_count(own: Intervals, lows: np.ndarray, highs: np.ndarray, limit: int) -> Intervals:
    """The parts of `own` at which fewer than `limit` of the intervals [lows, highs) are open."""
    values, where = np.unique(np.concatenate([lows, highs]), return_inverse=True)
    steps = np.zeros(len(values), dtype=np.int64)
    np.add.at(steps, where, np.repeat([1, -1], [len(lows), len(highs)]))
    full = np.flatnonzero(np.cumsum(steps) >= limit)
    left: Intervals = []
    for start, stop in own:
        # The count changes at `values` only, and is 0 from the last one on.
        inside = np.maximum(values[full], start)
        ends = np.append(values, math.inf)[full + 1]
        left += zip(*(part.tolist() for part in _gaps(inside, ends, start, stop)), strict=True)
    return left


def _joined(intervals: Intervals) -> Intervals:
    joined: Intervals = []
    for low, high in intervals:
        if joined and joined[-1][1] == low:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined
