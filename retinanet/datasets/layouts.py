"""Which of the usual layouts a data set has, and which files are which split.

Told by names and by the first bytes of JSON files. Paths that a data set's own files give (the
`train:` of a data.yaml) are not followed: what is not beside them does not belong to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from retinanet.coco import DatasetError
from retinanet.datasets.listing import Listing, join, parent, stem
from retinanet.truth import shown
from retinanet.truth_formats import Unusable, decode

ALL = "all"
"""The split of a data set that has one only."""

_HEAD = 65_536  # bytes of a JSON file in which it must show that it is COCO's
_MAX_LIST = 50_000_000  # bytes of a VOC list of images
_COCO = re.compile(rb'"(?:images|annotations)"\s*:\s*\[')
_NOT_INSTANCES = ("captions", "panoptic", "stuff", "image_info", "person_keypoints")
_ALIASES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_ORDER = ("train", "val", "test")
_PLAIN_NAMES = frozenset(
    ("", "annotations", "annotation", "instances", "labels", "xml", "xmls", "images", "coco")
)


class Pair(NamedTuple):
    """A photo with its annotations, each by its name.

    image: "" where only the annotation file can tell. annotation: "" for a photo that has none,
    which in YOLO's layout says that nothing is there. folders: where the photo may lie.
    """

    image: str
    annotation: str
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How a data set lies.

    Args:
        kind: "coco", "voc" or "yolo".
        splits: by split, train, val and test first: the name of a JSON file for "coco", else
            pairs.
        notes: what was left aside, one sentence each.
    """

    kind: str
    splits: Mapping[str, str | tuple[Pair, ...]]
    notes: list[str] = field(default_factory=list)

    def chosen(self, split: str | None) -> str:
        """The split of a name, by any of its usual names; the first by default.

        Raises:
            DatasetError: there is none.
        """
        if split is None:
            return next(iter(self.splits))
        for name in (split, _ALIASES.get(split.lower(), "")):
            if name in self.splits:
                return name
        raise DatasetError(
            f"There is no split {shown(split)!r}; there is {', '.join(map(shown, self.splits))}."
        )


def find_layout(listing: Listing) -> Layout:
    """The layout of a data set: COCO's where there is instances JSON, then VOC's, then YOLO's.

    Raises:
        DatasetError: it is none of them.
    """
    layout = _coco(listing) or _voc(listing) or _yolo(listing)
    if layout is None:
        raise DatasetError(
            f"No annotations were found beside the {len(listing.images()):,} images; give COCO "
            "instances JSON, Pascal VOC's Annotations/*.xml or YOLO's labels/*.txt."
        )
    return layout


# Names of splits


def split_names(raw: Mapping[str, str]) -> dict[str, str]:
    """A name for each split from what its file or folder is called, "train2017" for "train".

    Args:
        raw: {a unique name (a path): what it is called}.

    Returns:
        {the same unique name: split}, in the order train, val, test, then by name; "all" where
        there is one only, and the whole path where two would be called the same.
    """
    if len(raw) == 1:
        return dict.fromkeys(raw, ALL)
    names = {path: _plain(called) for path, called in raw.items()}
    for candidate in (raw, {path: path.replace("/", "-") for path in raw}):
        often = Counter(names.values())
        names = {p: n if often[n] == 1 and n else candidate[p] or ALL for p, n in names.items()}
    rank = {name: place for place, name in enumerate(_ORDER)}
    return dict(sorted(names.items(), key=lambda item: (rank.get(item[1], len(rank)), item[1])))


def _plain(called: str) -> str:
    """The usual name of a split: "train" for "train2017" or "my_train_set"; else as it is."""
    words = re.split(r"[_\-. ]+", re.sub(r"(?<!\d)(?:19|20)\d\d(?!\d)", "", called.lower()))
    known = {_ALIASES[word] for word in words if word in _ALIASES}
    return known.pop() if len(known) == 1 else called


# COCO


def _coco(listing: Listing) -> Layout | None:
    found = [name for name in listing.with_suffix(".json") if _is_instances(listing, name)]
    # A COCO folder has captions and keypoints beside the instances.
    found = [name for name in found if stem(name).startswith("instances")] or found
    if not found:
        return None
    raw = {name: _coco_called(name) for name in found}
    return Layout("coco", {split: name for name, split in split_names(raw).items()})


def _is_instances(listing: Listing, name: str) -> bool:
    if stem(name).startswith(_NOT_INSTANCES):
        return False
    head = listing.read(name, _HEAD)
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and bool(_COCO.search(head))


def _coco_called(name: str) -> str:
    """What a JSON file's split is called: by the file, or by its folder (Roboflow's layout)."""
    called = re.sub(r"^_?(?:instances|annotations)(?:\.coco)?[_.-]?", "", stem(name))
    return called if called.lower() not in _PLAIN_NAMES else _last(parent(name))


