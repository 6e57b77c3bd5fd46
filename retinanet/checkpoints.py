"""Weights by name or file, into a model and back out.

The file format is safetensors with this metadata, all strings: "format" = "retinanet-explorer",
"version" = "1", and as JSON "config" (`ModelConfig`), "categories", "category_ids", "card" (free:
data, recipe, AP) and, where there is one, "recommended" (`PostprocessConfig`). A `.pth` may hold
the same entries as plain data beside its state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights
from torchvision.models.detection import (
    RetinaNet_ResNet50_FPN_V2_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)

from retinanet.checkpoint_metadata import Metadata, from_parts, from_strings, to_strings
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.devices import pick_device
from retinanet.keymaps import (
    CheckpointError,
    architecture_difference,
    diagnose_mismatch,
    foreign_layout,
    infer_config,
    upgrade_keys,
)
from retinanet.model import RetinaNet
from retinanet.weight_files import (
    is_finite,
    read_weights,
    storable,
    weights_path,
    write_safetensors,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "WeightsInfo",
    "diagnose_mismatch",
    "infer_config",
    "list_weights",
    "load_backbone_weights",
    "load_model",
    "open_checkpoint",
    "save_checkpoint",
    "upgrade_keys",
]

EMBEDDED_PATH = Path(__file__).parent / "weights" / "embedded.safetensors"

OFFICIAL: dict[str, WeightsEnum] = {
    "coco-v1": RetinaNet_ResNet50_FPN_Weights.COCO_V1,
    "coco-v2": RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1,
}
OFFICIAL_CONFIGS: dict[str, ModelConfig] = {
    # torchvision overwrites the norm's epsilon with 0 for this file: it was trained so.
    "coco-v1": ModelConfig(depth=50, num_classes=91, variant="v1", norm_eps=0.0),
    "coco-v2": ModelConfig(depth=50, num_classes=91, variant="v2"),
}
NAMED: tuple[str, ...] = ("embedded", *OFFICIAL, "random")

_FACTS_ABOUT_WEIGHTS = ("stride_in_1x1", "norm_eps")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and what is known about them, before a model is built.

    Args:
        name: "embedded", "coco-v1", ..., or the file's name.
        state_dict: float32 on the CPU under torchvision's present names; None for "random".
        config: what the weights were made for.
        declared: whether `config` was stated with the weights, not read from their shapes.
        categories: class names by label index; empty when unknown.
        category_ids: the data set's ids by label index; empty when unknown.
        card: where the weights come from, as free plain data.
        recommended: the post-processing that suits them, when they say.
    """

    name: str
    state_dict: dict[str, Tensor] | None
    config: ModelConfig
    declared: bool = True
    categories: tuple[str | None, ...] = ()
    category_ids: tuple[int, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)
    recommended: PostprocessConfig | None = None


@dataclass(frozen=True)
class WeightsInfo:
    """One of the choices of weights.

    Args:
        name: what `load_model` takes.
        title: a few words.
        summary: one sentence.
        offline: usable now without a network.
    """

    name: str
    title: str
    summary: str
    offline: bool


def list_weights() -> tuple[WeightsInfo, ...]:
    """The named choices of weights, best first for someone who has just installed this."""
    return (
        WeightsInfo(
            "embedded",
            "Embedded",
            "A ResNet-50 detector that comes with the package and needs no network.",
            EMBEDDED_PATH.is_file(),
        ),
        WeightsInfo(
            "coco-v1",
            "torchvision v1",
            "torchvision's RetinaNet ResNet-50 FPN trained on COCO (box AP 36.4, 130 MB).",
            _official_path("coco-v1").is_file(),
        ),
        WeightsInfo(
            "coco-v2",
            "torchvision v2",
            "torchvision's improved RetinaNet ResNet-50 FPN v2 (COCO box AP 41.5, 146 MB).",
            _official_path("coco-v2").is_file(),
        ),
        WeightsInfo(
            "random",
            "Random",
            "An untrained model of any shape: its boxes mean nothing, its machinery is real.",
            True,
        ),
    )


