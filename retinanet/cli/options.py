"""What several commands share: options and what they mean, tables, and the files they write."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from retinanet.cli.errors import UsageError
from retinanet.cli.files import check_target, shown, write
from retinanet.config import MatcherConfig, PostprocessConfig
from retinanet.engine import PRECISIONS, ModelSpec
from retinanet.export import to_csv
from retinanet.matcher_presets import MATCHER_PRESETS
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

SIZES: tuple[str, ...] = ("min_size", "max_size")
"""Those of them that decide the input size."""

POSTPROCESS_OPTIONS: dict[str, str] = {
    "score_thresh": "scores must be above this",
    "nms_thresh": "a box goes when it overlaps a better one of its class by more than this IoU",
    "topk_candidates": "best candidates of each pyramid level that go on to NMS",
    "detections_per_img": "best boxes kept for each picture",
}

MATCHER_OPTIONS: dict[str, str] = {
    "fg_iou_thresh": "from this IoU with an object on, an anchor is foreground",
    "bg_iou_thresh": "below this an anchor is background, and ignored between the two",
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Weights, shape, size, device and precision; the settings have their own names."""
    model = parser.add_argument_group("model")
    _add_spec(model, MODEL_OPTIONS)
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (%(default)s)")
    model.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(%(default)s)")


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """The input size, for a command that runs no network; `--weights` has one, too."""
    size = parser.add_argument_group("input size", "No network runs; weights only give their size.")
    _add_spec(size, SIZES)


def _add_spec(group: Any, names: Iterable[str]) -> None:
    """`--weights` and some of `MODEL_OPTIONS`."""
    group.add_argument(
        "--weights",
        default=ModelSpec.weights,
        metavar="NAME_OR_PATH",
        help="embedded, coco-v1, coco-v2, random or a file (%(default)s)",
    )
    hints = get_type_hints(ModelSpec)
    for name in names:
        kind = int if hints[name] == int | None else str
        group.add_argument(option(name), type=kind, help=MODEL_OPTIONS[name])


def add_postprocess_options(parser: argparse.ArgumentParser) -> None:
    """The preset and the settings of `PostprocessConfig`, under their own names."""
    settings = parser.add_argument_group("post-processing", "Defaults unless the weights say more:")
    settings.add_argument(
        "--preset",
        metavar="NAME",
        help=f"start from these settings: {', '.join(preset.name for preset in PRESETS)}",
    )
    add_settings(settings, POSTPROCESS_OPTIONS, PostprocessConfig())
    settings.add_argument(
        "--class-score-thresh",
        nargs="+",
        action="extend",
        type=class_floor,
        metavar="CLASS=SCORE",
        help="scores of this class, by its name or label, must be above this too: person=0.5",
    )


def add_settings(group: Any, texts: Mapping[str, str], defaults: Any) -> None:
    """Numbers of a configuration under their own names; None where they are not given.

    Args:
        group: of the parser.
        texts: {setting: what it does}.
        defaults: the configuration whose values the help shows.
    """
    for name, text in texts.items():
        default = getattr(defaults, name)
        group.add_argument(option(name), type=type(default), help=f"{text} ({default})")


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of the settings that are on the command line."""
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def add_matcher_options(parser: argparse.ArgumentParser) -> None:
    """The preset and the settings of `MatcherConfig`, under their own names."""
    matching = parser.add_argument_group("matching")
    matching.add_argument(
        "--preset",
        metavar="NAME",
        help=f"start from these bounds: {', '.join(preset.name for preset in MATCHER_PRESETS)}",
    )
    add_settings(matching, MATCHER_OPTIONS, MatcherConfig())
    matching.add_argument(
        "--allow-low-quality-matches",
        action=argparse.BooleanOptionalAction,
        help="each object also keeps the anchors that fit it best, however badly (yes)",
    )


def matcher_config(args: argparse.Namespace) -> MatcherConfig:
    """The preset's settings or the defaults, and over them what was given.

    Raises:
        ConfigError: a value is outside its range, or the bounds are the wrong way round.
        UsageError: there is no such preset.
    """
    presets = {preset.name: preset.config for preset in MATCHER_PRESETS}
    if args.preset is not None and args.preset not in presets:
        raise UsageError(
            f"There is no preset {shown(args.preset)!r} of bounds; there are {', '.join(presets)}."
        )
    values = given(args, (field.name for field in fields(MatcherConfig)))
    return replace(presets.get(args.preset, MatcherConfig()), **values)


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
    PostprocessConfig(**given(args, POSTPROCESS_OPTIONS), class_score_thresh=floors)


def postprocess_config(args: argparse.Namespace, model: RetinaNet) -> PostprocessConfig:
    """The settings: the preset's or what the weights recommend, and over them what was given.

    Raises:
        ConfigError: as `check_postprocess`.
        UsageError: the model has no class of a name that was given.
    """
    values = given(args, POSTPROCESS_OPTIONS)
    if args.class_score_thresh:
        values["class_score_thresh"] = by_label(args.class_score_thresh, model)
    preset = None if args.preset is None else find_preset(args.preset).config
    return replace(preset or model.recommended or PostprocessConfig(), **values)


def class_floor(text: str) -> tuple[str, float]:
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


def add_output_options(parser: argparse.ArgumentParser, everything: str, rows: str) -> None:
    """`--json` and `--csv`.

    Args:
        parser: of the command.
        everything: what the JSON file holds.
        rows: what the CSV file has a row for.
    """
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="OUT", help=everything)
    out.add_argument("--csv", type=Path, metavar="OUT", help=f"a row for each {rows}")


def check_outputs(args: argparse.Namespace, inputs: Sequence[Path]) -> None:
    """Refuse before the work what could not or must not be written after it.

    Raises:
        UsageError: as `check_target`, or two outputs (`--results`, `--html` too) are one file.
    """
    named: dict[Path, str] = {}
    for name in ("json", "csv", "results", "html"):
        target = getattr(args, name, None)
        first = name if target is None else named.setdefault(target.resolve(), name)
        if first != name:
            raise UsageError(
                f"--{first} and --{name} both name {shown(str(target))}; name two files."
            )
    for target in (args.json, args.csv):
        check_target(target, inputs)


def write_outputs(
    args: argparse.Namespace,
    plain: Mapping[str, Any],
    rows: Iterable[dict[str, Any]],
    columns: Sequence[str],
) -> None:
    """Write the files that were asked for.

    Args:
        args: of the command.
        plain: plain data, for `--json`.
        rows: for `--csv`.
        columns: the keys of every row, in order.

    Raises:
        UsageError: a file cannot be written.
    """
    if args.json:
        write(args.json, json.dumps(plain, indent=1).encode())
    if args.csv:
        write(args.csv, to_csv(rows, columns).encode())


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Some columns of rows as lines for a terminal: their names, then a line for each row.

    Args:
        rows: one or more.
        columns: keys of every row; those with nothing but numbers are set to the right.
    """
    cells = [[_cell(row[name]) for name in columns] for row in rows]
    lines = [[name.replace("_", " ") for name in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(cell[:1] in "0123456789-<" for cell in own) for own in zip(*cells, strict=True)]
    return ["  " + "  ".join(map(_aligned, line, widths, right)).rstrip() for line in lines]


def _aligned(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _cell(value: Any) -> str:
    """A value without false digits; a list as its values with spaces between them."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(map(_cell, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
