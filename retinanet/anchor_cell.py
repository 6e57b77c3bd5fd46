"""The anchors of one place: which they are, what each overlaps, what each would train on."""

from __future__ import annotations

from typing import Any

from retinanet.anchors import level_strides
from retinanet.assignment import BACKGROUND, IGNORED, AssignmentTrace
from retinanet.layout import AnchorLayout, place_in_layout
from retinanet.types import LEVELS


def nearest_cell(layout: AnchorLayout, level: int, point: tuple[float, float]) -> tuple[int, int]:
    """The (row, column) of a level whose anchors' centre is nearest to a point.

    Args:
        layout: of the picture.
        level: 0 for P3 .. 4 for P7.
        point: (x, y) in pixels of the picture as uploaded.
    """
    stride_y, stride_x = level_strides(layout.padded_size, layout.grid_sizes)[level]
    rows, columns = layout.grid_sizes[level]
    x = point[0] * layout.image_size[1] / layout.original_size[1]
    y = point[1] * layout.image_size[0] / layout.original_size[0]
    return (
        round(min(max(y / stride_y, 0), rows - 1)),
        round(min(max(x / stride_x, 0), columns - 1)),
    )


def anchor_cell(
    layout: AnchorLayout,
    match: AssignmentTrace,
    point: tuple[float, float],
    level: str | None = None,
) -> dict[str, Any]:
    """The anchors of the cell at a point, as plain data.

    Args:
        layout: of the picture.
        match: of its anchors.
        point: (x, y) in pixels of the picture as uploaded.
        level: "P3".."P7"; None takes the level whose anchors here overlap an object most.

    Returns:
        {"level", "row", "column", "best": place in "anchors" of the largest `max_iou`, "anchors":
        [{"index" (over all levels), "size", "aspect_ratio", "box_original", "max_iou", "best_gt"
        (None without ground truth), "matched" (None unless foreground), "fate": "foreground",
        "forced", "ignored" or "background"}]}.
    """
    levels = range(len(LEVELS)) if level is None else [LEVELS.index(level)]
    found = [_cell(layout, match, at, point) for at in levels]
    return max(found, key=lambda cell: cell["anchors"][cell["best"]]["max_iou"])


def _cell(
    layout: AnchorLayout, match: AssignmentTrace, level: int, point: tuple[float, float]
) -> dict[str, Any]:
    row, column = nearest_cell(layout, level, point)
    each = layout.shape.num_anchors
    first = sum(layout.anchors_per_level[:level])
    first += (row * layout.grid_sizes[level][1] + column) * each
    anchors = [_anchor(layout, match, index) for index in range(first, first + each)]
    best = max(range(each), key=lambda at: anchors[at]["max_iou"])
    return {
        "level": LEVELS[level],
        "row": row,
        "column": column,
        "best": best,
        "anchors": anchors,
    }


def _anchor(layout: AnchorLayout, match: AssignmentTrace, index: int) -> dict[str, Any]:
    place = place_in_layout(layout, index)
    matched = int(match.matched_idxs[index])
    best_gt = int(match.best_gt[index])
    fate = {BACKGROUND: "background", IGNORED: "ignored"}.get(matched, "foreground")
    return {
        "index": index,
        "size": place["size"],
        "aspect_ratio": place["aspect_ratio"],
        "box_original": place["box_original"],
        "max_iou": float(match.max_iou[index]),
        "best_gt": best_gt if best_gt >= 0 else None,
        "matched": matched if matched >= 0 else None,
        "fate": "forced" if bool(match.is_low_quality[index]) else fate,
    }
