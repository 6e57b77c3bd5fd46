"""The options that several commands share, and what they mean once the model is known."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any, get_type_hints

from retinanet.cli.errors import UsageError
from retinanet.cli.files import shown
from retinanet.config import PostprocessConfig
from retinanet.engine import PRECISIONS, ModelSpec
from retinanet.model import RetinaNet
from retinanet.presets import PRESETS, find_preset

MODEL_OPTIONS: dict[str, str] = {
    "depth": "layers of the ResNet (18, 34, 50, 101, 152); the weights' own unless given",
    "num_classes": "sigmoid columns; the weights' own unless given",
    "num_convs": "convolutions in each subnet (1 to 8); the weights' own unless given",
    "variant": "v1 or v2; the weights' own unless given",
    "min_size": "scale the shorter side to this many pixels; the weights' own unless given",
    "max_size": "but the longer side to at most this; the weights' own unless given",
}

POSTPROCESS_OPTIONS: dict[str, str] = {
    "score_thresh": "scores must be above this",
    "nms_thresh": "a box goes when it overlaps a better one of its class by more than this IoU",
    "topk_candidates": "best candidates of each pyramid level that go on to NMS",
    "detections_per_img": "best boxes kept for each picture",
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Weights, shape, size, device and precision; the settings have their own names."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--weights",
        default=ModelSpec.weights,
        metavar="NAME_OR_PATH",
        help="embedded, coco-v1, coco-v2, random or a file (%(default)s)",
    )
    hints = get_type_hints(ModelSpec)
    for name, text in MODEL_OPTIONS.items():
        kind = int if hints[name] == int | None else str
        model.add_argument(option(name), type=kind, help=text)
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (%(default)s)")
    model.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(%(default)s)")


def add_postprocess_options(parser: argparse.ArgumentParser) -> None:
    """The preset and the settings of `PostprocessConfig`, under their own names."""
    settings = parser.add_argument_group("post-processing", "Defaults unless the weights say more:")
    settings.add_argument(
        "--preset",
        metavar="NAME",
        help=f"start from these settings: {', '.join(preset.name for preset in PRESETS)}",
    )
    defaults = PostprocessConfig()
    for name, text in POSTPROCESS_OPTIONS.items():
        default = getattr(defaults, name)
        settings.add_argument(option(name), type=type(default), help=f"{text} ({default})")
    settings.add_argument(
        "--class-score-thresh",
        nargs="+",
        action="extend",
        type=_class_floor,
        metavar="CLASS=SCORE",
        help="scores of this class, by its name or label, must be above this too: person=0.5",
    )


def model_spec(args: argparse.Namespace) -> ModelSpec:
    """The model that the options ask for; its precision is the engine's."""
    return ModelSpec(args.weights, **{name: getattr(args, name) for name in MODEL_OPTIONS})


def check_postprocess(args: argparse.Namespace) -> None:
    """Refuse settings that cannot work, before a model is loaded.

    Raises:
        ConfigError: a value is outside its range, or there is no such preset.
    """
    if args.preset is not None:
        find_preset(args.preset)
    floors = enumerate(floor for _, floor in args.class_score_thresh or [])
    PostprocessConfig(**_given(args), class_score_thresh=floors)


def postprocess_config(args: argparse.Namespace, model: RetinaNet) -> PostprocessConfig:
    """The settings: the preset's or what the weights recommend, and over them what was given.

    Raises:
        ConfigError: as `check_postprocess`.
        UsageError: the model has no class of a name that was given.
    """
    given = _given(args)
    if args.class_score_thresh:
        given["class_score_thresh"] = by_label(args.class_score_thresh, model)
    preset = None if args.preset is None else find_preset(args.preset).config
    return replace(preset or model.recommended or PostprocessConfig(), **given)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in POSTPROCESS_OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def _class_floor(text: str) -> tuple[str, float]:
    """Name or label, and score, of `person=0.5`."""
    name, _, score = text.rpartition("=")
    try:
        return name, float(score)
    except ValueError:
        message = f"{shown(text)!r} is not of the form CLASS=SCORE"
        raise argparse.ArgumentTypeError(message) from None


def by_label(floors: list[tuple[str, float]], model: RetinaNet) -> list[tuple[int, float]]:
    """The floors by label index; a name that several classes share means all of them."""
    classes = model.categories
    pairs = []
    for name, floor in floors:
        labels = [label for label, known in enumerate(classes) if known == name]
        if not labels:
            labels = [label for label in range(len(classes)) if str(label) == name]
        if not labels:
            raise UsageError(f"{shown(model.name)} has no class {shown(name)!r}.")
        pairs += [(label, floor) for label in labels]
    return pairs


def option(name: str) -> str:
    """A setting's name as an option."""
    return f"--{name.replace('_', '-')}"


def say(text: str) -> None:
    """Progress, which is no part of the result."""
    print(text, file=sys.stderr, flush=True)
