"""Weights by name and file: round trips, inference from shapes, and refusals in one sentence."""

from __future__ import annotations

import argparse
import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, ResNet50_Weights, resnet18

import retinanet.checkpoints as checkpoints
from retinanet.checkpoints import (
    OFFICIAL_CONFIGS,
    CheckpointError,
    diagnose_mismatch,
    infer_config,
    list_weights,
    load_backbone_weights,
    load_model,
    save_checkpoint,
    stated_config,
    upgrade_keys,
)
from retinanet.config import ConfigError, ModelConfig, PostprocessConfig
from retinanet.keymaps import strip_prefix
from retinanet.model import RetinaNet
from retinanet.weight_files import read_weights
from tests.oracle import torchvision_model
from tests.zoo_checkpoints import (
    BAD_CHECKPOINTS,
    BAD_NAMES,
    CLS_LOGITS,
    MISFITS,
    SENTINEL,
    TINY,
    tiny_checkpoint,
    tiny_model,
    tiny_state,
)


@pytest.fixture(autouse=True)
def _leave_no_files(tmp_path):
    """A run writes some gigabytes of weights, which pytest would keep for three runs."""
    yield
    shutil.rmtree(tmp_path)


def assert_one_sentence(error: BaseException) -> None:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 700
    assert "Traceback" not in text


