"""How four implementations match the same picture and the same ground truth.

They agree on the idea (paper, section 4 "Anchors") and differ in three rules: whether sizes are cut
to whole pixels, how far locations lie apart, and what becomes of an object that no anchor fits.
What is compared is matching alone: each also resizes pictures in its own way (see `images`), which
is left out, so that all four see the same boxes on the same grid.

Read in the sources: torchvision `anchor_utils.py` and `_utils.Matcher`; Detectron2
`anchor_generator.py` and `matcher.py` with thresholds [0.4, 0.5], labels [0, -1, 1] and
allow_low_quality_matches; MMDetection `MaxIoUAssigner` with min_pos_iou 0 and gt_max_assign_all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from retinanet.anchors import AnchorShape, anchors_at, cell_anchors, level_strides
from retinanet.assignment import (
    BACKGROUND,
    IGNORED,
    AssignmentTrace,
    Matches,
    best_matches,
    by_bounds,
    check_ground_truth,
    ground_truth,
    match_anchors,
)
from retinanet.config import ConfigError, MatcherConfig
from retinanet.images import resize_boxes
from retinanet.layout import STRIDES, AnchorLayout

Forcing = Literal["never", "own", "forcing"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """An implementation's matching rules.

    Args:
        name: what `match_dialect` takes.
        title: how people call it.
        rules: the rules in words, a sentence each.
        whole_sizes: anchor sizes are cut to whole pixels and their corners rounded.
        divided_strides: locations lie `padded_size // grid_size` apart, else 8, 16 .. 128 pixels.
        forcing: what becomes of the anchors that have an object's highest IoU: "never": nothing,
            the bounds decide; "own": each is foreground for its OWN best object; "forcing": each is
            foreground for the object whose highest IoU it has, the last of several.
    """

    name: str
    title: str
    rules: tuple[str, ...]
    whole_sizes: bool
    divided_strides: bool
    forcing: Forcing


_EXACT = "Anchor sizes are exact: 32 to 512 pixels times 1, 2^(1/3) and 2^(2/3), nothing rounded."
_NOMINAL = "Locations lie 8, 16, 32, 64 and 128 pixels apart on P3 to P7, whatever the padding."

DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        name="paper",
        title="Paper",
        rules=(
            _EXACT,
            _NOMINAL,
            "Nothing is forced: an object that no anchor fits by IoU trains nothing.",
        ),
        whole_sizes=False,
        divided_strides=False,
        forcing="never",
    ),
    Dialect(
        name="torchvision",
        title="torchvision",
        rules=(
            "Anchor sizes are cut to whole pixels (32, 40, 50) and corners rounded, half to even.",
            "Locations lie padded size // grid size pixels apart, on P6 and P7 often less than 64 "
            "and 128.",
            "Every anchor that has an object's highest IoU is foreground, for the object that it "
            "overlaps most itself.",
        ),
        whole_sizes=True,
        divided_strides=True,
        forcing="own",
    ),
    Dialect(
        name="detectron2",
        title="Detectron2",
        rules=(
            _EXACT,
            _NOMINAL,
            "Every anchor that has an object's highest IoU is foreground, for the object that it "
            "overlaps most itself.",
        ),
        whole_sizes=False,
        divided_strides=False,
        forcing="own",
    ),
    Dialect(
        name="mmdetection",
        title="MMDetection",
        rules=(
            _EXACT,
            _NOMINAL,
            "Every anchor that has an object's highest IoU is foreground for that very object, "
            "even where it overlaps another one more; of several such objects the last.",
        ),
        whole_sizes=False,
        divided_strides=False,
        forcing="forcing",
    ),
)
"""In the order in which they are offered. Rules with numbers are of the paper's anchors."""


def find_dialect(name: str) -> Dialect:
    """The dialect of a name.

    Raises:
        ConfigError: there is none; the message names those there are.
    """
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    known = ", ".join(dialect.name for dialect in DIALECTS)
    raise ConfigError(f"There is no dialect {name!r}; there are {known}.")


def exact_cell_anchors(sizes: tuple[float, ...], aspect_ratios: tuple[float, ...]) -> Tensor:
    """The anchors of one location, nothing rounded, in the order of `cell_anchors`.

    In float64, then float32, as Detectron2 makes them. MMDetection computes in float32, which can
    differ in the last bit.

    Args:
        sizes: square roots of the areas, in pixels.
        aspect_ratios: height / width.

    Returns:
        [len(aspect_ratios) * len(sizes), 4] float32 xyxy, centred on (0, 0).
    """
    scales = torch.tensor(sizes, dtype=torch.float64)
    roots = torch.tensor(aspect_ratios, dtype=torch.float64).sqrt()
    widths = (scales[None, :] / roots[:, None]).flatten()
    heights = (scales[None, :] * roots[:, None]).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).float()


