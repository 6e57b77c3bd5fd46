"""Kinds of error and what they cost; pycocotools is the oracle of every match and every AP."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.analysis import error_types, image_fates, match_results, score_split, worst_images
from retinanet.analysis.error_types import DETECTION_TYPES, MAIN_TYPES
from retinanet.analysis.matching import FALSE, IGNORED, LEFT_OUT, TRUE
from retinanet.coco import DatasetError, ground_truth, load_coco
from retinanet.config import ConfigError
from retinanet.evaluation import score

from .random_results import random_dataset, random_results

CASES = [(seed, crowds, ties) for seed in range(6) for crowds, ties in ((0.0, False), (0.3, True))]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request, tmp_path_factory):
    seed, crowds, ties = request.param
    dataset = random_dataset(tmp_path_factory.mktemp("data"), seed, crowds=crowds)
    return dataset, random_results(dataset, seed, ties=ties)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """Three photos of 100 x 100; classes a (id 1) and b (id 2); every type of error once."""
    folder = tmp_path_factory.mktemp("hand")
    (folder / "images").mkdir()
    boxes = {1: [(1, [0, 0, 20, 20]), (1, [40, 0, 20, 20]), (2, [0, 50, 20, 20])]}
    boxes |= {2: [(2, [0, 0, 20, 20]), (1, [50, 50, 20, 20])], 3: []}
    data = {"images": [], "annotations": []}
    data["categories"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    for image_id, objects in boxes.items():
        (folder / "images" / f"{image_id}.png").touch()
        entry = {"id": image_id, "file_name": f"{image_id}.png", "width": 100, "height": 100}
        data["images"].append(entry)
        for category_id, bbox in objects:
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": bbox,
                    "area": 400,
                    "iscrowd": 0,
                }
            )
    (folder / "a.json").write_text(json.dumps(data))
    results = [
        (1, 1, [0, 0, 20, 20], 0.9),  # finds the first a
        (1, 1, [0, 0, 20, 16], 0.8),  # IoU .8 with it again: duplicate
        (1, 1, [50, 0, 20, 20], 0.7),  # IoU 200 / 600 with the second a: localisation
        (1, 1, [0, 50, 20, 15], 0.6),  # IoU .75 with the b: classification
        (2, 1, [10, 0, 20, 20], 0.5),  # IoU 1/3 with a b: both
        (3, 2, [10, 10, 20, 20], 0.4),  # an empty photo: background
    ]
    keys = ("image_id", "category_id", "bbox", "score")
    dataset = load_coco(folder / "a.json", folder / "images")
    return dataset, [dict(zip(keys, row, strict=True)) for row in results]


def test_each_type_by_hand(by_hand):
    errors = error_types(*by_hand)
    counts = dict.fromkeys(DETECTION_TYPES, 1) | {"true_positives": 1, "ignored": 0, "left_out": 0}
    counts |= {"detections": 6, "objects": 5, "found": 1, "covered": 2, "missed": 2}
    assert errors.counts == counts
    images = {row["type"]: row["image_ids"] for row in errors.rows}
    assert images["both"] == (2,)
    assert images["background"] == (3,)
    assert images["missed"] == (2,)
    assert images["false_positives"] == (1, 2, 3)  # scores 2.1, .5, .4
    records = {record["type"]: record for record in errors.records}
    assert [record["type"] for record in errors.records[:5]] == [
        *("duplicate", "localisation", "classification", "both", "background")
    ]
    assert records["localisation"]["partner"]["box"] == [40, 0, 60, 20]
    assert records["localisation"]["iou"] == pytest.approx(1 / 3)
    assert records["classification"]["partner"]["category"] == "b"
    assert records["both"]["partner"]["category"] == "b"
    assert records["duplicate"]["iou"] == pytest.approx(0.8)
    assert records["background"]["partner"] is None
    assert records["missed"]["score"] is None
    assert len(errors.records) == 7
    assert errors.of_type("missed")[-1]["box"] == [50, 50, 70, 70]
    assert [r["type"] for r in errors.of_type(None, 3)] == ["background"]


def test_what_each_type_costs_by_hand(by_hand):
    """101 recalls: a of 3 objects found once first: precision 1 up to recall 1/3, so 34 of 101."""
    errors = error_types(*by_hand)
    gain = {row["type"]: row["dAP50"] for row in errors.rows}
    assert errors.ap50 == pytest.approx(34 / 101 / 2)  # b has no true positive: AP 0
    # Place: the a at .7 becomes true, after the duplicate at .8: precision 2/3 up to recall 2/3.
    place = (34 + 33 * 2 / 3) / 101 / 2
    assert gain["localisation"] == pytest.approx(place - errors.ap50)
    # Class: it becomes a b, above the b at .4: precision 1 up to recall 1/2 (51 of 101).
    assert gain["classification"] == pytest.approx(51 / 101 / 2)
    # Missed: one a and one b less: 1 of 2 a found (51 of 101), the b still not.
    assert gain["missed"] == pytest.approx((51 - 34) / 101 / 2)
    assert gain["both"] == gain["background"] == gain["duplicate"] == 0
    assert gain["false_positives"] == 0
    assert gain["false_negatives"] == pytest.approx(1 - 34 / 101 / 2)  # b leaves the mean


def coco_evaluation(dataset, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth(dataset)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes([dict(entry) for entry in results]), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    return evaluation


def test_every_match_is_pycocotools(case):
    dataset, results = case
    matching = match_results(dataset, results)
    theirs = {}
    for image in filter(None, coco_evaluation(dataset, results).evalImgs):
        fates = np.where(image["dtIgnore"][0] > 0, IGNORED, FALSE)
        fates[(image["dtMatches"][0] > 0) & ~(image["dtIgnore"][0] > 0)] = TRUE
        key = (image["image_id"], image["category_id"])
        found = int(((image["gtMatches"][0] > 0) & ~(image["gtIgnore"] > 0)).sum())
        theirs[key] = (image["dtScores"], fates.tolist(), found)
    seen = 0
    for photo, image_id in enumerate(matching.image_ids.tolist()):
        for label, category_id in enumerate(dataset.category_ids):
            rows = np.arange(len(matching.detections))[matching.detections.of(photo)]
            rows = rows[matching.detections.label[rows] == label]
            scores, fates, found = theirs.get((image_id, category_id), ([], [], 0))
            assert matching.detections.score[rows].tolist() == list(scores)
            assert matching.fate[rows].tolist() == fates
            assert (matching.fate[rows] == TRUE).sum() == found
            seen += len(rows)
    assert seen == len(results)


def test_ap50_is_pycocotools(case):
    dataset, results = case
    assert error_types(dataset, results).ap50 == pytest.approx(
        score(dataset, results)["AP50"], abs=1e-12, nan_ok=True
    )


def test_everything_is_counted_once(case):
    dataset, results = case
    errors = error_types(dataset, results)
    counts = errors.counts
    kinds = sum(counts[name] for name in DETECTION_TYPES)
    assert counts["detections"] == len(results)
    assert len(results) == counts["true_positives"] + kinds + counts["ignored"] + counts["left_out"]
    assert counts["objects"] == counts["found"] + counts["covered"] + counts["missed"]
    assert counts["found"] == counts["true_positives"]
    for row in errors.rows[:6]:
        assert row["count"] == counts[row["type"]] == len(errors.of_type(row["type"]))
        records = errors.of_type(row["type"])
        assert set(row["image_ids"]) == {record["image_id"] for record in records}
    for row in errors.rows:
        assert bool(row["count"]) == bool(row["image_ids"])
    split = score_split(dataset, errors.matching)
    assert len(split.true) == counts["true_positives"]
    assert len(split.false) == kinds
    assert sum(len(t) + len(f) for t, f in split.per_class.values()) == counts["found"] + kinds


def test_the_oracles_are_pycocotools_on_corrected_data(tmp_path):
    """Each type is corrected in the results or in the annotations, and COCO's AP50 worked out."""
    moved = 0
    for seed in range(5):
        dataset = random_dataset(tmp_path / str(seed), seed, photos=5, classes=2, objects=6)
        results = random_results(dataset, seed)
        errors = error_types(dataset, results)
        base = score(dataset, results)["AP50"]
        for row in errors.rows:
            value = _corrected_ap50(dataset, results, errors, row["type"])
            assert row["dAP50"] == pytest.approx(max(0, value - base), abs=1e-9), row["type"]
            moved += row["dAP50"] > 1e-4
    assert moved >= 20  # the costs are not all 0


