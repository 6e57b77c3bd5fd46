"""The network against torchvision's, number for number."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from retinanet.anchors import ANCHOR_SIZES, grid_anchors
from retinanet.config import DEPTHS, ConfigError, ModelConfig
from retinanet.model import RetinaNet
from retinanet.types import LEVELS, STAGES
from tests.oracle import BUILDERS, our_model, torchvision_model

# height, width: no padding, padding, wide, tall, extreme, tiny, enlarged
SIZES = [(128, 160), (150, 201), (90, 400), (333, 120), (20, 600), (1, 1), (64, 47)]


def torchvision_parts(model, images):
    """torchvision's features, head outputs and anchors for a list of tensors."""
    batch, _ = model.transform(images)
    features = model.backbone(batch.tensors)
    head = model.head(list(features.values()))
    return batch, features, head, model.anchor_generator(batch, list(features.values()))


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_state_dicts_load_both_ways(variant):
    theirs = BUILDERS[variant]()
    ours = RetinaNet(ModelConfig(variant=variant))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(RetinaNet(ModelConfig(variant=variant)).state_dict(), strict=True)


@pytest.mark.parametrize(("variant", "parameters"), [("v1", 34_014_999), ("v2", 38_198_935)])
def test_parameter_counts_are_torchvisions(variant, parameters):
    assert (
        sum(p.numel() for p in RetinaNet(ModelConfig(variant=variant)).parameters()) == parameters
    )


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_features_logits_deltas_and_anchors_equal_torchvisions(variant, size):
    image = torch.rand(3, *size)
    outputs = our_model(variant)(image)
    batch, features, head, anchors = torchvision_parts(torchvision_model(variant), [image])
    assert outputs.image_size == tuple(batch.image_sizes[0])
    assert outputs.padded_size == tuple(batch.tensors.shape[-2:])
    assert outputs.original_size == size
    for name, theirs in zip(LEVELS, features.values(), strict=True):
        assert torch.equal(outputs.features[name], theirs[0])
    assert torch.equal(torch.cat(outputs.cls_logits), head["cls_logits"][0])
    assert torch.equal(torch.cat(outputs.bbox_regression), head["bbox_regression"][0])
    assert torch.equal(torch.cat(outputs.anchors), anchors[0])


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_the_oracles_logits_are_spread_out(variant):
    # Equality says little of a fresh model, whose scores are all about 0.01.
    scores = torch.cat(our_model(variant)(torch.rand(3, 128, 160)).cls_logits).sigmoid()
    assert scores.min() < 0.005
    assert scores.max() > 0.5


@pytest.mark.parametrize("variant", ["v1", "v2"])
@torch.no_grad()
def test_a_batch_of_mixed_sizes_equals_torchvisions(variant):
    images = [torch.rand(3, *size) for size in ((128, 160), (300, 100), (90, 91))]
    batch, _, head, anchors = torchvision_parts(torchvision_model(variant), images)
    for index, outputs in enumerate(our_model(variant)(images)):
        assert outputs.image_size == tuple(batch.image_sizes[index])
        assert torch.equal(torch.cat(outputs.cls_logits), head["cls_logits"][index])
        assert torch.equal(torch.cat(outputs.bbox_regression), head["bbox_regression"][index])
        assert torch.equal(torch.cat(outputs.anchors), anchors[index])


@given(height=st.integers(1, 45), width=st.integers(1, 45))
@settings(deadline=None, max_examples=40)
def test_anchors_are_torchvisions_bit_for_bit(height, width):
    padded = (height * 32, width * 32)
    grids = [(math.ceil(padded[0] / s), math.ceil(padded[1] / s)) for s in (8, 16, 32, 64, 128)]
    features = [torch.empty(1, 1, *grid) for grid in grids]
    image_list = ImageList(torch.empty(1, 3, *padded), [padded])
    theirs = _default_anchorgen()(image_list, features)[0]
    assert torch.equal(torch.cat(grid_anchors(padded, grids)), theirs)


def test_anchor_sizes_are_torchvisions():
    generator = _default_anchorgen()
    assert isinstance(generator, AnchorGenerator)
    assert generator.sizes == ANCHOR_SIZES


def test_an_800_by_1344_image_has_the_papers_number_of_anchors():
    # 100x168 + 50x84 + 25x42 + 13x21 + 7x11 = 22,400 locations, nine anchors at each.
    grids = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    assert sum(len(level) for level in grid_anchors((800, 1344), grids)) == 201_600


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_runs_and_names_its_stages(depth):
    model = RetinaNet(ModelConfig(depth=depth, num_classes=3, min_size=64, max_size=64)).eval()
    outputs = model(torch.rand(3, 64, 64))
    assert list(outputs.features) == [*STAGES, *LEVELS]
    wide = 4 if depth >= 50 else 1
    assert [outputs.features[s].shape[0] for s in STAGES] == [128 * wide, 256 * wide, 512 * wide]
    assert [logits.shape[1] for logits in outputs.cls_logits] == [3] * 5
    assert outputs.num_anchors == 9 * (64 + 16 + 4 + 1 + 1)


