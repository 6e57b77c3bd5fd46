"""The best (anchor, class) pairs of a pyramid level, decoded, and the floors of single classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from retinanet.box_coder import decode
from retinanet.config import PostprocessConfig
from retinanet.types import Outputs

BEYOND = np.iinfo(np.int64).max
"""The place of a pair that is not among the prepared ones."""


@dataclass(frozen=True, eq=False, slots=True)
class LevelHead:
    """The best M pairs of one level, by score; equal scores by flat index (anchor, then class).

    In the head that `Candidates.enter` gives, equal scores are in torchvision's order instead, of
    those that the cut divides, torchvision's are before it, and pairs under their class's floor
    are left out.

    Args:
        scores: [M] float32 in [0, 1]; 0 where the logit is not a number.
        anchors: [M] int64 index of the anchor within its level.
        labels: [M] int64.
        boxes: [M, 4] float32 xyxy, decoded and clipped, pixels of the resized image.
        negated: [M] float32 on the CPU, -scores: ascending, so that it can be searched.
        rows: [M] int64 place of each pair among all the prepared ones of its level, in the order
            by flat index; `BEYOND` for one that is not among them.
    """

    scores: Tensor
    anchors: Tensor
    labels: Tensor
    boxes: Tensor
    negated: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.negated)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        tensors = (self.scores, self.anchors, self.labels, self.boxes)
        return sum(part.nbytes for part in (*tensors, self.negated, self.rows))

    def count_above(self, score_thresh: float) -> int:
        """How many of these pairs have a score strictly above the threshold."""
        return int(np.searchsorted(self.negated, -np.float32(score_thresh), side="left"))

    def has_ties(self, count: int) -> bool:
        """Whether two of the first `count` scores are equal."""
        return bool((self.negated[1:count] == self.negated[: max(count - 1, 0)]).any())

    def where(self, mask: Tensor) -> LevelHead:
        """The pairs where `mask` [M] bool is True; this very head when it is all of them."""
        chosen = mask.nonzero().flatten()
        if len(chosen) == len(self):
            return self
        columns = (self.scores, self.anchors, self.labels, self.boxes)
        rows = chosen.cpu().numpy()
        return LevelHead(
            *(column.index_select(0, chosen) for column in columns),
            negated=self.negated[rows],
            rows=self.rows[rows],
        )


@dataclass(frozen=True, eq=False, slots=True)
class Floors:
    """What a pair's score must be above because of its class.

    They do not depend on `score_thresh`: a floor below it does nothing, as no pair goes on that
    the floor would stop.

    Args:
        pairs: (label, floor) of the classes that have one.
        by_label: [K] float32, the floors; -1 for a class that has none.
    """

    pairs: tuple[tuple[int, float], ...]
    by_label: Tensor

    @classmethod
    def of(cls, outputs: Outputs, config: PostprocessConfig) -> Floors | None:
        """Those of a setting for the classes of a model; None when there are none."""
        if not config.class_score_thresh:
            return None
        classes = outputs.num_classes
        pairs = tuple(pair for pair in config.class_score_thresh if pair[0] < classes and pair[1])
        if not pairs:
            return None
        by_label = [-1.0] * classes
        for label, floor in pairs:
            by_label[label] = floor
        return cls(pairs, torch.tensor(by_label, device=outputs.device))

    def passed(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Which scores [N] of pairs with labels [N] are above their class's floor, [N] bool."""
        return scores > self.by_label.index_select(0, labels)

    def applied(self, head: LevelHead) -> LevelHead:
        """The pairs of a head that are above their class's floor."""
        return head.where(self.passed(head.scores, head.labels))

    def masked(self, scores: Tensor) -> Tensor:
        """The scores [R, K], with -1 for those that are not above their class's floor."""
        return torch.where(scores > self.by_label, scores, -1.0)

    def none_at_most(self, score: float) -> bool:
        """Whether no pair with at most this score can be above its class's floor."""
        return float(self.by_label.min()) >= score


def level_scores(logits: Tensor) -> Tensor:
    """The scores [R, K] of logits [R, K]."""
    # A logit that is not a number passes no threshold in torchvision; a score of 0 neither.
    return torch.sigmoid(logits).nan_to_num_(nan=0.0)


def make_head(outputs: Outputs, level: int, scores: Tensor, size: int) -> LevelHead:
    """A level's best `size` pairs; fewer when fewer of the scores [R, K] are 0 or more."""
    pairs = _best_pairs(scores, size)
    anchors, labels = pairs // scores.shape[1], pairs % scores.shape[1]
    best = scores.flatten()[pairs]
    return LevelHead(
        scores=best,
        anchors=anchors,
        labels=labels,
        boxes=_boxes(outputs, level, anchors),
        negated=-best.cpu().numpy(),
        rows=np.arange(len(best)),
    )


def starting_with(
    outputs: Outputs, level: int, head: LevelHead, flat: Tensor, chosen: Tensor
) -> LevelHead:
    """The head with other pairs of the same scores first.

    Args:
        outputs: what the head was made from.
        level: its level.
        head: M pairs.
        flat: [M] int64 flat indices of the head's pairs.
        chosen: [take] int64 flat indices; one that is not the head's has the head's last score.
    """
    ascending, rows = flat.sort()
    near = torch.searchsorted(ascending, chosen).clamp_(max=len(flat) - 1)
    inside = ascending[near] == chosen
    first = rows[near]
    left = torch.ones_like(flat, dtype=torch.bool)
    left[first[inside]] = False
    left = left.nonzero().flatten()
    order = torch.cat([torch.where(inside, first, len(flat)), left])[: len(flat)]
    if bool(inside.all()):
        anchors, labels, boxes = (
            column.index_select(0, order) for column in (head.anchors, head.labels, head.boxes)
        )
    else:
        pairs = torch.cat([chosen, flat[left]])[: len(flat)]
        anchors, labels = pairs // outputs.num_classes, pairs % outputs.num_classes
        boxes = _boxes(outputs, level, anchors)
    places = np.append(head.rows, BEYOND)[order.cpu().numpy()]
    return replace(head, anchors=anchors, labels=labels, boxes=boxes, rows=places)


def _boxes(outputs: Outputs, level: int, anchors: Tensor) -> Tensor:
    """The decoded and clipped boxes [N, 4] of a level's anchors [N]."""
    boxes = decode(outputs.bbox_regression[level][anchors], outputs.anchors[level][anchors])
    return clip_boxes_to_image(boxes, outputs.image_size)


def _best_pairs(scores: Tensor, size: int) -> Tensor:
    """Flat indices of the best `size` of scores [R, K], by score, then by index; none below 0."""
    flat = scores.flatten()
    # The `size` best anchors alone hold `size` pairs this good, so nothing below can be in.
    enough = len(scores) >= size
    floor = scores.amax(dim=1).topk(size).values[-1].clamp(min=0) if enough else 0.0
    index = (flat >= floor).nonzero().flatten()
    values = flat[index]
    if len(values) > size:
        worst = values.topk(size).values[-1]
        tied = (values == worst).nonzero().flatten()
        above = (values > worst).nonzero().flatten()
        chosen = torch.cat([above, tied[: size - len(above)]]).sort().values
        index, values = index[chosen], values[chosen]
    return index[values.sort(descending=True, stable=True).indices]
