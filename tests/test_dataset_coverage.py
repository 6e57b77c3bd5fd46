"""A data set's anchors: the sums of the photos', and suggestions that keep what they promise."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace

import pytest

from retinanet.analysis import dataset_coverage
from retinanet.analysis.coverage_suggestions import ENOUGH, Suggestion, conclusion, suggest
from retinanet.anchors import AnchorShape
from retinanet.assignment import assign_anchors
from retinanet.coco import load_coco
from retinanet.config import ConfigError, MatcherConfig, ModelConfig
from retinanet.coverage import object_coverage, scaled_max_size
from retinanet.layout import layout_of

from .random_results import random_dataset
from .shapes import write_shapes

MODEL, MATCHER = ModelConfig(min_size=96, max_size=160), MatcherConfig()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return random_dataset(tmp_path_factory.mktemp("data"), 3, photos=8, objects=4, side=300)


@pytest.fixture(scope="module")
def coverage(dataset):
    return dataset_coverage(dataset, MODEL, MATCHER)


def test_the_sums_are_those_of_the_photos(dataset, coverage):
    layout = layout_of((300, 300), 96, 160)
    levels = {name: [0, 0, 0] for name in ("P3", "P4", "P5", "P6", "P7")}
    found = []
    for photo in dataset.photos:
        match = assign_anchors(layout, photo.target.boxes, config=MATCHER)
        found += object_coverage(match, layout)
        for name, counts in match.counts_per_level.items():
            levels[name] = [a + b for a, b in zip(levels[name], counts.values(), strict=True)]
    assert coverage.photos == coverage.of_photos == 8
    assert coverage.objects == len(found)
    for row in coverage.levels:
        assert [row["foreground"], row["ignored"], row["background"]] == levels[row["level"]]
        assert row["objects"] == sum(one.best_level == row["level"] for one in found)
        assert row["objects"] == row["natural"] + row["forced"] + row["none"]
        assert bool(row["objects"]) == bool(row["image_ids"])
    for status in ("natural", "forced", "none"):
        expected = sum(one.status == status for one in found)
        assert sum(row[status] for row in coverage.levels) == expected
        assert sum(row[status] for row in coverage.sizes) == expected
    assert 0 < coverage.without < coverage.objects
    assert coverage.without_share == coverage.without / coverage.objects
    assert coverage.mean_foreground == pytest.approx(
        sum(one.num_foreground for one in found) / len(found)
    )
    assert sum(coverage.counts.values()) == 8 * layout.num_anchors


def test_sizes_are_of_the_resized_photo(dataset, coverage):
    scale = 96 / 300
    sizes = [
        ((x2 - x1) * (y2 - y1)) ** 0.5 * scale
        for photo in dataset.photos
        for x1, y1, x2, y2 in photo.target.boxes.tolist()
    ]
    for row in coverage.sizes:
        high = row["to"] or float("inf")
        assert row["objects"] == sum(row["from"] <= size < high for size in sizes)
        assert bool(row["objects"]) == bool(row["image_ids"])
        assert row["without"] == row["objects"] - row["natural"]


def test_a_suggestion_keeps_what_it_promises(dataset, coverage):
    """Each setting tried is set, and the data set counted anew with it."""
    assert {one.setting for one in coverage.tried} == {
        *("fg_iou_thresh", "min_size", "scales", "aspect_ratios")
    }
    now = layout_of((300, 300), 96, 160)
    for one in coverage.tried:
        model, matcher, shape = MODEL, MATCHER, AnchorShape()
        if one.setting == "fg_iou_thresh":
            matcher = MatcherConfig(one.value, min(0.4, one.value))
        elif one.setting == "min_size":
            assert one.max_size == scaled_max_size(96, 160, int(one.value))
            model = replace(MODEL, min_size=int(one.value), max_size=one.max_size)
        elif one.setting == "scales":
            shape = AnchorShape(scales=(*shape.scales, one.value))
        else:
            shape = AnchorShape(aspect_ratios=(*shape.aspect_ratios, one.value))
        layout = layout_of((300, 300), model.min_size, model.max_size, shape)
        natural = sum(
            cover.status == "natural"
            for photo in dataset.photos
            for cover in object_coverage(
                assign_anchors(layout, photo.target.boxes, config=matcher), layout
            )
        )
        assert one.share * one.objects == pytest.approx(natural), one.sentence
        assert one.anchors == pytest.approx(layout.num_anchors / now.num_anchors)
        assert one.share_now * one.objects == pytest.approx(coverage.natural)
        assert f"{one.value:.3g}" in one.sentence or f"{one.value:g}" in one.sentence


def test_suggestions_help_and_the_cheapest_comes_first(coverage):
    costs = [(one.pixels, one.anchors) for one in coverage.suggestions]
    assert costs == sorted(costs)
    assert len({one.setting for one in coverage.suggestions}) == len(costs) > 0
    for one in coverage.suggestions:
        assert one.share > one.share_now
        rivals = [other for other in coverage.tried if other.setting == one.setting]
        goal = min(ENOUGH, max(other.share for other in rivals) - 0.01)
        assert one.share >= goal
        cheaper = [other for other in rivals if other.share >= goal and other.pixels < one.pixels]
        assert not cheaper
    assert any(one.sentence in coverage.suggestion for one in coverage.suggestions)


def test_where_all_is_well_nothing_is_tried(tmp_path):
    shapes = load_coco(write_shapes(tmp_path), tmp_path / "images")
    well = dataset_coverage(shapes, ModelConfig(min_size=64, max_size=96))
    assert well.without == 0
    assert well.suggestions == well.tried == []
    assert "nothing needs to change" in well.suggestion


def test_layouts_of_one_size_are_worked_out_once(dataset, monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return layout_of(*args, **kwargs)

    for room in ("dataset_coverage", "coverage_suggestions"):
        monkeypatch.setattr(sys.modules[f"retinanet.analysis.{room}"], "layout_of", counted)
    dataset_coverage(dataset, MODEL)
    assert len(calls) > 1
    assert len(set(calls[1:])) == len(calls) - 1  # the first is the count, the rest the trials


def test_a_sample_is_drawn_by_its_seed(dataset):
    few = [dataset_coverage(dataset, MODEL, limit=3, seed=seed) for seed in (1, 1, 2)]
    assert [one.photos for one in few] == [3, 3, 3]
    assert few[0].sizes == few[1].sizes
    assert few[0].sizes != few[2].sizes
    with pytest.raises(ConfigError):
        dataset_coverage(dataset, MODEL, limit=0)


def test_progress_ends_and_cancelling_keeps_what_was_counted(dataset):
    steps = []
    dataset_coverage(dataset, MODEL, progress=lambda *step: steps.append(step))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (16, 16)
    stop = threading.Event()
    cut = dataset_coverage(
        dataset, MODEL, cancel=stop, progress=lambda done, _: stop.set() if done == 3 else None
    )
    assert cut.cancelled
    assert cut.photos == 3
    assert cut.tried == []
    assert suggest(dataset.photos, (96, 160), MATCHER, AnchorShape(), lambda n: None, stop) == []


def test_areas_to_ignore_and_photos_that_vanish(tmp_path):
    dataset = random_dataset(tmp_path, 1, photos=3, objects=2)
    data = json.loads(dataset.annotation_file.read_text())
    data["images"][0] |= {"width": 5, "height": 5000}
    data["annotations"] = [
        a for a in data["annotations"] if a["image_id"] != data["images"][0]["id"]
    ]
    crowd = {"id": 999, "category_id": 2, "bbox": [0, 0, 200, 200], "area": 40000, "iscrowd": 1}
    data["annotations"].append(crowd | {"image_id": data["images"][1]["id"]})
    dataset.annotation_file.write_text(json.dumps(data))
    dataset = load_coco(dataset.annotation_file, tmp_path / "images")
    found = dataset_coverage(dataset, ModelConfig(min_size=64, max_size=96))
    assert [entry["image_id"] for entry in found.skipped] == [data["images"][0]["id"]]
    assert found.skipped[0]["sentence"]
    assert found.photos == 2
    plain = replace(dataset, photos=dataset.photos[2:])
    without = dataset_coverage(plain, ModelConfig(min_size=64, max_size=96)).counts
    # over a crowd that fills the photo no anchor that lies in it is background
    assert found.counts["ignored"] > without["ignored"]
    assert found.counts["background"] < 2 * without["background"]


def test_a_data_set_without_objects(tmp_path):
    nothing = dataset_coverage(random_dataset(tmp_path, 0, photos=2, objects=0), MODEL)
    assert nothing.objects == 0
    assert nothing.without_image_ids == ()
    assert "no objects" in nothing.suggestion


def test_the_conclusion_says_what_was_tried():
    assert conclusion([], 5, 10) == (
        [],
        "50% of the 10 objects have a natural match. No other setting was tried.",
    )
    words = (0.9, 0.5, 20, 1.0, 1.0, None, "One more scale gives 90% (now 50%).")
    one = Suggestion("scales", 0.5, None, *words)
    assert conclusion([one], 10, 20)[1].endswith("(now 50%).")
    assert conclusion([one], 60, 100)[1].endswith("(now 50%). This was tried on 20 of them.")
    assert conclusion([], 1, 200)[1].startswith("<1% of")
