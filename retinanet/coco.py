"""Data sets in COCO's detection format: reading, checking, and what to train on.

Beyond COCO's own fields two are understood: an annotation's `score` (machine-made labels) and an
image's `low_boxes` ([x, y, width, height, category_id, score] that are too weak to be labels).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retinanet.images import load_image
from retinanet.types import Image


class DatasetError(ValueError):
    """A data set cannot be used; the message is a sentence that says why and what to do."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is in a picture.

    Args:
        boxes: [G, 4] float32 xyxy in pixels.
        labels: [G] int64 label indices.
        ignore: [I, 4] float32 xyxy: areas where something unlabelled may be (crowds, weak boxes);
            anchors that lie in them are not trained as background.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor


@dataclass(frozen=True, eq=False)
class Photo:
    """One picture of a data set: where it lies and what is in it."""

    path: Path
    image_id: int
    width: int
    height: int
    target: Target
    machine_labelled: bool


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """A data set in COCO form.

    Args:
        annotation_file: the JSON file it was read from.
        photos: its pictures.
        categories: names by label index.
        category_ids: COCO ids by label index.
        report: what reading it found: counts and what was left out, for people.
        min_label_score: an annotation with a lower `score` was taken as an area to ignore.
        exclude_sources: images of these sources were left out.
    """

    annotation_file: Path
    photos: tuple[Photo, ...]
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    report: dict[str, int] = field(default_factory=dict)
    min_label_score: float = 0.5
    exclude_sources: frozenset[str] = frozenset()


def load_coco(
    annotation_file: str | Path,
    images: str | Path,
    *,
    min_label_score: float = 0.5,
    exclude_sources: Collection[str] = (),
) -> CocoDataset:
    """Read a COCO instances file.

    Args:
        annotation_file: the JSON file.
        images: the folder that its `file_name`s are relative to.
        min_label_score: an annotation with a lower `score` becomes an area to ignore.
        exclude_sources: images whose `source` field is one of these are left out.

    Raises:
        DatasetError: no such file, not COCO's format, or nothing left to use.
    """
    annotation_file, folder = Path(annotation_file), Path(images)
    data = _read_json(annotation_file)
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}; name the one that holds the images.")
    try:
        categories = sorted(data["categories"], key=lambda category: category["id"])
        label_of = {_id(category): label for label, category in enumerate(categories)}
        _check_unique(categories, "categories")
        _check_unique(data["images"], "images")
        annotations: dict[int, list[dict]] = {}
        for annotation in data["annotations"]:
            annotations.setdefault(annotation["image_id"], []).append(annotation)
        report = {"degenerate_boxes": 0, "unknown_categories": 0, "missing_files": 0, "excluded": 0}
        photos = []
        for image in data["images"]:
            if image.get("source") in exclude_sources:
                report["excluded"] += 1
                continue
            path = _find(folder, image["file_name"])
            if path is None:
                report["missing_files"] += 1
                continue
            own = annotations.get(image["id"], [])
            photos.append(_photo(image, own, path, label_of, min_label_score, report))
        names = tuple(str(category["name"]) for category in categories)
    except DatasetError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{annotation_file.name} is not in COCO's detection format: {error!r} is missing or "
            "has the wrong type."
        ) from error
    if not photos:
        raise DatasetError(
            f"{annotation_file.name} leaves no image to use: of {len(data['images'])}, "
            f"{report['missing_files']} are not in {folder} and {report['excluded']} are excluded."
        )
    report["photos"] = len(photos)
    report["boxes"] = sum(len(photo.target.boxes) for photo in photos)
    ids = tuple(label_of)
    excluded = frozenset(exclude_sources)
    return CocoDataset(
        annotation_file, tuple(photos), names, ids, report, min_label_score, excluded
    )


def open_photo(photo: Photo) -> Image:
    """The picture, upright; its boxes are in its pixels.

    Raises:
        DatasetError: it has not the size that the data set says, for example because its boxes
            were drawn before it was turned as its EXIF tag asks.
        ImageError: the file cannot be decoded.
    """
    image = load_image(photo.path)
    if image.size != (photo.width, photo.height):
        raise DatasetError(
            f"{photo.path.name} is {image.size[0]}x{image.size[1]} pixels when upright, but the "
            f"data set says {photo.width}x{photo.height}; correct its entry, or turn the file "
            "and its boxes."
        )
    return image


