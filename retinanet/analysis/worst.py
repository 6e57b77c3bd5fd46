"""The photos that went wrong most, and what became of everything in one photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from retinanet.analysis.columns import corners
from retinanet.analysis.error_types import DETECTION_TYPES, ErrorTypes, error_types
from retinanet.analysis.matching import FALSE, IGNORED, LEFT_OUT, TRUE, Matching
from retinanet.coco import CocoDataset, DatasetError
from retinanet.config import ConfigError, _integer, _number

By = Literal["f1", "missed", "false"]


def worst_images(
    dataset: CocoDataset,
    results: Sequence[Mapping[str, Any]] | Matching | ErrorTypes,
    *,
    by: By = "f1",
    limit: int = 50,
    score_thresh: float = 0.0,
) -> list[dict[str, Any]]:
    """The photos with the most errors, the worst first.

    Matching is greedy by score, so leaving out low scores afterwards is the same as not having
    them: with results made for AP, set `score_thresh` to where the detector will be used.

    Args:
        dataset: what the results are of.
        results: COCO results of one setting, a `Matching` at IoU .5, or `ErrorTypes`, whose bound
            then holds.
        by: "f1" (lowest first), "missed" (most objects not found) or "false" (most false
            positives); equal ones by the number of all errors. A photo without such errors is not
            listed.
        limit: the most rows.
        score_thresh: detections count when their score is above this, in [0, 1]; at 0 all do.

    Returns:
        {"image_id", "file", "objects", "tp", "fp", "fn", "f1" (0 to 1), "error" (the loudest: the
        type of the best-scored false positive, else "missed"), "sentence"}.

    Raises:
        ConfigError: a setting is outside its range.
        DatasetError: the results cannot be used, or the annotation file has changed.
    """
    if by not in get_args(By):
        raise ConfigError(f"worst_images: by must be one of {', '.join(get_args(By))}, not {by!r}.")
    _integer("worst_images", "limit", limit, 1)
    _number("worst_images", "score_thresh", score_thresh, 0.0, 1.0)
    errors = results if isinstance(results, ErrorTypes) else error_types(dataset, results)
    matching = errors.matching
    photos, kept = len(matching.image_ids), _kept(matching, score_thresh)
    photo_of = matching.detections.photo
    tp = np.bincount(photo_of[kept & (matching.fate == TRUE)], minlength=photos)
    fp = np.bincount(photo_of[kept & (matching.fate == FALSE)], minlength=photos)
    objects = np.bincount(matching.objects.photo[~matching.objects.ignored], minlength=photos)
    fn = objects - tp
    f1 = np.where(tp + fp + fn > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), 1.0)
    badness = {"f1": 1 - f1, "missed": fn, "false": fp}[by]
    order = np.lexsort([-(fp + fn), -badness])
    chosen = order[badness[order] > 0][:limit].tolist()
    return [
        {
            "image_id": int(matching.image_ids[photo]),
            "file": matching.files[photo].name,
            "objects": int(objects[photo]),
            "tp": int(tp[photo]),
            "fp": int(fp[photo]),
            "fn": int(fn[photo]),
            "f1": float(f1[photo]),
            **_loudest(errors, photo, kept, int(fn[photo])),
        }
        for photo in chosen
    ]


def _kept(matching: Matching, score_thresh: float) -> np.ndarray:
    """[D] bool: above the threshold; at 0 everything, as a score of 0 is a detection too."""
    return (matching.detections.score > score_thresh) | (score_thresh == 0)


def _loudest(errors: ErrorTypes, photo: int, kept: np.ndarray, fn: int) -> dict[str, str]:
    """The error that a person sees first, and the photo in a sentence."""
    matching = errors.matching
    rows = matching.detections.of(photo)
    wrong = np.flatnonzero((errors.kind[rows] >= 0) & kept[rows]) + rows.start
    unseen = f"{fn:,} {'object' if fn == 1 else 'objects'} not found"
    if not len(wrong):
        return {"error": "missed", "sentence": f"{unseen[:1].upper()}{unseen[1:]}."}
    loudest = int(wrong[0])  # the best score first
    kind = DETECTION_TYPES[errors.kind[loudest]]
    said = f"{_detection_words(errors, loudest)}{f'; {unseen}' if fn else ''}."
    return {"error": kind, "sentence": said}


def _detection_words(errors: ErrorTypes, row: int) -> str:
    matching = errors.matching
    detections, names = matching.detections, matching.dataset.categories
    partner, iou = errors.partner_of(row)
    name, score = names[detections.label[row]], f"{detections.score[row]:.2f}"
    what = names[matching.objects.label[partner]] if partner >= 0 else ""
    kind = DETECTION_TYPES[errors.kind[row]]
    return {
        "classification": f"A {what} taken for {name} ({score}, IoU {iou:.2f})",
        "localisation": f"A {name} ({score}) that overlaps its object too little (IoU {iou:.2f})",
        "both": f"A {what} taken for {name} ({score}), and overlapped too little (IoU {iou:.2f})",
        "duplicate": f"A second {name} ({score}) on an object found already (IoU {iou:.2f})",
        "background": f"A {name} ({score}) where no object is",
    }[kind]


def image_fates(
    dataset: CocoDataset,
    results: Sequence[Mapping[str, Any]] | Matching | ErrorTypes,
    image_id: int,
    *,
    score_thresh: float = 0.0,
) -> dict[str, Any]:
    """What each detection and each object of a photo became, for a picture.

    Args:
        dataset: what the results are of.
        results: as in `worst_images`.
        image_id: of the photo.
        score_thresh: as in `worst_images`.

    Returns:
        {"image_id", "file", "width", "height" (pixels), "detections": [{"box" xyxy in pixels of
        the photo, "label" (-1 where the data set has no such category), "category", "score",
        "fate" ("true_positive", one of `DETECTION_TYPES`, "ignored" or "left_out"), "object"
        (index into "objects" of the one that the fate hangs on, None for none), "iou" (with it)}],
        the best score first, "objects": [{"box", "label", "category", "fate" ("found", "covered",
        "missed" or "ignored"), "detection" (index into "detections" of the one that found it, or
        None)}]}.

    Raises:
        ConfigError: `score_thresh` is outside its range.
        DatasetError: there is no such photo, or as in `error_types`.
    """
    _number("image_fates", "score_thresh", score_thresh, 0.0, 1.0)
    photo_of = {photo.image_id: photo for photo in dataset.photos}
    if image_id not in photo_of:
        raise DatasetError(f"The data set has no image {str(image_id)[:60]}.")
    errors = results if isinstance(results, ErrorTypes) else error_types(dataset, results)
    matching, photo = errors.matching, photo_of[image_id]
    place = int(np.searchsorted(matching.image_ids, image_id))
    rows = matching.detections.of(place)
    kept = np.flatnonzero(_kept(matching, score_thresh)[rows]) + rows.start
    return {
        "image_id": image_id,
        "file": photo.path.name,
        "width": photo.width,
        "height": photo.height,
        "detections": [_detection_fate(errors, row, place) for row in kept.tolist()],
        "objects": _object_fates(errors, place, kept),
    }


def _detection_fate(errors: ErrorTypes, row: int, photo: int) -> dict[str, Any]:
    matching = errors.matching
    detections, objects = matching.detections, matching.objects
    label, (partner, iou) = int(detections.label[row]), errors.partner_of(row)
    names = {TRUE: "true_positive", IGNORED: "ignored", LEFT_OUT: "left_out"}
    fate = names.get(int(matching.fate[row])) or DETECTION_TYPES[errors.kind[row]]
    return {
        "box": corners(detections.bbox[row : row + 1])[0].tolist(),
        "label": label,
        "category": matching.dataset.categories[label] if label >= 0 else "not in the data set",
        "score": float(detections.score[row]),
        "fate": fate,
        "object": partner - int(objects.starts[photo]) if partner >= 0 else None,
        "iou": iou,
    }


def _object_fates(errors: ErrorTypes, photo: int, kept: np.ndarray) -> list[dict[str, Any]]:
    """Of one photo; an object is found only by a detection that is kept."""
    matching, objects = errors.matching, errors.matching.objects
    shown = {row: place for place, row in enumerate(kept.tolist())}
    pointed = {errors.partner_of(row)[0] for row in kept.tolist() if errors.kind[row] in (0, 1)}
    fates = []
    for index in range(*objects.of(photo).indices(len(objects))):
        finder, label = shown.get(int(matching.found_by[index])), int(objects.label[index])
        fate = "found" if finder is not None else "covered" if index in pointed else "missed"
        fates.append(
            {
                "box": corners(objects.bbox[index : index + 1])[0].tolist(),
                "label": label,
                "category": matching.dataset.categories[label],
                "fate": "ignored" if objects.ignored[index] else fate,
                "detection": finder,
            }
        )
    return fates
