"""Many callers who want the same value at the same time: one makes it, the others wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any

POLL_SECONDS = 0.05
"""How late a waiting caller may notice that it was cancelled."""


class Cancelled(Exception):
    """The caller's `cancel` event was set before its work started."""


class _Abandoned(Exception):
    """Whoever was making the value gave up; those who waited for it start again."""


class SingleFlight:
    """Runs the work for a key once, however many threads ask for it meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future] = {}

    def run(
        self,
        key: Hashable,
        find: Callable[[], Any],
        make: Callable[[], Any],
        cancel: threading.Event | None = None,
    ) -> Any:
        """What `find()` returns, or when that is None what one caller's `make()` returns.

        Args:
            key: callers with equal keys share one `make`.
            find: the value if it is kept already; quick, and calls nothing here.
            make: makes the value and puts it where `find` sees it. Its error goes to everyone who
                waited and is not kept: the next caller tries again. If it raises `Cancelled`, one
                of the waiters takes over.
            cancel: set it to stop waiting for another caller's `make`.

        Raises:
            Cancelled: `cancel` was set while waiting.
        """
        while True:
            with self._lock:
                found = find()
                if found is not None:
                    return found
                flight = self._flights.get(key)
                leads = flight is None
                if leads:
                    flight = self._flights[key] = Future()
            if leads:
                return self._lead(key, flight, make)
            try:
                return _wait(flight, cancel)
            except _Abandoned:
                continue

    def _lead(self, key: Hashable, flight: Future, make: Callable[[], Any]) -> Any:
        try:
            value = make()
        except BaseException as error:
            self._land(key)
            # Only what went wrong with the value is the waiters' business.
            shared = isinstance(error, Exception) and not isinstance(error, Cancelled)
            flight.set_exception(error if shared else _Abandoned())
            raise
        self._land(key)
        flight.set_result(value)
        return value

    def _land(self, key: Hashable) -> None:
        with self._lock:
            del self._flights[key]


def _wait(flight: Future, cancel: threading.Event | None) -> Any:
    while cancel is not None and not wait([flight], timeout=POLL_SECONDS).done:
        if cancel.is_set():
            raise Cancelled
    return flight.result()
