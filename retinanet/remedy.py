"""The smallest change of the knobs that brings a missed object in.

What could help is worked out from how the object stands: a threshold just below a score, a number
just large enough for a rank or a position, an `nms_thresh` at which NMS lets a fitting box live.
Nothing is believed: each change is proven by `detect`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from retinanet.candidates import candidates_of
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.nms import (
    PAIR_BUDGET,
    find_overlaps,
    pairwise_iou,
    score_order,
    shifted,
    survivors,
)
from retinanet.target import Pair, Standing, Target

Fix = dict[str, Any]
"""{"changes": {knob: value}, "size": of the change, "detection": what then finds the object}."""

ROUND_COUNTS: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
"""The values of `topk_candidates` that a hand would set."""

MAX_DETECTIONS = 60
"""Calls of `detect` for one object."""

MAX_PROOFS = 25
"""Values of one knob that are tried with `detect` in a row."""

MAX_STATES = 6
"""Settings from which another knob is turned, each time that one more knob is needed."""

MAX_FLOORED = 3
"""Classes whose own floor is lowered, the best-scored first."""

KIN_BUDGET = 2 * PAIR_BUDGET
"""Pairs of boxes that are compared to find those that matter to one `nms_thresh`."""

_CHUNK = 1 << 20  # IoUs worked out at a time: keeps the temporary arrays in the cache


def find_fixes(target: Target, standing: Standing) -> tuple[Fix | None, list[Fix]]:
    """The smallest change of a setting after which `detect` keeps a box that finds the object.

    Fewest knobs first, then the smallest size: a difference of a threshold, or a quarter of the
    decades that a number moves by, summed over the knobs. Thresholds move to a hundredth where that
    works, else to the first decimal that does; `topk_candidates` to one of `ROUND_COUNTS`, else to
    the exact rank; `detections_per_img` to the exact position.

    One knob alone is searched thoroughly. Over `score_thresh` and `detections_per_img` the answer
    is exact: survival changes once. Over `nms_thresh` and `topk_candidates` it is a union of
    intervals, met at those round values; one that lies between two of them is not seen. Two and
    more knobs are found step by step: what stops the best pair is turned, then what stops it next.
    At most `MAX_DETECTIONS` settings are tried, `topk_candidates` goes up to 10,000, and other
    fixes are looked for only where they could be nearer than the best so far, but for a higher
    `nms_thresh` where no limit on detections is in the way. None means that nothing was found
    within these bounds: as a rule, that every pair that finds the object has a score of 0 or a rank
    beyond 10,000.

    Args:
        target: the object.
        standing: how it stands at the setting at which it is missed.

    Returns:
        The fix, and the other fixes of a single knob, the nearest first.
    """
    return _Search(target, standing).run()


def size_of(old: PostprocessConfig, new: PostprocessConfig) -> float:
    """How far the knobs are apart, as a share of their travel; 0 for the same setting."""
    size = abs(old.score_thresh - new.score_thresh) + abs(old.nms_thresh - new.nms_thresh)
    for knob in ("topk_candidates", "detections_per_img"):
        size += abs(math.log10(getattr(new, knob) / getattr(old, knob))) / 4
    before, after = dict(old.class_score_thresh), dict(new.class_score_thresh)
    return size + sum(abs(floor - after.get(label, 0.0)) for label, floor in before.items())


def changes_between(old: PostprocessConfig, new: PostprocessConfig) -> dict[str, Any]:
    """{knob: new value} of the knobs that differ, as plain data for `dataclasses.replace`.

    For the classes' floors it is all of them, as {"7": 0.2}.
    """
    before, after = ({"class_score_thresh": {}, **config.to_dict()} for config in (old, new))
    return {knob: value for knob, value in after.items() if value != before[knob]}


class _Search:
    """Settings that were tried for one object, and how it stands at each."""

    def __init__(self, target: Target, start: Standing) -> None:
        self.target, self.start, self.config = target, start, start.trace.config
        self.known = {self.config: start}

    def run(self) -> tuple[Fix | None, list[Fix]]:
        fixes = self._singly()
        single = sorted((fix for fix in fixes if len(fix["changes"]) == 1), key=_smallness)
        if single:
            return single[0], single[1:]
        fix = self._together()
        if fix is not None:
            fixes.append(self._raised(self._without_excess(fix)))
        return min(fixes, key=_smallness, default=None), []

    def at(self, config: PostprocessConfig) -> Standing | None:
        """How the object stands at a setting; None once too many were tried."""
        if config not in self.known and len(self.known) < MAX_DETECTIONS:
            self.known[config] = Standing.of(detect(self.target.outputs, config), self.target)
        return self.known.get(config)

    def proven(self, config: PostprocessConfig) -> Fix | None:
        """The fix that a setting is, if it is one."""
        standing = self.at(config)
        if standing is None or standing.detection is None:
            return None
        changes = changes_between(self.config, config)
        size = size_of(self.config, config)
        return {"changes": changes, "size": size, "detection": standing.detection}

    def first(self, configs: Iterable[PostprocessConfig], most: int = MAX_PROOFS) -> Fix | None:
        """The first of some settings, of at most so many, that is a fix."""
        for config in islice(configs, most):
            fix = self.proven(config)
            if fix is not None:
                return fix
        return None

    # --- one knob alone ---------------------------------------------------------------------

    def _singly(self) -> list[Fix]:
        fixes = [self._lower(best, explored) for best, explored in self._groups()]
        if len(self.start.survived):
            fixes.append(self.proven(_with_room_for(self.start)))
        for search in (self._nms_thresh, self._topk):
            alone = (fix["size"] for fix in fixes if fix and len(fix["changes"]) == 1)
            fixes.append(search(min(alone, default=math.inf)))
        return [fix for fix in fixes if fix]

    def _groups(self) -> Iterator[tuple[Pair, PostprocessConfig]]:
        """The best pair below the thresholds, and the setting with no threshold in its way.

        One of the classes that have no floor, one of each class that has (of a few of them). A
        pair's fate there is its fate at any thresholds below its score: what scores less never
        changes it.
        """
        scores, floors = self.target.scores, dict(self.config.class_score_thresh)
        below = (scores > 0) & ~self.target.passing(self.config)
        has_floor = np.isin(np.arange(scores.shape[1]), list(floors))
        best = self.target.best(below & ~has_floor)
        if best is not None:
            yield best, replace(self.config, score_thresh=0.0)
        floored = [self.target.best(below & (np.arange(len(has_floor)) == own)) for own in floors]
        found = sorted((pair for pair in floored if pair), key=lambda pair: -pair.score)
        for pair in found[:MAX_FLOORED]:
            others = {label: floor for label, floor in floors.items() if label != pair.label}
            yield pair, replace(self.config, score_thresh=0.0, class_score_thresh=others)

    def _lower(self, best: Pair, explored: PostprocessConfig) -> Fix | None:
        """Lower thresholds: to the best pair's score if that will do, else to the best kept one."""
        if not self._may_enter():
            return None
        fix = self.first(_admitting(self.config, best.label, best.score), 1)
        standing = self.at(explored) if fix is None else None
        if standing is None or standing.detection is None:
            return fix
        found = standing.detection
        return self.first(_admitting(self.config, found["label"], found["score"]))

    def _may_enter(self) -> bool:
        """Whether top-K lets a pair that finds the object through if no threshold is in its way."""
        if self.config.class_score_thresh:
            return True
        prepared, topk = candidates_of(self.target.outputs), self.config.topk_candidates
        heads = prepared.heads
        if any(len(h) < min(topk, total) for h, total in zip(heads, prepared.totals, strict=True)):
            return True  # pairs that are not prepared could enter: `detect` will tell
        hits = (self.target.among(head, level)[:topk] for level, head in enumerate(heads))
        return any(hit.any() for hit in hits)

    def _nms_thresh(self, limit: float) -> Fix | None:
        """The nearest value that works: upwards at any distance, downwards within `limit`."""
        now = self.config.nms_thresh
        hundredths = _hundredths(now)
        # Where the limit is in the way many values may have to be tried, so only nearer ones are.
        reach = limit if len(self.start.survived) else math.inf
        upwards = [value for value in hundredths if now < value < now + reach]
        up = self.first(self._nms_configs(self.start, upwards))
        limit = min(limit, up["size"]) if up else limit
        down = self.first(
            self._nms_configs(self.start, [v for v in hundredths if now - limit < v < now])
        )
        return down or up

    def _nms_configs(self, standing: Standing, values: list[float]) -> Iterator[PostprocessConfig]:
        config = standing.trace.config
        return (replace(config, nms_thresh=value) for value in _surviving_at(standing, values))

    def _topk(self, limit: float) -> Fix | None:
        """The nearest round number that works; an exact one where rounding it up does not."""
        if not (self.start.entered.any() or self.target.best(self.target.passing(self.config))):
            return None
        fix = self.first(self._topk_configs(filter(self._may_help, ROUND_COUNTS), limit))
        limit = min(limit, fix["size"]) if fix else limit
        ranks = [*self._cut_ranks(self.start), *sorted(_entered_ranks(self.start))[:3]]
        exact = self._topk_configs(ranks, limit)
        return self.first(config for config in exact if not self.first(_rounded_up(config))) or fix

    def _topk_configs(self, counts: Iterable[int], limit: float) -> list[PostprocessConfig]:
        """The settings with these numbers nearer than `limit`, the nearest first."""
        configs = [replace(self.config, topk_candidates=count) for count in counts]
        sizes = {config: size_of(self.config, config) for config in configs}
        return sorted((config for config in sizes if 0 < sizes[config] < limit), key=sizes.get)

    def _may_help(self, count: int) -> bool:
        """Whether another number of pairs per level could let the object through."""
        entered = _entered_ranks(self.start)
        if count < self.config.topk_candidates:
            return any(rank <= count for rank in entered)
        if any(rank <= count for rank in self._cut_ranks(self.start)):
            return True
        # More of the others may take out the one that is in its way.
        trace = self.start.trace
        cut = any(
            head.count_above(self.config.score_thresh) > take
            for head, take in zip(trace.heads, trace.takes, strict=True)
        )
        return bool(entered) and cut

    def _cut_ranks(self, standing: Standing) -> list[int]:
        """From which number on a pair enters that top-K cuts; [] where there is none."""
        ranks = [rank for rank, _ in standing.cut]
        config = standing.trace.config
        if not ranks and not standing.entered.any():
            best = self.target.best(self.target.passing(config))
            ranks = [self.target.rank(best)[1]] if best else []
        return [min(ranks)] if ranks and min(ranks) <= ROUND_COUNTS[-1] else []

    # --- several knobs ----------------------------------------------------------------------

    def _together(self) -> Fix | None:
        """Turn what stops the best pairs, then what stops them next, and so on."""
        ahead, turned = list(self._starts()), set()
        for _ in range(5):
            new = [config for config in dict.fromkeys(ahead) if config not in turned]
            states = sorted(new, key=self._cost)[:MAX_STATES]
            turned.update(states)
            fix = self.first(states)
            if fix is not None:
                return fix
            known = [self.known[config] for config in states if config in self.known]
            ahead = [move for standing in known for move in self._moves(standing)]
        # Those that only need more room had to wait for settings of fewer knobs.
        return self.first(sorted(self._with_room(), key=self._cost))

    def _with_room(self) -> list[PostprocessConfig]:
        """Of all settings tried at which a pair survives NMS: with room for it."""
        over = [standing for standing in self.known.values() if len(standing.survived)]
        return [_with_room_for(standing) for standing in over]

    def _starts(self) -> Iterator[PostprocessConfig]:
        yield from self._moves(self.start)
        yield from self._with_room()
        for best, explored in self._groups():
            pairs = [best] if self.target.rank(best)[1] <= ROUND_COUNTS[-1] else []
            if self._may_enter() and (standing := self.at(explored)):
                pairs += standing.stopped
            for pair in pairs:
                yield next(_admitting(self.config, pair.label, pair.score))

    def _moves(self, standing: Standing) -> Iterator[PostprocessConfig]:
        """The setting with one knob turned: what stops a pair that finds the object lets it go."""
        config = standing.trace.config
        if len(standing.survived):
            yield _with_room_for(standing)
        elif standing.entered.any():
            now = config.nms_thresh
            upwards = [value for value in _hundredths(now) if value > now]
            yield from islice(self._nms_configs(standing, upwards), 1)
        for rank in self._cut_ranks(standing):
            yield from _rounded_up(replace(config, topk_candidates=rank))

    def _cost(self, config: PostprocessConfig) -> tuple[int, float]:
        return len(changes_between(self.config, config)), size_of(self.config, config)

    def _raised(self, fix: Fix) -> Fix:
        """The fix with thresholds no lower than its detection asks for."""
        thresholds = ("score_thresh", "class_score_thresh")
        others = {knob: v for knob, v in fix["changes"].items() if knob not in thresholds}
        found, base = fix["detection"], replace(self.config, **others)
        higher = self.first(_admitting(base, found["label"], found["score"]))
        return higher if higher and _smallness(higher) < _smallness(fix) else fix

    def _without_excess(self, fix: Fix) -> Fix:
        """The fix without the knobs that need not be turned after all."""
        for knob in fix["changes"]:
            changes = {other: value for other, value in fix["changes"].items() if other != knob}
            fewer = self.proven(replace(self.config, **changes)) if changes else None
            if fewer is not None:
                return self._without_excess(fewer)
        return fix


