"""Zip files of strangers: looked through whole before a byte is kept, then unpacked whole.

What is refused is what such files have been used for: names that lead out of the folder, links,
devices, bombs (of ratio, of entries, of entries that share their bytes), and names that mean the
same file twice.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import stat
import struct
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from retinanet.coco import DatasetError
from retinanet.datasets.folders import made_whole
from retinanet.single_flight import Cancelled
from retinanet.truth import shown

CHUNK = 1 << 20
"""Bytes that are unpacked at a time."""

MIN_FREE_BYTES = 500_000_000
"""What unpacking leaves free on its disk: runs at work need room for their checkpoints."""

_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others are unpacked without a bound on what one step gives."""

_RATIO_FROM = 1_000_000  # bytes; small files of one colour may well shrink a thousandfold
_DIRECTORY_ENTRY = 46  # bytes of an entry in the archive's directory, without its name

# What `zipfile` raises on bytes that are not what they claim to be.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    UnicodeError,
    ValueError,
)


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold.

    Args:
        entries: files and folders.
        total_bytes: unpacked, in all.
        file_bytes: unpacked, in one file.
        ratio: unpacked to packed bytes, of the whole and of each file above a megabyte. Photos
            have 1, text 5 to 20, and deflate's limit is 1032.
        name_bytes: of an entry's whole name in UTF-8; each part may have 255.
        depth: folders in folders.
    """

    entries: int = 200_000
    total_bytes: int = 20_000_000_000
    file_bytes: int = 1_000_000_000
    ratio: float = 200.0
    name_bytes: int = 1000
    depth: int = 20


def extract_zip(
    archive: Path,
    folder: Path,
    *,
    limits: ArchiveLimits = ArchiveLimits(),
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Unpack a zip into a new folder; whole or not at all. Zips in it stay as they are.

    Args:
        archive: the file, hostile.
        folder: must not exist, or be empty.
        limits: of what is unpacked.
        progress: called with (megabytes done, megabytes in all).
        cancel: when set, nothing is left behind.

    Returns:
        `folder`.

    Raises:
        DatasetError: one sentence says what was found, and what to do.
        Cancelled: `cancel` was set.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DatasetError(f"{folder} is already there; name a folder that is not.")
    with opened_zip(archive, limits) as opened, made_whole(folder) as unfinished:
        total = sum(info.file_size for info in opened.infolist())
        free = shutil.disk_usage(unfinished).free
        if total > free - MIN_FREE_BYTES:
            raise DatasetError(
                f"The zip unpacks to {_size(total)} and the disk has {_size(free)} free; make "
                "room, or give fewer or smaller photos."
            )
        done = 0
        for info in opened.infolist():
            target = unfinished.joinpath(*_parts(info))
            if info.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            before = done
            for chunk in _chunks(opened, info, target, cancel):
                done += chunk
                if done - before > info.file_size:
                    raise _lies(info)
                if progress is not None:
                    progress(done // CHUNK, total // CHUNK)
            if done - before != info.file_size:
                raise _lies(info)
    return folder


@contextlib.contextmanager
def opened_zip(
    archive: Path,
    limits: ArchiveLimits = ArchiveLimits(),
) -> Iterator[zipfile.ZipFile]:
    """A zip to read from, once its whole directory has been found harmless.

    Raises:
        DatasetError: it is no zip, damaged, or not to be unpacked.
    """
    name = shown(archive.name)
    try:
        file = archive.open("rb")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{name} cannot be opened; check the path.") from error
    with file:
        if _directory_bytes(file, name) > limits.entries * (_DIRECTORY_ENTRY + limits.name_bytes):
            raise _too_many(limits)
        try:
            opened = zipfile.ZipFile(file)
        except (*_DAMAGE, OSError) as error:
            raise _damaged(name) from error
        with opened:
            _check(opened, archive.stat().st_size, limits)
            yield opened


def _directory_bytes(file: IO[bytes], name: str) -> int:
    """How large the archive says that its directory is, which `ZipFile` reads into memory whole.

    Found by the very function that `ZipFile` finds it with: two parsers could be told two things.
    """
    try:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    except (*_DAMAGE, OSError) as error:
        raise _damaged(name) from error
    if end is None:
        raise DatasetError(f"{name} is no zip file, or is cut short; pack the folder as a zip.")
    return end[5]


def read_entry(opened: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """The first bytes of a file in a zip, at most so many.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        with opened.open(name) as file:
            return file.read(limit)
    except (*_DAMAGE, OSError) as error:
        raise _damaged(name) from error


def _chunks(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, cancel: threading.Event | None
) -> Iterator[int]:
    """Unpack one file; the size of each piece that was written."""
    try:
        with opened.open(info) as packed, target.open("xb") as file:
            while chunk := packed.read(CHUNK):
                if cancel is not None and cancel.is_set():
                    raise Cancelled
                file.write(chunk)
                yield len(chunk)
    except _DAMAGE as error:
        raise _damaged(info.filename) from error


# What is refused


