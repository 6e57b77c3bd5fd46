"""`python -m retinanet train`: COCO data in, a checkpoint with its card out."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from retinanet.checkpoint_metadata import MAX_CHARACTERS
from retinanet.checkpoints import load_backbone_weights, load_model, save_checkpoint
from retinanet.cli.errors import UsageError
from retinanet.cli.evaluate import check_categories
from retinanet.cli.files import check_target
from retinanet.coco import CocoDataset, load_coco
from retinanet.config import LossConfig, MatcherConfig, ModelConfig
from retinanet.devices import pick_device
from retinanet.evaluation import METRICS, coco_results, score
from retinanet.model import RetinaNet
from retinanet.training import Progress, TrainConfig, train

SUMMARY = "train on a COCO-format data set"

MAX_CURVE_POINTS = 2000
"""In the card, whose length is limited."""

MODEL_OPTIONS = (
    "depth",
    "num_convs",
    "variant",
    "min_size",
    "max_size",
    "frozen_stages",
    "stride_in_1x1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; those of the settings have the settings' names and defaults."""
    data = parser.add_argument_group("data")
    data.add_argument("annotations", type=Path, help="COCO instances JSON to train on")
    data.add_argument("--images", type=Path, required=True, help="folder of the images")
    data.add_argument("--val", type=Path, help="COCO instances JSON to validate on")
    data.add_argument("--val-images", type=Path, help="its images; --images unless given")
    data.add_argument("--min-label-score", type=float, default=0.5)
    data.add_argument("--exclude-sources", nargs="*", default=[], metavar="SOURCE")

    start = parser.add_argument_group("start and end")
    start.add_argument("--backbone", help='ImageNet ResNet: a file, or "imagenet" to download it')
    start.add_argument("--weights", help="start from a detector: a name or a file")
    start.add_argument("--out", type=Path, required=True, help="checkpoint to write, .safetensors")
    start.add_argument("--run-folder", type=Path, default=Path("runs/train"))
    start.add_argument("--resume", action="store_true", help="go on from the run folder")
    start.add_argument("--device", default="auto")
    start.add_argument("--card", type=Path, help="JSON file whose entries go into the model card")
    start.add_argument("--val-every", type=int, default=0, help="checkpoints between validations")

    _add_fields(parser.add_argument_group("model"), ModelConfig(), MODEL_OPTIONS)
    plain = [f.name for f in fields(TrainConfig) if f.name not in ("matcher", "loss")]
    _add_fields(parser.add_argument_group("training"), TrainConfig(), plain)
    for title, config in (("matching", MatcherConfig()), ("focal loss", LossConfig())):
        _add_fields(parser.add_argument_group(title), config, [f.name for f in fields(config)])


def _add_fields(group: Any, defaults: Any, names: list[str] | tuple[str, ...]) -> None:
    for name in names:
        default = getattr(defaults, name)
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            group.add_argument(option, nargs=len(default), type=type(default[0]), default=default)
        else:
            group.add_argument(option, type=type(default), default=default, help=f"({default})")


