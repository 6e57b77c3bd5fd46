"""Six kinds of error, and the AP50 that each costs: TIDE.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, sections
2.2 (the kinds) and 2.3 (the oracles). Where the paper leaves something open (bounds that meet, an
object that two kinds of error point at), the rule is that of the authors' code, `tidecv`. Two
things differ: what lies on a crowd is no error here, and a class without objects has no AP (COCO's
rule) rather than one of 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from retinanet.analysis.columns import corners
from retinanet.analysis.matching import FALSE, IGNORED, LEFT_OUT, TRUE, Matching, match_results
from retinanet.analysis.ranking import worst_first
from retinanet.average_precision import average_precision
from retinanet.coco import CocoDataset
from retinanet.config import ConfigError, _number

DETECTION_TYPES: tuple[str, ...] = (
    *("classification", "localisation", "both"),
    *("duplicate", "background"),
)
"""What a detection that is no true positive can be."""

MAIN_TYPES: tuple[str, ...] = (*DETECTION_TYPES, "missed")
SPECIAL_TYPES: tuple[str, ...] = ("false_positives", "false_negatives")

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)
NO_ERROR = -1


@dataclass(frozen=True, eq=False)
class ErrorTypes:
    """The errors of one setting on one data set.

    Args:
        rows: for each of `MAIN_TYPES`, then `SPECIAL_TYPES`: {"type", "count", "dAP50" (what
            `ap50` would gain with this type alone corrected, 0 to 1), "image_ids" (at most 500; by
            the sum of the scores of these errors, or the number of objects), "sentence"}. The
            special ones count again what the main ones count: every false positive, every object
            that is not found.
        counts: {"detections", "true_positives", the five types of a detection, "ignored" (on a
            crowd), "left_out" (beyond COCO's 100 of a class in a photo, or of a category that the
            data set has not), "objects", "found", "covered" (not found, but an error of class or
            place points at it), "missed"}; detections = true_positives + the five types + ignored
            + left_out, and objects = found + covered + missed.
        ap50: AP at IoU `fg_iou` in [0, 1], the mean over the classes that have objects; nan when
            there are none.
        fg_iou, bg_iou: the two bounds.
        matching: what it was read from.
        kind: [D] int8 index into `DETECTION_TYPES`, -1 for what is no error.
        missed: [G] bool.
        covered: [G] bool.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]
    ap50: float
    fg_iou: float
    bg_iou: float
    matching: Matching
    kind: np.ndarray
    missed: np.ndarray
    covered: np.ndarray

    @property
    def records(self) -> Records:
        """The errors one by one, the best score first; see `Records`."""
        return self.of_type(None)

    def of_type(self, error_type: str | None, image_id: int | None = None) -> Records:
        """The errors of one type (None: all), of one photo (None: all).

        Raises:
            ConfigError: there is no such type.
        """
        if error_type is not None and error_type not in MAIN_TYPES:
            raise ConfigError(
                f"error_types: the type must be one of {', '.join(MAIN_TYPES)}, not {error_type!r}."
            )
        matching = self.matching
        chosen = self.kind >= 0
        if error_type is not None:
            number = DETECTION_TYPES.index(error_type) if error_type in DETECTION_TYPES else -2
            chosen = self.kind == number
        missed = self.missed & (error_type in (None, "missed"))
        if image_id is not None:
            chosen = chosen & (matching.image_ids[matching.detections.photo] == image_id)
            missed = missed & (matching.image_ids[matching.objects.photo] == image_id)
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(-matching.detections.score[rows], kind="stable")]
        return Records(self, rows, np.flatnonzero(missed))

    def partner_of(self, row: int) -> tuple[int, float]:
        """The object that a detection's fate hangs on (-1 for none), and its IoU with it."""
        matching, kind = self.matching, int(self.kind[row])
        if kind == NO_ERROR:
            partner = int(matching.matched[row])
            return partner, float(matching.matched_iou[row])
        if kind in (CLASSIFICATION, BOTH):
            return int(matching.other_object[row]), float(matching.other_iou[row])
        if kind in (LOCALISATION, DUPLICATE):
            return int(matching.same_object[row]), float(matching.same_iou[row])
        return -1, float(max(matching.same_iou[row], matching.other_iou[row]))


