"""The focal loss's own arithmetic, and for every anchor the sums that the browser redraws it from.

Paper: arXiv 1708.02002, section 3 and appendix B. A pair is one (anchor, class) column with the
logit x and p = sigmoid(x); p_t is p where the pair is the matched class of a foreground anchor and
1 - p everywhere else. What is written "negative" below takes a pair as one of the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import softplus

from retinanet.anchors import NUM_ANCHORS
from retinanet.assignment import AssignmentTrace
from retinanet.losses import LossTrace
from retinanet.types import Outputs

GAMMA_NODES: tuple[float, ...] = (0.0, 0.2, 0.7, 1.2, 2.0, 3.0, 4.0, 5.0)
"""The gammas at which every anchor's sum is kept.

Of all sets of eight in steps of a tenth these interpolate best (`interpolated_log`): for logits as
models give them, an anchor's sum is within 1%, their total within 0.5%; 1.4% is the worst found
for any mixture of two kinds of columns.
"""

LOG_LOW, LOG_HIGH = -60.0, 6.0
"""The natural logarithms that `packed_sums` maps to 0 and 65,535."""

# 8 MB a temporary. Smaller chunks are no faster on idle cores, and many times slower on busy ones:
# each operation waits for all of torch's threads.
_PAIRS_AT_ONCE = 2**21


def p_t(logits: Tensor, targets: Tensor) -> Tensor:
    """The probability that the model gives to the truth (paper, equation 2).

    Args:
        logits: of any shape.
        targets: the same shape, 1 for a positive and 0 for a negative.
    """
    return torch.sigmoid(torch.where(targets == 1, logits, -logits))  # 1 - sigmoid(x), to the end


def alpha_t(targets: Tensor, alpha: float) -> Tensor:
    """The weight of each pair: alpha for a positive, 1 - alpha for a negative (section 3.1)."""
    return torch.where(targets == 1, alpha, 1 - alpha)


def cross_entropy_curve(p_t: ArrayLike) -> NDArray:
    """CE(p_t) = -log(p_t) (paper, equation 1), in nats; p_t in (0, 1]."""
    return -np.log(np.asarray(p_t, dtype=np.float64))


def balanced_curve(p_t: ArrayLike, alpha: float) -> NDArray:
    """-alpha log(p_t) (paper, equation 3) of a positive; with 1 - alpha it is a negative's."""
    return alpha * cross_entropy_curve(p_t)


def focal_curve(p_t: ArrayLike, alpha: float, gamma: float) -> NDArray:
    """FL(p_t) = -alpha (1 - p_t)^gamma log(p_t) (paper, equation 5); alpha as `balanced_curve`."""
    return (1 - np.asarray(p_t, dtype=np.float64)) ** gamma * balanced_curve(p_t, alpha)


def focal_gradient(p_t: ArrayLike, gamma: float) -> NDArray:
    """|dFL/dx| = (1 - p_t)^gamma |gamma p_t log(p_t) + p_t - 1| (paper, appendix B).

    Without alpha; p_t in [0, 1]. With gamma 0 it is cross entropy's, 1 - p_t.
    """
    p = np.asarray(p_t, dtype=np.float64)
    p_log_p = p * np.log(np.maximum(p, np.finfo(np.float64).tiny))  # 0 at 0
    return (1 - p) ** gamma * np.abs(gamma * p_log_p + p - 1)


@dataclass(frozen=True, eq=False, slots=True)
class NegativeSums:
    """Each anchor's loss and gradient if all of its columns were negatives, without alpha.

    R = anchors of all levels, finest first; on the CPU.

    Args:
        nodes: [R, 8] float32: sum over the K columns of -p^gamma log(1 - p) at each gamma of
            `GAMMA_NODES`.
        gradients: [R, 8] float32: the same of `focal_gradient`, p^gamma (p - gamma (1 - p)
            log(1 - p)).
    """

    nodes: Tensor
    gradients: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.nodes.nbytes + self.gradients.nbytes


def negative_sums(outputs: Outputs) -> NegativeSums:
    """Worked out once and kept with the outputs: 13 MB for a picture of 800x1333."""
    return outputs.derived(
        "negative_sums", lambda own: NegativeSums(*anchor_sums(own, GAMMA_NODES))
    )


def anchor_sums(outputs: Outputs, gammas: Sequence[float]) -> tuple[Tensor, Tensor]:
    """`NegativeSums`'s two tensors [R, G] at other gammas, worked out anew."""
    levels = [column_sums(logits, gammas) for logits in outputs.cls_logits]
    losses, gradients = zip(*levels, strict=True)
    return torch.cat(losses), torch.cat(gradients)