def assert_same_state(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def old_names(state: dict) -> dict:
    """The names of torchvision's first version."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(
            r"(head\.\w+_head\.conv)\.(\d)\.0\.",
            lambda match: f"{match[1]}.{2 * int(match[2])}.",
            name,
        )
        renamed[re.sub(r"((?:inner|layer)_blocks\.\d)\.0\.", r"\1.", name)] = tensor
    return renamed


# Refusals


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_refused_in_one_sentence(name, tmp_path):
    path = BAD_CHECKPOINTS[name](tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load_model(path, device="cpu")
    assert_one_sentence(refusal.value)
    assert path.name in str(refusal.value)
    assert not (tmp_path / SENTINEL).exists()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_name_that_weights_cannot_have_is_refused_in_one_sentence(name):
    for read in (lambda text: load_model(text, device="cpu"), read_weights):
        with pytest.raises(CheckpointError) as refusal:
            read(BAD_NAMES[name])
        assert_one_sentence(refusal.value)


@pytest.mark.parametrize("name", ["runs code", "runs code, old pickle"])
def test_code_in_a_pickle_would_run_without_the_guard_and_does_not_with_it(name, tmp_path):
    path = BAD_CHECKPOINTS[name](tmp_path)
    with pytest.raises(CheckpointError, match="could run code"):
        load_model(path, device="cpu")
    assert not (tmp_path / SENTINEL).exists()


def test_the_code_in_the_zoo_does_run_when_opened_carelessly(tmp_path):
    path = BAD_CHECKPOINTS["runs code"](tmp_path)
    torch.load(path, weights_only=False)
    assert (tmp_path / SENTINEL).exists()


@pytest.mark.parametrize("name", MISFITS)
def test_misfit_names_its_cause_and_first_keys(name, tmp_path):
    build, config, cause = MISFITS[name]
    with pytest.raises(CheckpointError) as refusal:
        load_model(build(tmp_path), config, device="cpu")
    assert_one_sentence(refusal.value)
    assert f"{cause} is " in str(refusal.value)
    assert "first keys that do not fit" in str(refusal.value)
    assert re.search(r"(head|backbone)\.[\w.]+", str(refusal.value))


def test_non_finite_tensor_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=re.escape(CLS_LOGITS)):
        load_model(BAD_CHECKPOINTS["NaN"](tmp_path), device="cpu")


def test_unknown_name_lists_the_choices():
    with pytest.raises(CheckpointError, match="embedded, coco-v1, coco-v2, random") as refusal:
        load_model("coco-v9", device="cpu")
    assert_one_sentence(refusal.value)


def test_setting_out_of_range_is_a_config_error():
    with pytest.raises(ConfigError, match="depth"):
        load_model("random", {"depth": 19}, device="cpu")


# Round trips


def test_float32_round_trip_is_exact(tmp_path):
    path = tmp_path / "exact.safetensors"
    recommended = PostprocessConfig(score_thresh=0.2)
    card = {"data": "none", "AP": 0.1}
    save_checkpoint(tiny_model(), path, dtype=torch.float32, card=card, recommended=recommended)
    model = load_model(path, device="cpu")
    assert_same_state(model.state_dict(), tiny_model().state_dict())
    assert model.config == TINY
    assert model.categories == ("cat", None, "dog")
    assert model.category_ids == (17, 0, 18)
    assert model.card == card
    assert model.recommended == recommended
    assert model.name == "exact.safetensors"
    assert not model.training
    assert [file.name for file in tmp_path.iterdir()] == ["exact.safetensors"]


def test_float16_halves_large_tensors_and_keeps_small_ones_exact(tmp_path):
    path = tiny_checkpoint(tmp_path)
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert stored[CLS_LOGITS] == torch.float16
    assert stored["backbone.body.bn1.running_var"] == torch.float32
    loaded, original = load_model(path, device="cpu").state_dict(), tiny_state()
    for name, tensor in original.items():
        assert loaded[name].dtype == tensor.dtype
        expected = tensor.half().float() if stored[name] == torch.float16 else tensor
        assert torch.equal(loaded[name], expected), name


def test_tensor_that_overflows_float16_stays_float32(tmp_path):
    model = load_model("random", TINY, device="cpu")
    with torch.no_grad():
        model.head.classification_head.cls_logits.weight[0, 0, 0, 0] = 1e6
    save_checkpoint(model, tmp_path / "wide.safetensors")
    loaded = load_model(tmp_path / "wide.safetensors", device="cpu").state_dict()
    assert torch.equal(loaded[CLS_LOGITS], model.state_dict()[CLS_LOGITS])


def test_stride_and_epsilon_travel_with_the_file_whatever_is_asked(tmp_path):
    config = replace(TINY, depth=50, stride_in_1x1=True, norm_eps=0.001)
    path = tmp_path / "caffe.safetensors"
    save_checkpoint(load_model("random", config, device="cpu"), path)
    for asked in (replace(TINY, depth=50), {"min_size": 80}):
        model = load_model(path, asked, device="cpu")
        assert model.config.stride_in_1x1
        assert model.config.norm_eps == 0.001
        assert model.backbone.body["layer2"][0].conv1.stride == (2, 2)


def test_sizes_and_frozen_stages_are_free(tmp_path):
    changes = {"min_size": 100, "max_size": 200, "frozen_stages": 2}
    model = load_model(tiny_checkpoint(tmp_path), changes, device="cpu")
    assert model.config == replace(TINY, **changes)
    assert not model.backbone.body["layer2"][0].conv1.weight.requires_grad
    assert model.backbone.body["layer3"][0].conv1.weight.requires_grad


def test_save_refuses_what_could_not_be_read_back(tmp_path):
    with pytest.raises(CheckpointError, match=r"\.safetensors"):
        save_checkpoint(tiny_model(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="plain data"):
        save_checkpoint(tiny_model(), tmp_path / "m.safetensors", card={"tensor": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint(tiny_model(), tmp_path / "nowhere" / "m.safetensors")
    broken = load_model("random", TINY, device="cpu")
    with torch.no_grad():
        broken.head.classification_head.cls_logits.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        save_checkpoint(broken, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tiny_checkpoint(tmp_path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("retinanet.weight_files.os.replace", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tiny_model(), path, dtype=torch.float32)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# torchvision's files


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_model_loads_and_goes_back(variant, suffix, tmp_path):
    reference = torchvision_model(variant)
    path = tmp_path / f"torchvision{suffix}"
    state = reference.state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    model = load_model(path, device="cpu")
    assert model.config == ModelConfig(variant=variant)
    assert_same_state(model.state_dict(), dict(state))
    reference.load_state_dict(model.state_dict(), strict=True)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.01)},
        lambda state: {name: tensor.half() for name, tensor in state.items()},
        old_names,
    ],
    ids=["bare", "model", "module prefix", "nested", "training script", "half", "old names"],
)
def test_pth_in_every_wrapping(wrap, tmp_path):
    torch.save(wrap(tiny_state()), tmp_path / "model.pth")
    model = load_model(tmp_path / "model.pth", {"min_size": 64, "max_size": 96}, device="cpu")
    assert (model.config.depth, model.config.num_convs, model.config.num_classes) == (18, 1, 3)
    expected = tiny_state()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, expected[name], rtol=1e-3, atol=1e-4), name


def test_pth_metadata_is_used(tmp_path):
    content = {"model": tiny_state(), "config": TINY.to_dict(), "categories": ["a", "b", "c"]}
    torch.save(content, tmp_path / "model.pth")
    model = load_model(tmp_path / "model.pth", device="cpu")
    assert model.config == TINY
    assert model.categories == ("a", "b", "c")


def test_counters_may_be_missing():
    state = tiny_v2().state_dict()
    fewer = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert len(fewer) < len(state)
    assert diagnose_mismatch(fewer, tiny_v2()) == ""


def test_v2_without_counters_loads(tmp_path):
    state = tiny_v2().state_dict()
    fewer = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    save_file(fewer, tmp_path / "v2.safetensors")
    model = load_model(tmp_path / "v2.safetensors", device="cpu")
    assert model.config.variant == "v2"
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def tiny_v2() -> RetinaNet:
    return RetinaNet(replace(TINY, variant="v2"))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty download cache, and no network behind it."""

    def no_network(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["coco-v1", "coco-v2"])
def test_official_weights_without_a_network_say_what_to_do(name, hub):
    with pytest.raises(CheckpointError) as refusal:
        load_model(name, device="cpu")
    assert_one_sentence(refusal.value)
    assert str(hub) in str(refusal.value)
    assert "https://download.pytorch.org/models/retinanet_resnet50_fpn" in str(refusal.value)
    assert {info.name: info.offline for info in list_weights()}[name] is False


@pytest.mark.parametrize("name", ["coco-v1", "coco-v2"])
def test_official_weights_from_the_cache(name, hub):
    variant = name[-2:]
    path = hub / checkpoints.OFFICIAL[name].url.rsplit("/", 1)[1]
    torch.save(torchvision_model(variant).state_dict(), path)
    assert {info.name: info.offline for info in list_weights()}[name] is True
    for asked in (name, path):
        model = load_model(asked, device="cpu")
        assert model.name == name
        assert model.config.norm_eps == (0.0 if variant == "v1" else 1e-5)
        assert model.backbone.body["layer1"][0].bn1.eps == model.config.norm_eps
        assert model.categories[:4] == (None, "person", "bicycle", "car")
        assert len(model.categories) == 91
        assert model.categories.count(None) == 11  # the background and ten unused ids
        assert model.category_ids == tuple(range(91))
        assert "box_map" in str(model.card["metrics"])


def test_wrong_hash_of_a_download_is_a_sentence(hub, monkeypatch):
    def wrong_hash(*_, **__):
        raise RuntimeError('invalid hash value (expected "eeacb38b", got "00")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", wrong_hash)
    with pytest.raises(CheckpointError, match="invalid hash value") as refusal:
        load_model("coco-v1", device="cpu")
    assert_one_sentence(refusal.value)


def test_missing_embedded_weights_are_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "EMBEDDED_PATH", tmp_path / "embedded.safetensors")
    with pytest.raises(CheckpointError, match="no embedded weights") as refusal:
        load_model(device="cpu")
    assert_one_sentence(refusal.value)
    assert {info.name: info.offline for info in list_weights()}["embedded"] is False


def test_embedded_weights_load_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "EMBEDDED_PATH", tiny_checkpoint(tmp_path))
    assert load_model(device="cpu").name == "embedded"


