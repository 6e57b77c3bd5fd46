"""The data set that is drawn: tight boxes, honest occlusion, classes as the knob says."""

import json
import random
import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.coco import DatasetError, load_coco
from retinanet.config import ConfigError, ModelConfig
from retinanet.model import RetinaNet
from retinanet.shapes import (
    CATEGORIES,
    ShapesConfig,
    class_counts,
    class_sequence,
    draw_photo,
    make_shapes,
)
from retinanet.single_flight import Cancelled
from retinanet.training import TrainConfig, train

SMALL = ShapesConfig(images=10, size=96)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes") / "set", SMALL)


def random_config(draw: random.Random) -> ShapesConfig:
    return ShapesConfig(
        images=1,
        size=draw.randint(64, 160),
        objects=(1, draw.randint(1, 6)),
        sizes=(0.15, draw.uniform(0.15, 0.6)),
        max_hidden=draw.uniform(0, 0.6),
        stretch=draw.uniform(1, 2),
        rotation=draw.uniform(0, 180),
        color_jitter=draw.random(),
        clutter=draw.random(),
        seed=draw.randint(0, 10**6),
    )


def test_boxes_are_tight_and_what_is_hidden_is_counted_over_random_settings():
    draw = random.Random(3)
    for _ in range(30):
        config = random_config(draw)
        labels = [draw.randrange(6) for _ in range(config.objects[1])]
        photo = draw_photo(config, draw.randint(0, 99), labels)
        assert [shape.label for shape in photo.shapes] == labels
        assert photo.picture.size == (config.size, config.size)
        for index, shape in enumerate(photo.shapes):
            rows, columns = np.nonzero(photo.owner == index)
            x, y, width, height = shape.bbox
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
            assert shape.area == len(rows)
            assert 0 <= shape.hidden <= config.max_hidden + 1e-9


def test_without_others_a_shape_has_the_area_that_geometry_gives_it():
    # of a box of side 1: disc pi/4, square 1, ring pi/4 (1 - .55^2), cross 1 - 4 (.325)^2
    areas = {0: np.pi / 4, 1: 1, 4: np.pi / 4 * (1 - 0.55**2), 5: 1 - 4 * 0.325**2}
    alone = {"objects": (1, 1), "sizes": (0.5, 0.5), "stretch": 1, "rotation": 0}
    config = ShapesConfig(size=400, **alone)
    for label, share in areas.items():
        (shape,) = draw_photo(config, 0, [label]).shapes
        assert max(shape.bbox[2:]) == pytest.approx(200, abs=1)
        assert shape.area == pytest.approx(share * 200**2, rel=0.02)


def test_the_picture_shows_the_background_and_over_it_the_shapes():
    plain = replace(SMALL, clutter=0.0, color_jitter=0.0)
    photo = draw_photo(plain, 1, [0, 3])
    pixels = np.asarray(photo.picture)
    assert len(np.unique(pixels[photo.owner < 0], axis=0)) == 1  # no clutter: one colour
    inner = {}
    for index in (0, 1):
        colors, counts = np.unique(pixels[photo.owner == index], axis=0, return_counts=True)
        inner[index] = tuple(colors[counts.argmax()])
    assert inner[0] == (255, 25, 25)  # hue 0, saturation .9: 255 and .1 * 255
    assert inner[1] == (25, 255, 255)  # hue 3/6


@pytest.mark.parametrize("imbalance", [1, 3, 20, 100])
@pytest.mark.parametrize("objects", [0, 3, 6, 200, 5000])
def test_class_counts_follow_the_knob(imbalance, objects):
    counts = class_counts(objects, imbalance)
    assert sum(counts) == objects
    assert min(counts) >= (1 if objects >= 6 else 0)
    assert counts == sorted(counts, reverse=True)
    if objects == 5000:
        assert counts[0] / counts[-1] == pytest.approx(imbalance, rel=0.05)
        steps = [a / b for a, b in pairwise(counts)]
        assert steps == pytest.approx([imbalance ** (1 / 5)] * 5, rel=0.05)


