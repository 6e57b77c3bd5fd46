"""An inquest in words: a sentence, the numbers, the formula with these numbers.

Each takes what `Inquest.to_dict` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retinanet.config import PostprocessConfig
from retinanet.figures.words import better_box

InquestData = Mapping[str, Any]


def inquest_sentence(inquest: InquestData, config: PostprocessConfig) -> str:
    """What became of the object and, if it was missed, what would bring it in."""
    verdict, kept = inquest["verdict"], inquest["detection"]
    if verdict == "found":
        return (
            f"Found: {kept['category']}, score {kept['score']:.3f}, with IoU {kept['iou']:.3f} to "
            "the drawn box."
        )
    if verdict == "no_box" or inquest["candidate"] is None:
        return f"Missed: {_no_box(inquest)}"
    missed = f"Missed: {_cause(inquest['candidate'], config)}"
    if verdict == "other_class":
        missed = (
            f"Missed as {inquest['category']}, kept as {kept['category']} (score "
            f"{kept['score']:.3f}, IoU {kept['iou']:.3f}): {_cause(inquest['candidate'], config)}"
        )
    return f"{missed} {_remedy(inquest, config)}"


def _no_box(inquest: InquestData) -> str:
    lead = f"none of the {inquest['num_anchors']:,} anchors' boxes"
    best = inquest["best_box"]
    if best is None:
        return f"{lead} overlaps the drawn box. No setting can bring it in."
    bound = inquest["match_iou"]
    return (
        f"{lead} reaches IoU {number(bound)} with the drawn box; the best, on {best['level']}, has "
        f"{_apart(best['iou'], bound)}. No setting can bring it in."
    )


def _cause(candidate: Mapping[str, Any], config: PostprocessConfig) -> str:
    name, fate = candidate["category"], candidate["fate"]
    score = f"{candidate['score']:.3f}"
    if fate == "below_thresh":
        bound = candidate["score_thresh"]
        knob = "score_thresh" if bound <= config.score_thresh else "the floor of its class,"
        below = "below" if candidate["score"] < bound else "not above"
        return (
            f"the best matching {name} box scores {_apart(candidate['score'], bound)}, {below} "
            f"{knob} {number(bound)}."
        )
    if fate == "cut_by_topk" and candidate["rank"] <= candidate["topk"]:
        return (
            f"the best matching {name} box, score {score}, is cut: others of the same score on "
            f"{candidate['level']} come first and fill topk_candidates {candidate['topk']:,}."
        )
    if fate == "cut_by_topk":
        return (
            f"the best matching {name} box, score {score}, is number {candidate['rank']:,} on "
            f"{candidate['level']}, beyond topk_candidates {candidate['topk']:,}."
        )
    if fate == "suppressed":
        by = candidate["suppressed_by"]
        return (
            f"the best matching {name} box, score {score}, is suppressed by "
            f"{better_box(by['score'], candidate['score'])}, score "
            f"{by['score']:.3f}, with IoU {_apart(by['iou'], by['nms_thresh'])}, above nms_thresh "
            f"{number(by['nms_thresh'])}."
        )
    return (
        f"the best matching {name} box, score {score}, survives NMS as number "
        f"{candidate['position']:,}, beyond detections_per_img {candidate['limit']:,}."
    )


def _remedy(inquest: InquestData, config: PostprocessConfig) -> str:
    fix, candidate = inquest["fix"], inquest["candidate"]
    if fix is None:
        out_of_reach = candidate["fate"] == "below_thresh" and candidate["rank"] > candidate["topk"]
        place = f": it is number {candidate['rank']:,} on {candidate['level']}"
        return f"No change that was tried brings it in{place if out_of_reach else ''}."
    steps = _steps(fix, config)
    *first, last = [f"{verb} {knob} to {new}" for verb, knob, _, new in steps]
    turned = f"{', '.join(first)} and {last}" if first else last
    found = fix["detection"]
    as_other = f" as {found['category']}" if found["category"] != candidate["category"] else ""
    appears = "it appears"
    if found["score"] != candidate["score"]:
        appears = f"another box on it appears, score {found['score']:.3f}"
    return f"{turned[0].upper()}{turned[1:]}{',' if first else ''} and {appears}{as_other}."


def _steps(fix: Mapping[str, Any], config: PostprocessConfig) -> list[tuple[str, str, str, str]]:
    """(lower or raise, knob, old value, new value) of each knob that a fix turns."""
    steps = []
    for knob, value in fix["changes"].items():
        if knob == "class_score_thresh":
            before = dict(config.class_score_thresh)
            for label, floor in ((int(label), floor) for label, floor in value.items()):
                if floor != before.get(label):
                    own = label == fix["detection"]["label"]
                    name = fix["detection"]["category"] if own else f"class {label}"
                    steps.append((f"the floor of {name}", before.get(label, 0.0), floor))
        else:
            steps.append((knob, getattr(config, knob), value))
    return [
        ("raise" if new > old else "lower", knob, number(old), number(new))
        for knob, old, new in steps
    ]


def inquest_numbers(inquest: InquestData, config: PostprocessConfig) -> list[tuple[str, str]]:
    """(name, value with unit) pairs, from the anchors to the fix."""
    rows = [
        ("drawn box, photo px", _corners(inquest["box"])),
        ("matches from IoU", number(inquest["match_iou"])),
        (
            "anchors that match",
            f"{inquest['anchors_matching']:,} of {inquest['num_anchors']:,}",
        ),
        *((f"anchor {n}", _anchor(a)) for n, a in enumerate(inquest["nearest_anchors"], start=1)),
        (
            "boxes that match",
            f"{inquest['boxes_matching']:,}, with {inquest['pairs_matching']:,} (anchor, class) "
            "pairs",
        ),
    ]
    if inquest["best_box"]:
        rows.append(("nearest box", _anchor(inquest["best_box"])))
    if inquest["best_classes"]:
        best = (f"{row['category']} {row['score']:.3f}" for row in inquest["best_classes"])
        rows.append(("best classes of these", ", ".join(best)))
    if inquest["candidate"]:
        rows += _candidate_rows(inquest["candidate"])
    named = [("fix", inquest["fix"])] if inquest["fix"] else []
    named += [(f"alternative {n}", fix) for n, fix in enumerate(inquest["alternatives"], start=1)]
    return rows + [(name, _turned(fix, config)) for name, fix in named]


def _candidate_rows(candidate: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pair that came nearest to being kept, step by step as far as it got."""
    score, bound = candidate["score"], candidate["score_thresh"]
    rows = [
        ("candidate", f"{candidate['category']}, {_anchor(candidate)}"),
        ("box, photo px", _corners(candidate["box"])),
        ("score", f"{_apart(score, bound)} {_sign(score, bound)} threshold {number(bound)}"),
        ("rank in level", f"{candidate['rank']:,}; topk_candidates {candidate['topk']:,}"),
    ]
    by = candidate["suppressed_by"]
    if by:
        bound = by["nms_thresh"]
        rows.append(
            (
                "suppressed by",
                f"{by['category']} {by['score']:.3f}, IoU {_apart(by['iou'], bound)} > nms_thresh "
                f"{number(bound)}",
            )
        )
    if candidate["position"]:
        limit = f"detections_per_img {candidate['limit']:,}"
        rows.append(("position after NMS", f"{candidate['position']:,}; {limit}"))
    return [*rows, ("fate", candidate["fate"].replace("_", " "))]


