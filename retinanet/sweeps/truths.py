"""The objects that detections are compared with, as COCO's evaluation sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retinanet.coco import CocoDataset
from retinanet.coco_columns import Annotations, annotations_of, sorted_ids
from retinanet.coco_matching import AREAS, IOU_THRESHOLDS, outside_range

T, A = len(IOU_THRESHOLDS), len(AREAS)
BITS = T * A
"""A detection has a bit for each area range and IoU threshold: bit `area * T + threshold`."""

ALL_BITS = (1 << BITS) - 1
AREA_BITS: tuple[int, ...] = tuple(((1 << T) - 1) << (area * T) for area in range(A))

NO_COLUMN = -1
"""The column of a detection whose class the data set has not; COCO leaves it out."""


def outside(areas: np.ndarray) -> np.ndarray:
    """[N] uint64: the bits of the area ranges that areas [N], px², are outside of."""
    bits = np.zeros(len(areas), np.uint64)
    for own, area in zip(AREA_BITS, AREAS, strict=True):
        bits |= np.where(outside_range(areas, area), np.uint64(own), np.uint64(0))
    return bits


@dataclass(frozen=True, eq=False)
class ImageTruths:
    """The objects of one photo. G = number of objects.

    Args:
        boxes: [G, 4] float64 [x, y, width, height], pixels of the photo.
        column: [G] int64 index of the class among the data set's, by category id.
        crowd: [G] bool.
        ignored: [G] uint64: the bits for which it need not be found (a crowd: all of them).
    """

    boxes: np.ndarray
    column: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray

    def __len__(self) -> int:
        return len(self.column)

    def rows(self, rows: slice) -> ImageTruths:
        """Some of the objects."""
        return ImageTruths(
            self.boxes[rows], self.column[rows], self.crowd[rows], self.ignored[rows]
        )


class Truths:
    """The objects of a data set, read and cleaned by `ground_truth`, photo by photo.

    Classes are columns in order of their category id, as COCO's evaluation has them.

    Raises:
        DatasetError: the annotation file has gone or changed since it was read.
    """

    def __init__(self, dataset: CocoDataset) -> None:
        names = dict(zip(dataset.category_ids, dataset.categories, strict=True))
        self.category_ids = sorted(names)
        self.names = [names[category_id] for category_id in self.category_ids]
        self._column = {category_id: i for i, category_id in enumerate(self.category_ids)}
        self.image_ids = np.array(sorted_ids(dataset), np.int64)
        column_of = self.columns(dataset.category_ids, len(names))
        annotations = annotations_of(dataset)
        self._objects = _as_truths(annotations, column_of)
        self._photo, self._starts = annotations.photo, annotations.starts
        self._place = {image_id: i for i, image_id in enumerate(self.image_ids.tolist())}

    def __len__(self) -> int:
        return len(self.image_ids)

    def of(self, image_id: int) -> ImageTruths:
        """The objects of a photo."""
        place = self._place[image_id]
        return self._objects.rows(slice(self._starts[place], self._starts[place + 1]))

    def columns(self, category_ids: tuple[int, ...], num_classes: int) -> np.ndarray:
        """[num_classes] int64: the column of each label index, `NO_COLUMN` where there is none."""
        ids = [category_ids[i] if i < len(category_ids) else i for i in range(num_classes)]
        return np.array([self._column.get(own, NO_COLUMN) for own in ids], np.int64)

    @cached_property
    def counts(self) -> np.ndarray:
        """[A, K] int64: objects to be found of each area range and class."""
        column, ignored = self._objects.column, self._objects.ignored
        wanted = [ignored & np.uint64(1 << (area * T)) == 0 for area in range(A)]
        return np.stack([np.bincount(column[own], minlength=len(self.names)) for own in wanted])

    @cached_property
    def by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """[G] index of the photo and [G] column of all objects to be found, whatever their area."""
        wanted = self._objects.ignored & np.uint64(1) == 0
        return self._photo[wanted], self._objects.column[wanted]


def _as_truths(annotations: Annotations, column_of: np.ndarray) -> ImageTruths:
    ignored = np.where(annotations.crowd, np.uint64(ALL_BITS), outside(annotations.area))
    column = column_of[annotations.label]
    return ImageTruths(annotations.bbox, column, annotations.crowd, ignored)
