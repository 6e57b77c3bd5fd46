"""Who holds the classification loss: easy negatives, hard negatives or the foreground.

Paper: arXiv 1708.02002, sections 3 and 5.1. A pair is one (anchor, class) column of an anchor that
is not ignored; a foreground anchor has one positive pair, its other columns are negatives, as in
torchvision. All sums are over every pair, none is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from retinanet.assignment import BACKGROUND, IGNORED, AssignmentTrace
from retinanet.config import LossConfig
from retinanet.focal import focal_curve, foreground_mask, foreground_terms, rows_of
from retinanet.pair_sums import (
    SHARE_GAMMAS,
    Sums,
    hard_negatives,
    histogram,
    negative_totals,
    positive_p_t,
    positive_sums,
    sums_of_anchors,
)
from retinanet.types import Outputs

GROUPS: tuple[str, ...] = ("easy negatives", "hard negatives", "foreground")
"""Easy: p_t > 0.5, which Figure 1 of the paper calls well classified."""

WEIGHTINGS: tuple[str, ...] = ("cross_entropy", "balanced", "focal")
"""Equations 1, 3 and 5 of the paper."""

TABLE_1A: Mapping[float, float] = {
    0.10: 0.0,
    0.25: 10.8,
    0.50: 30.2,
    0.75: 31.1,
    0.90: 30.8,
    0.99: 28.7,
    0.999: 25.1,
}
"""Paper, table 1a: alpha -> AP with cross entropy (gamma 0)."""

TABLE_1B: Mapping[tuple[float, float], float] = {
    (0.0, 0.75): 31.1,
    (0.5, 0.50): 32.9,
    (1.0, 0.25): 33.7,
    (2.0, 0.25): 34.0,
    (5.0, 0.25): 32.2,
}
"""Paper, table 1b: (gamma, its best alpha) -> AP."""

CDF_GAMMAS: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Those of the paper's Figures 1 and 4."""

MAX_POINTS = 400
"""Of a curve that is drawn."""

Side = Literal["positives", "negatives"]


@dataclass(frozen=True, slots=True)
class Group:
    """One of `GROUPS`. The mappings have a number for each of `WEIGHTINGS`.

    Args:
        name: of the group.
        pairs: number of its (anchor, class) pairs.
        pair_share: of all pairs, in [0, 1].
        loss: its sum, not normalised.
        loss_share: of the sum of all groups, in [0, 1]; 0 where that is 0.
        gradient_share: the same of the sum of |dloss/dlogit|.
    """

    name: str
    pairs: int
    pair_share: float
    loss: Mapping[str, float]
    loss_share: Mapping[str, float]
    gradient_share: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Holders:
    """Who holds the loss of an image.

    Args:
        groups: in the order of `GROUPS`; their pairs are all pairs of valid anchors.
        num_pairs: of all groups.
        num_foreground: number of foreground anchors.
        config: alpha and gamma.
    """

    groups: tuple[Group, ...]
    num_pairs: int
    num_foreground: int
    config: LossConfig

    @property
    def totals(self) -> dict[str, float]:
        """The image's loss by each weighting, over max(1, num_foreground), as in torchvision.

        "focal" is `LossTrace.classification`.
        """
        return {
            name: sum(group.loss[name] for group in self.groups) / max(1, self.num_foreground)
            for name in WEIGHTINGS
        }


