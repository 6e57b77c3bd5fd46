"""What the objects of a data set have for anchors, before any network is trained on it.

Each photo is matched as training would match it (paper, section 4 "Anchors"); no network runs. An
object has a natural match when an anchor is foreground for it by its IoU alone.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch

from retinanet.analysis.coverage_suggestions import (
    ENOUGH,
    Suggestion,
    conclusion,
    suggest,
    usable_boxes,
)
from retinanet.analysis.ranking import worst_first
from retinanet.anchors import DEFAULT_SHAPE, AnchorShape
from retinanet.assignment import AssignmentTrace, assign_anchors, ignore_background_in
from retinanet.coco import CocoDataset, Photo
from retinanet.config import MatcherConfig, ModelConfig, _integer
from retinanet.coverage import object_coverage
from retinanet.images import ImageError, resize_boxes
from retinanet.layout import AnchorLayout, layout_of
from retinanet.types import LEVELS

SIZE_EDGES: tuple[float, ...] = (0, 8, 16, 32, 64, 128, 256, 512, float("inf"))
"""Object sizes are grouped by these: square root of the area, pixels of the resized photo."""

SAMPLE = 200
"""The photos on which other settings are tried."""

STATUSES: tuple[str, ...] = ("natural", "forced", "none")


@dataclass(frozen=True, eq=False)
class DatasetCoverage:
    """The anchors of a data set's objects.

    Args:
        photos: that were counted; `of_photos` the data set has.
        objects: in them; areas to ignore are none.
        counts: {"foreground", "ignored", "background"}: anchors, as training takes them (those in
            areas to ignore are ignored).
        levels: for P3..P7 {"level", "foreground", "ignored", "background" (anchors), "objects"
            (whose best anchor lies there), "natural", "forced", "none" (those objects by what
            they have), "image_ids" (of those objects, most without a natural match first)}.
        sizes: {"from", "to" (not included; None at the end), "objects", "natural", "forced",
            "none", "without" (forced + none), "share" (of the objects that have a natural match,
            None without objects), "image_ids" (likewise)}; size in `SIZE_EDGES`'s measure.
        natural: objects with a natural match.
        without: objects without one, ...
        without_share: ... as a share of all, nan without objects, ...
        without_image_ids: ... and their photos, those with most of them first.
        mean_foreground: foreground anchors an object, on average; nan without objects.
        suggestions: what would give more objects a natural match, the cheapest first.
        tried: every setting that was tried on the sample; none where 95% have a natural match.
        suggestion: the conclusion in a sentence or two.
        skipped: {"image_id", "file", "sentence"} of photos that no network here could take.
        cancelled: stopped early; the counts are those of the photos done.
    """

    photos: int
    of_photos: int
    objects: int
    counts: dict[str, int]
    levels: list[dict[str, Any]]
    sizes: list[dict[str, Any]]
    natural: int
    without: int
    without_share: float
    without_image_ids: tuple[int, ...]
    mean_foreground: float
    suggestions: list[Suggestion]
    tried: list[Suggestion]
    suggestion: str
    skipped: list[dict[str, Any]]
    cancelled: bool


def dataset_coverage(
    dataset: CocoDataset,
    model_config: ModelConfig,
    matcher: MatcherConfig | None = None,
    shape: AnchorShape = DEFAULT_SHAPE,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> DatasetCoverage:
    """Match every photo's anchors to its objects and say what would match more.

    Args:
        dataset: whose photos; their sizes are read from it, no file is opened.
        model_config: `min_size` and `max_size` are used.
        matcher: the bounds; the paper's by default.
        shape: which anchors lie at each location.
        limit: count so many photos, drawn by `seed`; None for all.
        seed: of the draw, also of the at most 200 photos on which other settings are tried.
        progress: called with (photos done, photos in all), the trials included.
        cancel: when set, what was counted so far is returned.

    Raises:
        ConfigError: a setting is outside its range.
    """
    if limit is not None:
        _integer("dataset_coverage", "limit", limit, 1)
    matcher, cancel = matcher or MatcherConfig(), cancel or threading.Event()
    photos = _drawn(dataset.photos, limit, seed)
    sample = _drawn(photos, SAMPLE, seed)
    total = len(photos) + len(sample)
    report = progress or (lambda done, total: None)
    sizes = (model_config.min_size, model_config.max_size)
    tally, done = _Tally(), 0
    for group, layout in _by_size(photos, sizes, shape):
        for photo in group:
            if cancel.is_set():
                break
            tally.add(photo, layout, matcher)
            done += 1
            report(done, total)
    tried: list[Suggestion] = []
    if not cancel.is_set() and tally.natural_share < ENOUGH:
        usable = [photo for photo in sample if photo.image_id not in tally.unusable]
        tried = suggest(
            usable, sizes, matcher, shape, lambda number: report(done + number, total), cancel
        )
    if not cancel.is_set():
        report(total, total)
    return tally.result(len(dataset.photos), tried, cancel.is_set())


def _drawn(photos: Sequence[Photo], limit: int | None, seed: int) -> list[Photo]:
    """All photos, or a seeded sample in their own order."""
    if limit is None or limit >= len(photos):
        return list(photos)
    chosen = sorted(random.Random(seed).sample(range(len(photos)), limit))  # noqa: S311
    return [photos[index] for index in chosen]


def _by_size(
    photos: Sequence[Photo], sizes: tuple[int, int], shape: AnchorShape
) -> Iterator[tuple[list[Photo], AnchorLayout | ImageError]]:
    """Photos of the same size with their layout: worked out once, one held at a time."""
    ordered = sorted(photos, key=lambda photo: (photo.height, photo.width))
    for size, group in groupby(ordered, key=lambda photo: (photo.height, photo.width)):
        yield list(group), _layout(size, sizes, shape)


def _layout(
    size: tuple[int, int], sizes: tuple[int, int], shape: AnchorShape
) -> AnchorLayout | ImageError:
    """Of a photo's (height, width), or why there can be none."""
    try:
        return layout_of(size, *sizes, shape)
    except ImageError as error:
        return error


