"""Score thresholds for single classes: where F1 is highest for each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retinanet.config import PostprocessConfig
from retinanet.sweeps.average_precision import ALL_AREAS
from retinanet.sweeps.matched import MatchedDetections
from retinanet.sweeps.sweep import Counts, Sweep, class_counts, right_and_wrong, rows_at


@dataclass(frozen=True)
class ClassFloor:
    """The threshold of one class.

    Args:
        category: its name.
        label: its label index.
        gts: objects of it.
        floor: scores must be strictly above this; halfway between two detections' scores.
        f1: with that floor.
        f1_before: with the score threshold of the base setting.
    """

    category: str
    label: int
    gts: int
    floor: float
    f1: float
    f1_before: float


@dataclass(frozen=True)
class ClassFloors:
    """Floors of single classes and what they are worth.

    They are chosen on the very photos that they are judged by, so on new photos the gain is
    smaller, and for a class of few objects it may be none.

    Args:
        floors: {label: floor}, of the classes that have objects.
        rows: the same with names and gains, by category id.
        config: the base setting with these floors. Its `score_thresh` is the lowest of the sweep,
            and classes without objects have the base's threshold as their floor.
        counts: right, wrong and missed with the floors.
        counts_before: with the base setting.
        macro_f1, macro_f1_before: mean over the classes that have objects.
    """

    floors: dict[int, float]
    rows: tuple[ClassFloor, ...]
    config: PostprocessConfig
    counts: Counts
    counts_before: Counts
    macro_f1: float
    macro_f1_before: float

    @property
    def gained(self) -> float:
        """By how much the F1 over all classes rose; the floors maximise each class's own."""
        return self.counts.f1 - self.counts_before.f1

    def to_rows(self) -> list[dict[str, Any]]:
        """The classes as plain data, for CSV."""
        names = ("category", "label", "gts", "floor", "f1", "f1_before")
        return [{name: getattr(row, name) for name in names} for row in self.rows]


def class_floors(sweep: Sweep, base: PostprocessConfig | None = None) -> ClassFloors:
    """The score threshold for each class that maximises its F1 at IoU .5.

    The counts are of the stored detections above the floors. Where `topk_candidates` or
    `detections_per_img` cuts something off, floors make room for more, and a sweep of
    `ClassFloors.config` may count a little differently.

    Args:
        sweep: its lowest `score_thresh` is the lowest floor that can come out.
        base: a setting of its grid, whose NMS and caps are kept and whose `score_thresh` is what
            the floors are compared with; the best by F1 unless given.

    Raises:
        ConfigError: the base is not in the grid.
    """
    base = (sweep.best("f1") if base is None else sweep.at(base)).config
    matched = sweep.matched
    objects = matched.truths.counts[ALL_AREAS]
    lowest = lowest_setting(sweep, base)
    rows = known_rows(matched, lowest)
    before = class_counts(known_rows(matched, base), objects)
    floors, listed, after = {}, [], list(before)
    for column in np.flatnonzero(objects).tolist():
        label = matched.labels.get(column)
        if label is None:
            continue
        own = rows[rows["column"] == column]
        chosen = best_floor(own, int(objects[column]), lowest.score_thresh)
        # Nothing to choose by: the base's threshold, as for classes without objects.
        floor, counts = chosen if len(own) else (base.score_thresh, before[column])
        floors[label], after[column] = floor, counts
        name, f1_before = matched.truths.names[column], before[column].f1
        listed.append(ClassFloor(name, label, int(objects[column]), floor, counts.f1, f1_before))
    others = dict.fromkeys(_others(matched, floors), base.score_thresh)
    config = replace(lowest, class_score_thresh=tuple(sorted((others | floors).items())))
    return ClassFloors(
        floors=floors,
        rows=tuple(listed),
        config=config,
        counts=_total(after),
        counts_before=_total(before),
        macro_f1=_macro(after),
        macro_f1_before=_macro(before),
    )


def best_floor(rows: np.ndarray, objects: int, lowest: float) -> tuple[float, Counts]:
    """The floor with the highest F1 for one class, and its counts; of equal ones the highest.

    Args:
        rows: [N] `RECORD` of the class, best score first.
        objects: how many there are, 1 or more.
        lowest: the score threshold that the rows passed.
    """
    right, wrong = right_and_wrong(rows)
    hits, misses = (np.concatenate([[0], np.cumsum(own)]) for own in (right, wrong))
    f1 = 2 * hits / (hits + misses + objects)
    scores = rows["score"].astype(float)
    # Detections of one score stay together: a cut is only where the next one's is lower.
    cuts = np.flatnonzero(np.append(np.append(True, scores[1:] < scores[:-1]), True)[: len(f1)])
    cut = int(cuts[np.argmax(f1[cuts])])
    counts = Counts(int(hits[cut]), int(misses[cut]), objects - int(hits[cut]))
    if cut == len(rows):
        return float(lowest), counts
    above = scores[cut - 1] if cut else 1.0
    return _between(float(scores[cut]), float(above)), counts


def _between(low: float, high: float) -> float:
    """A short number in [low, high); compared in float32, `low` is not above it, `high` is."""
    for digits in range(2, 9):
        short = math.ceil(low * 10**digits) / 10**digits
        if np.float32(low) <= np.float32(short) < np.float32(high):
            return short
    return low


def lowest_setting(sweep: Sweep, base: PostprocessConfig) -> PostprocessConfig:
    """The base with the sweep's lowest score threshold."""
    return replace(base, score_thresh=sweep.grid.score_thresh[0])


def known_rows(matched: MatchedDetections, config: PostprocessConfig) -> np.ndarray:
    """[N] `RECORD` of a setting, of the classes that the data set has."""
    rows = rows_at(matched, config)
    return rows[rows["column"] >= 0]


def _others(matched: MatchedDetections, floors: dict[int, float]) -> list[int]:
    found = np.unique(np.concatenate([rows["label"] for rows in matched.records.values()]))
    return [label for label in found.tolist() if label not in floors]


def _total(counts: list[Counts]) -> Counts:
    return Counts(*(sum(getattr(own, name) for own in counts) for name in ("tp", "fp", "fn")))


def _macro(counts: list[Counts]) -> float:
    values = [own.f1 for own in counts if own.tp + own.fn]
    return float(np.mean(values)) if values else math.nan