def holders(outputs: Outputs, match: AssignmentTrace, config: LossConfig | None = None) -> Holders:
    """Counts and shares of the easy negatives, the hard ones and the foreground.

    Args:
        outputs: of the image.
        match: from `assign` on the same outputs.
        config: alpha and gamma; the paper's by default.

    Raises:
        ValueError: the match is of other anchors.
    """
    config = config or LossConfig()
    gammas = (0.0, config.gamma)
    terms = foreground_terms(outputs, match)
    hard_pairs, hard = hard_negatives(outputs, match, gammas)
    negatives = negative_totals(outputs, match, gammas)
    valid = int((match.matched_idxs != IGNORED).sum())
    positives = len(terms.anchors)
    easy_pairs = valid * outputs.num_classes - positives - hard_pairs
    easy = Sums(*(np.maximum(a - h, 0) for a, h in zip(negatives, hard, strict=True)))
    sums = (easy, hard, positive_sums(terms, gammas))
    weights = (1 - config.alpha, 1 - config.alpha, config.alpha)
    losses = [_weighted(own.loss, weight) for own, weight in zip(sums, weights, strict=True)]
    slopes = [_weighted(own.gradient, weight) for own, weight in zip(sums, weights, strict=True)]
    counts = (easy_pairs, hard_pairs, positives)
    groups = tuple(
        Group(name, pairs, _share(pairs, sum(counts)), loss, loss_share, gradient_share)
        for name, pairs, loss, loss_share, gradient_share in zip(
            GROUPS, counts, losses, _shares(losses), _shares(slopes), strict=True
        )
    )
    return Holders(groups, sum(counts), positives, config)


def _weighted(sums: NDArray, weight: float) -> dict[str, float]:
    """By `WEIGHTINGS`, from sums at gamma 0 and at the one in question."""
    plain, focal = sums.tolist()
    return dict(zip(WEIGHTINGS, (plain, weight * plain, weight * focal), strict=True))


def _shares(parts: list[dict[str, float]]) -> list[dict[str, float]]:
    totals = {name: sum(part[name] for part in parts) for name in WEIGHTINGS}
    return [{name: _share(part[name], totals[name]) for name in WEIGHTINGS} for part in parts]


def _share(part: float, total: float) -> float:
    return float(part / total) if total else 0.0


def shares_over_gamma(
    outputs: Outputs,
    match: AssignmentTrace,
    alphas: Sequence[float] = (0.25, 0.5, 0.75),
    gammas: Sequence[float] | None = None,
) -> list[dict[str, float]]:
    """What the foreground's pairs hold of the loss and of the gradient, as gamma grows.

    Args:
        outputs: of the image.
        match: from `assign` on the same outputs.
        alphas: weights of the foreground term, each in [0, 1].
        gammas: 0 or more; `SHARE_GAMMAS` by default.

    Returns:
        A row for each alpha and gamma: {"alpha", "gamma", "foreground_loss_share",
        "foreground_gradient_share"}, shares in [0, 1].

    Raises:
        ConfigError: an alpha or a gamma is out of range.
        ValueError: the match is of other anchors.
    """
    gammas = SHARE_GAMMAS if gammas is None else tuple(gammas)
    configs = [LossConfig(alpha, gamma) for alpha in alphas for gamma in gammas]
    positives = positive_sums(foreground_terms(outputs, match), gammas)
    negatives = negative_totals(outputs, match, gammas)
    rows = []
    for config in configs:
        at, weight = gammas.index(config.gamma), config.alpha
        row = {"alpha": weight, "gamma": config.gamma}
        for name in Sums._fields:
            part = weight * getattr(positives, name)[at]
            rest = (1 - weight) * getattr(negatives, name)[at]
            row[f"foreground_{name}_share"] = _share(part, part + rest)
        rows.append(row)
    return rows


class Rugs(NamedTuple):
    """Where the image's own pairs stand on the axis p_t.

    Args:
        positives: [F] float64, p_t of each foreground anchor's matched class.
        negatives: [B] int64, the number of negative pairs in each bin [edge, next edge).
    """

    positives: NDArray
    negatives: NDArray

    @property
    def edges(self) -> NDArray:
        """[B + 1] float64, of equal bins from 0 to 1."""
        return np.linspace(0, 1, len(self.negatives) + 1)


