"""Sums of loss and gradient over an image's (anchor, class) pairs, at any gamma, without alpha.

A pair is positive where it is the matched class of a foreground anchor; the other columns of that
anchor, and all of a background anchor's, are negatives. Ignored anchors have no part in it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retinanet.assignment import BACKGROUND, IGNORED, AssignmentTrace
from retinanet.focal import (
    GAMMA_NODES,
    ForegroundTerms,
    NegativeSums,
    anchor_sums,
    column_sums,
    focal_curve,
    focal_gradient,
    foreground_mask,
    negative_logits,
    negative_sums,
    row_losses,
)
from retinanet.types import Outputs

SHARE_GAMMAS: tuple[float, ...] = tuple(step / 2 for step in range(11))
"""The grid 0, 0.5 .. 5; sums on it are kept with the outputs."""

_GRID_GAMMAS = tuple(gamma for gamma in SHARE_GAMMAS if gamma not in GAMMA_NODES)

HISTOGRAM_BINS = 50
"""Of p_t, equal in width, from 0 to 1."""


class Sums(NamedTuple):
    """Loss and |gradient| of some pairs, without alpha: [G] float64 each, one per gamma."""

    loss: NDArray
    gradient: NDArray


def positive_sums(terms: ForegroundTerms, gammas: Sequence[float]) -> Sums:
    """Over the matched classes of the foreground anchors."""
    p = positive_p_t(terms)
    losses = [focal_curve(p, 1.0, gamma).sum() for gamma in gammas]
    return Sums(np.array(losses), np.array([focal_gradient(p, gamma).sum() for gamma in gammas]))


def positive_p_t(terms: ForegroundTerms) -> NDArray:
    """[F] float64 in (0, 1]."""
    return np.maximum(terms.p.numpy(), np.finfo(np.float64).tiny)  # its logarithm stays finite


def negative_totals(outputs: Outputs, match: AssignmentTrace, gammas: Sequence[float]) -> Sums:
    """Over all negative pairs: the background anchors' columns and the foreground's other ones."""
    foreground = torch.where(foreground_mask(outputs, match))[0]
    background = match.matched_idxs.cpu() == BACKGROUND
    others = column_sums(negative_logits(outputs, match, foreground), gammas)
    rows = sums_of_anchors(outputs, gammas)
    return Sums(*(_total(r[background]) + _total(o) for r, o in zip(rows, others, strict=True)))


def _total(rows: Tensor) -> NDArray:
    return rows.double().sum(dim=0).numpy()


def sums_of_anchors(outputs: Outputs, gammas: Sequence[float]) -> tuple[Tensor, Tensor]:
    """`anchor_sums`; those at `GAMMA_NODES` and `SHARE_GAMMAS` are worked out once and kept."""
    known = dict(_columns(GAMMA_NODES, negative_sums(outputs)))
    if not known.keys() >= set(gammas) and set(gammas) <= known.keys() | set(SHARE_GAMMAS):
        known |= _columns(_GRID_GAMMAS, outputs.derived("grid_sums", _grid_sums))
    missing = [gamma for gamma in gammas if gamma not in known]
    if missing:
        known |= _columns(missing, NegativeSums(*anchor_sums(outputs, missing)))
    losses, gradients = zip(*(known[gamma] for gamma in gammas), strict=True)
    return torch.stack(losses, dim=1), torch.stack(gradients, dim=1)


def loss_sums(outputs: Outputs, gamma: float) -> Tensor:
    """[R] float32: each anchor's columns as negatives at one gamma, the losses alone.

    Those of `GAMMA_NODES` are kept with the outputs, and so are the last few others: a hand that
    turns alpha pays for none.
    """
    if gamma in GAMMA_NODES:
        return negative_sums(outputs).nodes[:, GAMMA_NODES.index(gamma)].clone()
    return outputs.derived("recent_sums", lambda _: _Recent()).of(outputs, gamma).clone()


class _Recent:
    """The sums of the last few gammas that are no nodes; any number of threads may ask."""

    KEEP = 3

    def __init__(self) -> None:
        self._kept: OrderedDict[float, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(sums.nbytes for sums in list(self._kept.values()))

    def of(self, outputs: Outputs, gamma: float) -> Tensor:
        with self._lock:
            if gamma not in self._kept:
                levels = [row_losses(logits, gamma) for logits in outputs.cls_logits]
                self._kept[gamma] = torch.cat(levels)
            self._kept.move_to_end(gamma)
            while len(self._kept) > self.KEEP:
                self._kept.popitem(last=False)
            return self._kept[gamma]


def _grid_sums(outputs: Outputs) -> NegativeSums:
    return NegativeSums(*anchor_sums(outputs, _GRID_GAMMAS))


def _columns(gammas: Sequence[float], sums: NegativeSums) -> dict[float, tuple[Tensor, Tensor]]:
    return dict(zip(gammas, zip(sums.nodes.T, sums.gradients.T, strict=True), strict=True))


def hard_negatives(
    outputs: Outputs, match: AssignmentTrace, gammas: Sequence[float]
) -> tuple[int, Sums]:
    """Number and sums of the negative pairs with p_t <= 0.5, that is a logit of 0 or more."""
    loudest = torch.cat([logits.detach().amax(dim=1).cpu() for logits in outputs.cls_logits])
    rows = torch.where((loudest >= 0) & (match.matched_idxs.cpu() != IGNORED))[0]
    logits = negative_logits(outputs, match, rows)
    easy = logits < 0
    sums = column_sums(logits.masked_fill_(easy, -torch.inf), gammas)
    return easy.numel() - int(easy.sum()), Sums(*map(_total, sums))


def histogram(levels: Sequence[Tensor]) -> NDArray:
    """How many logits, taken as negatives, have their p_t in each bin.

    By the logits, not by their rounded sigmoids, so that equal logits always share a bin.
    """
    p_t = torch.linspace(0, 1, HISTOGRAM_BINS + 1, dtype=torch.float64)[1:-1]
    edges = torch.logit(p_t).float()
    counts = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    for logits in levels:
        bins = torch.bucketize(
            -logits.detach(), edges.to(logits.device), out_int32=True, right=True
        )
        counts += torch.bincount(bins.flatten(), minlength=HISTOGRAM_BINS).cpu().numpy()
    return counts
