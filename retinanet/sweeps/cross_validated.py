"""What thresholds chosen on some photos are worth on others: cross-validation over photos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet.config import ConfigError, PostprocessConfig
from retinanet.sweeps.matched import MatchedDetections
from retinanet.sweeps.operating import best_floor, known_rows, lowest_setting
from retinanet.sweeps.sweep import Counts, Sweep, right_and_wrong


@dataclass(frozen=True)
class HeldOutFloors:
    """Thresholds judged by photos that they were not chosen on.

    Args:
        folds: into how many parts the photos were split.
        one: with one threshold for all classes, chosen in each fold for its F1.
        each: with a floor for each class, chosen in each fold for the class's F1; a class without
            objects there has the one threshold.
    """

    folds: int
    one: Counts
    each: Counts

    @property
    def pays(self) -> bool:
        """Whether floors of single classes find more on new photos than one threshold does."""
        return self.each.f1 > self.one.f1


def held_out_floors(
    sweep: Sweep, base: PostprocessConfig | None = None, *, folds: int = 5, seed: int = 0
) -> HeldOutFloors:
    """Choose score thresholds on all photos but a fold's and count on the fold's, for each fold.

    NMS and the caps are the base's, whatever photos it was chosen on.

    Args:
        sweep: as for `class_floors`.
        base: a setting of its grid, whose NMS and caps are kept; the best by F1 unless given.
        folds: 2 or more, at most one a photo.
        seed: of the split.

    Raises:
        ConfigError: the base is not in the grid, or the folds are too few or too many.
    """
    matched = sweep.matched
    photos = len(matched.image_ids)
    if not 2 <= folds <= photos:
        raise ConfigError(f"{photos} photos can be split into 2 to {photos} folds, not {folds}.")
    base = (sweep.best("f1") if base is None else sweep.at(base)).config
    lowest = lowest_setting(sweep, base)
    fold_of = np.random.default_rng(seed).permutation(photos) % folds
    rows = known_rows(matched, lowest)
    one, each = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for fold in range(folds):
        there = fold_of == fold
        chosen = _Part(matched, rows, ~there)
        judged = _Part(matched, rows, there)
        threshold = chosen.best(slice(None), lowest.score_thresh)
        columns = range(len(matched.truths.names))
        floors = [
            chosen.best(column, lowest.score_thresh) if chosen.objects[column] else threshold
            for column in columns
        ]
        one += judged.counts([threshold] * len(floors))
        each += judged.counts(floors)
    return HeldOutFloors(folds, Counts(*one.tolist()), Counts(*each.tolist()))


class _Part:
    """The detections and objects of some photos ([I] bool)."""

    def __init__(self, matched: MatchedDetections, rows: np.ndarray, photos: np.ndarray) -> None:
        images, columns = matched.truths.by_image
        self.objects = np.bincount(columns[photos[images]], minlength=len(matched.truths.names))
        self._rows = rows[photos[rows["image"]]]

    def best(self, column: int | slice, lowest: float) -> float:
        """The threshold with the best F1 for a class, or for all together."""
        rows, objects = self._rows, int(np.sum(self.objects[column]))
        if not objects:
            return lowest
        if isinstance(column, int):
            rows = rows[rows["column"] == column]
        ordered = rows[np.argsort(-rows["score"], kind="stable")]
        return best_floor(ordered, objects, lowest)[0]

    def counts(self, floors: list[float]) -> np.ndarray:
        """[3]: right, wrong and missed above the floors, one for each class."""
        above = self._rows["score"] > np.asarray(floors, np.float32)[self._rows["column"]]
        right, wrong = right_and_wrong(self._rows[above])
        tp, fp = int(right.sum()), int(wrong.sum())
        return np.array([tp, fp, int(self.objects.sum()) - tp])
