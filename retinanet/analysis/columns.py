"""Results and annotations of a data set as columns, checked; both in order of the image id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinanet.coco import CocoDataset, DatasetError
from retinanet.coco_columns import annotations_of, photo_starts, sorted_ids
from retinanet.coco_matching import outside_range


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections by image id, then the best score first, equal ones as given.

    Args:
        photo: [D] int64 index into the photos in order of their ids.
        label: [D] int64 label index; -1 for a category that the data set has not.
        score: [D] float64.
        bbox: [D, 4] float64 [x, y, width, height], pixels of the photo.
        starts: [P + 1] int64: photo p has the rows from starts[p] up to starts[p + 1].
    """

    photo: np.ndarray
    label: np.ndarray
    score: np.ndarray
    bbox: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    def of(self, photo: int) -> slice:
        """The rows of a photo."""
        return slice(int(self.starts[photo]), int(self.starts[photo + 1]))


@dataclass(frozen=True, eq=False)
class Objects:
    """G annotations by image id; of a photo those that cost nothing come last.

    Args:
        photo: [G] int64, as in `Detections`.
        label: [G] int64 label index.
        bbox: [G, 4] float64 [x, y, width, height], pixels of the photo, as annotated.
        crowd: [G] bool: an area with any number of objects.
        ignored: [G] bool: costs a detection nothing (crowds, areas beyond COCO's range).
        starts: [P + 1] int64, as in `Detections`.
    """

    photo: np.ndarray
    label: np.ndarray
    bbox: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def of(self, photo: int) -> slice:
        """The rows of a photo."""
        return slice(int(self.starts[photo]), int(self.starts[photo + 1]))


def detections_of(dataset: CocoDataset, results: Sequence[Mapping[str, Any]]) -> Detections:
    """COCO results as columns.

    Args:
        dataset: what they are of.
        results: {"image_id", "category_id", "bbox" [x, y, width, height], "score"}.

    Raises:
        DatasetError: they are not in this format, of a photo that the data set has not, or a
            number is not finite.
    """
    photo_of = {image_id: photo for photo, image_id in enumerate(sorted_ids(dataset))}
    label_of = {category: label for label, category in enumerate(dataset.category_ids)}
    try:
        unknown = next((e["image_id"] for e in results if e["image_id"] not in photo_of), None)
        if unknown is not None:
            raise DatasetError(
                f"The results have a detection on image {str(unknown)[:60]}, which the data set "
                "has not; give the results of this data set."
            )
        photo = np.array([photo_of[entry["image_id"]] for entry in results], dtype=np.int64)
        label = np.array([label_of.get(e["category_id"], -1) for e in results], dtype=np.int64)
        score = np.array([entry["score"] for entry in results], dtype=np.float64)
        bbox = np.array([entry["bbox"] for entry in results], dtype=np.float64)
        bbox = bbox.reshape(len(score), 4) if bbox.size else bbox.reshape(0, 4)
    except DatasetError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DatasetError(
            "The detections are not in COCO's results format: each needs image_id, category_id, "
            "bbox [x, y, width, height] and score."
        ) from error
    if score.ndim != 1 or len(bbox) != len(score):
        raise DatasetError("A detection has no bbox [x, y, width, height] or no single score.")
    if not (np.isfinite(score).all() and np.isfinite(bbox).all() and (bbox[:, 2:] >= 0).all()):
        raise DatasetError(
            "A detection has a score or an edge that is not a finite number, or a negative width "
            "or height; leave it out."
        )
    order = np.lexsort([-score, photo])
    photo = photo[order]
    starts = photo_starts(photo, len(photo_of))
    return Detections(photo, label[order], score[order], bbox[order], starts)


def objects_of(dataset: CocoDataset) -> Objects:
    """The annotations as COCO's evaluation takes them (`ground_truth`), as columns.

    Raises:
        DatasetError: the annotation file has gone or changed since it was read.
    """
    given = annotations_of(dataset)
    ignored = given.crowd | outside_range(given.area)
    order = np.lexsort([ignored, given.photo])
    columns = (part[order] for part in (given.photo, given.label, given.bbox, given.crowd, ignored))
    return Objects(*columns, given.starts)


def corners(bbox: np.ndarray) -> np.ndarray:
    """[N, 4] xyxy from [N, 4] [x, y, width, height]."""
    return np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
