"""Assignment in words, rows and figures: each number is one of the trace's."""

import json

import pytest
import torch

from retinanet.assignment import assign_anchors
from retinanet.config import MatcherConfig
from retinanet.coverage import ObjectCoverage, Remedies, object_coverage
from retinanet.figures.anchors import (
    bounds_sentence,
    coverage_rows,
    coverage_sentence,
    imbalance_figure,
    imbalance_rows,
    imbalance_sentence,
    iou_histogram,
    iou_histogram_rows,
)
from retinanet.figures.palette import ASSIGNMENT_COLORS
from retinanet.layout import layout_of
from retinanet.matcher_presets import MATCHER_PRESETS

CONFIG = MatcherConfig()
OFF = MatcherConfig(0.5, 0.4, False)
NONE = dict.fromkeys(("P3", "P4", "P5", "P6", "P7"), 0)


@pytest.fixture(scope="module")
def match():
    boxes = [[48, 48, 80, 80], [20, 10, 190, 140], [180, 5, 184, 9]]
    return assign_anchors(layout_of((150, 201), 150, 201), boxes)


def cover(status, best_iou, levels, natural, taken_by=None):
    counts = NONE | levels
    return ObjectCoverage(
        0, best_iou, 7, "P3", sum(counts.values()), natural, counts, status, taken_by
    )


@pytest.mark.parametrize(
    ("config", "remark"),
    [
        (CONFIG, "These are the paper's bounds."),
        (MatcherConfig(0.7, 0.3), "RPN: fewer, tighter foreground anchors."),
        (MatcherConfig(0.9, 0.1), "extreme: nearly every anchor on an object is ignored"),
        (MatcherConfig(0.5, 0.5), "below it background; none is ignored."),
        (MatcherConfig(0.0, 0.0), "every anchor is foreground"),
        (MatcherConfig(0.5, 0.0), "no anchor is background"),
        (MatcherConfig(0.2, 0.1), "This is loose"),
        (MatcherConfig(0.8, 0.4), "This is strict"),
    ],
)
def test_bounds_in_words(config, remark):
    assert remark in bounds_sentence(config)


def test_bounds_say_what_becomes_of_what_no_anchor_fits():
    assert bounds_sentence(OFF) == (
        "From IoU 0.50 an anchor is foreground, below 0.40 background, and ignored between. An "
        "object that no anchor reaches so is learned by none. These are the paper's bounds."
    )
    assert "Each object also keeps the anchors that fit it best" in bounds_sentence(CONFIG)
    assert "forced" not in bounds_sentence(MatcherConfig(0.9, 0.1, False))
    for preset in MATCHER_PRESETS:
        assert bounds_sentence(preset.config)


@pytest.mark.parametrize(
    ("cov", "config", "sentence"),
    [
        (
            cover("natural", 0.7312, {"P3": 12, "P5": 2}, 14),
            CONFIG,
            "dog: 14 anchors train on it (P3 12, P5 2); the best, on P3, has IoU 0.731.",
        ),
        (
            cover("natural", 0.7312, {"P3": 3}, 1, taken_by=1),
            CONFIG,
            "dog: 3 anchors train on it (P3 3), 2 of them forced below fg_iou_thresh 0.50; the "
            "best, on P3, has IoU 0.731. Its best anchor trains on object 2, and an anchor trains "
            "on one only.",
        ),
        (
            cover("forced", 0.178, {"P3": 1}, 0),
            CONFIG,
            "dog: no anchor is foreground for it by its IoU alone (fg_iou_thresh 0.50); the best, "
            "on P3, has IoU 0.178. 1 anchor is forced to it (P3 1), as allow_low_quality_matches "
            "is on.",
        ),
        (
            cover("none", 0.49999, {}, 0),
            OFF,
            "dog: no anchor trains on it. The best, on P3, has IoU 0.49999, below fg_iou_thresh "
            "0.50, and allow_low_quality_matches is off.",
        ),
        (
            cover("none", 1.0, {}, 0, taken_by=0),
            CONFIG,
            "dog: no anchor trains on it. The best, on P3, has IoU 1.000. Its best anchor trains "
            "on object 1, and an anchor trains on one only.",
        ),
        (cover("none", 0.0, {}, 0), OFF, "dog: it overlaps no anchor at all."),
        (
            cover("forced", 0.0, {"P3": 900}, 0),
            CONFIG,
            "dog: it overlaps no anchor at all. allow_low_quality_matches then makes every anchor "
            "of the picture foreground, as all tie for its best IoU, 0.",
        ),
    ],
)
def test_coverage_in_words(cov, config, sentence):
    assert coverage_sentence(cov, "dog", config) == sentence


