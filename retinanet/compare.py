"""What a change of settings, or of the model, did to the detections, and which knob did it.

Two traces of the same picture are matched one to one, so each detection of either is in exactly
one change or one unchanged pair. Which knob did it is found by turning the knobs one at a time and
detecting again: no guess is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from retinanet.box_table import find_row, table_from_trace
from retinanet.candidates import BELOW, CUT, CUT_SHOWN, FATES, OVER_LIMIT
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.detection import DetectionTrace, detect
from retinanet.nms import find_overlaps
from retinanet.types import LEVELS, Outputs

KINDS: tuple[str, ...] = ("gained", "lost", "moved", "relabelled")
"""What can become of a detection that is not unchanged."""

PAIRED: tuple[str, ...] = ("unchanged", "moved", "relabelled")
"""The ways in which a detection of one trace has a partner in the other, the nearest first."""

MODEL = "model"
"""The knob's name where the two traces come from different outputs."""

UNCHANGED_IOU = 0.95
"""From this IoU on, boxes of one category from different outputs count as unchanged."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Detection:
    """One detection of one of the two traces.

    Args:
        index: its place in the trace, best first.
        pair: number of its (anchor, class) pair (`BoxTable.pairs`).
        level: "P3" to "P7".
        label: label index of its own model.
        category: the label's name.
        score: in 0..1.
        box: xyxy, pixels of the original picture.
    """

    index: int
    pair: int
    level: str
    label: int
    category: str
    score: float
    box: Box

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an edge that is not a number is None, as JSON has none."""
        return _plain(self)


@dataclass(frozen=True, slots=True)
class Suppressor:
    """The box that suppressed a detection on the side where it is none.

    Args:
        index: its place among that side's detections; None where it is over the limit there.
        category, score, box: as in `Detection`.
        iou: with the detection, as NMS computed it.
    """

    index: int | None
    category: str
    score: float
    box: Box
    iou: float