def load_model(
    name_or_path: str | Path = "embedded",
    config: ModelConfig | Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
) -> RetinaNet:
    """A model with its weights, in eval mode.

    Args:
        name_or_path: "embedded", "coco-v1", "coco-v2", "random", or a .pth, .pt or .safetensors.
        config: the whole configuration asked for, or only the settings that shall differ from the
            file's own (`{"min_size": 400}`). Depth, classes, convolutions and variant must be the
            file's; sizes and frozen stages are free. `stride_in_1x1` and `norm_eps` are facts
            about the weights: where the file states them, the file's are used. A bare state dict
            states neither, so there the configuration's count (default: torchvision's).
        device: "auto", "cuda", "mps" or "cpu".

    Returns:
        The model, with `name`, `categories`, `category_ids`, `card` and `recommended` set.

    Raises:
        CheckpointError: no such weights, a damaged or unsafe file, or one that does not fit.
        ConfigError: a setting is outside its range.
        DeviceError: this machine has no such device.
    """
    target = pick_device(device)
    return build_model(open_checkpoint(name_or_path), config).to(target)


def open_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Named weights or a file, read and checked, without building a model.

    Raises:
        CheckpointError: see `load_model`.
    """
    if name_or_path == "random":
        card = {"summary": "Untrained: the weights are random numbers."}
        return Checkpoint("random", None, ModelConfig(), card=card)
    if name_or_path == "embedded":
        if not EMBEDDED_PATH.is_file():
            raise CheckpointError(
                "This installation has no embedded weights; choose coco-v1, coco-v2, random or a "
                "file."
            )
        return replace(_open_file(EMBEDDED_PATH), name="embedded")
    if name_or_path in OFFICIAL:
        return _open_official(str(name_or_path))
    path = weights_path(name_or_path)
    if path.suffix == "" and not path.exists():
        raise CheckpointError(
            f"There are no weights named {str(name_or_path)[:200]!r}; use {', '.join(NAMED)} or "
            "the path of a .pth, .pt or .safetensors file."
        )
    for name in OFFICIAL:
        if path.name == _official_path(name).name:  # the same file, put elsewhere by hand
            return _official_checkpoint(name, read_weights(path)[0])
    return _open_file(path)


def build_model(
    checkpoint: Checkpoint, config: ModelConfig | Mapping[str, Any] | None = None
) -> RetinaNet:
    """The checkpoint's model on the CPU in eval mode; arguments and errors as `load_model`."""
    config = _wanted_config(checkpoint, config)
    if checkpoint.state_dict is None:
        model = _random_model(config)
    else:
        model = _meta_model(checkpoint, config)
        model.load_state_dict(checkpoint.state_dict, assign=True)
        model.categories = checkpoint.categories or model.categories
        model.category_ids = checkpoint.category_ids or model.category_ids
    model.name = checkpoint.name
    model.card = dict(checkpoint.card)
    model.recommended = checkpoint.recommended
    return model.eval()


def save_checkpoint(
    model: RetinaNet,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float16,
    card: Mapping[str, Any] | None = None,
    recommended: PostprocessConfig | None = None,
) -> None:
    """Write the model with its configuration, classes and card to a .safetensors file.

    The file appears whole or not at all. Biases and norm values stay float32 whatever `dtype` is,
    and so does a tensor that would overflow.

    Args:
        model: what to save; it is not changed.
        path: ends in .safetensors; the folder must exist.
        dtype: torch.float16 (half the size) or torch.float32 (exact).
        card: plain data about the weights; the model's own when None.
        recommended: post-processing that suits them; the model's own when None.

    Raises:
        CheckpointError: the path, the card or a tensor cannot be written.
    """
    path = weights_path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path.name} must end in .safetensors.")
    if dtype not in (torch.float16, torch.float32):
        raise CheckpointError(f"Weights are saved as float16 or float32, not {dtype}.")
    tensors = {name: storable(value, dtype) for name, value in model.state_dict().items()}
    for name, value in tensors.items():
        if not is_finite(value):
            raise CheckpointError(f"{path.name} was not written: {name} is not finite.")
    metadata = Metadata(
        config=model.config,
        categories=model.categories,
        category_ids=model.category_ids,
        card=dict(model.card if card is None else card),
        recommended=recommended or model.recommended,
    )
    write_safetensors(path, tensors, to_strings(metadata))


