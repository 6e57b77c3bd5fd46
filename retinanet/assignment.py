"""Which anchors train on which object: matching anchors to ground truth.

Paper, section 4 "Anchors"; the rules, ties included, are torchvision's `Matcher`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from retinanet.config import MatcherConfig
from retinanet.images import resize_boxes
from retinanet.types import LEVELS, Outputs

if TYPE_CHECKING:
    from retinanet.layout import AnchorLayout

BACKGROUND = -1
IGNORED = -2


@dataclass(frozen=True, eq=False)
class BestMatches:
    """What every matching rule starts from. R anchors, at least one ground truth.

    Args:
        max_iou: [R] float32: IoU with the anchor's best ground truth.
        best_gt: [R] int64: index of that one, the first of equals.
        forced_by: [R] int64: the last ground truth whose own highest IoU this anchor has (alone
            or tied); -1 when there is none.
        gt_iou: [G] float32: the highest IoU of each ground truth.
        ties: of each ground truth the anchors [N] int64 that have its highest IoU.
    """

    max_iou: Tensor
    best_gt: Tensor
    forced_by: Tensor
    gt_iou: Tensor
    ties: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class AssignmentTrace:
    """What each anchor is trained on. Each is exactly one of foreground, ignored, background.

    R = number of anchors on all levels, finest level first; G = number of ground-truth boxes.

    Args:
        matched_idxs: [R] int64: index of the ground truth, -1 background, -2 ignored.
        max_iou: [R] float32 in [0, 1]: IoU with the best ground truth; 0 when there is none.
        best_gt: [R] int64: index of that ground truth, -1 when there is none.
        is_low_quality: [R] bool: foreground only because no anchor fits a ground truth better.
        gt_boxes: [G, 4] xyxy in pixels of the resized image.
        gt_labels: [G] int64 label indices.
        anchors_per_level: number of anchors on P3..P7.
        config: the settings that made this.
        best: what it was made from, which does not depend on the settings; None without ground
            truth. `rematch` starts from it.
    """

    matched_idxs: Tensor
    max_iou: Tensor
    best_gt: Tensor
    is_low_quality: Tensor
    gt_boxes: Tensor
    gt_labels: Tensor
    anchors_per_level: list[int]
    config: MatcherConfig
    best: BestMatches | None = field(default=None, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """{"foreground", "ignored", "background"}: sums to the number of anchors."""
        return _fate_counts(self.matched_idxs)

    @property
    def counts_per_level(self) -> dict[str, dict[str, int]]:
        """The same for each of P3..P7."""
        levels = self.matched_idxs.split(self.anchors_per_level)
        return {name: _fate_counts(level) for name, level in zip(LEVELS, levels, strict=True)}


def _fate_counts(matched_idxs: Tensor) -> dict[str, int]:
    background = int((matched_idxs == BACKGROUND).sum())
    ignored = int((matched_idxs == IGNORED).sum())
    foreground = len(matched_idxs) - background - ignored
    return {"foreground": foreground, "ignored": ignored, "background": background}


@dataclass(frozen=True, eq=False)
class Matches:
    """`match_anchors`'s answer; the fields are those of `AssignmentTrace`."""

    matched_idxs: Tensor
    max_iou: Tensor
    best_gt: Tensor
    is_low_quality: Tensor
    best: BestMatches | None = None


def match_anchors(anchors: Tensor, gt_boxes: Tensor, config: MatcherConfig) -> Matches:
    """Match each anchor to its best ground truth, then hand out the low-quality matches.

    1. An anchor's best ground truth is the one of highest IoU (the first of equals).
    2. Below `bg_iou_thresh` it is background, below `fg_iou_thresh` ignored, else foreground.
    3. With `allow_low_quality_matches`, every anchor that ties for some ground truth's highest IoU
       is foreground for its OWN best ground truth. A ground truth that touches no anchor ties with
       all anchors at IoU 0, and turns them all foreground; torchvision does so too.

    Args:
        anchors: [R, 4] xyxy.
        gt_boxes: [G, 4] xyxy, in the same pixels; G may be 0.
        config: the two bounds and the low-quality rule.
    """
    if len(gt_boxes) == 0:
        nothing = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        zeros = torch.zeros(len(anchors), device=anchors.device)
        return Matches(nothing, zeros, nothing.clone(), zeros.bool())
    return from_best(best_matches(anchors, gt_boxes), config)