def _smallness(fix: Fix) -> tuple[int, float]:
    return len(fix["changes"]), fix["size"]


def _hundredths(now: float) -> list[float]:
    """From 0 to 1, the nearest first."""
    return sorted((n / 100 for n in range(101)), key=lambda value: abs(value - now))


def _rounded_up(config: PostprocessConfig) -> Iterator[PostprocessConfig]:
    """The setting with the next round `topk_candidates`; nothing beyond the last of them."""
    counts = (count for count in ROUND_COUNTS if count >= config.topk_candidates)
    return (replace(config, topk_candidates=count) for count in islice(counts, 1))


def _with_room_for(standing: Standing) -> PostprocessConfig:
    """The setting at which the best surviving box that finds the object is the last one kept."""
    return replace(standing.trace.config, detections_per_img=int(standing.survived[0]) + 1)


def _entered_ranks(standing: Standing) -> list[int]:
    """Of the pairs that find the object and entered NMS, the rank in their level."""
    rank = np.concatenate([np.arange(1, take + 1) for take in standing.trace.takes])
    return rank[standing.entered].tolist()


def _admitting(config: PostprocessConfig, label: int, score: float) -> Iterator[PostprocessConfig]:
    """Settings whose thresholds are just below a class's score, the roundest value first.

    A threshold that is below it already stays.
    """
    floors = dict(config.class_score_thresh)
    for value in _just_below(score):
        lowered = {}
        if not np.float32(score) > np.float32(config.score_thresh):
            lowered["score_thresh"] = value
        if not np.float32(score) > np.float32(floors.get(label, 0.0)):
            lowered["class_score_thresh"] = {**floors, label: value}
        yield replace(config, **lowered)


