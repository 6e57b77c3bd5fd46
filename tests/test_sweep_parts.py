"""The parts of a sweep: matching against pycocotools' own, cuts by F1, and grids."""

import contextlib
import io
import json
import math
import random

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.coco_matching import AREA_RANGES
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.sweeps import (
    DEFAULT_GRID,
    Counts,
    Grid,
    parse_grid,
)
from retinanet.sweeps.matched import RECORD
from retinanet.sweeps.matching import match_image
from retinanet.sweeps.operating import best_floor
from retinanet.sweeps.truths import A, ImageTruths, T, outside

# ------------------------------------------------------------------ matching


def random_case(draw):
    """Objects and detections of one photo with ties, crowds, and areas at COCO's bounds."""
    objects, found = [], []
    for _ in range(draw.randint(0, 6)):
        box = [draw.randint(0, 6) * 5, draw.randint(0, 6) * 5, *draw.choice([(32, 32), (96, 96)])]
        if draw.random() < 0.6:
            box[2:] = [draw.randint(10, 120), draw.randint(10, 120)]
        objects.append((box, draw.randint(0, 1), draw.random() < 0.25))
    for _ in range(draw.choice([0, 3, 20, 20, 60])):
        if objects and draw.random() < 0.8:
            near = draw.choice(objects)[0]
            box = [near[i] + draw.choice([0, 0, 1, -1, 4, 9]) for i in range(4)]
        else:
            box = [draw.randint(0, 60), draw.randint(0, 60), draw.randint(5, 99), 32]
        found.append((box, draw.randint(0, 1), draw.choice([0.1, 0.2, 0.5, draw.random()])))
    return objects, sorted(found, key=lambda own: -own[2])


def coco_matches(objects, found):
    """pycocotools' (matched to what counts, ignored), [A, T, N] each, in the order of `found`."""
    truth, detected = COCO(), COCO()
    categories, images = [{"id": 0}, {"id": 1}], [{"id": 1}]
    own = [
        {"id": i + 1, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3]}
        | {"iscrowd": int(crowd)}
        for i, (b, c, crowd) in enumerate(objects)
    ]
    seen = [
        {"id": i + 1, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3]}
        | {"iscrowd": 0, "score": s}
        for i, (b, c, s) in enumerate(found)
    ]
    for coco, annotations in ((truth, own), (detected, seen)):
        coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
        coco.createIndex()
    evaluation = COCOeval(truth, detected, "bbox")
    evaluation.params.maxDets = [len(found) + 1]
    evaluation.evaluate()
    right = np.zeros((A, T, len(found)), bool)
    ignored = np.zeros_like(right)
    areas = [list(own) for own in AREA_RANGES.tolist()]
    for one in evaluation.evalImgs:
        if one is not None:
            area = areas.index([float(end) for end in one["aRng"]])
            places = np.array(one["dtIds"], int) - 1
            skipped = one["dtIgnore"].astype(bool)
            right[area][:, places] = (one["dtMatches"] > 0) & ~skipped
            ignored[area][:, places] = skipped
    return right, ignored


def bits(values):
    return (values[None] >> np.arange(A * T, dtype=np.uint64)[:, None] & np.uint64(1)).astype(bool)


def test_matching_is_pycocotools_own():
    draw, pairs = random.Random(0), 0
    with contextlib.redirect_stdout(io.StringIO()):
        for trial in range(250):
            objects, found = random_case(draw)
            crowd = np.array([own[2] for own in objects], bool)
            boxes = np.array([own[0] for own in objects], float).reshape(-1, 4)
            areas = boxes[:, 2] * boxes[:, 3]
            every = np.uint64((1 << A * T) - 1)
            truths = ImageTruths(
                boxes=boxes,
                column=np.array([own[1] for own in objects], np.int64),
                crowd=crowd,
                ignored=np.where(crowd, every, outside(areas)),
            )
            matches = match_image(
                np.array([own[0] for own in found], float).reshape(-1, 4),
                np.array([own[1] for own in found], np.int64),
                truths,
            )
            right, ignored = coco_matches(objects, found)
            assert np.array_equal(bits(matches.true).reshape(right.shape), right), trial
            assert np.array_equal(bits(matches.ignored).reshape(right.shape), ignored), trial
            pairs += int(right.sum())
    assert pairs > 5000