def run(args: argparse.Namespace) -> int:
    """Train, validate and save.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    _check_out(args)
    card = _read_card(args.card)
    config = TrainConfig(
        **{
            f.name: _value(args, f.name)
            for f in fields(TrainConfig)
            if f.name not in ("matcher", "loss")
        },
        matcher=MatcherConfig(**{f.name: getattr(args, f.name) for f in fields(MatcherConfig)}),
        loss=LossConfig(**{f.name: getattr(args, f.name) for f in fields(LossConfig)}),
    )
    dataset = _dataset(args.annotations, args.images, args)
    held_out = _dataset(args.val, args.val_images or args.images, args) if args.val else None
    if held_out is not None:
        check_categories(dataset.category_ids, held_out.category_ids)
    torch.manual_seed(config.seed)
    model = _model(args, dataset)
    print(f"data: {dataset.report}", file=sys.stderr)
    curve = Log(args.run_folder / "curve.jsonl", args.resume)
    validations = Log(args.run_folder / "validations.jsonl", args.resume)
    started = datetime.datetime.now(datetime.UTC)

    def on_progress(progress: Progress) -> None:
        if progress.step % 20 == 0 or progress.step == progress.steps:
            _show(progress)
            curve.add(
                {
                    "step": progress.step,
                    "classification": round(progress.classification, 4),
                    "bbox_regression": round(progress.bbox_regression, 4),
                }
            )

    def on_checkpoint(current: RetinaNet, step: int) -> None:
        due = args.val_every and (step // config.checkpoint_every) % args.val_every == 0
        if held_out is not None and due:
            metrics = score(held_out, coco_results(current, held_out))
            point = {"step": step} | {name: metrics[name] for name in METRICS}
            validations.add(point)
            print(json.dumps(point), file=sys.stderr, flush=True)

    try:
        trained = train(
            model,
            dataset,
            config,
            run_folder=args.run_folder,
            resume=args.resume,
            on_progress=on_progress,
            on_cache=_show_cache,
            on_checkpoint=on_checkpoint,
        )
    except BrokenPipeError:  # of the output, not of a file
        raise
    except OSError as error:
        raise _unwritable(args.run_folder, error) from error
    card |= {
        "recipe": {f.name: _plain(getattr(config, f.name)) for f in fields(TrainConfig)},
        "data_report": dataset.report,
        "started": started.isoformat(timespec="seconds"),
        "curve": curve.points(MAX_CURVE_POINTS),
        "validations": validations.points(MAX_CURVE_POINTS),
    }
    if held_out is not None:
        metrics = score(held_out, coco_results(trained, held_out))
        card["validation"] = metrics
        print("  ".join(f"{name} {metrics[name]:.3f}" for name in METRICS))
    save_checkpoint(trained, args.out, card=card)
    print(args.out)
    return 0


class Log:
    """Points over the steps, in a file so that a resumed run keeps what came before.

    Args:
        path: one JSON object a line, each with a "step".
        resume: go on with the file instead of beginning it anew.

    Raises:
        UsageError: the file cannot be written, or is not one of these.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self._points: dict[int, dict[str, float]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a" if resume else "w", encoding="utf-8"):
                pass  # found out now, not when there is something to lose
            for line in path.read_text(encoding="utf-8").splitlines():
                point = json.loads(line)
                self._points[point["step"]] = point
        except OSError as error:
            raise _unwritable(path, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is damaged; remove it, or do not resume.") from error

    def add(self, point: dict[str, float]) -> None:
        """Append a step; of a step that is done twice, the later one counts."""
        self._points[int(point["step"])] = point
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")

    def points(self, limit: int) -> list[dict[str, float]]:
        """The points in order of steps, evenly thinned out to at most `limit`."""
        steps = sorted(self._points)
        return [self._points[step] for step in steps[:: -(-len(steps) // limit) or 1]]


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be written: {error.strerror or error}.")


def _check_out(args: argparse.Namespace) -> None:
    """Refuse before the training what would be lost after it."""
    if args.out.suffix != ".safetensors":
        raise UsageError(f"--out must end in .safetensors, which {args.out} does not.")
    starts = [Path(start) for start in (args.weights, args.backbone) if start]
    check_target(args.out, starts)


def _read_card(path: Path | None) -> dict[str, Any]:
    """The entries that the person wants in the model card."""
    if path is None:
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The card {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The card {path} is not a JSON file: {error}.") from error
    if not isinstance(card, dict):
        raise UsageError(f"The card {path} must hold a JSON object.")
    if len(json.dumps(card)) > MAX_CHARACTERS // 4:
        raise UsageError(f"The card {path} is longer than {MAX_CHARACTERS // 4:,} characters.")
    return card


def _dataset(annotations: Path, images: Path, args: argparse.Namespace) -> CocoDataset:
    return load_coco(
        annotations,
        images,
        min_label_score=args.min_label_score,
        exclude_sources=args.exclude_sources,
    )


def _value(args: argparse.Namespace, name: str) -> Any:
    value = getattr(args, name)
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


def _model(args: argparse.Namespace, dataset: CocoDataset) -> RetinaNet:
    config = ModelConfig(
        num_classes=len(dataset.categories), **{name: getattr(args, name) for name in MODEL_OPTIONS}
    )
    device = pick_device(args.device)
    if args.weights:
        return load_model(args.weights, config, device=device)
    model = RetinaNet(config, dataset.categories, dataset.category_ids)
    if args.backbone:
        load_backbone_weights(model, args.backbone)
    return model.to(device)


def _show(progress: Progress) -> None:
    print(
        f"step {progress.step}/{progress.steps}  cls {progress.classification:.4f}  "
        f"box {progress.bbox_regression:.4f}  fg {progress.num_foreground:.1f}  "
        f"|grad| {progress.grad_norm:.2f}  lr {progress.lr:.2e}  {progress.seconds:.2f} s  "
        f"left {progress.eta_seconds / 60:.1f} min",
        file=sys.stderr,
        flush=True,
    )


def _show_cache(done: int, total: int) -> None:
    if done % 100 == 0 or done == total:
        print(f"features {done}/{total}", file=sys.stderr, flush=True)
