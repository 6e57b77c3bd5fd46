"""The part of `python -m retinanet evaluate` that says what goes wrong, and on which photos."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retinanet.analysis import DatasetCoverage, ErrorTypes, dataset_coverage, error_types
from retinanet.analysis.worst import worst_images
from retinanet.cli import options
from retinanet.cli.files import check_target, write
from retinanet.coco import CocoDataset
from retinanet.config import PostprocessConfig
from retinanet.evaluation_report import evaluation_html
from retinanet.model import RetinaNet

SHOWN_WORST = 10
COVERED_PHOTOS = 500
"""Photos whose anchors are matched for `--coverage`; drawn with a seed where there are more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--errors`, `--coverage` and `--html`."""
    found = parser.add_argument_group("what goes wrong")
    found.add_argument(
        "--errors",
        action="store_true",
        help="the kinds of mistakes with the AP50 each costs, and the worst photos",
    )
    found.add_argument(
        "--coverage",
        action="store_true",
        help="objects that no anchor fits, and which input size or anchors would fit more",
    )
    found.add_argument("--html", type=Path, help="write all of it here, one HTML file")


def check(args: argparse.Namespace) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        UsageError: as `check_target`.
    """
    check_target(args.html, [args.annotations])


def analyse(
    args: argparse.Namespace,
    model: RetinaNet,
    dataset: CocoDataset,
    results: Sequence[dict[str, Any]],
    config: PostprocessConfig,
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """Print and write what was asked for.

    Returns:
        The same as plain data, for `--json`; empty where nothing was asked for.
    """
    plain: dict[str, Any] = {}
    errors = error_types(dataset, results) if args.errors or args.html else None
    covered = _covered(model, dataset) if args.coverage or args.html else None
    if errors is not None and args.errors:
        plain["errors"] = errors.rows
        plain["worst"] = worst_images(dataset, errors, limit=SHOWN_WORST)
        _print_errors(errors, plain["worst"])
    if covered is not None and args.coverage:
        tried = [asdict(one) for one in covered.suggestions]
        plain["coverage"] = {"levels": covered.levels, "sizes": covered.sizes, "tried": tried}
        _print_coverage(covered)
    if args.html:
        page = evaluation_html(
            dataset,
            results,
            title=f"{model.name} on {args.annotations.name}",
            command=shlex.join(["python", "-m", "retinanet", *sys.argv[1:]]),
            model_name=model.name,
            config=config,
            metrics=metrics,
            errors=errors,
            coverage=covered,
        )
        write(args.html, page.encode())
    return plain


def _covered(model: RetinaNet, dataset: CocoDataset) -> DatasetCoverage:
    return dataset_coverage(dataset, model.config, limit=COVERED_PHOTOS)


def _print_errors(errors: ErrorTypes, worst: Sequence[Mapping[str, Any]]) -> None:
    print(f"\nmistakes at IoU .5, AP50 {errors.ap50:.3f}:")
    print("\n".join(options.table(errors.rows, ("type", "count", "dAP50"))))
    if worst:
        print("worst photos:")
        print("\n".join(options.table(worst, ("file", "objects", "tp", "fp", "fn", "f1"))))


def _print_coverage(covered: DatasetCoverage) -> None:
    share = f" ({covered.without_share:.1%})" if covered.objects else ""
    print(
        f"\nobjects without a natural match: {covered.without:,} of {covered.objects:,}{share}, on "
        f"{covered.photos:,} of {covered.of_photos:,} photos"
    )
    columns = [name for name in covered.levels[0] if name != "image_ids"]
    print("\n".join(options.table(covered.levels, columns)))
    print(covered.suggestion)
