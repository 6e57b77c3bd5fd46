"""Boxes of this very picture that show what greedy NMS is not: monotone.

Raising `nms_thresh` spares boxes, and raising `topk_candidates` lets more of them in. Either can
bring back a better box that then suppresses one that was kept. Each such case here names the two
values, the box that comes back and why it was not there before, and can be had again by `detect`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retinanet.candidates import CUT_SHOWN, KEPT
from retinanet.detection import detect
from retinanet.explain import topk_stretches, up_to_one, whole
from retinanet.nms import PAIR_BUDGET, count_pairs, pairwise_iou
from retinanet.survival import (
    BY_CLASS,
    Lives,
    Rivals,
    Stretch,
    lives_over_nms_thresh,
    lives_over_topk,
    shifted_for,
)
from retinanet.types import LEVELS

if TYPE_CHECKING:
    from retinanet.detection import DetectionTrace

KNOBS: tuple[str, ...] = ("nms_thresh", "topk_candidates")
"""The knobs over which a box's survival is a union of intervals."""


class Suppressor(NamedTuple):
    """A box that suppresses another: its row of `DetectionTrace.candidates`, and their IoU."""

    row: int
    score: float
    iou: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """A box that is kept at one value of a knob and suppressed at a higher one.

    Args:
        knob: the one that moves alone, "nms_thresh" or "topk_candidates".
        row: the box, in `DetectionTrace.candidates`.
        kept_at: a value at which it is a detection; the trace's own where that is one.
        gone_at: a higher value at which it is suppressed; the trace's own where that is one.
        survives_nms: {"from", "to", "to_included"} of each interval over which it survives NMS, as
            `DetectionTrace.explain` gives them.
        known_up_to: the last value for which that is worked out; None when it is for all.
        suppressor: the better box that suppresses it at `gone_at`, with the IoU of the two.
        held_back_by: the box that suppresses that one at `kept_at`, with the IoU of those two;
            None where the suppressor is not among the candidates at `kept_at`.
        sentence: what happens.
        reason: why the suppressor is not there at `kept_at`, and is at `gone_at`.
    """

    knob: str
    row: int
    kept_at: float
    gone_at: float
    survives_nms: list[dict[str, Any]]
    known_up_to: int | None
    suppressor: Suppressor
    held_back_by: Suppressor | None
    sentence: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        held = self.held_back_by
        return {
            "knob": self.knob,
            "row": self.row,
            "kept_at": self.kept_at,
            "gone_at": self.gone_at,
            "survives_nms": self.survives_nms,
            "known_up_to": self.known_up_to,
            "suppressor": self.suppressor._asdict(),
            "held_back_by": held and held._asdict(),
            "sentence": self.sentence,
            "reason": self.reason,
        }


def non_monotone(trace: DetectionTrace, knob: str, limit: int | None = None) -> list[Lesson]:
    """The boxes that raising a knob removes although they are kept at a lower value.

    First the present detections, those that the smallest raise removes first; then the others. Of
    equal ones the best score comes first. There is one lesson for a box, at the removal nearest to
    the present value. Where the cause is `detections_per_img`, or the rounding of the coordinates
    that NMS shifts, there is none.

    Args:
        trace: of any setting; the other knobs stay as they are in it.
        knob: "nms_thresh" or "topk_candidates".
        limit: give only the first ones; None gives all.

    Returns:
        The lessons; none when the picture has none, or when so many candidates share a class that
        the search would take long (`PAIR_BUDGET`).

    Raises:
        ValueError: there is no such lesson about this knob.
    """
    if knob not in KNOBS:
        raise ValueError(f"knob must be {' or '.join(KNOBS)}, not {knob!r}.")
    search = _over_nms_thresh(trace) if knob == "nms_thresh" else _over_topk(trace)
    if search is None:
        return []
    removals: dict[int, list[_Removal]] = {}
    for removal in _removals(search):
        removals.setdefault(removal.index, []).append(removal)
    for own in removals.values():
        own.sort(key=lambda removal: _distance(search, removal))
    in_order = sorted(removals.values(), key=lambda own: _place(search, own[0]))
    return list(islice(_lessons(search, in_order), limit))


