"""Pictures of a model getting better: a few fixed photos with what it says and what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
from torch import Tensor

from retinanet.coco import CocoDataset, Photo, open_photo
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.export import draw_detections
from retinanet.figures.palette import DARK_TEXT, GROUND_TRUTH
from retinanet.model import RetinaNet

FOLDER = "previews"
MAX_PHOTOS = 4
MAX_SIDE = 480
"""Pixels."""

POSTPROCESS = PostprocessConfig(score_thresh=0.2, detections_per_img=20)
"""A young model's scores are low, and above 0.2 it means something by them."""

_DASH, _GAP = 6, 4  # pixels


def preview_photos(dataset: CocoDataset) -> tuple[Photo, ...]:
    """Up to `MAX_PHOTOS` photos with objects, evenly spread over the data set: always the same."""
    photos = [photo for photo in dataset.photos if len(photo.target.boxes)] or list(dataset.photos)
    count = min(MAX_PHOTOS, len(photos))
    return tuple(photos[index * len(photos) // count] for index in range(count))


def write_previews(
    model: RetinaNet, photos: Sequence[Photo], run_folder: Path, step: int
) -> list[Path]:
    """Draw the photos after so many steps.

    Args:
        model: in eval mode.
        photos: of `preview_photos`.
        run_folder: the pictures go to previews/000200-0.jpg in it, at most `MAX_SIDE` pixels a
            side.
        step: steps done.

    Raises:
        DatasetError, ImageError: a photo cannot be used.
        OSError: a picture cannot be written.
    """
    folder = run_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, photo in enumerate(photos):
        path = folder / f"{step:06}-{index}.jpg"
        unfinished = path.with_suffix(".part")
        draw_preview(model, photo).save(unfinished, "JPEG", quality=85)
        unfinished.replace(path)  # whoever watches never sees half a picture
        paths.append(path)
    return paths


def draw_preview(model: RetinaNet, photo: Photo) -> PIL.Image.Image:
    """A photo, made small, with the model's best boxes and the ground truth dashed.

    Args:
        model: in eval mode.
        photo: of a data set of the model's classes.

    Raises:
        DatasetError, ImageError: the photo cannot be used.
    """
    image = open_photo(photo)
    outputs = model(image)
    trace = detect(outputs, POSTPROCESS)
    scale = min(1.0, MAX_SIDE / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    small = replace(image, pil=image.pil.resize(size))
    boxes = _Scaled(trace.boxes.cpu() * scale, trace.scores.cpu(), trace.labels.cpu())
    picture = draw_detections(small, boxes, outputs)
    draw = PIL.ImageDraw.Draw(picture)
    for box in (photo.target.boxes * scale).tolist():
        _dashed(draw, box)
    return picture


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Detections in the pixels of the small picture: see `export.Detections`."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def _dashed(draw: PIL.ImageDraw.ImageDraw, box: Sequence[float]) -> None:
    """The outline of a box in dashes of the ground truth's colour over dark ones."""
    x1, y1, x2, y2 = box
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    for start, end in pairwise(corners):
        for dash in _dashes(start, end):
            draw.line(dash, DARK_TEXT, width=4)
            draw.line(dash, GROUND_TRUTH, width=2)


def _dashes(
    start: tuple[float, float], end: tuple[float, float]
) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """The dashes of a horizontal or vertical line."""
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    if not length:
        return
    dx, dy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    at = 0.0
    while at < length:
        stop = min(at + _DASH, length)
        yield (
            (start[0] + dx * at, start[1] + dy * at),
            (start[0] + dx * stop, start[1] + dy * stop),
        )
        at += _DASH + _GAP
