"""The one Engine of the process, and the work that is under way in it.

A page never waits for the network: it asks, draws what it has, and looks again a moment later.
"""

from __future__ import annotations

import gc
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from retinanet.checkpoints import CheckpointError
from retinanet.config import ConfigError, ModelConfig
from retinanet.engine import Engine, EngineError, ModelSpec
from retinanet.figures.candidate_table import candidate_table
from retinanet.images import ImageError
from retinanet.types import Image

FIRST_LOOK_SECONDS = 0.15
"""How long a page waits before it says that work is under way: a quick answer shows no flicker."""

KNOWN_FAILURES = (CheckpointError, ConfigError, EngineError, ImageError)
"""What is told to the person in the exception's own sentence; anything else is a bug."""

_MAX_JOBS = 256


@dataclass(frozen=True)
class Progress:
    """Where a piece of work stands.

    Args:
        state: "ready", "working" or "failed".
        sentence: what is being done, or why it failed; "" when ready.
        seconds: how long it has been going.
    """

    state: str
    sentence: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class _Job:
    future: Future
    began: float


class Jobs:
    """Work by key, done by two threads; each key is worked on once, however many ask."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="engine")
        self._lock = threading.Lock()
        self._jobs: OrderedDict[Hashable, _Job] = OrderedDict()

    def ask(self, key: Hashable, work: Callable[[], None], what: str) -> Progress:
        """Begin the work unless it has begun, and say where it stands."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                job = _Job(self._pool.submit(work), time.monotonic())
                self._jobs[key] = job
                while len(self._jobs) > _MAX_JOBS:
                    self._jobs.popitem(last=False)
        if not job.future.done():
            threading.Event().wait(0)  # lets a worker begin before the first look
            _wait(job.future, FIRST_LOOK_SECONDS)
        seconds = time.monotonic() - job.began
        if not job.future.done():
            return Progress("working", what, seconds)
        fault = job.future.exception()
        if fault is None:
            return Progress("ready")
        if isinstance(fault, KNOWN_FAILURES):
            return Progress("failed", str(fault))
        self.forget(key)
        raise fault

    def forget(self, key: Hashable) -> None:
        """Let the next `ask` begin the work anew."""
        with self._lock:
            self._jobs.pop(key, None)


def _wait(future: Future, seconds: float) -> None:
    try:
        future.exception(timeout=seconds)
    except TimeoutError:
        return  # still going: the caller looks at `done`


@st.cache_resource(show_spinner=False)
def get_engine() -> Engine:
    """The process's engine, on the best device of this machine."""
    return Engine()


@st.cache_resource(show_spinner=False)
def get_jobs() -> Jobs:
    """The process's work in progress."""
    return Jobs()


@st.cache_resource(show_spinner=False)
def checkpoint_folder() -> Path:
    """Where uploaded checkpoints lie until the server stops."""
    folder = tempfile.TemporaryDirectory(prefix="retinanet-explorer-")
    _folders.append(folder)  # deleted with this module, at the end of the process
    return Path(folder.name)


_folders: list[tempfile.TemporaryDirectory] = []


def ask_model(spec: ModelSpec) -> Progress:
    """Begin loading the model unless it is loaded, and say where that stands."""
    engine = get_engine()

    def load() -> None:
        engine.model(spec)
        # Streamlit collects garbage after each run; with torch imported that stops every thread
        # for a fifth of a second unless what is here to stay is taken out of its sight.
        gc.collect()
        gc.freeze()

    return get_jobs().ask(("model", spec), load, f"Loading the {spec_name(spec)} model")


def ask_outputs(spec: ModelSpec, image: Image) -> Progress:
    """Begin the forward of this picture unless it is there, and say where that stands."""
    model = ask_model(spec)
    if model.state != "ready":
        return model
    engine = get_engine()
    return get_jobs().ask(
        ("outputs", spec, image.id),
        lambda: _run(engine, spec, image),
        f"Running the {spec_name(spec)} model on the picture",
    )


def ask_profile(spec: ModelSpec, image: Image) -> Progress:
    """Begin measuring the model's blocks on a picture of this size, and say where it stands."""
    engine = get_engine()
    return get_jobs().ask(
        ("profile", spec, image.size),
        lambda: engine.profile(image, spec),
        f"Measuring the blocks of the {spec_name(spec)} model",
    )


def _run(engine: Engine, spec: ModelSpec, image: Image) -> None:
    # Kept by the engine's cache, not here. What the first answer derives from the outputs is made
    # now, while the page still says that work is under way.
    outputs = engine.outputs(image, spec)
    candidate_table(outputs)


def try_again(spec: ModelSpec, image_id: str) -> None:
    """Forget a failure, so that the next run tries once more."""
    get_jobs().forget(("model", spec))
    get_jobs().forget(("outputs", spec, image_id))


def spec_name(spec: ModelSpec) -> str:
    """How to call the weights in a sentence."""
    path = Path(spec.weights)
    if not path.is_absolute():
        return spec.weights
    return "uploaded" if path.parent == checkpoint_folder() else "trained"


def known_config(weights: str) -> ModelConfig | None:
    """The configuration of these weights if some model with them is loaded now."""
    for model in get_engine().info()["models"]:
        if model["weights"] == weights:
            return ModelConfig.from_dict(model["config"])
    return None
