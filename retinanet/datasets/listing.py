"""What is in a folder or a zip: names, and the bytes behind a name."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from retinanet.coco import DatasetError
from retinanet.datasets.archives import ArchiveLimits, opened_zip, read_entry
from retinanet.images import SUFFIXES
from retinanet.single_flight import Cancelled
from retinanet.truth import shown

MAX_FILES = 1_000_000
"""In a folder that is searched: more are another folder than was meant."""


@dataclass(frozen=True)
class Listing:
    """The files of a data set.

    Args:
        names: of all files, relative to the top, with "/", sorted; hidden ones are left out.
        read: the bytes of a name, at most so many.
    """

    names: tuple[str, ...]
    read: Callable[[str, int], bytes]

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The names with these endings, in any case."""
        return [name for name in self.names if name.lower().endswith(suffixes)]

    def images(self) -> list[str]:
        """The names that are pictures by their ending."""
        return self.with_suffix(*SUFFIXES)


def folder_listing(folder: Path, cancel: threading.Event | None = None) -> Listing:
    """The files in and below a folder; links to folders are not followed.

    Raises:
        DatasetError: it cannot be read, or holds more than `MAX_FILES`.
        Cancelled: `cancel` was set.
    """
    names: list[str] = []

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{folder} cannot be searched: {error.strerror}.") from error

    for place, folders, files in os.walk(folder, onerror=refuse):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        folders[:] = [name for name in folders if not _is_hidden(name)]
        inside = Path(place).relative_to(folder)
        names += [(inside / name).as_posix() for name in files if not _is_hidden(name)]
        if len(names) > MAX_FILES:
            raise DatasetError(
                f"{folder} holds more than {MAX_FILES:,} files; name the data set's own folder."
            )

    def read(name: str, limit: int) -> bytes:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise DatasetError(f"{shown(name)} is a link out of its folder; it was not opened.")
        try:
            with path.open("rb") as file:
                return file.read(limit)
        except OSError as error:
            raise DatasetError(f"{shown(name)} cannot be read: {error.strerror}.") from error

    return Listing(tuple(sorted(names)), read)


@contextlib.contextmanager
def opened_listing(
    source: Path,
    limits: ArchiveLimits = ArchiveLimits(),  # noqa: B008 - frozen
) -> Iterator[Listing]:
    """The files of a folder or, without unpacking it, of a zip.

    Raises:
        DatasetError: there is no such thing, or the zip is not to be unpacked.
    """
    if is_folder(source):
        yield folder_listing(source)
        return
    with opened_zip(source, limits) as opened:
        files = (info.filename for info in opened.infolist() if not info.is_dir())
        names = (name for name in files if not any(map(_is_hidden, name.split("/"))))
        yield Listing(tuple(sorted(names)), partial(read_entry, opened))


def is_folder(source: Path) -> bool:
    """Whether it is a folder; else it is a file.

    Raises:
        DatasetError: it is neither.
    """
    try:
        if source.is_dir():
            return True
        if source.is_file():
            return False
    except (OSError, ValueError) as error:
        raise DatasetError(f"{shown(str(source))} cannot be opened; check the path.") from error
    raise DatasetError(f"There is no folder or zip {shown(str(source))}; check the path.")


def parent(name: str) -> str:
    """The folder of a name, "" for the top."""
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder


def join(*parts: str) -> str:
    """Parts of a name as one; empty ones are left out."""
    return "/".join(part for part in parts if part)


def stem(name: str) -> str:
    """The file's name without its folder and its last ending."""
    return PurePosixPath(name).stem


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"