def _corrected_ap50(dataset, results, errors, name):
    ids = dict(zip(dataset.categories, dataset.category_ids, strict=True))
    types = DETECTION_TYPES if name == "false_positives" else (name,)
    wrong = [record for kind in types if kind in MAIN_TYPES for record in errors.of_type(kind)]
    if name in ("missed", "false_negatives"):
        gone = {
            (record["image_id"], *(round(v, 3) for v in record["box"]))
            for record in errors.of_type("missed")
        }
        if name == "false_negatives":
            gone = {
                (image_id, *(round(v, 3) for v in one["box"]))
                for image_id in errors.matching.image_ids.tolist()
                for one in image_fates(dataset, errors, image_id)["objects"]
                if one["fate"] in ("missed", "covered")
            }
        data = json.loads(dataset.annotation_file.read_text())
        data["annotations"] = [
            a
            for a in data["annotations"]
            for x, y, w, h in [a["bbox"]]
            if (a["image_id"], *(round(v, 3) for v in (x, y, x + w, y + h))) not in gone
        ]
        changed = dataset.annotation_file.with_name("changed.json")
        changed.write_text(json.dumps(data))
        return score(load_coco(changed, changed.parent / "images"), results)["AP50"]
    kept = {(entry["image_id"], entry["score"]): dict(entry) for entry in results}
    best = {}  # object -> the best error of place or class that points at it
    for kind in ("localisation", "classification"):
        for record in errors.of_type(kind):
            key = (record["image_id"], record["partner"]["index"])
            if _is_free(dataset, errors, record) and (
                key not in best or record["score"] > best[key]["score"]
            ):
                best[key] = record
    for record in wrong:
        entry = kept.pop((record["image_id"], record["score"]))
        key = record["partner"] and (record["image_id"], record["partner"]["index"])
        if name in ("classification", "localisation") and best.get(key) == record:
            x1, y1, x2, y2 = record["partner"]["box"]
            entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            entry["category_id"] = ids[record["partner"]["category"]]
            kept[record["image_id"], record["score"]] = entry
    return score(dataset, list(kept.values()))["AP50"]


