"""What became of every detection and every object at one IoU bound: COCO's greedy matching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retinanet.analysis.columns import Detections, Objects, detections_of, objects_of
from retinanet.coco import CocoDataset
from retinanet.coco_columns import sorted_ids
from retinanet.coco_matching import (
    MAX_DETS,
    class_ranks,
    greedy,
    outside_range,
    pairs_within,
    photo_ious,
    reached_at,
)
from retinanet.config import _number

TRUE, FALSE, IGNORED, LEFT_OUT = range(4)


@dataclass(frozen=True, eq=False)
class Matching:
    """D detections matched to G objects.

    Args:
        dataset: what was matched.
        iou: the bound.
        detections: [D] rows, by image id and score.
        objects: [G] rows.
        fate: [D] int8: `TRUE` (a true positive), `FALSE`, `IGNORED` (on a crowd or another
            ignored object, or larger than COCO counts) or `LEFT_OUT` (beyond COCO's 100 of a
            class in a photo, or of a category that the data set has not).
        matched: [D] int64: the object that it found or is ignored for, -1 for none.
        matched_iou: [D] float64: with that object; with a crowd the share that lies in it.
        found_by: [G] int64: the detection that found the object, -1 for none.
        same_iou: [D] float64: highest IoU with an object of its class, ignored ones left aside ...
        same_object: [D] int64: ... which is this one; -1 where it overlaps none.
        other_iou: [D] float64: the same with the objects of other classes.
        other_object: [D] int64.
    """

    dataset: CocoDataset
    iou: float
    detections: Detections
    objects: Objects
    fate: np.ndarray
    matched: np.ndarray
    matched_iou: np.ndarray
    found_by: np.ndarray
    same_iou: np.ndarray
    same_object: np.ndarray
    other_iou: np.ndarray
    other_object: np.ndarray

    @cached_property
    def image_ids(self) -> np.ndarray:
        """[P] int64: the photos' ids, ascending; `photo` columns index them."""
        return np.array(sorted_ids(self.dataset), dtype=np.int64)

    @cached_property
    def files(self) -> list[Path]:
        """[P] the photos' files."""
        paths = {photo.image_id: photo.path for photo in self.dataset.photos}
        return [paths[image_id] for image_id in self.image_ids.tolist()]

    @cached_property
    def counts(self) -> np.ndarray:
        """[K] int64: the objects of each class that count."""
        wanted = self.objects.label[~self.objects.ignored]
        return np.bincount(wanted, minlength=len(self.dataset.categories))


def match_results(
    dataset: CocoDataset, results: Sequence[Mapping[str, Any]] | Matching, *, iou: float = 0.5
) -> Matching:
    """Match COCO results to the data set's annotations.

    Args:
        dataset: its annotations are taken as `ground_truth` cleans them.
        results: COCO results of one setting; a matching at this bound is given back, so that
            several analyses can share one.
        iou: the bound, in (0, 1].

    Raises:
        ConfigError: the bound is outside its range, or not the given matching's.
        DatasetError: the results cannot be used, or the annotation file has changed.
    """
    if isinstance(results, Matching):
        return results if results.iou == iou else _match(dataset, results.detections, iou)
    return _match(dataset, detections_of(dataset, results), iou)


def overlaps(detections: Detections, objects: Objects) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Photo by photo the rows of its detections, the rows of its objects and their IoUs [D, G]."""
    for photo in range(len(detections.starts) - 1):
        rows, columns = detections.of(photo), objects.of(photo)
        yield (
            rows,
            columns,
            photo_ious(detections.bbox[rows], objects.bbox[columns], objects.crowd[columns]),
        )


def _match(dataset: CocoDataset, detections: Detections, iou: float) -> Matching:
    _number("match_results", "iou", iou, 1e-6, 1.0)
    objects = objects_of(dataset)
    count = len(detections)
    fate = np.full(count, FALSE, dtype=np.int8)
    fate[outside_range(detections.bbox[:, 2] * detections.bbox[:, 3])] = IGNORED
    rank = class_ranks(detections.label, detections.photo)
    fate[(rank >= MAX_DETS) | (detections.label < 0)] = LEFT_OUT
    matched, matched_iou = np.full(count, -1), np.zeros(count)
    found_by = np.full(len(objects), -1)
    bound = float(reached_at(iou))
    best = np.zeros((2, count)), np.full((2, count), -1)
    for rows, columns, ious in overlaps(detections, objects):
        if not ious.size:
            continue
        same = detections.label[rows, None] == objects.label[None, columns]
        ignored = objects.ignored[columns]
        takes_part = same & (fate[rows] != LEFT_OUT)[:, None]
        own, partner, _ = pairs_within(ious, takes_part, bound)
        pairs = [(*pair, 1) for pair in zip(own.tolist(), partner.tolist(), strict=True)]
        crowd, need_not = objects.crowd[columns].tolist(), ignored.astype(int).tolist()
        for row, column, _, counts in greedy(pairs, crowd, need_not, 1):
            at = rows.start + row
            fate[at] = TRUE if counts else IGNORED
            matched[at], matched_iou[at] = columns.start + column, ious[row, column]
        for kind, of_kind in enumerate((same, ~same)):
            reach = np.where(of_kind & ~ignored, ious, 0.0)
            top = reach.argmax(axis=1)
            best[0][kind, rows] = reach[np.arange(len(top)), top]
            best[1][kind, rows] = np.where(best[0][kind, rows] > 0, top + columns.start, -1)
    found = np.flatnonzero(fate == TRUE)
    found_by[matched[found]] = found
    (same_iou, other_iou), (same_object, other_object) = best
    return Matching(
        dataset,
        iou,
        detections,
        objects,
        fate,
        matched,
        matched_iou,
        found_by,
        same_iou=same_iou,
        same_object=same_object,
        other_iou=other_iou,
        other_object=other_object,
    )
