"""COCO results, CSV and annotated pictures, from a hand-written trace."""

from __future__ import annotations

import csv
import io
import json
from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools.coco import COCO

from retinanet.export import (
    CSV_COLUMNS,
    draw_detections,
    encode_png,
    to_coco_results,
    to_csv,
    to_rows,
)
from retinanet.figures import palette
from retinanet.images import load_image
from retinanet.types import LEVELS
from tests import zoo


class Names:
    """Two labels whose ids are not their indices, as in COCO's 80-class layout."""

    def category_name(self, label: int) -> str:
        return ("person", "traffic light")[label]

    def category_id(self, label: int) -> int:
        return (1, 10)[label]


def make_trace(boxes: list, scores: list, labels: list) -> SimpleNamespace:
    return SimpleNamespace(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
    )


TRACE = make_trace([[10, 20, 40, 60], [5.5, 6.25, 30, 30]], [0.875, 0.25], [1, 0])
EMPTY = make_trace([], [], [])


def test_coco_results_hold_width_and_height_and_the_data_sets_ids():
    assert to_coco_results(TRACE, Names(), 7) == [
        {"image_id": 7, "category_id": 10, "bbox": [10, 20, 30, 40], "score": 0.875},
        {"image_id": 7, "category_id": 1, "bbox": [5.5, 6.25, 24.5, 23.75], "score": 0.25},
    ]
    named = to_coco_results(TRACE, Names(), 7, file_name="street.jpg")
    assert {entry["file_name"] for entry in named} == {"street.jpg"}
    assert to_coco_results(EMPTY, Names(), 7) == []


def test_coco_results_load_in_pycocotools(tmp_path):
    data_set = {
        "images": [{"id": 7, "width": 100, "height": 80, "file_name": "street.jpg"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}, {"id": 10, "name": "traffic light"}],
    }
    (tmp_path / "data.json").write_text(json.dumps(data_set))
    (tmp_path / "results.json").write_text(json.dumps(to_coco_results(TRACE, Names(), 7, "s.jpg")))
    loaded = COCO(str(tmp_path / "data.json")).loadRes(str(tmp_path / "results.json"))
    assert len(loaded.anns) == 2
    assert loaded.anns[1]["bbox"] == [10, 20, 30, 40] and loaded.anns[1]["area"] == 1200


def test_csv_reads_back():
    text = to_csv(to_rows(TRACE, Names(), 'a "b", c.jpg') + to_rows(EMPTY, Names(), "none.jpg"))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == CSV_COLUMNS and len(rows) == 2
    assert rows[0]["file"] == 'a "b", c.jpg'
    assert (rows[0]["label"], rows[0]["category"]) == ("1", "traffic light")
    assert [float(rows[1][name]) for name in ("x1", "y1", "width", "height")] == [
        5.5,
        6.25,
        24.5,
        23.75,
    ]
    assert float(rows[0]["score"]) == 0.875


def test_csv_without_rows_is_its_header():
    assert to_csv([]).strip() == ",".join(CSV_COLUMNS)


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1).jpg", "+1.jpg", "-1.jpg", "@SUM(A1).jpg", "\t=1.jpg", " =1.jpg", "\r=1"]
)
def test_csv_formulas_are_made_plain_text(name):
    text = to_csv([dict.fromkeys(CSV_COLUMNS, 0) | {"file": name, "category": name, "x1": -1.5}])
    row = next(csv.DictReader(io.StringIO(text, newline="")))
    assert row["file"] == row["category"] == "'" + name
    assert row["x1"] == "-1.5"  # a number stays one


def test_drawing_marks_the_edges_and_leaves_the_rest_and_the_source():
    image = load_image(PIL.Image.new("RGB", (300, 200), (90, 90, 90)))
    trace = make_trace([[60, 80, 200, 160]], [0.9], [0])
    drawn = np.asarray(draw_detections(image, trace, Names(), labels=False))
    color = [int(palette.label_color(0)[i : i + 2], 16) for i in (1, 3, 5)]
    assert drawn.shape == (200, 300, 3)
    for x, y in ((60, 120), (199, 120), (130, 80), (130, 159)):
        assert drawn[y, x].tolist() == color, (x, y)
    assert drawn[120, 130].tolist() == [90, 90, 90]
    assert (np.asarray(image.pil) == 90).all()


