"""The sample gallery: photographs that come inside the scikit-image package.

Nothing is downloaded or copied. The boxes were drawn by hand for this project, to about two pixels,
around the visible part of every object of a COCO category; names are COCO's.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from retinanet.images import ImageError, load_image
from retinanet.types import Image


class SampleBox(NamedTuple):
    """One object in a sample: its COCO category name and its box xyxy in pixels of the photo."""

    category: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """The box as `(x1, y1, x2, y2)`, pixels."""
        return (self.x1, self.y1, self.x2, self.y2)


@dataclass(frozen=True, slots=True)
class Sample:
    """A photograph of the gallery.

    Args:
        key: short name, as used in the URL.
        title: a few words for the gallery.
        file: file name inside scikit-image's data folder.
        credit: who made it and under which licence, as scikit-image states it.
        boxes: every COCO object in it, the main one first; empty where there is none.
    """

    key: str
    title: str
    file: str
    credit: str
    boxes: tuple[SampleBox, ...]


SAMPLES: tuple[Sample, ...] = (
    Sample(
        key="astronaut",
        title="Astronaut",
        file="astronaut.png",
        credit="Eileen Collins, NASA Great Images; public domain.",
        boxes=(SampleBox("person", 18, 15, 366, 512),),
    ),
    Sample(
        key="coffee",
        title="Coffee cup",
        file="coffee.png",
        credit="Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0.",
        boxes=(
            SampleBox("cup", 173, 18, 408, 309),
            SampleBox("spoon", 326, 66, 424, 325),
            SampleBox("dining table", 0, 0, 600, 400),
        ),
    ),
    Sample(
        key="cat",
        title="Chelsea the cat",
        file="chelsea.png",
        credit="Stefan van der Walt; CC0.",
        boxes=(SampleBox("cat", 0, 0, 401, 300),),
    ),
    Sample(
        key="motorcycle",
        title="Motorcycle in a garage",
        file="motorcycle_left.png",
        credit="Middlebury 2014 stereo benchmark, D. Scharstein and others (GCPR 2014).",
        boxes=(
            SampleBox("motorcycle", 92, 14, 685, 451),
            SampleBox("bench", 41, 105, 294, 309),
            SampleBox("bicycle", 0, 107, 139, 230),
            SampleBox("umbrella", 317, 0, 371, 123),
            SampleBox("bottle", 400, 51, 419, 92),
            SampleBox("bottle", 475, 47, 495, 73),
        ),
    ),
    Sample(
        key="cameraman",
        title="Man with a camera, greyscale",
        file="camera.png",
        credit="Lav Varshney; CC0.",
        boxes=(SampleBox("person", 0, 63, 332, 512),),
    ),
    Sample(
        key="rocket",
        title="Rocket: no COCO object",
        file="rocket.jpg",
        credit="Launch of DSCOVR on Falcon 9, SpaceX Photos; public domain.",
        boxes=(),
    ),
)
"""The gallery in its order; the first is what a page shows before anyone has touched it."""


def get_sample(key: str) -> Sample:
    """The sample of this key.

    Raises:
        ImageError: there is none; the sentence names those there are.
    """
    for sample in SAMPLES:
        if sample.key == key:
            return sample
    known = ", ".join(sample.key for sample in SAMPLES)
    raise ImageError(f"There is no sample named {key!r}; choose one of {known}.")


def sample_path(key: str) -> Path:
    """The sample's file on this machine, without importing scikit-image.

    Raises:
        ImageError: no such sample, or scikit-image is not installed.
    """
    sample = get_sample(key)
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ImageError("The sample photos come with scikit-image; install it to see them.")
    return Path(spec.submodule_search_locations[0]) / "data" / sample.file


@lru_cache(maxsize=len(SAMPLES))
def load_sample(key: str) -> Image:
    """The sample's photo, decoded once per process.

    Raises:
        ImageError: no such sample, or its file is not on this machine.
    """
    return load_image(sample_path(key))


def sample_ground_truth(key: str) -> tuple[SampleBox, ...]:
    """The hand-drawn boxes of a sample.

    Raises:
        ImageError: no such sample.
    """
    return get_sample(key).boxes
