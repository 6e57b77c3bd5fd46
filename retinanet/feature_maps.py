"""The numbers of one feature map: its strength, its channels, its scores, its colour range.

Pure functions of `Outputs`. [H, W] is a map's grid; where its cells lie on the photo is in
`retinanet.cells`. What is returned may be shared with other callers: it is read-only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retinanet.cells import check_map, grid_of, inside
from retinanet.level_head import level_scores
from retinanet.types import LEVELS, Outputs

Map = NDArray[np.float32]

RANGE_MODES: tuple[str, ...] = ("unit", "level", "all")
"""What `value_ranges` knows: the positions of the colour-scale switch."""


class ScoreMap(NamedTuple):
    """The best score of each cell, over its anchors and all classes, and its class.

    Args:
        score: [H, W] float32 in [0, 1].
        label: [H, W] int32, the first of equals.
    """

    score: Map
    label: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.score.nbytes + self.label.nbytes


def strength(outputs: Outputs, level: str) -> Map:
    """How strongly each cell answers: the root mean square over the channels, [H, W], 0 or more.

    Not the mean, in which channels of opposite signs cancel (P3..P7 have no ReLU behind them), nor
    the maximum, which is one channel's; and not the norm, which grows with the number of channels,
    so that C5 and P5 could not be compared.

    Raises:
        ValueError: there is no such map.
    """
    check_map(level)
    return outputs.derived(f"strength_{level}", lambda own: rms(own.features[level]))


def rms(features: Tensor) -> Map:
    """Root mean square over the channels of [C, H, W], as [H, W]."""
    return shared(features.detach().square().mean(dim=0).sqrt())


def shared(values: Tensor) -> NDArray[Any]:
    """The values as a read-only array."""
    array = values.detach().cpu().numpy()
    array.flags.writeable = False
    return array


def channel(outputs: Outputs, level: str, c: int) -> Map:
    """One channel of a map, [H, W].

    Raises:
        ValueError: there is no such map or no such channel in it.
    """
    check_map(level)
    channels = len(outputs.features[level])
    if not 0 <= c < channels:
        raise ValueError(f"{level} has channels 0 to {channels - 1}; there is no channel {c}.")
    return shared(outputs.features[level][c])


def rank_channels(
    outputs: Outputs, level: str, by: Literal["active", "varied"] = "active", count: int = 16
) -> list[int]:
    """The channels that say most about the picture, best first; padding is left out.

    Args:
        outputs: of the picture.
        level: one of `MAPS`.
        by: "active" is the mean of the absolute values; "varied" the standard deviation, which
            passes over a channel that is large and the same everywhere.
        count: at most so many.

    Raises:
        ValueError: no such map or order, or `count` is not 1 or more.
    """
    check_map(level)
    if by not in ("active", "varied"):
        raise ValueError(f"Channels are ranked by 'active' or 'varied', not {by!r}.")
    if count < 1:
        raise ValueError(f"The number of channels must be 1 or more, not {count}.")
    values = outputs.derived(f"channels_{by}_{level}", lambda own: _channel_values(own, level, by))
    return np.argsort(-values, kind="stable")[:count].tolist()


def _channel_values(outputs: Outputs, level: str, by: str) -> Map:
    cells = seen(outputs, level)
    active = by == "active"
    return shared(cells.abs().mean(dim=1) if active else cells.std(dim=1, correction=0))


def seen(outputs: Outputs, level: str) -> Tensor:
    """[C, cells] the columns of a map's cells inside the picture."""
    features = outputs.features[level].detach()
    return features[:, torch.from_numpy(inside(outputs, level)).to(features.device)]


def best_scores(outputs: Outputs, level: str) -> ScoreMap:
    """The best class score of each cell, over its anchors and the classes, and that class.

    Raises:
        ValueError: no such map, or one of C3..C5, which no subnet reads.
    """
    check_map(level, LEVELS)
    return outputs.derived(f"best_scores_{level}", lambda own: _best_scores(own, level))


def _cell_logits(outputs: Outputs, level: str) -> Tensor:
    """[H, W, A, K] the class logits of a level by cell."""
    logits = outputs.cls_logits[LEVELS.index(level)].detach()
    return logits.view(*grid_of(outputs, level), -1, outputs.num_classes)


def _best_scores(outputs: Outputs, level: str) -> ScoreMap:
    logits = _cell_logits(outputs, level).flatten(2)  # [H, W, A * K]
    best, pair = logits.max(dim=2)
    if best.isnan().any():  # what is not a number scores 0 and hides no other
        best, pair = logits.nan_to_num(nan=-math.inf).max(dim=2)
    return ScoreMap(shared(level_scores(best)), shared((pair % outputs.num_classes).int()))


def class_scores(outputs: Outputs, level: str, label: int) -> Map:
    """The best score of one class in each cell, over its anchors, [H, W] in [0, 1].

    Raises:
        ValueError: no such label, no such map, or one of C3..C5, which no subnet reads.
    """
    check_map(level, LEVELS)
    if not 0 <= label < outputs.num_classes:
        raise ValueError(
            f"The model's labels are 0 to {outputs.num_classes - 1}; there is no label {label}."
        )
    logits = _cell_logits(outputs, level)[..., label]
    return shared(level_scores(logits).amax(dim=2))


def value_ranges(
    maps: Mapping[str, NDArray[Any]], mode: Literal["unit", "level", "all"] = "level"
) -> dict[str, tuple[float, float]]:
    """The (low, high) that the ends of the colour scale stand for, for each map shown.

    Args:
        maps: name -> [H, W]; what is not finite does not count, so NaN can hide the padding.
        mode: "unit" is 0..1 everywhere, for scores; "level" each map's own least and greatest
            value, so that every map shows its detail and no two may be compared; "all" the least
            and greatest of all of them, so that one colour is one value throughout.

    Raises:
        ValueError: no such mode.
    """
    if mode not in RANGE_MODES:
        raise ValueError(f"The colour scale's mode is unit, level or all, not {mode!r}.")
    if mode == "unit":
        return dict.fromkeys(maps, (0.0, 1.0))
    own = {name: _finite_range([values]) for name, values in maps.items()}
    return own if mode == "level" else dict.fromkeys(maps, _finite_range(list(maps.values())))


def _finite_range(maps: list[NDArray[Any]]) -> tuple[float, float]:
    finite = [values[np.isfinite(values)] for values in map(np.asarray, maps)]
    finite = [values for values in finite if values.size]
    if not finite:
        return 0.0, 1.0
    return float(min(v.min() for v in finite)), float(max(v.max() for v in finite))