@pytest.mark.parametrize(
    ("remedies", "sentence"),
    [
        (
            Remedies(0.17, 1350, 0.53, 3.5),
            "It would have one with fg_iou_thresh 0.17 (and bg_iou_thresh no higher), min_size "
            "1,350 px and max_size in proportion, 0.53 as one more scale or 3.5 as one more "
            "aspect ratio.",
        ),
        (Remedies(0.45, None, None, None), "It would have one with fg_iou_thresh 0.45."),
        (
            Remedies(0.0042, None, None, None),
            "It would have one with fg_iou_thresh below 0.01.",
        ),
        (
            Remedies(None, None, None, None),
            "Nothing that was tried gives it an anchor by its IoU alone.",
        ),
    ],
)
def test_remedies_in_words(remedies, sentence):
    cov = cover("forced", 0.178, {"P3": 1}, 0)
    told = coverage_sentence(cov, "dog", CONFIG, remedies)
    assert told == f"{coverage_sentence(cov, 'dog', CONFIG)} {sentence}"
    own = coverage_sentence(
        cover("natural", 0.76, {"P3": 2}, 2), "dog", CONFIG, Remedies(0.76, None, None, None)
    )
    assert own.endswith("It keeps an anchor by its IoU alone up to fg_iou_thresh 0.76.")


def test_coverage_rows_are_the_trace(match):
    covered = object_coverage(match, layout_of((150, 201), 150, 201))
    rows = coverage_rows(covered, ["cup", "dog", "ball"])
    assert [row["object"] for row in rows] == [1, 2, 3]
    assert [row["category"] for row in rows] == ["cup", "dog", "ball"]
    assert [row["status"] for row in rows] == ["natural", "natural", "forced"]
    for row in rows:
        assert sum(row[level] for level in NONE) == row["foreground"] >= row["natural"]
    assert sum(row["foreground"] for row in rows) == match.counts["foreground"]
    json.dumps(rows)


def test_imbalance_in_words():
    counts = {"foreground": 63, "ignored": 120, "background": 201_417}
    assert imbalance_sentence(counts) == (
        "foreground : ignored : background = 63 : 120 : 201,417 of 201,600 anchors, 1 foreground "
        "to 3,197 background anchors. The paper counts about 100k anchors an image (116,712 at "
        "608x1024)."
    )
    few = imbalance_sentence({"foreground": 4, "ignored": 0, "background": 10})
    assert "1 foreground to 2.5 background anchors" in few
    none = imbalance_sentence({"foreground": 0, "ignored": 0, "background": 10})
    assert "no foreground at all" in none


def test_imbalance_rows_add_up(match):
    rows = imbalance_rows(match.counts_per_level)
    assert [row["level"] for row in rows] == [*NONE, "all"]
    for fate in ASSIGNMENT_COLORS:
        assert sum(row[fate] for row in rows[:-1]) == rows[-1][fate] == match.counts[fate]
    assert sum(row["anchors"] for row in rows[:-1]) == len(match.matched_idxs)
    total = match.counts
    assert rows[-1]["background_per_foreground"] == round(
        total["background"] / total["foreground"], 1
    )
    empty = imbalance_rows(assign_anchors(layout_of((64, 64), 64, 64), []).counts_per_level)
    assert empty[-1]["background_per_foreground"] is None


def test_the_imbalance_figure_draws_the_rows(match):
    figure = imbalance_figure(match.counts_per_level)
    rows = imbalance_rows(match.counts_per_level)
    assert [bar.name for bar in figure.data] == list(ASSIGNMENT_COLORS)
    for bar in figure.data:
        assert list(bar.customdata) == [row[bar.name] for row in rows]
        assert bar.text[-1] == f"{rows[-1][bar.name]:,}"
        assert bar.marker.color == ASSIGNMENT_COLORS[bar.name]
        assert min(bar.y) > 0  # the axis is logarithmic
    assert len({bar.marker.pattern.shape for bar in figure.data}) == 3
    assert figure.layout.yaxis.type == "log"


@pytest.mark.parametrize("config", [CONFIG, MatcherConfig(0.55, 0.33), MatcherConfig(0.9, 0.1)])
def test_the_histogram_holds_each_anchor_once(match, config):
    own = assign_anchors(layout_of((150, 201), 150, 201), match.gt_boxes, config=config)
    rows = iou_histogram_rows(own)
    fates = ("background", "ignored", "foreground", "forced")
    sums = {fate: sum(row[fate] for row in rows) for fate in fates}
    counts = own.counts
    assert sums["foreground"] + sums["forced"] == counts["foreground"]
    assert (sums["background"], sums["ignored"]) == (counts["background"], counts["ignored"])
    for row in rows[:-1]:
        inside = (own.max_iou >= row["from"]) & (own.max_iou < row["to"])
        assert sum(row[fate] for fate in fates) == int(inside.sum())
    assert rows[-1]["to"] == 1.0
    figure = iou_histogram(own)
    drawn = {bar.name: sum(bar.y) for bar in figure.data}
    assert drawn == sums
    assert len({(bar.marker.color, bar.marker.pattern.shape) for bar in figure.data}) == 4
    lines = {line.x0: line.line.dash for line in figure.layout.shapes}
    assert lines == {config.bg_iou_thresh: "dot", config.fg_iou_thresh: "dash"}


def test_an_iou_of_one_is_in_the_last_bin():
    match = assign_anchors(layout_of((64, 64), 64, 64), [[16, 16, 48, 48]])
    assert match.max_iou.max() == 1
    assert iou_histogram_rows(match)[-1]["foreground"] == int((match.max_iou >= 0.98).sum())
    assert torch.isfinite(match.max_iou).all()
