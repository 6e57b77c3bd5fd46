"""What became of a run whose process is no longer there."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from retinanet.run_record import RunReader, RunRecord
from retinanet.runs import process
from retinanet.runs.store import OUT, StoredState

STOPPED_CODES: tuple[int, ...] = (129, 130, 143)
"""What `train` ends with after SIGHUP, SIGINT or SIGTERM, once its checkpoint is written."""

_DIVERGED = re.compile(r"no longer a finite number in step (\d+)")


def ending(folder: Path, state: StoredState, code: int | None) -> tuple[str, str]:
    """The state and the sentence of a run that has ended.

    Args:
        folder: of the run.
        state: in which it was at work.
        code: its exit code, negative for the signal that killed it; None when its process was not
            this one's child.
    """
    record = RunReader(folder).read()
    if (code == 0 or code is None) and (folder / OUT).is_file():
        return "done", ""
    if state.state == "cancelling":
        return "cancelled", ""
    kept = _kept(folder, record)
    if code is None:
        return _unseen(folder, record, kept)
    if code in STOPPED_CODES or code == -signal.SIGTERM:
        asked = state.state == "pausing"
        return "paused", f"{'Paused' if asked else 'Stopped by a signal'}{_at(record)}. {kept}"
    if code < 0:
        return "failed", (
            f"The process was killed by signal {-code}{_at(record)}{_memory(-code)}. {kept}"
        )
    line = process.last_line(folder) or record.sentence
    if code == 0:
        line = line or "The process ended without a result."
    return "failed", line or f"The process ended with code {code} and said nothing."


def diverged_in(sentence: str) -> int | None:
    """The step in which the loss stopped being a finite number, from what the run said of it."""
    found = _DIVERGED.search(sentence)
    return int(found[1]) if found else None


def _unseen(folder: Path, record: RunRecord, kept: str) -> tuple[str, str]:
    """A run that ended while nobody was there to see its exit code."""
    if record.state == "failed":
        return "failed", record.sentence or process.last_line(folder)
    if record.state == "stopped":
        return "paused", f"Paused{_at(record)}. {kept}"
    return "paused", f"The app and the run ended{_at(record)}, for example by a restart. {kept}"


def _at(record: RunRecord) -> str:
    return f" after step {record.step:,} of {record.steps:,}" if record.step else ""


def _memory(number: int) -> str:
    return ", as it is when memory runs out" if number == getattr(signal, "SIGKILL", 9) else ""


def _kept(folder: Path, record: RunRecord) -> str:
    """What a resumed run goes on from."""
    if (folder / "last.pt").is_file():
        return "Resume it to go on from its last checkpoint."
    return "It has no checkpoint yet; resumed, it begins anew."
