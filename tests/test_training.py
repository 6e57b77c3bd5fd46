"""The training loop: it learns, freezes, resumes to the same numbers, stops when told."""

import json
import os
import random
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from retinanet.coco import load_coco
from retinanet.config import ConfigError, LossConfig, MatcherConfig, ModelConfig
from retinanet.model import RetinaNet
from retinanet.training import (
    PARAMETER_STAGES,
    TrainConfig,
    TrainingError,
    batch_losses,
    build_optimizer,
    learning_rate,
    run_batch,
    train,
)
from retinanet.types import LEVELS
from retinanet.views import Views
from tests.oracle import our_model, torchvision_model
from tests.shapes import write_shapes


@pytest.fixture
def dataset(tmp_path):
    return load_coco(write_shapes(tmp_path / "data"), tmp_path / "data" / "images")


def new_model(dataset, **settings):
    torch.manual_seed(0)
    small = {"depth": 18, "num_classes": 2, "num_convs": 1, "variant": "v2"}
    config = ModelConfig(**small | {"min_size": 72, "max_size": 96} | settings)
    return RetinaNet(config, dataset.categories, dataset.category_ids)


QUICK = {"batch_size": 2, "warmup_steps": 2, "optimizer": "adamw", "lr": 2e-3}


def test_it_learns_a_tiny_data_set(dataset, tmp_path):
    model = new_model(dataset, frozen_stages=-1)
    losses = []
    config = TrainConfig(steps=30, scale_jitter=(1.0, 1.0), **QUICK)
    trained = train(
        model,
        dataset,
        config,
        run_folder=tmp_path / "run",
        on_progress=lambda p: losses.append(p.classification + p.bbox_regression),
    )
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert not trained.training


def test_resuming_gives_the_very_weights_of_an_uninterrupted_run(dataset, tmp_path):
    config = TrainConfig(steps=6, checkpoint_every=2, ema_decay=0.5, **QUICK)
    whole = train(new_model(dataset), dataset, config, run_folder=tmp_path / "whole")

    stop = threading.Event()
    seen = []

    def stop_after_three(progress):
        seen.append(progress.step)
        if progress.step == 3:
            stop.set()

    folder = tmp_path / "parts"
    train(
        new_model(dataset),
        dataset,
        config,
        run_folder=folder,
        on_progress=stop_after_three,
        cancel=stop,
    )
    assert seen == [1, 2, 3]
    torch.manual_seed(99)
    resumed = train(
        new_model(dataset),
        dataset,
        config,
        run_folder=folder,
        resume=True,
        on_progress=lambda p: seen.append(p.step),
    )
    assert seen == [1, 2, 3, 4, 5, 6]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


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


def test_batch_losses_are_torchvisions():
    images = [torch.rand(3, 128, 160), torch.rand(3, 128, 140)]
    boxes = [torch.tensor([[10.0, 10, 80, 90], [60, 40, 120, 120]]), torch.zeros(0, 4)]
    labels = [torch.tensor([3, 17]), torch.zeros(0, dtype=torch.int64)]
    oracle = torchvision_model("v1").train()
    try:
        targets = [{"boxes": b, "labels": x} for b, x in zip(boxes, labels, strict=True)]
        theirs = oracle(images, targets)
    finally:
        oracle.eval()
    from retinanet.coco import Target
    from retinanet.images import batch_images, normalize

    model = our_model("v1")
    raw = model.forward_batch(batch_images([normalize(image) for image in images]))
    ours = [Target(b, x, torch.zeros(0, 4)) for b, x in zip(boxes, labels, strict=True)]
    classification, bbox_regression, _ = batch_losses(raw, ours, model, TrainConfig())
    assert torch.allclose(classification, theirs["classification"], rtol=1e-6)
    assert torch.allclose(bbox_regression, theirs["bbox_regression"], rtol=1e-6)