def ground_truth(dataset: CocoDataset) -> dict[str, Any]:
    """The annotations of the data set's photos as pycocotools needs them.

    As in training: unusable boxes are left out, and one with a `score` below the data set's
    `min_label_score` is a crowd, which costs a detection nothing. A missing area is the box's.

    Raises:
        DatasetError: the annotation file has gone or changed since it was read.
    """
    photos = {photo.image_id: photo for photo in dataset.photos}
    annotations: list[dict[str, Any]] = []
    try:
        for annotation in _read_json(dataset.annotation_file)["annotations"]:
            photo = photos.get(annotation["image_id"])
            if photo is None or annotation["category_id"] not in dataset.category_ids:
                continue
            if _box(annotation["bbox"], photo.width, photo.height) is None:
                continue
            area = annotation.get("area")
            known = isinstance(area, int | float) and math.isfinite(area)
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools takes 0 for "none"
                    "image_id": photo.image_id,
                    "category_id": annotation["category_id"],
                    "bbox": annotation["bbox"],
                    "area": area if known else annotation["bbox"][2] * annotation["bbox"][3],
                    "iscrowd": int(_is_ignored(annotation, dataset.min_label_score)),
                }
            )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DatasetError(
            f"{dataset.annotation_file.name} changed while it was used; start again."
        ) from error
    return {
        "images": [
            {"id": p.image_id, "width": p.width, "height": p.height} for p in dataset.photos
        ],
        "annotations": annotations,
        "categories": [
            {"id": category_id, "name": name}
            for category_id, name in zip(dataset.category_ids, dataset.categories, strict=True)
        ],
    }


def _id(entry: dict[str, Any]) -> int:
    """An image's or a category's id."""
    if type(entry["id"]) is not int or not 0 <= entry["id"] < 2**63:
        raise DatasetError(f"The id {str(entry['id'])[:60]!r} must be a whole number, 0 or more.")
    return entry["id"]


def _check_unique(entries: list[dict[str, Any]], what: str) -> None:
    if len({_id(entry) for entry in entries}) != len(entries):
        raise DatasetError(f"Two of the data set's {what} have the same id; each needs its own.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path.name} is not a JSON file: {error}.") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path.name} is not in COCO's detection format: it is no JSON object.")
    return data


def _find(folder: Path, name: str) -> Path | None:
    """`folder / name` when there is such a file, refusing a name that leads out of the folder."""
    try:
        path = (folder / name).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, links in a circle
        raise DatasetError(f"The image name {name[:60]!r} cannot be the name of a file.") from error
    if not path.is_relative_to(folder.resolve()):
        raise DatasetError(
            f"The image name {name[:60]!r} leads out of its folder; it was not opened."
        )
    return path if found else None


def _photo(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    path: Path,
    label_of: dict[int, int],
    min_label_score: float,
    report: dict[str, int],
) -> Photo:
    width, height = int(image["width"]), int(image["height"])
    boxes, labels = [], []
    low_boxes = [_box(low[:4], width, height) for low in image.get("low_boxes", [])]
    ignore = [box for box in low_boxes if box is not None]
    for annotation in annotations:
        box = _box(annotation["bbox"], width, height)
        if box is None:
            report["degenerate_boxes"] += 1
        elif annotation["category_id"] not in label_of:
            report["unknown_categories"] += 1
        elif _is_ignored(annotation, min_label_score):
            ignore.append(box)
        else:
            boxes.append(box)
            labels.append(label_of[annotation["category_id"]])
    target = Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
    )
    machine_labelled = image.get("labels") == "pseudo"
    return Photo(path, image["id"], width, height, target, machine_labelled)


def _is_ignored(annotation: dict[str, Any], min_label_score: float) -> bool:
    return bool(annotation.get("iscrowd")) or annotation.get("score", 1.0) < min_label_score


def _box(bbox: list[float], width: int, height: int) -> tuple[float, ...] | None:
    """[x, y, width, height] as corners within the image; None when nothing of it is there."""
    if len(bbox) != 4:
        raise TypeError(f"bbox {bbox}")
    if not all(map(math.isfinite, bbox)):
        return None
    x, y, box_width, box_height = bbox
    x1, y1 = max(x, 0.0), max(y, 0.0)
    x2, y2 = min(x + box_width, float(width)), min(y + box_height, float(height))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
