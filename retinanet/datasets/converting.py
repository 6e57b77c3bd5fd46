"""Pascal VOC and YOLO to COCO instances, one file a split, with the same categories in each.

The annotation files are read by `truth_formats`, which takes them as hostile.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import PIL.Image

from retinanet.coco import DatasetError
from retinanet.datasets.layouts import Layout, Pair, image_index
from retinanet.datasets.listing import Listing, join, stem
from retinanet.images import FORMATS, MAX_PIXELS
from retinanet.single_flight import Cancelled
from retinanet.truth import coco_names, coco_spelling, shown
from retinanet.truth_class_names import read_class_names
from retinanet.truth_formats import Entry, TruthFileError, Unusable, decode, parse

_FORMATS = {"voc": "Pascal VOC XML", "yolo": "YOLO txt"}
_MAX_FILE = 4_000_000  # bytes of one image's annotations; `truth_formats` limits their characters
_MAX_CLASSES = 1000  # without a class list: more numbers are no class numbers
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


class _Photo(NamedTuple):
    """A photo that can be used: its name, its upright (width, height), and what is in it."""

    image: str
    size: tuple[int, int]
    entry: Entry


@dataclass
class _Left:
    """What conversion left out or found, for the notes."""

    refused: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def convert(
    layout: Layout,
    listing: Listing,
    folder: Path,
    work_folder: Path,
    *,
    class_names: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> tuple[dict[str, Path], list[str]]:
    """Write COCO instances for each split of a VOC or YOLO data set.

    Boxes are not clipped, so that `check_dataset` sees them as they were drawn. A photo whose
    annotations cannot be used is left out, with a note; so is one that has another size than they
    say.

    Args:
        layout: "voc" or "yolo".
        listing: of `folder`.
        folder: that image names become relative to.
        work_folder: gets `instances_<split>.json`; made when missing.
        class_names: YOLO's by class number, or VOC's that are wanted; found in the data set, or
            taken from it, by default.
        progress: called with (photos done, photos in all).
        cancel: when set, nothing more is written.

    Returns:
        {split: its file}, and notes.

    Raises:
        DatasetError: nothing in it can be used, or `work_folder` is another data set's or cannot
            be written.
        Cancelled: `cancel` was set.
    """
    left = _Left()
    pairs = sorted({pair for split in layout.splits.values() for pair in split})
    names, notes = _class_names(layout, listing, pairs, class_names)
    index = image_index(listing.images())
    photos: dict[Pair, _Photo] = {}
    for done, pair in enumerate(pairs, start=1):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        try:
            photo = _read(pair, layout.kind, listing, folder, names, index, left)
        except Unusable as error:
            left.refused.append(f"{shown(pair.annotation or pair.image)} {error}")
        else:
            if photo is not None:
                photos[pair] = photo
        if progress is not None:
            progress(done, len(pairs))
    if not photos:
        raise DatasetError(_nothing(left))
    categories = _categories(layout.kind, photos.values(), names)
    files = _write(layout, photos, categories, folder, work_folder)
    return files, [*notes, *layout.notes, *_notes(layout.kind, photos, categories, left)]


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture turned as its EXIF tag asks, from its header only.

    Raises:
        Unusable: it has none that can be read.
    """
    try:
        with PIL.Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112) in _TURNED
    except (
        *(OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, RuntimeError),
        *(AttributeError, EOFError, struct.error, PIL.Image.DecompressionBombError),
    ) as error:
        raise Unusable("has an image that cannot be read; save it anew.") from error
    if not 0 < width * height <= MAX_PIXELS:
        raise Unusable(
            f"has an image of {width:,} x {height:,} pixels, above the limit of "
            f"{MAX_PIXELS:,}; make it smaller."
        )
    return (height, width) if turned else (width, height)


# Class names