def test_levels_that_did_not_run_take_no_part_in_the_loss():
    from retinanet.coco import Target

    model = our_model("v1")
    image = torch.rand(1, 3, 128, 160)
    small = torch.tensor([[40.0, 40, 72, 72]])  # a P3 anchor's size
    target = Target(small, torch.tensor([3]), torch.zeros(0, 4))
    whole, part = model.forward_batch(image), model.forward_batch(image, LEVELS[1:])
    assert [len(x[0]) for x in part.cls_logits] == [len(x[0]) for x in whole.cls_logits][1:]
    assert batch_losses(whole, [target], model, TrainConfig())[2] > 0
    assert batch_losses(part, [target], model, TrainConfig())[2] == 0


def test_the_order_is_seeded_and_every_photo_comes_once_an_epoch(dataset, tmp_path):
    def epoch(seed):
        views = Views(dataset, new_model(dataset), TrainConfig(batch_size=3, seed=seed), tmp_path)
        batches = views.batches()
        return next(batches) + next(batches)

    assert epoch(1) == epoch(1)
    assert sorted(epoch(1)) == ["0-0", "1-0", "2-0", "3-0"]
    assert {tuple(epoch(seed)) for seed in range(5)} != {tuple(epoch(1))}


def test_schedules():
    step = TrainConfig(steps=900, warmup_steps=10, schedule="step", lr=0.01)
    values = [learning_rate(s, step) for s in (0, 9, 10, 599, 600, 799, 800, 899)]
    assert values == pytest.approx([1e-3, 1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])
    cosine = TrainConfig(steps=110, warmup_steps=10, schedule="cosine", lr=1.0)
    assert learning_rate(10, cosine) == pytest.approx(1)
    assert learning_rate(60, cosine) == pytest.approx(0.505)
    assert learning_rate(110, cosine) == pytest.approx(0.01)


def test_biases_and_norms_are_not_decayed(dataset):
    optimizer = build_optimizer(new_model(dataset), TrainConfig(weight_decay=0.1))
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"])
    assert all(p.dim() <= 1 for p in plain["params"])


def test_a_loss_that_is_no_number_stops_with_a_sentence(dataset, tmp_path):
    model = new_model(dataset)
    torch.nn.init.constant_(model.head.regression_head.bbox_reg.bias, float("nan"))
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        train(model, dataset, TrainConfig(steps=1), run_folder=tmp_path / "run")


def test_the_model_gets_the_data_sets_names_and_ids(dataset, tmp_path):
    model = RetinaNet(new_model(dataset).config)
    trained = train(
        model, dataset, TrainConfig(steps=1, ema_decay=0.5), run_folder=tmp_path / "run"
    )
    assert (trained.categories, trained.category_ids) == (("red", "blue"), (1, 7))


def test_a_model_of_other_categories_is_refused_before_anything_is_written(dataset, tmp_path):
    config = new_model(dataset).config
    for model, words in (
        (RetinaNet(config, ("cat", "dog"), (17, 18)), "category ids"),
        (RetinaNet(replace(config, num_classes=3)), "3 classes"),
    ):
        with pytest.raises(TrainingError, match=words):
            train(model, dataset, TrainConfig(steps=1), run_folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "config", "words"),
    [
        ({"depth": 34}, {}, "depth is 18 in the file and 34"),
        ({"frozen_stages": 4}, {}, "frozen_stages"),
        ({}, {"optimizer": "sgd"}, "optimizer"),
    ],
)
def test_resuming_another_run_is_refused_in_a_sentence(dataset, tmp_path, model, config, words):
    train(new_model(dataset), dataset, TrainConfig(steps=1, **QUICK), run_folder=tmp_path)
    changed = TrainConfig(**{"steps": 2, **QUICK, **config})
    with pytest.raises(TrainingError, match=words) as refusal:
        train(new_model(dataset, **model), dataset, changed, run_folder=tmp_path, resume=True)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(dataset, tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(TrainingError, match="damaged"):
        train(new_model(dataset), dataset, TrainConfig(), run_folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"optimizer": "lion"},
        {"schedule": "none"},
        {"precision": "fp8"},
        {"lr": 0.0},
        {"ema_decay": 1.0},
        {"scale_jitter": (1.2, 1.6)},
        {"cache_views": -1},
        {"warmup_steps": -1},
        {"momentum": -0.1},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"weight_decay": float("nan")},
        {"clip_grad_norm": 0.0},
        {"prior": 0.0},
        {"prior": 1.0},
        {"steps": "10"},
        {"seed": 1.5},
        {"lr": float("inf")},
        {"scale_jitter": 1.0},
        {"scale_jitter": ("a", 2)},
        {"matcher": {"fg_iou_thresh": 0.5}},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError, match="TrainConfig"):
        TrainConfig(**settings)


