"""Detections as plain arrays, and where a pair stands in a trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
        pairs=pair_numbers(first + anchors, labels, outputs.num_classes),
        names={label: trace.categories[label] for label in occurring},
        ids={label: outputs.category_id(label) for label in occurring},
    )


def pair_numbers(
    anchors: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.int32]:
    """Number of each (anchor, class) pair [N], from the anchor's index over all levels [N]."""
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
