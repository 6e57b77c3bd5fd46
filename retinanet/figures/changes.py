"""A comparison of two traces in words.

Takes what `retinanet.compare.compare` returns.
"""

from __future__ import annotations

from retinanet.compare import (
    MODEL,
    Change,
    Comparison,
    Detection,
    OtherFate,
    Suppressor,
    missed_threshold,
)
from retinanet.config import PostprocessConfig
from retinanet.figures.words import better_box


def comparison_sentence(comparison: Comparison) -> str:
    """The counts: "3 gained, 1 lost, 0 moved, 0 relabelled, 12 unchanged."."""
    return ", ".join(f"{count:,} {kind}" for kind, count in comparison.counts.items()) + "."


def change_sentence(
    change: Change, before_config: PostprocessConfig, after_config: PostprocessConfig
) -> str:
    """What happened to the box, which knob did it, and what the other side's ledger says.

    Args:
        change: one of `Comparison.changes`.
        before_config: `Comparison.before_config`.
        after_config: `Comparison.after_config`.
    """
    text = f"{_lead(change)}: {_cause(change, before_config, after_config)}"
    if change.fate is None:
        return f"{text}."
    if change.fate.by is not None:
        thresholds = {before_config.nms_thresh, after_config.nms_thresh}
        fate = _suppression(
            change.fate.by, _subject(change).score, thresholds, now=change.kind == "lost"
        )
    elif change.kind == "lost":
        fate = _fate(_subject(change), change.fate, after_config, "is")
    else:
        fate = _fate(_subject(change), change.fate, before_config, "was")
    return f"{text}; {'now' if change.kind == 'lost' else 'before'}, {fate}."


def _lead(change: Change) -> str:
    if change.before is None or change.after is None:
        return f"{_named(_subject(change))} {change.kind}"
    overlap = f"IoU {change.iou or 0:.2f}"
    if change.kind == "moved":
        return f"{_named(change.before)} moved to another box ({change.after.score:.2f}, {overlap})"
    return f"{_named(change.before)} relabelled {_named(change.after)} ({overlap})"


def _named(detection: Detection) -> str:
    return f"{detection.category} {detection.score:.2f}"


def _cause(
    change: Change, before_config: PostprocessConfig, after_config: PostprocessConfig
) -> str:
    turns = [_turn(knob, _subject(change), before_config, after_config) for knob in change.knobs]
    if len(turns) == 1:
        return f"{turns[0]} did it alone" if change.alone else f"it needed {turns[0]} and more"
    return f"{_listed(turns)} {'each did it alone' if change.alone else 'did it together'}"


def _turn(
    knob: str,
    subject: Detection,
    before_config: PostprocessConfig,
    after_config: PostprocessConfig,
) -> str:
    """The knob and its two values; of the floors of the classes, that of this box's class."""
    if knob == MODEL:
        return "the other model"
    first, second = (getattr(config, knob) for config in (before_config, after_config))
    if knob == "class_score_thresh":
        first, second = (dict(floors).get(subject.label) for floors in (first, second))
        if first == second:
            return "class_score_thresh of other classes"
        knob = f"class_score_thresh of {subject.category}"
    return f"{knob} {_value(first)} -> {_value(second)}"


def _value(value: float | None) -> str:
    """A whole number with separators; a threshold with two decimals, more where it has more."""
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if words[1:] else "".join(words)


def _subject(change: Change) -> Detection:
    detection = change.before or change.after
    assert detection is not None
    return detection


def _suppression(by: Suppressor, score: float, thresholds: set[float], *, now: bool) -> str:
    """With so many digits of the IoU that it does not look like a threshold it only comes near."""
    digits = (f"{by.iou:.{count}f}" for count in (2, 3, 4))
    iou = next((text for text in digits if float(text) not in thresholds), f"{by.iou:.2f}")
    verb = "suppresses" if now else "suppressed"
    box = better_box(by.score, score, by.category)
    return f"{box} ({by.score:.2f}) {verb} it at IoU {iou}"


def _fate(subject: Detection, fate: OtherFate, config: PostprocessConfig, verb: str) -> str:
    if fate.fate == "over_limit":
        return (
            f"it {verb} number {fate.place:,} after NMS, beyond detections_per_img "
            f"{config.detections_per_img:,}"
        )
    if fate.fate == "cut_by_topk":
        place = "too far down" if fate.place is None else f"number {fate.place:,}"
        return f"it {verb} {place} in its level, beyond topk_candidates {config.topk_candidates:,}"
    setting, value = missed_threshold(subject, config), config.score_thresh
    if setting == "class_score_thresh":
        setting = f"{setting} of {subject.category}"
        value = dict(config.class_score_thresh)[subject.label]
    return f"its score {verb} not above {setting} {_value(value)}"
