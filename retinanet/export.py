"""What a person takes home: COCO results, a table, an annotated picture.

Read from a detection trace (boxes in original pixels) and the outputs that know the names.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from torch import Tensor

from retinanet.figures.palette import DARK_TEXT, label_color, text_color
from retinanet.types import Image

_Font = PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont


class Detections(Protocol):
    """What is read of a detection trace: N kept boxes, best first.

    boxes [N, 4] float xyxy in pixels of the original picture; scores [N] in 0..1; labels [N].
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Names(Protocol):
    """What is read of `Outputs`: what a label index stands for."""

    def category_name(self, label: int) -> str:
        """The name shown."""

    def category_id(self, label: int) -> int:
        """The data set's id."""


CSV_COLUMNS: tuple[str, ...] = (
    *("file", "label", "category", "score"),
    *("x1", "y1", "x2", "y2", "width", "height"),
)


def _rows(trace: Detections) -> Iterable[tuple[list[float], float, int]]:
    return zip(trace.boxes.tolist(), trace.scores.tolist(), trace.labels.tolist(), strict=True)


def to_coco_results(
    trace: Detections, outputs: Names, image_id: int | str, file_name: str | None = None
) -> list[dict[str, Any]]:
    """The detections in COCO's results format, which `pycocotools` `COCO.loadRes` reads.

    Args:
        trace: the detections.
        outputs: gives the data set's category ids.
        image_id: the picture's id in the data set.
        file_name: added to each entry when given; COCO's tools ignore it.

    Returns:
        One dictionary per box: "image_id", "category_id", "bbox" [x, y, width, height] in
        original pixels, "score".
    """
    results = []
    for (x1, y1, x2, y2), score, label in _rows(trace):
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": outputs.category_id(label),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        if file_name is not None:
            entry["file_name"] = file_name
        results.append(entry)
    return results


def to_rows(trace: Detections, outputs: Names, file_name: str) -> list[dict[str, Any]]:
    """The detections as rows for `to_csv`: `CSV_COLUMNS` -> value, boxes in original pixels."""
    rows = []
    for (x1, y1, x2, y2), score, label in _rows(trace):
        values = (file_name, label, outputs.category_name(label), round(score, 6))
        edges = (round(edge, 2) for edge in (x1, y1, x2, y2, x2 - x1, y2 - y1))
        rows.append(dict(zip(CSV_COLUMNS, (*values, *edges), strict=True)))
    return rows


def to_csv(rows: Iterable[dict[str, Any]], columns: Sequence[str] = CSV_COLUMNS) -> str:
    """Rows as CSV with a header, RFC 4180.

    Args:
        rows: of `to_rows` (of one picture or many), or of any other table.
        columns: the keys of every row, in order.
    """
    target = io.StringIO()
    writer = csv.DictWriter(target, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _inert(value) for name, value in row.items()})
    return target.getvalue()


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, made plain by a leading apostrophe."""
    if isinstance(value, str) and value.lstrip(" \u00a0")[:1] in tuple("=+-@\t\r\n＝＋－＠"):
        return "'" + value
    return value


def draw_detections(
    image: Image,
    trace: Detections,
    outputs: Names,
    *,
    boxes: Sequence[int] | None = None,
    labels: bool = True,
) -> PIL.Image.Image:
    """The picture at full resolution with its boxes; lines and letters grow with it.

    Args:
        image: the picture that was detected on.
        trace: the detections.
        outputs: gives the names.
        boxes: which of them to draw, all by default.
        labels: write name and score at each box.
    """
    picture = image.pil.copy()
    draw = PIL.ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 250))
    rows = list(_rows(trace))
    chosen = sorted(range(len(rows)) if boxes is None else boxes)
    for i in reversed(chosen):  # the best last, on top
        _outline(draw, rows[i][0], label_color(rows[i][2]), width)
    if labels:
        font = PIL.ImageFont.load_default(max(9, round(min(picture.size) / 36)))
        tags: list[_Tag] = []
        for box, score, label in (rows[i] for i in chosen):  # the best chooses its place first
            text = f"{outputs.category_name(label)} {score:.2f}"
            tags.append(_place_tag(draw, box, text, label_color(label), font, max(2, width), tags))
        for tag in reversed(tags):
            tag.draw(draw, font)
    return picture


def _outline(draw: PIL.ImageDraw.ImageDraw, box: Sequence[float], color: str, width: int) -> None:
    """A box in its colour between dark edges, which keeps it visible on any background."""
    x1, y1, x2, y2 = (round(edge) for edge in box)
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)  # the last pixel inside
    edge = max(1, width // 3)
    draw.rectangle((x1 - edge, y1 - edge, x2 + edge, y2 + edge), outline=DARK_TEXT, width=edge)
    draw.rectangle((x1, y1, x2, y2), outline=color, width=width)


@dataclass(frozen=True)
class _Tag:
    """Words on a patch of colour: the patch's corners and where the words start, in pixels."""

    text: str
    color: str
    corners: tuple[int, int, int, int]
    text_at: tuple[float, float]

    def draw(self, draw: PIL.ImageDraw.ImageDraw, font: _Font) -> None:
        draw.rectangle(self.corners, fill=self.color)
        draw.text(self.text_at, self.text, font=font, fill=text_color(self.color))


def _place_tag(
    draw: PIL.ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    color: str,
    font: _Font,
    pad: int,
    taken: Sequence[_Tag],
) -> _Tag:
    """Above the box, inside its top, inside its bottom or below: where it hides no other tag.

    The tag stays inside the picture; with no free place it takes the one that hides the least.
    """
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad
    picture_width, picture_height = draw.im.size
    x = max(0, min(round(box[0]), picture_width - width))
    y1, y2 = round(box[1]), round(box[3])
    wishes = [y for y in (y1 - height, y1, y2 - height, y2) if 0 <= y <= picture_height - height]
    wishes.append(max(0, min(y1, picture_height - height)))
    places = [(x, y, x + width - 1, y + height - 1) for y in wishes]
    corners = min(places, key=lambda place: sum(_overlap(place, tag.corners) for tag in taken))
    return _Tag(text, color, corners, (corners[0] + pad - left, corners[1] + pad - top))


def _overlap(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Pixels that two rectangles, last row and column included, have in common."""
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    return max(0, width) * max(0, height)


def encode_png(picture: PIL.Image.Image) -> bytes:
    """The picture as a PNG file."""
    target = io.BytesIO()
    picture.save(target, "PNG", compress_level=3)  # a third of the default's time, 5% more bytes
    return target.getvalue()
