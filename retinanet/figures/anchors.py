"""Anchors and their assignment in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from retinanet.assignment import BACKGROUND, IGNORED, AssignmentTrace
from retinanet.config import MatcherConfig
from retinanet.coverage import ObjectCoverage, Remedies
from retinanet.figures.inquest import _apart, number
from retinanet.figures.palette import ASSIGNMENT_COLORS

FATE_PATTERNS: dict[str, str] = {"foreground": "", "ignored": "/", "background": "."}
"""The same that `ASSIGNMENT_COLORS` says, without colour: the pattern of a bar."""

PAPER_ANCHORS = 116_712
"""Anchors of a 608x1024 input, the paper's "~100k" (section 4.1)."""

Counts = Mapping[str, int]


def bounds_sentence(config: MatcherConfig) -> str:
    """What these bounds do, and where they come from or how far they go."""
    low, high = number(float(config.bg_iou_thresh)), number(float(config.fg_iou_thresh))
    if low == high:
        parts = [f"From IoU {high} an anchor is foreground, below it background; none is ignored."]
    else:
        parts = [
            f"From IoU {high} an anchor is foreground, below {low} background, and ignored between."
        ]
    parts.append(
        "Each object also keeps the anchors that fit it best, however badly."
        if config.allow_low_quality_matches
        else "An object that no anchor reaches so is learned by none."
    )
    return " ".join([*parts, *_bounds_remark(config)])


def _bounds_remark(config: MatcherConfig) -> list[str]:
    low, high = config.bg_iou_thresh, config.fg_iou_thresh
    if (low, high) == (0.4, 0.5):
        return ["These are the paper's bounds."]
    if (low, high) == (0.3, 0.7):
        return ["These are the bounds of Faster R-CNN's RPN: fewer, tighter foreground anchors."]
    if high == 0:
        return ["With a bound of 0 every anchor is foreground, and nothing is left as background."]
    if low == 0:
        return ["With a lower bound of 0 no anchor is background."]
    if high - low >= 0.6:
        left = "the forced ones and " if config.allow_low_quality_matches else ""
        return [
            "This is an extreme: nearly every anchor on an object is ignored, and what trains is "
            f"{left}what fits almost perfectly or hardly touches an object."
        ]
    if high < 0.3:
        return ["This is loose: foreground anchors may share little with their object."]
    if high > 0.75:
        return ["This is strict: few anchors fit any object so well by their IoU alone."]
    return []


def coverage_sentence(
    cov: ObjectCoverage, name: str, config: MatcherConfig, remedies: Remedies | None = None
) -> str:
    """How an object is covered, why it is not, and what would change that.

    Args:
        cov: of the object.
        name: how to call it.
        config: that the match was made with.
        remedies: of the object, when they have been searched.
    """
    covered = f"{name}: {_covered(cov, config)}"
    return f"{covered} {_remedy_sentence(cov, config, remedies)}" if remedies else covered


def _covered(cov: ObjectCoverage, config: MatcherConfig) -> str:
    bound = number(float(config.fg_iou_thresh))
    best = f"on {cov.best_level}, has IoU {_apart(cov.best_iou, config.fg_iou_thresh)}"
    taken = (
        f" Its best anchor trains on object {cov.taken_by + 1}, and an anchor trains on one only."
        if cov.taken_by is not None
        else ""
    )
    if cov.best_iou == 0:
        everything = (
            " allow_low_quality_matches then makes every anchor of the picture foreground, as all "
            "tie for its best IoU, 0."
        )
        forced = everything if config.allow_low_quality_matches else ""
        return f"it overlaps no anchor at all.{forced}"
    if cov.status == "none":
        reached = cov.best_iou >= config.fg_iou_thresh
        off = "" if config.allow_low_quality_matches else ", and allow_low_quality_matches is off"
        why = "" if reached else f", below fg_iou_thresh {bound}{off}"
        return f"no anchor trains on it. The best, {best}{why}.{taken}"
    count = f"{cov.num_foreground:,} {_anchors(cov.num_foreground)}"
    where = ", ".join(f"{level} {n:,}" for level, n in cov.levels.items() if n)
    if cov.status == "forced":
        verb = "is" if cov.num_foreground == 1 else "are"
        return (
            f"no anchor is foreground for it by its IoU alone (fg_iou_thresh {bound}); the best, "
            f"{best}. {count} {verb} forced to it ({where}), as allow_low_quality_matches is on."
            f"{taken}"
        )
    forced = cov.num_foreground - cov.num_natural
    beyond = f", {forced:,} of them forced below fg_iou_thresh {bound}" if forced else ""
    train = "trains" if cov.num_foreground == 1 else "train"
    return f"{count} {train} on it ({where}){beyond}; the best, {best}.{taken}"


