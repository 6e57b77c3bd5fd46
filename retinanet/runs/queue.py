"""A queue of training runs: one at work, the others wait in order.

What stands on disk is the truth, and whoever moves a run holds the folder's lock: any number of
sessions, queues and processes on one folder see and move the same runs, and one run is at work.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from retinanet.run_record import RunRecord
from retinanet.runs import process
from retinanet.runs.endings import ending
from retinanet.runs.errors import RunError
from retinanet.runs.request import RunRequest
from retinanet.runs.store import AT_WORK, OUT, RunState, RunStore, StoredState, busy

POLL_SECONDS = 0.5
CANCEL_SECONDS = 30.0
CLOSE_SECONDS = 10.0
MAX_WAITING = 100


class RunQueue:
    """Runs in a folder, each in `folder/<id>`, each a process of its own. Thread-safe.

    A run that was at work when the app died is found again: one whose process lives is watched
    further, one whose process is gone is "paused" and can be resumed.

    Args:
        folder: of the runs; made when missing.
        command: what stands before `RunRequest.arguments`.
        poll_seconds: between two looks at the run at work.
        cancel_seconds: what a cancelled run has to end by itself before it is killed.

    Raises:
        RunError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str] = (sys.executable, "-m", "retinanet"),
        *,
        poll_seconds: float = POLL_SECONDS,
        cancel_seconds: float = CANCEL_SECONDS,
    ) -> None:
        self.store = RunStore(folder)
        self.command = tuple(command)
        self.poll_seconds = poll_seconds
        self.cancel_seconds = cancel_seconds
        self._children: dict[str, subprocess.Popen] = {}
        self._guard = threading.RLock()
        self._wake = threading.Event()
        self._closed = False
        self._turn = 0
        self._tend()
        self._watcher = threading.Thread(target=self._watch, name="runs", daemon=True)
        self._watcher.start()

    def submit(self, request: RunRequest) -> str:
        """Put a run at the end of the queue.

        Returns:
            Its id; the run's folder is `folder/<id>`.

        Raises:
            RunError: the queue is full or closed, or a file of the request does not exist.
        """
        request = request.absolute()
        _check_data(request)
        with self._moving():
            if sum(state.state == "queued" for state in self._states().values()) >= MAX_WAITING:
                raise RunError(f"{MAX_WAITING} runs wait already; wait, or cancel some.")
            run_id = self.store.add(request, self._next_turn())
        self._wake.set()
        return run_id

    def pause(self, run_id: str) -> None:
        """Stop a run after its current step, with a checkpoint; one that waits is taken out.

        Raises:
            RunError: there is no such run, or it is neither at work nor waiting.
        """
        with self._moving():
            state = self.store.state(run_id)
            if state.state == "queued":
                self.store.change(run_id, state="paused", sentence="Taken out of the queue.")
            elif state.state == "running":
                self._ask_to_stop(run_id, state, "pausing")
            elif state.state not in ("pausing", "paused"):
                raise _cannot("paused", state)
        self._wake.set()

    def resume(self, run_id: str) -> None:
        """Put a paused or failed run at the end of the queue, to go on from its checkpoint.

        Raises:
            RunError: there is no such run, or it is not paused and has not failed.
        """
        with self._moving():
            state = self.store.state(run_id)
            if state.state not in ("paused", "failed"):
                raise _cannot("resumed", state)
            self.store.change(run_id, state="queued", sentence="", turn=self._next_turn())
        self._wake.set()

    def cancel(self, run_id: str) -> None:
        """Give a run up: it is asked to stop, and killed when it has not after a while.

        Raises:
            RunError: there is no such run, or it has come to its end.
        """
        with self._moving():
            state = self.store.state(run_id)
            if state.state in ("running", "pausing"):
                self._ask_to_stop(run_id, state, "cancelling")
            elif state.state in ("queued", "paused", "failed"):
                self.store.change(run_id, state="cancelled", sentence="")
            elif state.state not in ("cancelling", "cancelled"):
                raise _cannot("cancelled", state)
        self._wake.set()

    def remove(self, run_id: str) -> None:
        """Delete a run and all that it has written.

        Raises:
            RunError: there is no such run, or it is at work.
        """
        with self._moving():
            if self.store.state(run_id).state in AT_WORK:
                raise RunError("A run that is at work cannot be removed; cancel it first.")
            self.store.remove(run_id)

    def get(self, run_id: str) -> RunState:
        """A run as it stands.

        Raises:
            RunError: there is no such run.
        """
        self.store.request(run_id)
        states = self._states()
        if run_id not in states:
            raise RunError("There is no such run; it was removed, or its link is wrong.")
        return self._shown(run_id, states)

    def runs(self) -> list[RunState]:
        """All runs, newest first."""
        states = self._states()
        ids = sorted(states, key=lambda run_id: states[run_id].submitted, reverse=True)
        return [self._shown(run_id, states) for run_id in ids]

    def wait(self, run_id: str, seconds: float | None = None) -> RunState:
        """Wait until a run neither waits nor is at work; the run then, or after `seconds`.

        Raises:
            RunError: there is no such run.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            run = self.get(run_id)
            late = until is not None and time.monotonic() >= until
            if late or (run.place < 0 and run.state not in AT_WORK):
                return run
            time.sleep(min(self.poll_seconds, 0.1))

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """At the end of the process: pause the run at work and wait a little for its checkpoint.

        What waits, waits on; the next queue on this folder goes on with it. A run that needs longer
        for its step goes on to its checkpoint by itself.
        """
        with self._guard:
            if self._closed:
                return
            self._closed = True
        self._wake.set()
        self._watcher.join()
        until = time.monotonic() + seconds
        with self._moving(closing=True):
            for run_id, state in self._states().items():
                if state.state == "running":
                    self._ask_to_stop(run_id, state, "pausing")
        while self._tend(starting=False) and time.monotonic() < until:
            time.sleep(min(self.poll_seconds, 0.1))

    # ------------------------------------------------------------------ moving runs

    @contextmanager
    def _moving(self, *, closing: bool = False) -> Iterator[None]:
        """Nobody else moves a run meanwhile, in this process or another."""
        with self._guard:
            if self._closed and not closing:
                raise RunError("The queue is closed.")
            try:
                with self.store.lock():
                    yield
            except Timeout as error:
                raise busy(error) from error

    def _states(self) -> dict[str, StoredState]:
        states = {}
        for run_id in self.store.ids():
            try:
                states[run_id] = self.store.state(run_id)
            except RunError:
                continue  # removed meanwhile
        return states

    def _next_turn(self) -> int:
        self._turn = max(time.time_ns(), self._turn + 1)
        return self._turn

    def _ask_to_stop(self, run_id: str, state: StoredState, becoming: str) -> None:
        kill_at = time.time() + self.cancel_seconds if becoming == "cancelling" else None
        self.store.change(run_id, state=becoming, sentence="", kill_at=kill_at)
        if self._has_process(run_id, state):
            process.ask_to_stop(state.pid)

    def _watch(self) -> None:
        while not self._closed:
            try:
                self._tend()
            except (RunError, OSError):  # no room on the disk, a lock that is held: try again
                time.sleep(self.poll_seconds)
            # Another process may submit to the same folder, so this looks even with nothing to do.
            self._wake.wait(self.poll_seconds)
            self._wake.clear()

    def _tend(self, *, starting: bool = True) -> bool:
        """Note which run has ended and start the next; whether one is at work."""
        with self._moving(closing=True):
            states = self._states()
            at_work = [run_id for run_id, state in states.items() if state.state in AT_WORK]
            still = [run_id for run_id in at_work if self._still_works(run_id, states[run_id])]
            if still or not starting or self._closed:
                return bool(still)
            # One that cannot be started has failed, and the next is tried.
            return any(self._start(run_id, states[run_id]) for run_id in _waiting(states))

    def _still_works(self, run_id: str, state: StoredState) -> bool:
        if self._has_process(run_id, state):
            if state.kill_at is not None and time.time() >= state.kill_at:
                process.kill(state.pid)
            return True
        child = self._children.pop(run_id, None)
        code = None if child is None else child.returncode
        becoming, sentence = ending(self.store.path(run_id), state, code)
        self.store.change(run_id, state=becoming, sentence=sentence, pid=None, kill_at=None)
        return False

    def _has_process(self, run_id: str, state: StoredState) -> bool:
        child = self._children.get(run_id)
        if child is not None and child.pid == state.pid:
            return child.poll() is None
        return process.is_alive(state.pid, self.store.path(run_id))

    def _start(self, run_id: str, state: StoredState) -> bool:
        folder = self.store.path(run_id)
        request = self.store.request(run_id)
        words = request.arguments(folder, folder / OUT, resume=state.attempts > 0)
        try:
            child = process.start([*self.command, *words], folder)
        except OSError as error:
            sentence = f"It could not be started: {error.strerror or error}."
            self.store.change(run_id, state="failed", sentence=sentence)
            return False
        attempts = state.attempts + 1
        try:
            changes = {"pid": child.pid, "attempts": attempts}
            self.store.change(run_id, state="running", sentence="", **changes)
        except RunError:  # a full disk: unknown to anyone it would be started again and again
            process.kill(child.pid)
            child.wait()
            raise
        self._children[run_id] = child
        return True

    def _shown(self, run_id: str, states: dict[str, StoredState]) -> RunState:
        state, folder = states[run_id], self.store.path(run_id)
        record = self.store.record(run_id, state)
        waiting = _waiting(states)
        place = waiting.index(run_id) + 1 if run_id in waiting else -1
        place = 0 if state.state in AT_WORK else place
        out = folder / OUT
        return RunState(
            id=run_id,
            request=self.store.request(run_id),
            state=state.state,
            place=place,
            sentence=_sentence(state, place, record),
            folder=folder,
            out=out if state.state == "done" and out.is_file() else None,
            record=record,
            submitted=state.submitted / 1e9,
        )


def _waiting(states: dict[str, StoredState]) -> list[str]:
    """The runs that wait, in the order in which they start."""
    ids = [run_id for run_id, state in states.items() if state.state == "queued"]
    return sorted(ids, key=lambda run_id: states[run_id].turn)


def _check_data(request: RunRequest) -> None:
    """Refuse at once what the run would refuse after it has waited for its turn."""
    for path in (request.annotations, request.val):
        if path is not None and not path.is_file():
            raise RunError(f"There is no file {path}; name the annotations of the data set.")
    for path in (request.images, request.val_images):
        if path is not None and not path.is_dir():
            raise RunError(f"There is no folder {path}; name the one that holds the images.")


def _cannot(verb: str, state: StoredState) -> RunError:
    return RunError(f"The run cannot be {verb}: it is {state.state}.")


def _sentence(state: StoredState, place: int, record: RunRecord) -> str:
    """How a run stands, for people."""
    if state.sentence:
        return state.sentence
    steps = f"step {record.step:,} of {record.steps:,}" if record.steps else "its start"
    if state.state == "queued":
        return "It is next." if place == 1 else f"{place - 1:,} of those that wait are before it."
    if state.state == "running":
        return _at_work(record, steps)
    if state.state == "pausing":
        return f"It writes a checkpoint and stops, after {steps}."
    if state.state == "cancelling":
        return f"It is being stopped, after {steps}."
    return f"{state.state.capitalize()} after {steps}."


def _at_work(record: RunRecord, steps: str) -> str:
    if record.state == "done":
        return "Its result is written."
    if record.state in ("preparing", "validating"):
        return record.sentence or f"It is {record.state}, {steps}."
    return f"At work: {steps}."
