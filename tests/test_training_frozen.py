"""What frozen stages keep, what the others lose; what the prior does to a fresh head."""

import math

import pytest
import torch

from retinanet.coco import load_coco
from retinanet.config import ConfigError, ModelConfig
from retinanet.model import RetinaNet
from retinanet.training import Progress, TrainConfig, train
from retinanet.training_start import set_prior, start_model
from tests.shapes import write_shapes

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return load_coco(write_shapes(folder / "shapes", photos=2), folder / "shapes" / "images")


def small(**settings) -> ModelConfig:
    shape = {"depth": 18, "num_classes": 2, "num_convs": 1, "min_size": 64, "max_size": 96}
    return ModelConfig(**shape | settings)


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2, 3, 4])
def test_a_frozen_stage_keeps_every_bit_and_has_no_gradient(
    dataset, tmp_path, monkeypatch, variant, frozen_stages
):
    monkeypatch.setattr("retinanet.training_state.save_state", lambda path, stepper, step: None)
    torch.manual_seed(0)
    model = RetinaNet(small(variant=variant, frozen_stages=frozen_stages))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[Progress] = []
    config = TrainConfig(steps=2, batch_size=1, warmup_steps=0, optimizer="adamw", lr=1e-3)
    trained = train(model, dataset, config, run_folder=tmp_path, on_progress=seen.append)

    frozen = STAGES[: frozen_stages + 1]
    body = "backbone.body."
    still = [body + part for part in ("conv1", "bn1") if "stem" in frozen]
    still += [body + stage + "." for stage in frozen if stage != "stem"]
    for name, parameter in trained.named_parameters():
        is_frozen = name.startswith(tuple(still))
        assert (parameter.grad is None) == is_frozen, name
        assert parameter.requires_grad != is_frozen, name
        assert torch.equal(parameter, before[name]) == is_frozen, name
    for name, buffer in trained.named_buffers():
        kept = name.startswith(tuple(still)) or variant == "v1"  # FrozenBatchNorm never learns
        assert torch.equal(buffer, before[name]) == kept, name
    for progress in seen:
        zero = {stage for stage, norm in progress.grad_norms.items() if norm == 0.0}
        assert zero == set(frozen)


def first_loss(dataset, folder, prior):
    model, _ = start_model(small(variant="v1"), dataset, prior=prior)
    seen = []
    config = TrainConfig(steps=1, batch_size=1, prior=prior)
    train(model, dataset, config, run_folder=folder, on_progress=seen.append)
    return seen[0]


def test_a_prior_of_one_half_makes_the_first_loss_enormous(dataset, tmp_path):
    """Paper, section 3.3: the many negatives drown the first step when every score is 0.5."""
    paper = first_loss(dataset, tmp_path / "paper", 0.01)
    half = first_loss(dataset, tmp_path / "half", 0.5)
    # 129 locations of 64x96 pixels, 9 anchors, 2 classes; (1 - alpha) pi^gamma -log(1 - pi) each,
    # but for the few anchors that are foreground or ignored.
    pairs = (96 + 24 + 6 + 2 + 1) * 9 * 2
    expected = pairs * 0.75 * 0.5**2 * math.log(2) / half.num_foreground
    assert half.classification == pytest.approx(expected, rel=0.1)
    # At pi = 0.01 what is left is the foreground's own, about alpha (1 - pi)^2 -log(pi) = 1.13.
    assert paper.classification == pytest.approx(0.25 * 0.99**2 * math.log(100), rel=0.02)
    assert half.classification > 10 * paper.classification
    assert half.num_foreground == paper.num_foreground


@pytest.mark.parametrize("pi", [0.01, 0.1, 0.5])
def test_the_prior_is_the_score_that_the_bias_gives(pi):
    model = RetinaNet(small())
    weight = model.head.classification_head.cls_logits.weight.clone()
    set_prior(model, pi)
    layer = model.head.classification_head.cls_logits
    assert torch.allclose(layer.bias.sigmoid(), torch.tensor(pi))
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("pi", [0, 1, -0.1, float("nan"), "a", True])
def test_a_prior_out_of_range_is_refused(pi):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        set_prior(RetinaNet(small()), pi)
