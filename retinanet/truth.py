"""Ground truth that a person gives: objects with a category and a box, in pixels of the picture.

From here it goes to `assign` and `compute_loss` (`labelled`), into a link (`truth_text`) and into a
COCO file (`to_coco`). `truth_files` reads it from files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from retinanet.checkpoints import OFFICIAL

if TYPE_CHECKING:
    from retinanet.detection import DetectionTrace

MAX_OBJECTS = 300
"""The most objects of one picture: as many as torchvision's `detections_per_img`."""

MAX_CATEGORY_CHARACTERS = 80
"""The longest category name."""

MAX_COORDINATE = 1e8
"""The largest coordinate, in pixels: beyond any picture, and areas of such boxes fit float32."""

MAX_TEXT_CHARACTERS = 8_000
"""The longest text that `parse_truth_text` reads: about what a link may hold."""

_COCO_COLUMNS = 91  # torchvision's COCO layout: the column is COCO's id
_FIRST_OWN_ID = 1001  # of categories that are not COCO's, in `to_coco`

# Pascal VOC's and Darknet's spelling -> COCO's.
_OTHER_SPELLINGS = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}

Edges = tuple[float, float, float, float]


class TruthError(ValueError):
    """Ground truth cannot be used; the message is a sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class TruthBox:
    """One object that somebody says is there.

    Args:
        category: its class's name, COCO's spelling where it is a COCO class; 1 to 80 printable
            characters, space around it is dropped.
        box: xyxy, pixels of the original picture, x1 < x2 and y1 < y2 in float32 too, as the
            network's side computes.

    Raises:
        TruthError: one of the two is not so.
    """

    category: str
    box: Edges

    def __post_init__(self) -> None:
        object.__setattr__(self, "category", _checked_category(self.category))
        object.__setattr__(self, "box", _checked_box(self.box))


def _checked_category(category: Any) -> str:
    if not isinstance(category, str) or not category.strip():
        raise TruthError("An object needs a category; give the name of its class.")
    category = category.strip()
    if not category.isprintable():
        raise TruthError(
            f"The category {shown(category)!r} holds characters that cannot be printed; "
            "leave them out."
        )
    if len(category) > MAX_CATEGORY_CHARACTERS:
        raise TruthError(
            f"The category {shown(category)!r} has {len(category):,} characters; "
            f"use at most {MAX_CATEGORY_CHARACTERS}."
        )
    return category


def _checked_box(box: Any) -> Edges:
    try:
        edges = tuple(box)
    except TypeError:
        edges = ()
    if len(edges) != 4 or not all(isinstance(e, Real) and type(e) is not bool for e in edges):
        raise TruthError("An object's box needs four numbers, x1, y1, x2, y2, in pixels.")
    # Compared before they are converted: a whole number may be too large for a float.
    if not all(-MAX_COORDINATE <= edge <= MAX_COORDINATE for edge in edges):
        raise TruthError(
            "An object's box has a coordinate that is not a finite number of pixels; draw it anew."
        )
    x1, y1, x2, y2 = (float(edge) for edge in edges)
    if not _has_area(x1, y1, x2, y2):
        raise TruthError(
            f"The box {x1:g}, {y1:g}, {x2:g}, {y2:g} has no area: it needs x1 < x2 and y1 < y2."
        )
    return (x1, y1, x2, y2)


def _has_area(x1: float, y1: float, x2: float, y2: float) -> bool:
    """Whether float32, in which boxes are matched, tells the edges apart."""
    return bool(np.float32(x1) < np.float32(x2) and np.float32(y1) < np.float32(y2))


def shown(text: str, limit: int = 60) -> str:
    """Text as it may stand in a sentence: one line, printable, not endless."""
    printable = "".join(char if char.isprintable() else "?" for char in text[: limit + 1])
    return printable if len(printable) <= limit else f"{printable[: limit - 3]}..."


def clean_category(text: str) -> str:
    """A name without what cannot be printed (control characters, bidi overrides), cut to 80.

    Space of every kind becomes one blank. "" where nothing is left.
    """
    spaced = " ".join(text[: 10 * MAX_CATEGORY_CHARACTERS].split())
    return "".join(filter(str.isprintable, spaced)).strip()[:MAX_CATEGORY_CHARACTERS].strip()


@cache
def coco_names() -> Mapping[int, str]:
    """COCO's 80 classes in their order: {id from 1 to 90: name}, as torchvision spells them."""
    columns: list[str] = OFFICIAL["coco-v1"].meta["categories"]
    nameless = ("__background__", "N/A")
    names = {column: name for column, name in enumerate(columns) if name not in nameless}
    return MappingProxyType(names)  # one for all callers


