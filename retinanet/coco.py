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
    """

    annotation_file: Path
    photos: tuple[Photo, ...]
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    report: dict[str, int] = field(default_factory=dict)


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
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        annotations: dict[int, list[dict]] = {}
        for annotation in data["annotations"]:
            annotations.setdefault(annotation["image_id"], []).append(annotation)
        report = {"degenerate_boxes": 0, "unknown_categories": 0, "missing_files": 0, "excluded": 0}
        photos = []
        for image in data["images"]:
            if image.get("source") in exclude_sources:
                report["excluded"] += 1
                continue
            path = _inside(folder, image["file_name"])
            if not path.is_file():
                report["missing_files"] += 1
                continue
            own = annotations.get(image["id"], [])
            photos.append(_photo(image, own, path, label_of, min_label_score, report))
        names = tuple(str(category["name"]) for category in categories)
    except (KeyError, TypeError, IndexError) as error:
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
    return CocoDataset(annotation_file, tuple(photos), names, tuple(label_of), report)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DatasetError(f"{path.name} is not a JSON file: {error}.") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path.name} is not in COCO's detection format: it is no JSON object.")
    return data


def _inside(folder: Path, name: str) -> Path:
    """`folder / name`, refusing a name that leads out of the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DatasetError(f"The image name {name!r} leads out of its folder; it was not opened.")
    return path


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
    ignore = [_corners(low[:4]) for low in image.get("low_boxes", [])]
    for annotation in annotations:
        box = _clip(_corners(annotation["bbox"]), width, height)
        if box[2] <= box[0] or box[3] <= box[1] or not all(map(math.isfinite, box)):
            report["degenerate_boxes"] += 1
        elif annotation["category_id"] not in label_of:
            report["unknown_categories"] += 1
        elif annotation.get("iscrowd") or annotation.get("score", 1.0) < min_label_score:
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


def _corners(bbox: list[float]) -> tuple[float, float, float, float]:
    if len(bbox) != 4:
        raise TypeError(f"bbox {bbox}")
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _clip(box: tuple[float, ...], width: int, height: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
