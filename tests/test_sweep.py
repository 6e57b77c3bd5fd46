"""Sweeps from stored candidates: pycocotools' AP, counts worked out again, floors and curves."""

import contextlib
import io
import json
import math
import random
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert, box_iou

from retinanet.coco import DatasetError, ground_truth
from retinanet.coco_matching import AREA_RANGES, IOU_THRESHOLDS
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.evaluation import METRICS, score
from retinanet.single_flight import Cancelled
from retinanet.sweeps import (
    Counts,
    Grid,
    class_floors,
    detections,
    pr_curves,
    results,
    sweep,
)
from retinanet.sweeps.truths import Truths
from tests.made_up import fill_store, write_boxes

GRID = Grid(
    score_thresh=(0.02, 0.1, 0.3, 0.6),
    nms_thresh=(0.3, 0.6, 1.0),
    topk_candidates=(30, 400),
    detections_per_img=(10, 100, 500),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def store(dataset, tmp_path_factory):
    return fill_store(tmp_path_factory.mktemp("store"), dataset)


@pytest.fixture(scope="module")
def swept(store, dataset):
    return sweep(store, dataset, GRID, latency_photos=2)


# ------------------------------------------------------------------ a sweep


def test_ap_is_what_pycocotools_gives_for_the_ordinary_detections(swept, store, dataset):
    assert len(swept.rows) == len(GRID) == 72
    varied = {round(row.metrics["AP"], 6) for row in swept.rows}
    assert len(varied) > 12, "settings that all do the same prove nothing"
    for row in random.Random(1).sample(swept.rows, 12):
        expected = score(dataset, list(results(store, row.config, dataset)))
        assert row.metrics == pytest.approx(
            {n: expected[n] for n in METRICS}, abs=1e-9, nan_ok=True
        )
        per_class = {
            own["category"]: own["AP50"] for own in swept.per_class(row.config) if own["gts"]
        }
        assert per_class == pytest.approx(expected["AP50_per_class"], abs=1e-9)
    assert all(row.metrics["AP_large"] == row.metrics["AP_large"] for row in swept.rows)


def brute_counts(store, dataset, config):
    """tp, fp, fn by a plain greedy matching at IoU .5, per class in order of the category ids."""
    counts = {own: [0, 0, 0] for own in dataset.category_ids}
    truth = ground_truth(dataset)["annotations"]
    for photo in dataset.photos:
        boxes, _, labels = detections(store, photo.image_id, config)
        header = store.header
        for category_id, total in counts.items():
            own = [
                a
                for a in truth
                if (a["image_id"], a["category_id"]) == (photo.image_id, category_id)
            ]
            clear = [torch.tensor(a["bbox"]).double() for a in own if not a["iscrowd"]]
            crowds = [torch.tensor(a["bbox"]).double() for a in own if a["iscrowd"]]
            taken = set()
            for box in boxes[labels == header.category_ids.index(category_id)].double():
                gts = (
                    box_convert(torch.stack(clear), "xywh", "xyxy")
                    if clear
                    else box.new_zeros(0, 4)
                )
                ious = box_iou(box[None], gts)[0].tolist()
                free = [(iou, i) for i, iou in enumerate(ious) if iou >= 0.5 and i not in taken]
                if free:
                    taken.add(max(free)[1])
                    total[0] += 1
                elif not any(inside(box, crowd) >= 0.5 for crowd in crowds):
                    total[1] += 1
            total[2] += len(clear) - len(taken)
    return [Counts(*own) for own in counts.values()]


def inside(box, crowd):
    """Share of a box xyxy that lies in a crowd [x, y, width, height]."""
    low, high = crowd[:2], crowd[:2] + crowd[2:]
    sides = (torch.minimum(box[2:], high) - torch.maximum(box[:2], low)).clamp(min=0)
    return float(sides.prod() / (box[2:] - box[:2]).prod())


def test_counts_are_those_of_a_plain_matching(swept, store, dataset):
    for row in random.Random(2).sample(swept.rows, 3):
        own = brute_counts(store, dataset, row.config)
        total = Counts(*(sum(getattr(c, n) for c in own) for n in ("tp", "fp", "fn")))
        assert row.counts == total
        assert row.macro_f1 == pytest.approx(np.mean([c.f1 for c in own]))
        kept = [len(detections(store, p.image_id, row.config)[0]) for p in dataset.photos]
        assert row.detections_per_image == pytest.approx(np.mean(kept))


def test_per_class_rows_name_the_photos_behind_them(swept, dataset):
    row = swept.best("f1")
    rows = swept.per_class(row.config)
    assert sum(own["tp"] for own in rows) == row.counts.tp
    assert sum(own["fp"] for own in rows) == row.counts.fp
    truth = [a for a in ground_truth(dataset)["annotations"] if not a["iscrowd"]]
    for own in rows:
        there = {a["image_id"] for a in truth if a["category_id"] == own["category_id"]}
        assert set(own["image_ids"]) == there
        assert set(own["missed_image_ids"]) <= there
        assert bool(own["missed_image_ids"]) == (own["fn"] > 0)
        assert bool(own["false_image_ids"]) == (own["fp"] > 0)
    assert [own["label"] for own in rows] == [1, 3, 2]


def test_rows_are_found_ranked_and_plain(swept):
    for metric in ("f1", "AP", "recall"):
        values = [row[metric] for row in swept.to_rows()]
        assert swept.best(metric).to_row()[metric] == np.nanmax(values)
    assert swept.at(swept.rows[5].config) is swept.rows[5]
    with pytest.raises(ConfigError, match="not in the swept grid"):
        swept.at(PostprocessConfig(score_thresh=0.123))
    with pytest.raises(ConfigError, match="no metric"):
        swept.best("beauty")
    for row in swept.rows:
        assert 0 < row.postprocess_seconds <= row.postprocess_p95
        share = row.postprocess_seconds / swept.network_seconds
        assert row.postprocess_share == pytest.approx(share)
    json.dumps(swept.to_rows())


def test_a_sweep_is_told_of_stopped_and_refused(store, dataset):
    told, stop = [], threading.Event()
    small = Grid(0.1, 0.5, 100, 10)
    sweep(store, dataset, small, progress=told.append, latency_photos=0)
    assert [(at.done, at.total) for at in told] == [(n, 6) for n in range(1, 7)]
    stop.set()
    with pytest.raises(Cancelled):
        sweep(store, dataset, small, cancel=stop)
    for grid, words in ((Grid(0.01, 0.5), "score_floor"), (Grid(0.1, 0.5, 401), "larger topk")):
        with pytest.raises(ConfigError, match=words):
            sweep(store, dataset, grid)
    with pytest.raises(DatasetError, match="None of"):
        sweep(store, replace(dataset, photos=()), small)


def test_without_any_detection_ap_is_zero_where_there_are_objects(store, dataset):
    row = sweep(store, dataset, Grid(1.0, 0.5, 100, 10), latency_photos=0).rows[0]
    assert row.metrics == dict.fromkeys(METRICS, 0.0)
    assert (row.counts.tp, row.counts.fp, row.counts.recall) == (0, 0, 0.0)
    assert math.isnan(row.counts.precision)


def test_the_order_of_the_photos_and_other_photos_in_the_store_do_not_matter(store, dataset):
    part = replace(dataset, photos=dataset.photos[4:1:-1])
    config = PostprocessConfig(score_thresh=0.1, topk_candidates=400, detections_per_img=50)
    row = sweep(store, part, Grid.of(config), latency_photos=0).rows[0]
    expected = score(part, list(results(store, config, part)))
    assert row.metrics == pytest.approx({n: expected[n] for n in METRICS}, abs=1e-9, nan_ok=True)


# ------------------------------------------------------------------ floors of single classes


def test_floors_gain_what_they_say(store, dataset):
    grid = Grid((0.02, 0.1, 0.3, 0.6), 0.5, 400, 2000)
    swept = sweep(store, dataset, grid, latency_photos=0)
    found = class_floors(swept)
    assert found.counts_before == swept.best("f1").counts
    assert found.macro_f1 >= found.macro_f1_before
    assert all(row.f1 >= row.f1_before for row in found.rows)
    assert set(found.floors) == {1, 2, 3}
    again = sweep(
        store,
        dataset,
        Grid.of(found.config),
        class_score_thresh=found.config.class_score_thresh,
        latency_photos=0,
    ).rows[0]
    assert again.config == found.config
    assert again.counts == found.counts
    assert again.macro_f1 == pytest.approx(found.macro_f1)
    assert found.gained == pytest.approx(again.counts.f1 - swept.best("f1").counts.f1)


# ------------------------------------------------------------------ curves


@pytest.mark.parametrize(("iou", "place"), [(0.5, 0), (0.75, 5)])
def test_curves_are_pycocotools_own(store, dataset, iou, place):
    config = PostprocessConfig(score_thresh=0.02, topk_candidates=400, detections_per_img=500)
    curves = pr_curves(store, dataset, config, iou)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth(dataset)
        truth.createIndex()
        found = truth.loadRes(list(results(store, config, dataset)))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = evaluation.eval["precision"][place, :, :, 0, -1]  # [R, K]
    assert [curve.category for curve in curves] == ["all classes", "a", "b", "c"]
    for column, curve in enumerate(curves[1:]):
        assert curve.interpolated == pytest.approx(expected[:, column], abs=1e-12)
        assert curve.gts == sum(
            a["category_id"] == evaluation.params.catIds[column] and not a["iscrowd"]
            for a in truth.dataset["annotations"]
        )
    assert curves[0].ap == pytest.approx(evaluation.stats[1 if iou == 0.5 else 2])
    for curve in curves:
        assert (np.diff(curve.recall) >= 0).all()
        assert (np.diff(curve.scores) <= 0).all()
        recall, precision = curve.point_at(0.3)
        count = int((curve.scores > 0.3).sum())
        assert precision * count == pytest.approx(recall * curve.gts)
        assert curve.point_at(1.0) is None


def test_a_curve_is_refused_for_an_iou_that_coco_has_not(store, dataset):
    with pytest.raises(ConfigError, match="iou must be"):
        pr_curves(store, dataset, PostprocessConfig(), 0.52)


def test_truths_count_as_coco_does(dataset):
    truths = Truths(dataset)
    annotations = [a for a in ground_truth(dataset)["annotations"] if not a["iscrowd"]]
    for area, (low, high) in enumerate(AREA_RANGES):
        for column, category_id in enumerate(truths.category_ids):
            own = [
                a
                for a in annotations
                if a["category_id"] == category_id and low <= a["area"] <= high
            ]
            assert truths.counts[area, column] == len(own)
    assert len(IOU_THRESHOLDS) == 10