def test_the_better_box_is_drawn_on_top_and_boxes_can_be_chosen():
    image = load_image(PIL.Image.new("RGB", (100, 100)))
    same = make_trace([[20, 20, 80, 80], [20, 20, 80, 80]], [0.9, 0.3], [0, 1])

    def corner(**options):
        pixel = draw_detections(image, same, Names(), labels=False, **options).getpixel((20, 50))
        return "#{:02X}{:02X}{:02X}".format(*pixel)

    assert corner() == palette.label_color(0)
    assert corner(boxes=[1]) == palette.label_color(1)
    assert corner(boxes=[]) == "#000000"


@pytest.mark.parametrize("size", [(1, 1), (40, 3), (640, 480), (3000, 2000)])
def test_labels_stay_inside_and_lines_grow(size):
    width, height = size
    image = load_image(PIL.Image.new("RGB", size, (90, 90, 90)))
    boxes = [[0, 0, width, height], [width - 1, height - 1, width, height], [-5, -5, 0, 0]]
    drawn = draw_detections(image, make_trace(boxes, [0.9, 0.8, 0.7], [0, 1, 1]), Names())
    assert drawn.size == size
    if width >= 640:
        tags = np.asarray(drawn)[:, :, :].astype(int)
        text = [int(palette.text_color(palette.label_color(1))[i : i + 2], 16) for i in (1, 3, 5)]
        corner = tags[height * 9 // 10 :, width * 3 // 4 :]
        assert (corner == text).all(-1).any()  # the tag at the right edge was moved inside


def test_labels_of_the_same_corner_do_not_hide_each_other():
    image = load_image(PIL.Image.new("RGB", (400, 300), (90, 90, 90)))
    box = [50, 100, 300, 250]
    alone = draw_detections(image, make_trace([box], [0.9], [0]), Names())
    both = draw_detections(image, make_trace([box, box], [0.9, 0.8], [0, 1]), Names())
    changed = (np.asarray(alone) != np.asarray(both)).any(-1)
    assert changed.any()  # the second label is somewhere
    assert not changed[:100].any()  # and not over the first


def test_png_reads_back_exactly():
    picture = zoo.scene()
    decoded = PIL.Image.open(io.BytesIO(encode_png(picture)))
    assert decoded.format == "PNG" and decoded.tobytes() == picture.tobytes()


# The palette


def test_every_label_has_a_color_and_readable_words():
    for label in range(200):
        color = palette.label_color(label)
        assert len(color) == 7 and color[0] == "#"
        assert palette.contrast(palette.text_color(color), color) >= 4.5  # WCAG AA


def test_text_turns_dark_on_light_and_light_on_dark():
    assert palette.text_color("#FFFFFF") == palette.DARK_TEXT
    assert palette.text_color("#000000") == palette.LIGHT_TEXT
    assert palette.contrast("#FFFFFF", "#000000") == pytest.approx(21)


def test_levels_are_one_ramp_from_dark_to_light():
    assert tuple(palette.LEVEL_COLORS) == LEVELS
    lights = [palette.luminance(color) for color in palette.LEVEL_COLORS.values()]
    assert all(dark < light for dark, light in pairwise(lights))


def test_fates_are_the_ledgers_and_differ():
    assert set(palette.FATE_COLORS) == {
        *("kept", "suppressed", "cut_by_topk", "over_limit", "below_thresh"),
    }
    meanings = [
        *palette.FATE_COLORS.values(),
        *palette.ASSIGNMENT_COLORS.values(),
        palette.GROUND_TRUTH,
    ]
    assert len(set(meanings)) == len(meanings)


# Machado, Oliveira and Fernandes 2009, full severity, on linear light.
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


@pytest.mark.parametrize("vision", [np.eye(3), PROTANOPIA, DEUTERANOPIA])
@pytest.mark.parametrize("group", ["FATE_COLORS", "ASSIGNMENT_COLORS", "LEVEL_COLORS"])
def test_colors_of_a_group_differ_for_color_blind_eyes(group, vision):
    def seen(color: str) -> np.ndarray:
        light = (np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255) ** 2.2
        return np.clip(np.asarray(vision) @ light, 0, 1) ** (1 / 2.2) * 255

    for first, second in combinations(getattr(palette, group).values(), 2):
        assert np.linalg.norm(seen(first) - seen(second)) > 30, (first, second)
