"""How one photo of shapes is drawn: the shapes, their places, and what is to be seen of them."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

from retinanet.coco import DatasetError
from retinanet.samples import SAMPLES, load_sample

if TYPE_CHECKING:
    from retinanet.shapes import ShapesConfig

_FINE = 4  # lines of the drawing in each pixel, for soft edges
_PLACES = 40  # tried for an object before it is made smaller
_LAYOUTS = 50  # tried for a photo


class DrawnShape(NamedTuple):
    """One object of a drawn photo.

    label: its class. bbox: (x, y, width, height) in whole pixels around what is to be seen of it.
    area: pixels of it that are to be seen. hidden: share of its pixels that others cover.
    """

    label: int
    bbox: tuple[int, int, int, int]
    area: int
    hidden: float


@dataclass(frozen=True, eq=False)
class DrawnPhoto:
    """A photo and what is in it.

    Args:
        picture: RGB, square.
        shapes: its objects, the hindmost first.
        owner: [size, size] int16, the index in `shapes` of what is to be seen at each pixel; -1
            for the background.
    """

    picture: PIL.Image.Image
    shapes: tuple[DrawnShape, ...]
    owner: NDArray[np.int16]


def draw_photo(config: ShapesConfig, index: int, labels: Sequence[int]) -> DrawnPhoto:
    """One photo with an object of each of these classes.

    Args:
        config: how to draw.
        index: of the photo; another one is another crop with other shapes.
        labels: class indices.

    Raises:
        DatasetError: the objects find no place, as the photo is too full.
    """
    draw = random.Random(f"shapes {config.seed} photo {index}")  # noqa: S311
    background = _background(config, draw)
    for _ in range(_LAYOUTS):
        photo = _layout(config, background.copy(), labels, draw)
        if photo is not None:
            return photo
    raise DatasetError(
        f"{len(labels)} objects find no place in a photo; lower objects or sizes, or raise "
        "max_hidden."
    )


def _layout(
    config: ShapesConfig, pixels: NDArray[np.uint8], labels: Sequence[int], draw: random.Random
) -> DrawnPhoto | None:
    """Place the objects one over the other; None when one finds no place."""
    owner = np.full((config.size, config.size), -1, np.int16)
    whole: list[int] = []  # pixels of each object before others cover it
    for label in labels:
        placed = _place(config, owner, whole, label, draw)
        if placed is None:
            return None
        x, y, alpha = placed
        height, width = alpha.shape
        here = (slice(y, y + height), slice(x, x + width))
        mask = alpha >= 128
        owner[here][mask] = len(whole)
        whole.append(int(mask.sum()))
        _paint(pixels[here], alpha, mask, _color(label, config, draw))
    shapes = [_seen(label, owner == index, whole[index]) for index, label in enumerate(labels)]
    return DrawnPhoto(PIL.Image.fromarray(pixels), tuple(shapes), owner)


def _place(
    config: ShapesConfig,
    owner: NDArray[np.int16],
    whole: Sequence[int],
    label: int,
    draw: random.Random,
) -> tuple[int, int, NDArray[np.uint8]] | None:
    """Left, top and coverage of a shape where it hides no other too much."""
    smallest, largest = config.sizes
    side = math.exp(draw.uniform(math.log(smallest), math.log(largest)))
    seen = np.bincount(owner[owner >= 0], minlength=len(whole))
    while True:
        alpha = _shape(label, side * config.size, config, draw)
        height, width = alpha.shape
        mask = alpha >= 128
        for _ in range(_PLACES):
            x, y = draw.randint(0, config.size - width), draw.randint(0, config.size - height)
            below = owner[y : y + height, x : x + width][mask]
            left = seen - np.bincount(below[below >= 0], minlength=len(whole))
            if np.all(left >= (1 - config.max_hidden) * np.asarray(whole)):
                return x, y, alpha
        if side <= smallest:
            return None
        side = max(smallest, 0.85 * side)


def _shape(label: int, side: float, config: ShapesConfig, draw: random.Random) -> NDArray[np.uint8]:
    """Coverage in 0..255 of a stretched and turned shape, [h, w]; 128 and more is the object.

    The array is tight: its outermost rows and columns hold pixels of the object.
    """
    angle = math.radians(draw.uniform(-config.rotation, config.rotation))
    ratio = math.sqrt(config.stretch ** draw.uniform(-1, 1))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    outlines = [outline * (ratio, 1 / ratio) @ turn.T for outline in _OUTLINES[label]]
    low, high = outlines[0].min(axis=0), outlines[0].max(axis=0)
    scale = _FINE * side / (high - low).max()
    canvas_side = _FINE * (math.ceil(side) + 1)
    canvas = PIL.Image.new("L", (canvas_side, canvas_side))
    pen = PIL.ImageDraw.Draw(canvas)
    for outline, fill in zip(outlines, (255, 0), strict=False):  # the second is a hole
        pen.polygon([tuple(point) for point in (outline - low) * scale], fill=fill)
    alpha = np.asarray(canvas.reduce(_FINE))
    x, y, width, height = _extent(alpha >= 128)
    return alpha[y : y + height, x : x + width]


def _circle(radius: float = 1.0, corners: int = 96) -> NDArray[np.float64]:
    """Corners of a regular polygon on a circle around 0, the first straight up."""
    angles = np.arange(corners) * (2 * math.pi / corners)
    return radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _star() -> NDArray[np.float64]:
    corners = _circle(corners=10)
    corners[1::2] *= 0.45
    return corners


def _cross() -> NDArray[np.float64]:
    arm = [(-0.35, -1), (0.35, -1), (0.35, -0.35)]  # a quarter of it, then the next
    turns = [(1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)]
    return np.array([(a * x + b * y, c * x + d * y) for a, b, c, d in turns for x, y in arm])


# In the order of `shapes.CATEGORIES`: the outline and, for the ring, its hole; each [corners, 2]
# around 0.
_OUTLINES: tuple[tuple[NDArray[np.float64], ...], ...] = (
    (_circle(),),
    (np.array([(-1.0, -1.0), (1, -1), (1, 1), (-1, 1)]),),
    (_circle(corners=3),),
    (_star(),),
    (_circle(), _circle(0.55)),
    (_cross(),),
)


def _background(config: ShapesConfig, draw: random.Random) -> NDArray[np.uint8]:
    """A crop of a sample photo, [size, size, 3], its contrast as `clutter` says."""
    pil = load_sample(draw.choice(SAMPLES).key).pil
    side = round(draw.uniform(0.4, 1.0) * min(pil.size))
    x, y = draw.randint(0, pil.width - side), draw.randint(0, pil.height - side)
    shape = (config.size, config.size)
    crop = pil.resize(shape, PIL.Image.Resampling.BILINEAR, (x, y, x + side, y + side))
    pixels = np.asarray(crop, np.float64)
    if draw.random() < 0.5:
        pixels = pixels[:, ::-1]
    middle = pixels.mean(axis=(0, 1))
    return np.rint(middle + config.clutter * (pixels - middle)).astype(np.uint8)


def _color(label: int, config: ShapesConfig, draw: random.Random) -> tuple[float, ...]:
    """RGB in 0..255: the class's hue, as far off as `color_jitter` says."""
    off = config.color_jitter
    hue = label / len(_OUTLINES) + off * draw.uniform(-0.5, 0.5)
    saturation, value = 0.9 - 0.5 * off * draw.random(), 1.0 - 0.5 * off * draw.random()
    return tuple(255 * channel for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _paint(
    pixels: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    color: Sequence[float],
) -> None:
    """Lay a colour over the pixels of the object, softer at its edge, in place."""
    share = (alpha / 255.0 * mask)[..., None]
    pixels[:] = np.rint(pixels * (1 - share) + share * np.asarray(color)).astype(np.uint8)


def _seen(label: int, mask: NDArray[np.bool_], whole: int) -> DrawnShape:
    """What is left to be seen of an object that had `whole` pixels."""
    area = int(mask.sum())
    return DrawnShape(label, _extent(mask), area, 1 - area / whole)


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the tightest box around the true pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
