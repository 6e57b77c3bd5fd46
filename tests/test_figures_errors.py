"""The figures of errors and anchors: they draw the data, and colour is never alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from retinanet.analysis import confusion, dataset_coverage, error_types, score_split
from retinanet.analysis.error_types import MAIN_TYPES, SPECIAL_TYPES
from retinanet.analysis.score_split import ScoreSplit
from retinanet.config import ModelConfig
from retinanet.export import to_csv
from retinanet.figures import errors as figures

from .random_results import random_dataset, random_results


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    dataset = random_dataset(tmp_path_factory.mktemp("data"), 2, photos=8, classes=4)
    return dataset, random_results(dataset, 2)


@pytest.fixture(scope="module")
def coverage(case):
    return dataset_coverage(case[0], ModelConfig(min_size=64, max_size=96))


def told_apart(figure):
    """Every bar's colour comes with a pattern of its own."""
    marks = [
        (color, shape)
        for trace in figure.data
        for color, shape in zip(
            np.atleast_1d(trace.marker.color),
            np.atleast_1d(trace.marker.pattern.shape),
            strict=True,
        )
    ]
    return len({shape for _, shape in marks}) == len(set(marks))


def test_the_bars_are_the_errors(case):
    errors = error_types(*case)
    figure, rows = figures.error_bars(errors), figures.error_rows(errors)
    counts, gains = figure.data
    assert [row["type"] for row in rows] == [*MAIN_TYPES, *SPECIAL_TYPES]
    assert list(counts.x) == [row["count"] for row in rows]
    assert list(counts.customdata) == [row["type"] for row in rows]
    assert np.round(gains.x, 4).tolist() == [row["dAP50"] for row in rows]
    assert told_apart(figure)
    assert figure.layout.xaxis.title.text
    assert figure.layout.xaxis2.title.text
    assert to_csv(rows, list(rows[0])).count("\n") == 9


def test_the_matrix_shows_the_classes_that_occur(case):
    found = confusion(*case)
    (heat,) = figures.confusion_heatmap(found).data
    assert list(heat.x) == list(heat.y) == [found.names[index] for index in found.occurring]
    for row, column, count in np.array(heat.customdata).reshape(-1, 3).tolist():
        assert found.matrix[row, column] == count
    shares = np.array(heat.z, dtype=float)
    assert np.allclose(np.nansum(shares, axis=1), 1)
    assert heat.texttemplate
    rows = figures.confusion_rows(found)
    assert sum(row["count"] for row in rows) == found.matrix.sum()


def test_a_large_matrix_keeps_its_names_and_leaves_out_the_numbers(tmp_path):
    dataset = random_dataset(tmp_path, 5, photos=40, classes=80, objects=8)
    dataset = dataclasses.replace(
        dataset, categories=(*dataset.categories[:78], "background", "kind 3")
    )
    figure = figures.confusion_heatmap(confusion(dataset, random_results(dataset, 5)))
    (heat,) = figure.data
    assert len(set(heat.x)) == len(heat.x) > 70
    assert heat.texttemplate is None
    assert figure.layout.height <= 1000
    assert len(figure.layout.xaxis.tickvals) == len(heat.x)


def test_the_histogram_counts_every_score(case):
    split = score_split(*case)
    for category in (None, "kind 1"):
        rows = figures.score_rows(split, category)
        true, false = split.of(category)
        assert sum(row["true_positives"] for row in rows) == len(true)
        assert sum(row["false_positives"] for row in rows) == len(false)
        figure = figures.score_histogram(split, category)
        assert [sum(filter(None, trace.y)) for trace in figure.data] == [len(true), len(false)]
        assert told_apart(figure)
    at = next(row for row in figures.score_rows(split) if row["from"] == 0.5)
    assert at["true_positives"] == ((split.true >= 0.5) & (split.true < 0.55)).sum()


def test_a_bar_of_one_detection_has_a_height():
    split = ScoreSplit(np.array([0.9]), np.array([]), {}, None)
    low, high = figures.score_histogram(split).layout.yaxis.range
    assert -1 < low < 0 < high  # logarithms; no tick of a tenth, which would read 0


def test_the_stacks_are_the_objects(coverage):
    for draw, rows_of in (
        (figures.coverage_levels, figures.coverage_level_rows),
        (figures.coverage_sizes, figures.coverage_size_rows),
    ):
        figure, rows = draw(coverage), rows_of(coverage)
        stacks = np.array([trace.y for trace in figure.data]).sum(axis=0)
        assert stacks.tolist() == [row["objects"] for row in rows]
        assert stacks.sum() == coverage.objects
        assert told_apart(figure)
        assert figure.layout.xaxis.title.text


def test_nothing_at_all_can_be_drawn(tmp_path):
    dataset = random_dataset(tmp_path, 0, photos=1, objects=0)
    nothing = error_types(dataset, [])
    assert all(row["count"] == 0 for row in figures.error_rows(nothing))
    figures.error_bars(nothing)
    figures.confusion_heatmap(confusion(dataset, []))
    figures.score_histogram(score_split(dataset, []))


def test_backgrounds_are_left_to_the_theme(case, coverage):
    errors = error_types(*case)
    for figure in (
        figures.error_bars(errors),
        figures.confusion_heatmap(confusion(*case)),
        figures.score_histogram(score_split(*case)),
        figures.coverage_levels(coverage),
    ):
        assert figure.layout.paper_bgcolor is None
        assert figure.layout.plot_bgcolor is None
