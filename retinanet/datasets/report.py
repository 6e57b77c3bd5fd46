"""The report on a data set: plain data, and how it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

MAX_FINDINGS = 1000
"""Findings of a kind that are kept; all are counted."""

MAX_BOXES = 20_000
"""Boxes whose sides are kept, evenly thinned out; all are counted."""

SMALL, MEDIUM = 32.0**2, 96.0**2
"""COCO's borders in square pixels: below, a box is small; below, it is medium; else large."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        kind: of `KINDS`.
        file: the photo's file name, "" where there is none.
        detail: a few words.
        image_id: of the photo, None where the data set has none such.
    """

    kind: str
    file: str
    detail: str
    image_id: int | None = None

    KINDS: ClassVar[dict[str, tuple[str, str, str]]] = {
        "unreadable": (
            "photo cannot be read",
            "photos cannot be read",
            "training stops there; replace or remove them",
        ),
        "size_differs": (
            "photo has another size than its annotations say",
            "photos have another size than their annotations say",
            "training stops there; correct the sizes, or turn the files and their boxes",
        ),
        "missing_file": (
            "image of the annotations is not there",
            "images of the annotations are not there",
            "left out with their boxes",
        ),
        "unknown_image": (
            "annotation is of an image that is not listed",
            "annotations are of images that are not listed",
            "left out",
        ),
        "unknown_category": (
            "box is of a category that is not listed",
            "boxes are of categories that are not listed",
            "left out",
        ),
        "degenerate_box": ("box has no area", "boxes have no area", "left out"),
        "box_outside": (
            "box lies wholly outside its photo",
            "boxes lie wholly outside their photos",
            "left out",
        ),
        "box_cut": (
            "box leads more than a pixel out of its photo",
            "boxes lead more than a pixel out of their photos",
            "cut at the edge",
        ),
        "duplicate_image": (
            "photo has the same bytes as another",
            "photos have the same bytes as others",
            "they count twice, and in two splits they spoil the measure",
        ),
        "duplicate_box": (
            "box is there twice",
            "boxes are there twice",
            "same photo, class and corners; one of the two will count as missed",
        ),
        "ignored_area": (
            "area is to be ignored",
            "areas are to be ignored",
            "crowds and weak labels: neither object nor background",
        ),
        "no_objects": ("photo has no object", "photos have no object", "all of it is background"),
    }
    """Worst first: words for one, words for many, and what follows from it."""


@dataclass(frozen=True)
class DatasetReport:
    """What a data set is made of and what is wrong with it. Boxes are as training sees them.

    Args:
        photos: that can be used.
        boxes: objects to learn, without areas to ignore.
        counts: of every kind of finding, all of them.
        findings: the first `MAX_FINDINGS` of every kind.
        objects_per_class, photos_per_class: by class name, in order of the labels.
        sizes: boxes that are "small" (below 32 x 32 px), "medium" (below 96 x 96) and "large", by
            the area of the box; COCO's AP goes by the annotation's area, which is that of the
            outline where there is one.
        box_widths, box_heights: pixels of the photo.
        box_labels: their classes.
        box_every: of so many boxes one is in these three, 1 where all are.
    """

    photos: int
    boxes: int
    counts: Mapping[str, int]
    findings: Mapping[str, tuple[Finding, ...]]
    objects_per_class: Mapping[str, int]
    photos_per_class: Mapping[str, int]
    sizes: Mapping[str, int]
    box_widths: tuple[float, ...]
    box_heights: tuple[float, ...]
    box_labels: tuple[int, ...]
    box_every: int = 1

    @property
    def imbalance(self) -> float | None:
        """Objects of the most frequent class for each of the rarest that occurs; None for none."""
        there = [count for count in self.objects_per_class.values() if count]
        return max(there) / min(there) if there else None

    @property
    def classes_without_objects(self) -> tuple[str, ...]:
        """Names of classes that do not occur."""
        return tuple(name for name, count in self.objects_per_class.items() if not count)

    @property
    def aspect_ratios(self) -> tuple[float, ...]:
        """Height to width of the kept boxes, the ratio of the anchors (paper, section 4)."""
        return tuple(h / w for w, h in zip(self.box_widths, self.box_heights, strict=True))

    def sentences(self) -> tuple[str, ...]:
        """What a person should know, worst first; the last ones say what the data set is."""
        found = [self._finding_sentence(kind) for kind in Finding.KINDS if self.counts[kind]]
        return (*found, *self._class_sentences(), *self._size_sentences())

    def rows(self) -> list[dict[str, Any]]:
        """The kept findings, worst first: {"kind", "file", "detail", "image_id"}."""
        return [
            {"kind": one.kind, "file": one.file, "detail": one.detail, "image_id": one.image_id}
            for kind in Finding.KINDS
            for one in self.findings[kind]
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("counts", "objects_per_class", "photos_per_class", "sizes"):
            plain[name] = dict(plain[name])
        for name in ("box_widths", "box_heights", "box_labels"):
            plain[name] = list(plain[name])
        found = self.rows()
        plain["findings"] = {
            kind: [row for row in found if row["kind"] == kind] for kind in Finding.KINDS
        }
        return plain | {"imbalance": self.imbalance, "sentences": list(self.sentences())}

    def _finding_sentence(self, kind: str) -> str:
        one, many, what = Finding.KINDS[kind]
        count = self.counts[kind]
        example = next((f.file for f in self.findings[kind] if f.file), "")
        shown = f" (for example {example})" if example else ""
        return f"{count:,} {one if count == 1 else many}{shown}: {what}."

    def _class_sentences(self) -> list[str]:
        if not self.boxes:
            return ["It has no object at all, so there is nothing to learn."]
        sentences = []
        empty = self.classes_without_objects
        if empty:
            names = ", ".join(empty[:5]) + (f" and {len(empty) - 5:,} more" if empty[5:] else "")
            number = "1 class has" if len(empty) == 1 else f"{len(empty):,} classes have"
            sentences.append(f"{number} no object: {names}.")
        there = {name: count for name, count in self.objects_per_class.items() if count}
        most, least = max(there, key=there.__getitem__), min(there, key=there.__getitem__)
        if most != least:
            sentences.append(
                f"{most} occurs most ({there[most]:,} objects), {least} least "
                f"({there[least]:,}): {ratio_text(there[most] / there[least])}."
            )
        return sentences

    def _size_sentences(self) -> list[str]:
        photos = "1 photo" if self.photos == 1 else f"{self.photos:,} photos"
        boxes = "1 object" if self.boxes == 1 else f"{self.boxes:,} objects"
        sizes = ", ".join(f"{count:,} {name}" for name, count in self.sizes.items())
        return [f"{photos} with {boxes} of {len(self.objects_per_class):,} classes: {sizes}."]


def size_name(area: float) -> str:
    """COCO's word for an area in square pixels: "small", "medium" or "large"."""
    return "small" if area < SMALL else "medium" if area < MEDIUM else "large"


def ratio_text(ratio: float) -> str:
    """A ratio as "12 : 1", with a decimal below ten."""
    return f"{ratio:.1f} : 1" if ratio < 9.95 else f"{ratio:,.0f} : 1"
