"""Parameters, arithmetic and time of each block; what frozen stages freeze; which weights fit."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import PIL.Image
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model_weights

import retinanet.engine as engine_module
from retinanet.architecture import SUBNETS, describe, frozen_view, profile
from retinanet.checkpoints import NAMED, build_model, load_model, open_checkpoint
from retinanet.config import ConfigError, ModelConfig
from retinanet.engine import Cancelled, Engine, EngineError, ModelSpec
from retinanet.fitting import PARTS, weights_that_fit
from retinanet.images import ImageError
from retinanet.keymaps import diagnose_mismatch
from retinanet.model import RetinaNet
from retinanet.types import LEVELS, Image
from tests.oracle import torchvision_model

SETTINGS = {"depth": 18, "num_classes": 3, "min_size": 64, "max_size": 128}


@pytest.fixture(scope="module", params=["v1", "v2"])
def model(request) -> RetinaNet:
    return load_model("random", {**SETTINGS, "variant": request.param, "num_convs": 2}, "cpu")


@pytest.fixture(scope="module")
def profiled(model):
    return profile(model, torch.rand(3, 60, 100))


# Blocks


def test_blocks_add_up_to_the_model(model):
    blocks = describe(model)
    assert len({block.name for block in blocks}) == len(blocks) == 15
    assert sum(block.parameters for block in blocks) == sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(block.trainable for block in blocks) == trainable


def test_blocks_of_torchvisions_model():
    blocks = {block.name: block for block in describe(RetinaNet(ModelConfig()))}
    theirs = torchvision_model("v1")
    for name, module in (
        ("layer3", theirs.backbone.body.layer3),
        ("inner_blocks.1", theirs.backbone.fpn.inner_blocks[1]),
        ("layer_blocks.2", theirs.backbone.fpn.layer_blocks[2]),
        ("p7", theirs.backbone.fpn.extra_blocks.p7),
        ("classification_head", theirs.head.classification_head),
    ):
        assert blocks[name].parameters == sum(p.numel() for p in module.parameters())
    assert sum(block.parameters for block in blocks.values()) == 34_014_999
    assert blocks["stem"].parameters == 3 * 64 * 7 * 7
    assert [blocks[f"layer{n}"].out_channels for n in (1, 2, 3, 4)] == [256, 512, 1024, 2048]
    assert blocks["classification_head"].out_channels == 9 * 91
    assert blocks["regression_head"].out_channels == 36
    assert blocks["layer2"].maps == ("C3",)


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2, 3, 4])
def test_frozen_as_a_model_built_so(model, frozen_stages: int):
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    view = frozen_view(model, frozen_stages)
    built = RetinaNet(replace(model.config, frozen_stages=frozen_stages))
    assert view.trainable == sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert view.parameters == sum(p.numel() for p in built.parameters())
    layers = [f"layer{n}" for n in range(1, frozen_stages + 1)]
    assert list(view.frozen) == (["stem", *layers] if frozen_stages >= 0 else [])
    for name in layers:
        assert view.trainable_per_block[name] == 0
    assert sum(view.trainable_per_block.values()) == view.trainable
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert model.backbone.frozen_stages == model.config.frozen_stages


@pytest.mark.parametrize("wrong", [-2, 5, 1.5, True])
def test_frozen_stages_that_cannot_be(model, wrong):
    with pytest.raises(ConfigError, match="frozen_stages"):
        frozen_view(model, wrong)


# Costs


def test_macs_are_torchs_own_count(model, profiled):
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(3, 60, 100))
    assert 2 * profiled.macs == counter.get_total_flops()
    by_module = counter.get_flop_counts()
    for name in (*SUBNETS, "layer1", "layer4"):
        ours = next(key for key in by_module if key.endswith(f".{name}"))
        assert 2 * profiled.cost(name).macs == sum(by_module[ours].values())
    stem = profiled.cost("stem")
    assert stem.macs == 64 * 32 * 64 * 3 * 7 * 7  # 64x128 padded, stride 2, 147 taps


def test_shapes_are_those_of_the_outputs(model, profiled):
    outputs = model(torch.rand(3, 60, 100))
    assert profiled.padded_size == outputs.padded_size
    shapes = {}
    for cost in profiled.blocks:
        if cost.block.kind in ("stage", "output", "extra"):
            shapes |= cost.shapes
    for name, features in outputs.features.items():
        assert shapes[name] == tuple(features.shape)
    for index, level in enumerate(LEVELS):
        rows, columns = outputs.grid_sizes[index]
        assert profiled.cost("classification_head").shapes[level] == (27, rows, columns)
        assert profiled.cost("regression_head").shapes[level] == (36, rows, columns)
        per_cell = 2 * 256 * 256 * 9 + 256 * 36 * 9
        assert profiled.cost("regression_head").macs_per_level[level] == per_cell * rows * columns


def test_times_add_up(profiled):
    parts = sum(cost.ms for cost in profiled.blocks)
    assert all(cost.ms > 0 for cost in profiled.blocks)
    assert profiled.total_ms == pytest.approx(parts + profiled.other_ms)
    assert 0 <= profiled.other_ms < profiled.total_ms
    for cost in profiled.blocks:
        assert cost.share == pytest.approx(cost.ms / profiled.total_ms)
        assert 0 <= sum(cost.ms_per_level.values()) <= cost.ms
        assert sum(cost.macs_per_level.values()) in (0, cost.macs)
    assert list(profiled.cost("classification_head").ms_per_level) == list(LEVELS)


def test_slow_blocks_are_found_slow(model):
    slow = copy.deepcopy(model)
    pause = threading.Event()

    class Slow(nn.Module):
        def forward(self, features):
            pause.wait(0.2)
            return features

    slow.backbone.body.layer3.append(Slow())
    costs = profile(slow, torch.rand(3, 60, 100), repeats=3)
    assert costs.repeats == 3
    assert costs.cost("layer3").ms > 190
    assert costs.cost("layer3").share == max(cost.share for cost in costs.blocks)


def test_the_model_stays_as_it_was(model):
    picture = torch.rand(3, 60, 100)
    before = model(picture)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    profile(model, picture)
    model.train()
    profile(model, picture)
    assert model.training
    model.eval()
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    after = model(picture)
    assert all(map(torch.equal, before.cls_logits, after.cls_logits))


def test_no_hook_is_left_on_the_model_when_it_fails(model):
    with pytest.raises(ValueError, match=r"3, height, width"):
        profile(model, torch.rand(1, 60, 100))
    with pytest.raises(ValueError, match="repeats"):
        profile(model, torch.rand(3, 60, 100), repeats=0)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_batch_costs_its_pictures(model, profiled):
    batch = profile(model, torch.rand(2, 3, *profiled.padded_size))
    assert batch.batch == 2
    assert batch.macs == 2 * profiled.macs
    assert batch.cost("layer2").shapes == profiled.cost("layer2").shapes


# The engine

SPEC = ModelSpec("random", depth=18, num_classes=3, num_convs=1, min_size=64, max_size=96)


def picture(shade: int = 90, size: tuple[int, int] = (48, 40)) -> Image:
    return Image(PIL.Image.new("RGB", size, (shade, 90, 160)), id=f"{shade} {size}")


@pytest.fixture
def measured(monkeypatch) -> list:
    """The pictures that an engine measured."""
    asked = []

    def counting(model, image):
        asked.append(image.size)
        return profile(model, image)

    monkeypatch.setattr(engine_module, "profile", counting)
    return asked


def test_the_engine_measures_a_size_once(measured):
    engine = Engine("cpu")
    first = engine.profile(picture(), SPEC)
    assert engine.profile(picture(), SPEC) is first
    assert engine.profile(picture(200), SPEC) is first  # pixels do not matter
    assert engine.profile(picture(size=(96, 80)), SPEC) is first  # both become 76x64
    assert len(measured) == 1
    assert first.padded_size == engine.outputs(picture(), SPEC).padded_size
    assert engine.profile(picture(size=(48, 48)), SPEC) is not first
    assert engine.profile(picture(), replace(SPEC, num_convs=2)).macs > first.macs
    assert len(measured) == 3
    engine.clear()
    assert engine.profile(picture(), SPEC) is not first


def test_profiles_are_bounded(measured, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_PROFILES", 2)
    engine = Engine("cpu")
    for width in (48, 60, 72, 48):
        engine.profile(picture(size=(width, 48)), SPEC)
    assert len(measured) == 4  # the first had gone
    assert len(engine._profiles) == 2


def test_profiles_wait_their_turn_and_can_be_cancelled():
    engine, cancel = Engine("cpu"), threading.Event()
    engine.model(SPEC)
    with engine._gate:
        cancel.set()
        with pytest.raises(Cancelled):
            engine.profile(picture(), SPEC, cancel)


def test_the_engine_answers_for_memory_and_thin_pictures(monkeypatch):
    engine = Engine("cpu")
    with pytest.raises(ImageError, match="too thin"):
        engine.profile(picture(size=(4000, 2)), SPEC)

    def too_large(model, image):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(engine_module, "profile", too_large)
    with pytest.raises(EngineError, match="did not fit into the memory"):
        engine.profile(picture(), SPEC)
    assert engine._gate.acquire(blocking=False)


# Which weights fit

CONFIGS = [
    ModelConfig(),
    ModelConfig(variant="v2", num_classes=80, num_convs=1, stride_in_1x1=True),
    ModelConfig(variant="v2"),
    ModelConfig(depth=18, num_convs=1),
    ModelConfig(depth=101, num_classes=20, variant="v2", num_convs=6),
]


def by_name(config: ModelConfig):
    return {fit.name: fit for fit in weights_that_fit(config)}


@pytest.mark.parametrize("config", CONFIGS)
def test_what_loads_is_what_load_model_takes(config: ModelConfig):
    embedded = open_checkpoint("embedded")
    with torch.device("meta"):
        wanted = RetinaNet(config)
        theirs = {
            "embedded": embedded.state_dict,
            "coco-v1": RetinaNet(ModelConfig()).state_dict(),
            "coco-v2": RetinaNet(ModelConfig(variant="v2")).state_dict(),
        }
    fits = by_name(config)
    backbones = [member.name for member in get_model_weights(f"resnet{config.depth}")]
    assert list(fits) == [*(name for name in NAMED if name != "random"), *backbones]
    for name, tensors in theirs.items():
        assert fits[name].loads == (diagnose_mismatch(tensors, wanted) == "")
        expected = wanted.state_dict()
        for part, found in fits[name].parts.items():
            names = [
                key
                for key in expected
                if key.startswith(PARTS[part]) and not key.endswith("num_batches_tracked")
            ]
            same = [k for k in names if k in tensors and tensors[k].shape == expected[k].shape]
            assert (found.fitting, found.tensors) == (len(same), len(names))
            assert found.reason.endswith(".") and ": ." not in found.reason


def test_official_weights_fit_the_official_models():
    assert by_name(ModelConfig())["coco-v1"].loads
    assert by_name(ModelConfig(variant="v2"))["coco-v2"].loads
    extents = {part: fit.extent for part, fit in by_name(ModelConfig())["coco-v2"].parts.items()}
    assert extents == {
        "backbone": "all",
        "fpn": "some",
        "classification subnet": "some",
        "box subnet": "some",
    }


def test_embedded_fits_itself():
    embedded = open_checkpoint("embedded")
    build_model(embedded, replace(embedded.config, frozen_stages=0))
    assert by_name(embedded.config)["embedded"].loads
    fit = by_name(replace(embedded.config, num_convs=6))["embedded"]
    assert fit.parts["box subnet"].extent == "some"
    assert "num_convs is 4 in the weights and 6 in the model" in fit.parts["box subnet"].reason


def test_more_tensors_than_the_model_has_are_no_fit():
    fit = by_name(ModelConfig(num_convs=2))["coco-v1"]
    found = fit.parts["classification subnet"]
    assert (found.extent, found.fitting, found.tensors) == ("some", 6, 6)
    assert "4 more" in found.reason
    assert not fit.loads


def test_where_the_stride_sits_is_said():
    caffe = by_name(ModelConfig(depth=50, stride_in_1x1=True))
    assert "stride_in_1x1=False only" in caffe["coco-v1"].parts["backbone"].reason
    assert caffe["IMAGENET1K_V1"].parts["backbone"].extent == "none"
    basic = by_name(ModelConfig(depth=18, stride_in_1x1=True))  # it has no bottleneck
    assert basic["IMAGENET1K_V1"].loads
    assert basic["IMAGENET1K_V1"].parts["fpn"].extent == "none"
