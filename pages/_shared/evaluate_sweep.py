"""How the setting does beside others: the sweep, curves over the threshold, classes one by one."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import streamlit as st

from pages._shared import behind, evaluate_state, reading, state, tasks
from pages._shared import evaluate_work as work
from pages._shared.behind import csv_of
from pages._shared.evaluate_knobs import AP_ALONE, share, take_over
from pages._shared.evaluate_state import KNOBS, grid_of
from pages._shared.evaluate_work import Measured, Setting
from retinanet.analysis import worst_images
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.figures import sweep as drawn
from retinanet.sweeps import (
    SCORE_FLOOR,
    ClassFloors,
    Grid,
    PRCurve,
    Sweep,
    SweepRow,
    class_floors,
    pr_curves,
)

GRID_HELP = "Values with commas between them, `0.3, 0.5`, or first, last and step, `0.05:0.95:0.1`."
BEST: dict[str, str] = {"f1": "F1", "AP": "AP", "AP50": "AP50", "macro_f1": "macro F1"}
"""What the best settings are listed by."""

MOST_BEST = 12
"""Rows of the table of the best settings."""

F1_WORDS = (
    "**What you see.** F1 at IoU 0.5 of every pair of score_thresh and nms_thresh; the star is the "
    "best, the ring the setting in use.\n\n"
    "**Why it matters.** This is what a person meets who uses the detector at that setting.\n\n"
    "**Try this.** Choose the best row of the table below and take it over: the ring moves."
)
AP_WORDS = (
    "**What you see.** AP of the same settings. It falls with every step of score_thresh.\n\n"
    "**Why it matters.** Compare models by AP at the lowest threshold; set the threshold by F1, "
    "precision or recall, whichever the use asks for."
)

FORMATS: dict[str, str] = {
    "score_thresh": "%.3g",
    "nms_thresh": "%.3g",
    "topk_candidates": "localized",
    "detections_per_img": "localized",
    **dict.fromkeys(("f1", "AP", "AP50", "precision", "recall", "macro_f1"), "%.3f"),
    "detections_per_image": "%.1f",
    "post_processing_ms": "%.1f",
}


# ------------------------------------------------------------------ the sweep


def sweep_key(setting: Setting) -> Hashable:
    """What the task of the sweep is called: it does not depend on the knobs, but for the floors."""
    grid = tuple(evaluate_state.current().grid.items())
    return ("sweep", *setting.subject.key, grid, setting.knobs.class_score_thresh)


def sweep_tab(told: Measured) -> None:
    """A grid of settings: its text, its surfaces, its best."""
    setting = told.setting
    try:
        grid = _grid_controls()
        for corner in (grid.settings[0], grid.settings[-1]):
            setting.store.check(corner)
    except ConfigError as fault:
        st.error(state.plain(str(fault)))
        return
    key = sweep_key(setting)
    if tasks.get_tasks().get(key) is None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                f"Sweep {len(grid):,} settings",
                key="run_sweep",
                type="primary",
                on_click=_begin_sweep,
                args=(key, setting, grid),
            )
            st.caption("No network runs: every setting is scored from the candidates on disk.")
        return
    task = tasks.show(key, "Sweep again")
    if task is not None and task.state == "ready":
        _surfaces(task.result, told)
        _best(task.result, told)


def _begin_sweep(key: Hashable, setting: Setting, grid: Grid) -> None:
    def run(task: tasks.Task) -> Sweep:
        return work.swept(setting, grid, task)

    tasks.get_tasks().start(key, f"Scoring {len(grid):,} settings, photo", run)


def _grid_controls() -> Grid:
    """The four texts.

    Raises:
        ConfigError: one of them cannot be read; the message says what it takes.
    """
    texts = evaluate_state.current().grid
    columns = st.columns(len(KNOBS), gap="small", wrap=True)
    for column, name in zip(columns, KNOBS, strict=True):
        key = f"grid_{name}"
        st.session_state[key] = texts[name]
        column.text_input(name, key=key, on_change=_typed, args=(name,), help=GRID_HELP)
    return grid_of(evaluate_state.current())


def _typed(name: str) -> None:
    text = st.session_state[f"grid_{name}"][: evaluate_state.MAX_GRID_TEXT].strip()
    grid = dict(evaluate_state.current().grid)
    evaluate_state.change(grid=grid | {name: text or evaluate_state.Desk().grid[name]})


def _surfaces(swept: Sweep, told: Measured) -> None:
    grid, knobs = swept.grid, told.setting.knobs
    wide = [name for name in KNOBS if len(getattr(grid, name)) > 1]
    best = {name: swept.best(name) for name in ("f1", "AP")}
    sentence = (
        f"Best F1 {share(best['f1'].counts.f1)} at {_words(best['f1'].config, wide)}; best AP "
        f"{share(best['AP'].metrics['AP'])} at {_words(best['AP'].config, wide)}."
    )
    if not wide:
        st.markdown(f"**{state.plain(sentence)}**")
    if {"score_thresh", "nms_thresh"} <= set(wide):
        _surface(swept, "f1", knobs, sentence, F1_WORDS)
        _surface(swept, "AP", knobs, AP_ALONE, AP_WORDS)
        wide = [name for name in wide if name not in ("score_thresh", "nms_thresh")]
    for name in wide:
        _one_knob(swept, name, sentence)


def _surface(
    swept: Sweep, metric: str, knobs: PostprocessConfig, sentence: str, teaching: str
) -> None:
    figure = drawn.surface(swept, metric, knobs)
    rows = drawn.surface_rows(swept, metric, drawn.shown_setting(swept, metric, knobs))
    reading.figure_panel(f"surface_{metric}", figure, rows, sentence, teaching)


def _one_knob(swept: Sweep, knob: str, sentence: str) -> None:
    base = swept.best("f1").config
    reading.figure_panel(
        f"over_{knob}",
        drawn.knob_curves(swept, knob, base),
        drawn.knob_rows(swept, knob, base),
        sentence,
        f"**What you see.** Three measures over {knob}, the others as at the best F1, which is "
        "marked.\n\n"
        "**Why it matters.** Where a curve is flat, the knob may be set by taste; where it is "
        "steep, a small change costs.",
    )


def _words(config: PostprocessConfig, names: Any) -> str:
    return ", ".join(f"{name} {getattr(config, name):g}" for name in names) or "the only setting"


def _best(swept: Sweep, told: Measured) -> None:
    metric = st.segmented_control(
        "the best by", list(BEST), format_func=BEST.get, default="f1", key="best_by"
    )
    metric = metric or "f1"
    ranked = sorted(swept.rows, key=lambda row: _rank(row, metric), reverse=True)[:MOST_BEST]
    rows = [
        {**row.to_row(), "post_processing_ms": 1000 * row.postprocess_seconds} for row in ranked
    ]
    tag = told.setting.tag
    chosen = behind.table(
        f"best_{metric}_{tag}", rows, FORMATS, alt=f"the best settings by {BEST[metric]}"
    )
    st.download_button(
        f"All {len(swept.rows):,} settings (CSV)",
        lambda: csv_of(swept.to_rows()),
        "sweep.csv",
        "text/csv",
        key="sweep_csv",
        on_click="ignore",
    )
    if chosen is None:
        st.caption("Choose a row to take its setting over, or to see what it gets wrong.")
        return
    config = ranked[chosen].config
    st.button(
        f"Take this setting over: {_words(config, KNOBS)}",
        key="take_setting",
        type="primary",
        on_click=take_over,
        args=(config,),
    )
    other = work.measured(replace(told.setting, knobs=config))
    if other is not None:
        ids = [row["image_id"] for row in worst_images(told.setting.dataset, other.errors)]
        title = "the worst photos at this setting"
        behind.sheet(f"best_sheet_{other.setting.tag}", title, ids, told.setting.dataset, other)


def _rank(row: SweepRow, metric: str) -> float:
    value = row.to_row()[metric]
    return -1.0 if value != value else value


# ------------------------------------------------------------------ curves


def curves(told: Measured) -> None:
    """Precision over recall, and what the score threshold does to F1."""
    setting = told.setting
    low = replace(setting.knobs, score_thresh=SCORE_FLOOR)
    made: list[PRCurve] | None = work.worked(
        ("curves", *setting.subject.key, low),
        "Drawing the curves from photo",
        lambda task: pr_curves(
            setting.store,
            setting.dataset,
            low,
            progress=lambda at: task.tell(at.done, at.total),
            cancel=task.cancel,
        ),
    )
    if made is None:
        return
    if not made:
        st.caption("The data set has no object, so there is nothing to recall.")
        return
    shown = _asked_curves(made)
    now = made[0].point_at(setting.knobs.score_thresh)
    reading.figure_panel(
        "precision_recall",
        drawn.pr_figure(shown, setting.knobs.score_thresh),
        drawn.pr_rows(shown),
        "No detection is above the threshold."
        if now is None
        else f"score_thresh {setting.knobs.score_thresh:g} ends the curve of all classes at recall "
        f"{now[0]:.3f}. AP50 is the area below it, {made[0].ap:.3f}.",
        "**What you see.** Precision (the share of the detections that are right) over recall (the "
        "share of the objects that are found) as the threshold falls, at IoU 0.5. The ring is "
        "where score_thresh ends a curve.\n\n"
        "**Why it matters.** AP is the area below the line. A curve that ends early misses objects "
        "at every threshold: their candidates are not there, or sit badly.\n\n"
        "**Try this.** Add a class that the table of classes shows to be weak.",
    )
    _over_the_threshold(told)


def _asked_curves(made: list[PRCurve]) -> list[PRCurve]:
    names = [curve.category for curve in made[1:]]
    asked = st.multiselect(
        "classes", names, names[:3], key=f"curve_classes_{len(names)}", max_selections=7
    )
    return [made[0], *(curve for curve in made[1:] if curve.category in asked)]


def _over_the_threshold(told: Measured) -> None:
    setting, knobs = told.setting, told.setting.knobs
    lows = [step / 20 for step in range(1, 20)]
    grid = replace(Grid.of(knobs), score_thresh=(SCORE_FLOOR, *lows, knobs.score_thresh))
    swept = work.worked(
        ("threshold", *setting.subject.key, knobs),
        "Counting over the threshold, photo",
        lambda task: work.swept(setting, grid, task),
    )
    if swept is None:
        return
    best = swept.best("f1")
    gain = best.counts.f1 - told.row.counts.f1
    reading.figure_panel(
        "over_the_threshold",
        drawn.threshold_curves(swept, told.row.config),
        drawn.threshold_rows(swept, told.row.config),
        f"F1 is highest at score_thresh {best.config.score_thresh:g}: {share(best.counts.f1)}, "
        f"{share(gain)} above the present one's.",
        "**What you see.** Precision, recall and their harmonic mean F1 over score_thresh, the "
        "other knobs as set.\n\n"
        "**Why it matters.** A detector with a good AP and a poor F1 only wants another threshold.",
    )
    st.button(
        f"Take score_thresh {best.config.score_thresh:g} over",
        key="take_threshold",
        on_click=take_over,
        args=(best.config,),
        disabled=best.config == knobs,
    )


# ------------------------------------------------------------------ classes

WHICH: dict[str, tuple[str, str]] = {
    "missed": ("with one missed", "missed_image_ids"),
    "false": ("with a false one", "false_image_ids"),
    "all": ("with one there", "image_ids"),
}


def classes(told: Measured) -> None:
    """Each class by itself, and a threshold for each."""
    setting, tag = told.setting, told.setting.tag
    rows = sorted(told.swept.per_class(told.row.config), key=_weakness)
    if not rows:
        st.caption("There is no object and no detection.")
        return
    weak = rows[0]
    st.markdown(
        f"**{state.plain(weak['category'])} is the weakest: AP50 {share(weak['AP50'])}, "
        f"{weak['tp']:,} of {weak['gts']:,} found, {weak['fp']:,} false.**"
    )
    chosen = behind.table(
        f"classes_{tag}",
        rows,
        {
            "category": "",
            "gts": "localized",
            **dict.fromkeys(("AP", "AP50", "precision", "recall", "f1"), "%.3f"),
            **dict.fromkeys(("tp", "fp", "fn"), "localized"),
        },
        alt="how each class does, the weakest first",
    )
    if chosen is not None:
        one = rows[chosen]
        asked = st.segmented_control(
            "photos",
            list(WHICH),
            format_func=lambda name: WHICH[name][0],
            default="missed",
            key="class_photos",
        )
        words, field = WHICH[asked or "missed"]
        key = f"class_{one['category_id']}_{asked}_{tag}"
        title = f"{one['category']}, photos {words}"
        behind.sheet(key, title, one[field], setting.dataset, told)
    _floors(told)


def _weakness(row: dict[str, Any]) -> tuple[bool, float]:
    value = row["AP50"]
    return value != value, 0.0 if value != value else value


def _floors(told: Measured) -> None:
    setting = told.setting
    base = replace(setting.knobs, class_score_thresh=())
    grid = replace(Grid.of(base), score_thresh=(SCORE_FLOOR, base.score_thresh))
    plain = replace(setting, knobs=base)
    st.markdown("#### A threshold for each class")
    found: ClassFloors | None = work.worked(
        ("floors", *setting.subject.key, base),
        "Looking for the thresholds, photo",
        lambda task: class_floors(work.swept(plain, grid, task), base),
    )
    if found is None:
        return
    st.markdown(
        f"**With them F1 is {share(found.counts.f1)} instead of {share(found.counts_before.f1)}, "
        f"the mean over the classes {share(found.macro_f1)} instead of "
        f"{share(found.macro_f1_before)}.** They are chosen on the very photos that they are "
        "judged by: on new photos the gain is smaller."
    )
    rows = found.to_rows()
    tag = setting.tag
    chosen = behind.table(
        f"floors_{tag}",
        rows,
        {"category": "", "gts": "localized", "floor": "%.3f", "f1": "%.3f", "f1_before": "%.3f"},
        alt="the score threshold of each class that gives it the highest F1",
    )
    st.button(
        "Take them over as class_score_thresh",
        key="take_floors",
        on_click=take_over,
        args=(found.config,),
        disabled=found.config == setting.knobs,
    )
    if chosen is not None:
        name = rows[chosen]["category"]
        own = next(row for row in told.swept.per_class(told.row.config) if row["category"] == name)
        key = f"floor_{own['category_id']}_{tag}"
        behind.sheet(key, name, own["image_ids"], setting.dataset, told)