def _is_free(dataset, errors, record):
    objects = image_fates(dataset, errors, record["image_id"])["objects"]
    return objects[record["partner"]["index"]]["detection"] is None


def test_more_than_a_hundred_of_a_class_in_a_photo(by_hand):
    dataset, _ = by_hand
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [0.1 * i, 0, 20, 20], "score": 1 - i / 1000}
        for i in range(130)
    ] + [{"image_id": 1, "category_id": 99, "bbox": [0, 0, 20, 20], "score": 0.99}]
    errors = error_types(dataset, results)
    assert errors.counts["left_out"] == 31
    assert (errors.matching.fate == LEFT_OUT).sum() == 31
    known = [entry for entry in results if entry["category_id"] == 1]
    assert errors.ap50 == pytest.approx(score(dataset, known)["AP50"], abs=1e-12)


def test_what_is_larger_than_coco_counts_costs_nothing(by_hand):
    dataset, results = by_hand
    huge = results[0] | {"category_id": 2, "bbox": [0, 0, 2e5, 1e5], "score": 0.99}
    errors = error_types(dataset, [huge, *results])
    assert errors.ap50 == pytest.approx(score(dataset, [huge, *results])["AP50"])
    assert (errors.counts["ignored"], errors.counts["background"]) == (1, 1)