def load_backbone_weights(model: RetinaNet, path_or_enum: str | Path | WeightsEnum) -> None:
    """Load ImageNet ResNet weights into the model's backbone body, in place.

    A file does not say in its shapes where its bottlenecks have their stride: build the model with
    the right `stride_in_1x1`. torchvision's weights need False and this is checked.

    Args:
        model: gets the weights.
        path_or_enum: a file with torchvision's ResNet names; "imagenet" or the name of one of
            torchvision's weights for this depth ("IMAGENET1K_V2"), downloaded at first use; or
            such an enum member.

    Raises:
        CheckpointError: the file is unusable or of another depth, or the stride is misplaced.
    """
    weights = _imagenet_enum(model.config.depth, path_or_enum)
    if weights is None:
        name, (found, _) = Path(path_or_enum).name, read_weights(path_or_enum)
    else:
        if model.config.stride_in_1x1 and model.config.depth >= 50:
            raise CheckpointError(
                "torchvision's ImageNet weights need stride_in_1x1=False; the model has True."
            )
        name, found = str(weights), _download(weights)
    body = {key: value for key, value in found.items() if not key.startswith("fc.")}
    expected = {
        key: value
        for key, value in model.backbone.body.state_dict().items()
        if key in body or not key.endswith(".num_batches_tracked")
    }
    faults = [key for key in expected if key not in body]
    faults += [
        key
        for key, value in body.items()
        if not key.endswith(".num_batches_tracked")
        and (key not in expected or expected[key].shape != value.shape)
    ]
    if faults:
        raise CheckpointError(
            f"{name} does not fit a ResNet-{model.config.depth} backbone: {len(faults)} tensors "
            f"differ, first {', '.join(faults[:3])}."
        )
    # strict=False only because a file may leave out the counters; the rest was compared above.
    model.backbone.body.load_state_dict(body, strict=False)


def _imagenet_enum(depth: int, choice: str | Path | WeightsEnum) -> WeightsEnum | None:
    if isinstance(choice, WeightsEnum):
        return choice
    weights = get_model_weights(f"resnet{depth}")
    if choice == "imagenet":
        return weights["IMAGENET1K_V1"]
    return weights[str(choice)] if str(choice) in weights.__members__ else None


def _wanted_config(
    checkpoint: Checkpoint, config: ModelConfig | Mapping[str, Any] | None
) -> ModelConfig:
    """The checkpoint's configuration with what was asked for put over it."""
    if config is None:
        return checkpoint.config
    if not isinstance(config, ModelConfig):
        config = ModelConfig.from_dict({**checkpoint.config.to_dict(), **config})
    if checkpoint.state_dict is None:
        return config
    if checkpoint.declared:
        facts = {name: getattr(checkpoint.config, name) for name in _FACTS_ABOUT_WEIGHTS}
        config = replace(config, **facts)
    return config


def _meta_model(checkpoint: Checkpoint, config: ModelConfig) -> RetinaNet:
    """The model without memory behind its tensors: a misfit costs nothing, a fit is filled once."""
    with torch.device("meta"):
        model = RetinaNet(config)
    fault = diagnose_mismatch(checkpoint.state_dict, model)
    if fault:
        raise CheckpointError(f"{checkpoint.name} does not fit: {fault}.")
    return model


def _random_model(config: ModelConfig) -> RetinaNet:
    with torch.random.fork_rng(devices=[]):  # the same numbers every time, nobody else's changed
        torch.manual_seed(0)
        return RetinaNet(config)


