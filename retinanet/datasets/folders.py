"""Folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from retinanet.coco import DatasetError


@contextlib.contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its name when the block ends well.

    After an exception nothing is left of it. When another process has made the folder meanwhile,
    that one stays and this one is dropped.

    Raises:
        DatasetError: it cannot be written; the sentence says why.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield unfinished
        _rename(unfinished, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _rename(unfinished: Path, folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()  # an empty one, which not every system replaces
    unfinished.chmod(0o755)  # `mkdtemp` closes it to other users
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise


def _unwritable(folder: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{folder} cannot be written: {error.strerror or error}; name another folder or make room."
    )
