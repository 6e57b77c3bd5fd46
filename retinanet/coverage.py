"""What each object has for anchors, and what would give anchors to one that has none of its own.

An object has a *natural* match when some anchor is foreground for it by its IoU alone. Without
one it lives on forced (low-quality) matches, or no anchor learns it at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from retinanet.anchors import (
    MOST_ASPECT_RATIOS,
    MOST_SCALES,
    AnchorShape,
    anchors_at,
    cell_anchors,
    level_strides,
)
from retinanet.assignment import (
    AssignmentTrace,
    assign_anchors,
    check_ground_truth,
    ground_truth,
    match_anchors,
)
from retinanet.config import MatcherConfig
from retinanet.images import ImageError, resize_boxes
from retinanet.layout import AnchorLayout, Frame, frame_of
from retinanet.types import LEVELS, Outputs

Status = Literal["natural", "forced", "none"]


@dataclass(frozen=True)
class ObjectCoverage:
    """The anchors of one object.

    Args:
        gt: index of the object.
        best_iou: its highest IoU with any anchor, in [0, 1].
        best_anchor: index over all levels of an anchor with this IoU; of several, the first that
            trains on the object, else the first.
        best_level: that anchor's level, "P3".."P7".
        num_foreground: anchors that train on it.
        num_natural: those of them that are foreground by their IoU.
        levels: {"P3".."P7": how many of `num_foreground`}.
        status: "natural" with a natural match; "forced" with low-quality ones only; "none" when no
            anchor trains on it: its best ones train on another object (`taken_by`), or its
            `best_iou` is below `fg_iou_thresh` and low-quality matches are off.
        taken_by: index of the object that its best anchor trains on, when that is another one.
    """

    gt: int
    best_iou: float
    best_anchor: int
    best_level: str
    num_foreground: int
    num_natural: int
    levels: dict[str, int]
    status: Status
    taken_by: int | None


def object_coverage(match: AssignmentTrace, layout: AnchorLayout | Outputs) -> list[ObjectCoverage]:
    """What each object's anchors are.

    Args:
        match: of the same anchors as `layout`.
        layout: where the anchors lie.

    Returns:
        One for each ground truth, in order; `num_foreground` sums to `match.counts["foreground"]`.

    Raises:
        ValueError: the match is of another number of anchors.
    """
    if match.anchors_per_level != layout.anchors_per_level:
        raise ValueError(
            f"The match is of {len(match.matched_idxs):,} anchors but the layout has "
            f"{layout.num_anchors:,}; match the same layout."
        )
    anchors = torch.cat(layout.anchors)
    counts, natural = _counts(match)
    return [
        _coverage_of(gt, match, *best_of(match, anchors, gt), counts[gt], natural[gt])
        for gt in range(len(match.gt_boxes))
    ]


def _counts(match: AssignmentTrace) -> tuple[list[list[int]], list[int]]:
    """Foreground anchors of each object on each level, and natural ones of each object."""
    objects, matched = len(match.gt_boxes), match.matched_idxs
    sizes = torch.tensor(match.anchors_per_level, device=matched.device)
    level = torch.arange(len(LEVELS), device=matched.device).repeat_interleave(sizes)
    foreground = matched >= 0
    cells = matched[foreground] * len(LEVELS) + level[foreground]
    per_level = torch.bincount(cells, minlength=objects * len(LEVELS))
    natural = torch.bincount(matched[foreground & ~match.is_low_quality], minlength=objects)
    return per_level.reshape(objects, len(LEVELS)).tolist(), natural.tolist()


def best_of(match: AssignmentTrace, anchors: Tensor, gt: int) -> tuple[Tensor, Tensor]:
    """The highest IoU of an object, and the anchors [N] that have it."""
    if match.best is not None:
        return match.best.gt_iou[gt], match.best.ties[gt]
    iou = box_iou(match.gt_boxes[gt : gt + 1], anchors)[0]
    return iou.max(), torch.where(iou == iou.max())[0]


def _coverage_of(
    gt: int,
    match: AssignmentTrace,
    best_iou: Tensor,
    best: Tensor,
    per_level: list[int],
    natural: int,
) -> ObjectCoverage:
    own = best[match.matched_idxs[best] == gt]
    anchor = int(own[0] if len(own) else best[0])
    holder = int(match.matched_idxs[anchor])
    ends = np.cumsum(match.anchors_per_level)
    foreground = sum(per_level)
    return ObjectCoverage(
        gt=gt,
        best_iou=float(best_iou),
        best_anchor=anchor,
        best_level=LEVELS[int(np.searchsorted(ends, anchor, side="right"))],
        num_foreground=foreground,
        num_natural=natural,
        levels=dict(zip(LEVELS, per_level, strict=True)),
        status="natural" if natural else "forced" if foreground else "none",
        taken_by=holder if holder >= 0 and holder != gt else None,
    )


@dataclass(frozen=True)
class Remedies:
    """What, changed alone, gives an object a natural match. None: nothing that was tried does.

    Each was found by matching the anchors that it makes. For an object that has a natural match
    only `fg_iou_thresh` is given.

    Args:
        fg_iou_thresh: the highest bound at which it has one, on a grid of 0.01 (below 0.01 the
            exact IoU); `bg_iou_thresh` has to come down with it where it would be above.
        min_size: the smallest input size at which it has one, 32 to 2048 pixels, with `max_size`
            from `scaled_max_size`.
        scale: the scale nearest to an existing one (by their quotient) that does it as an
            additional one, 0.25 to 4 in steps of 0.01.
        aspect_ratio: likewise, height / width from 0.05 to 20, in steps of 0.005 below 1 and of
            0.05 above.
    """

    fg_iou_thresh: float | None
    min_size: int | None
    scale: float | None
    aspect_ratio: float | None


MIN_SIZES = range(32, 2049)
LARGEST_MAX_SIZE = 4096
_MOST_TRIES = 300
_SCALES = tuple(step / 100 for step in range(25, 401))
_ASPECT_RATIOS = (*(step / 200 for step in range(10, 200)), *(s / 20 for s in range(20, 401)))


def scaled_max_size(min_size: int, max_size: int, new_min_size: int) -> int:
    """The `max_size` that keeps its proportion to `min_size` when that changes, in whole pixels."""
    return max(new_min_size, round(max_size * new_min_size / min_size))


def remedies(
    layout: AnchorLayout,
    gt_boxes: Tensor,
    index: int,
    config: MatcherConfig,
    *,
    min_size: int,
    max_size: int,
    match: AssignmentTrace | None = None,
) -> Remedies:
    """Search what gives one object a natural match.

    Of each kind at most 300 candidates whose anchors come near enough are matched. Where other
    objects take all of these, a remedy may exist that is not found.

    Args:
        layout: of the picture at `min_size` and `max_size`.
        gt_boxes: [G, 4] xyxy in ORIGINAL pixels.
        index: of the object.
        config: the present bounds.
        min_size: the present input size ...
        max_size: ... which the layout was made with.
        match: of these objects on the layout with these bounds, where it is at hand.

    Raises:
        ValueError: a box cannot be matched.
        IndexError: there is no such object.
    """
    boxes, labels = ground_truth(gt_boxes, None, layout.anchors[0].device)
    check_ground_truth(boxes, labels)
    if not 0 <= index < len(boxes):
        raise IndexError(f"There is no object {index}: the picture has {len(boxes)}.")
    match = match or assign_anchors(layout, boxes, config=config)
    reached = match.max_iou[match.best_gt == index]
    top = float(reached.max()) if len(reached) else 0.0
    bound = _bound_below(top)
    if top > 0 and not _below(top, config.fg_iou_thresh):
        return Remedies(bound, None, None, None)
    first = partial(_first, boxes, index, layout.original_size, config)
    return Remedies(
        fg_iou_thresh=bound,
        min_size=first(_other_sizes(layout, min_size, max_size)),
        scale=first(_more_scales(layout)),
        aspect_ratio=first(_more_ratios(layout)),
    )


def _below(iou: float, bound: float) -> bool:
    """As the matcher compares: both in float32."""
    return bool(np.float32(iou) < np.float32(bound))


def _bound_below(iou: float) -> float | None:
    """The highest bound that an IoU reaches, on a grid of 0.01; the IoU itself below that."""
    steps = math.floor(iou * 100) + 1
    while steps and _below(iou, steps / 100):
        steps -= 1
    return steps / 100 if steps else iou or None


class _Candidate(NamedTuple):
    """A setting to try, and the anchors that it makes or adds.

    Args:
        value: of the setting.
        frame: where the locations lie.
        cells: [5, A, 4] for P3..P7, the anchors of one location.
    """

    value: float
    frame: Frame
    cells: Tensor


def _other_sizes(layout: AnchorLayout, min_size: int, max_size: int) -> Iterator[_Candidate]:
    """Every input size, smallest first."""
    cells = _cells(layout.shape)
    for size in MIN_SIZES:
        largest = scaled_max_size(min_size, max_size, size)
        if largest > LARGEST_MAX_SIZE:
            return
        try:
            frame = frame_of(layout.original_size, size, largest)
        except ImageError:  # a side of the picture would vanish
            continue
        yield _Candidate(size, frame, cells)


def _more_scales(layout: AnchorLayout) -> Iterator[_Candidate]:
    """Every additional scale, the mildest first."""
    shape, frame = layout.shape, _frame(layout)
    if len(shape.scales) < MOST_SCALES:
        for value in _mildest_first(_SCALES, shape.scales):
            yield _Candidate(value, frame, _cells(replace(shape, scales=(value,))))


def _more_ratios(layout: AnchorLayout) -> Iterator[_Candidate]:
    """Every additional aspect ratio, the mildest first."""
    shape, frame = layout.shape, _frame(layout)
    if len(shape.aspect_ratios) < MOST_ASPECT_RATIOS:
        for value in _mildest_first(_ASPECT_RATIOS, shape.aspect_ratios):
            yield _Candidate(value, frame, _cells(replace(shape, aspect_ratios=(value,))))


def _frame(layout: AnchorLayout) -> Frame:
    return Frame(layout.image_size, layout.padded_size, layout.grid_sizes)


def _cells(shape: AnchorShape) -> Tensor:
    return torch.stack([cell_anchors(sizes, shape.aspect_ratios) for sizes in shape.sizes()])


def _mildest_first(values: Sequence[float], own: Sequence[float]) -> list[float]:
    """Those values that are not there yet, nearest to an existing one (by their quotient) first."""
    return sorted(
        (value for value in values if value not in own),
        key=lambda value: min(abs(math.log(value / other)) for other in own),
    )


def _first(
    boxes: Tensor,
    index: int,
    original_size: tuple[int, int],
    config: MatcherConfig,
    candidates: Iterable[_Candidate],
) -> float | None:
    """The first candidate whose anchors match the object by their IoU alone."""
    by_iou = replace(config, allow_low_quality_matches=False)
    tries = 0
    for value, frame, cells in candidates:
        reaches = _Reach(boxes[index], original_size, frame, cells, config.fg_iou_thresh)
        if not reaches.kinds.any():
            continue
        resized = resize_boxes(boxes, original_size, frame.image_size)
        matched = match_anchors(reaches.anchors().to(boxes.device), resized, by_iou).matched_idxs
        if (matched == index).any():
            return value
        tries += 1
        if tries == _MOST_TRIES:
            break
    return None


class _Reach:
    """Which anchors of a frame can reach an IoU with a box.

    Along either axis the overlap must be at least the bound times the longer of the two sides
    (else the IoU stays below the bound), which leaves few locations; and a kind of anchor whose
    best-placed one stays below the bound is left out altogether.

    Args:
        box: [4] xyxy, pixels of the original picture.
        original_size: (height, width) of that picture.
        frame: where the locations lie.
        cells: [5, A, 4], the anchors of one location.
        bound: the IoU.
    """

    def __init__(
        self,
        box: Tensor,
        original_size: tuple[int, int],
        frame: Frame,
        cells: Tensor,
        bound: float,
    ) -> None:
        self.cells, self.strides = cells, level_strides(frame.padded_size, frame.grid_sizes)
        x1, y1, x2, y2 = box.tolist()
        scale = np.divide(frame.image_size, original_size)
        self.centre = np.array([(y1 + y2) / 2, (x1 + x2) / 2]) * scale
        sides = np.array([y2 - y1, x2 - x1]) * scale
        self.last = np.array(frame.grid_sizes) - 1  # [5, 2]: the last row and column
        strides = np.array(self.strides)
        self.nearest = np.clip(np.rint(self.centre / strides), 0, self.last)
        offsets = abs(self.centre - self.nearest * strides)[:, None]
        own = (cells[..., 2:] - cells[..., :2]).numpy()[..., ::-1]  # [5, A, 2] heights, widths
        overlap = np.minimum((own + sides) / 2 - offsets, np.minimum(own, sides)).clip(0)
        shared = overlap[..., 0] * overlap[..., 1]
        union = own[..., 0] * own[..., 1] + sides[0] * sides[1] - shared
        bound -= 1e-4  # what float32 might round up is matched rather than left out
        self.kinds = shared >= bound * union  # [5, A]
        self.offsets = (own + sides) / 2 - bound * np.maximum(own, sides)

    def anchors(self) -> Tensor:
        """[N, 4] in pixels of the resized picture; every anchor left out stays below the bound."""
        found = []
        for level in np.flatnonzero(self.kinds.any(axis=1)):
            kinds, stride = self.kinds[level], self.strides[level]
            reach = self.offsets[level][kinds].max(axis=0)
            low = np.ceil((self.centre - reach) / stride).clip(0, self.nearest[level])
            high = np.floor((self.centre + reach) / stride).clip(
                self.nearest[level], self.last[level]
            )
            rows, columns = (range(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
            cell = self.cells[level][torch.from_numpy(kinds)]
            found.append(anchors_at(cell, rows, columns, stride))
        return torch.cat(found)
