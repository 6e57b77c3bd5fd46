"""Where the server keeps what is too large for a session: data sets, runs, candidates on disk."""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st

from retinanet.coco import DatasetError

FOLDER = "RETINANET_EXPLORER_FOLDER"
"""The environment variable that names another place than `runs/app` beside app.py."""


_HERE = frozenset(("127.0.0.1", "localhost", "::1", "[::1]"))


def place(*parts: str) -> Path:
    """Where a folder of the workroom lies, whether it is there or not."""
    root = os.environ.get(FOLDER)
    base = Path(root) if root else Path(__file__).parents[2] / "runs" / "app"
    return base.joinpath(*parts)


def folder(*parts: str) -> Path:
    """A folder of the workroom, made when it is missing.

    Raises:
        DatasetError: it cannot be made.
    """
    path = place(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(
            f"The server's folder {path.name} cannot be made: {error.strerror}; make room, or name "
            f"another place with {FOLDER}."
        ) from error
    return path


def is_local() -> bool:
    """Whether only this machine's own people can reach the server: they may name its folders.

    Behind a proxy on this machine the address is its own, too; the hosts that the server answers
    to then tell.
    """
    hosts = set(st.get_option("server.allowedHosts"))
    return st.get_option("server.address") in _HERE and bool(hosts) and hosts <= _HERE
