"""Why an object that someone drew was missed, and the smallest change that would bring it in.

The inquest looks at every (anchor, class) pair whose decoded box fits the drawn one, however low
its score, and follows them through `detect`'s ledger of fates.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from retinanet.box_table import find_row
from retinanet.candidates import FATES
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.detection import DetectionTrace, detect
from retinanet.explain import place_of_anchor
from retinanet.nms import pairwise_iou
from retinanet.remedy import Fix, find_fixes
from retinanet.target import Pair, Standing, Target, kept_on, original_anchors, original_boxes
from retinanet.types import Outputs

VERDICTS: tuple[str, ...] = ("found", "other_class", *FATES[:-1], "no_box")
"""What an inquest can find; those in the middle are the fates of `DetectionTrace.counts`."""

NEAREST_ANCHORS = 5
BEST_CLASSES = 5


@dataclass(frozen=True, eq=False)
class Inquest:
    """Why a drawn object is not among the detections. Plain data but for `config`.

    Boxes are xyxy in pixels of the original picture, IoUs with the drawn box unless said otherwise.

    Args:
        verdict: "found": a detection finds it; "other_class": only one of another class does (when
            a label was given); "below_thresh", "cut_by_topk", "suppressed", "over_limit": what
            became of `candidate`; "no_box": no anchor's box reaches `match_iou`.
        box: the drawn one, clipped to the picture.
        label, category: the class it must have; None for any.
        match_iou: from this IoU on a box finds it.
        num_anchors: of all levels.
        anchors_matching: anchors that, before any regression, reach `match_iou`.
        boxes_matching: anchors whose decoded box reaches it.
        pairs_matching: the (anchor, class) pairs that find it: those boxes times the classes, or
            times 1 where a label was given.
        nearest_anchors: the 5 of highest IoU: {"level", "anchor", "cell", "anchor_shape", "iou",
            "box"}, the first four as in `DetectionTrace.explain`.
        best_box: the decoded box of highest IoU, in the same form; None where none overlaps.
        best_classes: {"label", "category", "score"} of the 5 classes that score best among the
            matching boxes.
        candidate: the pair that finds it and comes nearest to being kept: of the furthest fate, and
            of those the best score. {"pair", "level", "anchor", "cell", "anchor_shape", "label",
            "category", "score", "iou", "box", "fate", "rank", "topk", "score_thresh", "position",
            "limit", "suppressed_by"}: "pair" as in `BoxTable.pairs`; "rank" is 1 + the pairs of its
            level with a larger score, whatever the thresholds; "score_thresh" the threshold of its
            class; "position" that after NMS; "suppressed_by" None or {"label", "category", "score",
            "iou" (with the candidate, as NMS computed it), "nms_thresh", "box"}. None for "no_box".
        detection: for "found" the detection that finds it, for "other_class" that of the other
            class: {"index", "label", "category", "score", "iou", "box"}; else None.
        fix: the smallest change found after which a detection finds it: {"changes": {knob: value},
            "size", "detection"}; see `retinanet.remedy.find_fixes` for its measure and its bounds.
            None where it is found already, or no such change was found.
        alternatives: the other fixes of one knob, the nearest first.
        config: the settings that made this.
    """

    verdict: str
    box: tuple[float, float, float, float]
    label: int | None
    category: str | None
    match_iou: float
    num_anchors: int
    anchors_matching: int
    boxes_matching: int
    pairs_matching: int
    nearest_anchors: list[dict[str, Any]]
    best_box: dict[str, Any] | None
    best_classes: list[dict[str, Any]]
    candidate: dict[str, Any] | None
    detection: dict[str, Any] | None
    fix: Fix | None
    alternatives: list[Fix]
    config: PostprocessConfig

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, ready for JSON."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**plain, "box": list(self.box), "config": self.config.to_dict()}

    def fixed_config(self, fix: Fix) -> PostprocessConfig:
        """The settings with a fix applied."""
        return replace(self.config, **fix["changes"])


@torch.no_grad()
def why_not(
    outputs: Outputs,
    box: Sequence[float],
    label: int | None = None,
    config: PostprocessConfig | None = None,
    *,
    match_iou: float = 0.5,
) -> Inquest:
    """Why an object is not among the detections.

    Args:
        outputs: of the model, for one image.
        box: xyxy, pixels of the original picture; what lies outside the picture is cut off.
        label: the class that it must be detected as; None for any.
        config: the settings; the defaults are torchvision's.
        match_iou: a box finds the object from this IoU on, above 0 and at most 1.

    Raises:
        ConfigError: the box is not four finite numbers or has no area within the picture, the label
            is none of the model's, or `match_iou` is out of range.
    """
    drawn = check_box(box, outputs.original_size)
    label = _checked_label(label, outputs)
    check_match_iou(match_iou)
    config = config or PostprocessConfig()
    target = Target.of(outputs, drawn, label, float(match_iou))
    trace = detect(outputs, config)
    standing = Standing.of(trace, target)
    pair, fate = _nearest_to_kept(standing, target)
    found = standing.detection
    other = None if found else kept_on(trace, target, other=True)
    fix, alternatives = (None, []) if found or pair is None else find_fixes(target, standing)
    anchors = original_anchors(outputs)
    anchor_iou = pairwise_iou(drawn, anchors.astype(np.float64))
    return Inquest(
        verdict="found" if found else "other_class" if other else fate,
        box=tuple(drawn.tolist()),
        label=label,
        category=None if label is None else trace.categories[label],
        match_iou=target.match_iou,
        num_anchors=outputs.num_anchors,
        anchors_matching=int(np.count_nonzero(anchor_iou >= match_iou)),
        boxes_matching=len(target.anchors),
        pairs_matching=len(target.anchors) * (outputs.num_classes if label is None else 1),
        nearest_anchors=[
            _anchor_and_box(outputs, index, anchor_iou, anchors)
            for index in _largest(anchor_iou, NEAREST_ANCHORS)
        ],
        best_box=_best_box(target),
        best_classes=_best_classes(target, trace),
        candidate=None if pair is None else _candidate(standing, target, pair, fate),
        detection=found or other,
        fix=fix,
        alternatives=alternatives,
        config=config,
    )


def check_box(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """A drawn box, [4] float64, clipped to the picture.

    Args:
        box: xyxy, pixels of the picture.
        size: (height, width) of the picture.

    Raises:
        ConfigError: it is not four finite numbers, or has no area within the picture.
    """
    try:
        edges = list(box)
    except TypeError:
        edges = []
    if len(edges) != 4 or not all(map(_is_number, edges)):
        raise ConfigError(f"The box must be four finite numbers x1, y1, x2, y2, not {box!r}.")
    drawn = np.array([float(edge) for edge in edges])
    if not (drawn[0] < drawn[2] and drawn[1] < drawn[3]):
        raise ConfigError(f"The box {_shown(drawn)} has no area: it needs x1 < x2 and y1 < y2.")
    height, width = size
    inside = np.clip(drawn, 0, [width, height, width, height])
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        raise ConfigError(
            f"The box {_shown(drawn)} lies outside the picture of {width} x {height} pixels."
        )
    return inside


def check_match_iou(match_iou: float) -> None:
    """Refuse what no IoU can reach.

    Raises:
        ConfigError: it is not above 0 and at most 1.
    """
    if not (_is_number(match_iou) and 0 < match_iou <= 1):
        raise ConfigError(f"match_iou must be above 0 and at most 1, not {match_iou!r}.")


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool | str) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(box: np.ndarray) -> str:
    return " ".join(f"{edge:g}" for edge in box)


def _checked_label(label: int | None, outputs: Outputs) -> int | None:
    if label is None:
        return None
    try:
        number = operator.index(label)
    except TypeError:
        number = -1
    if isinstance(label, bool) or not 0 <= number < outputs.num_classes:
        raise ConfigError(
            f"The label must be from 0 to {outputs.num_classes - 1}, the model's classes, not "
            f"{label!r}."
        )
    return number


def _nearest_to_kept(standing: Standing, target: Target) -> tuple[Pair | None, str]:
    """The pair that finds the object and got furthest, of those the best-scored; and its fate."""
    config = standing.trace.config
    if standing.detection is not None:
        survivors = standing.trace.survivors
        return standing.entered_pair(int(survivors[standing.detection["index"]])), "kept"
    if standing.best_survivor is not None:
        return standing.best_survivor, "over_limit"
    if standing.best_suppressed is not None:
        return standing.best_suppressed, "suppressed"
    passing = target.passing(config)
    if (cut := target.best(passing)) is not None:
        return cut, "cut_by_topk"
    below = target.best(~passing)
    return below, "no_box" if below is None else "below_thresh"


def _candidate(standing: Standing, target: Target, pair: Pair, fate: str) -> dict[str, Any]:
    trace, outputs = standing.trace, target.outputs
    score, rank = target.rank(pair)
    index = sum(outputs.anchors_per_level[: pair.level]) + pair.anchor
    number = index * outputs.num_classes + pair.label
    return {
        "pair": number,
        **_anchor_and_box(outputs, index, target.iou, original_boxes(outputs)),
        "label": pair.label,
        "category": trace.categories[pair.label],
        "score": score,
        "fate": fate,
        "rank": rank,
        "topk": trace.config.topk_candidates,
        "score_thresh": _threshold(trace.config, pair.label),
        "position": _position(standing),
        "limit": trace.config.detections_per_img,
        "suppressed_by": _suppressor(trace, number) if fate == "suppressed" else None,
    }


def _position(standing: Standing) -> int | None:
    """Of the best survivor of NMS that finds the object, 1 for the best of all."""
    if standing.detection is not None:
        return standing.detection["index"] + 1
    return int(standing.survived[0]) + 1 if len(standing.survived) else None


def _threshold(config: PostprocessConfig, label: int) -> float:
    """What the score of a class must be above."""
    return max(config.score_thresh, dict(config.class_score_thresh).get(label, 0.0))


def _suppressor(trace: DetectionTrace, number: int) -> dict[str, Any] | None:
    row = find_row(trace, number)
    by = -1 if row is None else int(trace.suppressed_by[row])
    if by < 0:
        return None
    table = trace.candidates
    label = int(table.label[by])
    return {
        "label": label,
        "category": trace.categories[label],
        "score": float(table.score[by]),
        "iou": float(trace.suppressed_iou[row]),
        "nms_thresh": trace.config.nms_thresh,
        "box": table.box_original[by].tolist(),
    }


def _anchor_and_box(
    outputs: Outputs, index: int, iou: np.ndarray, boxes: np.ndarray
) -> dict[str, Any]:
    """An anchor by its index over all levels, with its row of `iou` [R] and `boxes` [R, 4]."""
    ends = np.cumsum(outputs.anchors_per_level)
    level = int(np.searchsorted(ends, index, side="right"))
    anchor = int(index - (ends[level - 1] if level else 0))
    return {
        **place_of_anchor(outputs, level, anchor),
        "iou": float(iou[index]),
        "box": boxes[index].tolist(),
    }


def _largest(values: np.ndarray, count: int) -> list[int]:
    """Indices of the largest values above 0, largest first; the first of equals."""
    near = np.flatnonzero(values > 0)
    if len(near) > count:
        near = near[values[near] >= np.partition(values[near], -count)[-count]]
    return near[np.argsort(-values[near], kind="stable")][:count].tolist()


def _best_box(target: Target) -> dict[str, Any] | None:
    best = _largest(target.iou, 1)
    boxes = original_boxes(target.outputs)
    return _anchor_and_box(target.outputs, best[0], target.iou, boxes) if best else None


def _best_classes(target: Target, trace: DetectionTrace) -> list[dict[str, Any]]:
    if not len(target.scores):
        return []
    best = target.scores.max(axis=0)
    return [
        {"label": label, "category": trace.categories[label], "score": float(best[label])}
        for label in np.argsort(-best, kind="stable")[:BEST_CLASSES].tolist()
    ]
