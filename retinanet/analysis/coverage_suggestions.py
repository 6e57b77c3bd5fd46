"""Which other setting would give more objects a natural match, tried by counting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch

from retinanet.anchors import MOST_ASPECT_RATIOS, MOST_SCALES, AnchorShape
from retinanet.assignment import best_matches
from retinanet.coco import Photo
from retinanet.config import MatcherConfig
from retinanet.coverage import LARGEST_MAX_SIZE, scaled_max_size
from retinanet.images import ImageError, resize_boxes
from retinanet.layout import layout_of

Setting = Literal["fg_iou_thresh", "min_size", "scales", "aspect_ratios"]

ENOUGH = 0.95
"""A share of objects with a natural match that needs no remedy."""

WORTH = 0.01
"""A smaller gain in the share is not suggested."""

INPUT_SIZES: tuple[int, ...] = (
    *(64, 96, 128, 160, 192, 256, 320),
    *(400, 512, 640, 800, 1024, 1280),
)
SIZE_FACTORS: tuple[float, float] = (0.4, 2.6)
SCALES: tuple[float, ...] = (0.25, 0.5, 0.7, 0.8, 2.0)
RATIOS: tuple[float, ...] = (0.2, 0.25, 1 / 3, 3.0, 4.0, 5.0)
BOUNDS: tuple[float, ...] = (0.45, 0.4, 0.35, 0.3)
"""Values that are tried, input sizes within these factors of the present one."""


@dataclass(frozen=True)
class Suggestion:
    """One setting changed alone, and what it would give on the sample.

    Args:
        setting: a field of `MatcherConfig`, `ModelConfig` or `AnchorShape`; for the last two kinds
            `value` is one more scale or ratio.
        value: what it would be.
        now: the present value; None for one more.
        share: of the sample's objects that would have a natural match, 0 to 1.
        share_now: that have one.
        objects: in the sample.
        anchors: anchors for each one now, ...
        pixels: ... and pixels of the padded input for each one now: what the network costs.
        max_size: the `max_size` that goes with another `min_size`; None for other settings.
        sentence: the same in words.
    """

    setting: Setting
    value: float
    now: float | None
    share: float
    share_now: float
    objects: int
    anchors: float
    pixels: float
    max_size: int | None
    sentence: str


@dataclass(frozen=True)
class _Trial:
    """One setting: what anchors it makes or adds, and the bound that they must reach.

    Args:
        adds: its anchors come on top of the present ones.
    """

    setting: Setting
    value: float
    sizes: tuple[int, int]
    shape: AnchorShape
    bound: float
    adds: bool = False


def suggest(
    photos: Sequence[Photo],
    sizes: tuple[int, int],
    matcher: MatcherConfig,
    shape: AnchorShape,
    report: Callable[[int], None],
    cancel: threading.Event,
) -> list[Suggestion]:
    """Count what each setting would give on a sample.

    An anchor's best object does not depend on other anchors, so for one more scale or ratio only
    its own anchors are matched, and other bounds read the IoUs that are known.

    Args:
        photos: the sample, of usable sizes.
        sizes: the present `min_size` and `max_size`.
        matcher: the present bounds.
        shape: the present anchors.
        report: called with the number of photos done.
        cancel: when set, nothing is suggested.

    Returns:
        Every setting tried, in no particular order; [] without objects.
    """
    counter = _Counter(sizes, matcher, shape)
    ordered = sorted(photos, key=lambda photo: (photo.height, photo.width))
    done = 0
    for size, group in groupby(ordered, key=lambda photo: (photo.height, photo.width)):
        own = list(group)
        for part in range(0, len(own), _TOGETHER):
            if cancel.is_set():
                return []
            counter.add(size, own[part : part + _TOGETHER])
            done += len(own[part : part + _TOGETHER])
            report(done)
    return counter.suggestions()


_TOGETHER = 16
"""Photos for which a layout is kept: the layouts of all trials would be large at once."""


class _Counter:
    """Objects with a natural match under each trial, and what the trial costs."""

    def __init__(self, sizes: tuple[int, int], matcher: MatcherConfig, shape: AnchorShape) -> None:
        bound = matcher.fg_iou_thresh
        self.now = _Trial("fg_iou_thresh", bound, sizes, shape, bound)
        self.trials = list(_trials(self.now))
        self.reached = dict.fromkeys((self.now, *self.trials), 0)
        self.anchors = dict.fromkeys((self.now, *self.trials), 0)
        self.pixels = dict.fromkeys((self.now, *self.trials), 0)
        self.objects = 0

    def add(self, size: tuple[int, int], photos: Sequence[Photo]) -> None:
        """Count some photos of one size, (height, width)."""
        boxes = [usable_boxes(photo) for photo in photos]
        self.objects += sum(map(len, boxes))
        best: dict[tuple[tuple[int, int], AnchorShape], list[torch.Tensor]] = {}
        costs: dict[tuple[tuple[int, int], AnchorShape], tuple[int, int]] = {}
        for trial in (self.now, *self.trials):
            key = (trial.sizes, trial.shape)
            if key not in best:
                best[key], costs[key] = _natural_ious(size, boxes, *key)
            own, (anchors, pixels) = best[key], costs[key]
            if trial.adds:
                present = best[self.now.sizes, self.now.shape]
                own = [torch.maximum(a, b) for a, b in zip(own, present, strict=True)]
                anchors += costs[self.now.sizes, self.now.shape][0]
            self.reached[trial] += sum(int((iou >= trial.bound).sum()) for iou in own)
            self.anchors[trial] += anchors * len(photos)
            self.pixels[trial] += pixels * len(photos)

    def suggestions(self) -> list[Suggestion]:
        if not self.objects:
            return []
        return [self._suggestion(trial) for trial in self.trials]

    def _suggestion(self, trial: _Trial) -> Suggestion:
        share, share_now = (self.reached[t] / self.objects for t in (trial, self.now))
        anchors = self.anchors[trial] / max(1, self.anchors[self.now])
        pixels = self.pixels[trial] / max(1, self.pixels[self.now])
        present = {"fg_iou_thresh": self.now.value, "min_size": self.now.sizes[0]}
        now = present.get(trial.setting)
        max_size = trial.sizes[1] if trial.setting == "min_size" else None
        words = _words(trial, now, share, share_now, anchors, pixels)
        return Suggestion(
            trial.setting,
            trial.value,
            now,
            share,
            share_now,
            self.objects,
            anchors,
            pixels,
            max_size,
            words,
        )


def _trials(now: _Trial) -> Iterator[_Trial]:
    """Each setting changed alone."""
    for bound in BOUNDS:
        if bound < now.bound:
            yield replace(now, value=bound, bound=bound)
    low, high = SIZE_FACTORS
    for size in INPUT_SIZES:
        largest = scaled_max_size(*now.sizes, size)
        factor = size / now.sizes[0]
        if low <= factor <= high and factor != 1 and largest <= LARGEST_MAX_SIZE:
            yield replace(now, setting="min_size", value=size, sizes=(size, largest))
    scales, ratios = now.shape.scales, now.shape.aspect_ratios
    for scale in SCALES if len(scales) < MOST_SCALES else ():
        if not _is_like(scale, scales):
            added = replace(now.shape, scales=(scale,))
            yield replace(now, setting="scales", value=scale, shape=added, adds=True)
    for ratio in RATIOS if len(ratios) < MOST_ASPECT_RATIOS else ():
        if not _is_like(ratio, ratios):
            added = replace(now.shape, aspect_ratios=(ratio,))
            yield replace(now, setting="aspect_ratios", value=ratio, shape=added, adds=True)


def _is_like(value: float, others: Sequence[float]) -> bool:
    """Within a twentieth of one that is there."""
    return any(abs(value / other - 1) < 0.05 for other in others)


def usable_boxes(photo: Photo) -> torch.Tensor:
    """[G, 4] the photo's objects; one so thin that float32 gives it no area is left out."""
    boxes = photo.target.boxes
    return boxes[(boxes[:, :2] < boxes[:, 2:]).all(dim=1)]


