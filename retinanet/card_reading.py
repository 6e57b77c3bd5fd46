"""What a model card's measured part says, checked: a card is somebody's file.

`model_card.measure_card` writes it; here it becomes rows and sentences for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retinanet.checkpoint_metadata import MAX_NAME_CHARACTERS

ENTRY = "measured"
"""Of a card: what `measure_card` found."""


@dataclass(frozen=True)
class MetricRow:
    """A metric of the card; the ends of its interval are None where none was worked out."""

    metric: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ClassRow:
    """A class of the card: how well it is found, of how many objects, and whether ever."""

    category: str
    AP50: float
    AP: float
    objects: int
    found: bool = True


def measured(card: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The measured part of a card; None where there is none that can be used."""
    found = card.get(ENTRY)
    return found if isinstance(found, Mapping) and metric_rows(found) else None


def metric_rows(found: Mapping[str, Any]) -> list[MetricRow]:
    """The metrics, in the card's order, without those that could not be measured."""
    rows = []
    for name, entry in _mapping(found, "metrics").items():
        value = _share(entry, "value")
        if value is not None:
            rows.append(MetricRow(_name(name), value, _share(entry, "low"), _share(entry, "high")))
    return rows


def class_rows(found: Mapping[str, Any]) -> list[ClassRow]:
    """The classes, the best first."""
    listed = found.get("classes")
    rows = []
    for entry in listed if isinstance(listed, list) else []:
        values = [_share(entry, name) for name in ("AP50", "AP")]
        objects = _count(entry, "objects")
        if None not in values and objects:
            found_any = _count(entry, "found") != 0
            rows.append(ClassRow(_name(entry.get("category", "")), *values, objects, found_any))
    return sorted(rows, key=lambda row: -row.AP50)


def data_sentence(found: Mapping[str, Any]) -> str:
    """On what it was measured; "" where the card does not say."""
    data = _mapping(found, "data")
    photos, objects = _count(data, "photos"), _count(data, "objects")
    if photos is None or objects is None:
        return ""
    where = f" of {_name(data['annotations'])}" if data.get("annotations") else ""
    return f"Measured on the {photos:,} photos{where}, with {objects:,} objects."


def threshold_sentences(found: Mapping[str, Any]) -> list[str]:
    """Which thresholds were chosen and what they find; whether floors of classes would pay."""
    chosen = _mapping(found, "thresholds")
    values = _setting(chosen)
    if values is None:
        return []
    sentences = [
        f"Recommended: score_thresh {values['score_thresh']:g} and nms_thresh "
        f"{values['nms_thresh']:g}. There {values['precision']:.0%} of the boxes are right, "
        f"{values['recall']:.0%} of the objects are found, and F1 is {values['f1']:.2f}."
    ]
    best, asked = _setting(_mapping(chosen, "best_by_f1")), _share(chosen, "precision_asked_for")
    if best is not None and asked is not None:
        sentences.append(
            f"It has the best F1 of the settings with {asked:.0%} of the boxes right or more. F1 "
            f"alone is highest ({best['f1']:.2f}) at score_thresh {best['score_thresh']:g} and "
            f"nms_thresh {best['nms_thresh']:g}, with {best['precision']:.0%} right and "
            f"{best['recall']:.0%} found."
        )
    gains = _mapping(chosen, "held_out_f1")
    one, each = (_share(gains, name) for name in ("one_threshold", "floor_for_each_class"))
    if one is not None and each is not None:
        own = chosen.get("class_floors_taken") is True
        taken = "and is recommended" if own else "and all classes share one"
        sentences.append(
            "On photos that the thresholds were not chosen on, a threshold for each class gives "
            f"F1 {each:.3f} instead of {one:.3f} with one for all, {taken}."
        )
    return sentences


def size_and_speed_sentences(found: Mapping[str, Any]) -> list[str]:
    """How large the model is and how fast it was where it was measured."""
    size, speed = _mapping(found, "size"), _mapping(found, "speed")
    sentences = []
    parameters, stored = (_count(size, name) for name in ("parameters", "bytes_fp16"))
    if parameters and stored:
        sentences.append(f"{parameters:,} parameters, {stored / 1e6:.1f} MB as float16.")
    seconds, share = _number(speed, "network_seconds"), _number(speed, "share_of_800_px")
    if seconds and share:
        device = _name(speed.get("device", "an unnamed device"))
        sentences.append(
            f"The network takes {seconds:.2g} s for a photo on {device}: {share:.2f} of what it "
            "takes at the paper's 800 px."
        )
    return sentences


def _name(text: Any) -> str:
    """A name as it can be shown anywhere."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:MAX_NAME_CHARACTERS])


def _setting(entry: Mapping[str, Any]) -> dict[str, float] | None:
    """A setting and what it finds; None where any of it is missing."""
    names = ("score_thresh", "nms_thresh", "precision", "recall", "f1")
    values = {name: _share(entry, name) for name in names}
    known = {name: value for name, value in values.items() if value is not None}
    return known if len(known) == len(names) else None


def _mapping(entry: Any, name: str) -> Mapping[str, Any]:
    found = entry.get(name) if isinstance(entry, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _number(entry: Any, name: str) -> float | None:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e15 else None  # also refuses nan


def _share(entry: Any, name: str) -> float | None:
    value = _number(entry, name)
    return value if value is not None and value <= 1 else None


def _count(entry: Any, name: str) -> int | None:
    value = _number(entry, name)
    return int(value) if value is not None and value == int(value) else None
