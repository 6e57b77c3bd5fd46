"""`python -m retinanet detect`: pictures in; a table, COCO results, CSV, pictures, reports out."""

from __future__ import annotations

import argparse
import io
import json
import shlex
from pathlib import Path
from typing import Any

import PIL.Image

from retinanet.cli.errors import UsageError, one_line
from retinanet.cli.files import check_not_input, check_target, shown, write
from retinanet.cli.options import (
    MODEL_OPTIONS,
    POSTPROCESS_OPTIONS,
    add_model_options,
    add_postprocess_options,
    check_postprocess,
    model_spec,
    option,
    postprocess_config,
    say,
)
from retinanet.config import PostprocessConfig
from retinanet.detection import DetectionTrace
from retinanet.devices import device_title
from retinanet.engine import Engine, EngineError, ModelSpec
from retinanet.export import draw_detections, encode_png, to_coco_results, to_csv, to_rows
from retinanet.images import ImageError, find_images, load_image
from retinanet.report import html_report
from retinanet.types import Image

SUMMARY = "find objects in pictures"


PICTURE_FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; those of the settings have the settings' names."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or patterns")

    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="OUT", help="COCO results")
    out.add_argument("--csv", type=Path, metavar="OUT", help="a row for each box")
    out.add_argument(
        "--image",
        type=Path,
        metavar="OUT",
        help="the picture with its boxes; a folder when there are several",
    )
    out.add_argument(
        "--html",
        type=Path,
        metavar="OUT",
        help="a report in one HTML file; a folder when there are several pictures",
    )
    add_model_options(parser)
    add_postprocess_options(parser)


def run(args: argparse.Namespace) -> int:
    """Detect, print and write.

    A picture that cannot be used is reported and the others go on.

    Returns:
        The exit code: 0, or 2 when a picture failed. Other bad input raises the error of the room
        that found it.
    """
    spec = model_spec(args)
    check_postprocess(args)
    paths, failed = _find(args.images)
    many = len(paths) + failed > 1
    _check_targets(args, paths, many)
    if not paths:
        return 2
    drawings = _files_for(args.image, ".png", paths, many)
    reports = _files_for(args.html, ".html", paths, many)

    # Nothing is asked for twice here, so nothing is kept.
    engine = Engine(args.device, args.precision, cache_bytes=0)
    model = engine.model(spec)
    config = postprocess_config(args, model)
    say(f"{model.name} on {device_title(engine.device)}, {args.precision}")

    results: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(paths, start=1):
        if many:
            say(f"[{number}/{len(paths)}] {shown(str(path))}")
        try:
            image = load_image(path)
            trace = engine.detect(image, spec, config)
        except (ImageError, EngineError) as error:
            say(f"retinanet detect: {one_line(error)}")
            failed += 1
            continue
        print(describe(image, trace))
        name = shown(image.name)
        results += to_coco_results(trace, trace.outputs, number, name)
        rows += to_rows(trace, trace.outputs, name)
        if args.image:
            target = drawings[path]
            write(target, _encoded(draw_detections(image, trace, trace.outputs), target))
        if args.html:
            command = _command(spec, path, config, model.recommended)
            page = html_report(
                image, trace, title=image.name, command=command, model_name=model.name
            )
            write(reports[path], page.encode())
    if args.json:
        write(args.json, json.dumps(results, indent=1).encode())
    if args.csv:
        write(args.csv, to_csv(rows).encode())
    return 2 if failed else 0


def describe(image: Image, trace: DetectionTrace) -> str:
    """The table of one picture's detections, best first; boxes xyxy in original pixels."""
    width, height = image.size
    count = len(trace)
    title = f"{shown(image.name)}, {width} x {height} pixels: "
    if not count:
        floors = " and its class's own" if trace.config.class_score_thresh else ""
        return f"{title}nothing above a score of {trace.config.score_thresh:g}{floors}"
    names = [trace.categories[label] for label in trace.labels.tolist()]
    wide = max(len("category"), *map(len, names))
    lines = [
        f"{title}{count} detection{'s' if count > 1 else ''}",
        f"  {'category':<{wide}}  score"
        + "".join(f"{edge:>9}" for edge in ("x1", "y1", "x2", "y2")),
    ]
    for name, score, box in zip(names, trace.scores.tolist(), trace.boxes.tolist(), strict=True):
        lines.append(f"  {name:<{wide}}  {score:.3f}" + "".join(f"{edge:9.1f}" for edge in box))
    return "\n".join(lines)


