"""The three formats of ground truth, each from its decoded text to what it says of each image.

Nothing here knows the pictures at hand: `truth_files` matches, scales and clips. Everything read
is hostile until it has been checked; a reason why a text cannot be used is written so that the
file's name fits before it ("is not JSON; ...").
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from retinanet.truth import Edges, coco_names, coco_spelling, shown

MIN_SCORE = 0.5
"""A box with a lower score is no ground truth; `load_coco` and `truth_from_detections` agree."""

MAX_DEPTH = 30
"""The deepest nesting of XML elements; Pascal VOC's has five."""

MAX_ONE_IMAGE = 2_000_000
"""The longest XML or YOLO txt, in characters: each speaks of one image only."""

MAX_DIGITS = 60
"""The longest number in XML and YOLO txt, in characters."""

_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class TruthFileError(ValueError):
    """A file of ground truth cannot be used; one sentence says which, why and what to do."""


class Unusable(ValueError):
    """A text cannot be used; the message is a reason that follows the file's name."""


@dataclass(frozen=True)
class Entry:
    """What a file says of one image.

    Args:
        name: the image's file name as the file gives it; "" where it gives none.
        size: (width, height) by the file; None where it gives none. (1, 1) for fractions.
        objects: category names and boxes xyxy in pixels of that size; not checked for area.
        counts: how many were left out as "crowd", "weak" or "nameless", and how many of the
            objects are marked "difficult".
    """

    name: str
    size: tuple[float, float] | None
    objects: list[tuple[str, Edges]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, category: str | None, box: Edges, score: float = 1.0) -> bool:
        """One object, unless it has no name or a score below `MIN_SCORE`: whether it was taken."""
        if score < MIN_SCORE:
            self.counts["weak"] += 1
            return False
        if not category:
            self.counts["nameless"] += 1
            return False
        self.objects.append((category, box))
        return True


@dataclass(frozen=True)
class Parsed:
    """A file's content: its format's name, what it says of each image, and notes on names."""

    format: str
    entries: list[Entry]
    notes: tuple[str, ...] = ()
    fractions: bool = False


def decode(data: bytes) -> str:
    """A file's text: UTF-8, or UTF-16 where it begins with that encoding's mark.

    Raises:
        Unusable: it is neither, or holds a NUL.
    """
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
    try:
        text = data.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable("is no text in UTF-8; save it as UTF-8 text.") from error
    if "\0" in text:
        raise Unusable("holds a NUL, which no text has; save it as UTF-8 text.")
    return text


def parse(text: str, class_names: Sequence[str]) -> Parsed:
    """A text of any of the three formats, told apart by how it begins.

    Args:
        text: decoded.
        class_names: YOLO's, by class number; empty for COCO's 80.

    Raises:
        Unusable: it is none of them, or damaged.
    """
    start = text.lstrip()
    if start.startswith(("{", "[")):
        return parse_json(text)
    if len(text) > MAX_ONE_IMAGE:
        raise Unusable(
            f"has {len(text):,} characters, and only COCO JSON may have more than "
            f"{MAX_ONE_IMAGE:,}; give one image's annotations."
        )
    if start.startswith("<"):
        return parse_voc(start)
    first = start.split(maxsplit=1)
    if not first or _DECIMAL.fullmatch(first[0]):
        return parse_yolo(text, class_names)
    raise Unusable("is none of COCO JSON, Pascal VOC XML and YOLO txt; export it as one of these.")


# COCO JSON