def test_objects_of_a_photo_stay_between_the_bounds_and_use_them():
    config = replace(SMALL, images=200, objects=(0, 4), imbalance=10)
    numbers = [len(labels) for labels in class_sequence(config)]
    assert set(numbers) == {0, 1, 2, 3, 4}
    flat = [label for labels in class_sequence(config) for label in labels]
    assert [flat.count(label) for label in range(6)] == class_counts(len(flat), 10)


def test_what_is_written_is_what_is_drawn(made):
    data = json.loads(made.annotation_file.read_text())
    labels = class_sequence(SMALL)
    for index, photo in enumerate(made.photos):
        drawn = draw_photo(SMALL, index, labels[index])
        own = [a for a in data["annotations"] if a["image_id"] == index + 1]
        assert [tuple(a["bbox"]) for a in own] == [shape.bbox for shape in drawn.shapes]
        assert [a["area"] for a in own] == [shape.area for shape in drawn.shapes]
        assert [a["category_id"] - 1 for a in own] == labels[index]
        stored = np.asarray(Image.open(photo.path), np.int16)
        assert np.abs(stored - np.asarray(drawn.picture)).mean() < 4  # JPEG's loss
    assert made.categories == CATEGORIES
    again = load_coco(made.annotation_file, made.annotation_file.parent / "images")
    assert again.report == made.report


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(made, tmp_path):
    again = make_shapes(tmp_path / "again", SMALL)
    other = make_shapes(tmp_path / "other", replace(SMALL, seed=1))

    def content(dataset):
        return [photo.path.read_bytes() for photo in dataset.photos]

    assert again.annotation_file.read_bytes() == made.annotation_file.read_bytes()
    assert content(again) == content(made)
    assert not set(content(other)) & set(content(made))


def test_a_folder_made_before_is_used_again_and_another_is_refused(made, tmp_path):
    folder = made.annotation_file.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert make_shapes(folder, SMALL).report == made.report
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(DatasetError, match="something other"):
        make_shapes(folder, replace(SMALL, seed=5))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(DatasetError, match="something other"):
        make_shapes(tmp_path / "mine", SMALL)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    with pytest.raises(DatasetError, match="cannot be used"):
        make_shapes(tmp_path / "mine" / "letter.txt", SMALL)
    lost = make_shapes(tmp_path / "lost", replace(SMALL, images=3))
    lost.photos[0].path.unlink()
    with pytest.raises(DatasetError, match="lost 1 of its 3 photos"):
        make_shapes(tmp_path / "lost", replace(SMALL, images=3))


def test_when_cancelled_nothing_is_left_behind(tmp_path):
    cancel = threading.Event()
    seen = []

    def progress(done, total):
        seen.append((done, total))
        if done == 2:
            cancel.set()

    with pytest.raises(Cancelled):
        make_shapes(tmp_path / "set", SMALL, progress=progress, cancel=cancel)
    assert seen == [(1, 10), (2, 10)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": 0}, "images must be between 1 and 20000"),
        ({"size": 2000}, "size must be between"),
        ({"objects": (3, 1)}, "smaller value first"),
        ({"objects": (0, 0)}, "must allow one"),
        ({"objects": 3}, "two values"),
        ({"objects": (1, 1.5)}, "whole number"),
        ({"sizes": (0.5, 0.7)}, "do not fit"),
        ({"sizes": (0.2, float("nan"))}, "must be a number"),
        ({"imbalance": 0.5}, "imbalance must be between 1 and 100"),
        ({"max_hidden": 0.7}, "max_hidden"),
        ({"clutter": "much"}, "clutter must be a number"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ShapesConfig(**settings)


def test_settings_survive_json():
    config = ShapesConfig(objects=(2, 3), imbalance=7)
    assert ShapesConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_tiny_model_begins_to_learn_them(made, tmp_path):
    torch.manual_seed(0)
    shape = {"depth": 18, "num_convs": 1, "min_size": 64, "max_size": 64, "variant": "v2"}
    model = RetinaNet(ModelConfig(num_classes=6, frozen_stages=-1, **shape))
    losses = []
    config = TrainConfig(
        steps=6, batch_size=2, optimizer="adamw", lr=1e-3, warmup_steps=2, checkpoint_every=100
    )
    train(
        model,
        made,
        config,
        run_folder=tmp_path,
        on_progress=lambda p: losses.append(p.classification + p.bbox_regression),
    )
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])
