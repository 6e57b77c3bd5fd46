"""Feature maps as colours: their first three principal components as red, green and blue.

P3..P7 share one basis and one scale, so a colour means the same mixture of channels on each of
them: the two subnets read all five with the same weights, too. C3..C5 have different numbers of
channels, so each has its own basis and its own scale, and their colours cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from retinanet.cells import check_map, inside
from retinanet.types import LEVELS, Outputs

SAMPLE = 1024
"""The most cells of a map that a basis is fitted on, spread evenly over it."""

PERCENTILES = (1.0, 99.0)
"""Of the components over the fitted cells: what black and full colour stand for."""

PADDING = 0
"""The colour value of cells that hold something that is not a number."""


@dataclass(frozen=True, eq=False)
class Pca:
    """One basis and the maps coloured by it.

    Args:
        images: {map: [H, W, 3] uint8}, the first three components as red, green and blue.
        explained: the share of the fitted cells' variance along each of the three, in [0, 1].
    """

    images: dict[str, NDArray[np.uint8]]
    explained: tuple[float, float, float]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(image.nbytes for image in self.images.values())


def pca_rgb(outputs: Outputs, names: Sequence[str] = LEVELS) -> dict[str, NDArray[np.uint8]]:
    """Maps as colours: [H, W, 3] uint8 for each name.

    The basis of P3..P7 is fitted on all five whichever are asked for: on the cells inside the
    picture, at most `SAMPLE` of a level, spread evenly, each level with equal weight. A component
    points to where its largest loading is positive. Values are as the subnets get them, not scaled
    by level. The 1st and the 99th percentile of the fitted cells are 0 and 255. Worked out once.

    Args:
        outputs: of the picture.
        names: of `MAPS`.

    Raises:
        ValueError: there is no such map.
    """
    return {name: _pca(outputs, name).images[name] for name in names}


def pca_explained(
    outputs: Outputs, names: Sequence[str] = LEVELS
) -> dict[str, tuple[float, float, float]]:
    """The share of the variance along red, green and blue, in [0, 1]; the same for P3..P7.

    Arguments and errors as `pca_rgb`.
    """
    return {name: _pca(outputs, name).explained for name in names}


def _pca(outputs: Outputs, name: str) -> Pca:
    check_map(name)
    if name in LEVELS:
        return outputs.derived("pca_pyramid", lambda own: _fit(own, LEVELS))
    return outputs.derived(f"pca_{name}", lambda own: _fit(own, (name,)))


def _fit(outputs: Outputs, names: Sequence[str]) -> Pca:
    maps = {name: outputs.features[name].detach().float().cpu().numpy() for name in names}
    samples = [_sample(values, inside(outputs, name)) for name, values in maps.items()]
    # A level's cells share its weight. Rows scaled by the root of theirs make a weighted variance.
    weights = np.concatenate([np.full(len(cells), 1 / max(len(cells), 1)) for cells in samples])
    weights /= weights.sum() or 1.0
    cells = np.concatenate(samples)
    if not len(cells):  # nothing in it is a number
        black = {name: np.full((*v.shape[1:], 3), PADDING, np.uint8) for name, v in maps.items()}
        for image in black.values():
            image.flags.writeable = False
        return Pca(black, (0.0, 0.0, 0.0))
    mean = weights @ cells
    basis, explained = _components((cells - mean) * np.sqrt(weights)[:, None])
    projected = (cells - mean) @ basis
    low, high = (_weighted_percentile(projected, weights, at) for at in PERCENTILES)
    images = {}
    for name, values in maps.items():
        images[name] = _colours(values, mean, basis, low, high)
    return Pca(images, explained)


def _sample(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[cells, C] of a map [C, H, W]: evenly spread over those inside the picture."""
    cells = values[:, mask].T
    cells = cells[np.isfinite(cells).all(axis=1)]
    if len(cells) > SAMPLE:
        cells = cells[np.linspace(0, len(cells) - 1, SAMPLE).round().astype(int)]
    return cells.astype(np.float64)


def _components(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple]:
    """The first three principal directions [C, 3] of centred rows [N, C], and their shares.

    From the smaller of the two Gram matrices: C5 has up to 2,048 channels and few cells.
    """
    count, channels = rows.shape
    few = count < channels
    gram = rows @ rows.T if few else rows.T @ rows
    values, vectors = np.linalg.eigh(gram)  # ascending
    values, vectors = values[::-1][:3].clip(min=0), vectors[:, ::-1][:, :3]
    if few:
        vectors = rows.T @ vectors / np.sqrt(np.where(values > 0, values, 1.0))
    total = float(np.square(rows).sum())
    basis, shares = np.zeros((channels, 3)), np.zeros(3)
    known = vectors.shape[1]  # below three where there are fewer cells or channels
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(known)]
    basis[:, :known] = vectors * np.where(largest < 0, -1.0, 1.0)
    shares[:known] = values / total if total else 0.0
    return basis, tuple(shares.tolist())


def _weighted_percentile(
    values: NDArray[np.float64], weights: NDArray[np.float64], percent: float
) -> NDArray[np.float64]:
    """Of each column of values [N, 3]: the least one below or at which lies that much weight."""
    order = np.argsort(values, axis=0, kind="stable")
    reached = np.cumsum(weights[order], axis=0) >= percent / 100 - 1e-12
    first = np.where(reached.any(axis=0), reached.argmax(axis=0), len(values) - 1)
    return np.take_along_axis(values, order, axis=0)[first, np.arange(values.shape[1])]


def _colours(
    values: NDArray[np.float32],
    mean: NDArray[np.float64],
    basis: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """[H, W, 3] of a map [C, H, W]; a component that does not vary is half bright."""
    finite = np.isfinite(values).all(axis=0)
    matrix = torch.from_numpy(basis.T.astype(np.float32))
    flat = torch.from_numpy(np.ascontiguousarray(values)).flatten(1)
    offset = (mean @ basis)[:, None]
    projected = (matrix @ flat).numpy() - offset  # [3, H*W]
    span = high - low
    scaled = (projected - low[:, None]) / np.where(span > 0, span, 1.0)[:, None]
    scaled[span <= 0] = 0.5
    image = np.rint(np.nan_to_num(scaled).clip(0, 1) * 255).astype(np.uint8)
    image = np.moveaxis(image.reshape(3, *values.shape[1:]), 0, -1).copy()
    image[~finite] = PADDING
    image.flags.writeable = False
    return image
