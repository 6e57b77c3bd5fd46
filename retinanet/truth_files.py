"""Ground truth from a person's file: COCO JSON, Pascal VOC XML or YOLO txt, for the open pictures.

The bytes are hostile until proven otherwise: whatever they are, `read_truth` gives objects inside
the pictures or raises `TruthFileError` with one sentence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from retinanet.truth import MAX_OBJECTS, TruthBox, TruthError, clip_truth, shown
from retinanet.truth_class_names import read_class_names
from retinanet.truth_formats import (
    MIN_SCORE,
    Entry,
    Parsed,
    TruthFileError,
    Unusable,
    decode,
    parse,
)

__all__ = ["MAX_BYTES", "TruthFile", "TruthFileError", "read_class_names", "read_truth"]

MAX_BYTES = 20_000_000
"""The largest file that is read, in bytes."""

_SHOWN_NAMES = 3  # of many, in a sentence


@dataclass(frozen=True)
class TruthFile:
    """What a file says of the open pictures.

    Args:
        objects_by_image: {picture's name as given: its objects, in its pixels}; () where the file
            says that nothing is there. Only pictures of which the file speaks.
        format: "COCO JSON", "Pascal VOC XML" or "YOLO txt".
        notes: what was assumed, scaled or left out, one sentence each.
    """

    objects_by_image: dict[str, tuple[TruthBox, ...]]
    format: str
    notes: tuple[str, ...]


class _Picture(NamedTuple):
    """An open picture: its name and its (width, height)."""

    name: str
    size: tuple[int, int]


def read_truth(
    data: bytes,
    name: str,
    *,
    image_names: Sequence[tuple[str, tuple[int, int]]],
    class_names: Sequence[str] = (),
) -> TruthFile:
    """Read the objects of the open pictures from a file; its content decides which format it is.

    - COCO JSON: instances, or results as `export.to_coco_results` writes them. Crowds are left
      out, and so is what has a `score` below 0.5.
    - Pascal VOC XML: pixels counted from 1; "difficult" objects are kept.
    - YOLO txt: "class cx cy w h [score]", fractions of the sides.

    An image of the file is matched to a picture by its file name without folders: to the letter,
    then in any case, then without its ending. A file of one image that matches none so is taken by
    the file's own name, or for the only picture. Where a file gives an image another size of the
    same shape, its boxes are scaled. Names get COCO's spelling where they are COCO classes.

    Args:
        data: the file's bytes, hostile.
        name: how the file is called.
        image_names: (name, (width, height)) of each open picture.
        class_names: YOLO's names by class number (`read_class_names`); COCO's 80 by default.

    Raises:
        TruthFileError: the file cannot be read, or gives nothing for these pictures.
    """
    pictures = list(dict.fromkeys(_Picture(*picture) for picture in image_names))
    try:
        if not pictures:
            raise Unusable("has no picture to belong to; open its picture first.")
        parsed = _parsed(data, name, class_names)
        matched, notes = _match(parsed.entries, pictures, name)
        notes = [*parsed.notes, *notes]
        objects = _objects(matched, parsed, notes)
    except Unusable as error:
        raise TruthFileError(f"{shown(name) or 'The file'} {error}") from error
    return TruthFile(objects, parsed.format, tuple(notes))


def _parsed(data: bytes, name: str, class_names: Sequence[str]) -> Parsed:
    if len(data) > MAX_BYTES:
        raise Unusable(
            f"is larger than {MAX_BYTES // 10**6} MB; keep only the images that are open in it."
        )
    text = decode(data)
    # Of nothing the content cannot tell: in YOLO's format it is an image without objects.
    if not text.strip() and not name.lower().endswith(".txt"):
        raise Unusable("is empty; export it again.")
    return parse(text, class_names)


# Which image is which picture

_Named = TypeVar("_Named", Entry, _Picture)


def _base(name: str) -> str:
    """The file's name without folders, as it looks in a list of files."""
    base = re.split(r"[\\/]", name)[-1].strip()
    if base.isprintable():
        return base
    return "".join(char if char.isprintable() else "?" for char in base)


def _stem(name: str) -> str:
    return _base(name).rpartition(".")[0] or _base(name)


_Rule = Callable[[str], str]
_RULES: tuple[_Rule, ...] = (
    str,
    _base,
    lambda name: _base(name).casefold(),
    lambda name: _stem(name).casefold(),
)
"""What must be equal in two names; each rule is asked about what those before left over."""


def _match(
    entries: list[Entry], pictures: list[_Picture], own_name: str
) -> tuple[list[tuple[_Picture, Entry]], list[str]]:
    """Which entry is which picture, and notes on those that are none.

    Raises:
        Unusable: none is.
    """
    matched, doubts = _match_by_name(entries, pictures)
    if not matched and not doubts and len(entries) == 1:
        return _match_only_entry(entries[0], pictures, own_name)
    if not matched:
        raise Unusable(doubts[0] if doubts else _nothing_matches(entries, pictures))
    notes = [f"It {doubt}" for doubt in doubts]
    others = len(entries) - len(matched)
    if others and not doubts:
        images = "1 other image, which is" if others == 1 else f"{others:,} other images, which are"
        notes.append(f"It also speaks of {images} not open.")
    return matched, notes


def _match_only_entry(
    entry: Entry, pictures: list[_Picture], own_name: str
) -> tuple[list[tuple[_Picture, Entry]], list[str]]:
    """By the file's own name, for an image renamed with its file; else for the only picture."""
    matched, doubts = _match_by_name([replace(entry, name=own_name)], pictures)
    if not matched and (doubts or len(pictures) > 1):
        raise Unusable(doubts[0] if doubts else _nothing_matches([entry], pictures))
    picture = matched[0][0] if matched else pictures[0]
    called = f"calls its image {shown(entry.name)}" if entry.name else "names no image"
    why = "which has the file's own name" if matched else "the only picture"
    # That a YOLO file is named as its picture goes without saying.
    silent = matched and not entry.name
    notes = [] if silent else [f"It {called}; it was taken for {shown(picture.name)}, {why}."]
    return [(picture, entry)], notes


def _match_by_name(
    entries: list[Entry], pictures: list[_Picture]
) -> tuple[list[tuple[_Picture, Entry]], list[str]]:
    matched: list[tuple[_Picture, Entry]] = []
    doubts: list[str] = []
    for rule in _RULES:
        entries_of, pictures_of = _grouped(entries, rule), _grouped(pictures, rule)
        shared = [key for key in pictures_of if key and key in entries_of]
        for key in shared:
            ours, theirs = pictures_of[key], entries_of[key]
            if len(ours) == len(theirs) == 1:
                matched.append((ours[0], theirs[0]))
            else:
                doubts.append(_doubt(ours, theirs))
        settled = set(shared)
        pictures = [picture for picture in pictures if rule(picture.name) not in settled]
        entries = [entry for entry in entries if rule(entry.name) not in settled]
    return matched, doubts


def _grouped(items: Sequence[_Named], rule: _Rule) -> dict[str, list[_Named]]:
    groups: dict[str, list[_Named]] = {}
    for item in items:
        groups.setdefault(rule(item.name), []).append(item)
    return groups


def _doubt(pictures: list[_Picture], entries: list[Entry]) -> str:
    images = _listed([entry.name for entry in entries])
    open_ones = _listed([picture.name for picture in pictures])
    return f"speaks of {images}; which is {open_ones} cannot be told by name; rename one of them."


def _nothing_matches(entries: list[Entry], pictures: list[_Picture]) -> str:
    names = [entry.name for entry in entries if entry.name]
    speaks = f"speaks of {_listed(names)}" if names else "names no image"
    return f"{speaks}, but open is {_listed([p.name for p in pictures])}; rename one to match."


def _listed(names: list[str]) -> str:
    """The first few names: "a.jpg, b.jpg, c.jpg and 12 more"."""
    first = ", ".join(shown(name, 40) or "an image without a name" for name in names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return f"{first} and {more:,} more" if more > 0 else first


# From the file's boxes to the picture's


def _objects(
    matched: list[tuple[_Picture, Entry]], parsed: Parsed, notes: list[str]
) -> dict[str, tuple[TruthBox, ...]]:
    """The objects of each matched picture; adds to the notes what was done to them.

    A picture whose objects cannot be used is left out with a note, unless it is the only one.
    """
    objects: dict[str, tuple[TruthBox, ...]] = {}
    counts: Counter[str] = Counter()
    refused: list[str] = []
    for picture, entry in matched:
        own_counts = Counter(entry.counts)
        try:
            factors = picture.size if parsed.fractions else _factors(entry.size, picture, notes)
            objects[picture.name] = _placed(entry, picture, factors, own_counts)
        except Unusable as error:
            refused.append(str(error))
        else:
            counts += own_counts
    if not objects:
        raise Unusable(refused[0])
    notes.extend(f"It {reason}" for reason in refused)
    notes.extend(_sentence(counts[kind], *words) for kind, words in _KINDS.items() if counts[kind])
    return objects


def _factors(
    size: tuple[float, float] | None, picture: _Picture, notes: list[str]
) -> tuple[float, float]:
    """What the file's x and y are multiplied by, from the size that it gives the image."""
    width, height = picture.size
    name = shown(picture.name)
    if size is None:
        notes.append(f"It gives no size for {name}; its boxes were taken as that picture's pixels.")
        return (1.0, 1.0)
    if size == picture.size:
        return (1.0, 1.0)
    if not _same_shape(size, picture.size):
        raise Unusable(
            f"says that {name} has {size[0]:g} x {size[1]:g} pixels, but it has {width} x {height} "
            "and another shape; give the annotations of this very picture."
        )
    notes.append(
        f"It gives {name} {size[0]:g} x {size[1]:g} pixels; its boxes were scaled to "
        f"{width} x {height}."
    )
    return (width / size[0], height / size[1])


def _same_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether one size is the other, scaled and rounded to whole pixels.

    Rounding is up to a pixel of the smaller one's sides; a shape that is more than 5% off is
    another one, however small that size is.
    """
    small, large = sorted((one, other))
    scale_x, scale_y = small[0] / large[0], small[1] / large[1]
    if not 0.95 <= scale_x / scale_y <= 1 / 0.95:
        return False
    return min(abs(large[0] * scale_y - small[0]), abs(large[1] * scale_x - small[1])) <= 1


def _placed(
    entry: Entry, picture: _Picture, factors: tuple[float, float], counts: Counter[str]
) -> tuple[TruthBox, ...]:
    """The entry's objects in the picture's pixels and inside it; counts those without area."""
    if len(entry.objects) > _FAR_TOO_MANY:
        raise _too_many(len(entry.objects), picture)
    boxes = []
    for category, (x1, y1, x2, y2) in entry.objects:
        scaled = (x1 * factors[0], y1 * factors[1], x2 * factors[0], y2 * factors[1])
        try:
            boxes.append(TruthBox(category, scaled))
        except TruthError:  # the name is clean, so it is the box: no area, or not finite
            continue
    kept = clip_truth(boxes, picture.size)
    if len(kept) > MAX_OBJECTS:
        raise _too_many(len(kept), picture)
    counts["no_area"] += len(entry.objects) - len(kept)
    return kept


_FAR_TOO_MANY = 10 * MAX_OBJECTS  # not looked at one by one


def _too_many(count: int, picture: _Picture) -> Unusable:
    return Unusable(
        f"gives {count:,} objects for {shown(picture.name)}; at most {MAX_OBJECTS} can be used, "
        "so keep those that matter."
    )


_KINDS: dict[str, tuple[str, str, str]] = {
    "difficult": ("object marked difficult", "objects marked difficult", "kept"),
    "crowd": ("crowd (a group as one area)", "crowds (groups as one area)", "left out"),
    "weak": (
        f"box with a score below {MIN_SCORE}",
        f"boxes with a score below {MIN_SCORE}",
        "left out",
    ),
    "nameless": (
        "box of a category without a name",
        "boxes of categories without a name",
        "left out",
    ),
    "no_area": (
        "box with less than 1 px a side inside the picture",
        "boxes with less than 1 px a side inside the picture",
        "left out",
    ),
}


def _sentence(count: int, one: str, many: str, fate: str) -> str:
    return f"1 {one} was {fate}." if count == 1 else f"{count:,} {many} were {fate}."
