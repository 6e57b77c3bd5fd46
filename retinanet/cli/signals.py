"""Ctrl-C, SIGTERM and a closed terminal as a wish to stop at the next good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM

SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Windows has no SIGHUP."""


class Stop:
    """Whether to stop, and because of which signal.

    Attributes:
        event: set when a signal has come.
        code: the exit code that says so, 128 + the signal's number (130, 143 or 129); 0 before.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.code = 0


@contextmanager
def stopping(*, once: bool) -> Iterator[Stop]:
    """Note SIGINT, SIGTERM and SIGHUP instead of ending at once, while the context lasts.

    A SIGHUP that is ignored, as under nohup, stays ignored.

    Args:
        once: a second signal of the same kind ends the process at once. torchrun sends each
            signal twice, so not there.
    """
    stop = Stop()
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        stop.code = 128 + number
        stop.event.set()
        if once:
            signal.signal(number, before[number])

    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return
    for number in SIGNALS:
        hangs_up = number not in (signal.SIGINT, signal.SIGTERM)
        if hangs_up and signal.getsignal(number) is signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
