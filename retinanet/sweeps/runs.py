"""One photo's detections under many settings, with as few runs of NMS as exactness allows.

Three facts save work. NMS is greedy by score, so what it keeps at a score threshold is, above a
higher one, what it keeps there. The `topk_candidates` best of a level above the higher threshold
are a prefix of those above the lower one. And `detections_per_img` cuts a prefix off what is kept.

Two things spoil the first fact in the last bit: torchvision shifts classes apart by the largest
coordinate of all boxes that enter NMS, and only up to a number of them, which rounds IoUs; and
`torch.topk` may order equal scores differently. So thresholds share a run of NMS only where the
same pairs enter in the same order and the shift is the same; then nothing can differ from `detect`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from retinanet.candidates import selected
from retinanet.config import PostprocessConfig
from retinanet.images import resize_boxes
from retinanet.level_head import LevelHead
from retinanet.nms import coordinate_trick_limit
from retinanet.sweeps.grid import Grid
from retinanet.sweeps.stored import StoredImage


@dataclass(frozen=True, eq=False)
class Entry:
    """What enters NMS from one score threshold on. E = number of pairs, level after level.

    Args:
        heads, takes: of `Candidates.enter`, per level.
        pairs: [E] int64 (level, anchor, class) as one number.
        scores: [E] float32.
        shift: the largest coordinate, by which classes are shifted apart; None where they are not.
        first, last: places of the thresholds that it serves.
    """

    heads: tuple[LevelHead, ...]
    takes: tuple[int, ...]
    pairs: np.ndarray
    scores: np.ndarray
    shift: float | None
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Run:
    """What is kept, from one score threshold to another. N = number of detections.

    Args:
        pairs: [N] int64, as in `Entry`.
        scores: [N] float32, descending.
        labels: [N] int64.
        boxes: [N, 4] float64 [x, y, width, height] in pixels of the original photo, as COCO's
            results have them.
        first, last: places of the thresholds that it serves: at each, those above it are kept.
    """

    pairs: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    first: int
    last: int


def runs_of(
    image: StoredImage, grid: Grid, floors: Sequence[tuple[int, float]] = ()
) -> Iterator[tuple[int, float, list[Run]]]:
    """(topk_candidates, nms_thresh, its runs) for all of the grid.

    Args:
        image: one photo's stored candidates.
        grid: the settings.
        floors: `PostprocessConfig.class_score_thresh` of all of them.
    """
    for topk in reversed(grid.topk_candidates):  # the largest first: it prepares all overlaps
        entries = _entries(image, grid, topk, floors)
        for nms_thresh in grid.nms_thresh:
            runs: list[Run] = []
            for entry in entries:
                run = _run(image, entry, nms_thresh, grid.detections_per_img[-1])
                if runs and _continues(runs[-1], run, grid.score_thresh):
                    run = _joined(runs.pop(), entry.last)
                runs.append(run)
            yield topk, nms_thresh, runs


def above(scores: np.ndarray, score_thresh: float) -> np.ndarray:
    """[N] bool: strictly above the threshold, compared in float32 as torchvision does."""
    return scores > np.float32(score_thresh)


def _entries(
    image: StoredImage, grid: Grid, topk: int, floors: Sequence[tuple[int, float]]
) -> list[Entry]:
    entries: list[Entry] = []
    for place, score_thresh in enumerate(grid.score_thresh):
        config = PostprocessConfig(
            score_thresh=score_thresh, topk_candidates=topk, class_score_thresh=tuple(floors)
        )
        own = _entry(image, config, place)
        if entries and _same_input(entries[-1], own, score_thresh):
            own = _lasting(entries.pop(), place)
        entries.append(own)
    return entries


def _entry(image: StoredImage, config: PostprocessConfig, place: int) -> Entry:
    candidates, outputs = image.candidates, image.outputs
    levels = range(len(candidates.heads))
    heads, takes = zip(*(candidates.enter(outputs, level, config) for level in levels), strict=True)
    boxes, scores, labels = selected(heads, takes)
    anchors = np.concatenate(
        [head.anchors[:take].numpy() for head, take in zip(heads, takes, strict=True)]
    )
    level = np.repeat(np.arange(len(takes)), takes)
    pairs = (anchors * outputs.num_classes + labels.numpy()) * len(takes) + level
    shifts = 0 < len(boxes) <= coordinate_trick_limit("cpu")
    shift = float(boxes.max()) if shifts else None
    return Entry(heads, takes, pairs, scores.numpy(), shift, place, place)


def _same_input(known: Entry, own: Entry, score_thresh: float) -> bool:
    """Whether NMS on `own` must keep what NMS on `known` keeps above the threshold."""
    if known.shift != own.shift:
        return False
    return np.array_equal(known.pairs[above(known.scores, score_thresh)], own.pairs)


def _lasting(entry: Entry, last: int) -> Entry:
    parts = (entry.heads, entry.takes, entry.pairs, entry.scores, entry.shift, entry.first)
    return Entry(*parts, last)


def _run(image: StoredImage, entry: Entry, nms_thresh: float, limit: int) -> Run:
    kept = image.candidates.nms(entry.heads, entry.takes, nms_thresh)[:limit]
    boxes, scores, labels = (part[kept] for part in selected(entry.heads, entry.takes))
    sizes = image.outputs.image_size, image.outputs.original_size
    corners = resize_boxes(boxes, *sizes).numpy().astype(float)
    return Run(
        pairs=entry.pairs[kept.numpy()],
        scores=scores.numpy(),
        labels=labels.numpy(),
        boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        first=entry.first,
        last=entry.last,
    )


def _continues(known: Run, own: Run, thresholds: Sequence[float]) -> bool:
    """Whether a run keeps what an earlier one does above its first threshold."""
    kept = above(known.scores, thresholds[own.first])
    return np.array_equal(known.pairs[kept], own.pairs)


def _joined(run: Run, last: int) -> Run:
    return Run(run.pairs, run.scores, run.labels, run.boxes, run.first, last)
