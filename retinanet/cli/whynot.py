"""`python -m retinanet why-not`: why an object was missed, and what would bring it in."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from retinanet.cli.errors import UsageError
from retinanet.cli.files import check_target, shown, write
from retinanet.cli.options import (
    add_model_options,
    add_postprocess_options,
    by_label,
    check_postprocess,
    model_spec,
    postprocess_config,
    say,
)
from retinanet.devices import device_title
from retinanet.engine import Engine
from retinanet.figures.inquest import inquest_numbers, inquest_sentence
from retinanet.images import load_image
from retinanet.model import RetinaNet
from retinanet.whynot import Inquest, check_box, check_match_iou, why_not

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
    add_model_options(parser)
    add_postprocess_options(parser)


def run(args: argparse.Namespace) -> int:
    """Hold the inquest, print it and write it.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    spec = model_spec(args)
    check_postprocess(args)  # refused here, before a model is loaded
    check_target(args.json, [Path(args.image)])
    image = load_image(args.image)
    check_box(args.box, (image.size[1], image.size[0]))
    check_match_iou(args.match_iou)

    engine = Engine(args.device, args.precision, cache_bytes=0)
    model = engine.model(spec)
    config = postprocess_config(args, model)
    label = None if args.category is None else _label(args.category, model)
    say(f"{model.name} on {device_title(engine.device)}, {args.precision}")
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
    labels = [label for label, _ in by_label([(name, 0.0)], model)]
    if len(labels) > 1:
        raise UsageError(
            f"{shown(model.name)} has {len(labels)} classes named {shown(name)!r}; give the label, "
            f"one of {', '.join(map(str, labels))}."
        )
    return labels[0]
