"""Ctrl-C and SIGTERM as a wish to stop at the next good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM


class Stop:
    """Whether to stop, and because of which signal.

    Attributes:
        event: set when a signal has come.
        code: the exit code that says so, 128 + the signal's number (130 or 143); 0 before.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.code = 0


@contextmanager
def stopping(*, once: bool) -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of ending at once, while the context lasts.

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
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
