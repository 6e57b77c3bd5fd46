"""`python -m retinanet evaluate`: average precision of a model on a data set, and sweeps."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retinanet.checkpoints import load_model
from retinanet.cli import analysis, options
from retinanet.cli.files import check_target, shown, write
from retinanet.coco import CocoDataset, DatasetError, load_coco
from retinanet.config import PostprocessConfig
from retinanet.evaluation import AP_POSTPROCESS, METRICS, score
from retinanet.model import RetinaNet
from retinanet.sweeps import (
    DEFAULT_GRID,
    SCORE_FLOOR,
    TOPK,
    CandidateStore,
    ClassFloors,
    Grid,
    StoreProgress,
    Sweep,
    class_floors,
    model_key,
    parse_grid,
    results,
    sweep,
)

SUMMARY = "average precision on a COCO-format data set, and sweeps of post-processing"

SHOWN = ("score_thresh", "nms_thresh", "topk_candidates", "detections_per_img")
SHOWN_MEASURES = ("AP", "AP50", "f1", "precision", "recall", "detections_per_image")

NOTE = (
    "F1, precision and recall are at IoU .5 over all classes, crowds left out. AP alone rewards "
    "low thresholds."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("annotations", type=Path, help="COCO instances JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--weights", default="embedded", help="a name or a file (embedded)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--min-size", type=int, help="as the model says, unless given")
    parser.add_argument("--max-size", type=int)
    for name, default in AP_POSTPROCESS.to_dict().items():
        option = options.option(name)
        parser.add_argument(option, type=type(default), default=default, help=f"({default})")
    parser.add_argument(
        "--class-score-thresh",
        nargs="+",
        action="extend",
        type=options.class_floor,
        metavar="CLASS=SCORE",
        help="scores of this class, by its name or label, must be above this too: person=0.5",
    )
    parser.add_argument(
        "--sweep",
        nargs="*",
        metavar="SETTING=VALUES",
        help="try all combinations: score_thresh=0.05:0.95:0.1 nms_thresh=0.3,0.5,0.7; a setting "
        "that is not named keeps its value; without any, a grid of 100",
    )
    parser.add_argument(
        "--class-floors",
        action="store_true",
        help="find the score threshold of each class with the best F1 on these photos",
    )
    parser.add_argument(
        "--work-folder",
        type=Path,
        default=Path("runs/evaluate"),
        help="what the network said is kept here and used again (%(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write the metrics here, and all of a sweep")
    parser.add_argument("--csv", type=Path, help="a row for each setting, or class without a sweep")
    parser.add_argument("--results", type=Path, help="write the detections here, COCO results JSON")
    analysis.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the metrics.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    config = PostprocessConfig(**{name: getattr(args, name) for name in AP_POSTPROCESS.to_dict()})
    grid = _grid(args, config)
    options.check_outputs(args, [args.annotations])
    check_target(args.results, [args.annotations])
    analysis.check(args)
    dataset = load_coco(args.annotations, args.images)
    sizes = {"min_size": args.min_size, "max_size": args.max_size}
    overrides = {name: size for name, size in sizes.items() if size is not None}
    model = load_model(args.weights, overrides or None, device=args.device)
    check_categories(model.category_ids, dataset.category_ids)
    if args.class_score_thresh:
        floors = options.by_label(args.class_score_thresh, model)
        config = replace(config, class_score_thresh=tuple(floors))
    store = _stored(args, model, dataset, config, grid)
    part = store.stored_part(dataset)
    detections = list(results(store, config, part))
    metrics = score(part, detections)
    one = _swept(store, part, Grid.of(config), config, latency_photos=0)
    _print_metrics(metrics, one)
    plain = metrics | {"counts": one.to_rows()[0], "skipped": [list(own) for own in store.skipped]}
    plain |= analysis.analyse(args, model, part, detections, config, metrics)
    rows = one.per_class(config)
    if grid is not None:
        swept = _swept(store, part, grid, config)
        _print_sweep(swept)
        rows = swept.to_rows()
        plain |= {"grid": grid.to_dict(), "sweep": rows}
        if args.class_floors:
            found = class_floors(swept)
            _print_floors(found, model)
            plain["class_floors"] = {"rows": found.to_rows(), "config": found.config.to_dict()}
    options.write_outputs(args, _measured(plain), map(_flat, rows), list(rows[0]) if rows else [])
    if args.results:
        write(args.results, json.dumps(detections).encode())
    return 0


def check_categories(model_ids: tuple[int, ...], dataset_ids: tuple[int, ...]) -> None:
    """Refuse a data set whose categories the model does not know.

    Raises:
        DatasetError: some category ids of the data set are none of the model's.
    """
    unknown = sorted(set(dataset_ids) - set(model_ids))
    if unknown:
        raise DatasetError(
            f"The model does not know {len(unknown)} of the data set's {len(dataset_ids)} "
            f"categories (ids {', '.join(map(str, unknown[:5]))}...); evaluate a model that was "
            "trained on these categories."
        )


def _grid(args: argparse.Namespace, config: PostprocessConfig) -> Grid | None:
    """What to sweep; None for nothing.

    Raises:
        ConfigError: a value cannot work, or is not of the form SETTING=VALUES.
    """
    if args.sweep is not None:
        return parse_grid(args.sweep, config) if args.sweep else DEFAULT_GRID
    if args.class_floors:
        return replace(Grid.of(config), score_thresh=DEFAULT_GRID.score_thresh)
    return None


def _stored(
    args: argparse.Namespace,
    model: RetinaNet,
    dataset: CocoDataset,
    config: PostprocessConfig,
    grid: Grid | None,
) -> CandidateStore:
    """The candidates of all photos, from the work folder or the network.

    As many are stored as other settings may ask for: the next evaluation finds them there.
    """
    grids = [Grid.of(config), *([] if grid is None else [grid])]
    key = model_key(model)
    last: list[StoreProgress] = []

    def tell(at: StoreProgress) -> None:
        if not last and at.found:
            options.say(f"{at.found:,} of {at.total:,} photos were stored already")
        last[:] = [at]
        show_stored(at)

    try:
        store = CandidateStore.fill(
            args.work_folder / key,
            model,
            dataset,
            key=key,
            score_floor=min(SCORE_FLOOR, *(own.score_thresh[0] for own in grids)),
            topk=max(TOPK, *(own.topk_candidates[-1] for own in grids)),
            progress=tell,
        )
    except KeyboardInterrupt:
        if last:
            kept = last[0].done - len(last[0].skipped)
            options.say(f"\n{kept:,} of {last[0].total:,} photos are stored in {args.work_folder}")
        options.say("the same command goes on from there")
        raise
    for image_id, sentence in store.skipped:
        options.say(f"left out image {image_id}: {shown(sentence)}")
    return store


def show_stored(at: StoreProgress) -> None:
    """How far the network is, on one line of the terminal; in a file only the end of it."""
    if sys.stderr.isatty() or at.done == at.total:
        left = "" if math.isnan(at.eta_seconds) else f", {_duration(at.eta_seconds)} left"
        end = "\n" if at.done == at.total else ""
        print(f"\r{at.done:,}/{at.total:,} photos{left}   ", end=end, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _swept(
    store: CandidateStore,
    dataset: CocoDataset,
    grid: Grid,
    config: PostprocessConfig,
    **timing: int,
) -> Sweep:
    return sweep(store, dataset, grid, class_score_thresh=config.class_score_thresh, **timing)


def _print_metrics(metrics: dict[str, Any], one: Sweep) -> None:
    print("  ".join(f"{name} {metrics[name]:.3f}" for name in METRICS))
    row = one.rows[0]
    counts = row.counts
    print(
        f"F1 {counts.f1:.3f}  precision {counts.precision:.3f}  recall {counts.recall:.3f}  "
        f"macro F1 {row.macro_f1:.3f}  ({counts.tp:,} right, {counts.fp:,} wrong, "
        f"{counts.fn:,} missed; {row.detections_per_image:.1f} boxes a photo)"
    )
    for name, value in sorted(metrics["AP50_per_class"].items(), key=lambda item: -item[1]):
        print(f"{name:20} AP50 {value:.3f}")


def _print_sweep(swept: Sweep) -> None:
    print(f"\n{len(swept.rows):,} settings on {swept.photos:,} photos. {NOTE}")
    for metric, name in (("f1", "F1"), ("AP", "AP")):
        print(f"best by {name}:")
        value = swept.best(metric).to_row()
        row = {own: value[own] for own in SHOWN}
        row |= {own: round(value[own], 3) for own in SHOWN_MEASURES}
        print("\n".join(options.table([row], list(row))))


def _print_floors(found: ClassFloors, model: RetinaNet) -> None:
    print(
        f"\nfloors of single classes: F1 {found.counts_before.f1:.3f} -> {found.counts.f1:.3f}, "
        f"macro F1 {found.macro_f1_before:.3f} -> {found.macro_f1:.3f}. They are chosen on these "
        "very photos: on others the gain is smaller."
    )
    config = found.config
    names = model.categories
    named = [f"{names[own] or own}={floor}" for own, floor in config.class_score_thresh]
    settings = [(options.option(name), str(getattr(config, name))) for name in SHOWN]
    words = [word for pair in settings for word in pair]
    print(shlex.join([*words, "--class-score-thresh", *named]))


def _measured(value: Any) -> Any:
    """Plain data as JSON has it, which knows no nan: null is what cannot be measured."""
    if isinstance(value, dict):
        return {name: _measured(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_measured(own) for own in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row for CSV: a list as its values with spaces between, floors as JSON."""
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else value
