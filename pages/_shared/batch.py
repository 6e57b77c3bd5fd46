"""Many pictures at once: one after the other in a thread, with progress and a way to stop."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from pages._shared.engine import KNOWN_FAILURES, get_engine
from retinanet.box_table import BoxTable, table_from_trace
from retinanet.config import PostprocessConfig
from retinanet.engine import Cancelled, Engine, ModelSpec
from retinanet.types import Image


@dataclass(eq=False)
class Batch:
    """A run over some pictures with one model and one set of knobs.

    Args:
        images: the pictures, in order.
        spec: the model.
        config: the knobs; they stay as they were when the run began.
    """

    images: Sequence[Image]
    spec: ModelSpec
    config: PostprocessConfig
    tables: dict[str, BoxTable] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    _cancel: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def done(self) -> int:
        """Pictures finished, for better or worse."""
        return len(self.tables) + len(self.faults)

    @property
    def running(self) -> bool:
        """Whether pictures are still being looked at."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def cancelled(self) -> bool:
        """Whether someone stopped it."""
        return self._cancel.is_set()

    def start(self) -> None:
        """Begin; returns at once."""
        # The engine is looked up here: a bare thread has no Streamlit session to look it up in.
        self._thread = threading.Thread(target=self._work, args=(get_engine(),), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop after the picture that is under way; what is finished stays."""
        self._cancel.set()

    def wait(self, seconds: float) -> None:
        """Return when it has ended, or after this time."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self, engine: Engine) -> None:
        for image in self.images:
            if self._cancel.is_set():
                return
            try:
                trace = engine.detect(image, self.spec, self.config, self._cancel)
                self.tables[image.id] = table_from_trace(trace)
            except Cancelled:
                return
            except KNOWN_FAILURES as fault:
                self.faults[image.id] = str(fault)
