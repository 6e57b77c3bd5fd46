"""`python -m retinanet train`: COCO data in, a checkpoint with its card out."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from retinanet.checkpoint_metadata import MAX_CHARACTERS
from retinanet.checkpoints import save_checkpoint
from retinanet.cli.errors import UsageError
from retinanet.cli.evaluate import check_categories
from retinanet.cli.files import check_target
from retinanet.cli.options import say
from retinanet.cli.signals import TERMINATED, Stop, stopping
from retinanet.coco import CocoDataset, load_coco
from retinanet.config import LossConfig, MatcherConfig, ModelConfig
from retinanet.distributed import check_batch, joined, norm_note
from retinanet.evaluation import METRICS
from retinanet.model import RetinaNet
from retinanet.run_log import plain
from retinanet.run_record import RunRecord
from retinanet.train_config import PLAIN_FIELDS, TrainConfig
from retinanet.training_run import TrainingRun, measure
from retinanet.training_start import start_model

SUMMARY = "train on a COCO-format data set"

MAX_CURVE_POINTS = 2000
"""In the card, whose length is limited."""

CURVE = ("step", "classification", "bbox_regression")
"""What the card's curve has of each step."""

MODEL_OPTIONS = (
    "depth",
    "num_convs",
    "variant",
    "min_size",
    "max_size",
    "frozen_stages",
    "stride_in_1x1",
    "norm_eps",
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
    source = start.add_mutually_exclusive_group()
    source.add_argument("--backbone", help='ImageNet ResNet: a file, or "imagenet" to download it')
    source.add_argument("--weights", help="start from a detector: a name or a file")
    source.add_argument("--init-from", help="take what fits of a detector: a name or a file")
    start.add_argument("--out", type=Path, required=True, help="checkpoint to write, .safetensors")
    start.add_argument("--run-folder", type=Path, default=Path("runs/train"))
    start.add_argument("--resume", action="store_true", help="go on from the run folder")
    start.add_argument("--device", default="auto")
    start.add_argument("--card", type=Path, help="JSON file whose entries go into the model card")
    start.add_argument(
        "--val-every",
        type=int,
        default=0,
        metavar="N",
        help="checkpoints between validations; 0: only at the end (%(default)s)",
    )
    start.add_argument(
        "--preview",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw some photos of --val at each validation",
    )
    start.add_argument(
        "--probe",
        action=argparse.BooleanOptionalAction,
        help="measure what the run will cost, print it and stop; --no-probe: do not measure",
    )

    model = parser.add_argument_group("model")
    _add_fields(model, ModelConfig(), MODEL_OPTIONS)
    model.add_argument("--num-classes", type=int, help="can only be the data set's")
    _add_fields(parser.add_argument_group("training"), TrainConfig(), PLAIN_FIELDS)
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
        The exit code: 0; 130, 143 or 129 when SIGINT, SIGTERM or SIGHUP stopped it, with a
        checkpoint. Bad input raises the error of the room that found it.
    """
    _check_out(args)
    card = read_card(args.card)
    config = _train_config(args)
    with joined(args.device) as (world, device), stopping(once=world.size == 1) as stop:
        check_batch(config.batch_size, world)
        tell = _say if world.is_main else _silent
        dataset, held_out = _datasets(args)
        model = _model(args, config, dataset, tell).to(device)
        tell(f"data: {dataset.report}")
        if not config.freeze_norms and (note := norm_note(model, device, world)):
            tell(note)
        if args.probe:
            cost = measure(model, dataset, config, world=world, cancel=stop.event)
            if cost is not None:
                print("\n".join(cost.sentences()))
            return stop.code
        try:
            finished = _train(args, config, model, (dataset, held_out), card, stop, tell)
        except BrokenPipeError:  # of the output, not of a file
            raise
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{args.run_folder} cannot be written: {reason}.") from error
        return 0 if finished else stop.code or TERMINATED


def _train(
    args: argparse.Namespace,
    config: TrainConfig,
    model: RetinaNet,
    data: tuple[CocoDataset, CocoDataset | None],
    card: dict[str, Any],
    stop: Stop,
    tell: Callable[[str], None],
) -> bool:
    """Train and, in rank 0, save; whether it got to the end."""
    dataset, held_out = data
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with TrainingRun(
        args.run_folder, config, resume=args.resume, cancel=stop.event, say=tell
    ) as run:
        if args.probe is None:
            run.log_cost(model, dataset)
        trained = run.train(
            model, dataset, held_out, val_every=args.val_every, preview=args.preview
        )
        if trained is not None and run.world.is_main:
            card |= _card(config, dataset, started, run.record)
            if run.metrics is not None:
                card["validation"] = plain(run.metrics)
            save_checkpoint(trained, args.out, card=card)
            run.finish(str(args.out))
            if run.metrics is not None:
                print("  ".join(f"{name} {run.metrics[name]:.3f}" for name in METRICS))
            print(args.out)
        return trained is not None


def _card(
    config: TrainConfig, dataset: CocoDataset, started: str, record: RunRecord
) -> dict[str, Any]:
    """What the checkpoint says about how it was made."""
    validations = record.validations[:: -(-len(record.validations) // MAX_CURVE_POINTS) or 1]
    return {
        "recipe": config.to_dict(),
        "data_report": dataset.report,
        "started": started,
        "curve": [{name: point.get(name) for name in CURVE} for point in record.curve],
        "validations": [
            {name: point.get(name) for name in ("step", *METRICS)} for point in validations
        ],
    }


def _say(line: str) -> None:
    """Tell whoever listens; that they have gone, as a closed terminal has, stops no run."""
    with contextlib.suppress(OSError):
        say(line)


def _silent(line: str) -> None:
    """Of several processes rank 0 alone speaks."""


def _check_out(args: argparse.Namespace) -> None:
    """Refuse before the training what would be lost after it."""
    if args.val_every < 0:
        raise UsageError(f"--val-every must be 0 or more, not {args.val_every}.")
    if args.out.suffix != ".safetensors":
        raise UsageError(f"--out must end in .safetensors, which {args.out} does not.")
    starts = [Path(start) for start in (args.weights, args.backbone, args.init_from) if start]
    check_target(args.out, starts)


def read_card(path: Path | None) -> dict[str, Any]:
    """The entries that the person wants in the model card; {} without a file.

    Raises:
        UsageError: the file cannot be read, is no JSON object, or is too long.
    """
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


def _datasets(args: argparse.Namespace) -> tuple[CocoDataset, CocoDataset | None]:
    """What to train on and what to validate on."""
    dataset = _dataset(args.annotations, args.images, args)
    held_out = _dataset(args.val, args.val_images or args.images, args) if args.val else None
    if held_out is not None:
        check_categories(dataset.category_ids, held_out.category_ids)
    return dataset, held_out


def _dataset(annotations: Path, images: Path, args: argparse.Namespace) -> CocoDataset:
    return load_coco(
        annotations,
        images,
        min_label_score=args.min_label_score,
        exclude_sources=args.exclude_sources,
    )


def _train_config(args: argparse.Namespace) -> TrainConfig:
    return TrainConfig(
        **{name: getattr(args, name) for name in PLAIN_FIELDS},
        matcher=MatcherConfig(**{f.name: getattr(args, f.name) for f in fields(MatcherConfig)}),
        loss=LossConfig(**{f.name: getattr(args, f.name) for f in fields(LossConfig)}),
    )


def _model(
    args: argparse.Namespace,
    config: TrainConfig,
    dataset: CocoDataset,
    tell: Callable[[str], None],
) -> RetinaNet:
    """The model to begin with, on the CPU."""
    classes = len(dataset.categories)
    if args.num_classes not in (None, classes):
        raise UsageError(
            f"The data set has {classes} categories, so --num-classes cannot be "
            f"{args.num_classes}; leave it out."
        )
    shape = ModelConfig(
        num_classes=classes, **{name: getattr(args, name) for name in MODEL_OPTIONS}
    )
    model, load = start_model(
        shape,
        dataset,
        prior=config.prior,
        seed=config.seed,
        backbone=args.backbone,
        weights=args.weights,
        init_from=args.init_from,
    )
    if load is not None:
        tell(load.sentence)
    return model
