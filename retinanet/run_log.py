"""What a run leaves in its folder for anybody to watch while it is written.

`steps.jsonl`, `validations.jsonl` and `previews.jsonl` hold one JSON object a line, each with a
"step"; `status.json` and `cost.json` are replaced whole. A reader never waits for the writer, and
a run that was killed leaves at most one torn last line, which is skipped. Numbers that are no
numbers (an AP where nothing can be measured) are null.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from retinanet.run_record import (
    COST,
    PREVIEWS,
    STATES,
    STATUS,
    STEPS,
    VALIDATIONS,
    RunReader,
    RunRecord,
    parse_line,
    read_run,
)
from retinanet.train_config import TrainingError

if TYPE_CHECKING:
    from retinanet.training_cost import Cost
    from retinanet.training_step import Progress

__all__ = ["STATES", "RunLog", "RunReader", "RunRecord", "read_run"]


LOCK = "run.lock"
"""Held by the process that writes; the system lets go of it when that is killed."""


def plain(value: Any) -> Any:
    """As JSON has it: floats to six digits, null for what is no finite number, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


class RunLog:
    """Writes what a run does into its folder.

    Args:
        folder: the run's; made when missing.
        resume: go on with the files instead of beginning them anew. Of a step that is done twice
            the later counts.

    The folder is the writer's own until `close`, or until its process has gone.

    Raises:
        TrainingError: the folder cannot be written, another run is being written to it, or a file
            in it is damaged.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self.folder = Path(folder)
        self._lock = FileLock(self.folder / LOCK, timeout=0, thread_local=False)
        self._step = self._steps = 0
        self._lines: dict[str, _Lines] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if not resume:
                (self.folder / COST).unlink(missing_ok=True)
            for name in (STEPS, VALIDATIONS, PREVIEWS):
                self._lines[name] = _Lines(self.folder / name, resume)
        except Timeout as error:
            raise TrainingError(
                f"Another run is being written to {self.folder}; wait for its end, or choose "
                "another folder."
            ) from error
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        last = self._lines[STEPS].last
        self._step = last["step"] if last else 0
        self._steps = last.get("steps", 0) if last else 0

    def add_step(self, progress: Progress) -> None:
        """Append a finished step.

        Raises:
            TrainingError: the file cannot be written; so in every method.
        """
        self._step, self._steps = progress.step, progress.steps
        self._lines[STEPS].add(asdict(progress))

    def add_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append what validating gave after so many steps: {"AP": 0.1, ...}."""
        self._lines[VALIDATIONS].add({"step": step} | dict(metrics))

    def add_preview(self, step: int, paths: Sequence[Path]) -> None:
        """Append the pictures drawn after so many steps; those in the folder relative to it."""
        names = [
            str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)
            for path in map(Path, paths)
        ]
        self._lines[PREVIEWS].add({"step": step, "files": names})

    def set_cost(self, cost: Cost) -> None:
        """Write what a probe found."""
        self._replace(COST, cost.to_dict())

    def set_status(self, state: str, sentence: str = "") -> None:
        """Replace the status, whole.

        Args:
            state: one of `STATES`.
            sentence: for people.
        """
        status = {
            "state": state,
            "sentence": sentence,
            "time": time.time(),
            "pid": os.getpid(),
            "step": self._step,
            "steps": self._steps,
        }
        self._replace(STATUS, status)

    def expect(self, steps: int) -> None:
        """How many steps there will be, for readers before the first of them is done."""
        self._steps = steps

    def close(self) -> None:
        """Close the files; nothing can be added after it."""
        for lines in self._lines.values():
            lines.close()
        self._lock.release()

    def _replace(self, name: str, content: Mapping[str, Any]) -> None:
        unfinished = self.folder / f"{name}.part"
        try:
            unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
            unfinished.replace(self.folder / name)
        except OSError as error:
            raise _unwritable(self.folder / name, error) from error


class _Lines:
    """A file of JSON lines that is appended to, each line in one write.

    Raises:
        OSError: it cannot be written.
        TrainingError: a whole line of it is damaged.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.last: dict[str, Any] | None = None
        if resume and path.exists():
            self._mend()
        else:
            path.unlink(missing_ok=True)  # a reader of the old file sees that this is another
        self._file = path.open("ab", buffering=0)

    def _mend(self) -> None:
        """Cut off a last line that was torn, which the next would run into; check the others."""
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.last = parse_line(line)
                if self.last is None:
                    raise TrainingError(f"{self.path} is damaged; remove it, or do not resume.")
                whole += len(line)
        os.truncate(self.path, whole)

    def add(self, entry: Mapping[str, Any]) -> None:
        try:
            self._file.write((json.dumps(plain(entry)) + "\n").encode())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        self._file.close()


def _unwritable(path: Path, error: OSError) -> TrainingError:
    return TrainingError(f"{path} cannot be written: {error.strerror or error}.")
