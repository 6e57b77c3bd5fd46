"""`python -m retinanet anchors`: which anchors would train on which object, without a network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from retinanet.anchors import AnchorShape
from retinanet.assignment import AssignmentTrace, assign_anchors
from retinanet.checkpoints import OFFICIAL_CONFIGS, open_checkpoint
from retinanet.cli.files import shown
from retinanet.cli.options import (
    SIZES,
    add_matcher_options,
    add_output_options,
    add_settings,
    add_size_options,
    check_outputs,
    given,
    matcher_config,
    option,
    say,
    table,
    write_outputs,
)
from retinanet.cli.truth_options import (
    NAMELESS,
    add_truth_options,
    check_truth,
    read_objects,
    truth_inputs,
)
from retinanet.config import MatcherConfig, ModelConfig
from retinanet.coverage import ObjectCoverage, Remedies, object_coverage, remedies
from retinanet.dialects import DIALECTS, dialect_differences, dialect_sentence
from retinanet.figures.anchors import (
    bounds_sentence,
    coverage_rows,
    coverage_sentence,
    imbalance_rows,
    imbalance_sentence,
    iou_histogram_rows,
)
from retinanet.figures.dialects import dialect_rows
from retinanet.images import load_image
from retinanet.layout import AnchorLayout, layout_of
from retinanet.truth import TruthBox
from retinanet.types import LEVELS, Image

SUMMARY = "which anchors would train on which object, and what would give it more"

CSV_COLUMNS: tuple[str, ...] = (
    *("file", "object", "category", "x1", "y1", "x2", "y2", "status", "best_iou", "best_level"),
    *("foreground", "natural", *LEVELS, "best_anchor_trains_on"),
    *(f"remedy_{field.name}" for field in fields(Remedies)),
)


@dataclass(frozen=True, eq=False)
class Matched:
    """A picture's anchors and what they would train on. G = number of objects.

    Args:
        image: the picture.
        objects: [G], in pixels of the picture.
        size: the input size: `min_size` and `max_size`.
        layout: where the anchors lie.
        match: what each anchor would train on.
        coverages: [G].
        ways: [G], what gives each an anchor of its own.
    """

    image: Image
    objects: tuple[TruthBox, ...]
    size: dict[str, int]
    layout: AnchorLayout
    match: AssignmentTrace
    coverages: list[ObjectCoverage]
    ways: list[Remedies]

    @property
    def boxes(self) -> list[list[float]]:
        """[G][4] xyxy, pixels of the picture."""
        return _boxes(self.objects)

    @property
    def sentences(self) -> list[str]:
        """[G], how each object is covered."""
        return [
            coverage_sentence(own, _called(own.gt, one), self.match.config, ways)
            for own, one, ways in zip(self.coverages, self.objects, self.ways, strict=True)
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; those of the settings have the settings' names."""
    parser.add_argument("image", metavar="IMAGE", help="the picture; only its size counts")
    parser.add_argument(
        "--dialects",
        action="store_true",
        help="compare how the paper, torchvision, Detectron2 and MMDetection match",
    )
    add_truth_options(parser)
    add_matcher_options(parser)
    add_output_options(parser, "all of it as plain data", "object")
    add_size_options(parser)
    shape = parser.add_argument_group("anchors", "Trained weights fit none but the defaults.")
    usual = AnchorShape()
    add_settings(shape, {"base_size": "anchor size on P3 at scale 1, in pixels"}, usual)
    for name, text in (
        ("scales", "what the base size is multiplied by"),
        ("aspect_ratios", "height / width"),
    ):
        values = " ".join(f"{value:.6g}" for value in getattr(usual, name))
        shape.add_argument(
            option(name), nargs="+", type=float, metavar="NUMBER", help=f"{text} ({values})"
        )