def _anchor(row: Mapping[str, Any]) -> str:
    shape, cell = row["anchor_shape"], row["cell"]
    return (
        f"{row['level']}, row {cell['row']}, column {cell['col']}, size {shape['size']} px, ratio "
        f"h/w {shape['ratio']:g}: IoU {row['iou']:.3f}"
    )


def _turned(fix: Mapping[str, Any], config: PostprocessConfig) -> str:
    steps = ", ".join(f"{knob} {old} → {new}" for _, knob, old, new in _steps(fix, config))
    found = fix["detection"]
    return f"{steps}: {found['category']} {found['score']:.3f}, IoU {found['iou']:.3f}"


def inquest_formula(inquest: InquestData, config: PostprocessConfig) -> str:
    """The IoU of the drawn box and the deciding comparison as arithmetic; plain text, photo px."""
    candidate = inquest["candidate"]
    nearest = candidate or inquest["best_box"]
    if nearest is None:
        return "no box overlaps the drawn one: IoU = 0"
    bound = inquest["match_iou"]
    name = "candidate" if candidate else "nearest box"
    lines = _iou_lines("drawn box", inquest["box"], name, nearest["box"])
    lines[-1] += f" {'>=' if nearest['iou'] >= bound else '<'} match_iou {number(bound)}"
    if not candidate:
        return "\n".join(lines)
    score, bound = candidate["score"], candidate["score_thresh"]
    lines.append(f"score = {_apart(score, bound)} {_sign(score, bound)} threshold {number(bound)}")
    if candidate["fate"] == "cut_by_topk":
        rank, topk = candidate["rank"], candidate["topk"]
        ties = "" if rank > topk else ", but others of the same score come first"
        sign = ">" if rank > topk else "<="
        lines.append(f"rank = {rank:,} {sign} topk_candidates {topk:,}{ties}")
    by = candidate["suppressed_by"]
    if by:
        lines += ["", *_iou_lines("candidate", candidate["box"], "suppressor", by["box"])]
        lines[-1] += f" > nms_thresh {number(config.nms_thresh)}"
    if candidate["position"]:
        place, limit = candidate["position"], candidate["limit"]
        lines.append(
            f"position = {place:,} {'>' if place > limit else '<='} detections_per_img {limit:,}"
        )
    return "\n".join(lines)