def test_no_detections_and_no_objects(by_hand):
    dataset, results = by_hand
    nothing = error_types(dataset, [])
    gain = {row["type"]: row["dAP50"] for row in nothing.rows}
    assert nothing.ap50 == 0
    assert nothing.counts["missed"] == 5
    assert gain["missed"] == gain["false_negatives"] == 1
    empty = dataset.annotation_file.with_name("empty.json")
    data = json.loads(dataset.annotation_file.read_text()) | {"annotations": []}
    empty.write_text(json.dumps(data))
    only_background = error_types(load_coco(empty, empty.parent / "images"), results)
    assert only_background.counts["background"] == 6
    assert np.isnan(only_background.ap50)


def test_the_worst_photos_and_their_fates_add_up(case):
    dataset, results = case
    errors = error_types(dataset, results)
    for by, key in (("missed", "fn"), ("false", "fp"), ("f1", "f1")):
        rows = worst_images(dataset, errors, by=by)
        values = [row[key] for row in rows]
        assert values == sorted(values, reverse=by != "f1")
    for row in rows:
        fates = image_fates(dataset, errors, row["image_id"])
        kinds = [one["fate"] for one in fates["detections"]]
        assert row["tp"] == kinds.count("true_positive")
        assert row["fp"] == sum(kind in DETECTION_TYPES for kind in kinds)
        assert row["fn"] == sum(one["fate"] in ("missed", "covered") for one in fates["objects"])
        assert row["f1"] == pytest.approx(
            2 * row["tp"] / (2 * row["tp"] + row["fp"] + row["fn"]), abs=1e-12
        )
        assert row["error"] in MAIN_TYPES
        for index, one in enumerate(fates["objects"]):
            if one["detection"] is not None and one["fate"] == "found":
                assert fates["detections"][one["detection"]]["object"] == index


def test_a_threshold_is_the_same_as_not_having_the_low_scores(case):
    dataset, results = case
    kept = [entry for entry in results if entry["score"] > 0.45]
    assert worst_images(dataset, results, score_thresh=0.45) == worst_images(dataset, kept)
    for photo in dataset.photos[:3]:
        assert image_fates(dataset, results, photo.image_id, score_thresh=0.45) == image_fates(
            dataset, kept, photo.image_id
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 77}, "which the data set has not"),
        ({"image_id": [1]}, "COCO's results format"),
        ({"bbox": [1, 2, 3]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"bbox": [0, 0, -1, 5]}, "negative"),
        ({"bbox": [0, 0, float("inf"), 5]}, "finite"),
        ({"score": float("nan")}, "finite"),
        ({"score": "high"}, "COCO's results format"),
        ({"score": [0.5, 0.6]}, "score"),
        ({"score": 10**400}, "COCO's results format"),
        ({"category_id": {}}, "COCO's results format"),
    ],
)
def test_results_that_cannot_be_used_are_refused_in_words(by_hand, change, words):
    dataset, results = by_hand
    with pytest.raises(DatasetError, match=words):
        error_types(dataset, [results[0] | change])


@pytest.mark.parametrize("results", [[{}], ["a"], [None], {"a": 1}])
def test_what_is_no_list_of_results_is_refused_in_words(by_hand, results):
    with pytest.raises(DatasetError, match="results"):
        error_types(by_hand[0], results)


def test_bounds_and_names_are_checked(by_hand):
    dataset, results = by_hand
    for bounds in ({"fg_iou": 0}, {"fg_iou": 1.1}, {"bg_iou": 0.5}, {"bg_iou": -1}):
        with pytest.raises(ConfigError):
            error_types(dataset, results, **bounds)
    with pytest.raises(ConfigError, match="type must be"):
        error_types(dataset, results).of_type("other")
    for wrong in ({"by": "size"}, {"limit": 0}, {"score_thresh": 2}):
        with pytest.raises(ConfigError):
            worst_images(dataset, results, **wrong)
    with pytest.raises(DatasetError, match="no image 9"):
        image_fates(dataset, results, 9)
