"""The feature maps C3..C5 and P3..P7 of a picture: what they say at a point, and of its objects.

Pure functions of `Outputs` (`top_down` takes the model too). The maps themselves come from
`feature_maps`, `top_down` and `pca`; all of it can be had from here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from retinanet.anchors import ANCHOR_SIZES
from retinanet.assignment import assign
from retinanet.box_table import table_from_trace
from retinanet.cells import MAPS, cell_at, cell_box, check_map, inside, scales
from retinanet.feature_maps import (
    RANGE_MODES,
    ScoreMap,
    best_scores,
    channel,
    class_scores,
    rank_channels,
    strength,
    value_ranges,
)
from retinanet.pca import Pca, pca_explained, pca_rgb
from retinanet.top_down import lateral_only, lateral_strength, top_down_share
from retinanet.types import LEVELS, Outputs

if TYPE_CHECKING:
    from retinanet.detection import DetectionTrace

__all__ = [
    "MAPS",
    "RANGE_MODES",
    "Pca",
    "ScoreMap",
    "anchor_sizes",
    "best_scores",
    "channel",
    "class_scores",
    "detection_levels",
    "lateral_only",
    "lateral_strength",
    "level_of_box",
    "object_levels",
    "pca_explained",
    "pca_rgb",
    "rank_channels",
    "strength",
    "top_down_share",
    "value_ranges",
    "values_at",
]


def values_at(outputs: Outputs, x: float, y: float) -> list[dict[str, Any]]:
    """What each map says at one point of the photo.

    Args:
        outputs: of the picture.
        x, y: pixels of the original picture; a point beyond it takes the nearest cell.

    Returns:
        For each of `MAPS` in order {"map", "row", "column", "cell_box" (xyxy, original px, not
        clipped), "inside" (its centre lies in the picture), "strength", "percentile" (percent of
        the map's cells inside the picture that are no stronger, 0..100), "label", "category",
        "score" (the best class over the cell's anchors), "anchor_sizes" (square roots of the areas,
        original px)}; the last four are None on C3..C5.

    Raises:
        ValueError: the point is not finite.
    """
    return [_value_at(outputs, name, x, y) for name in MAPS]


def _value_at(outputs: Outputs, name: str, x: float, y: float) -> dict[str, Any]:
    row, column = cell_at(outputs, name, x, y)
    values, mask = strength(outputs, name), inside(outputs, name)
    value = values[row, column]
    point: dict[str, Any] = {
        "map": name,
        "row": row,
        "column": column,
        "cell_box": cell_box(outputs, name, row, column),
        "inside": bool(mask[row, column]),
        "strength": float(value),
        "percentile": 100.0 * float(np.mean(values[mask] <= value)),
        "label": None,
        "category": None,
        "score": None,
        "anchor_sizes": None,
    }
    if name in LEVELS:
        best = best_scores(outputs, name)
        label = int(best.label[row, column])
        point |= {
            "label": label,
            "category": outputs.category_name(label),
            "score": float(best.score[row, column]),
            "anchor_sizes": anchor_sizes(outputs, name),
        }
    return point


def anchor_sizes(outputs: Outputs, level: str) -> list[float]:
    """The three anchor sizes of a level (square roots of the areas), in original pixels."""
    check_map(level, LEVELS)
    scale = math.sqrt(math.prod(scales(outputs)))
    return [size * scale for size in ANCHOR_SIZES[LEVELS.index(level)]]


def level_of_box(box_original: Any, outputs: Outputs) -> dict[str, Any]:
    """The level that a box naturally belongs to: the one with the best fitting anchor.

    RetinaNet hands objects to levels by nothing but IoU with the anchors (paper, section 4
    "Anchors"), not by FPN's formula for regions.

    Args:
        box_original: [4] xyxy, pixels of the original picture.
        outputs: of the picture.

    Returns:
        {"level": name (the finest of equals), None where no anchor overlaps it; "iou": {"P3".."P7":
        IoU with that level's best anchor, in [0, 1]}}.

    Raises:
        ValueError: the box is not four finite numbers with x1 < x2 and y1 < y2.
    """
    box = torch.as_tensor(box_original, dtype=torch.float32).reshape(1, -1)
    match = assign(outputs, box, torch.zeros(1, dtype=torch.int64))
    levels = match.max_iou.split(match.anchors_per_level)
    iou = {name: float(level.max()) for name, level in zip(LEVELS, levels, strict=True)}
    best = max(iou, key=iou.__getitem__)
    return {"level": best if iou[best] > 0 else None, "iou": iou}


def object_levels(outputs: Outputs, boxes: Any) -> list[dict[str, Any]]:
    """`level_of_box` of several boxes [G, 4], as rows.

    Returns:
        For each {"object" (its index), "size" and "size_network" (square root of the area in pixels
        of the original picture and of the resized image), "level", "iou" (of that level),
        "P3".."P7" (IoU with each level's best anchor)}. Errors as `level_of_box`.
    """
    rows = []
    scale = math.sqrt(math.prod(scales(outputs)))
    for index, box in enumerate(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)):
        found = level_of_box(box, outputs)
        x1, y1, x2, y2 = box.tolist()
        size = math.sqrt((x2 - x1) * (y2 - y1))
        rows.append(
            {
                "object": index,
                "size": size,
                "size_network": size / scale,
                "level": found["level"],
                "iou": max(found["iou"].values()),
                **found["iou"],
            }
        )
    return rows


def detection_levels(trace: DetectionTrace) -> list[dict[str, Any]]:
    """The level that each kept detection came from, best first, as rows.

    Returns:
        For each {"detection" (its index), "label", "category", "score", "level", "size" (square
        root of the area, original px), "box" (xyxy, original px)}.
    """
    table = table_from_trace(trace)
    sizes = np.sqrt(np.prod(table.boxes[:, 2:] - table.boxes[:, :2], axis=1))
    return [
        {
            "detection": index,
            "label": int(table.labels[index]),
            "category": table.category_name(int(table.labels[index])),
            "score": float(table.scores[index]),
            "level": LEVELS[table.levels[index]],
            "size": float(sizes[index]),
            "box": table.boxes[index].tolist(),
        }
        for index in range(len(table))
    ]