def _iou_lines(name_a: str, a: list[float], name_b: str, b: list[float]) -> list[str]:
    """The areas of two boxes, their intersection and their union, and the IoU of these."""
    both = [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]
    rows = [_area(box) for box in (a, b, both)]
    areas = [f"{width * height:,.1f}" for width, height in rows]
    inter = rows[2][0] * rows[2][1]
    union = rows[0][0] * rows[0][1] + rows[1][0] * rows[1][1] - inter
    wide = max(len(name_a), len(name_b), len("intersection"))
    lines = [
        f"{name:<{wide}} = {width:,.2f} × {height:,.2f} = {area}"
        for name, (width, height), area in zip(
            (name_a, name_b, "intersection"), rows, areas, strict=True
        )
    ]
    lines.append(f"{'union':<{wide}} = {areas[0]} + {areas[1]} - {areas[2]} = {union:,.1f}")
    lines.append(f"{'IoU':<{wide}} = {areas[2]} / {union:,.1f} = {inter / union:.4f}")
    return lines


def _area(box: list[float]) -> tuple[float, float]:
    """Width and height; 0 where two boxes do not meet."""
    return max(box[2] - box[0], 0.0), max(box[3] - box[1], 0.0)


def number(value: float) -> str:
    """A knob's value: a count with separators, a threshold with two decimals or those it has."""
    if isinstance(value, int):
        return f"{value:,}"
    short = next((n for n in range(2, 7) if round(value, n) == value), None)
    return repr(value) if short is None else f"{value:.{short}f}"


def _apart(value: float, bound: float) -> str:
    """A value with 3 decimals, or as many as tell it from the bound that it is compared with."""
    for decimals in range(3, 10):
        text = f"{value:.{decimals}f}"
        if (float(text) > bound) == (value > bound) and (float(text) == bound) == (value == bound):
            return text
    return repr(value)


def _sign(value: float, bound: float) -> str:
    return ">" if value > bound else "<="


def _corners(box: list[float]) -> str:
    return " ".join(f"{edge:.1f}" for edge in box)
