"""The anchors of one place, against a search through all anchors and arithmetic by hand."""

from __future__ import annotations

import re

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from retinanet.anchor_cell import anchor_cell, nearest_cell
from retinanet.anchors import AnchorShape
from retinanet.assignment import assign_anchors
from retinanet.config import MatcherConfig
from retinanet.dialects import DIALECTS
from retinanet.export import to_csv
from retinanet.figures.anchor_cell import cell_numbers, cell_sentence, iou_formula
from retinanet.figures.dialects import dialect_rows
from retinanet.layout import layout_of
from retinanet.types import LEVELS

SIZE, INPUT = (150, 201), (128, 213)
SHAPES = [AnchorShape(), AnchorShape(24, (1.0, 2.0), (0.3, 1.0, 3.0, 6.0))]
POINTS = [(0, 0), (100, 75), (200.9, 149.9), (13.7, 120.2), (-40, 75), (5000, 5000)]
BOXES = [[20.0, 30.0, 90.0, 120.0], [100.0, 10.0, 190.0, 140.0], [50.0, 50.0, 54.0, 55.0]]
NAMES = ["cup", "dog", "spoon"]


@pytest.fixture(scope="module", params=SHAPES, ids=["paper", "own shape"])
def layout(request):
    return layout_of(SIZE, *INPUT, request.param)


def resized(layout, point):
    return (
        point[0] * layout.image_size[1] / layout.original_size[1],
        point[1] * layout.image_size[0] / layout.original_size[0],
    )


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_the_nearest_cell_has_the_nearest_centre(layout, level, point):
    row, column = nearest_cell(layout, level, point)
    rows, columns = layout.grid_sizes[level]
    assert 0 <= row < rows and 0 <= column < columns
    each = layout.shape.num_anchors
    centres = (layout.anchors[level][:, :2] + layout.anchors[level][:, 2:])[::each] / 2
    # Corners are rounded, so the first anchor of a place may stand half a pixel beside it.
    distances = (centres - torch.tensor(resized(layout, point))).norm(dim=1)
    assert distances[row * columns + column] <= distances.min() + 1


@pytest.mark.parametrize("config", [MatcherConfig(), MatcherConfig(0.8, 0.2, False)])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("point", POINTS)
def test_each_anchor_of_a_place_is_the_traces(layout, config, level, point):
    match = assign_anchors(layout, BOXES, config=config)
    cell = anchor_cell(layout, match, point, level)
    iou = box_iou(match.gt_boxes, torch.cat(layout.anchors))
    matcher = Matcher(config.fg_iou_thresh, config.bg_iou_thresh, config.allow_low_quality_matches)
    theirs = matcher(iou)
    each, columns = layout.shape.num_anchors, layout.grid_sizes[LEVELS.index(level)][1]
    first = sum(layout.anchors_per_level[: LEVELS.index(level)])
    first += (cell["row"] * columns + cell["column"]) * each
    assert [one["index"] for one in cell["anchors"]] == list(range(first, first + each))
    for one in cell["anchors"]:
        own = iou[:, one["index"]]
        assert one["max_iou"] == float(own.max())
        assert one["best_gt"] == int(own.argmax())
        assert one["fate"] == fate_by_hand(int(theirs[one["index"]]), float(own.max()), config)
        wanted = int(theirs[one["index"]])
        assert one["matched"] == (wanted if wanted >= 0 else None)
    best = cell["anchors"][cell["best"]]["max_iou"]
    assert best == max(one["max_iou"] for one in cell["anchors"])


def fate_by_hand(matched, iou, config):
    if matched == -1:
        return "background"
    if matched == -2:
        return "ignored"
    return "foreground" if iou >= config.fg_iou_thresh else "forced"


@pytest.mark.parametrize("point", POINTS)
def test_without_a_level_it_is_the_one_that_fits_best(layout, point):
    match = assign_anchors(layout, BOXES)
    found = anchor_cell(layout, match, point)
    by_level = [anchor_cell(layout, match, point, level) for level in LEVELS]
    best = max(max(one["max_iou"] for one in cell["anchors"]) for cell in by_level)
    assert found["anchors"][found["best"]]["max_iou"] == best
    assert found == by_level[LEVELS.index(found["level"])]


def test_boxes_are_in_the_photos_pixels(layout):
    match = assign_anchors(layout, BOXES)
    cell = anchor_cell(layout, match, (100, 75), "P4")
    anchors = torch.cat(layout.anchors)
    for one in cell["anchors"]:
        x, y = SIZE[1] / layout.image_size[1], SIZE[0] / layout.image_size[0]
        expected = anchors[one["index"]] * torch.tensor([x, y, x, y])
        assert one["box_original"] == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-4)