def _just_below(score: float) -> Iterator[float]:
    """Values that a float32 score above 0 is above: hundredths and so on, at last the nearest.

    0 is none of them while a finer one is above it: it would let everything in.
    """
    for places in range(2, 7):
        value = math.floor(score * 10**places) / 10**places
        if not np.float32(score) > np.float32(value):
            value = (math.floor(score * 10**places) - 1) / 10**places
        if value > 0:
            yield value
    yield float(np.nextafter(np.float32(score), np.float32(0)))


def _surviving_at(standing: Standing, values: list[float]) -> Iterator[float]:
    """Of values of `nms_thresh`, those at which a pair that finds the object survives NMS.

    Above the present one, while none survives there, only those at which a better one does than
    before. Where too many boxes could matter, only the upper values are looked at: there fewer do.
    """
    if not values or not standing.entered.any():
        return
    boxes, scores, labels = standing.columns
    order = score_order(scores)
    rows = order[np.isin(labels, labels[standing.entered])[order]]
    compared = shifted(boxes, labels, standing.trace.max_coordinate)[rows]
    labels, wanted = labels[rows], standing.entered[rows]
    kin = _kin(compared, labels, wanted, min(values))
    if kin is None:
        middle = sorted(values)[len(values) // 2]
        yield from _surviving_at(standing, [v for v in values if v > middle])
        return
    compared, labels, wanted = compared[kin], labels[kin], wanted[kin]
    upwards = min(values) > standing.trace.config.nms_thresh and not len(standing.survived)
    pairs = find_overlaps(compared, labels, np.arange(len(labels)), min(values))
    for value in values:
        alive = survivors(len(labels), pairs.above(value)) & wanted
        if alive.any():
            yield value
            if upwards:
                wanted[alive.argmax() :] = False


def _kin(
    boxes: np.ndarray, labels: np.ndarray, wanted: np.ndarray, least: float
) -> np.ndarray | None:
    """[N] bool: the wanted boxes and those before them that can matter to them.

    Boxes are in the order of NMS; linked are those of a class with an IoU above `least`. None where
    that takes more than `KIN_BUDGET` comparisons.
    """
    kin, waiting = wanted.copy(), np.flatnonzero(wanted)
    place, left = np.arange(len(boxes)), KIN_BUDGET
    while len(waiting) and least < 1:
        left -= int(waiting.sum())
        if left < 0:
            return None
        near = np.zeros(len(boxes), dtype=bool)
        for part in np.array_split(waiting, 1 + len(waiting) * len(boxes) // _CHUNK):
            before = slice(0, part.max(initial=0))
            earlier = (place[before] < part[:, None]) & (labels[before] == labels[part, None])
            linked = pairwise_iou(boxes[part, None], boxes[before]) > np.float64(least)
            near[before] |= (earlier & linked).any(axis=0)
        waiting = np.flatnonzero(near & ~kin)
        kin[waiting] = True
    return kin
