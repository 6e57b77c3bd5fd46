"""The files of a candidate store: their names, the header they share, and writing them whole."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from retinanet.coco import DatasetError, Photo

FORMAT = 1
"""Changes whenever files of an earlier version would be misread."""

HEADER = "store.json"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class StoreHeader:
    """What all files of a store have in common: `store.json`.

    Args:
        key: which model, size and precision.
        score_floor: every stored score is strictly above this.
        topk: pairs stored for a level (and those that tie with the last).
        categories: class names by label index.
        category_ids: the data set's ids by label index.
        format: `FORMAT` of the version that wrote it.
    """

    key: str
    score_floor: float
    topk: int
    categories: tuple[str | None, ...] = ()
    category_ids: tuple[int, ...] = ()
    format: int = FORMAT


def slug(key: str, score_floor: float, topk: int) -> str:
    """A folder name for a key and its limits: what is readable of the key, and a digest."""
    readable = "".join(char if char.isascii() and char.isalnum() else "-" for char in key)[:60]
    digest = hashlib.sha256(repr((FORMAT, key, float(score_floor), int(topk))).encode())
    return f"{readable}-{digest.hexdigest()[:8]}"


def file_name(photo: Photo) -> str | None:
    """A name that changes with the photo's file; None when that is gone."""
    try:
        status = photo.path.stat()
    except OSError:
        return None
    stamp = (str(photo.path.resolve()), status.st_size, status.st_mtime_ns)
    digest = hashlib.sha256(repr((stamp, photo.width, photo.height)).encode()).hexdigest()
    return f"{photo.image_id}-{digest[:16]}{SUFFIX}"


def list_files(folder: Path) -> dict[int, str]:
    """The files of a folder by image id; of several for one id the newest."""
    files = {}
    for path in sorted(folder.glob(f"*-*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns):
        image_id = path.name.partition("-")[0]
        if image_id.isascii() and image_id.isdecimal():
            files[int(image_id)] = path.name
    return files


def read_header(folder: Path) -> StoreHeader:
    """What the files of a folder have in common.

    Raises:
        DatasetError: the folder holds no store, or its header is damaged.
    """
    path = folder / HEADER
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        header = StoreHeader(**data)
        if header.format != FORMAT:
            raise ValueError(header.format)
        return replace(
            header,
            categories=tuple(header.categories),
            category_ids=tuple(map(int, header.category_ids)),
        )
    except OSError as error:
        raise DatasetError(f"{folder} holds no stored candidates; fill a store first.") from error
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path} is damaged; remove its folder and fill again.") from error


def write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from error


def unwritable(folder: Path, error: OSError) -> DatasetError:
    """The sentence for a folder that nothing can be written to."""
    return DatasetError(f"{folder} cannot be written: {error.strerror or error}.")
