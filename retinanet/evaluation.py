"""COCO's average precision, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.coco import CocoDataset, ground_truth, open_photo
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.export import to_coco_results
from retinanet.model import RetinaNet

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")

AP_POSTPROCESS = PostprocessConfig(score_thresh=0.01, detections_per_img=100)
"""COCO counts 100 detections an image, and AP rewards low thresholds."""


def coco_results(
    model: RetinaNet,
    dataset: CocoDataset,
    config: PostprocessConfig = AP_POSTPROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Detections on every photo, in COCO's results format.

    Args:
        model: in eval mode.
        dataset: its photos are read from their files, one at a time.
        config: post-processing.
        progress: called with (photos done, photos in all).

    Raises:
        DatasetError: a photo has not the size that the data set says.
        ImageError: a photo cannot be decoded.
    """
    results = []
    for done, photo in enumerate(dataset.photos, start=1):
        outputs = model(open_photo(photo))
        results += to_coco_results(detect(outputs, config), outputs, photo.image_id)
        if progress:
            progress(done, len(dataset.photos))
    return results


def score(dataset: CocoDataset, results: list[dict[str, Any]]) -> dict[str, Any]:
    """AP of results against a data set's own annotations, cleaned as `ground_truth` says.

    Returns:
        `METRICS` -> value in [0, 1], nan where nothing can be measured; "AP50_per_class" ->
        {name: AP50}, for the classes that occur.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = ground_truth(dataset)
        truth.createIndex()
        image_ids = [photo.image_id for photo in dataset.photos]
        evaluation = COCOeval(truth, _detected(truth, results), "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [value if value >= 0 else float("nan") for value in evaluation.stats[:6].tolist()]
    precision = evaluation.eval["precision"][0, :, :, 0, -1]  # IoU .5, all areas, 100 boxes: [R, K]
    per_class = {
        truth.cats[category_id]["name"]: float(np.mean(precision[:, column]))
        for column, category_id in enumerate(evaluation.params.catIds)
        if precision[0, column] > -1
    }
    return dict(zip(METRICS, values, strict=True)) | {"AP50_per_class": per_class}


def _detected(truth: COCO, results: list[dict[str, Any]]) -> COCO:
    """The results as pycocotools has them; its `loadRes` cannot take an empty list."""
    if results:
        return truth.loadRes([dict(own) for own in results])  # it adds entries to what it is given
    none = COCO()
    none.dataset = truth.dataset | {"annotations": []}
    none.createIndex()
    return none


def evaluate(
    model: RetinaNet,
    dataset: CocoDataset,
    config: PostprocessConfig = AP_POSTPROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """`coco_results` and `score` in one: see there."""
    return score(dataset, coco_results(model, dataset, config, progress))
