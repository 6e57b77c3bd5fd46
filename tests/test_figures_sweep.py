"""Pictures of a sweep: what is drawn is what the rows say, and nothing is told by colour alone."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from retinanet.config import ConfigError, PostprocessConfig
from retinanet.evaluation import METRICS
from retinanet.figures import sweep as drawn
from retinanet.sweeps import RANKED_BY, Counts, Grid, PRCurve, Sweep, SweepRow


@pytest.fixture(scope="module")
def swept():
    """Rows with a made-up measure that is best at score .3, NMS .5, top-K 1000."""
    grid = Grid((0.05, 0.3, 0.6), (0.3, 0.5), (100, 1000), (10, 100))

    def row(config):
        loss = abs(config.score_thresh - 0.3) + abs(config.nms_thresh - 0.5)
        loss += 0.1 * (config.topk_candidates != 1000) + 0.05 * (config.detections_per_img != 100)
        metrics = dict.fromkeys(METRICS, 0.5 - loss / 4) | {"AP_large": math.nan}
        return SweepRow(config, metrics, Counts(round(100 - 40 * loss), 10, 20), 0.4, 3.0)

    return Sweep(grid, tuple(map(row, grid.settings)), matched=None)


BEST = PostprocessConfig(0.3, 0.5, 1000, 100)


def test_the_fixture_has_its_best_where_it_should(swept):
    assert swept.best("f1").config == swept.best("AP").config == BEST


@pytest.mark.parametrize("metric", ["f1", "AP", "AP50"])
def test_a_surface_shows_each_setting_the_best_and_the_current(swept, metric):
    current = replace(BEST, score_thresh=0.6, topk_candidates=100)
    figure = drawn.surface(swept, metric, current)
    heat, best, here = figure.data
    rows = drawn.surface_rows(swept, metric, current)
    assert len(rows) == 6
    for row in rows:
        column = heat.x.index(f"{row['score_thresh']:g}")
        line = heat.y.index(f"{row['nms_thresh']:g}")
        assert heat.z[line][column] == row[metric]
        own = replace(current, score_thresh=row["score_thresh"], nms_thresh=row["nms_thresh"])
        assert row[metric] == swept.at(own).to_row()[metric]
    assert (best.x[0], best.y[0]) == ("0.3", "0.5")
    assert (here.x[0], here.y[0]) == ("0.6", "0.5")
    assert best.marker.symbol != here.marker.symbol


def test_a_current_setting_that_is_not_in_the_grid_is_not_marked(swept):
    off = drawn.surface(swept, "f1", replace(BEST, score_thresh=0.31))
    assert [trace.name for trace in off.data[1:]] == ["best F1 at IoU .5"]
    other_caps = drawn.surface(swept, "f1", replace(BEST, topk_candidates=7))
    assert other_caps.data[0].z == drawn.surface(swept, "f1").data[0].z
    assert [trace.name for trace in other_caps.data[1:]] == ["best F1 at IoU .5"]


def test_the_line_says_whose_value_it_is(swept):
    other = replace(BEST, score_thresh=0.6)
    for base, words in ((other, "current"), (BEST, "best by F1"), (None, "best by F1")):
        (note,) = drawn.knob_curves(swept, "nms_thresh", base).layout.annotations
        assert note.text == words


def test_what_cannot_be_measured_is_a_gap(swept):
    figure = drawn.surface(swept, "AP_large", BEST)
    assert all(value is None for row in figure.data[0].z for value in row)
    assert [trace.name for trace in figure.data[1:]] == ["current setting"]


@pytest.mark.parametrize("knob", drawn.KNOBS)
def test_curves_follow_one_setting_and_leave_the_others(swept, knob):
    figure = drawn.knob_curves(swept, knob, BEST, ("AP", "f1"))
    rows = drawn.knob_rows(swept, knob, BEST, ("AP", "f1"))
    assert [row[knob] for row in rows] == list(getattr(swept.grid, knob))
    for metric, trace in zip(("AP", "f1"), figure.data, strict=True):
        assert list(trace.y) == [row[metric] for row in rows]
        expected = [swept.at(replace(BEST, **{knob: row[knob]})).to_row()[metric] for row in rows]
        assert list(trace.y) == expected
    assert figure.layout.shapes[0].x0 == getattr(BEST, knob)
    assert figure.layout.xaxis.title.text.startswith(knob)


def test_threshold_curves_are_f1_precision_and_recall(swept):
    figure = drawn.threshold_curves(swept)
    assert [trace.name for trace in figure.data] == [
        drawn.MEASURES[name] for name in ("f1", "precision", "recall")
    ]
    assert list(figure.data[0].y) == [row["f1"] for row in drawn.threshold_rows(swept)]


def test_every_measure_has_words_and_lines_differ_without_colour():
    assert set(drawn.MEASURES) == set(RANKED_BY)
    assert len({(dash, mark) for _, dash, mark in drawn.STYLES.values()}) == len(drawn.STYLES)
    assert len(set(drawn.CURVE_DASHES)) == len(drawn.CURVE_DASHES)


def curve(name, gts, seed):
    draw = np.random.default_rng(seed)
    right = draw.random(30) < 0.6
    hits = np.cumsum(right)
    sampled = np.linspace(1, 0, 101)
    return PRCurve(
        category=name,
        label=0,
        gts=gts,
        recall=hits / gts,
        precision=hits / np.arange(1, 31),
        scores=np.linspace(0.95, 0.05, 30, dtype=np.float32),
        interpolated=sampled,
        ap=float(sampled.mean()),
    )


def test_precision_over_recall_marks_the_threshold():
    curves = [curve("all classes", 1234, 0), curve("cat", 40, 1)]
    figure = drawn.pr_figure(curves, 0.5)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(lines) == len(marks) == 2
    assert "1,234 objects" in lines[0].name
    assert len({line.line.dash for line in lines}) == 2
    kept = int((curves[1].scores > 0.5).sum())
    assert marks[1].x[0] == curves[1].recall[kept - 1]
    assert marks[1].y[0] == curves[1].precision[kept - 1]
    rows = drawn.pr_rows(curves)
    assert len(rows) == 202
    assert [row["precision"] for row in rows[101:]] == list(lines[1].y)
    raw = drawn.pr_raw_rows(curves)
    assert len(raw) == 60
    assert raw[-1]["recall"] == curves[1].recall[-1]
    assert len(drawn.pr_figure(curves).data) == 2, "no threshold, no mark"


def test_figures_leave_the_backgrounds_to_the_theme(swept):
    for figure in (
        drawn.surface(swept),
        drawn.knob_curves(swept, "nms_thresh"),
        drawn.pr_figure([curve("cat", 40, 1)]),
    ):
        assert figure.layout.template.layout.paper_bgcolor in (None, "white")
        assert figure.layout.paper_bgcolor is None
        assert figure.layout.plot_bgcolor is None
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text


def test_what_is_not_there_is_refused_in_words(swept):
    with pytest.raises(ConfigError, match="no measure"):
        drawn.surface(swept, "beauty")
    with pytest.raises(ConfigError, match="no setting"):
        drawn.knob_curves(swept, "depth")
    with pytest.raises(ConfigError, match="no such topk"):
        drawn.surface_rows(swept, "f1", replace(BEST, topk_candidates=7))
    with pytest.raises(ConfigError, match="differ from the base"):
        drawn.knob_rows(swept, "score_thresh", replace(BEST, nms_thresh=0.4))
    names = [trace.name for trace in drawn.surface(swept, "f1", BEST).data[1:]]
    assert all(re.fullmatch(r"[A-Za-z0-9 .]+", name) for name in names)