@dataclass(frozen=True, slots=True)
class OtherFate:
    """What the ledger of the other side says of a pair that is a detection on one side only.

    Args:
        fate: "below_thresh", "cut_by_topk", "suppressed" or "over_limit".
        place: number after NMS (over_limit) or in its level by score (cut_by_topk), from 1; None
            for the other fates, and where the pair is so far down that the trace does not list it.
        by: who suppressed it; None for the other fates.
    """

    fate: str
    place: int | None = None
    by: Suppressor | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the two traces.

    Args:
        kind: one of `KINDS`.
        before: the detection of the first trace; None for gained.
        after: the detection of the second; None for lost.
        iou: of the two boxes, moved and relabelled only.
        knobs: what did it: fields of `PostprocessConfig`, or `MODEL`.
        alone: each of `knobs`, turned alone, does it. Else none alone does, and these are the
            knobs without any one of which it would not have happened; if even that holds for
            none, all that differ.
        fate: gained and lost only, and only where the outputs are the same: what the trace without
            this detection made of its pair.
    """

    kind: str
    before: Detection | None
    after: Detection | None
    iou: float | None
    knobs: tuple[str, ...]
    alone: bool
    fate: OtherFate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data; detections by their index."""
        sides = {"before": self.before, "after": self.after}
        return _plain(self) | {name: side and side.index for name, side in sides.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two traces of one picture, side by side.

    Args:
        before: the first trace's detections, best first.
        after: the second's.
        before_config: the first trace's settings.
        after_config: the second's.
        same_outputs: whether both come from the same network outputs.
        same_iou: from which IoU on two boxes were taken for the same object.
        knobs: those that differ.
        changes: in the order of `KINDS`; within each, by place in the first trace, gained ones in
            the second.
        unchanged: (index before, index after).
    """

    before: tuple[Detection, ...]
    after: tuple[Detection, ...]
    before_config: PostprocessConfig
    after_config: PostprocessConfig
    same_outputs: bool
    same_iou: float
    knobs: tuple[str, ...]
    changes: tuple[Change, ...]
    unchanged: tuple[tuple[int, int], ...]

    @property
    def counts(self) -> dict[str, int]:
        """{kind: changes of it} in the order of `KINDS`, then "unchanged" pairs."""
        kinds = [change.kind for change in self.changes]
        return {kind: kinds.count(kind) for kind in KINDS} | {"unchanged": len(self.unchanged)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which both sides and every change can be drawn."""
        return {
            "before": _side_dict(self.before, self.before_config),
            "after": _side_dict(self.after, self.after_config),
            "same_outputs": self.same_outputs,
            "same_iou": self.same_iou,
            "knobs": list(self.knobs),
            "counts": self.counts,
            "changes": [change.to_dict() for change in self.changes],
            "unchanged": [list(indices) for indices in self.unchanged],
        }


def compare(before: DetectionTrace, after: DetectionTrace, *, same_iou: float = 0.5) -> Comparison:
    """What is different between two traces of one picture.

    Matched greedily, one to one, in this order: unchanged (from the same outputs, the same
    (anchor, class) pair; else the same category and an IoU of `UNCHANGED_IOU` or more), moved (same
    category, another box), relabelled (another category), each by falling IoU. What is left was
    lost or gained. Categories are compared by label where the outputs are the same object, by name
    where they are not.

    A knob did it alone when, turned alone from the first trace's settings, it already has the
    effect: the first trace's detection is gone and the second's is there. "Gone" and "there" mean
    the (anchor, class) pair; where that belongs to another network's outputs, a counterpart that
    this matching finds (for moved and relabelled, an unchanged one).

    Args:
        before: the first trace.
        after: the second, of the same or of other outputs.
        same_iou: boxes that overlap by less are never the same object, in (0, 1].

    Raises:
        ConfigError: `same_iou` is outside its range.
        ValueError: the traces are of different pictures.
    """
    if not 0 < same_iou <= 1:  # also refuses what is not a number
        raise ConfigError(f"compare: same_iou must be above 0 and at most 1, not {same_iou}.")
    _check_same_picture(before.outputs, after.outputs)
    what_if = _WhatIf(before, after, same_iou)
    matches = _matched(what_if.start, what_if.end, same_iou)
    changes = [_change(what_if, match) for match in matches if match.kind != "unchanged"]
    return Comparison(
        before=tuple(what_if.start.detections),
        after=tuple(what_if.end.detections),
        before_config=before.config,
        after_config=after.config,
        same_outputs=before.outputs is after.outputs,
        same_iou=same_iou,
        knobs=what_if.knobs,
        changes=tuple(sorted(changes, key=lambda change: KINDS.index(change.kind))),
        unchanged=tuple((m.before, m.after) for m in matches if m.kind == "unchanged"),  # type: ignore[misc]
    )


def missed_threshold(detection: Detection, config: PostprocessConfig) -> str | None:
    """The setting whose threshold a detection's score does not pass; None when it passes both."""
    score = np.float32(detection.score)
    if score <= np.float32(config.score_thresh):
        return "score_thresh"
    floor = dict(config.class_score_thresh).get(detection.label, 0.0)
    return "class_score_thresh" if score <= np.float32(floor) else None


class _Match(NamedTuple):
    kind: str
    before: int | None
    after: int | None
    iou: float | None


class _Side:
    """One trace's detections as arrays."""

    def __init__(self, trace: DetectionTrace) -> None:
        self.trace = trace
        self.table = table_from_trace(trace)
        self.pairs = frozenset(self.table.pairs.tolist())

    @cached_property
    def detections(self) -> list[Detection]:
        table = self.table
        columns = (table.pairs, table.levels, table.labels, table.scores, table.boxes)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [
            Detection(index, pair, LEVELS[level], label, table.names[label], score, tuple(box))
            for index, (pair, level, label, score, box) in enumerate(rows)
        ]


class _WhatIf:
    """Traces with any of the knobs turned from the first trace's value to the second's."""

    def __init__(self, before: DetectionTrace, after: DetectionTrace, same_iou: float) -> None:
        self.same_iou = same_iou
        self.start, self.end = _Side(before), _Side(after)
        self.knobs = _differing(before, after)
        self._sides = {frozenset(): self.start, frozenset(self.knobs): self.end}
        self._counterparts: dict[tuple[_Side, _Side], dict[int | None, str]] = {}

    def side(self, turned: frozenset[str]) -> _Side:
        """The detections with these knobs turned; each combination is worked out once."""
        if turned not in self._sides:
            before, after = self.start.trace, self.end.trace
            values = {knob: getattr(after.config, knob) for knob in turned - {MODEL}}
            outputs = after.outputs if MODEL in turned else before.outputs
            self._sides[turned] = _Side(detect(outputs, replace(before.config, **values)))
        return self._sides[turned]

    def knobs_of(self, match: _Match) -> tuple[tuple[str, ...], bool]:
        """The knobs that did it, and whether each did it alone."""
        alone = tuple(k for k in self.knobs if self._happens(match, frozenset({k})))
        if alone:
            return alone, True
        turned = frozenset(self.knobs)
        needed = tuple(k for k in self.knobs if not self._happens(match, turned - {k}))
        return needed or self.knobs, False

    def _happens(self, match: _Match, turned: frozenset[str]) -> bool:
        side, one_sided = self.side(turned), match.kind in ("gained", "lost")
        counterparts = PAIRED if one_sided else ("unchanged",)
        gone = match.before is None or not self._has(side, self.start, match.before, counterparts)
        there = match.after is None or self._has(side, self.end, match.after, counterparts)
        return gone and there

    def _has(self, side: _Side, home: _Side, index: int, counterparts: Sequence[str]) -> bool:
        """Whether a side has a detection of `home`; by a counterpart where the outputs differ."""
        if side.trace.outputs is home.trace.outputs:
            return int(home.table.pairs[index]) in side.pairs
        return self._kinds(home, side)[index] in counterparts

    def _kinds(self, home: _Side, side: _Side) -> dict[int | None, str]:
        """By index of a detection of `home`, how the matching pairs it with the side."""
        if (home, side) not in self._counterparts:
            if home is self.start:
                kinds = {match.before: match.kind for match in _matched(home, side, self.same_iou)}
            else:
                kinds = {match.after: match.kind for match in _matched(side, home, self.same_iou)}
            self._counterparts[home, side] = kinds
        return self._counterparts[home, side]


def _differing(before: DetectionTrace, after: DetectionTrace) -> tuple[str, ...]:
    names = [field.name for field in fields(PostprocessConfig)]
    knobs = [n for n in names if getattr(before.config, n) != getattr(after.config, n)]
    return (*knobs, *([] if before.outputs is after.outputs else [MODEL]))


def _check_same_picture(first: Outputs, second: Outputs) -> None:
    if first.original_size != second.original_size or (
        first.image_id and second.image_id and first.image_id != second.image_id
    ):
        raise ValueError("compare: the two traces are of different pictures.")


def _matched(before: _Side, after: _Side, same_iou: float) -> list[_Match]:
    """All detections of both sides, each once: in pairs first, then lost, then gained."""
    same_outputs = before.trace.outputs is after.trace.outputs
    pairs: list[_Match] = []
    if same_outputs:
        shared = np.intersect1d(before.table.pairs, after.table.pairs, return_indices=True)[1:]
        rows = sorted(zip(*(column.tolist() for column in shared), strict=True))
        pairs += [_Match("unchanged", i, j, None) for i, j in rows]
    taken_before, taken_after = {m.before for m in pairs}, {m.after for m in pairs}
    for match in _by_overlap(before, after, same_iou, same_outputs):
        if match.before not in taken_before and match.after not in taken_after:
            taken_before.add(match.before)
            taken_after.add(match.after)
            pairs.append(match)
    pairs.sort(key=lambda match: match.before)  # type: ignore[arg-type, return-value]
    lost = [_Match("lost", i, None, None) for i in range(len(before.table))]
    gained = [_Match("gained", None, j, None) for j in range(len(after.table))]
    return [
        *pairs,
        *(match for match in lost if match.before not in taken_before),
        *(match for match in gained if match.after not in taken_after),
    ]


def _by_overlap(before: _Side, after: _Side, same_iou: float, same_outputs: bool) -> list[_Match]:
    """Every two boxes that could be one object, in the order in which they may claim each other."""
    count = len(before.table)
    boxes = np.concatenate([before.table.boxes, after.table.boxes])
    least = same_iou if same_outputs else min(same_iou, UNCHANGED_IOU)
    everything = np.zeros(len(boxes), np.int64), np.arange(len(boxes))
    found = find_overlaps(boxes, *everything, math.nextafter(least, 0))
    found = found.where((found.first < count) & (found.second >= count))
    first, second, iou = found.first, found.second - count, found.iou.astype(np.float64)
    own, other = _categories(before, after, same_outputs)
    same = own[first] == other[second]
    unchanged = same & (iou >= UNCHANGED_IOU) & (not same_outputs)
    stage = np.select([unchanged, same], [0, 1], 2)
    order = np.lexsort([second, first, -iou, stage])
    order = order[unchanged[order] | (iou[order] >= same_iou)]
    columns = (stage[order], first[order], second[order], iou[order])
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [_Match(PAIRED[stage], i, j, value) for stage, i, j, value in rows]


def _categories(before: _Side, after: _Side, same_outputs: bool) -> tuple[np.ndarray, np.ndarray]:
    """A number for each detection's category, equal where the categories are."""
    if same_outputs:
        return before.table.labels, after.table.labels
    names = [[side.table.names[n] for n in side.table.labels.tolist()] for side in (before, after)]
    number = {name: n for n, name in enumerate(dict.fromkeys(names[0] + names[1]))}
    own, other = (np.array([number[name] for name in column], np.int64) for column in names)
    return own, other


def _change(what_if: _WhatIf, match: _Match) -> Change:
    start, end = what_if.start, what_if.end
    before = None if match.before is None else start.detections[match.before]
    after = None if match.after is None else end.detections[match.after]
    knobs, alone = what_if.knobs_of(match)
    fate = None
    if MODEL not in what_if.knobs:
        if match.kind == "lost":
            fate = _fate(end.trace, before)
        elif match.kind == "gained":
            fate = _fate(start.trace, after)
    return Change(match.kind, before, after, match.iou, knobs, alone, fate)


def _fate(trace: DetectionTrace, detection: Detection) -> OtherFate:
    """What a trace of the same outputs made of a pair that is none of its detections."""
    row, table = find_row(trace, detection.pair), trace.candidates
    if row is None:
        cut = trace.counts_per_level[detection.level][FATES[CUT]]
        # All that top-K cut are listed, up to `CUT_SHOWN` of a level.
        passed = cut > CUT_SHOWN and not missed_threshold(detection, trace.config)
        return OtherFate(FATES[CUT if passed else BELOW])
    fate = int(table.fate[row])
    if fate == CUT:
        return OtherFate(FATES[fate], place=int(table.rank[row]))
    if fate == OVER_LIMIT:
        return OtherFate(FATES[fate], place=int(table.position[row]))
    by = int(trace.suppressed_by[row])
    return OtherFate(
        FATES[fate],
        by=Suppressor(
            index=by if by < len(trace) else None,
            category=trace.categories[int(table.label[by])],
            score=float(table.score[by]),
            box=tuple(table.box_original[by].tolist()),
            iou=float(trace.suppressed_iou[row]),
        ),
    )


def _side_dict(detections: tuple[Detection, ...], config: PostprocessConfig) -> dict[str, Any]:
    return {"config": config.to_dict(), "detections": _plain(detections)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
