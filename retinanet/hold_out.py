"""Some photos of a data set put aside, so that AP is measured on what a model has not learned."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

from retinanet.coco import CocoDataset, DatasetError, _read_json, load_coco

SHARE = 0.2
"""Of the photos that are put aside."""


def hold_out(
    dataset: CocoDataset, images: Path, folder: Path, *, share: float = SHARE, seed: int = 0
) -> tuple[CocoDataset, CocoDataset]:
    """Split a data set in two by photos; the same seed gives the same split.

    Args:
        dataset: two photos or more.
        images: the folder that its file names are relative to.
        folder: gets `train.json` and `val.json`, COCO instances.
        share: of the photos that go to the second part, above 0 and below 1; at least one does.
        seed: of the choice.

    Returns:
        What to train on, and what to measure on.

    Raises:
        DatasetError: there are too few photos, the annotation file is no longer readable, or
            `folder` cannot be written.
    """
    ids = sorted(photo.image_id for photo in dataset.photos)
    if len(ids) < 2:
        raise DatasetError("One photo cannot be split into training and validation; add photos.")
    random.Random(seed).shuffle(ids)  # noqa: S311 - no secret
    aside = set(ids[: min(len(ids) - 1, max(1, round(share * len(ids))))])
    data = _read_json(dataset.annotation_file)
    parts = []
    for name, chosen in (("train", set(ids) - aside), ("val", aside)):
        part = data | {
            "images": [one for one in data["images"] if one["id"] in chosen],
            "annotations": [one for one in data["annotations"] if one["image_id"] in chosen],
        }
        path = folder / f"{name}.json"
        _replace(path, json.dumps(part))
        parts.append(load_coco(path, images, min_label_score=dataset.min_label_score))
    return parts[0], parts[1]


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: a run at work may be reading it."""
    unfinished = path.with_suffix(".part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise DatasetError(f"{path} cannot be written: {error.strerror}; make room.") from error
