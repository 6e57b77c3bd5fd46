"""What is on disk of a run: its request, its state, and what its process has written beside them.

A run's folder is made whole or not at all, and its state is replaced whole, so whoever reads finds
a state that was.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from retinanet.config import ConfigError
from retinanet.run_record import RunReader, RunRecord
from retinanet.runs.errors import RunError
from retinanet.runs.request import RunRequest

STATES: tuple[str, ...] = (
    *("queued", "running", "pausing", "paused"),
    *("cancelling", "cancelled", "done", "failed"),
)
AT_WORK: tuple[str, ...] = ("running", "pausing", "cancelling")
"""States in which a run has a process."""

REQUEST, STATE, OUT, LOCK = "request.json", "state.json", "model.safetensors", ".lock"
LOCK_SECONDS = 10.0

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class StoredState:
    """The content of a run's state.json.

    Args:
        state: one of `STATES`.
        sentence: why it is in this state, for people; "" where the state says it all.
        submitted: when it was submitted, nanoseconds since 1970, later for each next run.
        turn: those that wait start in this order.
        attempts: how often its process was started.
        pid: of its process, None when it has none.
        kill_at: when a run that is being cancelled is killed, seconds since 1970.
    """

    state: str = "queued"
    sentence: str = ""
    submitted: int = 0
    turn: int = 0
    attempts: int = 0
    pid: int | None = None
    kill_at: float | None = None


@dataclass(frozen=True)
class RunState:
    """A run as it stands.

    Args:
        id: 16 hex digits, not to be guessed.
        request: what was asked for.
        state: one of `STATES`.
        place: 0 at work, 1 next, 2 after it; -1 when it does not wait.
        sentence: how it stands, for people.
        folder: of the run.
        out: the finished .safetensors, once it exists.
        record: what the run has written.
        submitted: seconds since 1970.
    """

    id: str
    request: RunRequest
    state: str
    place: int
    sentence: str
    folder: Path
    out: Path | None
    record: RunRecord
    submitted: float = 0.0


class RunStore:
    """The folders of many runs, under one.

    Args:
        folder: made when missing.

    Raises:
        RunError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".new-*"):
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            raise RunError(f"{self.folder} cannot be written: {error.strerror}.") from error
        self._requests: dict[str, RunRequest | None] = {}
        self._readers: dict[str, RunReader] = {}
        self._finished: dict[str, tuple[StoredState, RunRecord]] = {}
        self._states: dict[str, tuple[tuple[int, int], StoredState]] = {}

    def lock(self) -> FileLock:
        """What one holds while moving runs; processes with the same folder exclude each other."""
        return FileLock(self.folder / LOCK, timeout=LOCK_SECONDS)

    def add(self, request: RunRequest, turn: int) -> str:
        """A new queued run; its id."""
        run_id = secrets.token_hex(8)
        new = self.folder / f".new-{run_id}"
        try:
            new.mkdir(mode=0o700)
            _write(new / REQUEST, request.to_dict())
            _write(new / STATE, asdict(StoredState(submitted=turn, turn=turn)))
            new.rename(self.folder / run_id)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise RunError(f"{self.folder} cannot be written: {error.strerror}.") from error
        return run_id

    def ids(self) -> list[str]:
        """Of all runs whose request can be read."""
        names = [path.name for path in self.folder.iterdir() if _ID.fullmatch(path.name)]
        return [name for name in names if self._known(name) is not None]

    def request(self, run_id: str) -> RunRequest:
        """What a run was asked for.

        Raises:
            RunError: there is no such run.
        """
        known = self._known(run_id) if _ID.fullmatch(run_id) else None
        if known is None or not self.path(run_id).is_dir():
            raise RunError("There is no such run; it was removed, or its link is wrong.")
        return known

    def path(self, run_id: str) -> Path:
        """A run's folder."""
        return self.folder / run_id

    def state(self, run_id: str) -> StoredState:
        """A run's state; a failed one where the file is damaged.

        Raises:
            RunError: there is no such run.
        """
        self.request(run_id)
        path = self.path(run_id) / STATE
        try:
            found = path.stat()
        except OSError:
            return _damaged()
        stamp = (found.st_mtime_ns, found.st_ino)
        known = self._states.get(run_id)
        if known is None or known[0] != stamp:
            known = self._states[run_id] = (stamp, _read_state(path))
        return known[1]

    def change(self, run_id: str, **changes: Any) -> StoredState:
        """Replace some entries of a run's state, under the lock.

        Raises:
            RunError: it cannot be written.
        """
        state = replace(self.state(run_id), **changes)
        try:
            _write(self.path(run_id) / STATE, asdict(state))
        except OSError as error:
            raise RunError(f"{self.path(run_id)} cannot be written: {error.strerror}.") from error
        return state

    def record(self, run_id: str, state: StoredState) -> RunRecord:
        """What the run has written; read once when it has come to its end."""
        known = self._finished.get(run_id)
        if known is not None and known[0] == state:
            return known[1]
        reader = self._readers.setdefault(run_id, RunReader(self.path(run_id)))
        record = reader.read()
        if state.state not in AT_WORK:
            self._finished[run_id] = (state, record)
            self._readers.pop(run_id, None)
        return record

    def remove(self, run_id: str) -> None:
        """Delete a run's folder.

        Raises:
            RunError: it cannot be deleted.
        """
        gone = self.folder / f".new-{run_id}"  # not half a run, should this be cut off
        try:
            self.path(run_id).rename(gone)
            shutil.rmtree(gone)
        except OSError as error:
            raise RunError(f"The run cannot be removed: {error.strerror}.") from error
        for cache in (self._requests, self._readers, self._finished, self._states):
            cache.pop(run_id, None)

    def _known(self, run_id: str) -> RunRequest | None:
        if run_id not in self._requests:
            try:
                text = (self.path(run_id) / REQUEST).read_text(encoding="utf-8")
                self._requests[run_id] = RunRequest.from_dict(json.loads(text))
            except FileNotFoundError:
                return None
            except (OSError, ValueError, RecursionError, ConfigError):
                self._requests[run_id] = None
        return self._requests[run_id]


def busy(error: Timeout) -> RunError:
    """What to say where the lock was not to be had."""
    return RunError(f"{error.lock_file} is held by another program; try again in a moment.")


def _read_state(path: Path) -> StoredState:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        state = StoredState(**{f.name: values[f.name] for f in fields(StoredState)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return _damaged()
    return state if state.state in STATES else _damaged()


def _damaged() -> StoredState:
    return StoredState("failed", f"Its {STATE} is damaged; remove the run.")


def _write(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    unfinished.replace(path)
