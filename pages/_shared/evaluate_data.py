"""What the data set itself says, without any network: the anchors' coverage, and its report."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import streamlit as st

from pages._shared import behind, lens, reading, state, view
from pages._shared import evaluate_work as work
from pages._shared.evaluate_work import Measured, Subject
from pages._shared.takehome import counted
from pages._shared.tasks import Task
from retinanet.analysis import DatasetCoverage, dataset_coverage
from retinanet.analysis.coverage_suggestions import Suggestion
from retinanet.coco import CocoDataset
from retinanet.datasets import DatasetReport
from retinanet.engine import Cancelled
from retinanet.figures.dataset import (
    aspect_ratio_rows,
    aspect_ratios,
    box_size_rows,
    box_sizes,
    class_count_rows,
    class_counts,
)
from retinanet.figures.errors import (
    coverage_level_rows,
    coverage_levels,
    coverage_size_rows,
    coverage_sizes,
)

BADGE_OF: dict[str, str] = {
    "min_size": "rebuilds the model",
    "fg_iou_thresh": "training only",
    "scales": "training only",
    "aspect_ratios": "training only",
}
"""What a suggested setting changes, of `state.BADGES`."""


def coverage(subject: Subject, told: Measured | None) -> None:
    """What anchors the objects have, and what would give them more."""
    made = covered(subject)
    if made is None:
        return
    size = subject.config.min_size
    reading.figure_panel(
        "coverage_levels",
        coverage_levels(made),
        coverage_level_rows(made),
        made.suggestion,
        "**What you see.** Each object by the pyramid level of its best anchor. A natural match is "
        "an anchor with an IoU of fg_iou_thresh or more; a forced one is below it, and torchvision "
        "gives it to the object all the same.\n\n"
        "**Why it matters.** An object without a natural match has next to nothing to learn from. "
        f"No threshold after training brings it back. Here min_size is {size:,} px, on average "
        f"{_anchors(made)}.\n\n"
        "**Try this.** Take over the cheapest suggestion below, and open a photo in Anchors.",
    )
    _suggestions(made.suggestions)
    reading.figure_panel(
        "coverage_sizes",
        coverage_sizes(made),
        coverage_size_rows(made),
        f"{made.without:,} of {made.objects:,} objects have no natural match.",
        "**What you see.** The same objects by size, as the network sees them.",
    )
    rows = [
        *({"what": f"best anchor on {row['level']}", **row} for row in made.levels),
        *({"what": f"size {_size(row)} px", **row} for row in made.sizes),
    ]
    rows = [row for row in rows if row["objects"]]
    if made.without:
        first = {"what": "no natural match", "objects": made.without, "natural": 0}
        rows.insert(0, first | {"image_ids": made.without_image_ids})
    key = f"coverage_{subject.desk.part}"
    chosen = behind.table(
        f"{key}_table",
        rows,
        {"what": "", "objects": "localized", "natural": "localized"},
        alt="objects by level and size, and how many have a natural match",
    )
    ids = rows[chosen]["image_ids"] if chosen is not None else made.without_image_ids
    title = rows[chosen]["what"] if chosen is not None else "objects without a natural match"
    # Coverage is of the photos that were drawn; their objects are what is to be seen.
    behind.sheet(f"{key}_sheet_{title}", title, ids, subject.dataset)


def covered(subject: Subject) -> DatasetCoverage | None:
    """The anchors of the objects; None while they are worked out."""
    matcher, shape = view.current().matcher, lens.current().shape
    sizes = (subject.config.min_size, subject.config.max_size)
    desk = subject.desk
    photos: tuple[Hashable, ...] = (subject.data.key, desk.part, desk.photos, desk.sample_seed)
    return work.worked(
        ("coverage", *photos, sizes, matcher, shape),
        "Matching the anchors of photo",
        coverage_work(subject),
    )


def coverage_work(subject: Subject) -> Callable[[Task], DatasetCoverage]:
    """What a task does that matches the anchors, at the session's bounds and anchors."""
    matcher, shape = view.current().matcher, lens.current().shape

    def work_out(task: Task) -> DatasetCoverage:
        made = dataset_coverage(
            subject.dataset,
            subject.config,
            matcher,
            shape,
            progress=task.tell,
            cancel=task.cancel,
        )
        if made.cancelled:
            raise Cancelled  # of some photos only
        return made

    return work_out


def _anchors(made: DatasetCoverage) -> str:
    mean = made.mean_foreground
    return "no object to match" if mean != mean else f"{mean:.1f} foreground anchors an object"


def _size(row: dict) -> str:
    return f"{row['from']:,} to {row['to']:,}" if row["to"] else f"{row['from']:,} and more"


