"""How sure an average precision is: confidence intervals from resampled photos.

Efron: "Nonparametric standard errors and confidence intervals", Canadian Journal of Statistics 9
(1981), section 7 "Bias-corrected percentile method": a rare class that a resample drew often, or
not at all, makes the mean over classes too high on average, and percentiles alone would lean with
it. Photos are drawn, not objects: those of one photo are not independent.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from retinanet.average_precision import interpolated, precision_recall
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.single_flight import Cancelled
from retinanet.sweeps.average_precision import IOU_50, IOU_75, unpacked
from retinanet.sweeps.matched import MatchedDetections, counted
from retinanet.sweeps.sweep import Sweep, rows_at
from retinanet.sweeps.truths import T

QUANTITIES: tuple[str, ...] = ("AP", "AP50", "AP75")
"""Means over the classes; a class's own AP50 is named "AP50 of person"."""


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval.

    Args:
        value: on the photos at hand; in [0, 1], nan where nothing can be measured.
        low, high: bias-corrected percentiles of the resampled values, nan where there are none.
    """

    value: float
    low: float
    high: float


def ap_intervals(
    sweep: Sweep,
    config: PostprocessConfig,
    classes: tuple[str, ...] = (),
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    cancel: threading.Event | None = None,
) -> dict[str, Interval]:
    """Bias-corrected percentile intervals of `QUANTITIES`, and of the AP50 of some classes.

    Each resample draws as many photos as there are, with replacement. A mean over classes is over
    those that have objects in the resample, as COCO's is. A photo that was drawn n times counts
    its detections and objects n times, at one score.

    Args:
        sweep: its matched detections are resampled; nothing is matched anew.
        config: a setting of its grid.
        classes: names of classes of the data set.
        resamples: how many, 1 or more.
        level: of confidence, in (0, 1).
        seed: of the draws, 0 or more.
        cancel: set it to stop.

    Raises:
        Cancelled: `cancel` was set.
        ConfigError: the setting is not in the grid, a class is unknown, or a number is out of
            range.
    """
    check_bootstrap(resamples, seed)
    if not 0 < level < 1:
        raise ConfigError("The level of confidence must be between 0 and 1.")
    sweep.at(config)
    sample = _Sample(sweep.matched, config)
    unknown = [name for name in classes if name not in sample.names]
    if unknown:
        raise ConfigError(f"The data set has no class {unknown[0]!r}.")
    names = (*QUANTITIES, *(f"AP50 of {name}" for name in classes))
    photos = len(sweep.matched.image_ids)
    once = sample.quantities(np.ones(photos, np.int64), classes)
    draw = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(names)))
    for row in drawn:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        row[:] = sample.quantities(draw.multinomial(photos, np.full(photos, 1 / photos)), classes)
    return {
        name: Interval(value, *_bounds(column, value, level))
        for name, value, column in zip(names, once, drawn.T, strict=True)
    }


def check_bootstrap(resamples: int, seed: int) -> None:
    """Refuse what cannot be drawn.

    Raises:
        ConfigError: there are no resamples, or the seed is negative.
    """
    if resamples < 1 or seed < 0:
        raise ConfigError("A bootstrap needs 1 resample or more and a seed of 0 or more.")


def _bounds(resampled: np.ndarray, value: float, level: float) -> tuple[float, float]:
    """Percentiles moved by twice the normal score of the share of resamples below the value."""
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    normal = NormalDist()
    share = (np.mean(known < value) + np.mean(known <= value)) / 2  # ties count half
    shift = normal.inv_cdf(float(np.clip(share, 0.5 / len(known), 1 - 0.5 / len(known))))
    ends = [normal.inv_cdf((1 - level) / 2), normal.inv_cdf((1 + level) / 2)]
    low, high = np.quantile(known, [normal.cdf(2 * shift + end) for end in ends])
    return float(low), float(high)


class _Sample:
    """What one setting detected, class by class, ready to be weighted by photo."""

    def __init__(self, matched: MatchedDetections, config: PostprocessConfig) -> None:
        rows = counted(rows_at(matched, config))
        self.names = matched.truths.names
        images, columns = matched.truths.by_image
        self._objects = np.zeros((len(self.names), len(matched.image_ids)), np.int64)
        np.add.at(self._objects, (columns, images), 1)
        self._of_class = {}
        for column in np.flatnonzero(self._objects.any(axis=1)).tolist():
            own = rows[rows["column"] == column]
            hits, skips = unpacked(own["true"])[:T], unpacked(own["ignored"])[:T]
            self._of_class[column] = own["image"], hits, ~(hits | skips)

    def quantities(self, times: np.ndarray, classes: tuple[str, ...]) -> list[float]:
        """The values for photos drawn so many times each ([I] int64)."""
        ap = np.full((T, len(self.names)), np.nan)
        for column, (image, hits, misses) in self._of_class.items():
            wanted = int(self._objects[column] @ times)
            if wanted:
                weight = times[image]
                curves = precision_recall(hits * weight, misses * weight, np.full(T, wanted))
                ap[:, column] = interpolated(*curves).mean(axis=1)
        known = ap[:, ~np.isnan(ap[0])]
        means = [known, known[IOU_50], known[IOU_75]]
        values = [float(own.mean()) if own.size else float("nan") for own in means]
        return values + [float(ap[IOU_50, self.names.index(name)]) for name in classes]
