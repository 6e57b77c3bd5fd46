"""One image's candidates as a small file: all that post-processing needs of the network.

Of each level the best pairs above a floor are kept, decoded and clipped by the very steps of
`detect` (`level_scores`, `make_head`). Read back, they take the place of what `detect` prepares
from the network's outputs, so that the rest of its code runs on them unchanged.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from retinanet.candidates import Candidates, FlatScores
from retinanet.config import ConfigError, ModelConfig, PostprocessConfig
from retinanet.level_head import Floors, LevelHead, level_scores, make_head
from retinanet.types import LEVELS, Outputs

MAX_TIED_PAIRS = 1_000_000
"""Up to so many pairs of a level above the floor, equal scores are in torchvision's order; its
choice depends on all of them, which are then kept too, 8 bytes each. Beyond, in the order of the
flat index: only a network whose scores are nearly all equal has so many."""


class StoredCandidates(Candidates):
    """The prepared levels of an image, from its file; stands in for `Candidates` in `detect`.

    Only what `detect` asks is answered (`enter`, `nms`): pairs below the floor are not there to be
    counted.

    Args:
        heads: per level, the stored pairs, best first; equal scores by flat index.
        above: per level, how many pairs of the image are above the floor.
        topk: the largest `topk_candidates` that the pairs serve.
        flat: per level where equal scores may ask for it, all pairs above the floor.
        names: class names by label index.
    """

    def __init__(
        self,
        heads: list[LevelHead],
        above: list[int],
        topk: int,
        flat: dict[int, FlatScores],
        names: tuple[str, ...],
    ) -> None:
        self._lock = threading.Lock()
        self.heads, self.totals, self.names = heads, above, names
        self.topk = topk
        self._flat = flat
        self._overlaps = None
        self._ladders, self._floored, self._columns = [], {}, {}

    def enter(
        self, outputs: Outputs, level: int, config: PostprocessConfig
    ) -> tuple[LevelHead, int]:
        """As `Candidates.enter`.

        Raises:
            ConfigError: floors of single classes leave room for pairs that were not stored.
        """
        floors = Floors.of(outputs, config)
        if floors and not self._has_all_above(level, self.heads[level], config.score_thresh):
            self._check_room(level, config, floors)
        return super().enter(outputs, level, config)

    def _check_room(self, level: int, config: PostprocessConfig, floors: Floors) -> None:
        head = self.heads[level]
        left = floors.applied(head).count_above(config.score_thresh)
        last = -float(head.negated[-1])
        if left < config.topk_candidates and not floors.none_at_most(last):
            raise ConfigError(
                f"With these floors of single classes, pairs of {LEVELS[level]} come into play "
                f"that were not stored (its best {len(head):,} are). Use a score_thresh of "
                f"{last:.2g} or more, or store the candidates again with a larger topk."
            )

    def take(self, outputs: Outputs, level: int, config: PostprocessConfig) -> int:
        """How many pairs a level sends to NMS."""
        return min(self.heads[level].count_above(config.score_thresh), config.topk_candidates)

    def count_above(
        self, outputs: Outputs, level: int, score_thresh: float, floors: Floors | None = None
    ) -> int:
        """Stored pairs above the threshold and any floor."""
        head = self.heads[level]
        return (floors.applied(head) if floors else head).count_above(score_thresh)

    def floored(self, outputs: Outputs, level: int, floors: Floors, wanted: int) -> LevelHead:
        """The stored pairs above their class's floor."""
        return floors.applied(self.heads[level])

    def _topk(
        self, outputs: Outputs, level: int, score_thresh: float, take: int, floors: Floors | None
    ) -> Tensor:
        known = self._flat.get(level)
        if known is None:  # more than MAX_TIED_PAIRS
            head = self.floored(outputs, level, floors, take) if floors else self.heads[level]
            return (head.anchors * outputs.num_classes + head.labels)[:take]
        # In NumPy: on a busy machine a tensor's mask waits for threads.
        rows = np.flatnonzero(known.scores.numpy() > np.float32(score_thresh))
        index = torch.from_numpy(known.index.numpy()[rows]).long()
        scores = torch.from_numpy(known.scores.numpy()[rows])
        if floors:
            passed = floors.passed(scores, index % outputs.num_classes)
            index, scores = index[passed], scores[passed]
        return index[scores.topk(take).indices]


@dataclass(frozen=True, eq=False)
class StoredImage:
    """One image's file, read.

    Args:
        outputs: sizes, class names and ids, and the stored candidates in place of tensors: what
            `detect` takes. It holds no features and no logits.
        candidates: the stored pairs.
        network_seconds: what the network took.
        prepare_seconds: what picking, ordering and decoding the pairs took.
    """

    outputs: Outputs
    candidates: StoredCandidates
    network_seconds: float
    prepare_seconds: float


