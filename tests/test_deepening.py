"""Deeper subnets begin as the shallow ones: exactly in v1, nearly in v2; and they learn."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from retinanet.augment import make_view
from retinanet.checkpoints import save_checkpoint
from retinanet.coco import DatasetError, load_coco
from retinanet.config import ModelConfig
from retinanet.deepening import SUBNETS, fit_group_norms, set_identity
from retinanet.head import subnet
from retinanet.training_start import start_model
from retinanet.types import LEVELS
from tests.shapes import write_shapes
from tests.tiny import new_model

SMALL = {"min_size": 64, "max_size": 96}
WAYS = [("v1", 1, 4), ("v1", 2, 3), ("v2", 1, 4), ("v2", 2, 3)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return load_coco(write_shapes(folder), folder / "images")


@pytest.fixture(scope="module")
def detector(dataset, tmp_path_factory):
    """variant, num_convs -> a file, and the detector in it, in which every layer says much."""
    folder, made = tmp_path_factory.mktemp("detectors"), {}

    def of(variant, num_convs):
        key = (variant, num_convs)
        if key not in made:
            model = new_model(dataset, variant=variant, num_convs=num_convs, **SMALL)
            for layer in model.head.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=(2 / (9 * 256)) ** 0.5)
                if isinstance(layer, nn.GroupNorm):  # as a trained one: no two channels alike
                    nn.init.uniform_(layer.weight, 0.5, 1.5)
                    nn.init.uniform_(layer.bias, -0.3, 0.3)
            path = folder / f"{variant}-{num_convs}.safetensors"
            save_checkpoint(model, path, dtype=torch.float32, card={})
            made[key] = path, model.eval()
        return made[key]

    return of


def deeper(dataset, detector, variant, trained, num_convs, seed=0):
    """The model that a run of more convolutions starts from."""
    config = ModelConfig(
        depth=18, num_classes=2, num_convs=num_convs, variant=variant, frozen_stages=2, **SMALL
    )
    path, _ = detector(variant, trained)
    model, load = start_model(config, dataset, seed=seed, init_from=str(path))
    assert len(load.identity) == 2 * (num_convs - trained)
    assert load.fresh == ()
    return model.eval()


def fresh(model, trained):
    """The same with random numbers behind the trained convolutions, as a model begins with."""
    torch.manual_seed(1)
    for name in SUBNETS:
        for block in getattr(model.head, name).conv[trained:]:
            nn.init.normal_(block[0].weight, std=0.01)
            nn.init.ones_(block[1].weight)
            nn.init.zeros_(block[1].bias)
    return model


def picture(seed=0):
    """[1, 3, 64, 96], normalised."""
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def answers(model, image):
    """Logits and deltas of all levels."""
    raw = model.forward_batch(image)
    return torch.cat(raw.cls_logits, 1), torch.cat(raw.bbox_regression, 1)


@torch.no_grad()
def correlations(model, trained, image):
    """Of the features before and behind the added convolutions, by subnet and level."""
    pyramid, found = model.backbone(image), []
    for name in SUBNETS:
        blocks = getattr(model.head, name).conv
        for level in LEVELS:
            before = blocks[:trained](pyramid[level])
            behind = blocks[trained:](before.clone())  # its ReLUs work in place
            pair = torch.stack([before.flatten(), behind.flatten()])
            found.append(torch.corrcoef(pair)[0, 1].item())
    return found


@pytest.mark.parametrize(("trained", "num_convs"), [(1, 4), (2, 3)])
def test_v1_answers_as_the_detector(dataset, detector, trained, num_convs):
    model = deeper(dataset, detector, "v1", trained, num_convs)
    _, source = detector("v1", trained)
    for ours, theirs in zip(answers(model, picture()), answers(source, picture()), strict=True):
        assert theirs.std() > 0.1  # it says something
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_v2_keeps_nearly_what_the_subnets_say(dataset, detector):
    model = deeper(dataset, detector, "v2", 1, 4)
    _, source = detector("v2", 1)
    photo = make_view(dataset.photos[0], 0, **SMALL).image[None]
    for image in (photo, picture()):
        assert min(correlations(model, 1, image)) > 0.92
        for ours, theirs in zip(answers(model, image), answers(source, image), strict=True):
            assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.95
            assert (ours - theirs).std() < 0.3 * theirs.std()
    assert max(map(abs, correlations(fresh(model, 1), 1, photo))) < 0.5


def test_without_the_fit_a_group_norm_changes_what_passes(dataset, detector):
    fitted = deeper(dataset, detector, "v2", 1, 4)
    plain = deeper(dataset, detector, "v2", 1, 4)
    for name in SUBNETS:
        for block in getattr(plain.head, name).conv[1:]:
            nn.init.ones_(block[1].weight)
            nn.init.zeros_(block[1].bias)
    _, source = detector("v2", 1)
    theirs = answers(source, picture())
    for part in (0, 1):
        with_fit = (answers(fitted, picture())[part] - theirs[part]).norm()
        without = (answers(plain, picture())[part] - theirs[part]).norm()
        assert with_fit < 0.5 * without


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_the_identity_passes_on_what_comes_out_of_a_relu(variant):
    torch.manual_seed(0)
    block = subnet(256, 1, variant)[0]
    nn.init.normal_(block[0].weight)
    set_identity(block)
    features = torch.rand(2, 256, 5, 7)
    assert torch.allclose(block[0](features), features, rtol=1e-6, atol=1e-6)
    if variant == "v1":
        nn.init.ones_(block[0].bias)
        set_identity(block)  # also of a block that has a bias already
        assert torch.allclose(block(features), features, rtol=1e-6, atol=1e-6)


def test_the_fit_is_the_mean_and_the_deviation_of_each_group(dataset, detector):
    model = deeper(dataset, detector, "v2", 2, 3)
    images = [picture(1)[0], picture(2)[0, :, :40]]  # of two sizes
    fit_group_norms(model, 2, images)
    for name in SUBNETS:
        blocks = getattr(model.head, name).conv
        norm, means, deviations = blocks[2][1], [], []
        with torch.no_grad():
            for image in images:
                pyramid = model.backbone(image[None])
                for level in LEVELS:
                    features = blocks[:2](pyramid[level])[0]
                    means.append([features[c : c + 8].mean() for c in range(0, 256, 8)])
                    deviations.append(
                        [features[c : c + 8].var(correction=0).sqrt() for c in range(0, 256, 8)]
                    )
        for values, found in ((deviations, norm.weight), (means, norm.bias)):
            expected = torch.tensor(values).mean(0)
            assert torch.allclose(found.view(32, 8), expected[:, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_fit_changes_the_added_norms_and_nothing_else(dataset, detector, training):
    model = fresh(deeper(dataset, detector, "v2", 1, 4), 1).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    trains = {name: p.requires_grad for name, p in model.named_parameters()}
    random_state = torch.get_rng_state()
    fit_group_norms(model, 1, [picture()[0]])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trains
    assert all(parameter.grad_fn is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {
        f"head.{name}.conv.{i}.1.{part}"
        for name in SUBNETS
        for i in (1, 2, 3)
        for part in ("weight", "bias")
    }


def test_one_photo_is_enough_and_none_is_a_sentence(dataset, detector):
    one = replace(dataset, photos=dataset.photos[:1])
    model = deeper(one, detector, "v2", 1, 4)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert min(correlations(model, 1, make_view(dataset.photos[1], 0, **SMALL).image[None])) > 0.92
    with pytest.raises(DatasetError, match="no photos"):
        deeper(replace(dataset, photos=()), detector, "v2", 1, 4)
    deeper(replace(dataset, photos=()), detector, "v1", 1, 4)  # which needs none


def test_the_seed_decides_which_photos_are_fitted_to(dataset, detector, monkeypatch):
    monkeypatch.setattr("retinanet.training_start.FITTED_PHOTOS", 1)

    def bias(seed):
        model = deeper(dataset, detector, "v2", 1, 4, seed=seed)
        return model.head.classification_head.conv[1][1].bias

    assert torch.equal(bias(0), bias(0))
    assert len({bias(seed).sum().item() for seed in range(6)}) > 1


@pytest.mark.parametrize(("variant", "trained", "num_convs"), WAYS)
def test_every_added_convolution_can_learn(dataset, detector, variant, trained, num_convs):
    """Were its gradient 0, a run would train no deeper subnet than the detector's."""
    model = deeper(dataset, detector, variant, trained, num_convs).train()
    raw = model.forward_batch(picture())
    sum(part.square().mean() for part in (*raw.cls_logits, *raw.bbox_regression)).backward()
    for name in SUBNETS:
        for block in getattr(model.head, name).conv[trained:]:
            by_channel = block[0].weight.grad.flatten(1).norm(dim=1)
            assert (by_channel > 0).float().mean() > 0.9
