"""A ResNet that learns more slowly, batch norms that stand still, photos of rare classes."""

import random
import threading
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn

from retinanet.coco import Target
from retinanet.distributed import trains_batch_norm
from retinanet.training import TrainConfig, TrainingError, build_optimizer, learning_rate, train
from retinanet.training_cost import probe
from retinanet.training_step import Stepper, parameter_groups
from retinanet.views import Views, occurrences
from tests.tiny import QUICK, new_model

BODY = "backbone.body."
SMALL = {"min_size": 64, "max_size": 96}


def state_of(model):
    """A copy of every parameter and buffer."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def trained(dataset, folder, config, *, resume=False, on_progress=lambda p: None, **shape):
    """The state before and after a run of a new model."""
    model = new_model(dataset, **SMALL | shape)
    before = state_of(model)
    train(model, dataset, config, run_folder=folder, resume=resume, on_progress=on_progress)
    return before, state_of(model)


def interrupted(dataset, folder, config, first, **shape):
    """The state after a run that was stopped after its `first` steps and then resumed."""
    stop = threading.Event()
    model = new_model(dataset, **SMALL | shape)
    train(
        model,
        dataset,
        config,
        run_folder=folder,
        on_progress=lambda progress: progress.step == first and stop.set(),
        cancel=stop,
    )
    return trained(dataset, folder, config, resume=True, **shape)[1]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# ------------------------------------------------------------------ body_lr


def test_the_resnet_is_two_groups_in_front(dataset):
    model = new_model(dataset, frozen_stages=2)
    config = TrainConfig(lr=0.02, body_lr=0.25, weight_decay=0.1)
    groups = parameter_groups(model, config)
    assert [group["lr"] for group in groups] == [0.005, 0.005, 0.02, 0.02]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group, of_body, decayed in zip(
        groups, (True, True, False, False), (True, False, True, False), strict=True
    ):
        assert group["params"]
        for parameter in group["params"]:
            assert names[parameter].startswith(BODY) == of_body
            assert (parameter.dim() > 1) == decayed
    found = [parameter for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {p for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("body_lr", [0.25, 0.0])
def test_the_first_step_moves_the_resnet_so_much_less(
    dataset, tmp_path, unsaved, optimizer, body_lr
):
    plain = {"steps": 1, "batch_size": 2, "warmup_steps": 0, "lr": 0.05, "optimizer": optimizer}
    plain |= {"momentum": 0.0, "weight_decay": 0.0}
    before, whole = trained(dataset, tmp_path / "1", TrainConfig(**plain), frozen_stages=2)
    slow = TrainConfig(**plain, body_lr=body_lr)
    _, part = trained(dataset, tmp_path / "2", slow, frozen_stages=2)
    moved = 0
    for name, start in before.items():
        if not name.startswith(BODY):
            assert torch.equal(part[name], whole[name]), name
        elif name.endswith(("weight", "bias")):
            far, near = (whole[name] - start).double(), (part[name] - start).double()
            rounding = 2e-7 * start.abs().max().item() + 1e-12  # of float32 where it was added
            assert torch.allclose(near, body_lr * far, rtol=1e-5, atol=rounding), name
            moved += bool(far.abs().max() > 100 * rounding)
    assert moved > 10


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_where_the_whole_resnet_is_frozen_it_changes_nothing(dataset, tmp_path, optimizer):
    quick = TrainConfig(**QUICK | {"optimizer": optimizer, "steps": 3})
    _, plain = trained(dataset, tmp_path / "1", quick, frozen_stages=4)
    config = replace(quick, body_lr=0.1)
    groups = build_optimizer(new_model(dataset, frozen_stages=4), config).param_groups
    assert [len(group["params"]) > 0 for group in groups] == [False, False, True, True]
    _, slow = trained(dataset, tmp_path / "2", config, frozen_stages=4)
    assert_same(plain, slow)
    assert_same(plain, interrupted(dataset, tmp_path / "3", config, 2, frozen_stages=4))


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_the_learning_rate_that_is_told_is_that_of_the_other_layers(dataset, tmp_path, schedule):
    config = TrainConfig(**QUICK | {"steps": 6, "schedule": schedule, "body_lr": 0.1})
    model = new_model(dataset, frozen_stages=3, **SMALL).train()
    views, stepper = Views(dataset, model, config, tmp_path), Stepper(model, config)
    keys = next(views.batches())
    for step in (0, 1, 4, 5):
        progress = stepper.run(views, keys, step)
        expected = learning_rate(step, config)
        assert progress.lr == expected
        rates = [group["lr"] for group in stepper.optimizer.param_groups]
        assert rates == pytest.approx([0.1 * expected, 0.1 * expected, expected, expected])


def test_a_resumed_run_goes_on_with_the_same_part(dataset, tmp_path):
    config = TrainConfig(**QUICK | {"steps": 4, "body_lr": 0.1, "freeze_norms": True})
    _, whole = trained(dataset, tmp_path / "whole", config, frozen_stages=3)
    assert_same(whole, interrupted(dataset, tmp_path / "parts", config, 2, frozen_stages=3))


@pytest.mark.parametrize(
    ("begun", "resumed"),
    [
        ({}, {"body_lr": 0.1}),
        ({"body_lr": 0.1}, {}),
        ({}, {"freeze_norms": True}),
        ({"freeze_norms": True}, {}),
    ],
)
def test_resumed_with_other_groups_it_is_refused_in_words(dataset, tmp_path, begun, resumed):
    quick = {**QUICK, "steps": 1}
    trained(dataset, tmp_path, TrainConfig(**quick | begun), frozen_stages=3)
    config = TrainConfig(**quick | resumed | {"steps": 2})
    with pytest.raises(TrainingError, match=r"other settings.*that it was begun with"):
        trained(dataset, tmp_path, config, resume=True, frozen_stages=3)


# ------------------------------------------------------------------ freeze_norms


def norm_names(model):
    """The names of everything that the batch norms of the ResNet hold."""
    return {
        f"{BODY}{name}.{part}"
        for name, module in model.backbone.body.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in module.state_dict()
    }


def test_frozen_norms_keep_every_bit_although_their_stage_trains(dataset, tmp_path, unsaved):
    quick = TrainConfig(**QUICK | {"steps": 2, "ema_decay": 0.5})
    norms = norm_names(new_model(dataset))
    for config in (quick, replace(quick, freeze_norms=True)):
        before, after = trained(dataset, tmp_path, config, frozen_stages=3)
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        layer4 = {name for name in after if name.startswith(f"{BODY}layer4.")}
        assert changed & layer4 == (layer4 - norms if config.freeze_norms else layer4)
        assert not changed & {name for name in norms if not name.startswith(f"{BODY}layer4.")}
        assert any(name.startswith("head.") for name in changed)


def test_the_average_of_the_weights_has_the_frozen_norms_too(dataset, tmp_path, unsaved):
    model = new_model(dataset, frozen_stages=-1, **SMALL)
    before = state_of(model)
    config = TrainConfig(**QUICK | {"steps": 2, "ema_decay": 0.5, "freeze_norms": True})
    average = train(model, dataset, config, run_folder=tmp_path)
    assert average is not model
    for name in norm_names(model):
        assert torch.equal(average.state_dict()[name], before[name]), name
    assert not torch.equal(average.backbone.body.conv1.weight, before[f"{BODY}conv1.weight"])


def test_frozen_norms_do_not_ask_the_batch(dataset):
    """Also after eval and train again, as at each validation."""
    model = new_model(dataset, frozen_stages=-1)
    images = torch.randn(2, 3, 64, 96)
    assert trains_batch_norm(model)
    model.backbone.freeze_norms()
    assert not trains_batch_norm(model)
    with torch.no_grad():
        calm = model.eval().backbone.stages(images)["C5"]
        assert torch.equal(model.train().backbone.stages(images)["C5"], calm)
        model.backbone.freeze_norms(False)
        assert not torch.allclose(model.backbone.stages(images)["C5"], calm, atol=1e-3)


@pytest.mark.parametrize("frozen_stages", [-1, 0, 2, 4])
def test_what_trains_is_again_what_the_stages_say(dataset, frozen_stages):
    model = new_model(dataset, frozen_stages=frozen_stages).train()
    trains = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    model.backbone.freeze_norms()
    norms = norm_names(model)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (trains[name] and name not in norms), name
    model.backbone.freeze_norms(False)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trains
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_the_next_run_of_the_same_model_trains_its_norms_again(dataset, tmp_path, unsaved):
    model = new_model(dataset, frozen_stages=3, **SMALL)
    quick = TrainConfig(**QUICK | {"steps": 1})
    train(model, dataset, replace(quick, freeze_norms=True), run_folder=tmp_path)
    before = state_of(model)
    train(model, dataset, quick, run_folder=tmp_path)
    for name in norm_names(model):
        moved = not torch.equal(model.state_dict()[name], before[name])
        assert moved == name.startswith(f"{BODY}layer4."), name


def test_v1_has_only_norms_that_never_learn(dataset, tmp_path, unsaved):
    quick = TrainConfig(**QUICK | {"steps": 2})
    shape = {"variant": "v1", "frozen_stages": 2}
    _, plain = trained(dataset, tmp_path, quick, **shape)
    _, frozen = trained(dataset, tmp_path, replace(quick, freeze_norms=True), **shape)
    assert_same(plain, frozen)


def test_a_probe_counts_without_the_norms_and_leaves_the_model_alone(dataset):
    model = new_model(dataset, frozen_stages=3, **SMALL)
    before, trains = state_of(model), [p.requires_grad for p in model.parameters()]
    quick = TrainConfig(**QUICK)
    plain, frozen = (probe(model, dataset, replace(quick, freeze_norms=on)) for on in (False, True))
    assert_same(before, state_of(model))
    assert [p.requires_grad for p in model.parameters()] == trains
    assert not model.backbone.norms_frozen
    assert trains_batch_norm(model)
    # Depth 18: five norms of 512 channels in layer4, each with a scale and a shift.
    assert plain.trainable - frozen.trainable == 2 * 5 * 512
    assert plain.total == frozen.total


# ------------------------------------------------------------------ repeat_thresh


def labelled(dataset, *labels):
    """The data set with these labels in its photos; they lie in the same files."""
    photos = tuple(
        replace(
            photo,
            target=Target(torch.tensor([[2.0, 2, 40, 40]] * len(own)).view(-1, 4), own, no_boxes),
        )
        for photo, own, no_boxes in zip(
            dataset.photos,
            [torch.tensor(own, dtype=torch.int64) for own in labels],
            [torch.zeros(0, 4)] * len(labels),
            strict=True,
        )
    )
    return replace(dataset, photos=photos)


RARE = ([0], [0, 0], [0, 1, 1], [])
"""Label 0 in three photos of four, label 1 in one, and a photo of nothing."""


@pytest.mark.parametrize(
    ("labels", "thresh", "times"),
    [
        (RARE, 0.0, [1, 1, 1, 1]),
        (RARE, 0.25, [1, 1, 1, 1]),  # no class is rarer
        (RARE, 0.36, [1, 1, 1.2, 1]),  # sqrt(0.36 / 0.25)
        (RARE, 1.0, [(4 / 3) ** 0.5, (4 / 3) ** 0.5, 2, 1]),  # the rarest class decides
        (([0], [0], [1], [1]), 0.5, [1, 1, 1, 1]),
        (([], [], [], []), 1.0, [1, 1, 1, 1]),
    ],
)
def test_occurrences_by_hand(dataset, labels, thresh, times):
    photos = labelled(dataset, *labels).photos
    found = occurrences(photos, TrainConfig(repeat_thresh=thresh))
    assert found == pytest.approx(dict(enumerate(times)))


def test_occurrences_multiply_with_the_repeats_of_what_people_labelled(dataset):
    photos = labelled(dataset, *RARE).photos
    photos = (*photos[:1], replace(photos[1], machine_labelled=True), *photos[2:])
    found = occurrences(photos, TrainConfig(repeat_thresh=1.0, repeat_true=3))
    rare = (4 / 3) ** 0.5
    assert found == pytest.approx({0: 3 * rare, 1: rare, 2: 6, 3: 3})


def epochs(dataset, config, count, folder):
    """The batches of so many epochs, each a list."""
    views = Views(dataset, new_model(dataset, **SMALL), config, folder)
    found = [[] for _ in range(count)]
    for batch in views.batches():
        epoch = int(batch[0].rsplit("-", 1)[1])
        if epoch == count:
            return found
        found[epoch].append(batch)
    raise AssertionError("they never end")


@pytest.mark.parametrize("repeat_true", [1, 2])
def test_without_it_the_order_is_that_of_a_plain_shuffle(dataset, tmp_path, repeat_true):
    """The order that a run had before there were repeat factors: an old one can be gone on from."""
    config = TrainConfig(batch_size=3, seed=5, repeat_true=repeat_true)
    found = epochs(labelled(dataset, *RARE), config, 3, tmp_path)
    for epoch, batches in enumerate(found):
        order = random.Random(f"5/{epoch}")
        keys = [f"{photo}-{epoch}" for photo in range(4) for _ in range(repeat_true)]
        order.shuffle(keys)
        expected = [keys[i : i + 3] for i in range(0, len(keys), 3)]
        order.shuffle(expected)
        assert batches == expected


def test_an_epoch_has_the_photos_so_often(dataset, tmp_path):
    rare = labelled(dataset, *RARE)
    whole = TrainConfig(batch_size=3, repeat_thresh=1.0)
    for epoch in epochs(rare, whole, 20, tmp_path):
        keys = [key.split("-")[0] for batch in epoch for key in batch]
        counts = Counter(keys)
        assert (counts["2"], counts["3"]) == (2, 1)
        assert {counts["0"], counts["1"]} <= {1, 2}  # 1.15 times
        assert max(map(len, epoch)) == 3


def test_on_average_an_epoch_has_a_photo_as_often_as_its_factor(dataset, tmp_path):
    config = TrainConfig(batch_size=8, repeat_thresh=0.36)  # the third photo 1.2 times
    counts = [
        Counter(key.split("-")[0] for batch in epoch for key in batch)
        for epoch in epochs(labelled(dataset, *RARE), config, 1000, tmp_path)
    ]
    assert {count["2"] for count in counts} == {1, 2}
    # Its standard error is sqrt(0.2 x 0.8 / 1000) = 0.013.
    assert sum(count["2"] for count in counts) / 1000 == pytest.approx(1.2, abs=0.05)
    assert all(count[other] == 1 for count in counts for other in "013")


def test_the_seed_decides_which_are_repeated(dataset, tmp_path):
    rare = labelled(dataset, *RARE)

    def order(seed):
        return epochs(rare, TrainConfig(batch_size=2, repeat_thresh=0.5, seed=seed), 8, tmp_path)

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_resumed_run_sees_the_photos_that_the_whole_one_sees(dataset, tmp_path, monkeypatch):
    rare, seen, load = labelled(dataset, *RARE), [], Views.load

    def watched(views, keys, world):
        seen.append(keys)
        return load(views, keys, world)

    monkeypatch.setattr(Views, "load", watched)
    config = TrainConfig(**QUICK | {"steps": 6, "repeat_thresh": 0.5})
    _, whole = trained(rare, tmp_path / "whole", config, frozen_stages=4)
    undisturbed, seen[:] = seen.copy(), []
    assert_same(whole, interrupted(rare, tmp_path / "parts", config, 3, frozen_stages=4))
    assert seen == undisturbed
    views = Views(rare, new_model(rare, **SMALL), config, tmp_path)
    assert undisturbed == list(islice(views.batches(), 6))


def test_stored_views_are_repeated_too(dataset, tmp_path, unsaved):
    config = TrainConfig(**QUICK | {"steps": 6, "repeat_thresh": 1.0, "cache_views": 1})
    steps = []
    trained(labelled(dataset, *RARE), tmp_path, config, frozen_stages=4, on_progress=steps.append)
    assert len(steps) == 6
    assert len(list((tmp_path / "features").rglob("*-0-*"))) == len(dataset.photos)