def from_best(best: BestMatches, config: MatcherConfig) -> Matches:
    """Steps 2 and 3 of `match_anchors`."""
    matched_idxs = by_bounds(best, config)
    is_low_quality = torch.zeros_like(matched_idxs, dtype=torch.bool)
    if config.allow_low_quality_matches:
        ties = best.forced_by >= 0
        is_low_quality = ties & (matched_idxs < 0)
        matched_idxs[ties] = best.best_gt[ties]
    return Matches(matched_idxs, best.max_iou, best.best_gt, is_low_quality, best)


_GT_AT_A_TIME = 16
"""300 objects on 200,000 anchors at once would take 2 GB for a moment."""


def best_matches(anchors: Tensor, gt_boxes: Tensor) -> BestMatches:
    """The best partner of each anchor and of each ground truth, by IoU.

    Args:
        anchors: [R, 4] xyxy.
        gt_boxes: [G, 4] xyxy, in the same pixels; G is 1 or more.
    """
    max_iou = anchors.new_full((len(anchors),), -1.0)
    best_gt = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    forced_by = torch.full_like(best_gt, -1)
    highest, ties = [], []
    for start in range(0, len(gt_boxes), _GT_AT_A_TIME):
        iou = box_iou(gt_boxes[start : start + _GT_AT_A_TIME], anchors)  # [part of G, R]
        values, rows = iou.max(dim=0)
        better = values > max_iou
        max_iou[better] = values[better]
        best_gt[better] = rows[better] + start
        highest.append(iou.max(dim=1).values)
        tied = iou == highest[-1][:, None]
        ties += [torch.where(row)[0] for row in tied]
        gt, anchor = torch.where(tied)
        forced_by.scatter_reduce_(0, anchor, gt + start, "amax")
    return BestMatches(max_iou, best_gt, forced_by, torch.cat(highest), tuple(ties))


def by_bounds(best: BestMatches, config: MatcherConfig) -> Tensor:
    """[R] int64: best ground truth, ignored or background, by the two bounds alone."""
    matched_idxs = best.best_gt.clone()
    matched_idxs[best.max_iou < config.bg_iou_thresh] = BACKGROUND
    between = (best.max_iou >= config.bg_iou_thresh) & (best.max_iou < config.fg_iou_thresh)
    matched_idxs[between] = IGNORED
    return matched_idxs


def ignore_background_in(matched_idxs: Tensor, anchors: Tensor, areas: Tensor) -> Tensor:
    """Turn background anchors that lie mostly in areas of unknown content into ignored ones.

    As COCO treats crowds: an anchor counts as inside when half of its own area or more is.

    Args:
        matched_idxs: [R], as in `AssignmentTrace`.
        anchors: [R, 4] xyxy.
        areas: [I, 4] xyxy in the same pixels; I may be 0.

    Returns:
        [R], a new tensor.
    """
    if len(areas) == 0:
        return matched_idxs
    corners = torch.max(anchors[:, None, :2], areas[None, :, :2])
    opposite = torch.min(anchors[:, None, 2:], areas[None, :, 2:])
    shared = (opposite - corners).clamp(min=0).prod(dim=2)  # [R, I]
    inside = (shared >= 0.5 * box_area(anchors)[:, None]).any(dim=1)
    return matched_idxs.masked_fill(inside & (matched_idxs == BACKGROUND), IGNORED)


def assign(
    outputs: Outputs,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    config: MatcherConfig | None = None,
) -> AssignmentTrace:
    """Match an image's anchors to its ground truth.

    Args:
        outputs: of the image; its anchors and sizes are used, its predictions are not.
        gt_boxes: [G, 4] xyxy in ORIGINAL pixels; G may be 0.
        gt_labels: [G] label indices in [0, num_classes), of any number type.
        config: the bounds; torchvision's by default.

    Raises:
        ValueError: shapes do not fit, a box is not finite or has no area, a label is no whole
            number or out of range.
    """
    boxes, labels = ground_truth(gt_boxes, gt_labels, outputs.device)
    check_ground_truth(boxes, labels, outputs.num_classes)
    return _assign(outputs, boxes, labels, config)