class Records(Sequence[dict[str, Any]]):
    """Errors as plain data, made when they are read: half a million of them need no memory.

    Each is {"image_id", "file", "type", "label", "category", "score" (None for a missed object),
    "box" xyxy in pixels of the photo, "iou" (with the partner; for background the highest with any
    object), "partner": None or {"index" (among the photo's objects in `image_fates`), "label",
    "category", "box"}}. Detections come first, by score; then the missed objects.
    """

    def __init__(self, errors: ErrorTypes, rows: np.ndarray, missed: np.ndarray) -> None:
        self._errors, self._rows, self._missed = errors, rows, missed

    def __len__(self) -> int:
        return len(self._rows) + len(self._missed)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no error {index}: there are {len(self):,}.")
        index %= len(self)
        if index < len(self._rows):
            return self._detection(int(self._rows[index]))
        return self._object(int(self._missed[index - len(self._rows)]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def _detection(self, row: int) -> dict[str, Any]:
        errors, matching = self._errors, self._errors.matching
        detections = matching.detections
        partner, iou = errors.partner_of(row)
        record = _record(matching, int(detections.photo[row]), int(detections.label[row]))
        return record | {
            "type": DETECTION_TYPES[errors.kind[row]],
            "score": float(detections.score[row]),
            "box": corners(detections.bbox[row : row + 1])[0].tolist(),
            "iou": iou,
            "partner": _partner(matching, partner),
        }

    def _object(self, index: int) -> dict[str, Any]:
        matching = self._errors.matching
        objects = matching.objects
        record = _record(matching, int(objects.photo[index]), int(objects.label[index]))
        box = corners(objects.bbox[index : index + 1])[0].tolist()
        partner = _partner(matching, index)
        return (
            record
            | {"type": "missed", "score": None, "box": box, "iou": 0.0}
            | {"partner": partner}
        )


def _record(matching: Matching, photo: int, label: int) -> dict[str, Any]:
    return {
        "image_id": int(matching.image_ids[photo]),
        "file": matching.files[photo].name,
        "label": label,
        "category": matching.dataset.categories[label],
    }


def _partner(matching: Matching, index: int) -> dict[str, Any] | None:
    if index < 0:
        return None
    objects = matching.objects
    label = int(objects.label[index])
    return {
        "index": index - int(objects.starts[objects.photo[index]]),
        "label": label,
        "category": matching.dataset.categories[label],
        "box": corners(objects.bbox[index : index + 1])[0].tolist(),
    }


def error_types(
    dataset: CocoDataset,
    results: Sequence[Mapping[str, Any]] | Matching,
    *,
    fg_iou: float = 0.5,
    bg_iou: float = 0.1,
) -> ErrorTypes:
    """Sort the errors by kind and say what each kind costs.

    A detection that is no true positive (t_f = `fg_iou`, t_b = `bg_iou`; TIDE, section 2.2) is
    the first of these that fits:

    1. localisation: its best IoU with an object of its class is in [t_b, t_f];
    2. classification: its best IoU with an object of another class is t_f or more;
    3. duplicate: its best IoU with an object of its class is above t_f, and a better detection
       took that object;
    4. background: its best IoU with any object is t_b or less;
    5. both: the rest, with an object of another class between the bounds.

    An object that is not found is missed unless an error of kind 1 or 2 points at it. The oracles
    (section 2.3) correct one kind: for 1 and 2 the best-scored error that points at an object
    becomes a true positive of that object's class and the others go; for 3 to 5 the detections go;
    missed objects are not counted. The special ones drop every false positive, or count only the
    objects found. As in the authors' code a change below 0 counts as 0; a class without any object
    left is not in the mean, and with no class left AP50 is taken as 1.

    Args:
        dataset: what the results are of.
        results: COCO results of one setting, or a `Matching` at `fg_iou`.
        fg_iou: t_f, in (0, 1].
        bg_iou: t_b, in [0, t_f).

    Raises:
        ConfigError: a bound is outside its range.
        DatasetError: the results cannot be used, or the annotation file has changed.
    """
    _number("error_types", "fg_iou", fg_iou, 1e-6, 1.0)
    _number("error_types", "bg_iou", bg_iou, 0.0, 1.0)
    if bg_iou >= fg_iou:
        raise ConfigError(f"error_types: bg_iou ({bg_iou:g}) must be below fg_iou ({fg_iou:g}).")
    matching = match_results(dataset, results, iou=fg_iou)
    kind = _kinds(matching, fg_iou, bg_iou)
    corrected = _corrected(matching, kind)
    covered = np.zeros(len(matching.objects), dtype=bool)
    covered[corrected[corrected >= 0]] = True
    missed = (matching.found_by < 0) & ~matching.objects.ignored & ~covered
    oracles = _Oracles(matching, kind, corrected, missed)
    rows = [_row(name, oracles, (bg_iou, fg_iou)) for name in (*MAIN_TYPES, *SPECIAL_TYPES)]
    counts = _counts(matching, kind, missed, covered)
    return ErrorTypes(rows, counts, oracles.now, fg_iou, bg_iou, matching, kind, missed, covered)


def _kinds(matching: Matching, fg_iou: float, bg_iou: float) -> np.ndarray:
    """[D] int8: the kind of each false positive, -1 for the rest."""
    same, other = matching.same_iou, matching.other_iou
    tests = (
        (LOCALISATION, (same > 0) & (bg_iou <= same) & (same <= fg_iou)),
        (CLASSIFICATION, other >= fg_iou),
        (DUPLICATE, same >= fg_iou),
        (BACKGROUND, np.maximum(same, other) <= bg_iou),
    )
    kind = np.select([test for _, test in tests], [number for number, _ in tests], BOTH)
    return np.where(matching.fate == FALSE, kind, NO_ERROR).astype(np.int8)


def _corrected(matching: Matching, kind: np.ndarray) -> np.ndarray:
    """[D] int64: the object that this detection finds once its error is corrected, -1 for none.

    Of the errors of class and place that point at a free object the best-scored one is corrected.
    """
    target = np.where(
        kind == CLASSIFICATION,
        matching.other_object,
        np.where(kind == LOCALISATION, matching.same_object, -1),
    )
    rows = np.flatnonzero(target >= 0)
    rows = rows[matching.found_by[target[rows]] < 0]  # of a photo, the best score first
    objects, first = np.unique(target[rows], return_index=True)
    corrected = np.full(len(kind), -1)
    corrected[rows[first]] = objects
    return corrected


class _Oracles:
    """AP50 as it is, and with one type of error corrected."""

    def __init__(
        self, matching: Matching, kind: np.ndarray, corrected: np.ndarray, missed: np.ndarray
    ) -> None:
        self.matching, self.kind, self.corrected, self.missed = matching, kind, corrected, missed
        self.counted = (matching.fate == TRUE) | (matching.fate == FALSE)
        self.is_true = matching.fate == TRUE
        self.now = self._ap(self.counted, self.is_true, matching.detections.label, matching.counts)

    def gain(self, name: str) -> float:
        """What AP50 gains; nan where it cannot be measured."""
        if np.isnan(self.now):
            return float("nan")
        value = self._with(name)
        return max(0.0, (1.0 if np.isnan(value) else value) - self.now)

    def _with(self, name: str) -> float:
        label, objects = self.matching.detections.label, self.matching.counts
        if name == "missed":
            classes = self.matching.objects.label[self.missed]
            left = objects - np.bincount(classes, minlength=len(objects))
            return self._ap(self.counted, self.is_true, label, left)
        if name == "false_positives":
            return self._ap(self.is_true, self.is_true, label, objects)
        if name == "false_negatives":
            found = np.bincount(label[self.is_true], minlength=len(objects))
            return self._ap(self.counted, self.is_true, label, found)
        errors = self.kind == DETECTION_TYPES.index(name)
        put_right = errors & (self.corrected >= 0)
        label = label.copy()
        label[put_right] = self.matching.objects.label[self.corrected[put_right]]
        kept = self.counted & (~errors | put_right)
        return self._ap(kept, self.is_true | put_right, label, objects)

    def _ap(
        self, kept: np.ndarray, is_true: np.ndarray, label: np.ndarray, objects: np.ndarray
    ) -> float:
        score = self.matching.detections.score
        values = average_precision(label[kept], score[kept], is_true[kept], objects)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _row(name: str, oracles: _Oracles, bounds: tuple[float, float]) -> dict[str, Any]:
    matching, kind, missed = oracles.matching, oracles.kind, oracles.missed
    detections, objects = matching.detections, matching.objects
    if name in ("missed", "false_negatives"):
        chosen = missed if name == "missed" else (matching.found_by < 0) & ~objects.ignored
        images, weights = matching.image_ids[objects.photo[chosen]], None
    else:
        chosen = kind >= 0
        if name != "false_positives":
            chosen = kind == DETECTION_TYPES.index(name)
        images, weights = matching.image_ids[detections.photo[chosen]], detections.score[chosen]
        weights = weights.clip(0)
    count, gain = int(chosen.sum()), oracles.gain(name)
    return {
        "type": name,
        "count": count,
        "dAP50": gain,
        "image_ids": worst_first(images, weights),
        "sentence": _sentence(name, count, gain, bounds),
    }


_SENTENCES: dict[str, tuple[str, str]] = {
    "classification": (
        "detection fits an object (IoU {iou:g} or more) but names another class",
        "detections fit an object (IoU {iou:g} or more) but name another class",
    ),
    "localisation": (
        "detection has the right class but overlaps its object too little (IoU {low:g} to {iou:g})",
        "detections have the right class but overlap their object too little "
        "(IoU {low:g} to {iou:g})",
    ),
    "both": (
        "detection names another class and overlaps the object too little (IoU {low:g} to {iou:g})",
        "detections name another class and overlap the object too little (IoU {low:g} to {iou:g})",
    ),
    "duplicate": (
        "detection is of an object that a better-scored one has found",
        "detections are of objects that better-scored ones have found",
    ),
    "background": (
        "detection lies where no object is (IoU {low:g} or less)",
        "detections lie where no object is (IoU {low:g} or less)",
    ),
    "missed": (
        "object is not found, and no error of class or place points at it",
        "objects are not found, and no error of class or place points at them",
    ),
    "false_positives": ("detection is no true positive", "detections are no true positives"),
    "false_negatives": ("object is not found", "objects are not found"),
}
"""What an error of each type is: of one, and of another number."""


def _sentence(name: str, count: int, gain: float, bounds: tuple[float, float]) -> str:
    """What the type is, how often it occurs and what correcting it would give."""
    low, iou = bounds
    lead = f"{count:,} {_SENTENCES[name][count != 1].format(low=low, iou=iou)}."
    if not count or np.isnan(gain):
        return lead
    them, ap = "it" if count == 1 else "them", ap_name(iou)
    if gain < 0.0005:
        return f"{lead} {ap} would gain nothing without {them}."
    return f"{lead} Without {them} {ap} would be {gain:.3f} higher."


def ap_name(iou: float) -> str:
    """What AP at a bound is called."""
    return "AP50" if iou == 0.5 else f"AP at IoU {iou:g}"


def _counts(
    matching: Matching, kind: np.ndarray, missed: np.ndarray, covered: np.ndarray
) -> dict[str, int]:
    fates = np.bincount(matching.fate, minlength=4).tolist()
    kinds = np.bincount(kind[kind >= 0], minlength=len(DETECTION_TYPES)).tolist()
    return {
        "detections": len(matching.detections),
        "true_positives": fates[TRUE],
        **dict(zip(DETECTION_TYPES, kinds, strict=True)),
        "ignored": fates[IGNORED],
        "left_out": fates[LEFT_OUT],
        "objects": int(matching.counts.sum()),
        "found": int(((matching.found_by >= 0) & ~matching.objects.ignored).sum()),
        "covered": int(covered.sum()),
        "missed": int(missed.sum()),
    }