def test_sizes_and_ratios_are_the_shapes(layout):
    match = assign_anchors(layout, BOXES)
    for at, level in enumerate(LEVELS):
        anchors = anchor_cell(layout, match, (100, 75), level)["anchors"]
        sizes = [int(layout.shape.base_size * 2**at * scale) for scale in layout.shape.scales]
        ratios = layout.shape.aspect_ratios
        expected = [(size, ratio) for ratio in ratios for size in sizes]
        assert [(one["size"], one["aspect_ratio"]) for one in anchors] == expected


def test_without_objects_there_is_nothing_to_overlap(layout):
    cell = anchor_cell(layout, assign_anchors(layout, []), (100, 75))
    for one in cell["anchors"]:
        assert (one["max_iou"], one["best_gt"], one["matched"]) == (0.0, None, None)
        assert one["fate"] == "background"
    assert cell_sentence(cell, []).endswith("None overlaps an object.")
    assert {words for _, words in cell_numbers(cell, [])} == {"no object: background"}


@pytest.mark.parametrize("point", POINTS)
def test_the_words_count_each_anchor_once(layout, point):
    match = assign_anchors(layout, BOXES, config=MatcherConfig(0.6, 0.2))
    cell = anchor_cell(layout, match, point)
    sentence, each = cell_sentence(cell, NAMES), layout.shape.num_anchors
    counts = re.findall(r"(\d+) (foreground|forced|ignored|background)", sentence)
    assert sum(int(count) for count, _ in counts) == each
    assert f"of the {each} anchors here" in sentence
    rows = cell_numbers(cell, NAMES)
    assert len(rows) == len({kind for kind, _ in rows}) == each
    for (kind, words), one in zip(rows, cell["anchors"], strict=True):
        assert kind == f"{one['size']} px, ratio {one['aspect_ratio']:g}"
        assert words.endswith(one["fate"])


# ------------------------------------------------------------------ the formula


def test_the_formula_by_hand():
    """A picture that is not resized: the first anchor of P3 against a square of 20 px."""
    layout = layout_of((128, 128), 128, 128)
    # Anchor 0 is 45 x 23 around the origin (32 px, ratio 0.5): rounded to [-23, -11, 23, 11].
    text = iou_formula(layout, 0, [-10.0, -10.0, 10.0, 10.0])
    assert "anchor = [-23.0, -11.0, 23.0, 11.0], area 1,012" in text
    assert "object = [-10.0, -10.0, 10.0, 10.0], area 400" in text
    assert "shared = 20.0 x 20.0 = 400" in text
    assert text.endswith("IoU = 400 / 1,012 = 0.395")


@pytest.mark.parametrize("anchor", [0, 101, 1000, -1])
@pytest.mark.parametrize("box", BOXES)
def test_the_formulas_numbers_are_torchvisions(layout, anchor, box):
    anchor %= layout.num_anchors
    text = iou_formula(layout, anchor, box)
    match = assign_anchors(layout, [box])
    iou = float(box_iou(match.gt_boxes, torch.cat(layout.anchors)[anchor : anchor + 1]))
    assert float(text.rpartition(" = ")[2]) == pytest.approx(iou, abs=5.1e-4)


# ------------------------------------------------------------------ the dialects as rows


@pytest.mark.parametrize("boxes", [BOXES, BOXES[:1], []])
def test_each_dialect_has_a_row_that_accounts_for_every_anchor(boxes):
    layout = layout_of(SIZE, *INPUT)
    rows = dialect_rows(layout, boxes, MatcherConfig())
    assert [row["dialect"] for row in rows] == [dialect.title for dialect in DIALECTS]
    for row in rows:
        assert row["foreground"] + row["ignored"] + row["background"] == layout.num_anchors
        reasons = [count for name, count in row.items() if name.startswith("why: ")]
        assert sum(reasons) == row["anchors that differ from torchvision"]
    own = next(row for row in rows if row["dialect"].startswith("torchvision"))
    assert own["anchors that differ from torchvision"] == 0
    assert {row["forced"] for row in rows if row["dialect"] == "Paper"} == {0}
    anchors = torch.cat(layout.anchors)
    if boxes:
        matched = Matcher(0.5, 0.4, True)(box_iou(assign_anchors(layout, boxes).gt_boxes, anchors))
        assert own["foreground"] == int((matched >= 0).sum())
        assert own["ignored"] == int((matched == -2).sum())


def test_the_rows_make_one_table():
    rows = dialect_rows(layout_of(SIZE, *INPUT), BOXES, MatcherConfig(0.7, 0.3))
    assert len({tuple(row) for row in rows}) == 1
    assert len(to_csv(rows, list(rows[0])).strip().splitlines()) == 1 + len(DIALECTS)