def coco_spelling(name: str) -> str:
    """COCO's spelling where the cleaned name is a COCO class in other letters, else that name.

    Case, underscores and hyphens do not count ("Traffic_Light"), and Pascal VOC's names are known
    ("tvmonitor").
    """
    name = clean_category(name)
    return _spellings().get(_plain(name), name)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold()))


@cache
def _spellings() -> dict[str, str]:
    return {**{_plain(name): name for name in coco_names().values()}, **_OTHER_SPELLINGS}


def clip_truth(objects: Iterable[TruthBox], size: tuple[int, int]) -> tuple[TruthBox, ...]:
    """The objects as far as they are inside the picture.

    Args:
        objects: in pixels of the picture.
        size: its (width, height).

    Returns:
        In their order; without those of which less than 1 px a side is left.
    """
    width, height = size
    clipped = []
    for one in objects:
        x1, y1 = max(one.box[0], 0.0), max(one.box[1], 0.0)
        x2, y2 = min(one.box[2], float(width)), min(one.box[3], float(height))
        if x2 - x1 >= 1 and y2 - y1 >= 1:
            clipped.append(TruthBox(one.category, (x1, y1, x2, y2)))
    return tuple(clipped)


def known_categories(categories: Sequence[str | None], num_classes: int) -> dict[str, int]:
    """The classes of a model by name: {name: label index}; of equal names the first label.

    Args:
        categories: names by label index, None where a label has no class, as in `Outputs`.
        num_classes: the model's columns.

    Returns:
        A model without any name and with 91 columns is taken as torchvision's COCO layout;
        without names and with another number of columns it is {}.
    """
    if not any(categories) and num_classes == _COCO_COLUMNS:
        return {name: column for column, name in coco_names().items()}
    known: dict[str, int] = {}
    for label, name in enumerate(categories[:num_classes]):
        if name:
            known.setdefault(name, label)
    return known


@dataclass(frozen=True)
class Labelled:
    """Objects in a model's terms, ready for `assign`. G = objects whose class the model has.

    Args:
        boxes: [G][4] xyxy, pixels of the original picture.
        labels: [G] label indices.
        rows: [G] index of each among the objects given.
        unknown: category names that the model does not have, each once, in their order.
    """

    boxes: list[list[float]]
    labels: list[int]
    rows: tuple[int, ...]
    unknown: tuple[str, ...]


def labelled(
    objects: Sequence[TruthBox], categories: Sequence[str | None], num_classes: int
) -> Labelled:
    """The objects as boxes and labels of a model; those of classes it does not have are left out.

    A name that the model does not have to the letter is compared as `coco_spelling` does: "couch"
    finds a model's "sofa". Where a model has no names at all, "class 12" is label 12.

    Args:
        objects: in pixels of the original picture.
        categories: the model's names by label index.
        num_classes: the model's columns.
    """
    known = known_categories(categories, num_classes)
    if not known:
        known = {f"class {label}": label for label in range(num_classes)}
    alike: dict[str, int] = {}
    for name, label in known.items():
        alike.setdefault(_plain(coco_spelling(name)), label)
    boxes, labels, rows = [], [], []
    unknown: dict[str, None] = {}
    for row, one in enumerate(objects):
        label = known.get(one.category, alike.get(_plain(coco_spelling(one.category))))
        if label is None:
            unknown[one.category] = None
            continue
        boxes.append(list(one.box))
        labels.append(label)
        rows.append(row)
    return Labelled(boxes, labels, tuple(rows), tuple(unknown))


def truth_from_detections(trace: DetectionTrace, score_thresh: float = 0.5) -> tuple[TruthBox, ...]:
    """A trace's kept boxes at or above a score, taken as ground truth; best first, at most 300.

    Names are the model's; a nameless model of 91 columns is taken as torchvision's COCO layout,
    as in `known_categories`. Boxes without area (of a clipped prediction) are no objects.

    Raises:
        TruthError: the score is not from 0 to 1.
    """
    if not 0 <= score_thresh <= 1:
        raise TruthError(f"A score is from 0 to 1, not {score_thresh}; choose one in between.")
    known = known_categories(trace.outputs.categories, trace.outputs.num_classes)
    names = {label: name for name, label in known.items()}
    enough = trace.scores >= score_thresh  # float32 against float32, as it is shown
    boxes, labels = trace.boxes[enough].tolist(), trace.labels[enough].tolist()
    adopted = [
        TruthBox(clean_category(names.get(label, trace.categories[label])), tuple(box))
        for box, label in zip(boxes, labels, strict=True)
        if _has_area(*box)
    ]
    return tuple(adopted[:MAX_OBJECTS])