def test_list_weights_names_every_choice():
    infos = list_weights()
    assert [info.name for info in infos] == list(checkpoints.NAMED)
    assert all(info.title and info.summary.endswith(".") for info in infos)
    assert infos[-1].offline


def test_random_is_the_same_every_time_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_model("random", TINY, device="cpu")
    assert torch.equal(torch.rand(3), expected)
    second = load_model("random", TINY, device="cpu")
    assert_same_state(first.state_dict(), second.state_dict())
    assert first.name == "random"
    assert not first.training


# Pure functions


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_infer_config_reads_the_shapes(depth, variant):
    config = ModelConfig(depth=depth, variant=variant, num_convs=1 + depth % 4, num_classes=7)
    with torch.device("meta"):
        state = RetinaNet(config).state_dict()
    assert infer_config(state) == config


def test_diagnose_is_empty_for_a_fit_and_reads_shapes_only():
    with torch.device("meta"):
        model = RetinaNet(TINY)
    assert diagnose_mismatch(tiny_state(), model) == ""


def test_upgrade_keys_restores_present_names_and_passes_them():
    state = load_model("random", {"depth": 18, "num_convs": 4}, device="cpu").state_dict()
    old = old_names(state)
    assert "head.classification_head.conv.6.weight" in old
    assert "backbone.fpn.inner_blocks.2.bias" in old
    assert list(upgrade_keys(old)) == list(state)
    assert list(upgrade_keys(state)) == list(state)


