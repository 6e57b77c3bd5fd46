"""The maps that are shown together, over one range or each over its own, as bytes for drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from retinanet.cells import MAPS, grid_of, inside
from retinanet.config import ConfigError
from retinanet.pyramid import (
    best_scores,
    channel,
    pca_rgb,
    rank_channels,
    strength,
    value_ranges,
)
from retinanet.types import LEVELS, STAGES, Outputs

Kind = Literal["strength", "score", "pca", "channel"]
Mode = Literal["unit", "level", "all"]
Range = tuple[float, float]


def maps_of(outputs: Outputs, kind: Kind) -> dict[str, NDArray[Any]]:
    """The maps of a kind by name, finest first within each family.

    Args:
        outputs: of the picture.
        kind: "strength" and "channel" (which choose among strengths): [H, W] float32 of C3..P7;
            "score": the best class score, of P3..P7; "pca": [H, W, 3] uint8 of C3..P7.

    Raises:
        ConfigError: another kind.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"A map is of kind {', '.join(get_args(Kind))}, not {kind!r}.")
    if kind == "score":
        return {name: best_scores(outputs, name).score for name in LEVELS}
    if kind == "pca":
        return pca_rgb(outputs, STAGES) | pca_rgb(outputs, LEVELS)
    return {name: strength(outputs, name) for name in MAPS}


def ranges_of(
    outputs: Outputs, maps: Mapping[str, NDArray[Any]], mode: Mode, family: str
) -> dict[str, Range]:
    """The range that the colours of each map stand for; padding does not count.

    Args:
        outputs: of the picture.
        maps: name -> [H, W], each on the grid of its name.
        mode: as in `value_ranges`; "unit" of what has no natural unit goes from 0 to each map's
            own largest absolute value.
        family: "score" has the unit 0..1.
    """
    seen = {name: np.where(inside(outputs, name), own, np.nan) for name, own in maps.items()}
    if mode != "unit" or family == "score":
        return value_ranges(seen, mode)
    return {name: _from_zero(own) for name, own in seen.items()}


def _from_zero(values: NDArray[Any]) -> Range:
    """From 0 to the largest absolute value; what is not finite does not count."""
    finite = np.abs(values[np.isfinite(values)])
    return 0.0, float(finite.max(initial=0.0)) or 1.0


def as_bytes(values: NDArray[Any], low_high: Range) -> NDArray[np.uint8]:
    """Values as steps 0..255 of their range; what is beyond it takes the end."""
    low, high = low_high
    factor = 255 / (high - low) if high > low else 0.0
    steps = np.nan_to_num((values - low) * factor)
    return np.rint(steps.clip(0, 255)).astype(np.uint8)


def inside_size(outputs: Outputs, name: str) -> tuple[int, int]:
    """(rows, columns) of a map whose centres lie on the picture, not on the padding."""
    mask = inside(outputs, name)
    return int(mask.any(axis=1).sum()), int(mask.any(axis=0).sum())


@dataclass(frozen=True, eq=False)
class Channels:
    """Some channels of one map.

    Args:
        numbers: which, the first of the ranking first.
        shown: the one that is looked at.
        values: [H, W] float32 of that one.
        value_range: what its colours stand for.
        grid: [N, H, W] uint8, all of them over their ranges.
        ranges: of each in the grid.
    """

    numbers: list[int]
    shown: int
    values: NDArray[np.float32]
    value_range: Range
    grid: NDArray[np.uint8]
    ranges: list[Range]


def channels_of(
    outputs: Outputs, name: str, rank: Literal["active", "varied"], shown: int, mode: Mode
) -> Channels:
    """The most active or most varied channels of a map, and one of them (or any other).

    Args:
        outputs: of the picture.
        name: of the map.
        rank: how they are ranked.
        shown: number of a channel; -1, or one that the map has not, takes the first of the ranking.
        mode: "level" gives each channel its own range, "all" the one of all that are listed,
            "unit" 0 to each one's largest absolute value.
    """
    numbers = rank_channels(outputs, name, rank)
    if not 0 <= shown < outputs.features[name].shape[0]:
        shown = numbers[0]
    listed = {number: channel(outputs, name, number) for number in {*numbers, shown}}
    mask = inside(outputs, name)
    seen = {str(number): np.where(mask, own, np.nan) for number, own in listed.items()}
    if mode == "unit":
        found = {key: _from_zero(own) for key, own in seen.items()}
    else:
        found = value_ranges(seen, mode)
    ranges = [found[str(number)] for number in numbers]
    grid = [as_bytes(listed[n], low_high) for n, low_high in zip(numbers, ranges, strict=True)]
    return Channels(numbers, shown, listed[shown], found[str(shown)], np.stack(grid), ranges)


def grid_facts(outputs: Outputs, name: str) -> dict[str, Any]:
    """{"rows", "columns", "inside"} of a map: what it takes to draw its bytes."""
    rows, columns = grid_of(outputs, name)
    return {"rows": rows, "columns": columns, "inside": inside_size(outputs, name)}