def _suggestions(found: list[Suggestion]) -> None:
    """Each with what it would give, and a click that takes it over."""
    for number, one in enumerate(found):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"{state.plain(one.sentence)} {state.BADGES[BADGE_OF[one.setting]]}")
            st.button("Take it over", key=f"suggest_{number}", on_click=_take_over, args=(one,))


def _take_over(one: Suggestion) -> None:
    if one.setting == "min_size":
        st.session_state["min_size"] = int(one.value)
        st.session_state["max_size"] = one.max_size
    elif one.setting == "fg_iou_thresh":
        matcher = view.current().matcher
        low = min(matcher.bg_iou_thresh, one.value)
        view.change(matcher=replace(matcher, fg_iou_thresh=one.value, bg_iou_thresh=low))
    else:
        values = (*getattr(lens.current(), one.setting), one.value)
        lens.change(**{one.setting: tuple(sorted(values))})


# ------------------------------------------------------------------ the report


def report(subject: Subject, told: Measured | None) -> None:
    """What is in the data set, and what is wrong with it."""
    dataset, part = subject.whole, subject.desk.part
    made: DatasetReport = subject.data.reports[part]
    st.markdown("\n".join(f"- {state.plain(sentence)}" for sentence in made.sentences()))
    _findings(made, dataset, part)
    objects, photos = made.objects_per_class, made.photos_per_class
    imbalance = made.imbalance
    reading.figure_panel(
        "classes",
        class_counts(objects, photos),
        class_count_rows(objects, photos),
        "There is no object."
        if imbalance is None
        else f"The most frequent class has {imbalance:,.1f} objects for each of the rarest.",
        "**Why it matters.** What a model has seldom seen it seldom finds; AP is the mean over the "
        "classes, so a rare class counts as much as a frequent one.\n\n"
        "**Try this.** Choose a class below: its photos open.",
    )
    rows = class_count_rows(objects, photos)
    chosen = behind.table(
        f"class_counts_{part}",
        rows,
        {"class": "", "objects": "localized", "photos": "localized"},
        alt="objects and photos of each class",
    )
    if chosen is not None:
        name = rows[chosen]["class"]
        key = f"class_sheet_{part}_{chosen}"
        behind.sheet(key, name, _photos_with(dataset, name), dataset)
    sides = (made.box_widths, made.box_heights)
    labels, names = made.box_labels, dataset.categories
    thinned = f" One in {made.box_every:,} is drawn." if made.box_every > 1 else ""
    sizes = ", ".join(f"{count:,} {name}" for name, count in made.sizes.items())
    reading.figure_panel(
        "sizes",
        box_sizes(*sides, labels, names),
        box_size_rows(*sides, labels, names),
        f"{sizes} of {counted(made.boxes, 'object')}.{thinned}",
        "**What you see.** Width and height of the boxes in pixels of the photo, with COCO's "
        "borders of small, medium and large.",
    )
    reading.figure_panel(
        "aspect_ratios",
        aspect_ratios(*sides),
        aspect_ratio_rows(*sides),
        "The dashed lines are the anchors' ratios.",
        "**Why it matters.** A shape far from every anchor's reaches no IoU of 0.5 with any. The "
        "tab Coverage says how many objects that is.",
    )


def _findings(made: DatasetReport, dataset: CocoDataset, part: str) -> None:
    rows = []
    for kind, found in made.findings.items():
        if made.counts[kind]:
            ids = dict.fromkeys(one.image_id for one in found if one.image_id is not None)
            row = {"finding": kind.replace("_", " "), "count": made.counts[kind]}
            rows.append(row | {"first": found[0].detail if found else "", "image_ids": list(ids)})
    if not rows:
        return
    formats = {"finding": "", "count": "localized", "first": ""}
    chosen = behind.table(f"findings_{part}", rows, formats, alt="what the check found")
    if chosen is not None:
        one = rows[chosen]
        key = f"finding_sheet_{part}_{chosen}"
        behind.sheet(key, one["finding"], one["image_ids"], dataset)
    st.download_button(
        "All findings (CSV)",
        lambda: behind.csv_of(made.rows()),
        f"findings_{part}.csv",
        "text/csv",
        key=f"all_findings_{part}",
        on_click="ignore",
    )


def _photos_with(dataset: CocoDataset, name: str) -> list[int]:
    """The photos that show a class, those with most of it first."""
    label = dataset.categories.index(name)
    counts = {photo.image_id: photo.target.labels.tolist().count(label) for photo in dataset.photos}
    there = [image_id for image_id, count in counts.items() if count]
    return sorted(there, key=lambda image_id: -counts[image_id])
