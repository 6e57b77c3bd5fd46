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

from retinanet.coco import CocoDataset, DatasetError, open_photo
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.devices import device_title
from retinanet.evaluation import AP_POSTPROCESS, METRICS
from retinanet.model import RetinaNet
from retinanet.sweeps import (
    CandidateStore,
    Grid,
    HeldOutFloors,
    StoreProgress,
    Sweep,
    SweepRow,
    ap_intervals,
    check_bootstrap,
    class_floors,
    held_out_floors,
    model_key,
    sweep,
)
from retinanet.weight_files import storable

GRID = Grid(
    score_thresh=(0.01, *(step / 50 for step in range(1, 41))),  # .02 to .8 by .02
    nms_thresh=(0.3, 0.4, 0.5, 0.6),
)
"""The F1 surface on which thresholds are chosen; .01 is that of `AP_POSTPROCESS`."""

PRECISION = 0.75
"""The share of right boxes that a recommended setting is to have."""

RESAMPLES = 1000
SPEED_PHOTOS = 5
"""How many photos the two input sizes are compared on."""


@dataclass(frozen=True)
class MeasuredCard:
    """What was measured.

    Args:
        card: plain data for the entry "measured" of a model card: "data", "metrics", "interval",
            "classes", "thresholds", "size", "speed".
        recommended: `precise_setting`, with floors of single classes only where these have the
            better F1 on photos that they were not chosen on.
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
        ConfigError: there are no resamples, or the seed is negative.
        DatasetError: there are fewer than two readable photos, no objects to find, or the folder
            cannot be written.
    """
    check_bootstrap(resamples, seed)
    _check_enough(dataset)
    key = model_key(model)
    store = CandidateStore.fill(
        Path(folder) / key, model, dataset, key=key, progress=progress, cancel=cancel
    )
    dataset = store.stored_part(dataset)
    _check_enough(dataset)
    swept = sweep(store, dataset, GRID, latency_photos=0, cancel=cancel)
    chosen = precise_setting(swept)
    held_out = held_out_floors(swept, folds=min(5, swept.photos))
    recommended = class_floors(swept).config if held_out.pays else chosen.config
    classes = _classes(swept)
    metrics = _metrics(swept, classes, resamples, seed, cancel)
    card = {
        "data": {
            "annotations": dataset.annotation_file.name,
            "photos": swept.photos,
            "objects": sum(row["objects"] for row in classes),
            "left_out": [list(own) for own in store.skipped],
        },
        "metrics": metrics,
        "interval": f"95% confidence, bias-corrected bootstrap: {resamples:,} draws of photos",
        "classes": classes,
        "thresholds": _thresholds(swept.best("f1"), chosen, held_out),
        "size": _size(model),
        "speed": _speed(model, dataset, _timed(store, dataset, chosen)),
    }
    return MeasuredCard(card, recommended)


def _check_enough(dataset: CocoDataset) -> None:
    if len(dataset.photos) < 2:
        raise DatasetError("A card is measured on two photos or more; give a larger data set.")
    if not any(len(photo.target.boxes) for photo in dataset.photos):
        raise DatasetError(
            f"{dataset.annotation_file.name} has no objects to find; a card needs some."
        )


def _metrics(
    swept: Sweep, classes: list[dict[str, Any]], resamples: int, seed: int, cancel: Event | None
) -> dict[str, Any]:
    """{name: {"value", "low", "high"}}, without the interval where none is worked out."""
    commonest = max(classes, key=lambda row: row["objects"])["category"]
    settings = {"resamples": resamples, "seed": seed, "cancel": cancel}
    intervals = ap_intervals(swept, AP_POSTPROCESS, (commonest,), **settings)
    values = swept.at(AP_POSTPROCESS).metrics
    known = {name: _rounded(asdict(own)) for name, own in intervals.items()}
    plain = {name: _rounded({"value": values[name]}) for name in METRICS if name not in known}
    return known | plain


def _classes(swept: Sweep) -> list[dict[str, Any]]:
    """A row for each class that has objects, the best first."""
    rows = [
        {"category": row["category"], "objects": row["gts"], "found": row["tp"]}
        | _rounded({name: row[name] for name in ("AP50", "AP")})
        for row in swept.per_class(AP_POSTPROCESS)
        if row["gts"]
    ]
    return sorted(rows, key=lambda row: (-row["AP50"], -row["objects"], row["category"]))


def precise_setting(swept: Sweep, precision: float = PRECISION) -> SweepRow:
    """The best by F1 among the settings of which enough boxes are right; of all where none has.

    F1 weighs a false box as a missed object, so a weak model's best F1 has mostly false boxes. A
    person's first look at a picture is for boxes that can be believed.
    """
    precise = [row for row in swept.rows if row.counts.precision >= precision]
    return max(precise, key=lambda row: row.counts.f1) if precise else swept.best("f1")


def _thresholds(best: SweepRow, chosen: SweepRow, held_out: HeldOutFloors) -> dict[str, Any]:
    """The chosen setting, the best by F1, and what floors of single classes would gain."""
    gains = {"one_threshold": held_out.one.f1, "floor_for_each_class": held_out.each.f1}
    return (
        _setting(chosen)
        | {"precision_asked_for": PRECISION, "best_by_f1": _setting(best)}
        | {"held_out_f1": _rounded(gains) | {"folds": held_out.folds}}
        | {"class_floors_taken": held_out.pays}
    )


def _setting(row: SweepRow) -> dict[str, Any]:
    found = {name: getattr(row.counts, name) for name in ("f1", "precision", "recall")}
    return (
        {"score_thresh": row.config.score_thresh, "nms_thresh": row.config.nms_thresh}
        | _rounded(found)
        | {"boxes_per_photo": round(row.detections_per_image, 2)}
    )


def _size(model: RetinaNet) -> dict[str, Any]:
    tensors = [storable(value, torch.float16) for value in model.state_dict().values()]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes_fp16": sum(value.numel() * value.element_size() for value in tensors),
    }


def _timed(store: CandidateStore, dataset: CocoDataset, row: SweepRow) -> float:
    """Seconds that a setting's post-processing takes for a photo."""
    return sweep(store, dataset, Grid.of(row.config)).rows[0].postprocess_seconds


def _speed(model: RetinaNet, dataset: CocoDataset, postprocess: float) -> dict[str, Any]:
    """Seconds a photo at the model's own size, and as a share of those at the paper's 800 px."""
    images = [open_photo(photo) for photo in dataset.photos[:SPEED_PHOTOS]]
    full, paper = copy.copy(model), ModelConfig()  # the same weights
    full.config = replace(model.config, min_size=paper.min_size, max_size=paper.max_size)
    seconds = _seconds(model, images)
    return {
        "device": device_title(model.device),
        "threads": torch.get_num_threads(),
        "network_seconds": round(seconds, 4),
        "postprocess_seconds": round(postprocess, 5),
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
