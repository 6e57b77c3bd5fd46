"""The sample photos with their hand-drawn boxes as a data set in COCO form, with COCO's ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from retinanet.checkpoints import official_categories
from retinanet.coco import CocoDataset, DatasetError, load_coco
from retinanet.samples import SAMPLES, load_sample, sample_path


def make_sample_dataset(folder: Path) -> CocoDataset:
    """Write the sample photos and their boxes to a folder, unless they are there.

    Args:
        folder: gets `instances.json` and `images`; made when missing.

    Returns:
        The data set: all 80 categories of COCO, so that a detection of any class counts.

    Raises:
        DatasetError: the folder cannot be written.
        ImageError: a sample is missing from this installation.
    """
    try:
        path = _write(folder)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be written: {error.strerror}; make room.") from error
    return load_coco(path, folder / "images")


def _write(folder: Path) -> Path:
    """The annotation file, which is written last."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    names, _ = official_categories()
    ids = {name: index for index, name in enumerate(names) if name}
    entries, annotations = [], []
    for image_id, sample in enumerate(SAMPLES, start=1):
        source = sample_path(sample.key)
        target = images / source.name
        if not target.is_file() or target.stat().st_size != source.stat().st_size:
            shutil.copyfile(source, target)  # the size tells a copy that was cut short
        width, height = load_sample(sample.key).size
        entries.append({"id": image_id, "file_name": target.name, "width": width, "height": height})
        for box in sample.boxes:
            size = (box.x2 - box.x1, box.y2 - box.y1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[box.category],
                    "bbox": [box.x1, box.y1, *size],
                    "area": size[0] * size[1],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for name, index in ids.items()]
    data = {"images": entries, "annotations": annotations, "categories": categories}
    path = folder / "instances.json"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(data), encoding="utf-8")
    unfinished.replace(path)
    return path