def to_coco(
    entries: Sequence[tuple[str, tuple[int, int], Sequence[TruthBox]]],
) -> dict[str, Any]:
    """Pictures and their objects as a COCO instances file: pycocotools and `load_coco` read it.

    Args:
        entries: for each picture its file name, its (width, height) and its objects.

    Returns:
        {"images", "annotations", "categories"}; image and annotation ids count from 1, a bbox is
        [x, y, width, height] in pixels. Only categories that occur: COCO's with COCO's ids, others
        by name from 1001 on.
    """
    category_ids = _category_ids({one.category for _, _, objects in entries for one in objects})
    images, annotations = [], []
    for image_id, (file_name, (width, height), objects) in enumerate(entries, 1):
        images.append(
            {"id": image_id, "file_name": file_name, "width": int(width), "height": int(height)}
        )
        for one in objects:
            bbox = _xywh(one.box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[one.category],
                    "bbox": bbox,
                    "area": _tidy(bbox[2] * bbox[3]),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for name, number in category_ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _category_ids(names: set[str]) -> dict[str, int]:
    """{name: id}, by id."""
    coco = {name: number for number, name in coco_names().items() if name in names}
    others = sorted(names - coco.keys())
    return {**coco, **{name: number for number, name in enumerate(others, _FIRST_OWN_ID)}}


def _xywh(box: Edges) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, _tidy(x2 - x1), _tidy(y2 - y1)]


def _tidy(value: float) -> float:
    """Without the false digits of a difference (348.19999999999999), but never 0 for a size."""
    return round(value, 6) or value


def truth_text(objects: Sequence[TruthBox]) -> str:
    """The objects as one short text, "person:18,15,366,512;dog:1,2.5,30,40"; "" for none.

    Coordinates to 0.1 px (finer only where a box would lose its area), without trailing zeros; of
    a name only "%", ":", ";" and "," are percent-encoded. `parse_truth_text` reads it.

    It never fails; what `parse_truth_text` will refuse is above `MAX_TEXT_CHARACTERS` or
    `MAX_OBJECTS`.
    """
    return ";".join(f"{_quoted(one.category)}:{_edges_text(one.box)}" for one in objects)


def _quoted(name: str) -> str:
    return re.sub("[%:;,]", lambda sign: f"%{ord(sign[0]):02X}", name)


def _edges_text(box: Edges) -> str:
    digits = 1
    while not _has_area(*(round(edge, digits) for edge in box)):
        digits += 1
    return ",".join(_number_text(edge, digits) for edge in box)


def _number_text(value: float, digits: int) -> str:
    text = f"{round(value, digits):.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,60})?")


def parse_truth_text(text: str) -> tuple[TruthBox, ...]:
    """The objects of a text as `truth_text` writes it; () for an empty one.

    Raises:
        TruthError: the text is not of this form, or above the limits.
    """
    if not isinstance(text, str):
        raise TruthError("Ground truth in a link is text; copy the link again.")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise TruthError(
            f"The ground truth has {len(text):,} characters, more than the "
            f"{MAX_TEXT_CHARACTERS:,} that a link may hold; keep it in a COCO file instead."
        )
    if not text.strip():
        return ()
    parts = text.split(";")
    if len(parts) > MAX_OBJECTS:
        raise TruthError(
            f"There are {len(parts):,} objects; at most {MAX_OBJECTS} can be used. "
            "Keep those that matter."
        )
    return tuple(_parse_object(part, number) for number, part in enumerate(parts, 1))


def _parse_object(part: str, number: int) -> TruthBox:
    name, _, numbers = part.partition(":")
    edges = numbers.split(",")
    if len(edges) != 4 or not all(_NUMBER.fullmatch(edge) for edge in edges):
        raise TruthError(
            f"Object {number} of the ground truth, {shown(part)!r}, is not of the form "
            "name:x1,y1,x2,y2 with plain numbers; correct it or draw the object anew."
        )
    try:
        x1, y1, x2, y2 = map(float, edges)
        return TruthBox(unquote(name, errors="strict"), (x1, y1, x2, y2))
    except UnicodeDecodeError as error:
        raise TruthError(
            f"The name of object {number} of the ground truth, {shown(name)!r}, is not encoded as "
            "UTF-8; copy the link again."
        ) from error
    except TruthError as error:
        raise TruthError(f"Object {number} of the ground truth: {error}") from error
