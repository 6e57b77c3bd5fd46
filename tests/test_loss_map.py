"""Where a picture's loss lies: the parts against sums over the trace, anchor by anchor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retinanet.anchors import NUM_ANCHORS
from retinanet.assignment import assign
from retinanet.config import ConfigError, LossConfig, MatcherConfig
from retinanet.layout import layout_of, place_in_layout
from retinanet.loss_map import cell_map, ignored_anchors, level_sides, loudest_at, object_losses
from retinanet.losses import compute_loss
from retinanet.types import LEVELS
from tests.oracle import our_model

SIZE = (120, 160)
INPUT = (128, 213)  # the oracle's input size
BOXES = torch.tensor([[10.0, 12, 70, 90], [60, 20, 150, 110], [5, 5, 9, 9], [10, 12, 70, 90]])
LABELS = [3, 7, 90, 3]


@pytest.fixture(scope="module")
def outputs():
    return our_model("v1")(torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(5)))


@pytest.fixture(scope="module")
def layout(outputs):
    found = layout_of(SIZE, *INPUT)
    assert found.grid_sizes == outputs.grid_sizes
    return found


@pytest.fixture(scope="module", params=["paper", "strict", "no objects"])
def traced(request, outputs):
    """(match, loss) under different bounds, and with nothing in the picture."""
    if request.param == "no objects":
        match = assign(outputs, torch.zeros(0, 4), [])
    else:
        config = MatcherConfig() if request.param == "paper" else MatcherConfig(0.8, 0.3, False)
        match = assign(outputs, BOXES, LABELS, config)
    return match, compute_loss(outputs, match, LossConfig(0.4, 1.5))


def test_each_cell_holds_the_loss_of_its_nine_anchors(layout, traced):
    match, loss = traced
    cells = cell_map(loss, match)
    assert cells.dtype == np.float32
    assert len(cells) == sum(rows * columns for rows, columns in layout.grid_sizes)
    for cell in (0, 7, len(cells) // 2, len(cells) - 1):
        own = loss.per_anchor[cell * NUM_ANCHORS : (cell + 1) * NUM_ANCHORS]
        assert cells[cell] == pytest.approx(float(own.double().sum()), rel=1e-6)


def test_the_cells_sum_to_the_total_and_the_two_kinds_to_each_cell(traced):
    match, loss = traced
    kinds = {kind: cell_map(loss, match, kind) for kind in ("all", "foreground", "background")}
    total = kinds["all"].astype(np.float64).sum()
    assert total == pytest.approx(float(loss.classification), rel=1e-4)
    np.testing.assert_allclose(kinds["foreground"] + kinds["background"], kinds["all"], rtol=1e-5)
    foreground = (match.matched_idxs >= 0).reshape(-1, NUM_ANCHORS).numpy()
    assert not kinds["foreground"][~foreground.any(axis=1)].any()
    assert not kinds["background"][foreground.all(axis=1)].any()


def test_the_trace_stays_as_it_was(traced):
    match, loss = traced
    before = loss.per_anchor.clone()
    for kind in ("foreground", "background"):
        cell_map(loss, match, kind)
    assert torch.equal(loss.per_anchor, before)


def test_another_kind_is_refused_in_words(traced):
    match, loss = traced
    with pytest.raises(ConfigError, match="all, foreground, background, not 'ignored'"):
        cell_map(loss, match, "ignored")


def test_the_sides_of_the_levels_sum_to_the_loss(traced):
    match, loss = traced
    sides = level_sides(loss, match)
    assert len(sides) == len(LEVELS)
    for (foreground, background), level in zip(sides, loss.per_level.values(), strict=True):
        assert foreground + background == pytest.approx(level["classification"], rel=1e-6)
    own = float(loss.per_anchor[match.matched_idxs >= 0].double().sum())
    assert sum(foreground for foreground, _ in sides) == pytest.approx(own, rel=1e-6)
    assert sum(map(sum, sides)) == pytest.approx(float(loss.classification), rel=1e-4)


def test_each_object_holds_the_loss_of_its_own_anchors(traced):
    match, loss = traced
    losses = object_losses(loss, match)
    assert len(losses) == len(match.gt_boxes)
    for index, own in enumerate(losses):
        anchors = torch.where(match.matched_idxs == index)[0].tolist()
        expected = sum(float(loss.per_anchor[anchor]) for anchor in anchors)
        assert own == pytest.approx(expected, rel=1e-6)
    assert sum(losses) == pytest.approx(sum(side for side, _ in level_sides(loss, match)), rel=1e-6)


def test_of_two_equal_objects_the_first_holds_all(outputs):
    match = assign(outputs, BOXES, LABELS)
    losses = object_losses(compute_loss(outputs, match), match)
    assert losses[0] > 0 and losses[3] == 0


def test_ignored_anchors_are_those_in_no_loss(traced):
    match, loss = traced
    ignored = ignored_anchors(match).tolist()
    by_hand = [at for at, own in enumerate(match.matched_idxs.tolist()) if own == -2]
    assert ignored == by_hand
    assert len(ignored) == match.counts["ignored"]
    assert not loss.per_anchor[ignored].any()


@pytest.mark.parametrize("point", [(0, 0), (80, 60), (159, 119), (33.3, 71.9), (-50, 999)])
@pytest.mark.parametrize("level", [None, *LEVELS])
def test_the_loudest_anchor_at_a_place_is_the_loudest(layout, traced, point, level):
    _, loss = traced
    found = loudest_at(layout, loss, point, level)
    rivals = anchors_at_place(layout, point, LEVELS if level is None else (level,))
    assert found in rivals
    assert float(loss.per_anchor[found]) == max(float(loss.per_anchor[at]) for at in rivals)


def anchors_at_place(layout, point, levels):
    """Of each level the anchors that are centred nearest to the point, by brute force."""
    x = point[0] * layout.image_size[1] / layout.original_size[1]
    y = point[1] * layout.image_size[0] / layout.original_size[0]
    found = []
    for at, (anchors, name) in enumerate(zip(layout.anchors, LEVELS, strict=True)):
        if name not in levels:
            continue
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        distance = (centres - torch.tensor([x, y])).square().sum(dim=1)
        nearest = torch.where(distance <= distance.min() + 1e-3)[0]
        found += (nearest + sum(layout.anchors_per_level[:at])).tolist()
    return found


def test_the_index_is_over_all_levels(layout, traced):
    _, loss = traced
    for level in LEVELS:
        found = loudest_at(layout, loss, (80, 60), level)
        assert place_in_layout(layout, found)["level"] == level
