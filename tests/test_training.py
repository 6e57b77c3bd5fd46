"""The training loop: it learns, freezes, stops when told, and says why it cannot go on."""

import json
from dataclasses import replace

import pytest
import torch

from retinanet.coco import DatasetError
from retinanet.config import ConfigError, LossConfig, MatcherConfig
from retinanet.model import RetinaNet
from retinanet.training import (
    PARAMETER_STAGES,
    TrainConfig,
    TrainingError,
    batch_losses,
    build_optimizer,
    learning_rate,
    train,
)
from retinanet.types import LEVELS
from retinanet.views import Views
from tests.oracle import our_model, torchvision_model
from tests.tiny import QUICK, new_model


def test_it_learns_a_tiny_data_set(dataset, tmp_path, unsaved):
    model = new_model(dataset, frozen_stages=-1)
    losses = []
    config = TrainConfig(steps=20, scale_jitter=(1.0, 1.0), **QUICK)
    trained = train(
        model,
        dataset,
        config,
        run_folder=tmp_path / "run",
        on_progress=lambda p: losses.append(p.classification + p.bbox_regression),
    )
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert not trained.training


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
    model = new_model(dataset)

    def epoch(seed):
        views = Views(dataset, model, TrainConfig(batch_size=3, seed=seed), tmp_path)
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


def test_a_gradient_that_is_no_number_stops_before_the_weights_are_none(dataset, tmp_path):
    """Or the last step's would be saved, and a checkpoint could never be gone on from."""
    model = new_model(dataset)
    bias = model.head.classification_head.cls_logits.bias
    bias.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match="gradient is no longer a finite number in step 1"):
        train(model, dataset, TrainConfig(steps=1), run_folder=tmp_path / "run")
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not (tmp_path / "run" / "last.pt").exists()


def test_no_photos_are_refused_and_not_waited_for(dataset, tmp_path):
    nothing = replace(dataset, photos=())
    with pytest.raises(DatasetError, match="no photos"):
        train(new_model(dataset), nothing, TrainConfig(steps=1), run_folder=tmp_path)


def test_the_model_gets_the_data_sets_names_and_ids(dataset, tmp_path, unsaved):
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
        {"checkpoint_seconds": -1.0},
        *({"body_lr": wrong} for wrong in (-0.1, float("nan"), float("inf"), True, "0.1", None)),
        *({"repeat_thresh": wrong} for wrong in (-0.1, 1.5, float("nan"), True, "0.1", None)),
        *({"freeze_norms": wrong} for wrong in (1, 0, "yes", None, float("nan"))),
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


def test_a_step_says_where_its_time_went_and_norms_add_up(dataset, tmp_path, unsaved):
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


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
def test_too_little_memory_is_a_sentence(dataset, tmp_path, monkeypatch, error):
    def exhausted(*_arguments):
        raise error

    monkeypatch.setattr("retinanet.training_step.batch_losses", exhausted)
    with pytest.raises(TrainingError, match="lower batch_size or min_size"):
        train(new_model(dataset), dataset, TrainConfig(steps=1, **QUICK), run_folder=tmp_path)
