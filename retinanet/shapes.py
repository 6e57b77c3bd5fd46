"""A detection data set that needs no download: labelled shapes on crops of the sample photos.

The same settings give the same pixels and boxes, bit for bit, with the same Pillow and the same
scikit-image (whose photographs are the backgrounds). In COCO form, as `coco.load_coco` reads it.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinanet.coco import CocoDataset, DatasetError, load_coco
from retinanet.config import ConfigError, _Config, _integer, _number
from retinanet.datasets.drawing import DrawnPhoto, DrawnShape, draw_photo
from retinanet.datasets.folders import made_whole
from retinanet.samples import SAMPLES
from retinanet.single_flight import Cancelled

__all__ = [
    "CATEGORIES",
    "DrawnPhoto",
    "DrawnShape",
    "ShapesConfig",
    "class_counts",
    "class_sequence",
    "draw_photo",
    "make_shapes",
]

CATEGORIES: tuple[str, ...] = ("disc", "square", "triangle", "star", "ring", "cross")
"""Class names by label index, the most frequent first; COCO's ids are one more."""

FORMAT = 1
"""Of the drawing: another number means that the same settings give other photos."""

_FULLEST = 0.35  # of a photo that its objects may take at their smallest: fuller ones rarely fit


@dataclass(frozen=True)
class ShapesConfig(_Config):
    """What the photos look like.

    Args:
        images: photos, 1 to 20,000.
        size: side of the square photos in pixels, 64 to 1,024.
        objects: in a photo, at least and at most; 0 to 12.
        imbalance: objects of the most frequent class for each of the rarest, 1 to 100; the
            classes between them follow geometrically.
        sizes: the longer side of an object's box as a share of the photo's side, at least and at
            most; drawn evenly over its logarithm. An object that finds no place is made smaller.
        max_hidden: the largest share of an object that others may cover, 0 to 0.6; no object is
            placed that would hide more of another, so each drawn object is labelled.
        stretch: longest to shortest side of a shape, at most; 1 to 2.
        rotation: degrees that a shape is turned to either side, at most; 0 to 180.
        color_jitter: 0 gives each class a colour of its own, 1 gives any object any colour.
        clutter: contrast of the photo behind, 0 (plain) to 1 (as it is).
        seed: of everything, 0 or more.

    Raises:
        ConfigError: a value is outside its range, or the objects do not fit into a photo.
    """

    images: int = 120
    size: int = 192
    objects: tuple[int, int] = (1, 5)
    imbalance: float = 1.0
    sizes: tuple[float, float] = (0.2, 0.45)
    max_hidden: float = 0.25
    stretch: float = 1.25
    rotation: float = 15.0
    color_jitter: float = 0.3
    clutter: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        owner = "ShapesConfig"
        _integer(owner, "images", self.images, 1, 20_000)
        _integer(owner, "size", self.size, 64, 1024)
        _integer(owner, "seed", self.seed, 0)
        for name, check, low, high in (
            ("objects", _integer, 0, 12),
            ("sizes", _number, 0.08, 0.8),
        ):
            self._check_pair(name, check, low, high)
        if self.objects[1] < 1:
            raise ConfigError("ShapesConfig: objects must allow one in a photo, for example 0 3.")
        for name, low, high in (
            ("imbalance", 1, 100),
            ("max_hidden", 0, 0.6),
            ("stretch", 1, 2),
            ("rotation", 0, 180),
            ("color_jitter", 0, 1),
            ("clutter", 0, 1),
        ):
            _number(owner, name, getattr(self, name), low, high)
        if self.objects[1] * self.sizes[0] ** 2 > _FULLEST:
            raise ConfigError(
                f"ShapesConfig: {self.objects[1]} objects of {self.sizes[0]:g} of the side do not "
                "fit into a photo; lower objects or sizes."
            )

    def _check_pair(self, name: str, check: Callable[..., None], low: float, high: float) -> None:
        """Two values, the smaller first; a list, as JSON gives one, becomes a tuple."""
        pair = getattr(self, name)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(f"ShapesConfig: {name} must be two values, at least and at most.")
        for value in pair:
            check("ShapesConfig", name, value, low, high)
        if pair[0] > pair[1]:
            raise ConfigError(f"ShapesConfig: {name} must name the smaller value first.")
        object.__setattr__(self, name, tuple(pair))


