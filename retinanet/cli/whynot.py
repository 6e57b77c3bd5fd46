"""`python -m retinanet why-not`: why an object was missed, and what would bring it in."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

from retinanet.cli.detect import (
    MODEL_OPTIONS,
    POSTPROCESS_OPTIONS,
    _by_label,
    _class_floor,
    _option,
    _say,
)
from retinanet.cli.errors import UsageError
from retinanet.cli.files import check_target, shown, write
from retinanet.config import PostprocessConfig
from retinanet.devices import device_title
from retinanet.engine import PRECISIONS, Engine, ModelSpec
from retinanet.figures.inquest import inquest_numbers, inquest_sentence
from retinanet.images import load_image
from retinanet.model import RetinaNet
from retinanet.whynot import Inquest, check_box, why_not

SUMMARY = "why an object was missed, and the smallest change that brings it in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; those of the settings have the settings' names."""
    parser.add_argument("image", metavar="IMAGE", help="the picture")
    parser.add_argument(
        "--box",
        nargs=4,
        type=float,
        required=True,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="around the object, in pixels of the picture",
    )
    parser.add_argument("--category", metavar="NAME", help="its class, by name or label; any")
    parser.add_argument(
        "--match-iou", type=float, default=0.5, help="a box finds it from this IoU on (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="the inquest as plain data")

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
        model.add_argument(_option(name), type=kind, help=text)
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (%(default)s)")
    model.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(%(default)s)")

    settings = parser.add_argument_group("post-processing", "Defaults unless the weights say more:")
    defaults = PostprocessConfig()
    for name, text in POSTPROCESS_OPTIONS.items():
        default = getattr(defaults, name)
        settings.add_argument(_option(name), type=type(default), help=f"{text} ({default})")
    settings.add_argument(
        "--class-score-thresh",
        nargs="+",
        action="extend",
        type=_class_floor,
        metavar="CLASS=SCORE",
        help="scores of this class, by its name or label, must be above this too: person=0.5",
    )


def run(args: argparse.Namespace) -> int:
    """Hold the inquest, print it and write it.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    spec = ModelSpec(args.weights, **{name: getattr(args, name) for name in MODEL_OPTIONS})
    given = {name: getattr(args, name) for name in POSTPROCESS_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    floors = args.class_score_thresh or []
    # Refused here, before a model is loaded.
    replace(PostprocessConfig(), **given)
    PostprocessConfig(class_score_thresh=enumerate(floor for _, floor in floors))
    check_target(args.json, [Path(args.image)])
    image = load_image(args.image)
    check_box(args.box, (image.size[1], image.size[0]))

    engine = Engine(args.device, args.precision, cache_bytes=0)
    model = engine.model(spec)
    if floors:
        given["class_score_thresh"] = _by_label(floors, model)
    config = replace(model.recommended or PostprocessConfig(), **given)
    label = None if args.category is None else _label(args.category, model)
    _say(f"{model.name} on {device_title(engine.device)}, {args.precision}")
    outputs = engine.outputs(image, spec)
    inquest = why_not(outputs, args.box, label, config, match_iou=args.match_iou)
    print(f"{shown(image.name)}, {image.size[0]} x {image.size[1]} pixels")
    print(describe(inquest))
    if args.json:
        write(args.json, json.dumps(inquest.to_dict(), indent=1).encode())
    return 0


def describe(inquest: Inquest) -> str:
    """The sentence, and under it the numbers and the fix, one a line."""
    plain = inquest.to_dict()
    rows = inquest_numbers(plain, inquest.config)
    wide = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{wide}}  {value}" for name, value in rows]
    return "\n".join([inquest_sentence(plain, inquest.config), *lines])


def _label(name: str, model: RetinaNet) -> int:
    """The label of a class by its name or label."""
    labels = [label for label, _ in _by_label([(name, 0.0)], model)]
    if len(labels) > 1:
        raise UsageError(
            f"{shown(model.name)} has {len(labels)} classes named {shown(name)!r}; give the label, "
            f"one of {', '.join(map(str, labels))}."
        )
    return labels[0]
