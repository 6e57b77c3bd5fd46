"""The focal loss and the box loss, for a whole image and for each anchor of it.

Focal loss: paper, equation 5, FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t), over every anchor that
is not ignored and every class. Both losses are divided by max(1, number of foreground anchors), as
torchvision does for each image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import l1_loss
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from retinanet.assignment import IGNORED, AssignmentTrace
from retinanet.box_coder import BOX_CODER
from retinanet.config import LossConfig, Variant
from retinanet.types import LEVELS, Outputs


@dataclass(frozen=True, eq=False)
class LossTrace:
    """The loss of one image and who holds it. R = number of anchors on all levels.

    Args:
        classification: scalar: focal loss / max(1, num_foreground).
        bbox_regression: scalar: box loss of the foreground / max(1, num_foreground).
        per_anchor: [R]: each anchor's part of `classification`, summed over classes; 0 if ignored.
        per_anchor_bbox: [R]: each anchor's part of `bbox_regression`; 0 unless foreground.
        num_foreground: number of foreground anchors.
        anchors_per_level: number of anchors on P3..P7.
        config: the settings that made this.
    """

    classification: Tensor
    bbox_regression: Tensor
    per_anchor: Tensor
    per_anchor_bbox: Tensor
    num_foreground: int
    anchors_per_level: list[int]
    config: LossConfig

    @property
    def per_level(self) -> dict[str, dict[str, float]]:
        """{"P3": {"classification", "bbox_regression"}, ...}: each sums to the total."""
        classification = self.per_anchor.detach().split(self.anchors_per_level)
        boxes = self.per_anchor_bbox.detach().split(self.anchors_per_level)
        return {
            name: {
                "classification": float(cls.double().sum()),
                "bbox_regression": float(box.double().sum()),
            }
            for name, cls, box in zip(LEVELS, classification, boxes, strict=True)
        }


def classification_targets(matched_idxs: Tensor, gt_labels: Tensor, like: Tensor) -> Tensor:
    """One-hot rows of the matched label for foreground anchors, zeros elsewhere; [R, K]."""
    targets = torch.zeros_like(like)
    foreground = torch.where(matched_idxs >= 0)[0]
    targets[foreground, gt_labels[matched_idxs[foreground]]] = 1.0
    return targets


def box_losses(deltas: Tensor, anchors: Tensor, gt_boxes: Tensor, variant: Variant) -> Tensor:
    """The box loss of each foreground anchor.

    Args:
        deltas: [F, 4] predicted.
        anchors: [F, 4] xyxy.
        gt_boxes: [F, 4] xyxy, the ground truth of each.
        variant: "v1" is L1 on the deltas, summed over the four; "v2" is GIoU on decoded boxes.

    Returns:
        v1: [F, 4]; v2: [F]. Sum it over everything for the image's loss.
    """
    if variant == "v1":
        return l1_loss(deltas, BOX_CODER.encode_single(gt_boxes, anchors), reduction="none")
    decoded = BOX_CODER.decode_single(deltas, anchors)
    return generalized_box_iou_loss(decoded, gt_boxes, reduction="none")


@dataclass(frozen=True, eq=False)
class ImageLosses:
    """The terms of one image's losses, with their gradients. V valid, F foreground anchors.

    Args:
        focal: [V, K], not normalised.
        boxes: [F, 4] or [F], as `box_losses` gives them, not normalised.
        valid: [R] bool: not ignored.
        foreground: [F] int64 indices of anchors.
    """

    focal: Tensor
    boxes: Tensor
    valid: Tensor
    foreground: Tensor

    @property
    def normalizer(self) -> int:
        """max(1, number of foreground anchors)."""
        return max(1, len(self.foreground))

    @property
    def classification(self) -> Tensor:
        """Scalar, normalised."""
        return self.focal.sum() / self.normalizer

    @property
    def bbox_regression(self) -> Tensor:
        """Scalar, normalised."""
        return self.boxes.sum() / self.normalizer


def image_losses(
    cls_logits: Tensor,
    bbox_regression: Tensor,
    anchors: Tensor,
    matched_idxs: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    variant: Variant,
    config: LossConfig,
) -> ImageLosses:
    """The losses of one image from its predictions and its matches.

    Args:
        cls_logits: [R, K].
        bbox_regression: [R, 4].
        anchors: [R, 4] xyxy.
        matched_idxs: [R], as in `AssignmentTrace`.
        gt_boxes: [G, 4] xyxy in the pixels of the anchors.
        gt_labels: [G].
        variant: chooses the box loss.
        config: alpha and gamma.
    """
    valid = matched_idxs != IGNORED
    foreground = torch.where(matched_idxs >= 0)[0]
    targets = classification_targets(matched_idxs, gt_labels, cls_logits)
    focal = sigmoid_focal_loss(cls_logits[valid], targets[valid], config.alpha, config.gamma)
    boxes = box_losses(
        bbox_regression[foreground],
        anchors[foreground],
        gt_boxes[matched_idxs[foreground]],
        variant,
    )
    return ImageLosses(focal, boxes, valid, foreground)


def compute_loss(
    outputs: Outputs, match: AssignmentTrace, config: LossConfig | None = None
) -> LossTrace:
    """Both losses of one image. Gradients flow to `outputs` where it has them.

    Args:
        outputs: of the image.
        match: from `assign` on the same outputs.
        config: alpha and gamma; the paper's by default.
    """
    config = config or LossConfig()
    losses = image_losses(
        torch.cat(outputs.cls_logits),
        torch.cat(outputs.bbox_regression),
        torch.cat(outputs.anchors),
        match.matched_idxs,
        match.gt_boxes,
        match.gt_labels,
        outputs.config.variant,
        config,
    )
    focal = losses.focal.sum(dim=1) / losses.normalizer
    boxes = losses.boxes.sum(dim=1) if losses.boxes.dim() == 2 else losses.boxes
    nothing = focal.new_zeros(outputs.num_anchors)
    return LossTrace(
        classification=losses.classification,
        bbox_regression=losses.bbox_regression,
        per_anchor=nothing.index_put((losses.valid,), focal),
        per_anchor_bbox=nothing.index_put((losses.foreground,), boxes / losses.normalizer),
        num_foreground=len(losses.foreground),
        anchors_per_level=outputs.anchors_per_level,
        config=config,
    )