def make_shapes(
    folder: Path,
    config: ShapesConfig = ShapesConfig(),
    *,
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> CocoDataset:
    """Draw the photos and write them with their boxes; a folder made before is used again.

    Args:
        folder: gets `instances.json` and `images/`, whole or not at all; made when missing.
        config: what to draw.
        progress: called with (photos done, photos in all).
        cancel: when set, nothing is left behind.

    Raises:
        DatasetError: the folder holds something else, or cannot be written.
        ImageError: scikit-image and its photos are not installed.
        Cancelled: `cancel` was set.
    """
    folder = Path(folder)
    if not _is_free(folder):
        return _made_before(folder, config)
    with made_whole(folder) as unfinished:
        (unfinished / "images").mkdir()
        _write(unfinished, config, progress, cancel)
    return _made_before(folder, config)


def class_sequence(config: ShapesConfig) -> list[list[int]]:
    """The labels of each photo's objects.

    The counts of the classes are the knob's to the nearest object, not drawn by chance; a class
    has one object at least where there are enough for all.
    """
    draw = random.Random(f"shapes {config.seed} counts")  # noqa: S311
    counts = [draw.randint(*config.objects) for _ in range(config.images)]
    labels = [
        label
        for label, count in enumerate(class_counts(sum(counts), config.imbalance))
        for _ in range(count)
    ]
    draw.shuffle(labels)
    stock = iter(labels)
    return [[next(stock) for _ in range(count)] for count in counts]


def class_counts(objects: int, imbalance: float) -> list[int]:
    """How many objects of each class there are: geometric, `imbalance` from first to last.

    Args:
        objects: in all.
        imbalance: 1 or more.
    """
    last = len(CATEGORIES) - 1
    least = 1 if objects > last else 0
    weights = [imbalance ** (-label / last) for label in range(last + 1)]
    spread = objects / sum(weights)
    counts = [max(least, math.floor(weight * spread)) for weight in weights]
    # What rounding left over, to whom it cost most; what the least share took, from the first.
    by_loss = sorted(range(last + 1), key=lambda label: counts[label] - weights[label] * spread)
    for label in by_loss[: max(0, objects - sum(counts))]:
        counts[label] += 1
    counts[0] -= sum(counts) - objects
    return counts


# On disk


def _write(
    folder: Path,
    config: ShapesConfig,
    progress: Callable[[int, int], None] | None,
    cancel: threading.Event | None,
) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, labels in enumerate(class_sequence(config)):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        photo = draw_photo(config, index, labels)
        name = f"{index + 1:06}.jpg"
        photo.picture.save(folder / "images" / name, quality=92, subsampling=0)
        images.append(
            {"id": index + 1, "file_name": name, "width": config.size, "height": config.size}
        )
        for shape in photo.shapes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": shape.label + 1,
                    "bbox": list(shape.bbox),
                    "area": shape.area,
                    "iscrowd": 0,
                    "hidden": round(shape.hidden, 3),
                }
            )
        if progress is not None:
            progress(index + 1, config.images)
    data = {
        "info": {
            "description": "Shapes composed over scikit-image's photographs.",
            "shapes": _plain(config),
            "credits": [f"{sample.title}: {sample.credit}" for sample in SAMPLES],
        },
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, 1)],
    }
    (folder / "instances.json").write_text(json.dumps(data), encoding="utf-8")


def _plain(config: ShapesConfig) -> dict[str, Any]:
    """The settings as they are after a stay in a JSON file."""
    return json.loads(json.dumps({"format": FORMAT, **config.to_dict()}))


def _is_free(folder: Path) -> bool:
    """Whether nothing is there, or an empty folder.

    Raises:
        DatasetError: it is a file, or cannot be looked into.
    """
    try:
        return not folder.exists() or not any(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"{folder} cannot be used: {error.strerror}; name a folder.") from error


def _made_before(folder: Path, config: ShapesConfig) -> CocoDataset:
    """The data set in the folder.

    Raises:
        DatasetError: it is not the one that these settings give.
    """
    other = (
        f"{folder} holds something other than the shapes of these settings; name another folder, "
        "or remove this one."
    )
    path = folder / "instances.json"
    if not path.is_file():
        raise DatasetError(other)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["info"]["shapes"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DatasetError(other) from error
    if found != _plain(config):
        raise DatasetError(other)
    dataset = load_coco(path, folder / "images")
    if dataset.report["photos"] != config.images:
        raise DatasetError(
            f"{folder} has lost {config.images - dataset.report['photos']:,} of its "
            f"{config.images:,} photos; remove it, and it will be made again."
        )
    return dataset
