"""The objects that detections are compared with, as COCO's evaluation sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pycocotools.cocoeval import Params

from retinanet.coco import CocoDataset, ground_truth

PARAMS = Params(iouType="bbox")
"""pycocotools' own bounds: ten IoU thresholds, four area ranges, 101 recalls, 100 detections."""

IOU_THRESHOLDS: np.ndarray = PARAMS.iouThrs
AREAS: tuple[str, ...] = tuple(PARAMS.areaRngLbl)
AREA_RANGES: np.ndarray = np.array(PARAMS.areaRng)
MAX_DETS: int = PARAMS.maxDets[-1]

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
    for own, (low, high) in zip(AREA_BITS, AREA_RANGES, strict=True):
        bits |= np.where((areas < low) | (areas > high), np.uint64(own), np.uint64(0))
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


class Truths:
    """The objects of a data set, read and cleaned by `ground_truth`, photo by photo.

    Classes are columns in order of their category id, as COCO's evaluation has them.

    Raises:
        DatasetError: the annotation file has gone or changed since it was read.
    """

    def __init__(self, dataset: CocoDataset) -> None:
        data = ground_truth(dataset)
        categories = sorted(data["categories"], key=lambda category: category["id"])
        self.category_ids = [category["id"] for category in categories]
        self.names = [category["name"] for category in categories]
        self._column = {category_id: i for i, category_id in enumerate(self.category_ids)}
        self.image_ids = np.unique([photo.image_id for photo in dataset.photos])
        by_image: dict[int, list[dict]] = {}
        for annotation in data["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        self._images = {image_id: self._image(own) for image_id, own in by_image.items()}

    def __len__(self) -> int:
        return len(self.image_ids)

    def of(self, image_id: int) -> ImageTruths:
        """The objects of a photo."""
        return self._images[image_id] if image_id in self._images else self._image([])

    def columns(self, category_ids: tuple[int, ...], num_classes: int) -> np.ndarray:
        """[num_classes] int64: the column of each label index, `NO_COLUMN` where there is none."""
        ids = [category_ids[i] if i < len(category_ids) else i for i in range(num_classes)]
        return np.array([self._column.get(own, NO_COLUMN) for own in ids], np.int64)

    @cached_property
    def counts(self) -> np.ndarray:
        """[A, K] int64: objects to be found of each area range and class."""
        counts = np.zeros((A, len(self.names)), np.int64)
        for truths in self._images.values():
            for area in range(A):
                wanted = truths.ignored & np.uint64(1 << (area * T)) == 0
                np.add.at(counts[area], truths.column[wanted], 1)
        return counts

    @cached_property
    def by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """[G] index of the photo and [G] column of all objects that are no crowds."""
        place = {int(image_id): i for i, image_id in enumerate(self.image_ids)}
        images, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for image_id, truths in self._images.items():
            own = truths.column[~truths.crowd]
            images.append(np.full(len(own), place[image_id]))
            columns.append(own)
        return np.concatenate(images), np.concatenate(columns)

    def _image(self, annotations: list[dict]) -> ImageTruths:
        crowd = np.array([bool(own["iscrowd"]) for own in annotations], bool)
        ignored = outside(np.array([own["area"] for own in annotations], float))
        return ImageTruths(
            boxes=np.array([own["bbox"] for own in annotations], float).reshape(-1, 4),
            column=np.array([self._column[own["category_id"]] for own in annotations], np.int64),
            crowd=crowd,
            ignored=np.where(crowd, np.uint64(ALL_BITS), ignored),
        )