@torch.no_grad()
def column_sums(logits: Tensor, gammas: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Loss and |gradient| of each row, summed over its columns as negatives, without alpha.

    Args:
        logits: [N, K]; -inf leaves a column out.
        gammas: 0 or more.

    Returns:
        Two [N, G] float32 on the CPU.
    """
    rows = max(1, _PAIRS_AT_ONCE // logits.shape[1])
    chunks = [_chunk_sums(chunk, gammas) for chunk in logits.detach().split(rows)]
    losses, gradients = zip(*chunks, strict=True)
    return torch.cat(losses).cpu(), torch.cat(gradients).cpu()


@torch.no_grad()
def row_losses(logits: Tensor, gamma: float) -> Tensor:
    """`column_sums`'s losses [N] at one gamma, without the gradients: half the work.

    Args:
        logits: [N, K]; -inf leaves a column out.
        gamma: 0 or more.
    """
    rows = max(1, _PAIRS_AT_ONCE // logits.shape[1])
    parts = []
    for x in logits.detach().split(rows):
        losses = cross_entropy = softplus(x)  # -log(1 - p) = log(1 + e^x)
        if gamma:
            losses = (x - cross_entropy).mul_(gamma).exp_().mul_(cross_entropy)  # p^gamma of it
        parts.append(losses.sum(dim=1))
    return torch.cat(parts).cpu()


def _chunk_sums(x: Tensor, gammas: Sequence[float]) -> tuple[Tensor, Tensor]:
    p, cross_entropy = torch.sigmoid(x), softplus(x)  # -log(1 - p) = log(1 + e^x)
    log_p = x - cross_entropy
    slope = (1 - p) * cross_entropy
    losses, gradients = [], []
    for gamma in gammas:
        factor = torch.exp(gamma * log_p) if gamma else torch.ones_like(p)  # p^gamma
        losses.append((factor * cross_entropy).sum(dim=1))
        gradients.append((factor * (gamma * slope + p)).sum(dim=1))
    return torch.stack(losses, dim=1), torch.stack(gradients, dim=1)


def packed_nodes(outputs: Outputs) -> NDArray[np.uint16]:
    """`NegativeSums.nodes` for the browser, [R, 8] uint16, as `packed_sums` packs them."""
    return packed_sums(negative_sums(outputs).nodes)


def packed_sums(sums: Tensor) -> NDArray[np.uint16]:
    """Sums S as round((ln S + 60) / 66 * 65535) in 1..65535; to 0.06% of S.

    0 where S is 0, below e^-60 or not a number; S above e^6 = 403 counts as 403.
    """
    values = sums.cpu().numpy()
    logs = np.log(values, out=np.full(values.shape, -np.inf), where=values > 0)
    steps = np.rint((logs - LOG_LOW) / (LOG_HIGH - LOG_LOW) * 65535)
    return np.where(logs < LOG_LOW, 0, steps.clip(1, 65535)).astype(np.uint16)


def unpacked_logs(packed: NDArray[np.uint16]) -> NDArray:
    """Natural logarithms from `packed_sums`, float64; -inf for 0."""
    logs = packed / 65535 * (LOG_HIGH - LOG_LOW) + LOG_LOW
    return np.where(packed == 0, -np.inf, logs)


def interpolated_log(nodes: ArrayLike, gamma: float) -> NDArray:
    """The log of a sum at any gamma in [0, 5] from those at the nodes: piecewise cubic Hermite.

    With x_0..x_7 = `GAMMA_NODES`, y = ln S there, h_i = x_(i+1) - x_i, d_i = (y_(i+1) - y_i) / h_i:

        slopes   m_i = (h_i d_(i-1) + h_(i-1) d_i) / (h_(i-1) + h_i)     for i = 1..6
                 m_0 = d_0 + (d_0 - d_1) h_0 / (h_0 + h_1)
                 m_7 = d_6 + (d_6 - d_5) h_6 / (h_6 + h_5)
        i        the last of 0..6 with x_i <= gamma;   t = (gamma - x_i) / h_i
        ln S   = (1 + 2t) (1 - t)^2 y_i + t (1 - t)^2 h_i m_i
                 + t^2 (3 - 2t) y_(i+1) - t^2 (1 - t) h_i m_(i+1)

    The slopes are those of the parabola through a node and its two neighbours. Where y_i, y_(i+1)
    or a neighbour that the slopes read is -inf (packed 0), so is the answer: the sum is then below
    1e-10, whatever gamma.

    Args:
        nodes: [..., 8] natural logarithms.
        gamma: in [0, 5].

    Raises:
        ValueError: gamma lies outside the nodes.
    """
    x, y = np.array(GAMMA_NODES), np.asarray(nodes, dtype=np.float64)
    if not x[0] <= gamma <= x[-1]:
        raise ValueError(f"gamma must be between {x[0]:g} and {x[-1]:g}, not {gamma:g}.")
    i = min(int(np.searchsorted(x, gamma, side="right")) - 1, len(x) - 2)
    h = np.diff(x)[i]
    t = (gamma - x[i]) / h
    with np.errstate(invalid="ignore"):  # -inf - -inf
        low, high = (h * _slope(x, y, node) for node in (i, i + 1))
        log = (1 + 2 * t) * (1 - t) ** 2 * y[..., i] + t * (1 - t) ** 2 * low
        log = log + t**2 * (3 - 2 * t) * y[..., i + 1] - t**2 * (1 - t) * high
    return np.where(np.isfinite(log), log, -np.inf)


def _slope(x: NDArray, y: NDArray, node: int) -> NDArray:
    """Of the parabola through the node and its neighbours, or through the three at an end."""
    i = min(max(node, 1), len(x) - 2)
    h0, h1 = x[i] - x[i - 1], x[i + 1] - x[i]
    d0, d1 = (y[..., i] - y[..., i - 1]) / h0, (y[..., i + 1] - y[..., i]) / h1
    if node < i:
        return d0 + (d0 - d1) * h0 / (h0 + h1)
    if node > i:
        return d1 + (d1 - d0) * h1 / (h0 + h1)
    return (h1 * d0 + h0 * d1) / (h0 + h1)


@dataclass(frozen=True, eq=False, slots=True)
class ForegroundTerms:
    """The foreground anchors, F of them, in order; on the CPU.

    Args:
        anchors: [F] int64, index among the anchors of all levels.
        labels: [F] int64, the matched object's class.
        p: [F] float64 in [0, 1], the score of that class.
        others: [F, 8] float32, as `NegativeSums.nodes` but over the other K - 1 columns.
        other_gradients: [F, 8] float32, as `NegativeSums.gradients`, over these too.
    """

    anchors: Tensor
    labels: Tensor
    p: Tensor
    others: Tensor
    other_gradients: Tensor


@torch.no_grad()
def foreground_terms(outputs: Outputs, match: AssignmentTrace) -> ForegroundTerms:
    """What the foreground anchors add: their own class as a positive, the others as negatives.

    Raises:
        ValueError: the match is of other anchors.
    """
    anchors = torch.where(foreground_mask(outputs, match))[0]
    labels = matched_labels(match, anchors)
    logits = rows_of(outputs, anchors).gather(1, labels[:, None].to(outputs.device))[:, 0]
    others = column_sums(negative_logits(outputs, match, anchors), GAMMA_NODES)
    return ForegroundTerms(anchors, labels, torch.sigmoid(logits.cpu().double()), *others)


def foreground_mask(outputs: Outputs, match: AssignmentTrace) -> Tensor:
    """[R] bool on the CPU.

    Raises:
        ValueError: the match is of other anchors.
    """
    if len(match.matched_idxs) != outputs.num_anchors:
        raise ValueError(
            f"The match is of {len(match.matched_idxs):,} anchors, the outputs have "
            f"{outputs.num_anchors:,}; match the anchors of these outputs."
        )
    return match.matched_idxs.cpu() >= 0


def matched_labels(match: AssignmentTrace, anchors: Tensor) -> Tensor:
    """The classes [F] that foreground anchors [F] are trained on, on the CPU."""
    return match.gt_labels.cpu()[match.matched_idxs.cpu()[anchors]]


def negative_logits(outputs: Outputs, match: AssignmentTrace, anchors: Tensor) -> Tensor:
    """Logits [N, K] of some anchors [N], -inf at the matched class of those in the foreground."""
    logits = rows_of(outputs, anchors)
    rows = torch.where(match.matched_idxs.cpu()[anchors] >= 0)[0]
    labels = matched_labels(match, anchors[rows])
    logits[rows.to(logits.device), labels.to(logits.device)] = -torch.inf
    return logits


def rows_of(outputs: Outputs, anchors: Tensor) -> Tensor:
    """A copy of the logits [N, K] of some anchors [N], in rising order, on the outputs' device."""
    ends = torch.tensor(outputs.anchors_per_level).cumsum(0)
    starts = [0, *ends.tolist()[:-1]]
    parts = anchors.tensor_split(torch.searchsorted(anchors, ends[:-1]))
    return torch.cat(
        [
            logits.detach()[(own - start).to(logits.device)]
            for logits, own, start in zip(outputs.cls_logits, parts, starts, strict=True)
        ]
    )


def cell_losses(outputs: Outputs, loss: LossTrace) -> list[Tensor]:
    """Per level [H*W]: the classification loss of each cell's anchors; all sum to the image's."""
    levels = loss.per_anchor.detach().split(outputs.anchors_per_level)
    return [level.reshape(-1, NUM_ANCHORS).sum(dim=1) for level in levels]
