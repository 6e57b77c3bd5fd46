"""What is wrong with a data set, and what it is made of: photos, boxes, classes, sizes."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from retinanet.coco import CocoDataset, DatasetError, Photo, _box, _is_ignored, _read_json
from retinanet.datasets.report import MAX_BOXES, MAX_FINDINGS, DatasetReport, Finding, size_name
from retinanet.images import ImageError, load_image
from retinanet.single_flight import Cancelled
from retinanet.truth import shown

_SLACK = 1.0  # pixels that rounding may put a box outside its picture


@dataclass
class _Found:
    """Findings as they come in: all counted, the first of each kind kept."""

    counts: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, kind: str, file: str, detail: str, image_id: int | None = None) -> None:
        self.counts[kind] += 1
        kept = self.kept.setdefault(kind, [])
        if len(kept) < MAX_FINDINGS:
            kept.append(Finding(kind, file, detail, image_id))


def check_dataset(
    dataset: CocoDataset,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> DatasetReport:
    """Look at every photo and every annotation of a data set.

    Each photo is decoded, as only that shows whether training will be able to. The annotation file
    is read again for what `load_coco` left out.

    Args:
        dataset: as `load_coco` or `open_dataset` gives it.
        progress: called with (photos done, photos in all).
        cancel: when set, the check ends.

    Raises:
        DatasetError: the annotation file has gone or changed since it was read.
        Cancelled: `cancel` was set.
    """
    found = _Found()
    _check_annotations(dataset, found)
    first_with: dict[str, str] = {}
    for done, photo in enumerate(dataset.photos, start=1):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        _check_photo(photo, first_with, found)
        if progress is not None:
            progress(done, len(dataset.photos))
    return _report(dataset, found)


def _check_photo(photo: Photo, first_with: dict[str, str], found: _Found) -> None:
    name = photo.path.name
    if not len(photo.target.boxes):
        found.add("no_objects", name, "nothing is labelled in it", photo.image_id)
    for box in photo.target.ignore.tolist():
        found.add("ignored_area", name, _box_text(box), photo.image_id)
    try:
        image = load_image(photo.path)
    except ImageError as error:
        found.add("unreadable", name, str(error), photo.image_id)
        return
    if image.size != (photo.width, photo.height):
        detail = (
            f"upright it has {image.size[0]:,} x {image.size[1]:,} pixels; its annotations say "
            f"{photo.width:,} x {photo.height:,}"
        )
        found.add("size_differs", name, detail, photo.image_id)
    if image.id in first_with:
        detail = f"the same bytes as {first_with[image.id]}"
        found.add("duplicate_image", name, detail, photo.image_id)
    first_with.setdefault(image.id, name)


def _check_annotations(dataset: CocoDataset, found: _Found) -> None:
    """What can be told without the pictures, in the order in which `load_coco` looks."""
    photos = {photo.image_id: photo for photo in dataset.photos}
    try:
        data = _read_json(dataset.annotation_file)
        names: dict[int, str] = {}
        for image in data["images"]:
            names[image["id"]] = shown(str(image["file_name"]))
            excluded = image.get("source") in dataset.exclude_sources
            if image["id"] not in photos and not excluded:
                found.add("missing_file", names[image["id"]], "there is no such file")
        seen: set[tuple[Any, ...]] = set()
        for annotation in data["annotations"]:
            photo = photos.get(annotation["image_id"])
            if photo is not None:
                _check_box(annotation, photo, dataset, seen, found)
            elif annotation["image_id"] not in names:
                detail = f"an annotation is of image {shown(str(annotation['image_id']), 20)}"
                found.add("unknown_image", "", detail)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise DatasetError(
            f"{dataset.annotation_file.name} changed while it was used; start again."
        ) from error


def _check_box(
    annotation: Mapping[str, Any],
    photo: Photo,
    dataset: CocoDataset,
    seen: set[tuple[Any, ...]],
    found: _Found,
) -> None:
    bbox, category = annotation["bbox"], annotation["category_id"]
    kind = _flaw(bbox, photo)
    if kind in ("degenerate_box", "box_outside"):
        found.add(kind, photo.path.name, _bbox_text(bbox), photo.image_id)
        return
    if category not in dataset.category_ids:
        found.add(
            "unknown_category",
            photo.path.name,
            f"category {shown(str(category), 20)}",
            photo.image_id,
        )
        return
    if kind:
        found.add(kind, photo.path.name, _bbox_text(bbox), photo.image_id)
    key = (photo.image_id, category, *bbox)
    if key in seen and not _is_ignored(annotation, dataset.min_label_score):
        found.add("duplicate_box", photo.path.name, _bbox_text(bbox), photo.image_id)
    seen.add(key)


def _flaw(bbox: list[float], photo: Photo) -> str:
    """The finding that a bbox [x, y, width, height] is for its photo; "" for none."""
    if not all(map(math.isfinite, bbox)) or not (bbox[2] > 0 and bbox[3] > 0):
        return "degenerate_box"
    if _box(bbox, photo.width, photo.height) is None:
        return "box_outside"
    x, y, width, height = bbox
    beyond = max(-x, -y, x + width - photo.width, y + height - photo.height)
    return "box_cut" if beyond > _SLACK else ""


def _report(dataset: CocoDataset, found: _Found) -> DatasetReport:
    objects, photos_of = Counter[int](), Counter[int]()
    sizes = Counter({"small": 0, "medium": 0, "large": 0})
    boxes: list[tuple[float, float, int]] = []
    for photo in dataset.photos:
        labels = photo.target.labels.tolist()
        objects.update(labels)
        photos_of.update(set(labels))
        for (x1, y1, x2, y2), label in zip(photo.target.boxes.tolist(), labels, strict=True):
            boxes.append((x2 - x1, y2 - y1, label))
            sizes[size_name((x2 - x1) * (y2 - y1))] += 1
    every = max(1, math.ceil(len(boxes) / MAX_BOXES))
    widths, heights, labels = zip(*boxes[::every], strict=True) if boxes else ((), (), ())
    return DatasetReport(
        photos=len(dataset.photos),
        boxes=len(boxes),
        counts={kind: found.counts[kind] for kind in Finding.KINDS},
        findings={kind: tuple(found.kept.get(kind, ())) for kind in Finding.KINDS},
        objects_per_class=_by_name(dataset, objects),
        photos_per_class=_by_name(dataset, photos_of),
        sizes=dict(sizes),
        box_widths=widths,
        box_heights=heights,
        box_labels=labels,
        box_every=every,
    )


def _by_name(dataset: CocoDataset, counts: Counter[int]) -> dict[str, int]:
    """Counts by class name; classes of one name, which COCO allows, get their ids to it."""
    often = Counter(dataset.categories)
    return {
        name if often[name] == 1 else f"{name} ({category_id})": counts[label]
        for label, (name, category_id) in enumerate(
            zip(dataset.categories, dataset.category_ids, strict=True)
        )
    }


def _box_text(box: list[float]) -> str:
    """Corners as a bbox in words."""
    x1, y1, x2, y2 = box
    return _bbox_text([x1, y1, x2 - x1, y2 - y1])


def _bbox_text(bbox: list[float]) -> str:
    x, y, width, height = bbox
    return f"{width:.5g} x {height:.5g} px at ({x:.5g}, {y:.5g})"
