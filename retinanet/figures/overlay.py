"""A photo with its boxes as one SVG element, for pages that stand alone."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence

from retinanet.detection import DetectionTrace
from retinanet.figures.palette import label_color, text_color
from retinanet.figures.pictures import to_jpeg
from retinanet.types import Image

PICTURE_SIDE = 1600
"""Longest side of the photo in the element, pixels."""

DRAWN = 500
"""The best detections, which are drawn."""

TAGGED = 40
"""The best detections, which are named."""

PHONE_TAGS = 1.6
"""How much larger the tags are where the picture is small: `--k` in the style sheet."""


def escaped(value: object) -> str:
    """Text for elements and attributes of HTML; signs that cannot be printed become U+FFFD."""
    clean = "".join(char if char.isprintable() else "\ufffd" for char in str(value))
    return html.escape(clean, quote=True)


def photo_with_boxes(image: Image, trace: DetectionTrace) -> str:
    """The `<figure>`: photo, boxes in the colours of their categories, tags, a line of words.

    Coordinates are pixels of the original picture. Box i is a link with the id "box-i" to "#row-i",
    counted from 1. The page's style sheet gives the lines and `--k` their size.

    Args:
        image: the picture that was detected on.
        trace: its detections.
    """
    width, height = image.size
    data = base64.b64encode(to_jpeg(image, (PICTURE_SIDE, PICTURE_SIDE))).decode("ascii")
    boxes = trace.boxes[:DRAWN].tolist()
    drawn = [i for i, box in enumerate(boxes) if all(map(math.isfinite, box))]
    size = max(width / 62, height / 60)
    tags = _tags(trace, [i for i in drawn if i < TAGGED], size)
    worst_first = drawn[::-1]  # so that the best are on top
    overlay = "".join(_outline(trace, i, boxes[i]) for i in worst_first)
    names = "".join(tags[i] for i in worst_first if i in tags)
    caption = ""
    if tags:
        caption = (
            "Colour: the category. A tag gives the number in the table below, the category and "
            "the score."
        )
    if len(trace) > TAGGED:
        caption += f" The best {TAGGED} have one."
    if len(trace) > DRAWN:
        caption += f" The best {DRAWN} are drawn."
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="group" '
        f'aria-label="{escaped(image.name)} with its boxes" font-size="{size:.2f}">'
        f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"/>{overlay}{names}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _outline(trace: DetectionTrace, index: int, box: Sequence[float]) -> str:
    x1, y1, x2, y2 = box
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    label = int(trace.labels[index])
    words = escaped(f"{index + 1} {trace.categories[label]} {float(trace.scores[index]):.3f}")
    kind = "box" if index < TAGGED else "box faint"
    return (
        f'<a href="#row-{index + 1}" id="box-{index + 1}" class="{kind}"><title>{words}</title>'
        f'<rect class="edge" {place}/><rect {place} stroke="{label_color(label)}"/></a>'
    )


def _tags(trace: DetectionTrace, indices: Sequence[int], size: float) -> dict[int, str]:
    """Each at a corner of its box, inside or outside, where it hides no tag of a better one."""
    height, width = trace.outputs.original_size
    taken: list[tuple[float, ...]] = []
    tags = {}
    for index in indices:
        label, score = int(trace.labels[index]), float(trace.scores[index])
        words = f"{index + 1} {trace.categories[label]} {score:.2f}"
        across, high = size * (0.6 * len(words) + 0.6), size * 1.35
        # What it takes on a phone: there no tag may hide another either.
        wide, tall = across * PHONE_TAGS, high * PHONE_TAGS
        x1, y1, x2, y2 = trace.boxes[index].tolist()
        places = [
            (max(0.0, min(x, width - wide)), edge, up)
            for x in (x1, x2 - wide)
            for edge in (y1, y2)
            for up in (True, False)
        ]
        areas = {(x, edge - tall if up else edge, wide, tall): (edge, up) for x, edge, up in places}
        areas = {area: at for area, at in areas.items() if 0 <= area[1] <= height - tall}
        if not areas:
            top = max(0.0, min(y1, height - tall))
            areas = {(places[0][0], top, wide, tall): (top, False)}
        area = min(areas, key=lambda area: sum(_common(area, other) for other in taken))
        taken.append(area)
        x, (edge, up) = area[0], areas[area]
        shift = -high if up else 0.0
        color = label_color(label)
        tags[index] = (
            f'<a href="#row-{index + 1}" class="tag" style="--x:{x:.1f}px;--y:{edge:.1f}px">'
            f'<rect y="{shift:.1f}" width="{across:.1f}" height="{high:.1f}" fill="{color}"/>'
            f'<text x="{size * 0.3:.1f}" y="{shift + size:.1f}" fill="{text_color(color)}" '
            f'textLength="{across - size * 0.6:.1f}" lengthAdjust="spacingAndGlyphs">'
            f"{escaped(words)}</text></a>"
        )
    return tags


def _common(first: Sequence[float], second: Sequence[float]) -> float:
    """The area that two (left, top, width, height) share."""
    return math.prod(
        max(0.0, min(a + across, b + other) - max(a, b))
        for a, b, across, other in zip(first[:2], second[:2], first[2:], second[2:], strict=True)
    )
