"""Which photos a person should open, the worst first."""

from __future__ import annotations

import numpy as np

MOST_IMAGES = 500
"""The longest list of image ids that a row carries."""


def worst_first(
    image_ids: np.ndarray, weights: np.ndarray | None = None, limit: int = MOST_IMAGES
) -> tuple[int, ...]:
    """Each photo once, by the sum of what counts against it; equal ones by id.

    Args:
        image_ids: [N] int64, one for each error; a photo may occur often.
        weights: [N] 0 or more, how bad each error is; None for 1.
        limit: the most ids returned.
    """
    photos, index = np.unique(image_ids, return_inverse=True)
    sums = np.bincount(index, weights, minlength=len(photos))
    return tuple(photos[np.argsort(-sums, kind="stable")[:limit]].tolist())
