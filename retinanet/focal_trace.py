"""`compute_loss` for a hand that turns alpha and gamma: the same trace, many times sooner.

Every anchor's columns are summed as negatives once for a gamma, whatever the ground truth, and the
sums for `GAMMA_NODES` are kept; alpha is a factor. Only foreground anchors are looked at again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet.assignment import IGNORED, AssignmentTrace
from retinanet.config import LossConfig
from retinanet.focal import (
    foreground_mask,
    matched_labels,
    negative_logits,
    row_losses,
    rows_of,
)
from retinanet.losses import LossTrace, box_losses
from retinanet.pair_sums import loss_sums
from retinanet.types import Outputs


@torch.no_grad()
def loss_from_sums(
    outputs: Outputs, match: AssignmentTrace, config: LossConfig | None = None
) -> LossTrace:
    """The trace of `compute_loss`, to float32's rounding, without gradients; on the CPU.

    Args:
        outputs: of the image.
        match: from `assign` on the same outputs.
        config: alpha and gamma; the paper's by default.

    Raises:
        ValueError: the match is of other anchors.
    """
    config = config or LossConfig()
    foreground = torch.where(foreground_mask(outputs, match))[0]
    normalizer = max(1, len(foreground))
    per_anchor = (1 - config.alpha) * loss_sums(outputs, config.gamma)
    per_anchor[match.matched_idxs.cpu() == IGNORED] = 0
    per_anchor[foreground] = _foreground_losses(outputs, match, foreground, config)
    per_anchor /= normalizer
    boxes = _box_losses(outputs, match, foreground) / normalizer
    return LossTrace(
        classification=per_anchor.double().sum().float(),
        bbox_regression=boxes.double().sum().float(),
        per_anchor=per_anchor,
        per_anchor_bbox=torch.zeros_like(per_anchor).index_put((foreground,), boxes),
        num_foreground=len(foreground),
        anchors_per_level=outputs.anchors_per_level,
        config=config,
    )


def _foreground_losses(
    outputs: Outputs, match: AssignmentTrace, anchors: Tensor, config: LossConfig
) -> Tensor:
    """[F], not normalised: the own class as a positive, the other columns as negatives."""
    labels = matched_labels(match, anchors)
    x = rows_of(outputs, anchors).cpu().gather(1, labels[:, None])
    # A positive with logit x costs what a negative with -x does.
    positive = row_losses(-x, config.gamma)
    others = row_losses(negative_logits(outputs, match, anchors), config.gamma)
    return config.alpha * positive + (1 - config.alpha) * others


def _box_losses(outputs: Outputs, match: AssignmentTrace, anchors: Tensor) -> Tensor:
    """[F], not normalised; summed over the four deltas where the loss is L1."""
    deltas, boxes = (
        torch.cat(levels).cpu()[anchors] for levels in (outputs.bbox_regression, outputs.anchors)
    )
    targets = match.gt_boxes.cpu()[match.matched_idxs.cpu()[anchors]]
    losses = box_losses(deltas, boxes, targets, outputs.config.variant)
    return losses.sum(dim=1) if losses.dim() == 2 else losses
