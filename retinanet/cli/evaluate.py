"""`python -m retinanet evaluate`: COCO's average precision of a model on a data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from retinanet.checkpoints import load_model
from retinanet.cli.files import check_target, write
from retinanet.coco import DatasetError, load_coco
from retinanet.config import PostprocessConfig
from retinanet.evaluation import AP_POSTPROCESS, METRICS, coco_results, score

SUMMARY = "average precision on a COCO-format data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("annotations", type=Path, help="COCO instances JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--weights", default="embedded", help="a name or a file (embedded)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--min-size", type=int, help="as the model says, unless given")
    parser.add_argument("--max-size", type=int)
    for name, default in AP_POSTPROCESS.to_dict().items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=f"({default})")
    parser.add_argument("--json", type=Path, help="write the metrics here")
    parser.add_argument("--results", type=Path, help="write the detections here, COCO results JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the metrics.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    config = PostprocessConfig(**{name: getattr(args, name) for name in AP_POSTPROCESS.to_dict()})
    for target in (args.json, args.results):
        check_target(target, [args.annotations])
    dataset = load_coco(args.annotations, args.images)
    sizes = {"min_size": args.min_size, "max_size": args.max_size}
    overrides = {name: size for name, size in sizes.items() if size is not None}
    model = load_model(args.weights, overrides or None, device=args.device)
    check_categories(model.category_ids, dataset.category_ids)
    results = coco_results(model, dataset, config, _show)
    metrics = score(dataset, results)
    print("  ".join(f"{name} {metrics[name]:.3f}" for name in METRICS))
    for name, value in sorted(metrics["AP50_per_class"].items(), key=lambda item: -item[1]):
        print(f"{name:20} AP50 {value:.3f}")
    if args.json:
        write(args.json, json.dumps(metrics, indent=1).encode())
    if args.results:
        write(args.results, json.dumps(results).encode())
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


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total:
        print(f"\r{done}/{total} photos", end="\n" if done == total else "", file=sys.stderr)
