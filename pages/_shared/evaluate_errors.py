"""What goes wrong at the setting, and on which photos: the tabs that read its errors."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages._shared import behind, reading, state
from pages._shared import evaluate_work as work
from pages._shared.evaluate_work import Measured
from pages._shared.takehome import counted
from retinanet.analysis import Confusion, ScoreSplit, confusion, score_split, worst_images
from retinanet.figures.errors import (
    TYPE_STYLES,
    confusion_heatmap,
    confusion_rows,
    error_bars,
    error_rows,
    score_histogram,
    score_rows,
)

MOST_BEHIND = 500
"""The most photos of a list."""

WORST_BY: dict[str, str] = {
    "f1": "lowest F1",
    "missed": "most objects missed",
    "false": "most false detections",
}


def confusions(told: Measured) -> None:
    """Which class is taken for which."""
    setting = told.setting
    made = work.worked(
        ("confusion", *setting.key),
        "Pairing detections and objects",
        lambda task: confusion(setting.dataset, told.errors.matching),
    )
    if made is None:
        return
    pairs = made.top_pairs(1)
    worst = (
        f"{pairs[0]['truth']} is taken for {pairs[0]['detected_as']} most often: "
        f"{counted(pairs[0]['count'], 'time')}."
        if pairs
        else "No object is taken for one of another class."
    )
    reading.figure_panel(
        "confusion",
        confusion_heatmap(made),
        confusion_rows(made),
        worst,
        "**What you see.** Each row is what an object is, each column what it was taken for, in "
        "shares of the row. The last column holds objects that no detection met, the last row "
        "detections that met no object.\n\n"
        "**Why it matters.** Two classes that are taken for each other want more examples of what "
        "sets them apart. A full last column wants other anchors or a lower score_thresh.\n\n"
        "**Try this.** Choose a cell of the table below: its photos open.",
    )
    _matrix(made, told)


def _matrix(made: Confusion, told: Measured) -> None:
    chosen = made.occurring
    names = [f"{made.names[index]}" for index in chosen]
    counts = pd.DataFrame(made.matrix[chosen][:, chosen])
    frame = counts.where(counts > 0)  # a matrix of noughts hides what is there
    frame.columns = [f"{number + 1}. {name}" for number, name in enumerate(names)]
    frame.insert(0, "object is", names)
    st.markdown("**Counts: choose a cell**")
    tag = told.setting.tag
    event = st.dataframe(
        frame,
        hide_index=True,
        key=f"matrix_{tag}",
        on_select="rerun",
        selection_mode="single-cell",
        alt="what each object is, and what it was detected as, in counts",
        placeholder="·",
        column_config={
            "object is": st.column_config.TextColumn(pinned=True),
            **{
                name: st.column_config.NumberColumn(format="localized")
                for name in frame.columns[1:]
            },
        },
    )
    cells = [(row, list(frame.columns).index(name)) for row, name in event["selection"]["cells"]]
    if not cells or not cells[0][1] or cells[0][0] >= len(chosen):
        return
    row, column = chosen[cells[0][0]], chosen[cells[0][1] - 1]
    behind.sheet(
        f"cell_{row}_{column}_{tag}",
        f"{made.names[row]} detected as {made.names[column]}",
        made.image_ids(row, column),
        told.setting.dataset,
        told,
    )


def errors(told: Measured) -> None:
    """The kinds of error, and the AP50 that each costs."""
    found = told.errors
    main = [row for row in found.rows if row["type"] not in ("false_positives", "false_negatives")]
    costly = max(main, key=lambda row: (row["dAP50"], row["count"]))
    reading.figure_panel(
        "error_types",
        error_bars(found),
        error_rows(found),
        f"{costly['type'].capitalize()} errors cost most. {costly['sentence']}",
        "**What you see.** Every false detection has exactly one kind; an object is missed when no "
        "error of class or place points at it. At the right: by how much AP50 would rise if this "
        "kind alone were put right. The costs do not add up.\n\n"
        "**Why it matters.** Many errors may cost little: background ones with low scores hardly "
        "touch AP, and still fill the screen.\n\n"
        "**Try this.** Raise score_thresh: background errors go, missed objects come.\n\n"
        "Bolya et al., TIDE, ECCV 2020, sections 2.2 and 2.3.",
    )
    tag = told.setting.tag
    row = behind.table(
        f"error_table_{tag}",
        [{**row, "type": TYPE_STYLES[row["type"]][0]} for row in found.rows],
        {"type": "", "count": "localized", "dAP50": "%.3f", "sentence": ""},
        alt="the kinds of error, how often each occurs and the AP50 it costs",
    )
    if row is not None:
        one = found.rows[row]
        words = TYPE_STYLES[one["type"]][0]
        key = f"errors_{one['type']}_{tag}"
        behind.sheet(key, words, one["image_ids"], told.setting.dataset, told)


def scores(told: Measured) -> None:
    """The scores of true and of false detections."""
    setting = told.setting
    split: ScoreSplit | None = work.worked(
        ("scores", *setting.key),
        "Splitting the scores",
        lambda task: score_split(setting.dataset, told.errors.matching),
    )
    if split is None:
        return
    names = ["all classes", *split.per_class]
    asked = st.selectbox("class", names, key="scores_class", width=260)
    category = None if asked == names[0] else asked
    true, false = split.of(category)
    reading.figure_panel(
        "scores",
        score_histogram(split, category),
        score_rows(split, category),
        f"{len(true):,} true and {len(false):,} false detections of {asked} above "
        f"{setting.knobs.score_thresh:g}.",
        "**What you see.** How many detections have each score, on a logarithmic axis: right ones "
        "and wrong ones.\n\n"
        "**Why it matters.** Where the two part is the score_thresh to use. If they do not part, "
        "no threshold helps; only training does.\n\n"
        "**Try this.** Set score_thresh to 0.01 to see all of them, and look at one class.",
    )
    rows = [
        {**row, "score": f"{row['from']:.2f} to {row['to']:.2f}"}
        for row in score_rows(split, category)
        if row["true_positives"] or row["false_positives"]
    ]
    if not rows:
        return
    counts = {"true_positives": "localized", "false_positives": "localized"}
    key = f"scores_{setting.tag}_{names.index(asked)}"
    chosen = behind.table(
        key, rows, {"score": "", **counts}, alt="detections by score, right and wrong"
    )
    if chosen is not None:
        low, high = rows[chosen]["from"], rows[chosen]["to"]
        ids = _photos_between(told, low, high, category)
        title = f"detections with scores {rows[chosen]['score']}"
        behind.sheet(f"{key}_{chosen}", title, ids, setting.dataset, told)


def _photos_between(told: Measured, low: float, high: float, category: str | None) -> list[int]:
    """Photos with a detection whose score is in [low, high), 1 in the last range, highest first."""
    dataset = told.setting.dataset
    wanted = None
    if category is not None:
        wanted = dataset.category_ids[dataset.categories.index(category)]
    top = high if high < 1 else 2.0
    found = [
        one
        for one in told.results
        if low <= one["score"] < top and wanted in (None, one["category_id"])
    ]
    found.sort(key=lambda one: -one["score"])
    return list(dict.fromkeys(one["image_id"] for one in found))[:MOST_BEHIND]


def worst(told: Measured) -> None:
    """The photos that went wrong most."""
    setting, tag = told.setting, told.setting.tag
    by = st.segmented_control(
        "the worst first by",
        list(WORST_BY),
        format_func=WORST_BY.get,
        default="f1",
        key="worst_by",
    )
    rows = worst_images(setting.dataset, told.errors, by=by or "f1")
    if not rows:
        st.caption("Every object is found and nothing else: no photo went wrong.")
        return
    ids = [row["image_id"] for row in rows]
    title = f"the worst photos, {WORST_BY[by or 'f1']} first"
    behind.sheet(f"worst_{by}_{tag}", title, ids, setting.dataset, told)
    st.markdown(f"**{state.plain(rows[0]['file'])}: {state.plain(rows[0]['sentence'])}**")
    chosen = behind.table(
        f"worst_table_{by}_{tag}",
        rows,
        {
            "file": "",
            **dict.fromkeys(("objects", "tp", "fp", "fn"), "localized"),
            "f1": "%.3f",
            "error": "",
            "sentence": "",
        },
        alt="photos with the most errors",
    )
    if chosen is not None:
        one = rows[chosen]
        key = f"worst_one_{one['image_id']}_{tag}"
        behind.sheet(key, one["file"], [one["image_id"]], setting.dataset, told)
