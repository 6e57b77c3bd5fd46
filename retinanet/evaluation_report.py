"""One evaluation as a page that stands alone: how good, what goes wrong, and on which photos.

Like `html_report` one HTML file without scripts that asks no host for anything; whatever comes
from outside (names, notes, the command) is escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision

from retinanet.analysis.confusion import Confusion, confusion
from retinanet.analysis.dataset_coverage import DatasetCoverage
from retinanet.analysis.error_types import ErrorTypes, ap_name, error_types
from retinanet.analysis.matching import FALSE, TRUE, Matching
from retinanet.analysis.worst import image_fates, worst_images
from retinanet.coco import CocoDataset, DatasetError, Photo, open_photo
from retinanet.config import PostprocessConfig, _integer, _number
from retinanet.evaluation import AP_POSTPROCESS, METRICS, score
from retinanet.export import draw_detections
from retinanet.figures.errors import STATUS_STYLES, TYPE_STYLES, coverage_size_rows
from retinanet.figures.overlay import escaped
from retinanet.figures.palette import FATE_COLORS, GROUND_TRUTH
from retinanet.figures.pictures import to_jpeg
from retinanet.html_page import (
    command_line,
    definition_list,
    html_table,
    number_cell,
    page,
    section,
    swatch,
)
from retinanet.images import ImageError
from retinanet.types import Image

PICTURE_SIDE = 560
"""Longest side of a photo in the page, pixels."""

DRAWN = 30
"""The best detections of a photo, which are drawn."""

TOP_PAIRS = 15
"""The pairs of classes that are listed."""


def evaluation_html(
    dataset: CocoDataset,
    results: Sequence[dict[str, Any]],
    *,
    title: str,
    command: str = "",
    model_name: str = "",
    config: PostprocessConfig = AP_POSTPROCESS,
    metrics: Mapping[str, Any] | None = None,
    errors: ErrorTypes | None = None,
    coverage: DatasetCoverage | None = None,
    score_thresh: float = 0.3,
    pictures: int = 12,
    notes: Sequence[str] = (),
) -> str:
    """The page, as text to be written in UTF-8. The same arguments give the same page.

    Args:
        dataset: what the results are of; the worst photos are read from their files.
        results: COCO results of one setting.
        title: the page's heading, such as the data set's name.
        command: the line that gives this result again; "" leaves it out.
        model_name: as the person knows it; "" leaves it out.
        config: the post-processing that gave the results.
        metrics: of `evaluation.score`, where they are at hand.
        errors: of `error_types`, where they are at hand.
        coverage: of `dataset_coverage`; None leaves its section out.
        score_thresh: what precision, recall, the confusion matrix and the photos count, as AP alone
            counts every low score; in [0, 1].
        pictures: how many of the worst photos are shown, 0 to 50.
        notes: sentences to be read with the result.

    Raises:
        ConfigError: a setting is outside its range.
        DatasetError: the results cannot be used, or the annotation file has changed. A photo that
            cannot be opened is no error: the page says so in its place.
    """
    _number("evaluation_html", "score_thresh", score_thresh, 0.0, 1.0)
    _integer("evaluation_html", "pictures", pictures, 0, 50)
    errors = errors or error_types(dataset, results)
    metrics = metrics or score(dataset, list(results))
    pairs = confusion(dataset, errors.matching, score_thresh=score_thresh)
    told = "".join(f"<li>{escaped(note)}</li>" for note in notes)
    told = f'<ul class="notes">{told}</ul>' if told else ""
    parts = [
        f'<header><p class="kicker">RetinaNet Explorer</p><h1>{escaped(title)}</h1>'
        f'<p class="lead">{escaped(_lead(dataset, errors, metrics))}</p>'
        f"{told}</header>",
        '<div class="side" style="margin-top:1.4rem">'
        f"{_settings(dataset, config, model_name)}{_metrics(metrics)}</div>",
        _errors(errors),
        _classes(dataset, errors.matching, metrics, score_thresh),
        _confusion(pairs),
        _coverage(coverage) if coverage is not None else "",
        _photos(dataset, errors, score_thresh, pictures) if pictures else "",
        _reproduce(command),
    ]
    return page(title, parts)


def _lead(dataset: CocoDataset, errors: ErrorTypes, metrics: Mapping[str, Any]) -> str:
    counts = errors.counts
    return (
        f"AP {_share(metrics['AP'])}, AP50 {_share(metrics['AP50'])} on {len(dataset.photos):,} "
        f"photos with {counts['objects']:,} objects of {len(dataset.categories):,} classes; "
        f"{counts['detections']:,} detections find {counts['found']:,} of them at IoU "
        f"{errors.fg_iou:g}."
    )


def _share(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "none to measure"


def _settings(dataset: CocoDataset, config: PostprocessConfig, model_name: str) -> str:
    rows = [("model", model_name)] if model_name else []
    rows += [("annotations", dataset.annotation_file.name)]
    for name, value in config.to_dict().items():
        rows.append((name, f"{value:,}" if isinstance(value, int) else str(value)))
    return definition_list("Settings", rows)


def _metrics(metrics: Mapping[str, Any]) -> str:
    return definition_list("Average precision", [(name, _share(metrics[name])) for name in METRICS])


def _row(name: str, *cells: str) -> str:
    """A row of a table; the name is HTML."""
    return f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _count(value: int) -> str:
    return number_cell(f"{value:,}")


def _bar(share: float, color: str) -> str:
    """A share of 0 to 1 as a bar, beside the number that says it."""
    return (
        '<td><div class="strip"><svg viewBox="0 0 100 10" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="M0 5H100"/><rect y="2" height="6" '
        f'width="{100 * min(max(share, 0.0), 1.0):.2f}" fill="{color}"/></svg></div></td>'
    )


def _errors(errors: ErrorTypes) -> str:
    gains = [row["dAP50"] for row in errors.rows]
    most = max((gain for gain in gains if math.isfinite(gain)), default=0.0) or 1.0
    body = []
    for row, gain in zip(errors.rows, gains, strict=True):
        words, color, _ = TYPE_STYLES[row["type"]]
        share = gain / most if math.isfinite(gain) else 0.0
        cells = (_count(row["count"]), number_cell(_share(gain)), _bar(share, color))
        said = f'<td style="white-space:normal;min-width:22rem">{escaped(row["sentence"])}</td>'
        body.append(_row(f"{swatch(color)}{words}", *cells, said))
    columns = [("type", False), ("count", True), ("dAP50", True), ("", False), ("", False)]
    said = (
        f"What {ap_name(errors.fg_iou)} ({_share(errors.ap50)}) would gain without the errors of "
        f"one type (TIDE; IoU bounds {errors.bg_iou:g} and {errors.fg_iou:g}). The last two count "
        "again what the others count."
    )
    return section("Errors", said, html_table("Errors", columns, body))


def _classes(
    dataset: CocoDataset, matching: Matching, metrics: Mapping[str, Any], score_thresh: float
) -> str:
    detections = matching.detections
    kept = (detections.score > score_thresh) | (score_thresh == 0)
    size, body = len(dataset.categories), []
    tp = np.bincount(detections.label[kept & (matching.fate == TRUE)], minlength=size).tolist()
    fp = np.bincount(detections.label[kept & (matching.fate == FALSE)], minlength=size).tolist()
    for label, objects in enumerate(matching.counts.tolist()):
        name, found, false = dataset.categories[label], tp[label], fp[label]
        if not objects and not false:
            continue
        precision = found / (found + false) if found + false else float("nan")
        ap50 = metrics["AP50_per_class"].get(name, float("nan"))
        rates = (precision, found / objects if objects else float("nan"), ap50)
        cells = [_count(count) for count in (objects, found, false)]
        cells += [number_cell(_cell(rate)) for rate in rates]
        body.append(_row(escaped(name), *cells, _bar(0.0 if math.isnan(ap50) else ap50, _GREEN)))
    names = ("objects", "true", "false", "precision", "recall", "AP50")
    columns = [("class", False), *((name, True) for name in names), ("", False)]
    said = (
        f"True, false, precision and recall at scores above {score_thresh:g} and IoU "
        f"{matching.iou:g}."
    )
    return section("Classes", said, html_table("Classes", columns, body))


_GREEN = FATE_COLORS["kept"]


def _cell(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""


def _confusion(pairs: Confusion) -> str:
    body = [
        _row(
            escaped(row["truth"]),
            f"<td>{escaped(row['detected_as'])}</td>",
            _count(row["count"]),
            number_cell(f"{row['share']:.1%}"),
            _bar(row["share"], FATE_COLORS["suppressed"]),
        )
        for row in pairs.top_pairs(TOP_PAIRS)
    ]
    last = len(pairs.names) - 1
    said = (
        f"Pairs of best IoU first, whatever the class, at scores above {pairs.score_thresh:g} and "
        f"IoU {pairs.iou:g}: {int(np.trace(pairs.matrix)):,} objects detected as what they are, "
        f"{int(pairs.matrix[:last, last].sum()):,} met by no detection, "
        f"{int(pairs.matrix[last].sum()):,} detections that met no object"
    )
    if not body:
        return section("Confusion", f"{said}; no class is taken for another.", "")
    columns = [("object is", False), ("detected as", False), ("count", True)]
    columns += [("of its class", True), ("", False)]
    said = f"{said}. The pairs of classes that occur most:"
    return section("Confusion", said, html_table("Confusion", columns, body))


def _coverage(coverage: DatasetCoverage) -> str:
    body = []
    for row in coverage_size_rows(coverage):
        if not row["objects"]:
            continue
        size = f"{row['from']} to {row['to']}" if row["to"] else f"{row['from']} and more"
        share = row["share"]
        cells = [_count(row[key]) for key in ("objects", *STATUS_STYLES)]
        cells.append(number_cell("" if share is None else f"{share:.0%}"))
        body.append(_row(size, *cells, _bar(share or 0.0, _GREEN)))
    words = [words for words, _, _ in STATUS_STYLES.values()]
    columns = [("√area, px", False), ("objects", True), *((word, True) for word in words)]
    columns += [("natural", True), ("", False)]
    whole = coverage.photos == coverage.of_photos
    counted = f"On {coverage.photos:,} of {coverage.of_photos:,} photos. " if not whole else ""
    said = (
        f"{counted}{coverage.suggestion} Sizes in pixels of the resized photo; an object has a "
        "natural match when an anchor is foreground for it by its IoU alone."
    )
    return section("Anchors", said, html_table("Anchors", columns, body))


# --- the worst photos ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Boxes:
    """Some detections of a photo as `draw_detections` reads them."""

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    categories: tuple[str, ...]

    def category_name(self, label: int) -> str:
        return self.categories[label]

    def category_id(self, label: int) -> int:
        return label


def _photos(dataset: CocoDataset, errors: ErrorTypes, score_thresh: float, limit: int) -> str:
    rows = worst_images(dataset, errors, limit=limit, score_thresh=score_thresh)
    if not rows:
        return section("Worst photos", f"No errors at scores above {score_thresh:g}.", "")
    photo_of = {photo.image_id: photo for photo in dataset.photos}
    figures = [
        _figure(dataset, photo_of[row["image_id"]], errors, row, score_thresh) for row in rows
    ]
    said = (
        f"Lowest F1 first, at scores above {score_thresh:g} and IoU {errors.fg_iou:g}. Solid boxes "
        "are detections in the colours of their classes; dashed yellow ones are objects."
    )
    grid = (
        '<div style="--most:100%;display:grid;gap:1.4rem;margin-top:.8rem;'
        f'grid-template-columns:repeat(auto-fill,minmax(18rem,1fr))">{"".join(figures)}</div>'
    )
    return section("Worst photos", said, grid)


def _figure(
    dataset: CocoDataset,
    photo: Photo,
    errors: ErrorTypes,
    row: Mapping[str, Any],
    score_thresh: float,
) -> str:
    f1 = f"{row['file']}: F1 {row['f1']:.2f}, {row['tp']:,} true, {row['fp']:,} false"
    caption = escaped(f"{f1}. {row['sentence']}")
    try:
        image = open_photo(photo)
    except (DatasetError, ImageError) as error:
        return f"<figure><figcaption>{caption} {escaped(error)}</figcaption></figure>"
    fates = image_fates(dataset, errors, photo.image_id, score_thresh=score_thresh)
    jpeg = base64.b64encode(_drawn(image, fates, dataset.categories)).decode("ascii")
    outlines = "".join(_outline(one) for one in fates["objects"] if one["fate"] != "ignored")
    return (
        f'<figure><svg viewBox="0 0 {photo.width} {photo.height}" role="img" '
        f'aria-label="{escaped(row["file"])}"><image href="data:image/jpeg;base64,{jpeg}" '
        f'width="{photo.width}" height="{photo.height}" preserveAspectRatio="none"/>'
        f"{outlines}</svg><figcaption>{caption}</figcaption></figure>"
    )


def _drawn(image: Image, fates: Mapping[str, Any], categories: tuple[str, ...]) -> bytes:
    """The photo, no larger than the page needs, with its best detections."""
    width, height = image.size
    scale = min(1.0, PICTURE_SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image(image.pil.resize(size), image.id, image.name)
    shown = [one for one in fates["detections"] if one["fate"] != "left_out"][:DRAWN]
    boxes = torch.tensor([one["box"] for one in shown], dtype=torch.float64).reshape(-1, 4)
    most = torch.tensor([width, height, width, height])
    boxes = boxes.clamp(min=0).minimum(most) * (torch.tensor([*size, *size]) / most)
    found = _Boxes(
        boxes,
        torch.tensor([one["score"] for one in shown]),
        torch.tensor([one["label"] for one in shown], dtype=torch.int64),
        categories,
    )
    drawn = draw_detections(small, found, found)
    return to_jpeg(Image(drawn, image.id, image.name), size, quality=80)


def _outline(one: Mapping[str, Any]) -> str:
    x1, y1, x2, y2 = one["box"]
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    return (
        f'<g class="box"><title>{escaped(one["category"])}: {one["fate"]}</title>'
        f'<rect class="edge" {place}/>'
        f'<rect {place} stroke="{GROUND_TRUTH}" stroke-dasharray="6 4"/></g>'
    )


def _reproduce(command: str) -> str:
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    lead = section("Reproduce", "", command_line(command))
    made = definition_list("Versions", [("made with", versions)])
    return f'<div class="end">{lead}{made}</div>'
