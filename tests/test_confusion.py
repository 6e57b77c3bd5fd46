"""The confusion matrix and the split of the scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from retinanet.analysis import confusion, match_results, score_split
from retinanet.coco import DatasetError, ground_truth
from retinanet.config import ConfigError

from .random_results import random_dataset, random_results


@pytest.fixture(scope="module", params=range(6))
def case(request, tmp_path_factory):
    seed = request.param
    dataset = random_dataset(tmp_path_factory.mktemp("data"), seed, crowds=0.2 * (seed % 2))
    return dataset, random_results(dataset, seed)


def by_brute_force(dataset, results, iou, score_thresh):
    """The definition, one photo and one pair at a time, with torchvision's IoU."""
    size, names = len(dataset.categories), list(dataset.category_ids)
    matrix, ignored = np.zeros((size + 1, size + 1), dtype=int), 0
    annotations = ground_truth(dataset)["annotations"]
    for photo in dataset.photos:
        found = [r for r in results if r["image_id"] == photo.image_id]
        found = [r for r in found if r["score"] > score_thresh]
        own = [a for a in annotations if a["image_id"] == photo.image_id]
        objects, crowds = ([a for a in own if a["iscrowd"] == kind] for kind in (0, 1))
        ious = box_iou(xyxy(found), xyxy(objects)).numpy()
        free = ious.copy()
        met, seen = {}, set()
        while free.size and free.max() >= iou:
            d, g = np.unravel_index(free.argmax(), free.shape)
            met[d] = g
            seen.add(g)
            free[d, :], free[:, g] = -1, -1
        for d, detection in enumerate(found):
            column = names.index(detection["category_id"])
            if d in met:
                matrix[names.index(objects[met[d]]["category_id"]), column] += 1
            elif any(in_crowd(detection, crowd) >= iou for crowd in crowds):
                ignored += 1
            else:
                matrix[size, column] += 1
        for g, one in enumerate(objects):
            matrix[names.index(one["category_id"]), size] += g not in seen
    return matrix, ignored


def xyxy(entries):
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).reshape(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def in_crowd(detection, crowd):
    """The share of the detection that lies in a crowd of its class."""
    if detection["category_id"] != crowd["category_id"]:
        return 0.0
    (a, b), (c, d) = xyxy([detection])[0].reshape(2, 2), xyxy([crowd])[0].reshape(2, 2)
    shared = (torch.minimum(b, d) - torch.maximum(a, c)).clamp(min=0).prod()
    return float(shared / (b - a).prod())


@pytest.mark.parametrize(("iou", "score_thresh"), [(0.5, 0.0), (0.3, 0.4), (0.75, 0.2)])
def test_the_matrix_is_the_definition(case, iou, score_thresh):
    dataset, results = case
    found = confusion(dataset, results, iou=iou, score_thresh=score_thresh)
    matrix, ignored = by_brute_force(dataset, results, iou, score_thresh)
    assert found.matrix.tolist() == matrix.tolist()
    assert found.ignored == ignored
    again = confusion(dataset, match_results(dataset, results), iou=iou, score_thresh=score_thresh)
    assert again.matrix.tolist() == matrix.tolist()


def test_every_object_and_every_detection_is_in_one_cell(case):
    dataset, results = case
    found = confusion(dataset, results)
    truth = ground_truth(dataset)["annotations"]
    for label, category_id in enumerate(dataset.category_ids):
        objects = [a for a in truth if a["category_id"] == category_id and not a["iscrowd"]]
        assert found.matrix[label].sum() == len(objects)
    assert found.matrix[:, :-1].sum() + found.ignored == len(results)
    assert found.matrix[-1, -1] == 0
    sums = found.normalised.sum(axis=1)
    assert np.allclose(sums[np.isfinite(sums)], 1)


def test_every_cell_opens_its_photos(case):
    dataset, results = case
    found = confusion(dataset, results)
    known = {photo.image_id for photo in dataset.photos}
    assert len(found.cells) == np.count_nonzero(found.matrix)
    for cell, image_ids in found.cells.items():
        assert 1 <= len(image_ids) <= found.matrix[cell]
        assert known.issuperset(image_ids)
    assert sum(row["count"] for row in found.to_rows()) == found.matrix.sum()
    assert found.image_ids(len(dataset.categories), len(dataset.categories)) == ()
    with pytest.raises(IndexError):
        found.image_ids(0, 9)


def test_a_cell_opens_the_surest_mistake_first(tmp_path):
    dataset = random_dataset(tmp_path, 0, photos=3, objects=0)
    results = [
        {"image_id": image_id, "category_id": 2, "bbox": [5, 5, 9, 9], "score": score}
        for image_id, score in ((1, 0.2), (2, 0.9), (3, 0.4), (1, 0.3))
    ]
    found = confusion(dataset, results)
    assert found.image_ids(3, 0) == (2, 1, 3)  # .9, .2 + .3, .4
    assert found.occurring == [0, 3]
    assert found.top_pairs() == []


def test_the_largest_pairs_come_first(case):
    dataset, results = case
    pairs = confusion(dataset, results, iou=0.2).top_pairs(4)
    counts = [row["count"] for row in pairs]
    assert counts == sorted(counts, reverse=True)
    assert all(row["truth"] != row["detected_as"] for row in pairs)
    assert not any("background" in (row["truth"], row["detected_as"]) for row in pairs)


def test_the_scores_are_split_as_they_were_given(case):
    dataset, results = case
    split = score_split(dataset, results)
    rows = split.to_rows()
    assert len(rows) == len(split.true) + len(split.false)
    for scores in (split.true, split.false, *split.of("kind 0")):
        assert (np.diff(scores) <= 0).all()
    both = np.sort(np.concatenate([split.true, split.false]))
    given = sorted(entry["score"] for entry in results)
    assert np.isin(both, given).all()
    assert len(split.of("no such class")[0]) == 0


def test_settings_and_a_changed_file_are_refused_in_words(case, tmp_path):
    dataset, results = case
    for wrong in ({"iou": 0}, {"iou": 2}, {"score_thresh": -1}):
        with pytest.raises(ConfigError):
            confusion(dataset, results, **wrong)
    moved = random_dataset(tmp_path, 1)
    moved.annotation_file.write_text(json.dumps({"annotations": [{}]}))
    with pytest.raises(DatasetError, match="changed"):
        confusion(moved, [])
