"""Views of a training photo: flipped, zoomed in on, or made smaller, with its boxes.

A view is a pure function of (photo, number, seed), so a run can be resumed and a cache rebuilt.
View 0 of every photo is the photo as it is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_area, clip_boxes_to_image

from retinanet.coco import Photo, Target, open_photo
from retinanet.images import normalize, resize, resize_boxes, to_tensor

MIN_VISIBLE = 0.4
"""An object cut by the crop to less than this share of its area becomes an area to ignore."""


@dataclass(frozen=True, eq=False)
class View:
    """A photo made ready for the network.

    Args:
        image: [3, h, w] float32, normalised, resized, not yet padded.
        target: boxes in the pixels of `image`.
    """

    image: Tensor
    target: Target


def make_view(
    photo: Photo,
    number: int,
    *,
    min_size: int,
    max_size: int,
    scale_jitter: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
) -> View:
    """View `number` of a photo.

    Args:
        photo: the photo; it is read from its file.
        number: 0 is the plain photo; others are flipped half of the time and scaled by a factor
            drawn log-uniformly from `scale_jitter`.
        min_size, max_size: as in `ModelConfig`.
        scale_jitter: above 1 zooms into a crop, below 1 makes the whole photo smaller.
        seed: of the draws.

    Raises:
        DatasetError: the file has not the size that the data set says.
        ImageError: the file cannot be decoded.
    """
    image = to_tensor(open_photo(photo))
    target = photo.target
    factor = 1.0
    if number > 0:
        # Text seeds are hashed by `random` itself: the same on every machine and in every process.
        draw = random.Random(f"{seed}/{photo.image_id}/{number}")  # noqa: S311
        if draw.random() < 0.5:
            image, target = flip(image, target)
        low, high = scale_jitter
        factor = low * (high / low) ** draw.random()
        if factor > 1:
            image, target = crop(image, target, 1 / factor, draw)
    shrink = min(factor, 1.0)
    resized = resize(normalize(image), round(min_size * shrink), round(max_size * shrink))
    sizes = tuple(image.shape[-2:]), tuple(resized.shape[-2:])
    scaled = Target(
        resize_boxes(target.boxes, *sizes), target.labels, resize_boxes(target.ignore, *sizes)
    )
    return View(resized, scaled)


def flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror left and right."""
    width = image.shape[-1]

    def mirrored(boxes: Tensor) -> Tensor:
        x1, y1, x2, y2 = boxes.unbind(1)
        return torch.stack([width - x2, y1, width - x1, y2], dim=1)

    flipped = Target(mirrored(target.boxes), target.labels, mirrored(target.ignore))
    return image.flip(-1), flipped


def crop(image: Tensor, target: Target, share: float, draw: random.Random) -> tuple[Tensor, Target]:
    """Cut out a window of `share` of each side, at a random place."""
    height, width = image.shape[-2:]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = draw.randint(0, height - rows), draw.randint(0, width - columns)
    offset = torch.tensor([left, top, left, top], dtype=torch.float32)

    def moved(boxes: Tensor) -> Tensor:
        return clip_boxes_to_image(boxes - offset, (rows, columns))

    boxes, ignore = moved(target.boxes), moved(target.ignore)
    visible = box_area(boxes) / box_area(target.boxes).clamp(min=1e-6)
    kept = visible >= MIN_VISIBLE
    cut = (visible > 0) & ~kept
    ignore = torch.cat([ignore[box_area(ignore) > 0], boxes[cut]])
    window = image[:, top : top + rows, left : left + columns]
    return window, Target(boxes[kept], target.labels[kept], ignore)
