"""A data set's annotations as columns, as COCO's evaluation takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet.coco import CocoDataset, ground_truth


@dataclass(frozen=True, eq=False)
class Annotations:
    """G annotations by image id, those of a photo in the file's order.

    Args:
        photo: [G] int64 index into the photos in order of their ids.
        label: [G] int64 label index.
        bbox: [G, 4] float64 [x, y, width, height], pixels of the photo, as annotated.
        area: [G] float64, px².
        crowd: [G] bool: an area with any number of objects.
        starts: [P + 1] int64: photo p has the rows from starts[p] up to starts[p + 1].
    """

    photo: np.ndarray
    label: np.ndarray
    bbox: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    starts: np.ndarray


def annotations_of(dataset: CocoDataset) -> Annotations:
    """The annotations that `ground_truth` gives.

    Raises:
        DatasetError: the annotation file has gone or changed since it was read.
    """
    photo_of = {image_id: photo for photo, image_id in enumerate(sorted_ids(dataset))}
    label_of = {category: label for label, category in enumerate(dataset.category_ids)}
    listed = ground_truth(dataset)["annotations"]
    photo = np.array([photo_of[a["image_id"]] for a in listed], dtype=np.int64)
    order = np.argsort(photo, kind="stable")
    photo = photo[order]
    return Annotations(
        photo,
        label=np.array([label_of[a["category_id"]] for a in listed], dtype=np.int64)[order],
        bbox=np.array([a["bbox"] for a in listed], dtype=np.float64).reshape(-1, 4)[order],
        area=np.array([a["area"] for a in listed], dtype=np.float64)[order],
        crowd=np.array([a["iscrowd"] for a in listed], dtype=bool)[order],
        starts=photo_starts(photo, len(photo_of)),
    )


def sorted_ids(dataset: CocoDataset) -> list[int]:
    """The photos' ids in ascending order: the order in which COCO breaks ties between scores."""
    return sorted(photo.image_id for photo in dataset.photos)


def photo_starts(photo: np.ndarray, photos: int) -> np.ndarray:
    """[P + 1] int64: where the rows of each photo start, from [N] ascending photo indices."""
    return np.searchsorted(photo, np.arange(photos + 1))
