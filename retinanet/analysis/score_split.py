"""The scores of true and of false positives: how well a threshold can tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinanet.analysis.matching import FALSE, TRUE, Matching, match_results
from retinanet.coco import CocoDataset


@dataclass(frozen=True, eq=False)
class ScoreSplit:
    """Scores in [0, 1] of the detections that count at IoU .5, each array descending.

    Args:
        true: [T] float64 of the true positives.
        false: [F] float64 of the false positives.
        per_class: {category: (true, false)} of the classes that have either.
        matching: what it was read from.
    """

    true: np.ndarray
    false: np.ndarray
    per_class: dict[str, tuple[np.ndarray, np.ndarray]]
    matching: Matching

    def of(self, category: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(true, false) of one class, empty where it has none; None for all."""
        if category is None:
            return self.true, self.false
        return self.per_class.get(category, (np.zeros(0), np.zeros(0)))

    def to_rows(self) -> list[dict[str, Any]]:
        """{"category", "score", "true_positive"} for each detection, class by class."""
        return [
            {"category": name, "score": score, "true_positive": is_true}
            for name, both in self.per_class.items()
            for is_true, scores in zip((True, False), both, strict=True)
            for score in scores.tolist()
        ]


def score_split(
    dataset: CocoDataset, results: Sequence[Mapping[str, Any]] | Matching, *, iou: float = 0.5
) -> ScoreSplit:
    """Split the scores by whether the detection is a true positive of COCO's matching.

    Args:
        dataset: what the results are of.
        results: COCO results of one setting, or a `Matching` at `iou`.
        iou: the bound of the matching, in (0, 1].

    Raises:
        ConfigError: the bound is outside its range.
        DatasetError: the results cannot be used, or the annotation file has changed.
    """
    matching = match_results(dataset, results, iou=iou)
    label, score = matching.detections.label, matching.detections.score
    order = np.argsort(-score, kind="stable")
    true = order[matching.fate[order] == TRUE]
    false = order[matching.fate[order] == FALSE]
    per_class = {
        name: (score[true[label[true] == number]], score[false[label[false] == number]])
        for number, name in enumerate(dataset.categories)
        if (label[true] == number).any() or (label[false] == number).any()
    }
    return ScoreSplit(score[true], score[false], per_class, matching)
