"""`python -m retinanet experiment`: several training runs that differ in one thing, compared."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from retinanet.cli import train as train_command
from retinanet.cli.files import check_target, write
from retinanet.cli.options import add_output_options, check_outputs, say, table, write_outputs
from retinanet.config import LossConfig, MatcherConfig, ModelConfig
from retinanet.figures.experiments import (
    comparison_figure,
    experiment_page,
    runs_loss_figure,
    runs_precision_figure,
)
from retinanet.runs import (
    EXPERIMENTS,
    RunError,
    RunQueue,
    RunRequest,
    RunState,
    compare,
    diverged_in,
    verdict,
)
from retinanet.runs.store import AT_WORK
from retinanet.train_config import PLAIN_FIELDS, TrainConfig

SUMMARY = "several training runs that differ in one thing, one after the other, compared"

OWN_OPTIONS: frozenset[str] = frozenset(
    ("--out", "--run-folder", "--resume", "--card", "--preview", "--probe", "--val-every")
)
"""Options of `train` that an experiment decides itself, or that it has its own of."""

SAY_SECONDS = 5.0
"""Between two lines on the run at work."""


class _Without:
    """A parser, or a group of one, to which some options are not added."""

    def __init__(self, target: Any, names: frozenset[str]) -> None:
        self._target, self._names = target, names

    def add_argument(self, *flags: str, **options: Any) -> None:
        if not self._names.intersection(flags):
            self._target.add_argument(*flags, **options)

    def add_argument_group(self, title: str) -> _Without:
        return _Without(self._target.add_argument_group(title), self._names)

    def add_mutually_exclusive_group(self) -> _Without:
        return _Without(self._target.add_mutually_exclusive_group(), self._names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options: which experiment, and those of `train`."""
    about = "; ".join(f"{key}: {found.title.lower()}" for key, found in EXPERIMENTS.items())
    parser.add_argument("experiment", choices=list(EXPERIMENTS), help=about)
    train_command.add_arguments(_Without(parser, OWN_OPTIONS))
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--run-folder",
        type=Path,
        help="holds a folder for each run; finished runs in it are kept (runs/EXPERIMENT)",
    )
    runs.add_argument(
        "--val-every",
        type=int,
        default=RunRequest.val_every,
        metavar="N",
        help="checkpoints between validations; 0: only at the end (%(default)s)",
    )
    add_output_options(parser, "the comparison, its verdict and each run's curve", "run")
    parser.add_argument("--html", type=Path, metavar="OUT", help="a page with the figures")


def run(args: argparse.Namespace) -> int:
    """Run what has not finished yet, print the comparison and what it shows.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    inputs = [path for path in (args.annotations, args.val) if path is not None]
    check_outputs(args, inputs)
    check_target(args.html, inputs)
    experiment, base = EXPERIMENTS[args.experiment], _base(args)
    if note := experiment.note(base):
        say(note)
    states = _run_all(args.run_folder or Path("runs") / args.experiment, experiment.make(base))
    rows = compare(states)
    sentences = verdict(rows)
    print("\n".join([*table([_short(row) for row in rows], list(_short(rows[0]))), ""]))
    print("\n".join(sentences))
    _write(args, experiment.title, states, rows, sentences)
    return 0


def _base(args: argparse.Namespace) -> RunRequest:
    """The request that the options make, before the experiment varies it."""
    start_kind, start = next(
        (
            (kind, getattr(args, kind.replace("-", "_")))
            for kind in ("backbone", "weights", "init-from")
            if getattr(args, kind.replace("-", "_"))
        ),
        ("fresh", "random"),
    )
    return RunRequest(
        name=args.annotations.stem[:40] or "run",
        annotations=args.annotations,
        images=args.images,
        val=args.val,
        val_images=args.val_images if args.val else None,
        model=ModelConfig(**{name: getattr(args, name) for name in train_command.MODEL_OPTIONS}),
        train=TrainConfig(
            **{name: getattr(args, name) for name in PLAIN_FIELDS},
            matcher=MatcherConfig(**{f.name: getattr(args, f.name) for f in fields(MatcherConfig)}),
            loss=LossConfig(**{f.name: getattr(args, f.name) for f in fields(LossConfig)}),
        ),
        start=start,
        start_kind=start_kind,
        device=args.device,
        val_every=args.val_every,
        min_label_score=args.min_label_score,
        exclude_sources=tuple(args.exclude_sources),
    )


def _run_all(folder: Path, requests: Sequence[RunRequest]) -> list[RunState]:
    """Every request's run at its end, one after the other; the first that fails ends it.

    Raises:
        RunError: a run failed, other than by diverging, which is a result.
    """
    queue = RunQueue(folder)
    try:
        return [_run_one(queue, request.absolute()) for request in requests]
    except KeyboardInterrupt:
        say("Stopped; the same command goes on from the last checkpoint.")
        raise
    finally:
        queue.close()


def _run_one(queue: RunQueue, request: RunRequest) -> RunState:
    known = [run for run in queue.runs() if run.request == request and run.state != "cancelled"]
    if not known:
        run_id = queue.submit(request)
    elif _is_result(known[0]):
        say(f"{request.name}: kept, {known[0].state}.")
        return known[0]
    else:
        run_id = known[0].id
        if known[0].state in ("paused", "failed"):
            queue.resume(run_id)
    run = _watch(queue, run_id)
    if not _is_result(run):
        raise RunError(f"{request.name} is {run.state}: {run.sentence}")
    return run


def _watch(queue: RunQueue, run_id: str) -> RunState:
    """Wait for a run's end and say how it stands meanwhile."""
    said = ""
    while True:
        run = queue.wait(run_id, SAY_SECONDS)
        line = f"{run.request.name}: {run.sentence}"
        if line != said:
            say(line)
            said = line
        if run.place < 0 and run.state not in AT_WORK:
            return run


def _is_result(run: RunState) -> bool:
    diverged = run.state == "failed" and diverged_in(run.sentence) is not None
    return run.state == "done" or diverged


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that fit a terminal."""
    step = row["diverged_in"]
    return {
        "run": row["label"],
        "train %": _scaled(row["trainable_share"], 100),
        "step ms": _scaled(row["seconds"], 1000),
        "× time": row["seconds_ratio"],
        "forward": _scaled(row["seconds_forward"], 1000),
        "backward": _scaled(row["seconds_backward"], 1000),
        "MB": _scaled(row["memory_bytes"], 1e-6),
        "× memory": row["memory_ratio"],
        "first loss": row["first_classification"],
        "last loss": row["last_classification"],
        "AP": row["AP"],
        "AP50": row["AP50"],
        "state": row["state"] if step is None else f"diverged in step {step:,}",
    }


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _write(
    args: argparse.Namespace,
    title: str,
    states: Sequence[RunState],
    rows: Sequence[dict[str, Any]],
    sentences: Sequence[str],
) -> None:
    records = {state.id: state.record for state in states}
    curves = {row["label"]: records[row["id"]].curve for row in rows}
    plain = {"experiment": args.experiment, "rows": list(rows), "verdict": list(sentences)}
    write_outputs(args, plain | {"curves": curves}, rows, list(rows[0]))
    if args.html:
        diverged = {row["label"]: row["diverged_in"] for row in rows if row["diverged_in"]}
        validations = {row["label"]: records[row["id"]].validations for row in rows}
        figures = [
            comparison_figure(rows),
            runs_loss_figure(curves, diverged=diverged),
            runs_precision_figure(validations),
        ]
        shown = [_short(row) for row in rows]
        write(args.html, experiment_page(title, sentences, shown, figures).encode())
