"""`python -m retinanet shapes`: a detection data set without a download."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from retinanet.cli.dataset import progress_line
from retinanet.cli.options import option
from retinanet.shapes import ShapesConfig, make_shapes

SUMMARY = "make a data set of labelled shapes over the sample photos"

_HELP = {
    "images": "photos",
    "size": "side of the square photos, px",
    "objects": "objects in a photo, at least and at most",
    "imbalance": "objects of the most frequent class for each of the rarest",
    "sizes": "longer side of a box as a share of the photo's, at least and at most",
    "max_hidden": "largest share of an object that others may cover",
    "stretch": "longest to shortest side of a shape, at most",
    "rotation": "degrees that a shape is turned, at most",
    "color_jitter": "0: a colour for each class; 1: any colour for any",
    "clutter": "contrast of the photo behind, 0 to 1",
    "seed": "of everything",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options, named as the settings of `ShapesConfig`."""
    parser.add_argument("folder", type=Path, help="gets instances.json and images/")
    settings = parser.add_argument_group("shapes")
    defaults = ShapesConfig()
    for field in fields(ShapesConfig):
        default = getattr(defaults, field.name)
        pair = isinstance(default, tuple)
        settings.add_argument(
            option(field.name),
            nargs=2 if pair else None,
            type=type(default[0] if pair else default),
            default=default,
            help=f"{_HELP[field.name]} ({' '.join(map(str, default)) if pair else default})",
        )


def run(args: argparse.Namespace) -> int:
    """Make the data set and print where its annotations are.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    config = ShapesConfig(**{f.name: getattr(args, f.name) for f in fields(ShapesConfig)})
    dataset = make_shapes(args.folder, config, progress=progress_line("photos"))
    print(dataset.annotation_file)
    return 0