@dataclass(frozen=True, eq=False, slots=True)
class _Search:
    """The candidates of a trace in NMS's order, and the values of a knob at which each survives.

    Args:
        trace: what is searched.
        knob: the one that moves.
        rows: [n] int64 the candidates' rows of the trace's table.
        rivals: the candidates.
        stretches: of the knob, over which NMS compares the same coordinates.
        lives: where each survives.
        known_up_to: the last value that was looked at; None when it is all.
    """

    trace: DetectionTrace
    knob: str
    rows: np.ndarray
    rivals: Rivals
    stretches: list[Stretch]
    lives: Lives
    known_up_to: int | None = None

    @property
    def now(self) -> float:
        """The knob's present value."""
        return getattr(self.trace.config, self.knob)

    def is_there(self, index: int, value: float) -> bool:
        """Whether a candidate enters NMS at a value of the knob."""
        return self.knob == "nms_thresh" or int(self.rivals.ranks[index]) <= value

    def thresh(self, value: float) -> np.float64:
        """`nms_thresh` at a value of the knob."""
        return np.float64(value if self.knob == "nms_thresh" else self.trace.config.nms_thresh)

    def ious(self, index: int, others: np.ndarray, value: float) -> np.ndarray:
        """IoU of a candidate with others [m], as NMS computes it at a value of the knob, [m]."""
        stretch = next(part for part in self.stretches if part.start <= value < part.stop)
        boxes = shifted_for(self.rivals.where(np.append(others, index)), stretch)
        return pairwise_iou(boxes[:-1], boxes[-1])

    def suppressor(self, index: int, value: float) -> tuple[int, float] | None:
        """Who suppresses a candidate at a value, and at what IoU."""
        alive = self.lives.alive(value)
        earlier = alive[: np.searchsorted(alive, index)]
        earlier = earlier[self.rivals.labels[earlier] == self.rivals.labels[index]]
        iou = self.ious(index, earlier, value)
        above = np.flatnonzero(iou > self.thresh(value))
        return (int(earlier[above[0]]), float(iou[above[0]])) if len(above) else None

    def named(self, index: int, iou: float) -> Suppressor:
        """A candidate and its IoU with the one that it suppresses."""
        row = int(self.rows[index])
        return Suppressor(row, float(self.trace.candidates.score[row]), iou)


def _over_nms_thresh(trace: DetectionTrace) -> _Search | None:
    rows = trace.nms_order
    rivals = _rivals(trace, rows)
    shift = BY_CLASS if trace.max_coordinate is None else trace.max_coordinate
    stretch = Stretch(0.0, math.inf, shift)
    lives = lives_over_nms_thresh(rivals, stretch)
    return lives and _Search(trace, "nms_thresh", rows, rivals, [stretch], lives)


def _over_topk(trace: DetectionTrace) -> _Search | None:
    """With the pairs after the cut that the trace lists; without them where they are too many."""
    topk = trace.config.topk_candidates
    return _up_to_topk(trace, topk + CUT_SHOWN) or _up_to_topk(trace, topk)


def _up_to_topk(trace: DetectionTrace, listed: int) -> _Search | None:
    table, config = trace.candidates, trace.config
    rows = np.lexsort([column.numpy() for column in (table.rank, table.level, -table.score)])
    rows = rows[table.rank.numpy()[rows] <= listed]
    if not len(rows):
        return None
    above = [min(head.count_above(config.score_thresh), listed) for head in trace.heads]
    known_up_to = listed if max(above) == listed else None
    stretches = topk_stretches(trace, above)
    if known_up_to is not None:
        stretches[-1] = stretches[-1]._replace(stop=listed + 1.0)
    rivals = _rivals(trace, rows)
    lives = lives_over_topk(rivals, stretches, config.nms_thresh)
    return lives and _Search(trace, "topk_candidates", rows, rivals, stretches, lives, known_up_to)


