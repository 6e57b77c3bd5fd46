"""Which class is taken for which: a confusion matrix of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from retinanet.analysis.matching import LEFT_OUT, Matching, match_results, overlaps
from retinanet.analysis.ranking import worst_first
from retinanet.coco import CocoDataset
from retinanet.coco_columns import sorted_ids
from retinanet.config import _number

BACKGROUND_NAME = "background"


@dataclass(frozen=True, eq=False)
class Confusion:
    """K classes and the background.

    Args:
        matrix: [K + 1, K + 1] int64. Row: what it is; column: what it was taken for; the last row
            and column are the background. [i, j] are objects of class i detected as j, [i, K]
            objects that no detection met, [K, j] detections that met no object; [K, K] is 0.
        names: [K + 1] the classes, then "background".
        iou, score_thresh: what a pair must have.
        ignored: detections left aside, as they lie in a crowd of their class.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    iou: float
    score_thresh: float
    ignored: int
    _pairs: np.ndarray  # [N, 3] row, column, image id, in order of row and column
    _weights: np.ndarray  # [N] score of the detection, 1 for a missed object

    def image_ids(self, row: int, column: int) -> tuple[int, ...]:
        """The photos behind a cell, the worst first, at most 500."""
        size = len(self.names)
        if not (0 <= row < size and 0 <= column < size):
            raise IndexError(f"There is no cell {row}, {column}: the matrix has {size} a side.")
        low, high = np.searchsorted(self._cells, [row * size + column, row * size + column + 1])
        return worst_first(self._pairs[low:high, 2], self._weights[low:high])

    @property
    def cells(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """{(row, column): image ids} of every cell that is not 0."""
        rows, columns = np.nonzero(self.matrix)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return {cell: self.image_ids(*cell) for cell in pairs}

    @property
    def normalised(self) -> np.ndarray:
        """[K + 1, K + 1] float64: each row as shares of its sum; nan where a row is empty."""
        sums = self.matrix.sum(axis=1, keepdims=True)
        return np.divide(self.matrix, sums, where=sums > 0, out=np.full(self.matrix.shape, np.nan))

    @property
    def occurring(self) -> list[int]:
        """The indices of the classes that have an object or a detection, then the background."""
        seen = self.matrix.sum(axis=0) + self.matrix.sum(axis=1) > 0
        return [*np.flatnonzero(seen[:-1]).tolist(), len(self.names) - 1]

    def top_pairs(self, limit: int = 10) -> list[dict[str, Any]]:
        """The largest cells off the diagonal that name two classes, as in `to_rows`."""
        size = len(self.names) - 1
        between = self.matrix[:size, :size].copy()
        np.fill_diagonal(between, 0)
        order = np.argsort(-between, axis=None, kind="stable")[:limit].tolist()
        return [self._row(*divmod(cell, size)) for cell in order if between.flat[cell]]

    def to_rows(self) -> list[dict[str, Any]]:
        """{"truth", "detected_as", "count", "share" (of its row), "image_ids"}, cells above 0."""
        rows, columns = np.nonzero(self.matrix)
        return [self._row(*cell) for cell in zip(rows.tolist(), columns.tolist(), strict=True)]

    @cached_property
    def _cells(self) -> np.ndarray:
        return self._pairs[:, 0] * len(self.names) + self._pairs[:, 1]

    def _row(self, row: int, column: int) -> dict[str, Any]:
        count = int(self.matrix[row, column])
        return {
            "truth": self.names[row],
            "detected_as": self.names[column],
            "count": count,
            "share": count / int(self.matrix[row].sum()),
            "image_ids": self.image_ids(row, column),
        }


def confusion(
    dataset: CocoDataset,
    results: Sequence[Mapping[str, Any]] | Matching,
    *,
    iou: float = 0.5,
    score_thresh: float = 0.0,
) -> Confusion:
    """Pair detections with objects whatever their classes, and count the pairs of classes.

    The usual matrix of detectors (Ultralytics' and supervision's `ConfusionMatrix`): of a photo's
    pairs the one of highest IoU first, each detection and each object once; classes do not decide.
    Unlike theirs a pair may have exactly `iou`, a detection that lost its best object may take
    another, and what lies in a crowd of its class is left aside, as in COCO's AP. Scores choose
    nothing but who takes part: the matrix is not that of the AP.

    Args:
        dataset: what the results are of.
        results: COCO results of one setting, or a `Matching`.
        iou: the least IoU of a pair, in (0, 1].
        score_thresh: a detection takes part when its score is above this; at 0 all do.

    Raises:
        ConfigError: a value is outside its range.
        DatasetError: the results cannot be used, or the annotation file has changed.
    """
    _number("confusion", "iou", iou, 1e-6, 1.0)
    _number("confusion", "score_thresh", score_thresh, 0.0, 1.0)
    matching = results if isinstance(results, Matching) else match_results(dataset, results)
    detections, objects = matching.detections, matching.objects
    ids, none = np.array(sorted_ids(dataset)), len(dataset.categories)
    takes_part = (matching.fate != LEFT_OUT) & (
        (detections.score > score_thresh) | (score_thresh == 0)
    )
    pairs, weights, ignored = [np.zeros((0, 3), dtype=np.int64)], [np.zeros(0)], 0
    for photo, (rows, columns, ious) in enumerate(overlaps(detections, objects)):
        plain, own = ~objects.ignored[columns], takes_part[rows]
        labels, truth = detections.label[rows][own], objects.label[columns][plain]
        partner = _best_first(ious[own][:, plain], iou)
        same = labels[:, None] == objects.label[columns][~plain]
        on_crowd = (partner < 0) & ((ious[own][:, ~plain] >= iou) & same).any(axis=1)
        ignored += int(on_crowd.sum())
        met = np.zeros(len(truth), dtype=bool)
        met[partner[partner >= 0]] = True
        row = np.append(truth, none)[partner][~on_crowd]  # -1 is the last: background
        missed = truth[~met]
        row = np.concatenate([row, missed])
        column = np.concatenate([labels[~on_crowd], np.full(len(missed), none)])
        pairs.append(np.stack([row, column, np.full(len(row), ids[photo])], axis=1))
        weights += [detections.score[rows][own][~on_crowd], np.ones(len(missed))]
    found, scores = np.concatenate(pairs), np.concatenate(weights).clip(0)
    order = np.lexsort([found[:, 1], found[:, 0]])
    matrix = np.zeros((none + 1, none + 1), dtype=np.int64)
    np.add.at(matrix, (found[:, 0], found[:, 1]), 1)
    names = (*dataset.categories, BACKGROUND_NAME)
    return Confusion(matrix, names, iou, score_thresh, ignored, found[order], scores[order])


def _best_first(ious: np.ndarray, bound: float) -> np.ndarray:
    """[D] the object of each detection, -1 for none: greedy over pairs, highest IoU first.

    Of equal pairs the first detection's, then the first object's goes first.
    """
    partner = np.full(ious.shape[0], -1)
    taken = np.zeros(ious.shape[1], dtype=bool)
    rows, columns = np.nonzero(ious >= bound)
    for pair in np.argsort(-ious[rows, columns], kind="stable").tolist():
        row, column = rows[pair], columns[pair]
        if partner[row] < 0 and not taken[column]:
            partner[row], taken[column] = column, True
    return partner