def run(args: argparse.Namespace) -> int:
    """Match, print and write.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    check_truth(args, needs_category=False)
    config = matcher_config(args)
    shape = AnchorShape(**given(args, (field.name for field in fields(AnchorShape))))
    check_outputs(args, truth_inputs(args))
    image = load_image(args.image)
    objects = read_objects(args, image)
    matched = match_picture(image, objects, input_size(args), shape, config)
    compared = compare_dialects(matched) if args.dialects else {}
    print(describe(matched))
    if compared:
        print("\n".join(["", *_dialect_lines(compared)]))
    write_outputs(args, to_plain(matched) | compared, csv_rows(matched), CSV_COLUMNS)
    return 0


def input_size(args: argparse.Namespace) -> dict[str, int]:
    """`min_size` and `max_size`: as given, else the weights' own, which are not loaded for it.

    Raises:
        CheckpointError: there are no such weights.
        ConfigError: a size is outside its range.
    """
    sizes = given(args, SIZES)
    config = ModelConfig()
    if len(sizes) < len(SIZES):
        config = OFFICIAL_CONFIGS.get(args.weights) or open_checkpoint(args.weights).config
    config = replace(config, **sizes)
    return {name: getattr(config, name) for name in SIZES}


def match_picture(
    image: Image,
    objects: tuple[TruthBox, ...],
    size: dict[str, int],
    shape: AnchorShape,
    config: MatcherConfig,
) -> Matched:
    """Lay the anchors out, match them and search what each object lacks."""
    width, height = image.size
    layout = layout_of((height, width), **size, shape=shape)
    boxes = _boxes(objects)
    match = assign_anchors(layout, boxes, config=config)
    ways = []
    for row in range(len(boxes)):
        if row and row % _OBJECTS_A_LINE == 0:
            say(f"what helps: {row}/{len(boxes)} objects")
        ways.append(remedies(layout, boxes, row, config, **size))
    return Matched(image, objects, size, layout, match, object_coverage(match, layout), ways)


_OBJECTS_A_LINE = 20
"""An object takes up to a second."""


def _boxes(objects: Sequence[TruthBox]) -> list[list[float]]:
    return [list(one.box) for one in objects]


def _called(index: int, one: TruthBox) -> str:
    name = f"{NAMELESS} {index + 1}"
    return name if one.category == NAMELESS else f"{name}, {one.category}"


def describe(matched: Matched) -> str:
    """The counts of each level, what they mean, and how each object is covered."""
    width, height = matched.image.size
    high, wide = matched.layout.image_size
    levels = imbalance_rows(matched.match.counts_per_level)
    return "\n".join(
        [
            f"{shown(matched.image.name)}, {width} x {height} pixels, resized to {wide} x {high}",
            bounds_sentence(matched.match.config),
            *table(levels, list(levels[0])),
            imbalance_sentence(matched.match.counts),
            *(matched.sentences or ["There is no object: every anchor is background."]),
        ]
    )


def compare_dialects(matched: Matched) -> dict[str, Any]:
    """{"dialects": a row for each, "dialect_sentences": {name: how it differs from torchvision}}.

    The bounds are the match's; each dialect decides itself what becomes of an object's best
    anchors.
    """
    layout, boxes, config = matched.layout, matched.boxes, matched.match.config
    others = [dialect.name for dialect in DIALECTS if dialect.name != "torchvision"]
    return {
        "dialects": dialect_rows(layout, boxes, config),
        "dialect_sentences": {
            name: dialect_sentence(dialect_differences("torchvision", name, layout, boxes, config))
            for name in others
        },
    }


def _dialect_lines(compared: dict[str, Any]) -> list[str]:
    columns = ("dialect", "foreground", "ignored", "background", "forced")
    return [*table(compared["dialects"], columns), *compared["dialect_sentences"].values()]


def to_plain(matched: Matched) -> dict[str, Any]:
    """All of it as plain data: boxes in pixels of the picture."""
    layout, match = matched.layout, matched.match
    rows = coverage_rows(matched.coverages, [one.category for one in matched.objects])
    return {
        "file": shown(matched.image.name),
        "size": list(matched.image.size),
        "resized": [layout.image_size[1], layout.image_size[0]],
        "input_size": matched.size,
        "matcher": match.config.to_dict(),
        "anchors": layout.shape.to_dict(),
        "bounds": bounds_sentence(match.config),
        "imbalance": imbalance_sentence(match.counts),
        "levels": imbalance_rows(match.counts_per_level),
        "objects": [
            {**row, "box": box, "remedies": asdict(ways), "sentence": sentence}
            for row, box, ways, sentence in zip(
                rows, matched.boxes, matched.ways, matched.sentences, strict=True
            )
        ],
        "best_iou": iou_histogram_rows(match),
    }


def csv_rows(matched: Matched) -> list[dict[str, Any]]:
    """A row for each object: `CSV_COLUMNS` -> value."""
    rows = coverage_rows(matched.coverages, [one.category for one in matched.objects])
    return [
        {
            "file": shown(matched.image.name),
            **row,
            **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
            **{f"remedy_{name}": value for name, value in asdict(ways).items()},
        }
        for row, box, ways in zip(rows, matched.boxes, matched.ways, strict=True)
    ]
