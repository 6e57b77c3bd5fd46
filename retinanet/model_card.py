"""The measured part of a model card: how good, at which thresholds, how large, how fast.

Mitchell et al.: "Model Cards for Model Reporting", arXiv 1810.03993, section 4.4 "Metrics". What
people know of the data and the recipe stands beside it; this part is measured on photos.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import torch

from retinanet.coco import CocoDataset, open_photo
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.devices import device_title
from retinanet.evaluation import METRICS
from retinanet.model import RetinaNet
from retinanet.sweeps import (
    CandidateStore,
    Grid,
    HeldOutFloors,
    StoreProgress,
    Sweep,
    SweepRow,
    ap_intervals,
    class_floors,
    held_out_floors,
    model_key,
    sweep,
)
from retinanet.weight_files import storable

GRID = Grid(
    score_thresh=(0.01, *(step / 50 for step in range(5, 41))),  # .1 to .8 by .02
    nms_thresh=(0.3, 0.4, 0.5, 0.6),
)
"""The F1 surface on which thresholds are chosen; .01 is AP's own."""

AP_SETTING = PostprocessConfig(score_thresh=0.01, nms_thresh=0.5, detections_per_img=100)
"""Of the grid: what the average precisions are measured at."""

RESAMPLES = 1000
SPEED_PHOTOS = 5
"""How many photos the two input sizes are compared on."""


@dataclass(frozen=True)
class MeasuredCard:
    """What was measured.

    Args:
        card: plain data for the entry "measured" of a model card: "data", "metrics", "interval",
            "classes", "thresholds", "size", "speed".
        recommended: the setting of `GRID` with the best F1 over all classes, with floors of single
            classes only where these find more on photos that they were not chosen on.
    """

    card: dict[str, Any]
    recommended: PostprocessConfig


def measure_card(
    model: RetinaNet,
    dataset: CocoDataset,
    folder: Path,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[StoreProgress], None] = lambda _: None,
    cancel: Event | None = None,
) -> MeasuredCard:
    """Measure a model on photos that it was not trained on.

    Args:
        model: in eval mode.
        dataset: two photos or more, with true annotations.
        folder: where the network's answers are kept, as `evaluate` does.
        resamples, seed: of the intervals.
        progress: called while the network runs.
        cancel: set it to stop.

    Raises:
        Cancelled: `cancel` was set.
        ConfigError: there is but one photo.
        DatasetError: no photo can be read, or the folder cannot be written.
    """
    key = model_key(model)
    store = CandidateStore.fill(
        Path(folder) / key, model, dataset, key=key, progress=progress, cancel=cancel
    )
    swept = sweep(store, dataset, GRID, cancel=cancel)
    best, held_out = swept.best("f1"), held_out_floors(swept, folds=min(5, swept.photos))
    recommended = class_floors(swept).config if held_out.pays else best.config
    classes = _classes(swept)
    metrics = _metrics(swept, classes, resamples, seed, cancel)
    card = {
        "data": {
            "annotations": dataset.annotation_file.name,
            "photos": swept.photos,
            "objects": sum(row["objects"] for row in classes),
        },
        "metrics": metrics,
        "interval": f"95%: {resamples:,} resamples of the photos, seed {seed}, percentiles",
        "classes": classes,
        "thresholds": _thresholds(best, held_out),
        "size": _size(model),
        "speed": _speed(model, dataset, best),
    }
    return MeasuredCard(card, recommended)


def _metrics(
    swept: Sweep, classes: list[dict[str, Any]], resamples: int, seed: int, cancel: Event | None
) -> dict[str, Any]:
    """{name: {"value", "low", "high"}}, without the interval where none is worked out."""
    commonest = max(classes, key=lambda row: row["objects"])["category"]
    settings = {"resamples": resamples, "seed": seed, "cancel": cancel}
    intervals = ap_intervals(swept, AP_SETTING, (commonest,), **settings)
    values = swept.at(AP_SETTING).metrics
    known = {name: _rounded(asdict(own)) for name, own in intervals.items()}
    plain = {name: _rounded({"value": values[name]}) for name in METRICS if name not in known}
    return known | plain


def _classes(swept: Sweep) -> list[dict[str, Any]]:
    """A row for each class that has objects, the best first."""
    rows = [
        {"category": row["category"], "objects": row["gts"]}
        | _rounded({name: row[name] for name in ("AP50", "AP")})
        for row in swept.per_class(AP_SETTING)
        if row["gts"]
    ]
    return sorted(rows, key=lambda row: (-row["AP50"], -row["objects"], row["category"]))


def _thresholds(best: SweepRow, held_out: HeldOutFloors) -> dict[str, Any]:
    """The best setting by F1 and what it finds; and what floors of single classes would gain."""
    counts = best.counts
    found = {name: getattr(counts, name) for name in ("f1", "precision", "recall")}
    gains = {"one_threshold": held_out.one.f1, "floor_for_each_class": held_out.each.f1}
    return (
        {"score_thresh": best.config.score_thresh, "nms_thresh": best.config.nms_thresh}
        | _rounded(found)
        | {"boxes_per_photo": round(best.detections_per_image, 2)}
        | {"held_out_f1": _rounded(gains) | {"folds": held_out.folds}}
        | {"class_floors_taken": held_out.pays}
    )


def _size(model: RetinaNet) -> dict[str, Any]:
    tensors = [storable(value, torch.float16) for value in model.state_dict().values()]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes_fp16": sum(value.numel() * value.element_size() for value in tensors),
    }


def _speed(model: RetinaNet, dataset: CocoDataset, best: SweepRow) -> dict[str, Any]:
    """Seconds a photo at the model's own size, and as a share of those at the paper's 800 px."""
    images = [open_photo(photo) for photo in dataset.photos[:SPEED_PHOTOS]]
    full, paper = copy.copy(model), ModelConfig()  # the same weights
    full.config = replace(model.config, min_size=paper.min_size, max_size=paper.max_size)
    seconds = _seconds(model, images)
    return {
        "device": device_title(model.device),
        "threads": torch.get_num_threads(),
        "network_seconds": round(seconds, 4),
        "postprocess_seconds": round(best.postprocess_seconds, 5),
        "share_of_800_px": round(seconds / _seconds(full, images), 3),
    }


def _seconds(model: RetinaNet, images: list[Any]) -> float:
    """Median over photos, after one that warms up."""
    times = []
    for image in [images[0], *images]:
        began = time.perf_counter()
        outputs = model(image)
        outputs.cls_logits[0].sum().item()  # waits for the device
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    """To four digits; None, which JSON knows, for what cannot be measured."""
    return {name: None if own != own else round(own, 4) for name, own in values.items()}
