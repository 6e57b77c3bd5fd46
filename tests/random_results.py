"""A random data set with random results: near hits, wrong classes, doubles, crowds and ties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from retinanet.coco import CocoDataset, load_coco


def random_dataset(
    folder: Path,
    seed: int,
    *,
    photos: int = 6,
    classes: int = 3,
    objects: int = 5,
    crowds: float = 0.0,
    side: int = 200,
) -> CocoDataset:
    """Photos that are empty files, in an order that is not that of their ids."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    ids = rng.permutation(np.arange(1, photos + 1)).tolist()
    data = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3 * k + 2, "name": f"kind {k}"} for k in range(classes)],
    }
    for image_id in ids:
        name = f"{image_id:05}.png"
        (folder / "images" / name).touch()
        data["images"].append({"id": image_id, "file_name": name, "width": side, "height": side})
        for _ in range(int(rng.integers(0, 2 * objects + 1))):
            x, y = rng.uniform(0, side * 0.6, 2)
            w, h = rng.uniform(8, side * 0.4, 2)
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(classes)) * 3 + 2,
                    "bbox": [float(x), float(y), float(w), float(h)],
                    "area": float(w * h),
                    "iscrowd": int(rng.random() < crowds),
                }
            )
    annotation_file = folder / "instances.json"
    annotation_file.write_text(json.dumps(data))
    return load_coco(annotation_file, folder / "images")


def random_results(
    dataset: CocoDataset, seed: int, *, around: int = 3, anywhere: int = 4, ties: bool = False
) -> list[dict]:
    """Detections around each object, and some anywhere; with ties scores are whole tenths."""
    rng = np.random.default_rng(seed)
    truth = json.loads(dataset.annotation_file.read_text())["annotations"]
    boxes = [
        (a["image_id"], a["category_id"], np.array(a["bbox"]), rng.uniform(0, 0.4))
        for a in truth
        for _ in range(int(rng.integers(0, around + 1)))
    ]
    for photo in dataset.photos:
        for _ in range(anywhere):
            box = np.concatenate([rng.uniform(0, photo.width * 0.7, 2), rng.uniform(5, 60, 2)])
            boxes.append((photo.image_id, 2, box, 0.0))
    results = []
    for at in rng.permutation(len(boxes)).tolist():
        image_id, category_id, box, spread = boxes[at]
        moved = box + rng.normal(0, spread, 4) * np.tile(box[2:], 2)
        if rng.random() < 0.25:
            category_id = int(rng.choice(dataset.category_ids))
        score = rng.random()
        results.append(
            {
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [*moved[:2].tolist(), *moved[2:].clip(1).tolist()],
                "score": float(round(score, 1) if ties else score),
            }
        )
    return results
