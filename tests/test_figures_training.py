"""The figures of training runs: what is drawn is what was given, and what is not drawn is said."""

import math
import random

import plotly.graph_objects as go
import pytest

from retinanet.figures.experiments import (
    comparison_figure,
    comparison_rows,
    experiment_page,
    runs_loss_figure,
    runs_loss_rows,
    runs_precision_figure,
    runs_precision_rows,
)
from retinanet.figures.training import (
    PART_STYLES,
    STAGE_STYLES,
    foreground_figure,
    foreground_rows,
    gradient_figure,
    gradient_rows,
    loss_figure,
    loss_rows,
    memory_figure,
    parameter_figure,
    parameter_rows,
    precision_figure,
    precision_rows,
    step_time_figure,
    step_time_rows,
)
from retinanet.parameter_groups import PARAMETER_STAGES

FROZEN = ("stem", "layer1", "layer2")


@pytest.fixture(scope="module")
def curve():
    draw = random.Random(2)
    return [
        {
            "step": step,
            "classification": draw.uniform(0.1, 3),
            "bbox_regression": draw.uniform(0.1, 1),
            "num_foreground": draw.uniform(3, 90),
            "grad_norm": draw.uniform(1, 9),
            "grad_norms": {
                stage: 0.0 if stage in FROZEN else draw.uniform(0.1, 5)
                for stage in PARAMETER_STAGES
            },
            "lr": 0.01,
            "seconds": 1.0,
            "seconds_data": 0.1,
            "seconds_forward": 0.3,
            "seconds_backward": 0.5,
            "seconds_optimizer": 0.05,
            "memory_bytes": 250_000_000 + step,
        }
        for step in range(1, 13)
    ]


@pytest.fixture(scope="module")
def validations():
    return [{"step": s, "AP": s / 100, "AP50": s / 50, "AP75": s / 200} for s in (4, 8, 12)]


def every_figure(curve, validations):
    counts = {stage: (0 if stage in FROZEN else 5, 9) for stage in PARAMETER_STAGES}
    return [
        parameter_figure(parameter_rows(counts)),
        loss_figure(curve),
        loss_figure(curve, log=True, diverged_in=9),
        foreground_figure(curve),
        gradient_figure(curve),
        gradient_figure(curve, log=False),
        step_time_figure(curve),
        memory_figure(curve),
        precision_figure(validations, steps=12),
        runs_loss_figure({"a": curve, "b": curve}),
        runs_precision_figure({"a": validations, "b": validations}),
    ]


def test_every_figure_leaves_its_background_to_the_theme(curve, validations):
    for figure in every_figure(curve, validations):
        assert figure.layout.template == go.Figure().layout.template  # none of its own
        assert figure.layout.paper_bgcolor is figure.layout.plot_bgcolor is None
        for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
            assert axis.title.text or figure.data[0].type == "bar"


def look(trace):
    """What tells a series apart besides its colour."""
    if trace.type == "bar":
        return trace.marker.pattern.shape
    if trace.stackgroup:
        return trace.fillpattern.shape
    return (trace.line.dash, trace.marker.symbol)


def test_series_are_told_apart_without_their_colour_or_by_a_pair(curve, validations):
    for figure in every_figure(curve, validations):
        pairs = [
            (look(trace), trace.line.color if trace.type == "scatter" else None)
            for trace in figure.data
        ]
        assert len(set(pairs)) == len(pairs)
    # Stages share colours in pairs and dashes across pairs; no two share both.
    assert len(set(STAGE_STYLES.values())) == len(PARAMETER_STAGES)


def test_nothing_recorded_draws_empty_figures():
    for figure in every_figure([], []):
        assert not any(len(trace.x or ()) for trace in figure.data if trace.type == "scatter")


def test_losses_are_drawn_as_they_are_and_gaps_stay_gaps(curve):
    broken = [*curve, {"step": 13, "classification": None, "bbox_regression": 0.0}]
    for log in (False, True):
        focal, box = loss_figure(broken, log=log).data
        assert list(focal.x) == [point["step"] for point in broken]
        assert list(focal.y) == [point["classification"] for point in broken]
        assert list(box.y)[:-1] == [point["bbox_regression"] for point in curve]
        assert box.y[-1] == (None if log else 0.0)
    assert [row["classification"] for row in loss_rows(broken)] == list(focal.y)


def test_divergence_is_marked_where_it_happened(curve):
    figure = loss_figure(curve, diverged_in=9)
    assert figure.layout.annotations[0].text == "diverged in step 9"
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 9
    assert not loss_figure(curve).layout.shapes


def test_frozen_stages_are_said_in_the_legend_and_not_drawn(curve):
    for log in (True, False):
        figure = gradient_figure(curve, log=log)
        drawn = {trace.name: list(trace.y) for trace in figure.data}
        assert list(drawn)[:3] == [f"{stage}: frozen, exactly 0" for stage in FROZEN]
        for stage in PARAMETER_STAGES[3:]:
            assert drawn[stage] == [point["grad_norms"][stage] for point in curve]
        assert all(not drawn[f"{stage}: frozen, exactly 0"] for stage in FROZEN)
        assert all(trace.showlegend for trace in figure.data)
        values = [value for trace in figure.data for value in trace.y]
        assert min(values) > 0
    row = gradient_rows(curve)[0]
    assert list(row) == ["step", *PARAMETER_STAGES, "grad_norm"]
    assert row["stem"] == 0
    assert row["fpn"] == curve[0]["grad_norms"]["fpn"]


