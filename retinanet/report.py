"""One picture's detections as a page that stands alone: to print, to send, to file.

The page is one HTML file without scripts that asks no host for anything; a policy in its head makes
the browser refuse both. Whatever comes from outside (names, notes, the command) is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torchvision

from retinanet.candidates import CUT, FATES, OVER_LIMIT, SUPPRESSED
from retinanet.detection import DetectionTrace
from retinanet.figures.ledger import FATE_WORDS, ledger_rows, ledger_sentence
from retinanet.figures.life import life_numbers
from retinanet.figures.overlay import DRAWN, escaped, photo_with_boxes
from retinanet.figures.palette import FATE_COLORS, LEVEL_COLORS, label_color
from retinanet.html_page import (
    Column,
    command_line,
    definition_list,
    html_table,
    number_cell,
    page,
    section,
    swatch,
)
from retinanet.presets import preset_of
from retinanet.types import LEVELS, Image

EXPLAINED = 20
"""The best detections, for which the stretches of nms_thresh are worked out."""

CLOSEST = 10
"""Dropped candidates that are listed for each fate."""

_CANDIDATE: tuple[Column, ...] = (
    *(("category", False), ("score", True), ("level", False)),
    *((edge, True) for edge in ("x1", "y1", "x2", "y2")),
)


def html_report(
    image: Image,
    trace: DetectionTrace,
    *,
    title: str,
    command: str,
    model_name: str,
    notes: Sequence[str] = (),
) -> str:
    """The page, as text to be written in UTF-8. The same arguments give the same page.

    Args:
        image: the picture that was detected on.
        trace: its detections.
        title: the page's heading, such as the file's name.
        command: the line that gives this result again; "" leaves it out.
        model_name: as the person knows it.
        notes: sentences to be read with the result; those of the picture come before them.

    Raises:
        ValueError: the trace is of another picture.
    """
    outputs = trace.outputs
    if image.size[::-1] != tuple(outputs.original_size) or (
        outputs.image_id and outputs.image_id != image.id
    ):
        raise ValueError("html_report: the trace is of another picture.")
    told = "".join(f"<li>{escaped(note)}</li>" for note in (*image.notes, *notes))
    parts = [
        f'<header><p class="kicker">RetinaNet Explorer</p><h1>{escaped(title)}</h1>'
        f'<p class="lead">{escaped(_lead(trace))}</p>',
        f'<ul class="notes">{told}</ul>' if told else "",
        f'</header>\n<div class="hero" style="--ratio:{image.size[0] / image.size[1]:.3f}">'
        f"{photo_with_boxes(image, trace)}",
        f'<div class="side">{_settings(trace)}{_facts(image, trace, model_name)}</div></div>',
        _ledger(trace),
        _detections(trace),
        _dropped(trace),
        _reproduce(image, command),
    ]
    return page(title, parts)


def _lead(trace: DetectionTrace) -> str:
    count = len(trace)
    if not count:
        return "Nothing passes at these settings."
    names = [trace.categories[label] for label in trace.labels.tolist()]
    common = sorted(dict.fromkeys(names), key=lambda name: -names.count(name))
    kinds = ", ".join(f"{name} {names.count(name):,}" for name in common[:6])
    more = f", others {sum(names.count(name) for name in common[6:]):,}" if common[6:] else ""
    return f"{count:,} detection{'s' if count > 1 else ''}: {kinds}{more}."


# --- settings, facts, ledger ---------------------------------------------------------------


def _settings(trace: DetectionTrace) -> str:
    config, names = trace.config, dict(enumerate(trace.categories))
    values = {
        knob: value for knob, value in config.to_dict().items() if knob != "class_score_thresh"
    }
    rows = [
        (knob, f"{value:,}" if isinstance(value, int) else f"{value:g}")
        for knob, value in values.items()
    ]
    if config.class_score_thresh:
        floors = (
            f"{names.get(n, f'class {n}')} {floor:g}" for n, floor in config.class_score_thresh
        )
        rows.append(("class_score_thresh", ", ".join(floors)))
    preset = preset_of(config)
    return definition_list("Settings", [*rows, *([("preset", preset.name)] if preset else [])])


def _facts(image: Image, trace: DetectionTrace, model_name: str) -> str:
    outputs, config = trace.outputs, trace.outputs.config
    (width, height), (rows, columns) = image.size, outputs.image_size
    facts = [
        ("file", image.name),
        ("picture", f"{width:,} × {height:,} px"),
        ("network saw", f"{columns:,} × {rows:,} px"),
        ("model", model_name),
        ("network", f"ResNet-{config.depth}, {config.variant}"),
        ("num_convs", f"{config.num_convs}"),
        ("anchors", f"{outputs.num_anchors:,}"),
        ("classes", f"{outputs.num_classes:,}"),
    ]
    return definition_list("Picture and model", facts)


def _ledger(trace: DetectionTrace) -> str:
    rows = ledger_rows(trace.counts_per_level)
    columns = [(name, name != "fate") for name in rows[0]]
    marks = [FATE_COLORS[fate] for fate in FATE_WORDS]
    body = []
    for row, mark in zip(rows, [*marks, None], strict=True):
        name, *counts = row.values()
        lead = f'<th scope="row">{swatch(mark)}{escaped(name)}</th>'
        kind = "" if mark else ' class="sum"'
        body.append(
            f"<tr{kind}>{lead}{''.join(number_cell(f'{count:,}') for count in counts)}</tr>"
        )
    outputs = trace.outputs
    said = ledger_sentence(trace.counts, outputs.num_anchors, outputs.num_classes)
    return section("Ledger", said, html_table("Ledger", columns, body))


# --- tables of candidates ------------------------------------------------------------------


def _detections(trace: DetectionTrace) -> str:
    if not len(trace):
        return ""
    columns = [("#", True), *_CANDIDATE, ("anchor", True), ("rank", True)]
    columns.append(("kept while nms_thresh in", False))
    rows = [
        f'<tr id="row-{i + 1}"><td class="n"><a href="#box-{i + 1}">{i + 1}</a></td>'
        f"{_cells(trace, i)}{number_cell(_anchor(trace, i))}"
        f"{number_cell(f'{int(trace.candidates.rank[i]):,}')}<td>{_survival(trace, i)}</td></tr>"
        for i in range(min(len(trace), DRAWN))
    ]
    said = (
        "Best first. Box in pixels of the picture; anchor, width × height in pixels that the "
        "network saw; rank by score within the level; the strip is nms_thresh from 0 to 1, green "
        "where the box is kept, with a mark at the present value"
    )
    said += f" (the best {EXPLAINED} boxes)." if len(trace) > EXPLAINED else "."
    if len(trace) > DRAWN:
        said += f" The {len(trace) - DRAWN:,} after the best {DRAWN} are not listed."
    return section("Detections", said, html_table("Detections", columns, rows))


def _cells(trace: DetectionTrace, row: int) -> str:
    """A candidate in the columns `_CANDIDATE`."""
    table, label = trace.candidates, int(trace.candidates.label[row])
    level = LEVELS[int(table.level[row])]
    return (
        f"<td>{swatch(label_color(label))}{escaped(trace.categories[label])}</td>"
        f"{number_cell(f'{float(table.score[row]):.3f}')}"
        f"<td>{swatch(LEVEL_COLORS[level])}{level}</td>"
        + "".join(number_cell(f"{edge:.1f}") for edge in table.box_original[row].tolist())
    )


def _anchor(trace: DetectionTrace, row: int) -> str:
    level, anchor = (int(c[row]) for c in (trace.candidates.level, trace.candidates.anchor))
    x1, y1, x2, y2 = trace.outputs.anchors[level][anchor].tolist()
    return f"{x2 - x1:.0f} × {y2 - y1:.0f}"


def _survival(trace: DetectionTrace, index: int) -> str:
    """The stretches of nms_thresh at which a box is a detection, drawn from 0 to 1 and in words."""
    if index >= EXPLAINED:
        return ""
    life = trace.explain(index)
    bars = "".join(
        f'<rect x="{100 * part["from"]:.2f}" width="{100 * (part["to"] - part["from"]):.2f}" '
        f'y="2" height="6" fill="{FATE_COLORS["kept"]}"/>'
        for part in life["changes_at"]["nms_thresh"]["kept"] or []
    )
    now = 100 * trace.config.nms_thresh
    words = dict(life_numbers(life))["kept while nms_thresh"]
    words = escaped(words.removeprefix("in ").replace(" or in ", " or "))  # the heading says "in"
    words = words.replace(", ", ",&nbsp;")  # an interval stays on one line
    return (
        '<div class="strip"><svg viewBox="0 0 100 10" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="M0 5H100"/>{bars}<path class="now" d="M{now:.2f} 0V10"/>'
        f"</svg><span>{words}</span></div>"
    )


def _dropped(trace: DetectionTrace) -> str:
    """Of each fate, the candidates that the smallest change of its knob would let go on."""
    table, config = trace.candidates, trace.config
    beyond = table.rank.numpy() - np.array(trace.takes)[table.level.numpy()]
    iou, position = trace.suppressed_iou.numpy(), table.position.numpy()
    parts = (
        _nearest(
            trace,
            SUPPRESSED,
            iou,
            f"IoU least above nms_thresh {config.nms_thresh:g} first.",
            [("suppressed by", False), ("IoU", True)],
            lambda row: f"<td>{_suppressor(trace, row)}</td>{number_cell(f'{iou[row]:.4f}')}",
        ),
        _nearest(
            trace,
            CUT,
            beyond,
            f"Rank least beyond topk_candidates {config.topk_candidates:,} first.",
            [("rank in level", True)],
            lambda row: number_cell(f"{int(table.rank[row]):,}"),
        ),
        _nearest(
            trace,
            OVER_LIMIT,
            position,
            f"The first after detections_per_img {config.detections_per_img:,}.",
            [("number after NMS", True)],
            lambda row: number_cell(f"{int(position[row]):,}"),
        ),
    )
    said = f"Of each fate, the {CLOSEST} that came closest to going on."
    return section("Dropped", said, "".join(parts))


def _nearest(
    trace: DetectionTrace,
    fate: int,
    distance: np.ndarray,
    said: str,
    columns: Sequence[Column],
    cells: Callable[[int], str],
) -> str:
    """The first few of a fate by distance [C], equal ones by score, as a table of its own."""
    name, table = FATES[fate], trace.candidates
    rows = np.flatnonzero(table.fate.numpy() == fate)
    order = np.lexsort([-table.score.numpy()[rows], distance[rows]])[:CLOSEST]
    heading = f"{FATE_WORDS[name][:1].upper()}{FATE_WORDS[name][1:]}: {trace.counts[name]:,}"
    lead = f"<h3>{swatch(FATE_COLORS[name])}{heading}</h3>"
    if not len(rows):
        return lead
    body = [f"<tr>{_cells(trace, row)}{cells(row)}</tr>" for row in rows[order].tolist()]
    return f"{lead}<p>{said}</p>{html_table(heading, [*_CANDIDATE, *columns], body)}"


def _suppressor(trace: DetectionTrace, row: int) -> str:
    """The better box: a detection by its number, with a link to it, or one over the limit."""
    by = int(trace.suppressed_by[row])
    score = f"{float(trace.candidates.score[by]):.3f}"
    if by >= len(trace):
        return f"one over the limit, {score}"
    number = f"number {by + 1}"
    return f'<a href="#box-{by + 1}">{number}</a>, {score}' if by < DRAWN else f"{number}, {score}"


# --- how to have it again ------------------------------------------------------------------


def _reproduce(image: Image, command: str) -> str:
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    rows = [("made with", versions), ("picture SHA-256", image.id)]
    lead = section("Reproduce", "", command_line(command))
    return f'<div class="end">{lead}{definition_list("Versions", rows)}</div>'
