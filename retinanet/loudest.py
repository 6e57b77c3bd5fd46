"""The anchors that hold most of the classification loss, and one anchor's loss in its numbers."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image, sigmoid_focal_loss

from retinanet.assignment import BACKGROUND, AssignmentTrace
from retinanet.box_coder import decode
from retinanet.config import ConfigError, LossConfig
from retinanet.explain import place_of_anchor
from retinanet.focal import alpha_t, foreground_mask, matched_labels, p_t, rows_of
from retinanet.images import resize_boxes
from retinanet.losses import LossTrace
from retinanet.types import LEVELS, Outputs

Kind = Literal["positive", "negative", "any"]
Fate = Literal["foreground", "ignored", "background"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class AnchorLoss:
    """One anchor's classification loss, by the column that holds most of it.

    Args:
        anchor: index among the anchors of all levels.
        place: "level", "cell", "anchor", "anchor_shape"; see `explain.place_of_anchor`.
        fate: what matching made of it. An ignored anchor is in no loss: its numbers are those it
            would have as background, and `loss` is 0.
        matched: index of the ground truth it is trained on, None unless foreground.
        max_iou: IoU with the best ground truth, in [0, 1].
        best_gt: index of that ground truth, None when there is none.
        label: the column.
        category: its name.
        target: 1 where it is the matched class of a foreground anchor, else 0.
        logit: x, the network's number.
        p: sigmoid(x), the score.
        p_t: p for target 1, 1 - p for target 0.
        alpha_t: alpha for target 1, 1 - alpha for target 0.
        modulating_factor: (1 - p_t)^gamma.
        cross_entropy: -log(p_t), nats.
        focal: alpha_t (1 - p_t)^gamma -log(p_t), of this column.
        num_columns: K.
        focal_sum: of all K columns.
        normalizer: max(1, number of foreground anchors).
        loss: focal_sum / normalizer, its part of the image's loss (`LossTrace.per_anchor`).
        config: alpha and gamma.
    """

    anchor: int
    place: dict[str, Any]
    fate: Fate
    matched: int | None
    max_iou: float
    best_gt: int | None
    label: int
    category: str
    target: int
    logit: float
    p: float
    p_t: float
    alpha_t: float
    modulating_factor: float
    cross_entropy: float
    focal: float
    num_columns: int
    focal_sum: float
    normalizer: int
    loss: float
    config: LossConfig


@dataclass(frozen=True, slots=True)
class Loud:
    """An anchor with much of the loss. Boxes are xyxy in pixels of the ORIGINAL picture.

    Args:
        anchor: index among the anchors of all levels.
        level: "P3" .. "P7".
        loss: its part of the image's classification loss.
        share: of that loss, in [0, 1].
        box: the anchor, which may reach beyond the picture.
        predicted_box: what it predicts, clipped to the picture.
        label: the column that holds most of its loss.
        category: that column's name.
        score: that column's, in [0, 1].
        target: 1 where that column is the matched class of a foreground anchor, else 0.
        matched: index of the ground truth it is trained on, None for background.
        max_iou: IoU of the anchor with the best ground truth, in [0, 1].
        sentence: what is the matter.
    """

    anchor: int
    level: str
    loss: float
    share: float
    box: Box
    predicted_box: Box
    label: int
    category: str
    score: float
    target: int
    matched: int | None
    max_iou: float
    sentence: str


@torch.no_grad()
def anchor_loss(
    outputs: Outputs, match: AssignmentTrace, anchor: int, config: LossConfig | None = None
) -> AnchorLoss:
    """The formula of one anchor with its real numbers (paper, equation 5).

    Args:
        outputs: of the image.
        match: from `assign` on the same outputs.
        anchor: index among the anchors of all levels.
        config: alpha and gamma; the paper's by default.

    Raises:
        IndexError: there is no such anchor.
        ValueError: the match is of other anchors.
    """
    config = config or LossConfig()
    foreground = foreground_mask(outputs, match)
    level, within = level_of(outputs, anchor)
    matched = int(match.matched_idxs[anchor])
    logits = rows_of(outputs, torch.tensor([operator.index(anchor)])).cpu()  # [1, K]
    targets = torch.zeros_like(logits)
    if matched >= 0:
        targets[0, matched_labels(match, torch.tensor([anchor]))] = 1.0
    focal = sigmoid_focal_loss(logits, targets, config.alpha, config.gamma)
    # Many columns can hold nothing at all; the highest logit is then the one to show.
    label = int(focal.argmax() if focal.max() > 0 else logits.argmax())
    x, target = logits[0, label].double(), targets[0, label].double()
    probability = p_t(x, target)
    normalizer = max(1, int(foreground.sum()))
    fate: Fate = "foreground" if matched >= 0 else "ignored"
    if matched == BACKGROUND:
        fate = "background"
    focal_sum = float(focal.sum(dim=1))
    best_gt = int(match.best_gt[anchor])
    return AnchorLoss(
        anchor=operator.index(anchor),
        place=place_of_anchor(outputs, level, within),
        fate=fate,
        matched=matched if matched >= 0 else None,
        max_iou=float(match.max_iou[anchor]),
        best_gt=best_gt if best_gt >= 0 else None,
        label=label,
        category=outputs.category_name(label),
        target=int(target),
        logit=float(x),
        p=float(torch.sigmoid(x)),
        p_t=float(probability),
        alpha_t=float(alpha_t(target, config.alpha)),
        modulating_factor=float(p_t(x, 1 - target) ** config.gamma),  # of the other side: 1 - p_t
        cross_entropy=float(-torch.nn.functional.logsigmoid(x if target else -x)),
        focal=float(focal[0, label]),
        num_columns=outputs.num_classes,
        focal_sum=focal_sum,
        normalizer=normalizer,
        loss=0.0 if fate == "ignored" else focal_sum / normalizer,
        config=config,
    )


def level_of(outputs: Outputs, anchor: int) -> tuple[int, int]:
    """Index of its level, and of the anchor within that, from its index among all.

    Raises:
        IndexError: there is no such anchor.
    """
    anchor = operator.index(anchor)
    if not 0 <= anchor < outputs.num_anchors:
        raise IndexError(f"There is no anchor {anchor}: there are {outputs.num_anchors:,}.")
    level = 0
    while anchor >= outputs.anchors_per_level[level]:
        anchor -= outputs.anchors_per_level[level]
        level += 1
    return level, anchor


@torch.no_grad()
def loudest(
    outputs: Outputs,
    match: AssignmentTrace,
    loss: LossTrace,
    kind: Kind = "positive",
    count: int = 12,
    apart_iou: float = 0.5,
) -> list[Loud]:
    """The anchors with most classification loss, one for each place.

    An anchor is passed over where a louder one that is listed overlaps it with an IoU above
    `apart_iou`: NMS on the anchors with their losses as scores, all classes together.

    Args:
        outputs: of the image.
        match: from `assign` on the same outputs.
        loss: from `compute_loss` on both.
        kind: "positive" for foreground anchors, "negative" for background ones, "any".
        count: at most so many.
        apart_iou: in [0, 1].

    Returns:
        From the most loss to the least; anchors without loss are left out.

    Raises:
        ConfigError: another kind, count below 0 or an IoU out of range.
        ValueError: the match is of other anchors.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"kind must be {', '.join(get_args(Kind))}, not {kind!r}.")
    if count < 0 or not 0 <= apart_iou <= 1:
        raise ConfigError("count must be 0 or more and apart_iou between 0 and 1.")
    foreground = foreground_mask(outputs, match).to(outputs.device)
    losses = loss.per_anchor.detach().clone()
    if kind != "any":
        losses[foreground if kind == "negative" else ~foreground] = 0
    total = float(loss.classification.detach())
    return [
        _loud(outputs, match, anchor, total, loss.config)
        for anchor in _apart(torch.cat(outputs.anchors), losses, count, apart_iou)
    ]