def test_a_stage_that_is_zero_once_is_not_frozen(curve):
    first = {**curve[0], "grad_norms": curve[0]["grad_norms"] | {"fpn": 0.0}}
    (fpn,) = [t for t in gradient_figure([first, *curve[1:]]).data if t.name == "fpn"]
    assert fpn.y[0] is None  # on a logarithmic axis
    assert len(fpn.y) == len(curve)


def test_the_parts_of_a_step_are_stacked_in_milliseconds(curve):
    figure = step_time_figure(curve)
    assert len({trace.stackgroup for trace in figure.data}) == 1
    total = [sum(trace.y[at] for trace in figure.data) for at in range(len(curve))]
    assert total == pytest.approx([950.0] * len(curve))
    assert list(step_time_rows(curve)[0]) == ["step", "seconds", *PART_STYLES, "memory_bytes"]
    assert memory_figure(curve).data[0].y[0] == pytest.approx(250.000001)


def test_foreground_and_precision_have_their_numbers_as_rows(curve, validations):
    assert list(foreground_figure(curve).data[0].y) == [p["num_foreground"] for p in curve]
    assert foreground_rows(curve)[2] == {"step": 3, "num_foreground": curve[2]["num_foreground"]}
    assert precision_rows(validations) == validations
    drawn = {trace.name: list(trace.y) for trace in precision_figure(validations).data}
    assert drawn["AP50"] == [0.08, 0.16, 0.24]


def test_parameters_add_up():
    rows = parameter_rows({"stem": (0, 9), "fpn": (3, 4)})
    assert rows[1] == {"stage": "fpn", "trainable": 3, "frozen": 1, "total": 4}
    trainable, frozen = parameter_figure(rows).data
    assert [a + b for a, b in zip(trainable.x, frozen.x, strict=True)] == [9, 4]


def test_runs_are_drawn_side_by_side_and_a_diverged_one_says_so(curve, validations):
    figure = runs_loss_figure({"CE": curve, "pi": curve[:2]}, diverged={"pi": 3})
    assert [trace.name for trace in figure.data] == ["CE", "pi: diverged in step 3"]
    assert figure.layout.yaxis.type == "log"
    rows = runs_loss_rows({"CE": curve, "pi": curve[:2]})
    assert len(rows) == 14
    assert rows[12] == {
        "run": "pi",
        "step": 1,
        "classification": curve[0]["classification"],
        "bbox_regression": curve[0]["bbox_regression"],
    }
    assert len(runs_precision_rows({"CE": validations, "pi": []})) == 3
    many = runs_precision_figure({str(number): validations for number in range(40)})
    looks = {(t.line.color, t.line.dash, t.marker.symbol) for t in many.data}
    assert len(looks) == 40


def compared(label, seconds, memory, ap, diverged_in=None, **ratios):
    return {
        "label": label,
        "name": label,
        "differs": "",
        "state": "done",
        "seconds": seconds,
        "memory_bytes": memory,
        "AP": ap,
        "AP50": ap,
        "diverged_in": diverged_in,
        "seconds_ratio": ratios.get("seconds_ratio"),
        "memory_ratio": ratios.get("memory_ratio"),
    }


def test_bars_carry_their_ratios_and_what_was_not_measured():
    rows = [
        compared("a", 2.0, 4e9, 0.3, seconds_ratio=1.0, memory_ratio=1.0),
        compared("b", 0.5, 1e9, 0.1, seconds_ratio=0.25, memory_ratio=0.25),
        compared("c", None, None, None, diverged_in=3),
        compared("d", None, None, None),
    ]
    time, memory, precision = comparison_figure(rows).data
    assert list(time.y) == ["a", "b", "c", "d"]
    assert list(time.x) == [2000, 500, 0, 0]
    assert time.text[:2] == ("2,000 ms, 1.00×", "500 ms, 0.25×")
    assert memory.text[0] == "4,000 MB, 1.00×"
    assert precision.textposition == ("auto", "auto", "outside", "outside")
    assert precision.text == ("0.300", "0.100", "diverged in step 3", "not measured")
    assert comparison_rows(rows)[1]["seconds_ratio"] == 0.25
    titles = [axis.title.text for axis in comparison_figure(rows).select_xaxes()]
    assert titles == ["median step, ms", "memory, MB", "AP"]
    assert all(math.isfinite(value) for value in (*time.x, *memory.x, *precision.x))


def test_the_page_escapes_what_people_have_written(curve):
    rows = [{"run": "<script>alert(1)</script>", "AP": 0.123456, "AP50": None}]
    page = experiment_page("A & B", ["1 < 2"], rows, [loss_figure(curve)])
    assert "<script>alert" not in page
    assert "1 &lt; 2" in page
    assert "A &amp; B" in page
    assert "<td>0.1235</td><td></td>" in page
