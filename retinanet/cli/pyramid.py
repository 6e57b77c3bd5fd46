"""`python -m retinanet pyramid`: the feature maps of a picture, and what they say at a point."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinanet.architecture import Profile
from retinanet.cli.errors import UsageError
from retinanet.cli.files import shown
from retinanet.cli.options import (
    add_model_options,
    add_output_options,
    check_outputs,
    model_spec,
    say,
    table,
    write_outputs,
)
from retinanet.devices import device_title
from retinanet.engine import Engine
from retinanet.figures.costs import (
    architecture_rows,
    architecture_sentence,
    count_text,
    fits_rows,
    ms_text,
    share_text,
)
from retinanet.figures.pyramid import (
    level_rows,
    levels_sentence,
    point_numbers,
    point_rows,
    point_sentence,
    top_down_sentence,
)
from retinanet.fitting import Fit, weights_that_fit
from retinanet.images import load_image
from retinanet.model import RetinaNet
from retinanet.pyramid import top_down_share, values_at
from retinanet.types import Image, Outputs

SUMMARY = "the feature maps of a picture, and what they say at a point"


@dataclass(frozen=True, eq=False)
class Told:
    """What is told of a picture's pyramid.

    Args:
        levels: `level_rows`, each with "top_down_share", None where nothing could come down.
        shares: `top_down_share`.
        point: `values_at`; None where no point was asked for.
        profile: what each block costs; None unless asked for.
        fits: which weights fit the model; None unless the profile was asked for.
    """

    levels: list[dict[str, Any]]
    shares: dict[str, float]
    point: list[dict[str, Any]] | None
    profile: Profile | None
    fits: list[Fit] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; those of the settings have the settings' names."""
    parser.add_argument("image", metavar="IMAGE", help="the picture")
    parser.add_argument(
        "--point",
        nargs=2,
        type=float,
        metavar=("X", "Y"),
        help="what each map says at this place, in pixels of the picture",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="what each block of the network costs, and which weights fit this shape",
    )
    add_output_options(parser, "all of it as plain data", "map, C3 to C5 and P3 to P7")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the network, print and write.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    spec = model_spec(args)
    check_outputs(args, [Path(args.image)])
    image = load_image(args.image)
    if args.point is not None:
        _check_point(args.point, image)
    engine = Engine(args.device, args.precision, cache_bytes=0)
    model = engine.model(spec)
    say(f"{model.name} on {device_title(engine.device)}, {args.precision}")
    outputs = engine.outputs(image, spec)
    profile = engine.profile(image, spec) if args.profile else None
    told = tell(model, outputs, args.point, profile)
    print(describe(image, told))
    head = {"file": shown(image.name), "size": list(image.size), "model": model.name}
    plain = head | {"config": outputs.config.to_dict()} | to_plain(told, args.point)
    rows = csv_rows(image, told)
    write_outputs(args, plain, rows, list(rows[0]))
    return 0


def _check_point(point: Sequence[float], image: Image) -> None:
    """Refuse a place that is not in the picture; what is no number is in none."""
    width, height = image.size
    if not (0 <= point[0] <= width and 0 <= point[1] <= height):
        raise UsageError(
            f"--point {point[0]:g} {point[1]:g} is not in the picture of {width} x {height} pixels."
        )


def tell(
    model: RetinaNet,
    outputs: Outputs,
    point: Sequence[float] | None,
    profile: Profile | None,
) -> Told:
    """What is told of the pyramid.

    Args:
        model: that made the outputs.
        outputs: of the picture.
        point: x and y, pixels of the picture.
        profile: of the model on it.
    """
    shares = top_down_share(model, outputs)
    return Told(
        levels=[
            {**row, "top_down_share": shares.get(row["map"])} for row in level_rows(outputs, model)
        ],
        shares=shares,
        point=None if point is None else values_at(outputs, *point),
        profile=profile,
        fits=None if profile is None else weights_that_fit(model.config),
    )


def describe(image: Image, told: Told) -> str:
    """The maps, what comes down, what they say at the point, and what the network costs."""
    width, height = image.size
    columns = ("map", "channels", "rows", "columns", "cells", "stride", "receptive_top_down")
    lines = [
        f"{shown(image.name)}, {width} x {height} pixels",
        *table(told.levels, (*columns, "anchors", "anchor_sizes", "top_down_share")),
        levels_sentence(told.levels),
        top_down_sentence(told.shares),
    ]
    if told.point is not None:
        numbers = point_numbers(told.point)
        wide = max(len(name) for name, _ in numbers)
        lines += ["", point_sentence(told.point)]
        lines += [f"  {name:<{wide}}  {value}" for name, value in numbers]
    if told.profile is not None:
        lines += ["", architecture_sentence(told.profile), *_cost_lines(told.profile)]
    if told.fits is not None:
        lines += ["", "Which weights fit this shape:"]
        lines += table(fits_rows(told.fits), ("weights", "part", "fit", "tensors"))
    return "\n".join(lines)


def _cost_lines(profile: Profile) -> list[str]:
    """What each block costs, without digits that one measurement does not have."""
    rows = [
        row
        | {"macs": count_text(row["macs"])}
        | {"ms": ms_text(row["ms"]), "share": share_text(row["share"])}
        for row in architecture_rows(profile)
    ]
    return table(rows, ("block", "level", "shape", "parameters", "macs", "ms", "share"))


def to_plain(told: Told, point: Sequence[float] | None) -> dict[str, Any]:
    """All of it as plain data; lengths in pixels of the resized picture unless named otherwise."""
    plain: dict[str, Any] = {
        "levels": told.levels,
        "levels_sentence": levels_sentence(told.levels),
        "top_down_share": told.shares,
        "top_down_sentence": top_down_sentence(told.shares),
    }
    if told.point is not None:
        plain |= {
            "point": list(point),
            "values": told.point,
            "point_sentence": point_sentence(told.point),
        }
    if told.profile is not None:
        plain |= {
            "device": told.profile.device,
            "architecture": architecture_rows(told.profile),
            "architecture_sentence": architecture_sentence(told.profile),
            "weights_that_fit": fits_rows(told.fits),
        }
    return plain


def csv_rows(image: Image, told: Told) -> list[dict[str, Any]]:
    """A row for each map: what it is, and where a point was asked for what it says there."""
    points = [{} for _ in told.levels] if told.point is None else point_rows(told.point)
    rows = []
    for level, point in zip(told.levels, points, strict=True):
        own = {name: _flat(cell) for name, cell in level.items()}
        there = {name: cell for name, cell in point.items() if name not in own}
        rows.append({"file": shown(image.name), **own, **there})
    return rows


def _flat(cell: Any) -> Any:
    """A list as its values with spaces between them."""
    return " ".join(f"{value:g}" for value in cell) if isinstance(cell, list) else cell