def test_matching_by_hand():
    # Two objects and a crowd. IoUs: 1, then 80/120 = .67 with a taken object, then in the crowd.
    truths = ImageTruths(
        boxes=np.array([[0, 0, 10, 10], [50, 50, 10, 10], [100, 0, 40, 40]], float),
        column=np.array([0, 0, 0]),
        crowd=np.array([False, False, True]),
        ignored=np.array([0, 0, (1 << A * T) - 1], np.uint64),
    )
    boxes = np.array([[0, 0, 10, 10], [2, 0, 10, 10], [110, 5, 10, 10], [112, 5, 10, 10]], float)
    matches = match_image(boxes, np.zeros(4, np.int64), truths)
    first = np.uint64(1)  # IoU .5, all areas
    assert (matches.true & first).tolist() == [1, 0, 0, 0]
    assert (matches.ignored & first).tolist() == [0, 0, 1, 1]
    counts = Counts(tp=1, fp=1, fn=1)
    assert (counts.precision, counts.recall, counts.f1) == (0.5, 0.5, 0.5)
    assert Counts(3, 1, 2).f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert math.isnan(Counts(0, 0, 0).f1)


# ------------------------------------------------------------------ floors


def test_a_floor_has_the_best_f1_of_all_cuts():
    draw = np.random.default_rng(0)
    for _ in range(100):
        count = int(draw.integers(0, 12))
        rows = np.zeros(count, RECORD)
        rows["score"] = np.sort(draw.choice([0.2, 0.4, draw.uniform(0.1, 1), 0.9], count))[::-1]
        rows["true"] = draw.integers(0, 2, count)
        rows["ignored"] = np.where(rows["true"] == 0, draw.integers(0, 2, count), 0)
        objects = int(rows["true"].sum() + draw.integers(1, 4))
        floor, counts = best_floor(rows, objects, 0.05)
        tried = {}
        for cut in [0.05, *rows["score"].tolist()]:
            kept = rows[rows["score"] > np.float32(cut)]
            right = int(kept["true"].sum())
            wrong = int(((kept["true"] == 0) & (kept["ignored"] == 0)).sum())
            tried[cut] = 2 * right / (right + wrong + objects)
        assert counts.f1 == pytest.approx(max(tried.values()))
        kept = rows[rows["score"] > np.float32(floor)]
        assert counts.tp == kept["true"].sum()
        assert 0.05 <= floor <= 1


# ------------------------------------------------------------------ grids


def test_a_grid_is_sorted_without_repeats_and_makes_all_settings():
    grid = Grid([0.5, 0.1, 0.5], 0.5, [100], np.array([5, 1]))
    assert grid.score_thresh == (0.1, 0.5)
    assert grid.detections_per_img == (1, 5)
    assert len(grid) == 4 == len(set(grid.settings))
    assert all(type(own) is int for own in grid.detections_per_img)
    assert Grid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid
    assert len(DEFAULT_GRID) == 100
    assert Grid.of(grid.settings[2]).settings == [grid.settings[2]]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"score_thresh": []}, "at least one"),
        ({"score_thresh": [1.5]}, "between 0 and 1"),
        ({"nms_thresh": "0.5"}, "list of numbers"),
        ({"nms_thresh": [None]}, "must be a number"),
        ({"topk_candidates": [0.5]}, "whole number"),
        ({"score_thresh": np.linspace(0, 1, 201)}, "more than 200"),
        ({"score_thresh": np.linspace(0, 1, 150), "nms_thresh": np.linspace(0, 1, 150)}, "10,000"),
        ({"soft_nms": [1]}, "no setting named soft_nms"),
    ],
)
def test_a_grid_that_cannot_work_is_refused_in_words(values, words):
    with pytest.raises(ConfigError, match=words):
        Grid.from_dict(values)


def test_grids_are_read_from_words():
    base = PostprocessConfig(detections_per_img=100)
    grid = parse_grid(["score_thresh=0.05:0.95:0.1", "topk-candidates=10,1000"], base)
    assert grid.score_thresh == (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
    assert grid.nms_thresh == (0.5,)
    assert grid.topk_candidates == (10, 1000)
    for words in ("score_thresh", "colour=1", "nms_thresh=a", "nms_thresh=0.1:0.2"):
        with pytest.raises(ConfigError):
            parse_grid([words], base)
    for values in ("nan", "1e999999999", "0:1:1e-999999", "", "0.5:0.1:0.1", "0:1:0"):
        with pytest.raises(ConfigError):
            parse_grid([f"nms_thresh={values}"], base)
    with pytest.raises(ConfigError, match="twice"):
        parse_grid(["nms_thresh=0.1", "nms_thresh=0.2"], base)