def dialect_layout(name: str, layout: AnchorLayout) -> AnchorLayout:
    """The anchors that a dialect has on this picture, in the order of the given layout's.

    Args:
        name: of the dialect.
        layout: of the picture; its shape and its sizes are kept.
    """
    return _layout(find_dialect(name), layout)


def _layout(dialect: Dialect, layout: AnchorLayout) -> AnchorLayout:
    shape, grids = layout.shape, layout.grid_sizes
    strides = [(stride, stride) for stride in STRIDES]
    if dialect.divided_strides:
        strides = level_strides(layout.padded_size, grids)
    anchors = [
        anchors_at(cell.to(layout.anchors[0].device), range(grid[0]), range(grid[1]), stride)
        for cell, grid, stride in zip(_cells(dialect, shape), grids, strides, strict=True)
    ]
    return replace(layout, anchors=anchors)


def _cells(dialect: Dialect, shape: AnchorShape) -> list[Tensor]:
    if dialect.whole_sizes:
        return [cell_anchors(sizes, shape.aspect_ratios) for sizes in shape.sizes()]
    return [exact_cell_anchors(sizes, shape.aspect_ratios) for sizes in shape.exact_sizes()]


def match_dialect(
    name: str, layout: AnchorLayout, gt_boxes_original: Tensor, config: MatcherConfig
) -> AssignmentTrace:
    """Match as an implementation does.

    Args:
        name: of the dialect.
        layout: of the picture; the dialect lays its own anchors on the same grid.
        gt_boxes_original: [G, 4] xyxy in ORIGINAL pixels; G may be 0.
        config: the two bounds. The dialect decides about low-quality matches, and the trace's
            config says so.

    Returns:
        A trace whose rows are those of `layout`. `best_gt` and `max_iou` are of each anchor's own
        best object; an anchor is of low quality when its IoU with the object that it is matched to
        is below `fg_iou_thresh` (in MMDetection that object may be another than `best_gt`).

    Raises:
        ConfigError: there is no such dialect.
        ValueError: a box cannot be matched.
    """
    return _match(find_dialect(name), layout, gt_boxes_original, config)


def _match(
    dialect: Dialect, layout: AnchorLayout, gt_boxes: Tensor, config: MatcherConfig
) -> AssignmentTrace:
    boxes, labels = ground_truth(gt_boxes, None, layout.anchors[0].device)
    check_ground_truth(boxes, labels)
    resized = resize_boxes(boxes, layout.original_size, layout.image_size)
    config = replace(config, allow_low_quality_matches=dialect.forcing != "never")
    anchors = torch.cat(_layout(dialect, layout).anchors)
    if dialect.forcing == "forcing" and len(resized):
        matches = match_to_forcing_object(anchors, resized, config)
    else:
        matches = match_anchors(anchors, resized, config)
    return AssignmentTrace(
        matches.matched_idxs,
        matches.max_iou,
        matches.best_gt,
        matches.is_low_quality,
        gt_boxes=resized,
        gt_labels=labels,
        anchors_per_level=layout.anchors_per_level,
        config=config,
    )


def match_to_forcing_object(anchors: Tensor, gt_boxes: Tensor, config: MatcherConfig) -> Matches:
    """MMDetection's `MaxIoUAssigner` (min_pos_iou 0, gt_max_assign_all), as `match_anchors`.

    1. and 2. as there. 3. Object by object, every anchor that has the object's highest IoU becomes
    foreground for it, whatever it was before: a later object overwrites an earlier one. An object
    that touches no anchor so takes all anchors that it does not touch.

    Args:
        anchors: [R, 4] xyxy.
        gt_boxes: [G, 4] xyxy, in the same pixels; G is 1 or more.
        config: the two bounds.
    """
    best = best_matches(anchors, gt_boxes)
    matched_idxs = by_bounds(best, config)
    forced = best.forced_by >= 0
    matched_idxs[forced] = best.forced_by[forced]
    low = forced & (best.gt_iou[best.forced_by] < config.fg_iou_thresh)
    return Matches(matched_idxs, best.max_iou, best.best_gt, low)


SIZES = "anchor is not the same box (size cut to whole pixels)"
STRIDES_DIFFER = "anchor is not at the same place (stride)"
FORCED_IN_ONE = "forced in one only"
FORCED_TO_ANOTHER = "forced to another object"
TOGETHER = "several rules together"
REASONS: tuple[str, ...] = (SIZES, STRIDES_DIFFER, FORCED_IN_ONE, FORCED_TO_ANOTHER, TOGETHER)