def _natural_ious(
    size: tuple[int, int],
    boxes: Sequence[torch.Tensor],
    sizes: tuple[int, int],
    shape: AnchorShape,
) -> tuple[list[torch.Tensor], tuple[int, int]]:
    """Of each object the highest IoU with an anchor whose best object it is; anchors and pixels.

    A photo that this size would make vanish has no anchors and no pixels.
    """
    try:
        layout = layout_of(size, *sizes, shape)
    except ImageError:
        return [torch.zeros(len(own)) for own in boxes], (0, 0)
    anchors = torch.cat(layout.anchors)
    reached = []
    for own in boxes:
        top = torch.zeros(len(own))
        if len(own):
            best = best_matches(anchors, resize_boxes(own, layout.original_size, layout.image_size))
            top.scatter_reduce_(0, best.best_gt, best.max_iou, "amax")
        reached.append(top)
    return reached, (layout.num_anchors, layout.padded_size[0] * layout.padded_size[1])


def conclusion(
    tried: Sequence[Suggestion], natural: int, objects: int
) -> tuple[list[Suggestion], str]:
    """What is worth suggesting, the cheapest first, and the best of it in words.

    Of each setting the cheapest value that gives 95% of the objects a natural match, else the
    cheapest within a hundredth of the most that it gives. The words name the cheapest setting that
    gives 95%, else the one that gives most; a lower bound, which lets anchors that fit no better
    count, only where nothing else helps.

    Args:
        tried: on the sample.
        natural: objects of all photos counted that have a natural match ...
        objects: ... and all of them.
    """
    if not objects:
        return [], "There are no objects to match."
    have = f"{_percent(natural / objects)} of the {objects:,} objects have a natural match"
    useful = [one for one in tried if one.share >= one.share_now + WORTH]
    kinds: dict[str, list[Suggestion]] = {}
    for one in useful:
        kinds.setdefault(one.setting, []).append(one)
    suggestions = sorted((_best(of_kind) for of_kind in kinds.values()), key=_cost)
    if natural / objects >= ENOUGH:
        return [], f"{have}; nothing needs to change."
    if not tried:
        return [], f"{have}. No other setting was tried."
    if not suggestions:
        return [], f"{have}, and none of the settings tried gives more."
    named = [one for one in suggestions if one.setting != "fg_iou_thresh"] or suggestions
    enough = [one for one in named if one.share >= ENOUGH]
    chosen = enough[0] if enough else max(named, key=lambda one: one.share)
    part = f" This was tried on {chosen.objects:,} of them." if chosen.objects < objects else ""
    return suggestions, f"{have}. {chosen.sentence}{part}"


