"""A run as its folder shows it, read while it is written. `run_log` writes what is read here.

Nothing here raises on what a folder holds: whatever is unusable is left out and said in `fault`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATES: tuple[str, ...] = ("preparing", "running", "validating", "stopped", "done", "failed")
"""What `status.json` may say of a run."""

STEPS, VALIDATIONS, PREVIEWS = "steps.jsonl", "validations.jsonl", "previews.jsonl"
STATUS, COST = "status.json", "cost.json"

MAX_READERS = 64
"""How many folders `read_run` remembers its place in."""

MAX_DOCUMENT_BYTES = 1_000_000
"""Of `status.json` and `cost.json`, which are a kilobyte."""

HEAD_BYTES = 256


@dataclass(frozen=True)
class RunRecord:
    """A run, as plain data.

    Args:
        state: one of `STATES`; "none" where no run has begun.
        sentence: the run's own word on it, for people.
        step: steps done.
        steps: in all; 0 when not yet known.
        eta_seconds: left at the time of the last step; None unless steps are being made.
        pid: of the process; it may have gone.
        heartbeat_age: seconds since the folder was last written to; None when it never was.
        curve: one dictionary a step, the fields of `training.Progress`, in order, thinned evenly;
            the last step is always there. A number that is no finite number is None.
        validations: {"step", "AP", "AP50", ...} in order of steps.
        previews: {"step", "files"} in order of steps, the files relative to the folder.
        cost: `training_cost.Cost.to_dict()`; None when it was not measured.
        fault: which file cannot be read, in a sentence; "" when all can.
    """

    state: str = "none"
    sentence: str = ""
    step: int = 0
    steps: int = 0
    eta_seconds: float | None = None
    pid: int | None = None
    heartbeat_age: float | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    previews: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, Any] | None = None
    fault: str = ""


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The object of a whole line when it is one with a "step" of 0 or more; None otherwise."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    step = entry.get("step")
    return entry if type(step) is int and step >= 0 else None


def read_run(folder: Path, *, points: int = 2000) -> RunRecord:
    """A run as its folder shows it now; only what was added since the last call is read.

    Args:
        folder: of the run; it need not exist.
        points: at most this many points of the curve, 2 or more.
    """
    key = (Path(folder).absolute(), points)
    with _lock:
        reader = _readers.pop(key, None) or RunReader(folder, points=points)
        _readers[key] = reader
        while len(_readers) > MAX_READERS:
            _readers.popitem(last=False)
    return reader.read()


class RunReader:
    """Reads a run again and again, each time only what is new. Thread-safe.

    Args:
        folder: of the run; it need not exist.
        points: at most this many points of the curve, 2 or more.
    """

    def __init__(self, folder: Path, *, points: int = 2000) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._steps = _Tail(self.folder / STEPS, lambda: _Curve(points))
        self._validations = _Tail(self.folder / VALIDATIONS, _Latest)
        self._previews = _Tail(self.folder / PREVIEWS, _Latest)

    def read(self) -> RunRecord:
        """The run as its folder shows it now."""
        with self._lock:
            return self._read()

    def _read(self) -> RunRecord:
        curve, validations, previews = (
            tail.read().points() for tail in (self._steps, self._validations, self._previews)
        )
        status, fault = _document(self.folder / STATUS)
        cost, cost_fault = _document(self.folder / COST)
        last = curve[-1] if curve else {}
        state = status.get("state") if status else None
        state = state if state in STATES else ("running" if curve else "none")
        faults = [fault, cost_fault, self._steps.fault, self._validations.fault]
        return RunRecord(
            state=state,
            sentence=str((status or {}).get("sentence", "")),
            step=last.get("step", 0),
            steps=_count(last.get("steps")) or _count((status or {}).get("steps")),
            eta_seconds=last.get("eta_seconds") if state in ("running", "validating") else None,
            pid=_count((status or {}).get("pid")) or None,
            heartbeat_age=self._age(),
            curve=curve,
            validations=validations,
            previews=[p for p in previews if isinstance(p.get("files"), list)],
            cost=cost,
            fault=" ".join(filter(None, [*faults, self._previews.fault])),
        )

    def _age(self) -> float | None:
        times = []
        for name in (STATUS, STEPS, VALIDATIONS, PREVIEWS):
            try:
                times.append((self.folder / name).stat().st_mtime)
            except OSError:
                continue
        return max(0.0, time.time() - max(times)) if times else None


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _document(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A JSON object and what is wrong with its file; a file that is not there is not wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
        value = json.loads(content) if len(content) <= MAX_DOCUMENT_BYTES else None
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return None, f"{path.name} cannot be read."
    return value, ""


class _Latest:
    """Points by step; of a step that comes twice the later counts."""

    def __init__(self) -> None:
        self._points: dict[int, dict[str, Any]] = {}

    def add(self, point: dict[str, Any]) -> None:
        self._points[point["step"]] = point

    def points(self) -> list[dict[str, Any]]:
        return [self._points[step] for step in sorted(self._points)]


class _Curve:
    """At most `limit` of any number of points, evenly spread, and always the last.

    Every stride-th step is kept; with too many of them the stride doubles, so what is kept
    depends on the steps alone, not on when they were read.
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(2, limit)
        self._stride = 1
        self._kept: list[dict[str, Any]] = []
        self._last: dict[str, Any] | None = None

    def add(self, point: dict[str, Any]) -> None:
        step = point["step"]
        while self._kept and self._kept[-1]["step"] >= step:
            self._kept.pop()  # a resumed run does these again
        self._last = point
        if (step - 1) % self._stride == 0:
            self._kept.append(point)
        while len(self._kept) >= self.limit:
            self._stride *= 2
            self._kept = [p for p in self._kept if (p["step"] - 1) % self._stride == 0]

    def points(self) -> list[dict[str, Any]]:
        if self._last is None or (self._kept and self._kept[-1] is self._last):
            return list(self._kept)
        return [*self._kept, self._last]


class _Tail:
    """What a file of JSON lines holds, of which each reading reads only what is new.

    Args:
        path: the file; it need not exist.
        new: an empty holder with `add(point)`.
    """

    def __init__(self, path: Path, new: Callable[[], Any]) -> None:
        self.path = path
        self._new = new
        self._begin()

    def _begin(self) -> None:
        self._offset = 0
        self._head = b""
        self._holder = self._new()
        self.fault = ""

    def read(self) -> Any:
        """The holder, with every whole line of the file added."""
        try:
            with self.path.open("rb") as file:
                self._follow(file)
        except FileNotFoundError:
            self._begin()
        except OSError as error:
            self.fault = f"{self.path.name} cannot be read: {error.strerror}."
        return self._holder

    def _follow(self, file: Any) -> None:
        head = file.read(HEAD_BYTES)
        if not head.startswith(self._head) or os.fstat(file.fileno()).st_size < self._offset:
            self._begin()  # a run that was begun anew: its first line tells it from the old one
        file.seek(self._offset)
        for line in file:
            if not line.endswith(b"\n"):
                break  # being written, or torn when the writer was killed
            self._offset += len(line)
            point = parse_line(line)
            if point is not None:
                self._holder.add(point)
            elif not self.fault:
                self.fault = f"{self.path.name} has a damaged line; it was left out."
        self._head = head[: min(self._offset, HEAD_BYTES)]


_readers: OrderedDict[tuple[Path, int], RunReader] = OrderedDict()
_lock = threading.Lock()
