"""The process's queue of training runs, whose runs a session sees, and the models they left."""

from __future__ import annotations

import atexit
import json
import re
from dataclasses import replace
from pathlib import Path

import streamlit as st

from pages._shared import workroom
from retinanet.runs import RunQueue, RunRequest, RunState

MODEL_FILE = "model.safetensors"


@st.cache_resource(show_spinner=False)
def get_queue() -> RunQueue:
    """The process's queue; the run at work is paused when the process ends."""
    queue = RunQueue(workroom.folder("training"))
    atexit.register(queue.close)
    return queue


def _own() -> list[str]:
    return st.session_state.setdefault("own_runs", [])


def submit(request: RunRequest) -> str:
    """Put a run into the queue and open it; returns its id.

    Raises:
        RunError: the queue does not take it.
    """
    run_id = get_queue().submit(request)
    _own().append(run_id)
    open_run(run_id)
    return run_id


def open_run(run_id: str) -> None:
    """Make this the run that the Training page shows; its id is in the link."""
    st.session_state["open_run"] = run_id


def opened() -> str:
    """The id of the run that is shown, from the session or the link; "" for none."""
    if "open_run" not in st.session_state:
        st.session_state["open_run"] = st.query_params.get("run", "")
    return st.session_state["open_run"]


def is_visible(run_id: str) -> bool:
    """Whether the session may see a run: its own, one that it has the link of, or any at home."""
    return workroom.is_local() or run_id in _own() or run_id == opened()


def visible() -> list[RunState]:
    """The runs that the session may see, newest first."""
    return [run for run in get_queue().runs() if is_visible(run.id)]


def others_waiting() -> int:
    """How many runs of other people are at work or wait."""
    return sum(run.place >= 0 and not is_visible(run.id) for run in get_queue().runs())


def is_needed(folder: Path) -> bool:
    """Whether a run that waits or is at work learns from data in a folder."""
    return any(
        run.place >= 0 and folder.absolute() in run.request.annotations.parents
        for run in get_queue().runs()
    )


def command(request: RunRequest) -> str:
    """The run as a line for a terminal; strangers are told no path of the server."""
    if not workroom.is_local():
        request = replace(
            request,
            annotations=Path("instances.json"),
            images=Path("images"),
            val=request.val and Path("val.json"),
            val_images=request.val_images and Path("val-images"),
        )
    return request.command()


def option_of(run_id: str, name: str) -> str:
    """What the choice of weights calls a trained model: readable, and the same in every link."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "run"
    return f"{slug}-{run_id[:6]}"


def trained() -> dict[str, Path]:
    """{what the choice of weights calls it: its file} of the finished runs, newest first."""
    asked = st.session_state.get("weights") or st.query_params.get("weights", "")
    found = []
    for path in workroom.place("training").glob(f"[0-9a-f]*/{MODEL_FILE}"):
        run_id = path.parent.name
        if not is_visible(run_id) and not asked.endswith(f"-{run_id[:6]}"):
            continue
        try:
            found.append((path.stat().st_mtime, option_of(run_id, _name(path.parent)), path))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # removed meanwhile, or damaged
    return {option: path for _, option, path in sorted(found, reverse=True)}


@st.cache_data(max_entries=512, show_spinner=False)
def _name(folder: Path) -> str:
    """What the run in a folder is called."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    return str(request["name"])