def rugs(outputs: Outputs, match: AssignmentTrace) -> Rugs:
    """p_t of the positives, and a histogram of p_t of all negative pairs.

    Raises:
        ValueError: the match is of other anchors.
    """
    terms = foreground_terms(outputs, match)
    ignored = torch.where(match.matched_idxs.cpu() == IGNORED)[0]
    counts = outputs.derived("p_t_histogram", lambda own: histogram(own.cls_logits)).copy()
    counts -= histogram([rows_of(outputs, ignored)])
    own = rows_of(outputs, terms.anchors).gather(1, terms.labels[:, None].to(outputs.device))
    counts -= histogram([own])
    return Rugs(terms.p.numpy(), counts)


def sample_losses(outputs: Outputs, match: AssignmentTrace, side: Side, gamma: float) -> NDArray:
    """The loss of each sample of the paper's Figure 4 without alpha, from low to high.

    Args:
        outputs: of the image.
        match: from `assign` on the same outputs.
        side: "positives" are the foreground anchors, each with its matched class only;
            "negatives" the background anchors, each with the sum over its columns.
        gamma: 0 or more.

    Returns:
        [samples] float64.

    Raises:
        ValueError: another side, or the match is of other anchors.
    """
    if side == "positives":
        return np.sort(focal_curve(positive_p_t(foreground_terms(outputs, match)), 1.0, gamma))
    if side != "negatives":
        raise ValueError(f"side must be positives or negatives, not {side!r}.")
    foreground_mask(outputs, match)
    background = match.matched_idxs.cpu() == BACKGROUND
    return np.sort(sums_of_anchors(outputs, [gamma])[0][background, 0].double().numpy())


def hardest_share(losses: NDArray, fraction: float = 0.2) -> float:
    """What the hardest samples hold of the loss, in [0, 1].

    Args:
        losses: [samples], from low to high, as `sample_losses` gives them.
        fraction: of the samples, in [0, 1]; a sample that it cuts counts in part.
    """
    x, y = _cdf(losses)
    return float(1 - np.interp(1 - fraction, x, y)) if len(x) else 0.0


def normalised_cdfs(
    outputs: Outputs, match: AssignmentTrace, gammas: Sequence[float] = CDF_GAMMAS
) -> dict[str, dict[float, tuple[NDArray, NDArray]]]:
    """Cumulative loss from the easiest sample to the hardest (paper, Figure 4).

    Args:
        outputs: of the image.
        match: from `assign` on the same outputs.
        gammas: 0 or more.

    Returns:
        {"positives", "negatives"} -> {gamma: (x, y)}: x the fraction of the samples, y the share
        of the loss that they hold, both float64 from 0 to 1, at most `MAX_POINTS` points on the
        exact curve. What a sample is: see `sample_losses`. Empty where there is no sample or no
        loss.
    """
    return {
        side: {
            gamma: _thinned(*_cdf(sample_losses(outputs, match, side, gamma))) for gamma in gammas
        }
        for side in ("positives", "negatives")
    }


def hardest_shares(
    outputs: Outputs,
    match: AssignmentTrace,
    gammas: Sequence[float] = CDF_GAMMAS,
    fraction: float = 0.2,
) -> dict[str, dict[float, float]]:
    """`hardest_share` by side and gamma, from all samples."""
    return {
        side: {
            gamma: hardest_share(sample_losses(outputs, match, side, gamma), fraction)
            for gamma in gammas
        }
        for side in ("positives", "negatives")
    }


def _cdf(losses: NDArray) -> tuple[NDArray, NDArray]:
    total = np.append(0.0, np.cumsum(losses))
    if not total[-1] > 0:
        return np.zeros(0), np.zeros(0)
    return np.linspace(0, 1, len(total)), total / total[-1]


def _thinned(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Points even in x and points even in y: the second kind follow the steep end."""
    if len(x) <= MAX_POINTS:
        return x, y
    even = np.linspace(0, 1, MAX_POINTS // 2)
    last = len(x) - 1
    picked = np.append(np.rint(even * last).astype(int), np.searchsorted(y, even).clip(max=last))
    picked = np.unique(picked)
    return x[picked], y[picked]
