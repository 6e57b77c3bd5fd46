"""Kept detections as plain arrays, and as the one block of bytes that the canvas draws from."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinanet.figures.palette import LEVEL_COLORS, label_color
from retinanet.types import LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retinanet.detection import DetectionTrace


@dataclass(frozen=True, eq=False)
class BoxTable:
    """Detections of one picture, best first, without tensors.

    Args:
        boxes: [N, 4] float32 xyxy in pixels of the original picture.
        scores: [N] float32 in 0..1.
        labels: [N] int32 label index of the model.
        levels: [N] int32 index into `LEVELS`.
        pairs: [N] int32 number of the (anchor, class) pair, the same at every setting: the
            anchor's index over all levels times the classes, plus the label (`find_row`).
        names: {label: category name} for the labels that occur.
        ids: {label: the data set's category id} for the labels that occur.

    Being the detections and the names in one, it is both of what `retinanet.export` asks for.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    levels: NDArray[np.int32]
    pairs: NDArray[np.int32]
    names: Mapping[int, str]
    ids: Mapping[int, int]

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or not all(
            column.shape == (count,)
            for column in (self.scores, self.labels, self.levels, self.pairs)
        ):
            raise ValueError("BoxTable: each column must have one row per box.")

    def __len__(self) -> int:
        return len(self.boxes)

    def category_name(self, label: int) -> str:
        """The name shown for a label that occurs."""
        return self.names[label]

    def category_id(self, label: int) -> int:
        """The data set's id of a label that occurs."""
        return self.ids[label]

    def row_of(self, pair: int) -> int | None:
        """The row that shows a pair, None when it is not among the kept."""
        rows = np.flatnonzero(self.pairs == pair)
        return int(rows[0]) if len(rows) else None

    def to_plain(self) -> dict[str, Any]:
        """Lists that JSON can hold; `from_plain` reads them back."""
        return {
            "boxes": np.round(self.boxes.astype(float), 2).tolist(),
            "scores": np.round(self.scores.astype(float), 5).tolist(),
            "labels": self.labels.tolist(),
            "levels": self.levels.tolist(),
            "pairs": self.pairs.tolist(),
            "names": {str(label): name for label, name in self.names.items()},
            "ids": {str(label): number for label, number in self.ids.items()},
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> BoxTable:
        """The inverse of `to_plain`.

        Raises:
            KeyError, ValueError: a column is missing or has another length.
        """
        return cls(
            boxes=np.asarray(data["boxes"], np.float32).reshape(-1, 4),
            scores=np.asarray(data["scores"], np.float32),
            labels=np.asarray(data["labels"], np.int32),
            levels=np.asarray(data["levels"], np.int32),
            pairs=np.asarray(data["pairs"], np.int32),
            names={int(label): name for label, name in data["names"].items()},
            ids={int(label): number for label, number in data["ids"].items()},
        )

    @classmethod
    def empty(cls) -> BoxTable:
        """No detections."""
        none = np.zeros(0, np.int32)
        return cls(np.zeros((0, 4), np.float32), none.astype(np.float32), none, none, none, {}, {})


def table_from_trace(trace: DetectionTrace) -> BoxTable:
    """The kept detections of a trace as arrays; does not work out the other candidates."""
    kept = trace.survivors[: len(trace)].cpu().numpy()
    levels = np.repeat(np.arange(len(trace.takes)), trace.takes)[kept]
    heads = zip(trace.heads, trace.takes, strict=True)
    anchors = np.concatenate([head.anchors[:take].cpu().numpy() for head, take in heads])[kept]
    labels = trace.labels.cpu().numpy()
    outputs = trace.outputs
    first = np.concatenate(([0], np.cumsum(outputs.anchors_per_level)))[levels]
    occurring = sorted(set(labels.tolist()))
    return BoxTable(
        boxes=trace.boxes.cpu().numpy().astype(np.float32),
        scores=trace.scores.cpu().numpy().astype(np.float32),
        labels=labels.astype(np.int32),
        levels=levels.astype(np.int32),
        pairs=_pair(first + anchors, labels, outputs.num_classes),
        names={label: trace.categories[label] for label in occurring},
        ids={label: outputs.category_id(label) for label in occurring},
    )


def _pair(
    anchors: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.int32]:
    return (anchors * num_classes + labels).astype(np.int32)


def find_row(trace: DetectionTrace, pair: int) -> int | None:
    """The row of `trace.candidates` that is a pair; None when the trace does not list it.

    Args:
        trace: any setting's trace of the same outputs.
        pair: a number from `BoxTable.pairs`.
    """
    outputs = trace.outputs
    if not 0 <= pair < outputs.num_anchors * outputs.num_classes:
        return None
    anchor, label = divmod(pair, outputs.num_classes)
    level = 0
    while anchor >= outputs.anchors_per_level[level]:
        anchor -= outputs.anchors_per_level[level]
        level += 1
    listed = trace.candidates
    hits = (listed.level == level) & (listed.anchor == anchor) & (listed.label == label)
    rows = np.flatnonzero(hits.numpy())
    return int(rows[0]) if len(rows) else None


def pack_boxes(
    table: BoxTable,
    *,
    image_id: str,
    size: tuple[int, int],
    title: str = "",
    color_by: str = "class",
    selected: int = -1,
    status: str = "",
    watermark: str = "",
) -> bytes:
    """Everything the canvas draws over the photo, as one block.

    Layout, little-endian: uint32 length of the header; the header as JSON in UTF-8, padded to a
    multiple of 4; then float32 boxes [N, 4], float32 scores [N], int32 labels, levels and
    pairs [N].

    Args:
        table: the detections.
        image_id: `Image.id` of the photo, under which the browser holds it.
        size: (width, height) of the original picture.
        title: the picture's name, for screen readers.
        color_by: "class" or "level".
        selected: the pair to mark, -1 for none.
        status: a sentence shown over the photo, "" for none.
        watermark: words drawn across the photo, "" for none.

    The header's "stamp" names the content; the canvas repeats it once it has drawn this block.

    Raises:
        ValueError: `color_by` is neither "class" nor "level".
    """
    if color_by not in ("class", "level"):
        raise ValueError(f"color_by must be class or level, not {color_by!r}.")
    width, height = size
    header = {
        "count": len(table),
        "image_id": image_id,
        "width": width,
        "height": height,
        "title": title,
        "color_by": color_by,
        "selected": selected,
        "status": status,
        "watermark": watermark,
        "names": dict(table.names),
        "colors": {label: label_color(label) for label in table.names},
        "level_names": LEVELS,
        "level_colors": [LEVEL_COLORS[level] for level in LEVELS],
        "legend": legend(table, color_by),
    }
    columns = (
        table.boxes.astype("<f4"),
        table.scores.astype("<f4"),
        table.labels.astype("<i4"),
        table.levels.astype("<i4"),
        table.pairs.astype("<i4"),
    )
    blocks = [column.tobytes() for column in columns]
    header["stamp"] = hashlib.sha256(repr(header).encode() + b"".join(blocks)).hexdigest()[:16]
    return join_blocks(header, blocks)


def stamp_of(packed: bytes) -> str:
    """The stamp of a block from `pack_boxes`."""
    (length,) = struct.unpack_from("<I", packed)
    return json.loads(packed[4 : 4 + length])["stamp"]


def join_blocks(header: Mapping[str, Any], blocks: Sequence[bytes]) -> bytes:
    """Length, JSON header padded to 4, then the blocks one after the other."""
    text = json.dumps(header).encode()
    padding = b" " * (-len(text) % 4)
    return b"".join([struct.pack("<I", len(text)), text, padding, *blocks])


def legend(table: BoxTable, color_by: str) -> str:
    """One line that says what the colours mean."""
    if not len(table):
        return "No box passes at these settings."
    if color_by == "level":
        return "Colour: the pyramid level that found the box, finest (P3) to coarsest (P7)."
    return "Colour: the category. A dark tag names the box; the selected box is drawn thick."
