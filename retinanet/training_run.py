"""A training run as the command line makes it: with its log, validations, previews and cost.

`training.train` only trains. This leaves in the run folder what `run_log.read_run` shows to
whoever watches: steps.jsonl, validations.jsonl, status.json, cost.json, previews/, last.pt.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from retinanet.coco import CocoDataset, Photo
from retinanet.distributed import World, check_batch, current_world
from retinanet.evaluation import METRICS
from retinanet.model import RetinaNet
from retinanet.previews import preview_photos, write_previews
from retinanet.run_log import RunLog, plain
from retinanet.run_record import RunRecord, read_run
from retinanet.single_flight import Cancelled
from retinanet.train_config import TrainConfig
from retinanet.training import Progress, train
from retinanet.training_cost import Cost, probe
from retinanet.validation import evaluate_shared

SHOW_EVERY = 20
"""Steps between two lines."""


def measure(
    model: RetinaNet,
    dataset: CocoDataset,
    config: TrainConfig,
    *,
    world: World,
    cancel: threading.Event | None = None,
) -> Cost | None:
    """`probe` of one process's share of a batch, in rank 0; None elsewhere and when cancelled."""
    check_batch(config.batch_size, world)
    if not world.is_main:
        return None
    with contextlib.suppress(Cancelled):
        own = replace(config, batch_size=config.batch_size // world.size)
        return probe(model, dataset, own, cancel=cancel)
    return None


class TrainingRun:
    """A run and its folder; a context manager, which notes a failure inside it as the status.

    Of several processes each makes one, and rank 0 alone writes.

    Args:
        folder: of the run.
        config: how to train.
        resume: go on from what is in the folder.
        cancel: when set, the run stops after the current step, with a checkpoint.
        say: gets lines for people.

    Attributes:
        metrics: of the last validation after the last step; None when there was none.

    Raises:
        TrainingError: the folder cannot be written, or a log in it is damaged.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        *,
        resume: bool = False,
        cancel: threading.Event | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.config, self.resume = folder, config, resume
        self.cancel, self.say = cancel or threading.Event(), say
        self.world = current_world()
        self.metrics: dict[str, Any] | None = None
        self._validated = self._step = 0
        self._log = RunLog(folder, resume=resume) if self.world.is_main else None
        if self._log is not None:
            self._log.expect(config.steps)
            self._step = self.record.step
        self._status("preparing")

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(Exception):  # what went wrong first is what counts
            if error is not None:
                self._status("failed", " ".join(str(error).split()) or kind.__name__)
        if self._log is not None:
            self._log.close()

    @property
    def record(self) -> RunRecord:
        """What the folder shows."""
        return read_run(self.folder)

    def log_cost(self, model: RetinaNet, dataset: CocoDataset) -> None:
        """Measure what the run will cost and write it down; raises as `probe`."""
        cost = measure(model, dataset, self.config, world=self.world, cancel=self.cancel)
        if cost is not None:
            self._log.set_cost(cost)
            self.say(cost.sentences()[-1])

    def train(
        self,
        model: RetinaNet,
        dataset: CocoDataset,
        held_out: CocoDataset | None = None,
        *,
        val_every: int = 0,
        preview: bool = True,
    ) -> RetinaNet | None:
        """Train, validate and draw previews; raises as `training.train`.

        Args:
            model: on its device.
            dataset: to train on.
            held_out: to validate on, after the last step at least.
            val_every: checkpoints between validations; 0 for only the last step's.
            preview: draw photos of `held_out` at each validation.

        Returns:
            The model to use, in eval mode; None when the run was stopped, which the status says.
        """
        photos = preview_photos(held_out) if held_out and preview else ()

        def on_checkpoint(current: RetinaNet, step: int) -> None:
            due = val_every and step % (self.config.checkpoint_every * val_every) == 0
            if held_out is not None and due and not self._is_stopped():
                self._validate(current, held_out, photos, step)

        def on_resume(current: RetinaNet, step: int) -> None:
            self._step = step  # the log may know of steps that the checkpoint does not
            if step and not self.world.any(self._has_validated(step)):
                on_checkpoint(current, step)  # it was stopped or killed while it validated

        trained = train(
            model,
            dataset,
            self.config,
            run_folder=self.folder,
            resume=self.resume,
            on_progress=self._on_progress,
            on_cache=self._on_cache,
            on_resume=on_resume,
            on_checkpoint=on_checkpoint,
            cancel=self.cancel,
        )
        stopped, last = self._is_stopped(), self.config.steps
        if held_out is not None and not stopped and self._validated != last:
            self._validate(trained, held_out, photos, last)
            stopped = self._is_stopped()
        if not stopped:
            return trained
        done = f"stopped after step {self._step:,} of {self.config.steps:,}; --resume goes on"
        self._status("stopped", done)
        self.say(done)
        return None

    def finish(self, sentence: str) -> None:
        """Note that all is done."""
        self._status("done", sentence)

    def _has_validated(self, step: int) -> bool:
        """Whether the log says so; only rank 0's is asked."""
        return self._log is not None and any(v["step"] == step for v in self.record.validations)

    def _is_stopped(self) -> bool:
        return self.world.any(self.cancel.is_set())

    def _validate(
        self, model: RetinaNet, held_out: CocoDataset, photos: Sequence[Photo], step: int
    ) -> None:
        self._status("validating")
        metrics = evaluate_shared(model, held_out, world=self.world, cancel=self.cancel)
        self._validated = step
        if metrics is not None and self._log is not None:
            self.metrics = metrics
            self._log.add_validation(step, metrics)
            point = {"step": step} | {name: metrics[name] for name in METRICS}
            self.say(json.dumps(plain(point)))
            if photos:
                pictures = write_previews(model, photos, self.folder, step)
                self._log.add_preview(step, pictures)
        self._status("running")

    def _on_progress(self, progress: Progress) -> None:
        self._step = progress.step
        self._log.add_step(progress)
        if self._state != "running":
            self._status("running")
        if progress.step % SHOW_EVERY == 0 or progress.step == progress.steps:
            self.say(_line(progress))

    def _on_cache(self, done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            self._status("preparing", f"features {done:,}/{total:,}")
            self.say(f"features {done}/{total}")

    def _status(self, state: str, sentence: str = "") -> None:
        self._state = state
        if self._log is not None:
            self._log.set_status(state, sentence)


def _line(progress: Progress) -> str:
    return (
        f"step {progress.step}/{progress.steps}  cls {progress.classification:.4f}  "
        f"box {progress.bbox_regression:.4f}  fg {progress.num_foreground:.1f}  "
        f"|grad| {progress.grad_norm:.2f}  lr {progress.lr:.2e}  {progress.seconds:.2f} s  "
        f"left {progress.eta_seconds / 60:.1f} min"
    )
