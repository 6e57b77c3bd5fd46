"""Where the classification loss of a picture lies: by cell, by level and side, by object."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from retinanet.anchor_cell import nearest_cell
from retinanet.anchors import NUM_ANCHORS
from retinanet.assignment import IGNORED, AssignmentTrace
from retinanet.config import ConfigError
from retinanet.layout import AnchorLayout
from retinanet.losses import LossTrace
from retinanet.types import LEVELS

Kind = Literal["all", "foreground", "background"]


def cell_map(loss: LossTrace, match: AssignmentTrace, kind: Kind = "all") -> np.ndarray:
    """[number of cells] float32: the loss of each cell's anchors, finest level first.

    Args:
        loss: of the picture.
        match: that it was made from.
        kind: whose loss.

    Raises:
        ConfigError: another kind.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"kind must be {', '.join(get_args(Kind))}, not {kind!r}.")
    losses = loss.per_anchor.detach().cpu().clone()
    if kind != "all":
        foreground = match.matched_idxs.cpu() >= 0
        losses[~foreground if kind == "foreground" else foreground] = 0
    return losses.reshape(-1, NUM_ANCHORS).sum(dim=1).numpy()


def level_sides(loss: LossTrace, match: AssignmentTrace) -> list[tuple[float, float]]:
    """Per level P3..P7 the loss of its foreground anchors and of its background ones."""
    foreground = match.matched_idxs.cpu() >= 0
    losses = loss.per_anchor.detach().cpu().double()
    levels = zip(
        losses.split(loss.anchors_per_level), foreground.split(loss.anchors_per_level), strict=True
    )
    return [(float(own[side].sum()), float(own[~side].sum())) for own, side in levels]


def object_losses(loss: LossTrace, match: AssignmentTrace) -> list[float]:
    """For each ground truth the loss of the anchors that train on it."""
    matched = match.matched_idxs.cpu()
    foreground = matched >= 0
    sums = torch.zeros(len(match.gt_boxes), dtype=torch.float64)
    sums.index_add_(0, matched[foreground], loss.per_anchor.detach().cpu()[foreground].double())
    return sums.tolist()


def ignored_anchors(match: AssignmentTrace) -> Tensor:
    """Indices [N] int64 of the anchors that are in no loss, on the CPU."""
    return torch.where(match.matched_idxs.cpu() == IGNORED)[0]


def loudest_at(
    layout: AnchorLayout, loss: LossTrace, point: tuple[float, float], level: str | None = None
) -> int:
    """The anchor with most loss in the cell at a point; the index is over all levels.

    Args:
        layout: of the picture, with the anchors that the loss is of.
        loss: of the picture.
        point: (x, y) in pixels of the picture as uploaded.
        level: "P3".."P7"; None looks at the point's cell on every level.
    """
    found = []
    for at in range(len(LEVELS)) if level is None else [LEVELS.index(level)]:
        row, column = nearest_cell(layout, at, point)
        first = sum(layout.anchors_per_level[:at])
        first += (row * layout.grid_sizes[at][1] + column) * NUM_ANCHORS
        own = loss.per_anchor[first : first + NUM_ANCHORS]
        found.append((float(own.max()), first + int(own.argmax())))
    return max(found)[1]
