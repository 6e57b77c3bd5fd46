"""The core's answer to the workbench: what is kept, what became of the rest, and the words for it.

Only what the open panel shows is worked out, so that a released knob waits for nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pages._shared import engine
from pages._shared.canvas.kit import knobs_of
from pages._shared.gallery import Picture
from pages._shared.stored import Result
from pages._shared.training_note import training_words
from pages._shared.view import Pin, View, to_query
from retinanet.box_table import BoxTable, find_row, table_from_trace
from retinanet.compare import compare
from retinanet.config import LossConfig, MatcherConfig, PostprocessConfig
from retinanet.detection import DetectionTrace, detect
from retinanet.engine import ModelSpec
from retinanet.figures.candidate_table import candidate_table
from retinanet.figures.changes import change_sentence, comparison_sentence
from retinanet.figures.columns import pack_columns, unpack_columns
from retinanet.figures.ghosts import candidate_pairs, ghost_columns, round_columns
from retinanet.figures.inquest import inquest_formula, inquest_numbers, inquest_sentence
from retinanet.figures.ledger import FATE_WORDS
from retinanet.figures.life import life_formula, life_numbers, life_sentence, survival_parts
from retinanet.lessons import is_too_crowded, non_monotone
from retinanet.rounds import nms_rounds
from retinanet.types import LEVELS
from retinanet.whynot import why_not

GHOSTS = 1500
"""Candidates drawn besides the kept ones; the page says how many there are beyond."""

FIXES = 3
"""Changes offered as buttons for an object that was missed."""

STAGE_FATES: dict[str, tuple[str, ...]] = {
    "all": ("over_limit", "suppressed", "cut_by_topk"),
    "above": ("over_limit", "suppressed", "cut_by_topk"),
    "topk": ("over_limit", "suppressed"),
    "nms": ("over_limit",),
    "kept": (),
}
HOW_TO_PICK = "Click a box, a row of the table, or step with N and P on the picture."
GONE = (
    "The selected box is below its threshold at these settings, or so far down its level's ranking "
    "that it is no longer listed."
)
NO_LESSON = "No box was found that goes when nms_thresh or topk_candidates alone is raised."
TOO_CROWDED = (
    "So many candidates share a class that none was looked for: raise score_thresh to have fewer."
)
WITH_THE_MODEL = "The answer comes with the model."

Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Scene:
    """What the page has to show of a picture.

    Args:
        picture: that is open.
        spec: the model that answers.
        progress: where its work stands.
        result: live or stored; None while there is neither.
        trace: of the live result; None while it is not there.
    """

    picture: Picture
    spec: ModelSpec
    progress: engine.Progress
    result: Result | None
    trace: DetectionTrace | None


def pack_answer(scene: Scene, view: View) -> bytes:
    """Everything that the workbench shows, as one block (`retinanet.figures.columns`)."""
    header, columns = _kept(scene, view)
    header |= {
        "view": view_for_browser(view),
        "details": details_stamp(scene, view),
        "training_words": "",
        "box_words": HOW_TO_PICK if view.box < 0 else WITH_THE_MODEL,
        "why_words": WITH_THE_MODEL,
        "compare_words": "",
        "life": None,
        "lesson": None,
        "lesson_looked": False,
        "lesson_words": "",
        "inquest": None,
        "compare": None,
        "ghosts": None,
        "more": False,
    }
    if scene.trace is not None:
        trace = scene.trace
        header["table"] = table_key(trace)
        answers = {"box": _box, "whynot": _why_not, "nms": _rounds, "compare": _compared}
        parts = [_ghosts]
        if view.hurried and _takes_long(view):
            header["more"] = True  # the browser asks again once it has painted the boxes
        else:
            parts += [_training, answers[view.mode]]
        for part in parts:
            more_header, more_columns = part(scene, trace, view)
            header |= more_header
            columns |= more_columns
    return pack_columns(header, columns)


def _takes_long(view: View) -> bool:
    """Whether the open panel, or the note on training, has something to work out."""
    return (view.matcher, view.loss) != (MatcherConfig(), LossConfig()) or {
        "box": view.box >= 0 or view.lesson,
        "whynot": view.why is not None,
        "nms": True,
        "compare": view.pin is not None,
    }[view.mode]


def table_key(trace: DetectionTrace) -> str:
    """The stamp of the candidate table that the browser holds for these outputs."""
    packed = candidate_table(trace.outputs)
    return trace.outputs.derived(
        "candidate_table_key", lambda _: unpack_columns(packed)[0]["stamp"]
    )


def view_for_browser(view: View) -> dict[str, Any]:
    """The view as the workbench holds it; it sends the same back (`view.from_message`)."""
    return {
        "knobs": knobs_of(view.knobs),
        "training": {
            "fg_iou_thresh": view.matcher.fg_iou_thresh,
            "bg_iou_thresh": view.matcher.bg_iou_thresh,
            "alpha": view.loss.alpha,
            "gamma": view.loss.gamma,
        },
        "color": view.color,
        "stage": view.stage,
        "mode": view.mode,
        "box": view.box,
        "why": view.why,
        "why_class": view.why_class,
        "lesson": view.lesson,
        "serial": view.serial,
    }


def details_stamp(scene: Scene, view: View) -> str:
    """Names what the panels below the workbench show, and the link."""
    shown = (scene.picture.key, scene.spec, scene.progress.state, to_query(view))
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


# ------------------------------------------------------------------ what is kept


def _kept(scene: Scene, view: View) -> tuple[dict[str, Any], Columns]:
    result = scene.result
    table = result.table if result is not None else BoxTable.empty()
    width, height = scene.picture.image.size
    header = {
        "image_id": scene.picture.image.id,
        "width": width,
        "height": height,
        "title": scene.picture.title,
        "status": _status(scene, view),
        "watermark": "RANDOM WEIGHTS" if scene.spec.weights == "random" else "",
        "names": dict(table.names),
        "counts": None if result is None else _counts(result),
        "table": "",
    }
    return header, _box_columns("kept", table)


def _box_columns(prefix: str, table: BoxTable) -> Columns:
    names = ("boxes", "scores", "labels", "levels", "pairs")
    return {f"{prefix}_{name}": getattr(table, name) for name in names}


def _status(scene: Scene, view: View) -> str:
    if scene.progress.state != "working":
        return view.fault
    lead = "Stored result, model loading. " if scene.result is not None else ""
    return f"{lead}{scene.progress.sentence}."


def _counts(result: Result) -> list[list[int]]:
    return [[result.counts_per_level[level][fate] for fate in FATE_WORDS] for level in LEVELS]


# ------------------------------------------------------------------ what became of the rest


def _ghosts(scene: Scene, trace: DetectionTrace, view: View) -> tuple[dict[str, Any], Columns]:
    stage = "topk" if view.mode == "nms" and view.stage in ("kept", "nms") else view.stage
    if not STAGE_FATES[stage] or view.mode == "compare":
        return {}, {}
    columns, counts = ghost_columns(trace, STAGE_FATES[stage], GHOSTS)
    return {"ghosts": counts}, columns


def _rounds(scene: Scene, trace: DetectionTrace, view: View) -> tuple[dict[str, Any], Columns]:
    return {}, round_columns(trace, nms_rounds(trace))


def _training(scene: Scene, trace: DetectionTrace, view: View) -> tuple[dict[str, Any], Columns]:
    return {"training_words": training_words(scene.picture, trace, view)}, {}


# ------------------------------------------------------------------ one box


def _box(scene: Scene, trace: DetectionTrace, view: View) -> tuple[dict[str, Any], Columns]:
    row = None if view.box < 0 else find_row(trace, view.box)
    header: dict[str, Any] = {
        "box_words": HOW_TO_PICK if view.box < 0 else GONE,
        "lesson": _lesson(trace) if view.lesson else None,
        "lesson_looked": view.lesson,
        "lesson_words": TOO_CROWDED if view.lesson and is_too_crowded(trace) else NO_LESSON,
    }
    if row is not None:
        life = trace.explain(row)
        header["life"] = {
            "sentence": life_sentence(life, trace.config),
            "numbers": life_numbers(life),
            "formula": life_formula(life, trace.config),
            "survives": survival_parts(life),
            "anchor": life["anchor_box_original"],
        }
    return header, {}


def _lesson(trace: DetectionTrace) -> dict[str, Any] | None:
    for knob in ("nms_thresh", "topk_candidates"):
        lessons = non_monotone(trace, knob, limit=1)
        if lessons:
            lesson = lessons[0]
            return {
                "knob": knob,
                "sentence": lesson.sentence,
                "values": [lesson.kept_at, lesson.gone_at],
                "box": int(candidate_pairs(trace)[lesson.row]),
            }
    return None


# ------------------------------------------------------------------ an object that was missed


def _why_not(scene: Scene, trace: DetectionTrace, view: View) -> tuple[dict[str, Any], Columns]:
    if view.why is None:
        return {}, {}
    label = view.why_class if 0 <= view.why_class < trace.outputs.num_classes else None
    try:
        inquest = why_not(trace.outputs, view.why, label, trace.config)
    except ValueError as fault:
        return {"why_words": str(fault)}, {}
    fixes = [inquest.fix, *inquest.alternatives] if inquest.fix else []
    candidate, plain = inquest.candidate, inquest.to_dict()
    return {
        "inquest": {
            "sentence": inquest_sentence(plain, trace.config),
            "numbers": inquest_numbers(plain, trace.config),
            "formula": inquest_formula(plain, trace.config),
            "fixes": [
                {"words": _fix_words(fix["changes"]), "knobs": knobs_of(inquest.fixed_config(fix))}
                for fix in fixes[:FIXES]
            ],
            "nearest": [anchor["box"] for anchor in inquest.nearest_anchors[:3]],
            "box": candidate and candidate["box"],
            "fate": list(FATE_WORDS).index(candidate["fate"]) if candidate else None,
        }
    }, {}


def _fix_words(changes: Mapping[str, Any]) -> str:
    parts = [
        "the threshold of its class lower"
        if knob == "class_score_thresh"
        else f"{knob} to {value:g}"
        for knob, value in changes.items()
    ]
    return f"Set {' and '.join(parts)}"


# ------------------------------------------------------------------ two settings


def _compared(scene: Scene, trace: DetectionTrace, view: View) -> tuple[dict[str, Any], Columns]:
    if view.pin is None:
        return {}, {}
    progress = engine.ask_outputs(view.pin.spec, scene.picture.image)
    if progress.state == "failed":
        return {"compare_words": f"The pinned model cannot answer: {progress.sentence}"}, {}
    if progress.state == "working":
        return {"compare_words": f"The pinned model is at work: {progress.sentence}."}, {}
    before = detect(engine.get_engine().outputs(scene.picture.image, view.pin.spec), view.pin.knobs)
    difference = compare(before, trace)
    pinned = table_from_trace(before)
    changes = [
        {
            "kind": change.kind,
            "before": change.before and change.before.index,
            "after": change.after and change.after.index,
            # A pair's number is one of its own model's.
            "before_pair": change.before.pair
            if change.before and difference.same_outputs
            else None,
            "after_pair": change.after and change.after.pair,
            "sentence": change_sentence(change, before.config, trace.config),
        }
        for change in difference.changes
    ]
    header = {
        "compare": {
            "before_title": pin_title(view.pin, scene.spec, trace.config),
            "sentence": comparison_sentence(difference),
            "changes": changes,
            "same_model": difference.same_outputs,
            "names": dict(pinned.names),
        }
    }
    return header, _box_columns("pin", pinned)


def pin_title(pin: Pin, spec: ModelSpec, config: PostprocessConfig) -> str:
    """What differs from the present settings, in words."""
    parts = []
    if pin.spec != spec:
        shape = ", ".join(f"{name} {value}" for name, value in pin.spec.overrides().items())
        parts.append(f"{engine.spec_name(pin.spec)} weights{f' ({shape})' if shape else ''}")
    now = config.to_dict()
    for name, value in pin.knobs.to_dict().items():
        if now.get(name) != value:
            parts.append(f"{name} {value}")
    return f"pinned, {', '.join(parts)}" if parts else "pinned, the same settings"