def test_the_settings_survive_json_and_hostile_json_is_refused():
    config = TrainConfig(steps=7, prior=0.1, matcher=MatcherConfig(0.6, 0.3), loss=LossConfig(0.5))
    plain = json.loads(json.dumps(config.to_dict()))
    assert TrainConfig.from_dict(plain) == config
    for wrong in ({"epochs": 3}, {"matcher": 3}, {"loss": {"beta": 1}}, {"steps": None}):
        with pytest.raises(ConfigError):
            TrainConfig.from_dict(plain | wrong)


def test_a_step_says_where_its_time_went_and_norms_add_up(dataset, tmp_path):
    seen = []
    config = TrainConfig(steps=3, finest_every=2, **QUICK)
    model = new_model(dataset, frozen_stages=2)
    train(model, dataset, config, run_folder=tmp_path, on_progress=seen.append)
    for progress in seen:
        parts = ("data", "forward", "backward", "optimizer")
        seconds = [getattr(progress, f"seconds_{part}") for part in parts]
        assert all(part > 0 for part in seconds)
        assert sum(seconds) == pytest.approx(progress.seconds, rel=1e-6)
        assert progress.memory_bytes > 50e6  # PyTorch itself is more
        assert tuple(progress.grad_norms) == PARAMETER_STAGES
        squares = sum(norm**2 for norm in progress.grad_norms.values())
        assert squares**0.5 == pytest.approx(progress.grad_norm, rel=1e-5)
    assert seen[-1].eta_seconds == 0 < seen[0].eta_seconds


def test_a_step_draws_no_random_numbers(dataset, tmp_path):
    """What a checkpoint would have to keep as well, were it otherwise."""
    states = []

    def note(progress):
        numpy_state = np.random.get_state()  # noqa: NPY002
        states.append((torch.get_rng_state().tolist(), random.getstate(), numpy_state[1]))

    config = TrainConfig(steps=3, ema_decay=0.5, **QUICK)
    train(new_model(dataset), dataset, config, run_folder=tmp_path, on_progress=note)
    for torch_state, python_state, numpy_state in states[1:]:
        assert torch_state == states[0][0]
        assert python_state == states[0][1]
        assert (numpy_state == states[0][2]).all()


def test_a_checkpoint_outlives_a_kill_while_the_next_is_written(dataset, tmp_path, monkeypatch):
    config = TrainConfig(steps=1, **QUICK)
    train(new_model(dataset), dataset, config, run_folder=tmp_path)
    before = (tmp_path / "last.pt").read_bytes()

    def killed(state, path):
        path.write_bytes(b"PK half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    more = replace(config, steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(dataset), dataset, more, run_folder=tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before
    monkeypatch.undo()
    seen = []
    train(
        new_model(dataset),
        dataset,
        more,
        run_folder=tmp_path,
        resume=True,
        on_progress=lambda progress: seen.append(progress.step),
    )
    assert seen == [2]


def test_a_run_begun_anew_is_not_resumed_from_the_checkpoint_of_another(dataset, tmp_path):
    train(new_model(dataset), dataset, TrainConfig(steps=1, **QUICK), run_folder=tmp_path)

    def crash(progress):
        raise KeyboardInterrupt

    config = TrainConfig(steps=2, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(dataset), dataset, config, run_folder=tmp_path, on_progress=crash)
    assert not (tmp_path / "last.pt").exists()
    assert (tmp_path / "previous.pt").exists()


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


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
def test_too_little_memory_is_a_sentence(dataset, tmp_path, monkeypatch, error):
    def exhausted(*_arguments):
        raise error

    monkeypatch.setattr("retinanet.training_step.batch_losses", exhausted)
    with pytest.raises(TrainingError, match="lower batch_size or min_size"):
        train(new_model(dataset), dataset, TrainConfig(steps=1, **QUICK), run_folder=tmp_path)