def _best(of_kind: Sequence[Suggestion]) -> Suggestion:
    """The cheapest that gives enough, or all but a hundredth of what the setting can give."""
    goal = min(ENOUGH, max(one.share for one in of_kind) - WORTH)
    reaching = [one for one in of_kind if one.share >= goal]
    return min(reaching, key=lambda one: (*_cost(one), -_kept_bound(one), -one.share))


def _kept_bound(one: Suggestion) -> float:
    """Bounds cost nothing: of those the highest is the least change."""
    return one.value if one.setting == "fg_iou_thresh" else 0.0


def _cost(one: Suggestion) -> tuple[float, float]:
    """Pixels drive the whole network's cost, anchors only the subnets' last layers."""
    return one.pixels, one.anchors


def _words(
    trial: _Trial,
    now: float | None,
    share: float,
    share_now: float,
    anchors: float,
    pixels: float,
) -> str:
    gives = (
        f"would give {_percent(share)} of the objects a natural match (now {_percent(share_now)})"
    )
    if trial.setting == "min_size":
        return (
            f"min_size {trial.value:,.0f} instead of {now:,.0f} {gives}, for {pixels:.2g} times "
            "the pixels."
        )
    if trial.setting == "fg_iou_thresh":
        return (
            f"fg_iou_thresh {trial.value:g} instead of {now:g} {gives}, at no cost in anchors, but "
            "it trains on boxes that fit worse."
        )
    name = "scale" if trial.setting == "scales" else "aspect ratio"
    return f"One more {name}, {trial.value:.3g}, {gives}, for {anchors:.2g} times the anchors."


def _percent(share: float) -> str:
    """A share in whole percents; what is nearly all or nearly none is not rounded to it."""
    if 0.99 < share < 1:
        return f"{100 * share:.1f}%" if share < 0.9995 else "almost all"
    return "<1%" if 0 < share <= 0.005 else f"{100 * share:.0f}%"