@pytest.mark.parametrize("num_convs", [1, 2, 8])
@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_num_convs_is_the_number_of_convolutions_before_the_prediction(num_convs, variant):
    head = RetinaNet(ModelConfig(depth=18, num_convs=num_convs, variant=variant)).head
    for subnet in (head.classification_head, head.regression_head):
        assert sum(isinstance(m, nn.Conv2d) for m in subnet.conv.modules()) == num_convs


def test_a_fresh_head_says_the_prior_everywhere_and_the_box_head_says_nothing():
    # keras-hub once gave the prior to the box head.
    head = RetinaNet(ModelConfig(depth=18)).head
    prior = torch.sigmoid(head.classification_head.cls_logits.bias)
    assert torch.allclose(prior, torch.full_like(prior, 0.01))
    assert not head.regression_head.bbox_reg.bias.any()


def test_stride_in_1x1_moves_the_stride_and_no_parameter():
    config = ModelConfig(num_classes=2, min_size=64, max_size=64)
    plain = RetinaNet(config).eval()
    caffe = RetinaNet(replace(config, stride_in_1x1=True)).eval()
    caffe.load_state_dict(plain.state_dict(), strict=True)
    for model, first, second in ((plain, (1, 1), (2, 2)), (caffe, (2, 2), (1, 1))):
        block = model.backbone.body["layer3"][0]
        assert (block.conv1.stride, block.conv2.stride) == (first, second)
    image = torch.rand(3, 64, 64)
    a, b = plain.forward(image), caffe.forward(image)
    assert a.grid_sizes == b.grid_sizes
    assert not torch.equal(a.features["C3"], b.features["C3"])


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2, 3, 4])
def test_frozen_stages_leaves_torchvisions_trainable_layers(frozen_stages):
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.resnet import resnet50

    theirs = _resnet_fpn_extractor(resnet50(weights=None), 4 - frozen_stages, [2, 3, 4])
    ours = RetinaNet(ModelConfig(variant="v2", frozen_stages=frozen_stages)).backbone
    frozen = {n for n, p in ours.body.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, p in theirs.body.named_parameters() if not p.requires_grad}


def test_frozen_stages_freezes_gradients_and_batch_norm_statistics():
    config = ModelConfig(depth=18, variant="v2", num_classes=2, frozen_stages=2)
    model = RetinaNet(config).train()
    before = {name: buffer.clone() for name, buffer in model.backbone.body.named_buffers()}
    raw = model.forward_batch(torch.rand(2, 3, 64, 64))
    sum(level.sum() for level in [*raw.cls_logits, *raw.bbox_regression]).backward()
    frozen = ("conv1", "bn1", "layer1", "layer2")
    for name, parameter in model.backbone.body.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    for name, buffer in model.backbone.body.named_buffers():
        if name.endswith("running_mean"):
            assert torch.equal(buffer, before[name]) == name.startswith(frozen), name


def test_every_trainable_parameter_gets_a_gradient():
    model = RetinaNet(ModelConfig(depth=18, num_classes=2, frozen_stages=-1)).train()
    raw = model.forward_batch(torch.rand(1, 3, 128, 128))
    sum(level.square().sum() for level in [*raw.cls_logits, *raw.bbox_regression]).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent == []


def test_eval_mode_keeps_no_gradients_and_training_mode_does():
    model = RetinaNet(ModelConfig(depth=18, num_classes=2, min_size=64, max_size=64))
    assert not model.eval()(torch.rand(3, 64, 64)).cls_logits[0].requires_grad
    assert model.train()(torch.rand(3, 64, 64)).cls_logits[0].requires_grad


@pytest.mark.parametrize("tensor", [torch.rand(1, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_a_tensor_that_is_no_picture_is_refused_in_words(tensor):
    model = RetinaNet(ModelConfig(depth=18, num_classes=2)).eval()
    with pytest.raises(ValueError, match=r"must be float \[3, height, width\]"):
        model(tensor)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("depth", 49),
        ("depth", True),
        ("num_convs", 0),
        ("num_convs", 9),
        ("num_classes", 0),
        ("variant", "v3"),
        ("frozen_stages", 5),
        ("frozen_stages", -2),
        ("min_size", 8),
        ("min_size", 2000),
        ("max_size", 9000),
        ("stride_in_1x1", 1),
        ("norm_eps", float("nan")),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(setting, value):
    with pytest.raises(ConfigError, match="ModelConfig"):
        ModelConfig(**{setting: value})


def test_a_config_survives_plain_data_and_refuses_unknown_names():
    config = ModelConfig(depth=34, num_convs=2, stride_in_1x1=True)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="no setting named colour"):
        ModelConfig.from_dict({"colour": 1})