def _rivals(trace: DetectionTrace, rows: np.ndarray) -> Rivals:
    table = trace.candidates
    columns = (table.box, table.label, table.rank)
    return Rivals(*(column.numpy()[rows] for column in columns))


class _Removal(NamedTuple):
    """Candidate `index` survives over [low, high) and not over [high, until)."""

    index: int
    low: float
    high: float
    until: float


def _removals(search: _Search) -> list[_Removal]:
    """Every place where raising the knob ends a candidate's survival."""
    owner, low, high = search.lives.owner, search.lives.low, search.lives.high
    end = math.inf if search.known_up_to is None else search.known_up_to + 1.0
    has_next = np.append(owner[1:] == owner[:-1], False)[: len(owner)]
    until = np.where(has_next, np.append(low[1:], end)[: len(owner)], end)
    ends = np.flatnonzero(high < until)
    columns = (owner[ends], low[ends], high[ends], until[ends])
    return [_Removal(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _distance(search: _Search, removal: _Removal) -> float:
    """How far the removal is from the present value; -2 where that is before it, -1 after."""
    if removal.low <= search.now < removal.high:
        return -2.0
    if removal.high <= search.now < removal.until:
        return -1.0
    return abs(removal.high - search.now)


def _place(search: _Search, removal: _Removal) -> tuple[float, ...]:
    """What decides where a lesson comes in the list."""
    table, row = search.trace.candidates, search.rows[removal.index]
    score = float(table.score[row])
    if int(table.fate[row]) == KEPT and removal.low <= search.now < removal.high:
        return 0.0, _values(search, removal)[1], -score
    return 1.0, 0.0, -score


def _values(search: _Search, removal: _Removal) -> tuple[float, float]:
    """The values to name, before the removal and after it: the present one, or near to the end."""
    _, low, high, until = removal
    if search.knob == "nms_thresh":
        before, after = _decimal_below(low, high), _decimal_from(high, until)
    else:
        before, after = int(high) - 1, int(high)
    now = search.now
    return (now if low <= now < high else before), (now if high <= now < until else after)


def _decimal_below(low: float, high: float) -> float:
    """The shortest decimal in [low, high) of two places or more; of these the largest."""
    for places in range(2, 16):
        value = (math.ceil(high * 10**places) - 1) / 10**places
        if low <= value < high:
            return value
    return low


def _decimal_from(low: float, high: float) -> float:
    """The shortest decimal in [low, high) of two places or more; of these the smallest."""
    for places in range(2, 16):
        value = math.ceil(low * 10**places) / 10**places
        if low <= value < high:
            return value
    return low


def _lessons(search: _Search, removals: list[list[_Removal]]) -> Iterator[Lesson]:
    """For each box the first of its removals that is a lesson, tried out."""
    for own in removals:
        told = filter(None, (_lesson(search, removal) for removal in own))
        yield from islice((lesson for lesson in told if _holds(search.trace, lesson)), 1)


def _holds(trace: DetectionTrace, lesson: Lesson) -> bool:
    """Whether `detect` says so too: of equal scores it may take others at another value."""
    table, outputs = trace.candidates, trace.outputs
    place = tuple(int(c[lesson.row]) for c in (table.level, table.anchor, table.label))
    fates = []
    for value in (lesson.kept_at, lesson.gone_at):
        other = detect(outputs, replace(trace.config, **{lesson.knob: value})).candidates
        columns = zip(*(c.tolist() for c in (other.level, other.anchor, other.label)), strict=True)
        rows = [row for row, found in enumerate(columns) if found == place]
        fates.append(int(other.fate[rows[0]]) if rows else None)
    return fates[0] == KEPT and fates[1] != KEPT


def is_too_crowded(trace: DetectionTrace) -> bool:
    """Whether so many candidates share a class that no lesson is looked for (`PAIR_BUDGET`)."""
    return count_pairs(trace.candidates.label.numpy()[trace.nms_order]) > PAIR_BUDGET


def _lesson(search: _Search, removal: _Removal) -> Lesson | None:
    """None where `detections_per_img` or rounding is behind it."""
    index = removal.index
    kept_at, gone_at = _values(search, removal)
    before = np.searchsorted(search.lives.alive(kept_at), index)
    by = search.suppressor(index, gone_at)
    if by is None or before >= search.trace.config.detections_per_img:
        return None
    held = None
    if search.is_there(by[0], kept_at):
        held = search.suppressor(by[0], kept_at)
        if held is None or not _lets_go(search, held, gone_at):
            return None
    describe = up_to_one if search.knob == "nms_thresh" else whole
    suppressor, held_back_by = search.named(*by), held and search.named(*held)
    values = kept_at, gone_at
    return Lesson(
        knob=search.knob,
        row=int(search.rows[index]),
        kept_at=kept_at,
        gone_at=gone_at,
        survives_nms=describe(search.lives.of(index)),
        known_up_to=search.known_up_to,
        suppressor=suppressor,
        held_back_by=held_back_by,
        sentence=_sentence(search, int(search.rows[index]), values, suppressor, held_back_by),
        reason=_reason(search, values, suppressor, held_back_by),
    )


def _lets_go(search: _Search, held: tuple[int, float], value: float) -> bool:
    """Whether a box no longer suppresses another at a value, other than by rounding."""
    there = held[0] in search.lives.alive(value)
    return not there or (search.knob == "nms_thresh" and held[1] <= value)


def _sentence(
    search: _Search,
    row: int,
    values: tuple[float, float],
    by: Suppressor,
    held: Suppressor | None,
) -> str:
    table, thresh = search.trace.candidates, float(search.thresh(values[1]))
    score = float(table.score[row])
    before, after = (_exact(value) for value in values)
    better = f"{_better(by.score, score)} ({_beside(by.score, score)})"
    iou = _beside(by.iou, thresh)
    if held is None:
        place = f"number {int(table.rank[by.row]):,} of {LEVELS[int(table.level[by.row])]}"
        event = f"{better}, {place} by score, comes in and overlaps it by {iou}"
    else:
        higher = "higher threshold" if search.knob == "nms_thresh" else "larger number"
        event = f"the {higher} lets {better} survive, and that one overlaps it by {iou}"
    name = search.trace.categories[int(table.label[row])]
    return (
        f"At {search.knob} {before} this {name} box ({_beside(score, by.score)}) is kept. "
        f"At {after} it goes: {event}."
    )


def _reason(
    search: _Search, values: tuple[float, float], by: Suppressor, held: Suppressor | None
) -> str:
    before, after = (_exact(value) for value in values)
    if held is None:
        rank = int(search.trace.candidates.rank[by.row])
        return f"As number {rank:,} of its level it enters NMS from {search.knob} {rank:,} on."
    better = f"{_better(held.score, by.score)} ({_beside(held.score, by.score)})"
    thresholds = [float(search.thresh(value)) for value in values]
    change = "that is not enough" if held.iou <= thresholds[1] else "that box is gone"
    return (
        f"At {before} that one is itself suppressed by {better}, which overlaps it by "
        f"{_beside(held.iou, *thresholds)}; at {after} {change}."
    )


def _better(score: float, than: float) -> str:
    return "a better box" if score > than else "an equal box that comes first"


def _beside(value: float, *others: float) -> str:
    """With two decimals, or as many more as tell it from the others."""
    places = 2
    while any(f"{value:.{places}f}" == f"{o:.{places}f}" for o in others if o != value):
        places += 1
    return f"{value:.{places}f}"


def _exact(value: float) -> str:
    """The value in full, with two decimals or more; a whole number with separators."""
    if isinstance(value, int):
        return f"{value:,}"
    short = (f"{value:.{places}f}" for places in range(2, 16))
    return next((text for text in short if float(text) == value), repr(value))