def _check(opened: zipfile.ZipFile, archive_bytes: int, limits: ArchiveLimits) -> None:
    """Refuse the archive for anything in its directory that is not plain.

    Raises:
        DatasetError: what was found.
    """
    entries = opened.infolist()
    if not entries:
        raise DatasetError("The zip is empty; pack the folder again.")
    if len(entries) > limits.entries:
        raise _too_many(limits)
    for info in entries:
        _check_name(info, limits)
        _check_kind(info)
        _check_size(info, limits)
    _check_twice(entries)
    unpacked, packed = sum(i.file_size for i in entries), sum(i.compress_size for i in entries)
    if packed > archive_bytes:
        raise DatasetError(
            "The zip's entries share their bytes, as only zip bombs do; pack the folder again."
        )
    if unpacked > limits.total_bytes:
        raise DatasetError(
            f"The zip unpacks to {_size(unpacked)}, above the limit of "
            f"{_size(limits.total_bytes)}; give fewer or smaller photos."
        )
    if unpacked > _RATIO_FROM and unpacked > limits.ratio * max(1, packed):
        raise _too_dense("The zip", unpacked, packed)


def _check_name(info: zipfile.ZipInfo, limits: ArchiveLimits) -> None:
    name = info.orig_filename  # `filename` is cut at a NUL already
    if not name or any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise _bad_name(name, "holds a sign that no file name has")
    if "\\" in name:
        raise _bad_name(name, "holds a backslash")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise _bad_name(name, "begins at the root of a disk")
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        raise _bad_name(name, "leads out of its folder")
    if "" in parts or "." in parts:
        raise _bad_name(name, "has an empty part")
    if len(parts) > limits.depth:
        raise _bad_name(name, f"has more than {limits.depth} folders in folders")
    if len(name.encode()) > limits.name_bytes or max(len(p.encode()) for p in parts) > 255:
        raise _bad_name(name, "is too long")


def _check_kind(info: zipfile.ZipInfo) -> None:
    what = shown(info.orig_filename)
    mode = stat.S_IFMT(info.external_attr >> 16)
    if stat.S_ISLNK(mode):
        raise DatasetError(f"The zip's {what} is a link; pack the files themselves.")
    wanted = stat.S_IFDIR if info.is_dir() else stat.S_IFREG
    if mode not in (0, wanted):
        raise DatasetError(
            f"The zip's {what} is no ordinary file or folder; pack photos and annotations only."
        )
    if info.flag_bits & 0x41:  # bit 0: encrypted; bit 6: strongly
        raise DatasetError(f"The zip's {what} is encrypted; pack the folder without a password.")
    if info.compress_type not in _READABLE:
        raise DatasetError(
            f"The zip's {what} is packed in a way that is not read here; pack the folder with "
            "the usual one (deflate)."
        )
    if info.is_dir() and info.file_size:
        raise DatasetError(f"The zip's folder {what} has a content; pack the folder again.")


def _check_size(info: zipfile.ZipInfo, limits: ArchiveLimits) -> None:
    what = f"The zip's {shown(info.orig_filename)}"
    if info.file_size > limits.file_bytes:
        raise DatasetError(
            f"{what} unpacks to {_size(info.file_size)}, above the limit of "
            f"{_size(limits.file_bytes)} for a file; split it or leave it out."
        )
    if info.file_size > _RATIO_FROM and info.file_size > limits.ratio * max(1, info.compress_size):
        raise _too_dense(what, info.file_size, info.compress_size)


def _check_twice(entries: list[zipfile.ZipInfo]) -> None:
    """Refuse two names that mean one file on some system, and a file that is a folder, too."""
    files: set[str] = set()
    folders: set[str] = set()
    for info in entries:
        parts = [unicodedata.normalize("NFC", part).casefold() for part in _parts(info)]
        whole = "/".join(parts)
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
        if info.is_dir():
            folders.add(whole)
        elif whole in files:
            raise _bad_name(info.orig_filename, "is there twice (in some spelling)")
        else:
            files.add(whole)
    if files & folders:
        raise _bad_name(min(files & folders), "is a file and a folder at once")


def _parts(info: zipfile.ZipInfo) -> list[str]:
    return info.orig_filename.removesuffix("/").split("/")


def _bad_name(name: str, why: str) -> DatasetError:
    return DatasetError(
        f"The zip's entry {shown(name)!r} {why}, so nothing was unpacked; pack the folder again."
    )


def _too_many(limits: ArchiveLimits) -> DatasetError:
    return DatasetError(
        f"The zip holds more than {limits.entries:,} files and folders; split the data set."
    )


def _too_dense(what: str, unpacked: int, packed: int) -> DatasetError:
    return DatasetError(
        f"{what} unpacks to {unpacked / max(1, packed):,.0f} times its size ({_size(unpacked)}), "
        "as only zip bombs do; pack the folder again."
    )


def _lies(info: zipfile.ZipInfo) -> DatasetError:
    return DatasetError(
        f"The zip's {shown(info.filename)} has not the size that it claims, so nothing was kept; "
        "pack the folder again."
    )


def _damaged(name: str) -> DatasetError:
    return DatasetError(f"{shown(name)} is damaged or cut short; copy it or pack it again.")


def _size(count: int) -> str:
    """Bytes in a unit that suits them."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,} bytes"
