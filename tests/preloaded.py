"""Processes of their own for the command line, without 4 seconds of imports for each."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from types import ModuleType

import torch

from retinanet.__main__ import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded", "retinanet.cli.train", "retinanet.previews"])


def start(
    arguments: list[str], errors: Path, environment: dict[str, str] | None = None
) -> multiprocessing.Process:
    """`python -m retinanet ARGUMENTS` in a process forked from one that has everything imported.

    Args:
        arguments: of the command line.
        errors: file for its output and errors.
        environment: variables to set there.
    """
    process = _CONTEXT.Process(target=_run, args=(arguments, errors, environment or {}))
    # The new process would run this one's main module, and AppTest leaves a page of the app there.
    main_module = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main_module
    return process


def _run(arguments: list[str], errors: Path, environment: dict[str, str]) -> None:
    with errors.open("wb", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(main(arguments))