def _command(
    spec: ModelSpec, path: Path, config: PostprocessConfig, recommended: PostprocessConfig | None
) -> str:
    """The command that gives one picture's result again, whatever the weights recommend."""
    values = {name: getattr(spec, name) for name in ("weights", *MODEL_OPTIONS, "precision")}
    values |= {name: getattr(config, name) for name in POSTPROCESS_OPTIONS}
    words = ["python", "-m", "retinanet", "detect", str(path)]
    for name, value in values.items():
        if value is not None:
            words += [option(name), str(value)]
    usual = recommended.class_score_thresh if recommended else ()
    chosen = config.class_score_thresh or tuple((label, 0.0) for label, _ in usual)
    if chosen:
        floors = (f"{label}={floor}" for label, floor in chosen)
        words += [option("class_score_thresh"), *floors]
    return shlex.join(words)


def _find(arguments: list[str]) -> tuple[list[Path], int]:
    """The pictures, each once, and how many arguments meant none; those are reported."""
    paths: dict[Path, Path] = {}
    failed = 0
    for argument in arguments:
        try:
            paths |= {path.resolve(): path for path in find_images([argument])}
        except ImageError as error:
            say(f"retinanet detect: {one_line(error)}")
            failed += 1
    return list(paths.values()), failed


def _check_targets(args: argparse.Namespace, paths: list[Path], many: bool) -> None:
    """Refuse before the work what could not be written after it."""
    for target in (args.json, args.csv):
        check_target(target, paths)
    _check_place("--image", args.image, _writable(), ".png, .jpg, .webp", paths, many)
    _check_place("--html", args.html, {".html", ".htm"}, ".html", paths, many)


def _check_place(
    option: str, out: Path | None, suffixes: set[str], named: str, paths: list[Path], many: bool
) -> None:
    """The same for what is one file for one picture and a folder for several."""
    if out is None or out.is_dir():
        return
    suffix = out.suffix.lower()
    if many and (out.exists() or suffix in suffixes):
        raise UsageError(f"{option} must name a folder when there are several pictures.")
    if not many and suffix not in suffixes:
        raise UsageError(f"{option} must end in {named} or name an existing folder.")
    if many and not out.parent.is_dir():
        raise UsageError(f"The folder {shown(str(out.parent))} does not exist.")
    if not many:
        check_target(out, paths)


def _writable() -> set[str]:
    PIL.Image.init()
    return {suffix for suffix, kind in PIL.Image.EXTENSION.items() if kind in PICTURE_FORMATS}


def _files_for(out: Path | None, suffix: str, paths: list[Path], many: bool) -> dict[Path, Path]:
    """Where each picture's file goes; in a folder, under its own name, and never over another."""
    if out is None:
        return {}
    if not many and not out.is_dir():
        return {paths[0]: out}
    targets: dict[Path, Path] = {}
    taken: set[Path] = set()
    for path in paths:
        target, number = out / f"{path.stem}{suffix}", 2
        while target in taken:
            target, number = out / f"{path.stem}-{number}{suffix}", number + 1
        taken.add(target)
        targets[path] = target
    inputs = {path.resolve() for path in paths}
    for target in taken:
        check_not_input(target, inputs)
    return targets


def _encoded(picture: PIL.Image.Image, target: Path) -> bytes:
    kind = PIL.Image.EXTENSION[target.suffix.lower()]
    if kind == "PNG":
        return encode_png(picture)
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **PICTURE_FORMATS[kind])
    except (OSError, ValueError) as error:  # e.g. more pixels a side than the format can hold
        raise UsageError(f"{shown(target.name)} cannot hold this picture; use .png.") from error
    return buffer.getvalue()
