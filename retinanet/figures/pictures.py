"""Pictures at the sizes a browser needs, and sheets of thumbnails packed for it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image

from retinanet.box_table import BoxTable
from retinanet.figures.columns import join_blocks
from retinanet.figures.palette import label_color
from retinanet.types import Image

DISPLAY_SIDE = 2048
"""Longest side of the photo the canvas draws, in pixels: sharp on a large screen, half a MB."""

THUMB_SIZE = (296, 204)
"""(width, height) within which a thumbnail fits, in pixels."""


@dataclass(frozen=True, eq=False)
class SheetItem:
    """One small picture of a sheet.

    Args:
        id: what the click reports.
        title: its name in full.
        caption: the short line below it.
        jpeg: the thumbnail.
        size: (width, height) of the original picture, which scales the boxes.
        table: boxes to draw over it, None for none.
    """

    id: str
    title: str
    caption: str
    jpeg: bytes
    size: tuple[int, int]
    table: BoxTable | None = None


def to_jpeg(image: Image, max_size: tuple[int, int], quality: int = 88) -> bytes:
    """The picture, no larger than `max_size` (width, height), as JPEG bytes."""
    picture = image.pil
    if picture.width > max_size[0] or picture.height > max_size[1]:
        picture = picture.copy()
        picture.thumbnail(max_size, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0)
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=quality)
    return target.getvalue()


def display_jpeg(image: Image) -> bytes:
    """The photo for the canvas."""
    return to_jpeg(image, (DISPLAY_SIDE, DISPLAY_SIDE))


def thumb_jpeg(image: Image) -> bytes:
    """The photo for a sheet, twice the size at which it is shown."""
    return to_jpeg(image, THUMB_SIZE, quality=82)


def pack_sheet(items: Sequence[SheetItem], *, label: str, layout: str, selected: str) -> bytes:
    """A sheet of thumbnails with their boxes, as the browser reads it.

    Args:
        items: what it shows, in order.
        label: what the sheet is, for screen readers.
        layout: "strip" (one row that scrolls) or "grid".
        selected: id of the open picture.
    """
    offset = 0
    entries = []
    for item in items:
        entries.append(
            {
                "id": item.id,
                "title": item.title,
                "caption": item.caption,
                "offset": offset,
                "length": len(item.jpeg),
                "boxes": _thumb_boxes(item),
            }
        )
        offset += len(item.jpeg)
    stamp = hashlib.sha256(repr((layout, entries)).encode()).hexdigest()[:16]
    header = {
        "label": label,
        "layout": layout,
        "selected": selected,
        "stamp": stamp,
        "items": entries,
    }
    return join_blocks(header, [item.jpeg for item in items])


def _thumb_boxes(item: SheetItem) -> list[list[float | str]]:
    if item.table is None:
        return []
    width, height = item.size
    scaled = item.table.boxes / (width, height, width, height)
    return [
        [*(round(float(edge), 4) for edge in box), label_color(int(label))]
        for box, label in zip(scaled, item.table.labels, strict=True)
    ]