@dataclass(frozen=True, eq=False)
class Difference:
    """Where two dialects do not train the same anchor on the same thing. D anchors differ.

    Args:
        base: name of one dialect.
        other: name of the other one.
        indices: [D] int64, anchors over all levels, ascending.
        base_matched: [D] int64, what the first makes of each (as `matched_idxs`).
        other_matched: [D] int64, what the second makes of it.
        reasons: [D], one of `REASONS` for each: the first rule (sizes, strides, forcing) that makes
            of this anchor what the other dialect does when it alone is switched in the base
            dialect; `TOGETHER` where none does alone.
        num_anchors: of the picture.
        base_counts: `AssignmentTrace.counts` of the first.
        other_counts: of the second.
    """

    base: str
    other: str
    indices: Tensor
    base_matched: Tensor
    other_matched: Tensor
    reasons: list[str]
    num_anchors: int
    base_counts: dict[str, int]
    other_counts: dict[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """{reason: number of anchors} for each of `REASONS`; sums to D."""
        found = Counter(self.reasons)
        return {reason: found[reason] for reason in REASONS}

    @property
    def changes(self) -> dict[tuple[str, str], int]:
        """{(fate in the first, fate in the second): number of anchors}, most frequent first.

        Fates are "foreground", "ignored" and "background"; foreground in both is for two objects.
        """
        pairs = zip(self.base_matched.tolist(), self.other_matched.tolist(), strict=True)
        return dict(Counter((_fate(a), _fate(b)) for a, b in pairs).most_common())


def _fate(matched: int) -> str:
    return {BACKGROUND: "background", IGNORED: "ignored"}.get(matched, "foreground")


def dialect_differences(
    base: str, other: str, layout: AnchorLayout, gt_boxes: Tensor, config: MatcherConfig
) -> Difference:
    """Compare two dialects anchor by anchor, and name the rule behind each difference.

    Args:
        base: name of a dialect.
        other: name of another one.
        layout: of the picture.
        gt_boxes: [G, 4] xyxy in ORIGINAL pixels.
        config: the two bounds, the same for both.

    Raises:
        ConfigError: there is no such dialect.
        ValueError: a box cannot be matched.
    """
    first, second = find_dialect(base), find_dialect(other)
    ours = _match(first, layout, gt_boxes, config)
    theirs = _match(second, layout, gt_boxes, config)
    indices = torch.where(ours.matched_idxs != theirs.matched_idxs)[0]
    wanted = theirs.matched_idxs[indices]
    reasons = [TOGETHER] * len(indices)
    both_foreground = ((ours.matched_idxs[indices] >= 0) & (wanted >= 0)).tolist()
    rules = [rule for rule in _RULES if getattr(first, rule) != getattr(second, rule)]
    for rule in reversed(rules) if reasons else ():
        answers = wanted  # a dialect with its only other rule switched is the other dialect
        if len(rules) > 1:
            switched = replace(first, **{rule: getattr(second, rule)})
            answers = _match(switched, layout, gt_boxes, config).matched_idxs[indices]
        for row in torch.where(answers == wanted)[0].tolist():
            reasons[row] = _reason(rule, both_foreground[row])
    return Difference(
        base=base,
        other=other,
        indices=indices,
        base_matched=ours.matched_idxs[indices],
        other_matched=wanted,
        reasons=reasons,
        num_anchors=layout.num_anchors,
        base_counts=ours.counts,
        other_counts=theirs.counts,
    )


_RULES = ("whole_sizes", "divided_strides", "forcing")


def _reason(rule: str, both_foreground: bool) -> str:
    if rule == "forcing":
        return FORCED_TO_ANOTHER if both_foreground else FORCED_IN_ONE
    return SIZES if rule == "whole_sizes" else STRIDES_DIFFER


def dialect_sentence(difference: Difference) -> str:
    """How many anchors differ, what becomes of them, and why; counts as they are."""
    first, second = (find_dialect(n).title for n in (difference.base, difference.other))
    count = len(difference.indices)
    if not count:
        return (
            f"{first} and {second} train all {difference.num_anchors:,} anchors of this picture on "
            "the same."
        )
    changes = ", ".join(
        f"{n:,} {a} → {b if a != b else 'foreground for another object'}"
        for (a, b), n in difference.changes.items()
    )
    reasons = "; ".join(f"{reason}: {n:,}" for reason, n in difference.counts.items() if n)
    return (
        f"From {first} to {second}, {count:,} of {difference.num_anchors:,} anchors change "
        f"({changes}); foreground goes from {difference.base_counts['foreground']:,} to "
        f"{difference.other_counts['foreground']:,}. With one rule at a time switched: {reasons}."
    )
