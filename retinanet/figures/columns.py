"""A header and named arrays as one block of bytes: how tables travel to the browser."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pack_columns(header: Mapping[str, Any], columns: Mapping[str, NDArray]) -> bytes:
    """The header and the columns, with a stamp that names their content.

    Layout, little-endian: uint32 length of the header; the header as JSON in UTF-8, padded to a
    multiple of 4; then the columns one after the other, each padded to a multiple of 4: uint8 and
    uint16 as they are, floats as float32, other whole numbers as int32, row by row. The header
    gains "columns", a [name, "f4", "i4", "u2" or "u1", number of values] for each in order, and
    "stamp", 16 hex digits.
    """
    arrays = {name: _small(column) for name, column in columns.items()}
    header = {
        **header,
        "columns": [[name, array.dtype.str[1:], array.size] for name, array in arrays.items()],
    }
    blocks = [array.tobytes() + bytes(-array.nbytes % 4) for array in arrays.values()]
    digest = hashlib.sha256(json.dumps(header).encode())
    for block in blocks:
        digest.update(block)
    return join_blocks({**header, "stamp": digest.hexdigest()[:16]}, blocks)


def unpack_columns(packed: bytes) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """The header and the flat columns of a block from `pack_columns`."""
    (length,) = struct.unpack_from("<I", packed)
    header = json.loads(packed[4 : 4 + length])
    at = 4 + length + -length % 4
    columns = {}
    for name, kind, count in header["columns"]:
        columns[name] = np.frombuffer(packed, f"<{kind}", count, at)
        at += columns[name].nbytes + -columns[name].nbytes % 4
    return header, columns


def join_blocks(header: Mapping[str, Any], blocks: Sequence[bytes]) -> bytes:
    """Length, JSON header padded to 4, then the blocks one after the other."""
    text = json.dumps(header).encode()
    padding = b" " * (-len(text) % 4)
    return b"".join([struct.pack("<I", len(text)), text, padding, *blocks])


def _small(column: NDArray) -> NDArray:
    if column.dtype in (np.uint8, np.uint16):
        kind = column.dtype.newbyteorder("<")
    else:
        kind = "<f4" if np.issubdtype(column.dtype, np.floating) else "<i4"
    return np.ascontiguousarray(column).astype(kind)