def assign_anchors(
    layout: AnchorLayout | Outputs,
    gt_boxes: Tensor,
    gt_labels: Tensor | None = None,
    config: MatcherConfig | None = None,
) -> AssignmentTrace:
    """Match a picture's anchors to its ground truth where no network has run.

    Args:
        layout: where the anchors lie; `Outputs` serve as well, their predictions are not used.
        gt_boxes: [G, 4] xyxy in ORIGINAL pixels; G may be 0.
        gt_labels: [G] label indices, 0 or more, of any number type; None for all 0.
        config: the bounds; torchvision's by default.

    Raises:
        ValueError: shapes do not fit, a box is not finite or has no area, a label is no whole
            number or below 0.
    """
    boxes, labels = ground_truth(gt_boxes, gt_labels, layout.anchors[0].device)
    check_ground_truth(boxes, labels)
    return _assign(layout, boxes, labels, config)


def _assign(
    layout: AnchorLayout | Outputs, boxes: Tensor, labels: Tensor, config: MatcherConfig | None
) -> AssignmentTrace:
    """Match checked ground truth, its boxes in original pixels."""
    resized = resize_boxes(boxes, layout.original_size, layout.image_size)
    config = config or MatcherConfig()
    matches = match_anchors(torch.cat(layout.anchors), resized, config)
    return AssignmentTrace(
        matches.matched_idxs,
        matches.max_iou,
        matches.best_gt,
        matches.is_low_quality,
        gt_boxes=resized,
        gt_labels=labels,
        anchors_per_level=layout.anchors_per_level,
        config=config,
        best=matches.best,
    )


def rematch(match: AssignmentTrace, config: MatcherConfig) -> AssignmentTrace:
    """The same anchors and ground truth with other bounds, without working out an IoU again.

    Args:
        match: from `assign` or `assign_anchors`.
        config: the new settings.

    Raises:
        ValueError: the match was made by another implementation's rules (`match_dialect`).
    """
    if match.best is None:
        if len(match.gt_boxes):
            raise ValueError("This match does not hold its IoUs; match the anchors anew.")
        return replace(match, config=config)
    matches = from_best(match.best, config)
    return replace(
        match,
        matched_idxs=matches.matched_idxs,
        is_low_quality=matches.is_low_quality,
        config=config,
    )


def ground_truth(
    gt_boxes: Tensor, gt_labels: Tensor | None, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Boxes [G, 4] float32 and labels [G] int64 from tensors or lists, on a device.

    Args:
        gt_boxes: G boxes.
        gt_labels: G labels; None for all 0.
        device: where they are wanted.

    Raises:
        ValueError: they are not of these shapes, or a label is no whole number.
    """
    boxes = _as_boxes(torch.as_tensor(gt_boxes, dtype=torch.float32, device=device))
    if gt_labels is None:
        return boxes, torch.zeros(len(boxes), dtype=torch.int64, device=device)
    return boxes, _as_labels(torch.as_tensor(gt_labels, device=device))


def _as_boxes(boxes: Tensor) -> Tensor:
    if boxes.numel() == 0:
        return boxes.reshape(0, 4)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"Ground-truth boxes must be of shape [boxes, 4], not {list(boxes.shape)}."
        )
    return boxes


def _as_labels(labels: Tensor) -> Tensor:
    if labels.numel() == 0:
        return labels.reshape(0).long()
    if labels.dim() != 1:
        raise ValueError(f"Ground-truth labels must be a list, not {list(labels.shape)}.")
    whole = labels.long()
    if not torch.equal(whole.to(labels.dtype), labels):
        raise ValueError("A ground-truth label is not a whole number.")
    return whole


def check_ground_truth(boxes: Tensor, labels: Tensor, num_classes: int | None = None) -> None:
    """Refuse ground truth that cannot be matched.

    Args:
        boxes: [G, 4] xyxy.
        labels: [G].
        num_classes: labels must be below it; None where no model sets a bound.

    Raises:
        ValueError: different lengths, a box that is not finite or has no area, a label out of
            range.
    """
    if len(boxes) != len(labels):
        raise ValueError(f"There are {len(boxes)} ground-truth boxes but {len(labels)} labels.")
    if not torch.isfinite(boxes).all():
        raise ValueError("A ground-truth box has a coordinate that is not a finite number.")
    if not (boxes[:, :2] < boxes[:, 2:]).all():
        raise ValueError("A ground-truth box has no area: it needs x1 < x2 and y1 < y2.")
    if num_classes is None:
        if len(labels) and int(labels.min()) < 0:
            raise ValueError(
                f"Ground-truth labels must be 0 or more; the least here is {int(labels.min())}."
            )
    elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"Ground-truth labels must be from 0 to {num_classes - 1}, the model's classes; "
            f"these run from {int(labels.min())} to {int(labels.max())}."
        )
