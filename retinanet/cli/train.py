"""`python -m retinanet train`: COCO data in, a checkpoint with its card out."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from retinanet.checkpoints import load_backbone_weights, load_model, save_checkpoint
from retinanet.coco import CocoDataset, load_coco
from retinanet.config import LossConfig, MatcherConfig, ModelConfig
from retinanet.devices import pick_device
from retinanet.evaluation import METRICS, coco_results, score
from retinanet.model import RetinaNet
from retinanet.training import Progress, TrainConfig, train

SUMMARY = "train on a COCO-format data set"

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
    dataset = _dataset(args.annotations, args.images, args)
    held_out = _dataset(args.val, args.val_images or args.images, args) if args.val else None
    config = TrainConfig(
        **{
            f.name: _value(args, f.name)
            for f in fields(TrainConfig)
            if f.name not in ("matcher", "loss")
        },
        matcher=MatcherConfig(**{f.name: getattr(args, f.name) for f in fields(MatcherConfig)}),
        loss=LossConfig(**{f.name: getattr(args, f.name) for f in fields(LossConfig)}),
    )
    model = _model(args, dataset)
    print(f"data: {dataset.report}", file=sys.stderr)
    curve = Curve(args.run_folder / "curve.jsonl", args.resume)
    validations: list[dict[str, float]] = []
    started = datetime.datetime.now(datetime.UTC)

    def on_progress(progress: Progress) -> None:
        if progress.step % 20 == 0 or progress.step == progress.steps:
            _show(progress)
            curve.add(progress)

    def on_checkpoint(current: RetinaNet, step: int) -> None:
        due = args.val_every and (step // config.checkpoint_every) % args.val_every == 0
        if held_out is not None and due:
            metrics = score(held_out, coco_results(current, held_out))
            validations.append({"step": step} | {name: metrics[name] for name in METRICS})
            print(json.dumps(validations[-1]), file=sys.stderr, flush=True)

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
    card = json.loads(args.card.read_text(encoding="utf-8")) if args.card else {}
    card |= {
        "recipe": {f.name: _plain(getattr(config, f.name)) for f in fields(TrainConfig)},
        "data_report": dataset.report,
        "started": started.isoformat(timespec="seconds"),
        "curve": curve.read(),
        "validations": validations,
    }
    if held_out is not None:
        metrics = score(held_out, coco_results(trained, held_out))
        card["validation"] = metrics
        print("  ".join(f"{name} {metrics[name]:.3f}" for name in METRICS))
    save_checkpoint(trained, args.out, card=card)
    print(args.out)
    return 0


class Curve:
    """The losses over the steps, in a file so that a resumed run keeps what came before.

    Args:
        path: one JSON object a line.
        resume: go on with the file instead of beginning it anew.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.write_text("", encoding="utf-8")

    def add(self, progress: Progress) -> None:
        """Append a step."""
        point = {
            "step": progress.step,
            "classification": round(progress.classification, 4),
            "bbox_regression": round(progress.bbox_regression, 4),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")

    def read(self) -> list[dict[str, float]]:
        """All points, in order of steps; of a step that was done twice, the later one."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        points = {point["step"]: point for point in map(json.loads, lines)}
        return [points[step] for step in sorted(points)]


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
