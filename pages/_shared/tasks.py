"""Long work by name: begun once, watched by anyone, stopped by anyone, kept until let go.

A task belongs to the process and not to a session, so it outlives a page switch and a reload. Two
are at work at a time; the others wait their turn and say so.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages._shared import state
from pages._shared.engine import KNOWN_FAILURES
from retinanet.coco import DatasetError
from retinanet.engine import Cancelled
from retinanet.training import TrainingError

POLL_SECONDS = 0.5
WATCHED_SECONDS = 6 * POLL_SECONDS
"""A session that has not looked for so long watches a task no more."""

_MAX_TASKS = 32

FAILURES = (*KNOWN_FAILURES, DatasetError, TrainingError)
"""What is told to the person in the exception's own sentence; anything else is a bug."""


class Task:
    """A piece of work and where it stands.

    Args:
        what: is being done, as a sentence without its full stop.
        work: does it; it reports through this task and looks at `cancel`.
    """

    def __init__(self, what: str, work: Callable[[Task], Any]) -> None:
        self.what = what
        self.cancel = threading.Event()
        self.result: Any = None
        self.fault: BaseException | None = None
        self.done, self.total = 0, 0
        self.eta_seconds: float | None = None
        self.began: float | None = None
        self.watchers: dict[str, float] = {}  # session -> when it looked last
        self._stage = 0.0  # when what is being counted began
        self._work = work
        self._ended = threading.Event()

    @property
    def state(self) -> str:
        """One of "waiting", "working", "ready", "failed" and "cancelled"."""
        if not self._ended.is_set():
            return "waiting" if self.began is None else "working"
        if isinstance(self.fault, Cancelled):
            return "cancelled"
        return "ready" if self.fault is None else "failed"

    @property
    def sentence(self) -> str:
        """What is being done and how far it is, or why it failed."""
        if self.state == "failed":
            return str(self.fault)
        if self.state == "waiting":
            return f"{self.what}: waits for other work to end."
        count = f" {self.done:,} of {self.total:,}" if self.total else ""
        left = "" if self.eta_seconds is None else f", about {duration(self.eta_seconds)} left"
        return f"{self.what}{count}{left}."

    def tell(self, done: int, total: int) -> None:
        """How far it is; `progress` callbacks of the core have these two numbers."""
        if done < self.done or total != self.total:
            self._stage = time.monotonic()  # something else is counted: its pace is its own
        self.done, self.total = done, total
        spent = time.monotonic() - self._stage
        self.eta_seconds = spent / done * (total - done) if done and spent > 2 else None

    def wait(self, seconds: float) -> None:
        """Return when it has ended, or after this time."""
        self._ended.wait(seconds)

    def run(self) -> None:
        """Do the work, in the thread of the caller."""
        self.began = self._stage = time.monotonic()
        try:
            if not self.cancel.is_set():
                self.result = self._work(self)
            if self.cancel.is_set() and self.result is None:
                self.fault = Cancelled()
        except Exception as fault:  # told to whoever watches, see `of`
            self.fault = fault
        finally:
            self._ended.set()


class Tasks:
    """The tasks of the process by key."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="task")
        self._lock = threading.Lock()
        self._tasks: OrderedDict[Hashable, Task] = OrderedDict()

    def get(self, key: Hashable) -> Task | None:
        """The task, if it has been begun."""
        with self._lock:
            task = self._tasks.get(key)
            if task is not None:
                self._tasks.move_to_end(key)
        return task

    def start(self, key: Hashable, what: str, work: Callable[[Task], Any]) -> Task:
        """Begin it unless it is at work or done; one that failed or was stopped begins anew."""
        with self._lock:
            task = self._tasks.get(key)
            if task is None or task.state in ("failed", "cancelled"):
                task = self._tasks[key] = Task(what, work)
                self._pool.submit(task.run)
                self._let_old_ones_go()
        return task

    def forget(self, key: Hashable) -> None:
        """Stop it if it is at work, and let its result go."""
        with self._lock:
            task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel.set()

    def leave(self, key: Hashable, session: str) -> None:
        """A session asks for something else: what nobody watches any more is stopped."""
        task = self.get(key)
        if task is None or task.state not in ("waiting", "working"):
            return
        task.watchers.pop(session, None)
        since = time.monotonic() - WATCHED_SECONDS
        if all(looked < since for looked in list(task.watchers.values())):
            self.forget(key)

    def _let_old_ones_go(self) -> None:
        for key in list(self._tasks)[:-_MAX_TASKS]:
            if self._tasks[key].state not in ("waiting", "working"):
                del self._tasks[key]


@st.cache_resource(show_spinner=False)
def get_tasks() -> Tasks:
    """The process's tasks."""
    return Tasks()


def show(key: Hashable, again: str = "Try again") -> Task | None:
    """What a person sees of a task: progress and Stop, a fault and a button; None before it began.

    While it is at work the page looks again twice a second and runs anew when it has ended.

    Raises:
        Exception: what it failed with, where that is a bug and no sentence; it is let go.
    """
    task = get_tasks().get(key)
    if task is None:
        return None
    task.watchers[session()] = time.monotonic()
    if task.state in ("waiting", "working"):
        task.wait(0.15)  # quick work shows no flicker
    if task.state == "failed" and not isinstance(task.fault, FAILURES):
        get_tasks().forget(key)
        raise task.fault
    if task.state in ("waiting", "working"):
        _watch(key)
    elif task.state in ("failed", "cancelled"):
        with st.container(horizontal=True, vertical_alignment="center"):
            if task.state == "failed":
                st.error(state.plain(task.sentence))
            else:
                st.caption(f"{task.what}: stopped; what was finished is kept.")
            st.button(again, key=f"again_{hash(key)}", on_click=get_tasks().forget, args=(key,))
    return task


@st.fragment(run_every=POLL_SECONDS)
def _watch(key: Hashable) -> None:
    task = get_tasks().get(key)
    if task is None or task.state not in ("waiting", "working"):
        st.rerun()
        return
    task.watchers[session()] = time.monotonic()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(task.done / task.total if task.total else 0.0, state.plain(task.sentence))
        st.button("Stop", key=f"stop_{hash(key)}", on_click=task.cancel.set)


def session() -> str:
    """The id of the session that this runs for."""
    context = get_script_run_ctx()
    return "" if context is None else context.session_id


def duration(seconds: float) -> str:
    """A time that is left, in a unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
