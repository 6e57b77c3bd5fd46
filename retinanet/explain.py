"""The life of one candidate, from its anchor to its fate, as plain data.

And the values of each knob, moved alone, at which it would be a detection. They are exact: see
`retinanet.survival`.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from retinanet.anchors import ANCHOR_SIZES, ASPECT_RATIOS, NUM_ANCHORS
from retinanet.box_coder import decode
from retinanet.candidates import CUT, FATES, candidates_of
from retinanet.images import resize_boxes
from retinanet.level_head import Floors, LevelHead
from retinanet.nms import coordinate_trick_limit, pairwise_iou
from retinanet.survival import (
    BY_CLASS,
    Intervals,
    Rivals,
    Stretch,
    Survival,
    over_nms_thresh,
    over_score_thresh,
    over_topk,
)
from retinanet.types import LEVELS, Outputs

if TYPE_CHECKING:
    from retinanet.detection import DetectionTrace


@torch.no_grad()
def explain(trace: DetectionTrace, index: int) -> dict[str, Any]:
    """See `DetectionTrace.explain`. Sizes and boxes are in pixels, boxes xyxy.

    "changes_at" gives for each knob "kept", the list of {"from", "to", "to_included"} over which
    this candidate is a detection when that knob alone moves (None: not worked out, too many
    candidates come before it), and "survives_nms", the same without the limit on detections.
    A "to" of None means no end. Thresholds on the score are rounded to float32, as torchvision
    does; the floors of single classes stay as they are. "known_up_to" is not None where more pairs
    of a level than are prepared could matter.
    Among equal scores the order is the trace's own; torchvision may order them anew at another
    setting.
    """
    table = trace.candidates
    index = operator.index(index)  # a NumPy or tensor integer is no JSON
    if not 0 <= index < len(table):
        raise IndexError(f"There is no candidate {index}: the trace lists {len(table)}.")
    outputs = trace.outputs
    level, anchor, label = (
        int(column[index]) for column in (table.level, table.anchor, table.label)
    )
    anchor_box = outputs.anchors[level][anchor]
    deltas = outputs.bbox_regression[level][anchor]
    logits = outputs.cls_logits[level][anchor]
    decoded = decode(deltas[None], anchor_box[None])[0]
    names = _unique(trace.categories)
    position = int(table.position[index])
    return {
        "candidate": index,
        "fate": FATES[int(table.fate[index])],
        "label": label,
        "category": trace.categories[label],
        "score": float(table.score[index]),
        **place_of_anchor(outputs, level, anchor),
        "anchor_box": _numbers(anchor_box),
        "anchor_box_original": _numbers(_original(trace, anchor_box)),
        "logits": dict(zip(names, _numbers(logits), strict=True)),
        "scores": dict(zip(names, _numbers(torch.sigmoid(logits)), strict=True)),
        "deltas": dict(zip(("dx", "dy", "dw", "dh"), _numbers(deltas), strict=True)),
        "decoded_box": _numbers(decoded),
        "clipped_box": _numbers(table.box[index]),
        "box": _numbers(table.box_original[index]),
        "rank_in_level": int(table.rank[index]),
        "position_after_nms": position or None,
        "suppressed_by": _suppressor(trace, index),
        "changes_at": _changes(trace, index),
    }


def place_of_anchor(outputs: Outputs, level: int, anchor: int) -> dict[str, Any]:
    """Where an anchor stands and what it is: "level", "cell", "anchor", "anchor_shape".

    Args:
        outputs: whose grid it is.
        level: index into `LEVELS`.
        anchor: its index within the level.
    """
    cell, kind = divmod(anchor, NUM_ANCHORS)
    ratio, scale = divmod(kind, len(ANCHOR_SIZES[level]))
    row, col = divmod(cell, outputs.grid_sizes[level][1])
    x1, y1, x2, y2 = outputs.anchors[level][anchor].tolist()
    return {
        "level": LEVELS[level],
        "cell": {"row": row, "col": col},
        "anchor": anchor,
        "anchor_shape": {
            "size": ANCHOR_SIZES[level][scale],
            "scale": f"2^({scale}/{len(ANCHOR_SIZES[level])})",
            "ratio": ASPECT_RATIOS[ratio],
            "width": x2 - x1,
            "height": y2 - y1,
        },
    }


def _number(value: Tensor) -> float | None:
    return float(value) if math.isfinite(float(value)) else None  # JSON has no NaN


def _numbers(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.cpu()]


def _unique(names: tuple[str, ...]) -> list[str]:
    """The names; with the label behind them where two classes share one."""
    return [
        name if names.count(name) == 1 else f"{name} ({label})" for label, name in enumerate(names)
    ]


def _original(trace: DetectionTrace, box: Tensor) -> Tensor:
    return resize_boxes(box[None], trace.outputs.image_size, trace.outputs.original_size)[0]


def _suppressor(trace: DetectionTrace, index: int) -> dict[str, Any] | None:
    """Who suppressed a candidate; "iou" as NMS computed it, "plain_iou" of the two boxes."""
    table, by = trace.candidates, int(trace.suppressed_by[index])
    if by < 0:
        return None
    boxes = table.box.numpy()
    return {
        "candidate": by,
        "score": float(table.score[by]),
        "iou": float(trace.suppressed_iou[index]),
        "plain_iou": float(pairwise_iou(boxes[by], boxes[index])),
        "box": _numbers(table.box_original[by]),
    }


def _changes(trace: DetectionTrace, index: int) -> dict[str, Any]:
    table, config = trace.candidates, trace.config
    score, position = float(table.score[index]), int(table.position[index])
    never = Survival([], [])
    if int(table.fate[index]) == CUT:
        over_score, over_nms = never, never
    else:
        entered = _rivals(trace, index, trace.takes)
        limit = config.detections_per_img
        over_score = over_score_thresh(
            entered, _score_stretches(trace, score), config.nms_thresh, limit
        )
        max_coordinate = BY_CLASS if trace.max_coordinate is None else trace.max_coordinate
        over_nms = over_nms_thresh(entered, Stretch(0.0, math.inf, max_coordinate), limit)
    return {
        "score_thresh": {"value": score, **_described(over_score, _half_open)},
        "nms_thresh": _described(over_nms, up_to_one),
        "topk_candidates": {"value": int(table.rank[index]), **_topk_changes(trace, index)},
        "detections_per_img": {
            "value": position or None,
            "kept": whole([(position, math.inf)]) if position else [],
        },
    }


def _topk_changes(trace: DetectionTrace, index: int) -> dict[str, Any]:
    score = float(trace.candidates.score[index])
    above = [head.count_above(trace.config.score_thresh) for head in trace.heads]
    stretches = topk_stretches(trace, above)
    rivals = _rivals(trace, index, above)
    survival = over_topk(
        rivals, stretches, trace.config.nms_thresh, trace.config.detections_per_img
    )
    prepared = candidates_of(trace.outputs)
    unknown = [
        len(head)
        for level, (head, count) in enumerate(zip(trace.heads, above, strict=True))
        # Pairs that are not prepared could come before the candidate, or end the last stretch.
        if prepared.may_have_more(trace.outputs, level, trace.config, count)
        and (-float(head.negated[-1]) >= score or stretches[-1].max_coordinate != BY_CLASS)
    ]
    known_up_to = min(unknown, default=None)
    if known_up_to is not None:
        survival = Survival(
            _up_to(survival.survives, known_up_to),
            None if survival.kept is None else _up_to(survival.kept, known_up_to),
        )
    return {**_described(survival, whole), "known_up_to": known_up_to}


def _rivals(trace: DetectionTrace, index: int, counts: tuple[int, ...] | list[int]) -> Rivals:
    """The candidate and, of each level's first `counts` pairs, those before it in NMS's order."""
    table = trace.candidates
    level, rank = int(table.level[index]), int(table.rank[index])
    score = float(table.score[index])
    columns = []
    for number, (head, count) in enumerate(zip(trace.heads, counts, strict=True)):
        # Equal scores: earlier levels come first, and within a level the earlier rank.
        side = "right" if number < level else "left"
        before = int(np.searchsorted(head.negated, -np.float32(score), side=side))
        before = min(rank - 1 if number == level else before, count)
        part = slice(0, before)
        columns.append(
            (
                head.scores[part].cpu().numpy(),
                head.boxes[part].cpu().numpy(),
                head.labels[part].cpu().numpy(),
                np.arange(1, before + 1),
            )
        )
    scores, boxes, labels, ranks = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(-scores, kind="stable")
    return Rivals(
        boxes=np.concatenate([boxes[order], table.box[index].numpy()[None]]),
        labels=np.append(labels[order], int(table.label[index])),
        ranks=np.append(ranks[order], rank),
    )


def _score_stretches(trace: DetectionTrace, score: float) -> list[Stretch]:
    """Score thresholds from 0 to `score`, where the coordinates that NMS compares are the same.

    How many candidates enter NMS decides how it keeps classes apart, and by what it shifts them.
    """
    topk = trace.config.topk_candidates
    heads = [(head, min(len(head), topk)) for head in _heads_to(trace, topk)]
    scores = np.concatenate([head.scores[:count].cpu().numpy() for head, count in heads])
    reach = np.concatenate([_reach(head.boxes[:count]) for head, count in heads])
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > 0]
    scores = np.append(scores[order], np.float32(0))
    values = np.maximum.accumulate(reach[order])
    values[_trick_limit(trace) :] = BY_CLASS
    # With the threshold in [scores[n], scores[n - 1]) the first n enter.
    numbers = np.flatnonzero(scores[1:] < scores[:-1]) + 1
    numbers = numbers[scores[numbers] < np.float32(score)]
    stretches = [
        Stretch(float(scores[n]), float(scores[n - 1]), float(values[n - 1])) for n in numbers
    ]
    return _merged(stretches[::-1])


def _heads_to(trace: DetectionTrace, topk: int) -> tuple[LevelHead, ...]:
    """The heads, with the pairs that enter at a lower score threshold; without floors they do."""
    floors = Floors.of(trace.outputs, trace.config)
    if floors is None:
        return trace.heads
    prepared = candidates_of(trace.outputs)
    wanted = min(topk, _trick_limit(trace) + 1)  # beyond the limit coordinates stay as they are
    return tuple(
        head if len(head) >= wanted else prepared.floored(trace.outputs, level, floors, wanted)
        for level, head in enumerate(trace.heads)
    )


def topk_stretches(trace: DetectionTrace, above: list[int]) -> list[Stretch]:
    """The same for `topk_candidates` from 1, where `above` pairs of each level can enter."""
    topk = np.arange(1, max(above) + 1)
    entering = np.zeros(len(topk), dtype=np.int64)
    values = np.zeros(len(topk), dtype=np.float32)
    for head, count in zip(trace.heads, above, strict=True):
        if count:
            taken = np.minimum(topk, count)
            entering += taken
            furthest = np.maximum.accumulate(_reach(head.boxes[:count]))
            values = np.maximum(values, furthest[taken - 1])
    values[entering > _trick_limit(trace)] = BY_CLASS
    stops = np.append(topk[1:].astype(np.float64), math.inf)
    return _merged([Stretch(*map(float, row)) for row in zip(topk, stops, values, strict=True)])


def _reach(boxes: Tensor) -> np.ndarray:
    return boxes.amax(dim=1).cpu().numpy()


def _trick_limit(trace: DetectionTrace) -> int:
    limit = coordinate_trick_limit(trace.survivors.device.type)
    return int(min(limit, 1 << 62))


def _merged(stretches: list[Stretch]) -> list[Stretch]:
    merged: list[Stretch] = []
    for stretch in stretches:
        if merged and merged[-1].max_coordinate == stretch.max_coordinate:
            merged[-1] = merged[-1]._replace(stop=stretch.stop)
        else:
            merged.append(stretch)
    return merged


def _described(survival: Survival, describe: Any) -> dict[str, Any]:
    kept = survival.kept
    return {
        "survives_nms": describe(survival.survives),
        "kept": None if kept is None else describe(kept),
    }


def _half_open(intervals: Intervals) -> list[dict[str, Any]]:
    return [{"from": low, "to": high, "to_included": False} for low, high in intervals]


def up_to_one(intervals: Intervals) -> list[dict[str, Any]]:
    """Of a threshold that goes up to 1 inclusive."""
    return [
        {"from": low, "to": min(high, 1.0), "to_included": high > 1.0} for low, high in intervals
    ]


def whole(intervals: Intervals) -> list[dict[str, Any]]:
    """Of whole numbers: both ends count."""
    return [
        {
            "from": int(low),
            "to": None if math.isinf(high) else int(high) - 1,
            "to_included": not math.isinf(high),
        }
        for low, high in intervals
    ]


def _up_to(intervals: Intervals, last: int) -> Intervals:
    return [(low, min(high, last + 1.0)) for low, high in intervals if low <= last]
