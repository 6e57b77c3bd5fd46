"""The child process of a run: started on its own, found again, told to stop, killed.

A run is in a session of its own, so that Ctrl-C in the app's terminal does not reach it, and is
known by its run folder, which stands in its command line: process ids are reused, that name is
not. On Windows there are no signals to ask with: a run that is stopped there is ended at once and
loses the steps since its last checkpoint, and a run of an app that is gone is not found again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE_FOLDER = Path(__file__).parents[2]
NICENESS = 5
LOG_NAME = "run.log"
LOG_TAIL_BYTES = 4096
LINE_CHARACTERS = 500


def start(command: Sequence[str], folder: Path) -> subprocess.Popen:
    """Start a run's command; its words to people (stderr) are appended to `folder`/run.log.

    Args:
        command: the program and its arguments, `folder` among them.
        folder: of the run.

    Raises:
        OSError: there is no such program, or the log cannot be written.
    """
    with (folder / LOG_NAME).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program, and no shell reads the words
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process


def environment() -> dict[str, str]:
    """The variables of this process, with the package to be found and one core left for the app."""
    paths = [str(PACKAGE_FOLDER), os.environ.get("PYTHONPATH", "")]
    threads = str(max(1, usable_cores() - 1))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_alive(pid: int | None, folder: Path) -> bool:
    """Whether a run's process is there: one of this id whose command line names the folder."""
    return pid is not None and str(folder) in command_line(pid)


def command_line(pid: int) -> str:
    """A process's command line; "" when there is none or it has ended."""
    path = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self/cmdline").exists():
        try:
            return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    if os.name != "posix":
        return ""
    shown = subprocess.run(  # noqa: S603 - an id that we wrote ourselves
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout


def ask_to_stop(pid: int) -> None:
    """SIGTERM: finish the step, write a checkpoint, end."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGTERM)


def kill(pid: int) -> None:
    """End the run's process and what it has started, at once."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL)


def last_line(folder: Path) -> str:
    """The last words of run.log that say something, fit to print; "" when there are none."""
    try:
        with (folder / LOG_NAME).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    line = lines[-1].removeprefix("retinanet train: ") if lines else ""
    return "".join(char if char.isprintable() else "?" for char in line)[:LINE_CHARACTERS]