def test_strip_prefix_only_when_all_names_have_it():
    assert strip_prefix({"module.a": 1, "module.b": 2}) == {"a": 1, "b": 2}
    assert strip_prefix({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}


# Backbone weights


def body_state(seed: int = 1) -> dict:
    torch.manual_seed(seed)
    return resnet18().state_dict()


def test_backbone_weights_from_a_file_in_half_precision(tmp_path):
    state = body_state()
    halved = {
        name: tensor.half() if tensor.dim() > 1 else tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(halved, tmp_path / "resnet18.safetensors")
    for variant in ("v1", "v2"):
        model = load_model("random", replace(TINY, variant=variant), device="cpu")
        head = model.head.classification_head.cls_logits.weight.clone()
        load_backbone_weights(model, tmp_path / "resnet18.safetensors")
        for name, tensor in model.backbone.body.state_dict().items():
            if name in halved:
                assert torch.equal(tensor, halved[name].float()), name
        assert torch.equal(head, model.head.classification_head.cls_logits.weight)


def test_backbone_weights_of_another_depth_are_refused_and_change_nothing(tmp_path):
    torch.save(body_state(), tmp_path / "resnet18.pth")
    model = load_model("random", replace(TINY, depth=34), device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="does not fit a ResNet-34") as refusal:
        load_backbone_weights(model, tmp_path / "resnet18.pth")
    assert_one_sentence(refusal.value)
    assert_same_state(before, model.state_dict())


@pytest.mark.parametrize(
    "choice", ["imagenet", "IMAGENET1K_V1", "DEFAULT", ResNet18_Weights.IMAGENET1K_V1]
)
def test_backbone_weights_by_torchvision_name(choice, hub):
    state = body_state()
    torch.save(state, hub / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    model = load_model("random", TINY, device="cpu")
    load_backbone_weights(model, choice)
    assert torch.equal(model.backbone.body["conv1"].weight, state["conv1.weight"])


def test_torchvision_backbone_refuses_the_caffe_stride(hub):
    model = load_model("random", replace(TINY, depth=50, stride_in_1x1=True), device="cpu")
    with pytest.raises(CheckpointError, match="stride_in_1x1"):
        load_backbone_weights(model, "imagenet")
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        load_backbone_weights(
            load_model("random", replace(TINY, depth=50), device="cpu"),
            ResNet50_Weights.IMAGENET1K_V2,
        )


def test_backbone_weights_refuse_a_detector(tmp_path):
    with pytest.raises(CheckpointError, match="does not fit a ResNet-18"):
        load_backbone_weights(load_model("random", TINY, device="cpu"), tiny_checkpoint(tmp_path))


def test_what_weights_state_of_their_model_is_read_without_a_tensor(tmp_path):
    model = load_model("random", {"depth": 18, "num_convs": 2, "min_size": 96})
    path = tmp_path / "mine.safetensors"
    save_checkpoint(model, path)
    assert stated_config(path) == model.config
    assert stated_config("coco-v1") == OFFICIAL_CONFIGS["coco-v1"]
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    for nothing in ("random", tmp_path / "none.safetensors", tmp_path / "broken.safetensors"):
        assert stated_config(nothing) is None