def stated_config(name_or_path: str | Path) -> ModelConfig | None:
    """What named weights or a .safetensors file say of their model, without reading a tensor.

    Returns:
        The configuration; None where nothing states it, or there is no such file.
    """
    if name_or_path in OFFICIAL:
        return OFFICIAL_CONFIGS[str(name_or_path)]
    path = EMBEDDED_PATH if name_or_path == "embedded" else Path(name_or_path)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return from_strings(file.metadata() or {}).config
    except (CheckpointError, SafetensorError, OSError):
        return None  # `open_checkpoint` says what is wrong with it


def is_at_hand(name: str) -> bool:
    """Whether a named set of weights loads without a download."""
    return name not in OFFICIAL or _official_path(name).is_file()


def _official_path(name: str) -> Path:
    file_name = Path(urlparse(OFFICIAL[name].url).path).name
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name


def _download(weights: WeightsEnum) -> dict[str, Tensor]:
    """The file, from torch hub's cache or the network, read as any other file is."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(weights.url).path).name
    if not path.is_file():
        try:
            weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # no network, no room, or a wrong hash
            raise CheckpointError(
                f"{path.name} could not be downloaded ({error}); get {weights.url} on another "
                f"machine and put it into {folder}."
            ) from error
    return read_weights(path)[0]


def _open_official(name: str) -> Checkpoint:
    return _official_checkpoint(name, _download(OFFICIAL[name]))


def _official_checkpoint(name: str, state_dict: dict[str, Tensor]) -> Checkpoint:
    meta = OFFICIAL[name].meta
    categories, ids = official_categories()
    card = {
        "summary": "torchvision's official weights.",
        "source": OFFICIAL[name].url,
        "recipe": meta["recipe"],
        "metrics": meta["_metrics"],
    }
    return Checkpoint(name, state_dict, OFFICIAL_CONFIGS[name], True, categories, ids, card)


def official_ap(name: str) -> float:
    """The box AP on COCO val2017 that torchvision states for "coco-v1" or "coco-v2", in [0, 1]."""
    return OFFICIAL[name].meta["_metrics"]["COCO-val2017"]["box_map"] / 100


def official_categories() -> tuple[tuple[str | None, ...], tuple[int, ...]]:
    """Names and ids torchvision gives COCO's classes, None for the background and unused ids."""
    names = OFFICIAL["coco-v1"].meta["categories"]
    categories = tuple(None if name in ("__background__", "N/A") else name for name in names)
    return categories, tuple(range(len(categories)))


def _open_file(path: Path) -> Checkpoint:
    state_dict, beside = read_weights(path)
    try:
        if foreign := foreign_layout(state_dict):
            raise CheckpointError(f"it {foreign}")
        found = infer_config(state_dict)
        strings = path.suffix == ".safetensors"
        metadata = from_strings(beside) if strings else from_parts(beside)
        if metadata.config and architecture_difference(found, metadata.config):
            raise CheckpointError("its tensors are not of the model that its metadata describes")
        for name, entries in (
            ("categories", metadata.categories),
            ("category_ids", metadata.category_ids),
        ):
            if entries and len(entries) != found.num_classes:
                raise CheckpointError(
                    f"it lists {len(entries)} {name} for {found.num_classes} classes"
                )
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} cannot be used: {str(error).rstrip('.')}.") from error
    categories, category_ids = metadata.categories, metadata.category_ids
    says_nothing = metadata.config is None and not categories and not category_ids
    if says_nothing and found.num_classes == OFFICIAL_CONFIGS["coco-v1"].num_classes:
        categories, category_ids = official_categories()  # as torchvision's training script saves
    return Checkpoint(
        name=path.name,
        state_dict=state_dict,
        config=metadata.config or found,
        declared=metadata.config is not None,
        categories=categories,
        category_ids=category_ids,
        card=metadata.card,
        recommended=metadata.recommended,
    )
