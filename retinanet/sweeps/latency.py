"""What post-processing costs under each setting, measured on some stored photos."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torchvision.ops import batched_nms

from retinanet.candidates import selected
from retinanet.config import PostprocessConfig
from retinanet.images import resize_boxes
from retinanet.single_flight import Cancelled
from retinanet.sweeps.candidate_store import CandidateStore
from retinanet.sweeps.stored import StoredImage


@dataclass(frozen=True)
class Latency:
    """Seconds for one photo: the median and the 95th percentile."""

    median: float
    p95: float


def measure_latency(
    store: CandidateStore,
    image_ids: Sequence[int],
    settings: Sequence[PostprocessConfig],
    photos: int,
    cancel: threading.Event | None = None,
) -> dict[PostprocessConfig, Latency]:
    """Time the steps of `detect` for each setting, on photos evenly spread over the data set.

    Picking the pairs, NMS as torchvision runs it, and scaling the boxes; what is worked out once
    per photo (scores, order, decoding) is not in it. `detections_per_img` costs nothing, so
    settings that differ in it only share one measurement.

    Args:
        store: the candidates.
        image_ids: of the stored photos.
        settings: which to time.
        photos: on how many photos; 0 measures nothing.
        cancel: set it to stop.
    """
    if not photos or not image_ids:
        return {}
    places = np.linspace(0, len(image_ids) - 1, min(photos, len(image_ids))).round().astype(int)
    times: dict[tuple, list[float]] = {_costly(own): [] for own in settings}
    by_cost = {_costly(own): own for own in settings}
    for place in places.tolist():
        image = store.read(image_ids[place])
        _postprocess(image, settings[0])  # whatever runs for the first time is not measured
        for cost, own in by_cost.items():
            if cancel is not None and cancel.is_set():
                raise Cancelled
            started = time.perf_counter()
            _postprocess(image, own)
            times[cost].append(time.perf_counter() - started)
    found = {
        cost: Latency(float(np.median(own)), float(np.percentile(own, 95)))
        for cost, own in times.items()
    }
    return {own: found[_costly(own)] for own in settings}


def _costly(config: PostprocessConfig) -> tuple:
    """What the time depends on."""
    return (
        *(config.score_thresh, config.nms_thresh, config.topk_candidates),
        config.class_score_thresh,
    )


def _postprocess(image: StoredImage, config: PostprocessConfig) -> None:
    candidates, outputs = image.candidates, image.outputs
    levels = range(len(candidates.heads))
    heads, takes = zip(*(candidates.enter(outputs, level, config) for level in levels), strict=True)
    boxes, scores, labels = selected(heads, takes)
    kept = batched_nms(boxes, scores, labels, config.nms_thresh)[: config.detections_per_img]
    resize_boxes(boxes[kept], outputs.image_size, outputs.original_size)
