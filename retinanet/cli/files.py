"""Files that a command writes: checked before the work, written after it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from retinanet.cli.errors import UsageError


def shown(text: str) -> str:
    """A file's name as it can be printed anywhere: bytes and signs that are no text become "?"."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(char if char.isprintable() else "?" for char in text)


def check_target(target: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Refuse before the work a file that could not or must not be written after it.

    Args:
        target: the file; None is none.
        inputs: files of the person's own, which no result may replace.

    Raises:
        UsageError: it is a folder or an input, or its folder is missing or closed.
    """
    if target is None:
        return
    name = shown(str(target))
    try:
        if target.is_dir():
            raise UsageError(f"{name} is a folder; name a file.")
        if not target.parent.is_dir():
            raise UsageError(
                f"{name} cannot be written: the folder {shown(str(target.parent))} does not exist."
            )
        if not os.access(target if target.exists() else target.parent, os.W_OK):
            raise UsageError(f"{name} cannot be written: permission denied.")
        check_not_input(target, inputs)
    except OSError as error:
        raise UsageError(f"{name} cannot be written: {error.strerror}.") from error


def check_not_input(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse to replace an input.

    Raises:
        UsageError: the target is one of them, by whatever name.
    """
    if target.resolve() in {path.resolve() for path in inputs}:
        raise UsageError(
            f"{shown(str(target))} is one of the inputs and would be overwritten; name another "
            "place."
        )


def write(target: Path, data: bytes) -> None:
    """Write a file; its folder is made when only that is missing.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        reason = error.strerror or "it cannot be written"
        raise UsageError(f"{shown(str(target))} was not written: {reason}.") from error
