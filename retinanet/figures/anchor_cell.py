"""The anchors of one place in words, numbers and a formula; each takes what `anchor_cell` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retinanet.images import resize_boxes
from retinanet.layout import AnchorLayout, place_in_layout

Cell = Mapping[str, Any]
FATES: tuple[str, ...] = ("foreground", "forced", "ignored", "background")


def cell_sentence(cell: Cell, names: Sequence[str]) -> str:
    """What the anchors of the place are, and which fits best.

    Args:
        cell: of the place.
        names: of the objects.
    """
    counts = {fate: sum(one["fate"] == fate for one in cell["anchors"]) for fate in FATES}
    parts = [f"{count} {fate}" for fate, count in counts.items() if count]
    lead = (
        f"{cell['level']}, row {cell['row']}, column {cell['column']}: of the "
        f"{len(cell['anchors'])} anchors here {', '.join(parts)}."
    )
    best = cell["anchors"][cell["best"]]
    if best["best_gt"] is None or best["max_iou"] == 0:
        return f"{lead} None overlaps an object."
    return (
        f"{lead} The best has IoU {best['max_iou']:.3f} with {names[best['best_gt']]}: "
        f"{_kind(best)}."
    )


def _kind(anchor: Mapping[str, Any]) -> str:
    return f"{anchor['size']} px, ratio {anchor['aspect_ratio']:g}"


def cell_numbers(cell: Cell, names: Sequence[str]) -> list[tuple[str, str]]:
    """(which anchor, its IoU, its object and its fate), one pair of texts for each anchor."""
    rows = []
    for anchor in cell["anchors"]:
        nearest = "no object"
        if anchor["best_gt"] is not None and anchor["max_iou"] > 0:
            nearest = f"IoU {anchor['max_iou']:.3f} with {names[anchor['best_gt']]}"
        rows.append((_kind(anchor), f"{nearest}: {anchor['fate']}"))
    return rows


def iou_formula(layout: AnchorLayout, anchor: int, box: Sequence[float]) -> str:
    """IoU with these two boxes' numbers in it, in pixels of the resized picture.

    Args:
        layout: where the anchor lies.
        anchor: index over all levels.
        box: the object, xyxy in pixels of the picture as uploaded.
    """
    own = place_in_layout(layout, anchor)["box"]
    reference = layout.anchors[0]
    other = resize_boxes(
        reference.new_tensor([list(box)]), layout.original_size, layout.image_size
    )[0].tolist()
    width = max(0.0, min(own[2], other[2]) - max(own[0], other[0]))
    height = max(0.0, min(own[3], other[3]) - max(own[1], other[1]))
    shared = width * height
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (own, other)]
    union = sum(areas) - shared
    return "\n".join(
        [
            "IoU = shared / (anchor + object - shared), px of the resized picture",
            f"anchor = {_corners(own)}, area {areas[0]:,.0f}",
            f"object = {_corners(other)}, area {areas[1]:,.0f}",
            f"shared = {width:,.1f} x {height:,.1f} = {shared:,.0f}",
            f"IoU = {shared:,.0f} / {union:,.0f} = {shared / union:.3f}",
        ]
    )


def _corners(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{edge:.1f}' for edge in box)}]"