def _anchors(count: int) -> str:
    return "anchor" if count == 1 else "anchors"


def _remedy_sentence(cov: ObjectCoverage, config: MatcherConfig, remedies: Remedies) -> str:
    bound = remedies.fg_iou_thresh
    if bound and cov.status == "natural":
        return f"It keeps an anchor by its IoU alone up to {_fg_words(bound, config)}."
    ways = [_fg_words(bound, config)] if bound else []
    if remedies.min_size:
        ways.append(f"min_size {remedies.min_size:,} px and max_size in proportion")
    if remedies.scale:
        ways.append(f"{remedies.scale:g} as one more scale")
    if remedies.aspect_ratio:
        ways.append(f"{remedies.aspect_ratio:g} as one more aspect ratio")
    if not ways:
        return "Nothing that was tried gives it an anchor by its IoU alone."
    *first, last = ways
    listed = f"{', '.join(first)} or {last}" if first else last
    return f"It would have one with {listed}."


def _fg_words(bound: float, config: MatcherConfig) -> str:
    if bound < 0.01:
        return "fg_iou_thresh below 0.01"
    both = " (and bg_iou_thresh no higher)" if bound < config.bg_iou_thresh else ""
    return f"fg_iou_thresh {number(bound)}{both}"


def coverage_rows(
    coverages: Sequence[ObjectCoverage], names: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per object: its number from 1, how it is covered, and its anchors on each level.

    Args:
        coverages: of the objects.
        names: of the same objects, in the same order.
    """
    return [
        {
            "object": cov.gt + 1,
            "category": name,
            "status": cov.status,
            "best_iou": round(cov.best_iou, 4),
            "best_level": cov.best_level,
            "foreground": cov.num_foreground,
            "natural": cov.num_natural,
            **cov.levels,
            "best_anchor_trains_on": None if cov.taken_by is None else cov.taken_by + 1,
        }
        for cov, name in zip(coverages, names, strict=True)
    ]


def imbalance_sentence(counts: Counts) -> str:
    """Foreground against background in counts and as one to how many, beside the paper's number.

    Args:
        counts: `AssignmentTrace.counts`.
    """
    total = sum(counts.values())
    shares = " : ".join(f"{counts[fate]:,}" for fate in ASSIGNMENT_COLORS)
    ratio = _background_per_foreground(counts)
    one_to = (
        "no foreground at all"
        if ratio is None
        else f"1 foreground to {_rounded(ratio)} background anchors"
    )
    return (
        f"foreground : ignored : background = {shares} of {total:,} anchors, {one_to}. The paper "
        f"counts about 100k anchors an image ({PAPER_ANCHORS:,} at 608x1024)."
    )


def _background_per_foreground(counts: Counts) -> float | None:
    return counts["background"] / counts["foreground"] if counts["foreground"] else None


def _rounded(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def imbalance_rows(counts_per_level: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """One row per level and one for all of them; they add up.

    Args:
        counts_per_level: `AssignmentTrace.counts_per_level`.
    """
    everything = {
        fate: sum(counts[fate] for counts in counts_per_level.values())
        for fate in ASSIGNMENT_COLORS
    }
    rows = []
    for level, counts in {**counts_per_level, "all": everything}.items():
        ratio = _background_per_foreground(counts)
        rows.append(
            {
                "level": level,
                **{fate: counts[fate] for fate in ASSIGNMENT_COLORS},
                "anchors": sum(counts.values()),
                "background_per_foreground": None if ratio is None else round(ratio, 1),
            }
        )
    return rows


def imbalance_figure(counts_per_level: Mapping[str, Counts]) -> go.Figure:
    """Anchors of each fate per level and on all levels, on a logarithmic axis.

    Args:
        counts_per_level: `AssignmentTrace.counts_per_level`.
    """
    rows = imbalance_rows(counts_per_level)
    figure = go.Figure()
    for fate, color in ASSIGNMENT_COLORS.items():
        counts = [row[fate] for row in rows]
        figure.add_bar(
            x=[row["level"] for row in rows],
            y=[max(count, _LOG_ZERO) for count in counts],
            name=fate,
            marker={"color": color, "pattern": {"shape": FATE_PATTERNS[fate]}},
            text=[f"{count:,}" for count in counts],
            textposition="outside",
            cliponaxis=False,
            customdata=counts,
            hovertemplate="%{x}: %{customdata:,} anchors",
        )
    figure.update_layout(
        height=300,
        barmode="group",
        margin={"l": 0, "r": 0, "t": 24, "b": 36},
        legend={"orientation": "h", "y": 1.15},
        xaxis={"title": "pyramid level"},
        yaxis={"type": "log", "title": "anchors, log scale", "dtick": 1},
    )
    return figure


_LOG_ZERO = 0.6  # a logarithmic axis has no 0

HISTOGRAM_BINS = 50

_BARS: dict[str, tuple[str, str]] = {
    "background": (ASSIGNMENT_COLORS["background"], FATE_PATTERNS["background"]),
    "ignored": (ASSIGNMENT_COLORS["ignored"], FATE_PATTERNS["ignored"]),
    "foreground": (ASSIGNMENT_COLORS["foreground"], FATE_PATTERNS["foreground"]),
    "forced": (ASSIGNMENT_COLORS["foreground"], "x"),
}


def iou_histogram_rows(match: AssignmentTrace) -> list[dict[str, Any]]:
    """Anchors by their IoU with the best object and by fate; the counts add up to all anchors.

    Args:
        match: the trace.

    Returns:
        50 rows of {"from", "to" (not included, but for 1), "background", "ignored", "foreground"
        (by IoU), "forced" (foreground by low-quality matches)}.
    """
    bins = (match.max_iou * HISTOGRAM_BINS).long().clamp(max=HISTOGRAM_BINS - 1)
    matched = match.matched_idxs
    masks = {
        "background": matched == BACKGROUND,
        "ignored": matched == IGNORED,
        "foreground": (matched >= 0) & ~match.is_low_quality,
        "forced": match.is_low_quality,
    }
    counts = {
        name: torch.bincount(bins[mask], minlength=HISTOGRAM_BINS).tolist()
        for name, mask in masks.items()
    }
    return [
        {
            "from": low / HISTOGRAM_BINS,
            "to": (low + 1) / HISTOGRAM_BINS,
            **{name: column[low] for name, column in counts.items()},
        }
        for low in range(HISTOGRAM_BINS)
    ]


def iou_histogram(match: AssignmentTrace) -> go.Figure:
    """How many anchors have which IoU with their best object, and where the two bounds cut.

    Args:
        match: the trace.
    """
    rows = [row for row in iou_histogram_rows(match) if any(row[name] for name in _BARS)]
    figure = go.Figure()
    for name, (color, pattern) in _BARS.items():
        own = [row for row in rows if row[name]]
        figure.add_bar(
            x=[(row["from"] + row["to"]) / 2 for row in own],
            y=[row[name] for row in own],
            width=1 / HISTOGRAM_BINS,
            name=name,
            opacity=0.8,
            marker={"color": color, "pattern": {"shape": pattern}},
            customdata=[(row["from"], row["to"]) for row in own],
            hovertemplate="IoU %{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:,} anchors",
        )
    for bound, dash in (("bg_iou_thresh", "dot"), ("fg_iou_thresh", "dash")):
        value = getattr(match.config, bound)
        figure.add_vline(
            x=value,
            line={"dash": dash, "width": 2, "color": "#7A8794"},
            annotation={"text": f"{bound} {number(float(value))}", "textangle": -90},
            annotation_position="top left" if bound == "bg_iou_thresh" else "top right",
        )
    figure.update_layout(
        height=300,
        barmode="overlay",
        margin={"l": 0, "r": 0, "t": 24, "b": 36},
        legend={"orientation": "h", "y": 1.15},
        xaxis={"title": "IoU with the best object", "range": [0, 1]},
        yaxis={"type": "log", "title": "anchors, log scale", "dtick": 1},
    )
    return figure