@torch.no_grad()
def pack(outputs: Outputs, score_floor: float, topk: int) -> dict[str, np.ndarray]:
    """The arrays of an image's file.

    M = stored pairs of all levels, level after level: the best `topk` with a score strictly above
    the floor, and all that tie with the last of them.

    Returns:
        "scores" [M] float32, "anchors" [M] int32, "labels" [M] int32, "boxes" [M, 4] float32 xyxy
        in pixels of the resized image; "stored" and "above" [levels] int64; and per level where
        equal scores need it "flat_index_2" [S] int32 and "flat_scores_2" [S] float32.
    """
    heads, above, arrays = [], [], {}
    for level, logits in enumerate(outputs.cls_logits):
        scores = level_scores(logits)
        count = int((scores > score_floor).sum())
        head = _stored_head(outputs, level, scores, score_floor, topk)
        if len(head) < count <= MAX_TIED_PAIRS and head.has_ties(len(head)):
            flat = scores.flatten()
            index = (flat > score_floor).nonzero().flatten()
            arrays[f"flat_index_{level}"] = index.int().cpu().numpy()
            arrays[f"flat_scores_{level}"] = flat[index].cpu().numpy()
        heads.append(head)
        above.append(count)
    arrays["scores"] = np.concatenate([-head.negated for head in heads])
    for name in ("anchors", "labels"):
        column = torch.cat([getattr(head, name) for head in heads])
        arrays[name] = column.int().cpu().numpy()
    arrays["boxes"] = torch.cat([head.boxes for head in heads]).cpu().numpy()
    arrays["stored"] = np.array([len(head) for head in heads])
    arrays["above"] = np.array(above)
    return arrays


def _stored_head(
    outputs: Outputs, level: int, scores: Tensor, score_floor: float, topk: int
) -> LevelHead:
    head = make_head(outputs, level, scores, topk)
    if len(head) == topk and topk < scores.numel():
        reached = int((scores >= head.scores[-1]).sum())
        if topk < reached <= MAX_TIED_PAIRS:
            head = make_head(outputs, level, scores, reached)
    return head.where(head.scores > score_floor)


def to_bytes(
    outputs: Outputs,
    score_floor: float,
    topk: int,
    network_seconds: float,
    prepare_seconds: float,
    arrays: dict[str, np.ndarray],
) -> bytes:
    """An image's file: `pack`'s arrays, and beside them what is not an array."""
    meta = {
        "image_size": outputs.image_size,
        "original_size": outputs.original_size,
        "num_classes": outputs.num_classes,
        "score_floor": score_floor,
        "topk": topk,
        "network_seconds": network_seconds,
        "prepare_seconds": prepare_seconds,
    }
    return save(arrays, {"image": json.dumps(meta)})


def from_bytes(
    data: bytes, categories: tuple[str | None, ...], category_ids: tuple[int, ...]
) -> StoredImage:
    """An image's file, read.

    Args:
        data: of `to_bytes`.
        categories: class names by label index.
        category_ids: the data set's ids by label index.

    Raises:
        ValueError: it is no such file, or damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        meta = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["image"])
        arrays = load(data)
        outputs = _bare_outputs(meta, categories, category_ids)
        candidates = _candidates(arrays, meta, outputs)
        seconds = (float(meta["network_seconds"]), float(meta["prepare_seconds"]))
    except (SafetensorError, KeyError, TypeError, IndexError, ValueError, RuntimeError) as error:
        raise ValueError("no file of stored candidates") from error
    outputs.derived("candidates", lambda _: candidates)
    return StoredImage(outputs, candidates, *seconds)


def _bare_outputs(
    meta: dict[str, Any], categories: tuple[str | None, ...], category_ids: tuple[int, ...]
) -> Outputs:
    classes = int(meta["num_classes"])
    height, width = (int(side) for side in meta["image_size"])
    size = (height, width)
    empty = [torch.zeros(0, 4) for _ in LEVELS]
    return Outputs(
        features={},
        cls_logits=[torch.zeros(0, classes) for _ in LEVELS],
        bbox_regression=empty,
        anchors=empty,
        grid_sizes=[(0, 0)] * len(LEVELS),
        image_size=size,
        padded_size=size,
        original_size=(int(meta["original_size"][0]), int(meta["original_size"][1])),
        config=ModelConfig(num_classes=classes),
        categories=categories,
        category_ids=category_ids,
    )


def _candidates(
    arrays: dict[str, np.ndarray], meta: dict[str, Any], outputs: Outputs
) -> StoredCandidates:
    ends = np.cumsum([0, *arrays["stored"].tolist()])
    heads = [_head(arrays, slice(start, end)) for start, end in pairwise(ends)]
    floor = float(meta["score_floor"])
    flat = {
        level: FlatScores(
            floor,
            torch.from_numpy(arrays[f"flat_index_{level}"]),
            torch.from_numpy(arrays[f"flat_scores_{level}"]),
        )
        for level in range(len(heads))
        if f"flat_index_{level}" in arrays
    }
    names = tuple(map(outputs.category_name, range(outputs.num_classes)))
    return StoredCandidates(heads, arrays["above"].tolist(), int(meta["topk"]), flat, names)


def _head(arrays: dict[str, np.ndarray], rows: slice) -> LevelHead:
    scores = arrays["scores"][rows]
    return LevelHead(
        scores=torch.from_numpy(scores),
        anchors=torch.from_numpy(arrays["anchors"][rows]).long(),
        labels=torch.from_numpy(arrays["labels"][rows]).long(),
        boxes=torch.from_numpy(arrays["boxes"][rows]),
        negated=-scores,
        rows=np.arange(len(scores)),
    )