def _apart(boxes: Tensor, losses: Tensor, count: int, apart_iou: float) -> list[int]:
    """The first `count` of what NMS keeps: 200,000 boxes need no full NMS for a dozen of them."""
    left, picked = losses.clone(), []
    for _ in range(count):
        best = int(left.argmax())
        if not left[best] > 0:
            break
        picked.append(best)
        left[box_iou(boxes[best : best + 1], boxes)[0] > apart_iou] = 0
        left[best] = 0
    return picked


def _loud(
    outputs: Outputs, match: AssignmentTrace, anchor: int, total: float, config: LossConfig
) -> Loud:
    own = anchor_loss(outputs, match, anchor, config)
    level, within = level_of(outputs, anchor)
    box = outputs.anchors[level][within : within + 1]
    deltas = outputs.bbox_regression[level][within : within + 1].detach()
    predicted = clip_boxes_to_image(decode(deltas, box), outputs.image_size)
    return Loud(
        anchor=own.anchor,
        level=LEVELS[level],
        loss=own.loss,
        share=own.loss / total if total else 0.0,
        box=_original(outputs, box),
        predicted_box=_original(outputs, predicted),
        label=own.label,
        category=own.category,
        score=own.p,
        target=own.target,
        matched=own.matched,
        max_iou=own.max_iou,
        sentence=_sentence(own, box, outputs, match),
    )


def _original(outputs: Outputs, box: Tensor) -> Box:
    x1, y1, x2, y2 = resize_boxes(box, outputs.image_size, outputs.original_size)[0].tolist()
    return (x1, y1, x2, y2)


def _sentence(own: AnchorLoss, box: Tensor, outputs: Outputs, match: AssignmentTrace) -> str:
    """What its loudest column says of it, and what may be behind that."""
    says = f"{own.category} {own.p:.2f}" if own.p >= 0.01 else f"{own.category} below 0.01"
    if own.fate == "foreground":
        name = outputs.category_name(int(match.gt_labels[own.matched]))
        lead = f"foreground for {name} (IoU {own.max_iou:.2f})"
        if not own.target and own.p < 0.5:
            return f"{lead}, and most of its loss is of another class, {says}: an easy negative"
        if not own.target:
            return f"{lead}, but the model says {says}: another class"
        if own.p < 0.5:
            return f"{lead}, but the model says {says}: below 0.5, a hard positive"
        return f"{lead}, and the model says {says}: well classified"
    if own.p < 0.5:
        return f"background, and the model says {says}: below 0.5, an easy negative"
    # Not only its best object: an anchor on a rider may overlap the motorcycle a little more.
    same = match.gt_boxes[match.gt_labels == own.label]
    iou = float(box_iou(box, same).max()) if len(same) else 0.0
    if iou > 0:
        return (
            f"background, but the model says {says}: IoU {iou:.2f} with an object of that "
            f"class, below bg_iou_thresh {match.config.bg_iou_thresh:g}"
        )
    return f"background, but the model says {says}: a missing label, or a false alarm"
