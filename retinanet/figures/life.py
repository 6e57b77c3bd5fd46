"""The life of one candidate in words: a sentence, the numbers, the formula with these numbers.

Each takes what `DetectionTrace.explain` returns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retinanet.config import PostprocessConfig
from retinanet.figures.words import better_box

Life = Mapping[str, Any]


def life_sentence(life: Life, config: PostprocessConfig) -> str:
    """What it is, where it comes from and what became of it, in one or two sentences."""
    shape = life["anchor_shape"]
    lead = (
        f"{life['category']}, score {life['score']:.3f}: found on {life['level']} by an anchor of "
        f"{shape['width']:.0f} × {shape['height']:.0f} px, number {life['rank_in_level']:,} of its "
        "level by score."
    )
    return f"{lead} {_fate_sentence(life, config)}"


def _fate_sentence(life: Life, config: PostprocessConfig) -> str:
    fate = life["fate"]
    if fate == "kept":
        return f"Kept, as number {life['position_after_nms']:,} after NMS."
    if fate == "suppressed":
        by = life["suppressed_by"]
        return (
            f"Suppressed: {better_box(by['score'], life['score'], life['category'])} (score "
            f"{by['score']:.3f}) overlaps it with IoU {by['iou']:.3f}, above nms_thresh "
            f"{config.nms_thresh:g}."
        )
    if fate == "over_limit":
        return (
            f"It survived NMS as number {life['position_after_nms']:,}, beyond "
            f"detections_per_img {config.detections_per_img:,}."
        )
    return f"Cut: its level sends only its best {config.topk_candidates:,} pairs to NMS."


def life_numbers(life: Life) -> list[tuple[str, str]]:
    """(name, value with unit) pairs, in the order in which the values come about."""
    shape, cell, deltas = life["anchor_shape"], life["cell"], life["deltas"]
    best = sorted(life["scores"].items(), key=lambda item: -(item[1] or 0.0))[:5]
    rows = [
        ("level, cell", f"{life['level']}, row {cell['row']}, column {cell['col']}"),
        (
            "anchor",
            f"size {shape['size']} px, ratio h/w {shape['ratio']:g}, "
            f"{shape['width']:.0f} × {shape['height']:.0f} px",
        ),
        ("best classes", ", ".join(f"{name} {score or 0:.3f}" for name, score in best)),
        ("deltas", ", ".join(f"{name} {_signed(value)}" for name, value in deltas.items())),
        ("decoded, network px", _corners(life["decoded_box"])),
        ("clipped, network px", _corners(life["clipped_box"])),
        ("box, photo px", _corners(life["box"])),
        ("rank in level", f"{life['rank_in_level']:,}"),
        ("fate", life["fate"].replace("_", " ")),
    ]
    rows += [
        (f"kept while {knob}", _intervals(change["kept"], knob))
        for knob, change in life["changes_at"].items()
    ]
    return rows


def life_formula(life: Life, config: PostprocessConfig) -> str:
    """The steps as arithmetic, with this candidate's numbers in them; plain text."""
    logit = life["logits"].get(life["category"])
    ax1, ay1, ax2, ay2 = life["anchor_box"]
    width, height = ax2 - ax1, ay2 - ay1
    dx, dy, dw, dh = (life["deltas"][name] for name in ("dx", "dy", "dw", "dh"))
    lines = []
    sign = ">" if life["score"] > config.score_thresh else "<="
    if logit is not None:
        lines.append(
            f"score = 1 / (1 + exp(-({logit:.3f}))) = {life['score']:.3f} "
            f"{sign} score_thresh {config.score_thresh:g}"
        )
    if None not in (dx, dy, dw, dh):
        most = math.log(1000 / 16)
        lines += [
            f"cx = {(ax1 + ax2) / 2:.1f} + ({dx:.3f}) * {width:.1f} "
            f"= {(ax1 + ax2) / 2 + dx * width:.1f}",
            f"cy = {(ay1 + ay2) / 2:.1f} + ({dy:.3f}) * {height:.1f} "
            f"= {(ay1 + ay2) / 2 + dy * height:.1f}",
            f"w  = {width:.1f} * exp({dw:.3f}) = {width * math.exp(min(dw, most)):.1f}",
            f"h  = {height:.1f} * exp({dh:.3f}) = {height * math.exp(min(dh, most)):.1f}",
        ]
    by = life["suppressed_by"]
    if by is not None:
        lines.append(f"IoU = {by['iou']:.4f} > nms_thresh {config.nms_thresh:g}: suppressed")
    return "\n".join(lines)


def survival_parts(life: Life) -> dict[str, list[dict[str, Any]]]:
    """For each knob the stretches of it over which this candidate survives NMS, for a slider.

    Returns:
        {knob: [{"from", "to" (None: no end), "kept" (False: or over the limit), "words"}]}; the
        stretches that survive NMS come first, those that are kept lie within them.
    """
    parts: dict[str, list[dict[str, Any]]] = {}
    for knob, change in life["changes_at"].items():
        kept = change["kept"] or []
        alive = change.get("survives_nms") or []
        parts[knob] = [
            {
                "from": part["from"],
                "to": part["to"],
                "kept": is_kept,
                "words": f"{lead} {_interval(part, '_thresh' in knob)}",
            }
            # The kept stretches lie within those that survive NMS and are drawn over them.
            for is_kept, lead, stretches in ((False, "over the limit", alive), (True, "kept", kept))
            for part in stretches
        ]
    return parts


def _signed(value: float | None) -> str:
    return "not a number" if value is None else f"{value:+.3f}"


def _corners(box: list[float | None]) -> str:
    return " ".join("?" if edge is None else f"{edge:.1f}" for edge in box)


def _intervals(kept: list[Mapping[str, Any]] | None, knob: str) -> str:
    """A union of intervals: over nms_thresh and topk_candidates it can have several parts."""
    if kept is None:
        return "not worked out: too many candidates come before it"
    if not kept:
        return "at no value"
    return " or ".join(_interval(part, "_thresh" in knob) for part in kept)


def _interval(part: Mapping[str, Any], is_threshold: bool) -> str:
    if is_threshold:
        closing = "]" if part["to_included"] else ")"
        return f"in [{part['from']:.4f}, {part['to']:.4f}{closing}"
    if part["to"] is None:
        return f"{part['from']:,} or more"
    return f"{part['from']:,} to {part['to']:,}"