class _Tally:
    """The counts so far: anchors by level and fate, and five numbers for each object."""

    def __init__(self) -> None:
        self.photos = 0
        self.anchors = np.zeros((len(LEVELS), 3), dtype=np.int64)
        self.skipped: list[dict[str, Any]] = []
        self.unusable: set[int] = set()
        self.rows: list[tuple[int, int, float, int, int]] = []

    def add(self, photo: Photo, layout: AnchorLayout | ImageError, matcher: MatcherConfig) -> None:
        if isinstance(layout, ImageError):
            entry = {"image_id": photo.image_id, "file": photo.path.name, "sentence": str(layout)}
            self.skipped.append(entry)
            self.unusable.add(photo.image_id)
            return
        self.photos += 1
        match = assign_anchors(layout, usable_boxes(photo), config=matcher)
        for level, counts in enumerate(_trained(match, layout, photo).values()):
            self.anchors[level] += list(counts.values())
        edges = match.gt_boxes[:, 2:] - match.gt_boxes[:, :2]
        sizes = edges.prod(dim=1).sqrt().tolist()
        for found, size in zip(object_coverage(match, layout), sizes, strict=True):
            level, status = LEVELS.index(found.best_level), STATUSES.index(found.status)
            self.rows.append((photo.image_id, level, size, status, found.num_foreground))

    @property
    def natural_share(self) -> float:
        """Of the objects so far, those with a natural match; 1 without objects."""
        natural = sum(status == 0 for *_, status, _ in self.rows)
        return natural / len(self.rows) if self.rows else 1.0

    def result(self, of_photos: int, tried: list[Suggestion], cancelled: bool) -> DatasetCoverage:
        columns = list(zip(*self.rows, strict=True)) or [()] * 5
        image_id, level, status, foreground = (
            np.array(columns[at], dtype=np.int64) for at in (0, 1, 3, 4)
        )
        size = np.array(columns[2], dtype=np.float64)
        objects, lacking = len(size), status > 0
        band = np.searchsorted(SIZE_EDGES, size, side="right") - 1
        natural = int((~lacking).sum())
        suggestions, sentence = conclusion(tried, natural, objects)
        levels = [
            {"level": name, **dict(zip(_FATES, self.anchors[row].tolist(), strict=True))}
            | _group(level == row, status, image_id)
            for row, name in enumerate(LEVELS)
        ]
        sums = self.anchors.sum(axis=0).tolist()
        return DatasetCoverage(
            photos=self.photos,
            of_photos=of_photos,
            objects=objects,
            counts=dict(zip(_FATES, sums, strict=True)),
            levels=levels,
            sizes=[_size_row(row, _group(band == row, status, image_id)) for row in _BANDS],
            natural=natural,
            without=objects - natural,
            without_share=(objects - natural) / objects if objects else float("nan"),
            without_image_ids=worst_first(image_id[lacking]),
            mean_foreground=float(foreground.mean()) if objects else float("nan"),
            suggestions=suggestions,
            tried=tried,
            suggestion=sentence,
            skipped=self.skipped,
            cancelled=cancelled,
        )


_FATES = ("foreground", "ignored", "background")
_BANDS = range(len(SIZE_EDGES) - 1)


def _trained(
    match: AssignmentTrace, layout: AnchorLayout, photo: Photo
) -> dict[str, dict[str, int]]:
    """Anchors of each level by fate, those in areas to ignore taken out of the background."""
    if not len(photo.target.ignore):
        return match.counts_per_level
    areas = resize_boxes(photo.target.ignore, layout.original_size, layout.image_size)
    matched = ignore_background_in(match.matched_idxs, torch.cat(layout.anchors), areas)
    return replace(match, matched_idxs=matched).counts_per_level


def _group(chosen: np.ndarray, status: np.ndarray, image_id: np.ndarray) -> dict[str, Any]:
    """Some objects by what they have, and their photos."""
    counts = np.bincount(status[chosen], minlength=len(STATUSES)).tolist()
    weights = (status[chosen] > 0).astype(np.float64)
    return {
        "objects": int(chosen.sum()),
        **dict(zip(STATUSES, counts, strict=True)),
        "image_ids": worst_first(image_id[chosen], weights),
    }


def _size_row(band: int, group: dict[str, Any]) -> dict[str, Any]:
    low, high = SIZE_EDGES[band], SIZE_EDGES[band + 1]
    objects = group["objects"]
    return {
        "from": int(low),
        "to": int(high) if np.isfinite(high) else None,
        **group,
        "without": objects - group["natural"],
        "share": group["natural"] / objects if objects else None,
    }