def parse_json(text: str) -> Parsed:
    """COCO instances (an object) or COCO results (a list).

    Raises:
        Unusable: no JSON, or not of these forms.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise Unusable("is nested too deeply for COCO JSON; export it again.") from error
    except Unusable:
        raise
    except json.JSONDecodeError as error:
        raise Unusable(
            f"is not JSON (line {error.lineno}: {error.msg}); export it again as COCO JSON."
        ) from error
    except ValueError as error:  # Python reads no whole number of more than 4,300 digits
        raise Unusable("holds a number of thousands of digits; export it again.") from error
    return _instances(data) if isinstance(data, dict) else _results(data)


def _refuse_constant(word: str) -> None:
    raise Unusable(f"holds {word}, which is no JSON number; export it again without it.")


def _instances(data: dict[str, Any]) -> Parsed:
    images, annotations = _dicts(data, "images"), _dicts(data, "annotations")
    categories = _dicts(data, "categories") if data.get("categories") else []
    names, notes = _category_names(categories)
    entries: dict[int | str, Entry] = {}
    for number, image in enumerate(images, 1):
        where = f"image {number}"
        image_id = _id(image, "id", where)
        if image_id in entries:
            raise Unusable(f"gives two images the id {shown(str(image_id))}; each needs its own.")
        entries[image_id] = Entry(_image_name(image, image_id, where), _size(image, where))
    for number, annotation in enumerate(annotations, 1):
        where = f"annotation {number}"
        entry = entries.get(_id(annotation, "image_id", where))
        if entry is not None:
            _add_annotation(entry, annotation, names, where)
    return Parsed("COCO JSON", list(entries.values()), notes)


def _results(data: list[Any]) -> Parsed:
    wanted = ("image_id", "category_id", "bbox", "score")
    entries: dict[int | str, Entry] = {}
    for number, result in enumerate(data, 1):
        where = f"result {number}"
        if not isinstance(result, dict) or not all(key in result for key in wanted):
            raise Unusable(
                f"is a list, but its {where} is none of COCO's results ({', '.join(wanted)}); "
                "give COCO instances or COCO results."
            )
        image_id = _id(result, "image_id", where)
        if image_id not in entries:
            entries[image_id] = Entry(_image_name(result, image_id, where), None)
        _add_annotation(entries[image_id], result, coco_names(), where)
    if not entries:
        raise Unusable("is an empty list and names no image; export COCO instances instead.")
    return Parsed("COCO JSON", list(entries.values()), (_RESULTS_NOTE,))


_RESULTS_NOTE = "It holds results with scores, so its category ids were taken as COCO's."
_NO_CATEGORIES_NOTE = "It gives no categories, so its category ids were taken as COCO's."


def _category_names(
    categories: list[dict[str, Any]],
) -> tuple[Mapping[int | str, str], tuple[str, ...]]:
    if not categories:
        return coco_names(), (_NO_CATEGORIES_NOTE,)
    names: dict[int | str, str] = {}
    for number, category in enumerate(categories, 1):
        where = f"category {number}"
        category_id = _id(category, "id", where)
        if category_id in names:
            raise Unusable(
                f"gives two categories the id {shown(str(category_id))}; each needs its own."
            )
        if not isinstance(category.get("name"), str):
            raise Unusable(f"has no name in {where}; give each category its name.")
        names[category_id] = coco_spelling(category["name"])
    return names, ()


def _add_annotation(
    entry: Entry, annotation: dict[str, Any], names: Mapping[int | str, str], where: str
) -> None:
    category = names.get(_id(annotation, "category_id", where))
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise Unusable(f"has no bbox [x, y, width, height] in {where}; export it with boxes.")
    x, y, width, height = (_number(value, where) for value in bbox)
    score = _number(annotation["score"], where) if "score" in annotation else 1.0
    if annotation.get("iscrowd"):
        entry.counts["crowd"] += 1
    else:
        entry.add(category, (x, y, x + width, y + height), score)


def _dicts(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = data.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unusable(f"has no list of {key}, so it is no COCO instances file; export it again.")
    return entries


def _id(entry: dict[str, Any], key: str, where: str) -> int | str:
    value = entry.get(key)
    if type(value) is not int and type(value) is not str:
        raise Unusable(f"has no {key} in {where}; it needs a whole number there.")
    return value


def _image_name(entry: dict[str, Any], image_id: int | str, where: str) -> str:
    """The file name given, or the one that COCO makes of an id: 139 is 000000000139.jpg."""
    name = entry.get("file_name")
    if name is None:
        return f"{image_id:012d}.jpg" if isinstance(image_id, int) else image_id
    if not isinstance(name, str):
        raise Unusable(f"has a file_name that is no text in {where}; export it again.")
    return name


def _size(image: dict[str, Any], where: str) -> tuple[float, float] | None:
    if image.get("width") is None or image.get("height") is None:
        return None
    return _positive(_number(image["width"], where), _number(image["height"], where))


def _positive(width: float, height: float) -> tuple[float, float] | None:
    """A size, None where it is no size: some tools write 0 for "not known"."""
    known = 1 <= width < math.inf and 1 <= height < math.inf
    return (width, height) if known else None


def _number(value: Any, where: str) -> float:
    if type(value) is not int and type(value) is not float:
        raise Unusable(f"has {shown(repr(value), 30)} for a number in {where}; export it again.")
    try:
        return float(value)
    except OverflowError:
        return math.inf  # left out later, as every box that is not finite


# Pascal VOC XML


def parse_voc(text: str) -> Parsed:
    """Pascal VOC's annotation of one image. Its pixels count from 1 and a box's last is inside.

    Raises:
        Unusable: no XML, a DOCTYPE or an entity in it, or not of this form.
    """
    root = _xml_root(text)
    if root.tag != "annotation":
        raise Unusable(
            f"is XML, but its root is {shown(root.tag)!r}, not Pascal VOC's 'annotation'; "
            "export it as Pascal VOC."
        )
    size = root.find("size")
    given = None if size is None else (_child(size, "width"), _child(size, "height"))
    entry = Entry(
        name=_child(root, "filename"),
        size=given and _positive(*(_decimal(side, "the size") for side in given)),
    )
    for number, item in enumerate(root.findall("object"), 1):
        where = f"object {number}"
        box = item.find("bndbox")
        if box is None:
            raise Unusable(f"has no bndbox in {where}; export it with boxes.")
        x1, y1, x2, y2 = (
            _decimal(_child(box, side), where) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        taken = entry.add(coco_spelling(_child(item, "name")), (x1 - 1, y1 - 1, x2, y2))
        if taken and _child(item, "difficult") == "1":
            entry.counts["difficult"] += 1
    return Parsed("Pascal VOC XML", [entry])


def _xml_root(text: str) -> ElementTree.Element:
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise Unusable("holds a DOCTYPE or an ENTITY, which is not read; export it without.")
    # Given as text: an encoding that the file declares changes nothing of what was checked.
    parser = ElementTree.XMLParser(target=_ShallowBuilder())  # noqa: S314
    try:
        parser.feed(text)
        return parser.close()
    except ElementTree.ParseError as error:
        raise Unusable(
            f"is not XML ({shown(str(error), 100)}); export it again as Pascal VOC."
        ) from error


class _ShallowBuilder(ElementTree.TreeBuilder):
    """Builds the tree, unless it grows deeper than any annotation or has a DOCTYPE after all."""

    depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unusable("is nested too deeply for Pascal VOC; export it again.")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise Unusable("holds a DOCTYPE, which is not read; export it without.")


def _child(parent: ElementTree.Element, tag: str) -> str:
    return (parent.findtext(tag) or "").strip()


def _decimal(text: str, where: str) -> float:
    if len(text) > MAX_DIGITS or not _DECIMAL.fullmatch(text):
        raise Unusable(f"has {shown(text, 30)!r} for a number in {where}; export it again.")
    return float(text)


# YOLO txt


def parse_yolo(text: str, class_names: Sequence[str]) -> Parsed:
    """YOLO's lines "class cx cy w h [score]" of one image, fractions of its sides.

    Raises:
        Unusable: other columns (polygons too), values beyond 0..1, a class without a name.
    """
    names = [coco_spelling(name) for name in class_names] or list(coco_names().values())
    entry = Entry(name="", size=(1.0, 1.0))
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split()
        if columns:
            _add_line(entry, columns, names, f"line {number}")
    return Parsed("YOLO txt", [entry], _yolo_notes(entry, class_names), fractions=True)


def _yolo_notes(entry: Entry, class_names: Sequence[str]) -> tuple[str, ...]:
    if not (entry.objects or entry.counts):
        return ("It is empty, which in YOLO's format says that nothing is there.",)
    return () if class_names else (_YOLO_NOTE,)


_YOLO_NOTE = (
    "Its class numbers were taken in the order of COCO's 80 classes; give the class list "
    "(classes.txt or data.yaml) if they mean others."
)


def _add_line(entry: Entry, columns: list[str], names: list[str], where: str) -> None:
    if len(columns) > 6:
        raise Unusable(
            f"has {len(columns):,} columns in {where}, as polygons and keypoints have; "
            "export it with boxes: class cx cy w h."
        )
    if len(columns) < 5:
        raise Unusable(f"has {len(columns)} columns in {where}; a box needs class cx cy w h.")
    values = [_decimal(column, where) for column in columns]
    if values[0] < 0 or not values[0].is_integer():
        raise Unusable(f"has {shown(columns[0], 30)} for a class in {where}; it needs 0, 1, 2 ...")
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values[1:]):
        raise Unusable(
            f"has a value beyond 0 to 1 in {where}; YOLO's boxes are fractions of the picture's "
            "sides, so divide pixels by them."
        )
    if values[0] >= len(names):
        raise Unusable(
            f"has class {columns[0]} in {where}, but there are {len(names)} class names; "
            "give the class list that belongs to it."
        )
    cx, cy, width, height = values[1:5]
    box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    entry.add(names[int(values[0])], box, values[5] if len(values) == 6 else 1.0)


_ROUNDING = 1e-3  # so far beyond 0..1 tools get by rounding