def _class_names(
    layout: Layout, listing: Listing, pairs: Sequence[Pair], given: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Names by class number for YOLO, the wanted names (or none) for VOC; and notes."""
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise DatasetError("The class names must be a list of names, in the order of the classes.")
    spelled = tuple(map(coco_spelling, given))
    if not all(spelled):
        raise DatasetError("One of the class names is empty; give each class a name.")
    if spelled or layout.kind != "yolo":
        return spelled, []
    name, found = _class_list(listing)
    if found:
        return found, [f"Its class names are those of {shown(name)}."]
    count = 1 + max((_highest(listing, pair) for pair in pairs if pair.annotation), default=0)
    return tuple(f"class {number}" for number in range(count)), [
        "It has no class list (data.yaml or classes.txt), so its classes are called by their "
        "numbers; give their names if you know them."
    ]


def _class_list(listing: Listing) -> tuple[str, tuple[str, ...]]:
    """The name of the uppermost class list and its names; "" and () where there is none."""
    named = [n for n in listing.names if PurePosixPath(n).name.lower() == "classes.txt"]
    found = [*listing.with_suffix(".yaml", ".yml"), *named, *listing.with_suffix(".names")]
    fault = ""
    for name in sorted(found, key=lambda name: name.count("/")):
        try:
            return name, read_class_names(listing.read(name, _MAX_FILE))
        except TruthFileError as error:
            fault = fault or f"{shown(name)}: {error}"
    if fault:
        raise DatasetError(fault)
    return "", ()


def _highest(listing: Listing, pair: Pair) -> int:
    """The highest class number in a YOLO txt, -1 for none; what is no number is found later."""
    lines = listing.read(pair.annotation, _MAX_FILE).splitlines()
    firsts = [columns[0] for line in lines if (columns := line.split(maxsplit=1))]
    numbers = [int(first) for first in firsts if first.isdigit() and len(first) < 6]
    return max((number for number in numbers if number < _MAX_CLASSES), default=-1)


# One photo


def _read(
    pair: Pair,
    kind: str,
    listing: Listing,
    folder: Path,
    names: tuple[str, ...],
    index: Mapping[str, str],
    left: _Left,
) -> _Photo | None:
    """A photo and its objects; None, counted in `left`, where there is no photo.

    Raises:
        Unusable: its annotations or its picture are not.
    """
    entry = Entry("", None)
    if pair.annotation:
        parsed = parse(decode(listing.read(pair.annotation, _MAX_FILE)), names)
        if parsed.format != _FORMATS[kind]:
            raise Unusable(f"is {parsed.format}, not {_FORMATS[kind]}; leave it out.")
        entry = parsed.entries[0]
    image = pair.image or _named(entry.name, pair, index)
    if not image:
        left.without_image.append(pair.annotation)
        return None
    size = upright_size(folder / image)
    if kind == "yolo":
        width, height = size
        entry = Entry(
            "",
            None,
            [
                (n, (a * width, b * height, c * width, d * height))
                for n, (a, b, c, d) in entry.objects
            ],
            entry.counts,
        )
    elif entry.size not in (None, size):
        raise Unusable(
            f"says {entry.size[0]:g} x {entry.size[1]:g} pixels, but upright its image has "
            f"{size[0]} x {size[1]}; annotate this very image."
        )
    elif names:
        others = sum(name not in names for name, _ in entry.objects)
        left.counts["other"] += others
        kept = [(name, box) for name, box in entry.objects if name in names]
        entry = Entry("", None, kept, entry.counts)
    left.counts += entry.counts
    return _Photo(image, size, entry)


def _named(given: str, pair: Pair, index: Mapping[str, str]) -> str:
    """The image that an annotation file names, "" where there is none.

    Raises:
        DatasetError: the name leads out of the data set.
    """
    parts = given.replace("\\", "/").split("/")
    if ".." in parts or given.startswith(("/", "\\")) or ":" in parts[0]:
        raise DatasetError(
            f"{shown(pair.annotation)} names the image {shown(given)!r}, which leads out of the "
            "data set; it was not opened. Give the image the name of its annotation file."
        )
    last = parts[-1]
    places = (
        index.get(join(folder, name).casefold(), "")
        for folder in pair.folders
        for name in (last, stem(last) if last else "")
        if name
    )
    return next(filter(None, places), "")


# Writing


def _categories(kind: str, photos: Iterable[_Photo], names: tuple[str, ...]) -> tuple[str, ...]:
    """By class number where there are numbers, else by name."""
    if names:
        return tuple(dict.fromkeys(names))  # two spellings of one class are one
    return tuple(sorted({name for photo in photos for name, _ in photo.entry.objects}))


def _write(
    layout: Layout,
    photos: Mapping[Pair, _Photo],
    categories: tuple[str, ...],
    folder: Path,
    work_folder: Path,
) -> dict[str, Path]:
    ids = {image: n for n, image in enumerate(sorted({p.image for p in photos.values()}), 1)}
    source = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    files: dict[str, Path] = {}
    try:
        work_folder.mkdir(parents=True, exist_ok=True)
        for split, pairs in layout.splits.items():
            usable = {photos[pair].image: photos[pair] for pair in pairs if pair in photos}
            if usable:
                path = work_folder / f"instances_{split}.json"
                _check_own(path, source)
                info = {"description": f"Converted from {_FORMATS[layout.kind]}."}
                data = {"info": info | {"source": source}, **_coco(usable, ids, categories)}
                unfinished = path.with_suffix(".part")
                unfinished.write_text(json.dumps(data), encoding="utf-8")
                unfinished.replace(path)
                files[split] = path
    except OSError as error:
        raise DatasetError(
            f"{work_folder} cannot be written: {error.strerror}; name another folder."
        ) from error
    return files


def _check_own(path: Path, source: str) -> None:
    """Refuse to replace a file that was not converted from this data set."""
    if not path.exists():
        return
    try:
        own = json.loads(path.read_text(encoding="utf-8"))["info"]["source"] == source
    except (ValueError, LookupError, TypeError, RecursionError):
        own = False
    if not own:
        raise DatasetError(
            f"{path} belongs to another data set and would be overwritten; name another work "
            "folder."
        )


def _coco(
    photos: Mapping[str, _Photo], ids: Mapping[str, int], categories: tuple[str, ...]
) -> dict[str, Any]:
    """COCO instances; ids of categories begin at 1, and an image has one id in every split."""
    category_ids = {name: number for number, name in enumerate(categories, 1)}
    annotations: list[dict[str, Any]] = []
    for photo in photos.values():
        for name, (x1, y1, x2, y2) in photo.entry.objects:
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": ids[photo.image],
                    "category_id": category_ids[name],
                    "bbox": [round(edge, 4) for edge in (x1, y1, width, height)],
                    "area": round(width * height, 4),
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": ids[p.image], "file_name": p.image, "width": p.size[0], "height": p.size[1]}
            for p in photos.values()
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
    }


# What people are told


def _nothing(left: _Left) -> str:
    if left.refused:
        return f"No photo can be used. The first: {left.refused[0]}"
    return (
        f"None of the {len(left.without_image):,} annotation files has its image beside it; put "
        "the images into JPEGImages or images, under the names of their annotation files."
    )


def _notes(
    kind: str, photos: Mapping[Pair, _Photo], categories: tuple[str, ...], left: _Left
) -> list[str]:
    boxes = sum(len(photo.entry.objects) for photo in photos.values())
    notes = [
        f"Converted from {_FORMATS[kind]}: {_count(len(photos), 'photo')}, "
        f"{_count(boxes, 'box', 'boxes')}, {_count(len(categories), 'class', 'classes')} in all "
        "splits."
    ]
    if left.refused:
        notes.append(f"{_count(len(left.refused), 'photo')} left out; the first: {left.refused[0]}")
    if left.without_image:
        files = _count(len(left.without_image), "annotation file")
        notes.append(
            f"{files} without an image left out, for example {shown(left.without_image[0])}."
        )
    bare = sum(not pair.annotation for pair in photos)
    if bare:
        notes.append(f"{_count(bare, 'photo')} without a label file: nothing is in them.")
    notes += [
        f"{_count(left.counts[key], 'box', 'boxes')} {words}"
        for key, words in _KINDS.items()
        if left.counts[key]
    ]
    if set(categories) & set(coco_names().values()):
        notes.append("Classes that are COCO's have COCO's names.")
    return notes


_KINDS = {
    "difficult": "marked difficult kept as ordinary objects.",
    "weak": "with a score below 0.5 left out.",
    "nameless": "without a class name left out.",
    "other": "of classes that were not asked for left out.",
}


def _count(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