# Pascal VOC


def _voc(listing: Listing) -> Layout | None:
    groups: dict[str, list[str]] = {}
    for name in listing.with_suffix(".xml"):
        groups.setdefault(parent(name), []).append(name)
    if not groups:
        return None
    index = image_index(listing.images())
    texts: dict[str, list[str]] = {}
    for name in listing.with_suffix(".txt"):
        texts.setdefault(parent(name), []).append(name)
    raw: dict[str, str] = {}
    pairs: dict[str, tuple[Pair, ...]] = {}
    for folder, names in groups.items():
        base = folder if _last(folder).lower() not in _PLAIN_NAMES else parent(folder)
        folders = tuple(
            dict.fromkeys(
                (folder, *(join(base, part) for part in ("JPEGImages", "images", "Images", "")))
            )
        )
        own = {stem(name): _voc_pair(name, folders, index) for name in names}
        lists = _voc_lists(listing, texts, base)
        prefix = f"{_last(base)}-" if len(groups) > 1 else ""
        if not lists:
            raw[folder], pairs[folder] = _last(base), tuple(own.values())
        for called, stems in lists.items():
            key = join(base, "ImageSets", called)
            chosen = tuple(own[one] for one in stems if one in own)
            if chosen:
                raw[key], pairs[key] = f"{prefix}{called}", chosen
    return Layout("voc", {split: pairs[key] for key, split in split_names(raw).items()})


def _voc_pair(name: str, folders: tuple[str, ...], index: Mapping[str, str]) -> Pair:
    places = (index.get(join(folder, stem(name)).casefold(), "") for folder in folders)
    return Pair(next(filter(None, places), ""), name, folders)


def _voc_lists(
    listing: Listing, texts: Mapping[str, Sequence[str]], base: str
) -> dict[str, list[str]]:
    """{name of a list: stems of its images}, without the lists of single classes.

    Args:
        listing: to read from.
        texts: {folder: names of its text files}.
        base: the folder that holds ImageSets.
    """
    lists = {}
    for place in (join(base, "ImageSets", "Main"), join(base, "ImageSets")):
        for name in texts.get(place, ()):
            lines = _lines(listing.read(name, _MAX_LIST))
            # A list for one class says in a second column whether the image shows it.
            if lines and all(len(line) == 1 for line in lines):
                lists[stem(name)] = list(dict.fromkeys(line[0] for line in lines))
        if lists:
            break
    return lists


def _lines(data: bytes) -> list[list[str]]:
    try:
        return [columns for line in decode(data).splitlines() if (columns := line.split())]
    except Unusable:
        return []


# YOLO


def _yolo(listing: Listing) -> Layout | None:
    labels = set(listing.with_suffix(".txt"))
    groups: dict[str, list[Pair]] = {}
    for image in listing.images():
        label = _label_name(image)
        pair = Pair(image, label if label in labels else "")
        groups.setdefault(parent(image), []).append(pair)
    labelled = {k: pairs for k, pairs in groups.items() if any(pair.annotation for pair in pairs)}
    if not labelled:
        return None
    splits: dict[str, list[Pair]] = {}
    for folder, pairs in labelled.items():
        splits.setdefault(_yolo_called(folder), []).extend(pairs)
    names = split_names({called: called for called in splits})
    notes = [
        f"{shown(folder) or 'The top folder'} has {len(pairs):,} images and no labels; it was "
        "left aside."
        for folder, pairs in groups.items()
        if folder not in labelled
    ]
    found = {split: tuple(splits[called]) for called, split in names.items()}
    return Layout("yolo", found, notes[:5])


def _label_name(image: str) -> str:
    """Where a photo's labels lie: "labels" for the last "images" in its path, or beside it."""
    parts = parent(image).split("/")
    for place in range(len(parts) - 1, -1, -1):
        if parts[place].lower() == "images":
            parts[place] = "labels"
            break
    return join(*parts, f"{stem(image)}.txt")


def _yolo_called(folder: str) -> str:
    """The split of a folder of photos: what follows "images", else what stands before it."""
    parts = folder.split("/")
    lower = [part.lower() for part in parts]
    if "images" not in lower:
        return parts[-1]
    place = len(lower) - 1 - lower[::-1].index("images")
    after, before = parts[place + 1 :], parts[:place]
    return (after or before[-1:] or [""])[0]


def image_index(images: Iterable[str]) -> dict[str, str]:
    """{name without its ending, in small letters: name}, and the same with it."""
    index: dict[str, str] = {}
    for name in images:
        index.setdefault(name.casefold(), name)
        index.setdefault(join(parent(name), stem(name)).casefold(), name)
    return index


def _last(folder: str) -> str:
    return folder.rpartition("/")[2]
