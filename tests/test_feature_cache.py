"""Stored features train as computed ones do, and are read for nothing else."""

import json
import os
import threading

import pytest
import torch
from safetensors import SafetensorError

from retinanet.coco import load_coco
from retinanet.config import ConfigError
from retinanet.training import (
    TrainConfig,
    TrainingError,
    batch_losses,
    run_batch,
    train,
)
from retinanet.views import Views
from tests.shapes import write_shapes
from tests.tiny import QUICK, new_model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    return load_coco(write_shapes(folder), folder / "images")


def test_stored_features_train_as_computed_ones_do(dataset, tmp_path):
    model = new_model(dataset, frozen_stages=4).train()
    settings = {"scale_jitter": (0.7, 1.6), "seed": 3}
    plain = Views(dataset, model, TrainConfig(**settings), tmp_path)
    cached = Views(dataset, model, TrainConfig(cache_views=2, **settings), tmp_path)
    seen = []
    cached.fill_cache(model, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)
    for key in ("0-0", "1-1", "2-1"):
        a, b = plain.load([key]), cached.load([key])
        assert a.padded_size == b.padded_size
        with torch.no_grad():
            losses = [
                [float(part) for part in batch_losses(run_batch(model, batch), *rest)]
                for batch, *rest in ((x, x.targets, model, TrainConfig()) for x in (a, b))
            ]
        for computed, stored in zip(*losses, strict=True):
            assert stored == pytest.approx(computed, rel=0.01)


def test_a_cache_belongs_to_its_weights(dataset, tmp_path):
    config = TrainConfig(cache_views=1)
    first = Views(dataset, new_model(dataset, frozen_stages=4), config, tmp_path)
    other = new_model(dataset, frozen_stages=4)
    torch.nn.init.ones_(other.backbone.body["conv1"].weight)
    assert first.cache.folder != Views(dataset, other, config, tmp_path).cache.folder


@pytest.mark.parametrize("setting", [{"stride_in_1x1": True}, {"norm_eps": 0.0}])
def test_a_cache_belongs_to_settings_that_shapes_do_not_show(dataset, tmp_path, setting):
    config = TrainConfig(cache_views=1)
    folders = {
        Views(
            dataset, new_model(dataset, frozen_stages=4, **changed), config, tmp_path
        ).cache.folder
        for changed in ({}, setting)
    }
    assert len(folders) == 2


def test_a_cache_is_not_read_for_other_labels_or_another_file(tmp_path):
    annotations = write_shapes(tmp_path / "data")
    images = tmp_path / "data" / "images"

    def cached():
        data = load_coco(annotations, images)
        model = new_model(data, frozen_stages=4)
        views = Views(data, model, TrainConfig(cache_views=1), tmp_path / "cache")
        new = [not views.cache.path(f"{image}-0").exists() for image in range(4)]
        views.fill_cache(model, lambda done, total: None)
        return new, views.load(["0-0"]).targets[0]

    assert cached()[0] == [True] * 4
    assert cached()[0] == [False] * 4
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"] = [1, 2, 30, 40]
    annotations.write_text(json.dumps(content))
    new, target = cached()
    assert new == [True, False, False, False]
    assert target.boxes[0].tolist() == [1, 2, 31, 42]
    os.utime(images / "001.png", ns=(1, 1))
    assert cached()[0] == [False, True, False, False]


def test_a_cache_needs_a_resnet_that_does_not_train(dataset, tmp_path):
    with pytest.raises(ConfigError, match="frozen_stages 4"):
        Views(dataset, new_model(dataset), TrainConfig(cache_views=1), tmp_path)


def test_a_cache_that_is_damaged_or_cannot_be_written_is_a_sentence(dataset, tmp_path, monkeypatch):
    model = new_model(dataset, frozen_stages=4)
    views = Views(dataset, model, TrainConfig(cache_views=1), tmp_path)

    def full(*_given):
        raise SafetensorError("disk full")

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="make room"):
        patch.setattr("retinanet.feature_cache.save_file", full)
        views.fill_cache(model, lambda done, total: None)
    views.fill_cache(model, lambda done, total: None)
    views.cache.path("0-0").write_bytes(b"half")
    with pytest.raises(TrainingError, match="made again"):
        views.load(["0-0"])
    views.cache.path("0-0").unlink()
    with pytest.raises(TrainingError, match="made again"):
        next(views.batches())


def test_filling_the_cache_can_be_cancelled(dataset, tmp_path):
    stop, seen = threading.Event(), []

    def on_cache(done, total):
        seen.append(done)
        stop.set()

    config = TrainConfig(steps=2, cache_views=2, **QUICK)
    train(
        new_model(dataset, frozen_stages=4),
        dataset,
        config,
        run_folder=tmp_path,
        on_cache=on_cache,
        on_progress=lambda progress: pytest.fail("no step was to be made"),
        cancel=stop,
    )
    assert seen == [1]
    assert not (tmp_path / "last.pt").exists()
