"""What the prior probability pi spares a fresh head: its first loss, on this image's own anchors.

Paper: arXiv 1708.02002, sections 3.3 and 4.1: the last bias of the classification subnet is set to
log(pi / (1 - pi)), so that every score starts at pi = 0.01 and the many negatives do not drown
the few positives in the first iterations. Without it every score starts at 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

import torch
from torch import nn

from retinanet.assignment import IGNORED, AssignmentTrace
from retinanet.backbone import FPN_CHANNELS
from retinanet.config import ConfigError, LossConfig
from retinanet.focal import focal_curve, focal_gradient, foreground_mask
from retinanet.head import PRIOR_PROBABILITY, ClassificationHead
from retinanet.losses import compute_loss
from retinanet.model import RetinaNet
from retinanet.types import LEVELS, Outputs

PRIORS: tuple[float, float] = (PRIOR_PROBABILITY, 0.5)
"""The paper's, and that of a bias of 0."""


@dataclass(frozen=True, slots=True)
class FirstLoss:
    """The classification loss of a head that gives every pair the score pi.

    Args:
        pi: the score, in (0, 1).
        bias: of the last layer, log(pi / (1 - pi)).
        num_positives: pairs that are the matched class of a foreground anchor.
        num_negatives: all other pairs of anchors that are not ignored.
        positive: the positives' part of the loss, normalised.
        negative: the negatives' part, normalised.
        negative_gradient_share: of the sum of |dloss/dlogit|, in [0, 1]; 0 where that is 0.
        config: alpha and gamma.
    """

    pi: float
    bias: float
    num_positives: int
    num_negatives: int
    positive: float
    negative: float
    negative_gradient_share: float
    config: LossConfig

    @property
    def total(self) -> float:
        """The loss, over max(1, number of foreground anchors) as in torchvision."""
        return self.positive + self.negative

    @property
    def negative_loss_share(self) -> float:
        """What the negatives hold of it, in [0, 1]; 0 where there is none."""
        return self.negative / self.total if self.total else 0.0


def first_loss(
    outputs: Outputs,
    match: AssignmentTrace,
    config: LossConfig | None = None,
    pi: float = PRIOR_PROBABILITY,
) -> FirstLoss:
    """From the counts alone: the weights' part of a fresh head's logits is taken as 0.

    Args:
        outputs: of the image; its predictions are not used.
        match: from `assign` on the same outputs.
        config: alpha and gamma; the paper's by default.
        pi: in (0, 1).

    Raises:
        ConfigError: pi is out of range.
        ValueError: the match is of other anchors.
    """
    config, bias = config or LossConfig(), prior_bias(pi)
    positives = int(foreground_mask(outputs, match).sum())
    valid = int((match.matched_idxs != IGNORED).sum())
    negatives = valid * outputs.num_classes - positives
    normalizer = max(1, positives)
    up = positives * config.alpha * float(focal_gradient(pi, config.gamma))
    down = negatives * (1 - config.alpha) * float(focal_gradient(1 - pi, config.gamma))
    return FirstLoss(
        pi=float(pi),
        bias=bias,
        num_positives=positives,
        num_negatives=negatives,
        positive=positives * float(focal_curve(pi, config.alpha, config.gamma)) / normalizer,
        negative=negatives
        * float(focal_curve(1 - pi, 1 - config.alpha, config.gamma))
        / normalizer,
        negative_gradient_share=down / (up + down) if up + down else 0.0,
        config=config,
    )


def compare_priors(
    outputs: Outputs,
    match: AssignmentTrace,
    config: LossConfig | None = None,
    priors: Sequence[float] = PRIORS,
) -> list[FirstLoss]:
    """`first_loss` of each prior; raises as that does."""
    return [first_loss(outputs, match, config, pi) for pi in priors]


def prior_bias(pi: float) -> float:
    """The bias b with sigmoid(b) = pi (paper, section 4.1).

    Raises:
        ConfigError: pi is not in (0, 1).
    """
    if isinstance(pi, bool) or not isinstance(pi, Real) or not 0 < pi < 1:
        raise ConfigError(f"The prior pi must be a number between 0 and 1, not {pi!r}.")
    return math.log(pi / (1 - pi))


@torch.no_grad()
def fresh_head_loss(
    model: RetinaNet,
    outputs: Outputs,
    match: AssignmentTrace,
    config: LossConfig | None = None,
    pi: float = PRIOR_PROBABILITY,
) -> float:
    """The classification loss of a really fresh head on this image's own P3..P7.

    A `ClassificationHead` with its usual random weights (seeded) and the bias of pi runs on
    `outputs.features`. `first_loss` leaves the weights' part of the logits out. It is small for
    "v1". For "v2", whose GroupNorm keeps the activations large, it spreads the logits by some 0.3,
    which raises the loss of the negatives at pi 0.01.

    The subnet runs once: seconds on a CPU for a picture of 800x1333.

    Args:
        model: whose shape the head takes; it is not changed.
        outputs: of the image, from this model.
        match: from `assign` on the same outputs.
        config: alpha and gamma; the paper's by default.
        pi: in (0, 1).

    Raises:
        ConfigError: pi is out of range.
    """
    head = _fresh_head(model, pi).to(outputs.device)
    levels = head([outputs.features[name][None] for name in LEVELS])
    fresh = replace(outputs, cls_logits=[level[0] for level in levels])
    return float(compute_loss(fresh, match, config).classification)


def _fresh_head(model: RetinaNet, pi: float) -> ClassificationHead:
    bias = prior_bias(pi)
    with torch.random.fork_rng(devices=[]):  # the same weights every time, nobody else's changed
        torch.manual_seed(0)
        head = ClassificationHead(FPN_CHANNELS, model.config)
    nn.init.constant_(head.cls_logits.bias, bias)
    return head
