"""What `check_dataset` finds, against flaws made by hand; and the figures of its report."""

import json
import random
import shutil

import pytest

from retinanet.coco import DatasetError, load_coco
from retinanet.datasets import (
    check_dataset,
)
from retinanet.figures import dataset as figures
from tests.shapes import write_shapes


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    """Eight photos of two objects each (red 1, blue 7; 96 x 72 px), and one flaw of each kind."""
    folder = tmp_path_factory.mktemp("flawed")
    path = write_shapes(folder, photos=8)
    data = json.loads(path.read_text())
    of = {image_id: data["annotations"][2 * image_id : 2 * image_id + 2] for image_id in range(8)}
    of[0][0]["bbox"] = [-10, 5, 30, 20]  # partly outside
    of[0][1]["bbox"] = [200, 5, 30, 20]  # wholly outside
    of[1][0]["bbox"] = [5, 5, 0, 20]
    of[1][1]["category_id"] = 99
    data["annotations"].append({**of[2][0], "id": 100})
    data["annotations"].append({**of[2][0], "id": 101, "image_id": 777})
    of[3][0]["iscrowd"] = 1
    of[3][1]["score"] = 0.3
    data["images"].append({"id": 50, "file_name": "gone.png", "width": 9, "height": 9})
    data["images"].append(
        {"id": 51, "file_name": "mine.png", "width": 9, "height": 9, "source": "mine"}
    )
    data["images"][4]["width"] = 90
    of[6][0]["bbox"] = [0.25, 0, 96.5, 40]  # rounding: 0.75 px outside
    path.write_text(json.dumps(data))
    images = folder / "images"
    (images / "005.png").write_bytes((images / "005.png").read_bytes()[:60])
    shutil.copy(images / "006.png", images / "007.png")
    return load_coco(path, images, exclude_sources=["mine"])


def test_every_flaw_is_found_once_and_by_its_photo(flawed):
    seen = []
    report = check_dataset(flawed, progress=lambda *done: seen.append(done))
    assert seen == [(i, 8) for i in range(1, 9)]
    found = {kind: [(f.file, f.image_id) for f in report.findings[kind]] for kind in report.counts}
    assert found == {
        "unreadable": [("005.png", 5)],
        "size_differs": [("004.png", 4)],
        "missing_file": [("gone.png", None)],
        "unknown_image": [("", None)],
        "unknown_category": [("001.png", 1)],
        "degenerate_box": [("001.png", 1)],
        "box_outside": [("000.png", 0)],
        "box_cut": [("000.png", 0)],
        "duplicate_image": [("007.png", 7)],
        "duplicate_box": [("002.png", 2)],
        "ignored_area": [("003.png", 3), ("003.png", 3)],
        "no_objects": [("001.png", 1), ("003.png", 3)],
    }
    assert {kind: len(items) for kind, items in found.items()} == dict(report.counts)
    lost = report.counts["degenerate_box"] + report.counts["box_outside"]
    assert lost == flawed.report["degenerate_boxes"]
    assert report.counts["unknown_category"] == flawed.report["unknown_categories"]
    assert report.counts["missing_file"] == flawed.report["missing_files"]


def test_the_report_counts_classes_and_sizes_as_by_hand(flawed):
    report = check_dataset(flawed)
    # 16 boxes, less 1 outside, 1 without area, 1 of no category, 2 ignored, and 1 twice
    assert (report.photos, report.boxes) == (8, 12)
    assert report.objects_per_class == {"red": 7, "blue": 5}
    assert report.photos_per_class == {"red": 6, "blue": 5}
    assert report.imbalance == 7 / 5
    areas = [w * h for w, h in zip(report.box_widths, report.box_heights, strict=True)]
    small = sum(area < 1024 for area in areas)
    assert report.sizes == {"small": small, "medium": 12 - small, "large": 0}
    sentences = report.sentences()
    assert sentences[0].startswith("1 photo cannot be read (for example 005.png): training stops")
    assert "red occurs most (7 objects), blue least (5): 1.4 : 1." in sentences
    assert sentences[-1].startswith("8 photos with 12 objects of 2 classes: ")
    json.dumps(report.to_dict(), allow_nan=False)
    assert len(report.rows()) == sum(report.counts.values())
    assert set(report.rows()[0]) == {"kind", "file", "detail", "image_id"}


def test_a_clean_data_set_has_no_findings_and_says_what_it_is(tmp_path):
    path = write_shapes(tmp_path)
    report = check_dataset(load_coco(path, tmp_path / "images"))
    assert not any(report.counts.values())
    assert report.rows() == []
    assert len(report.sentences()) == 1


def test_findings_are_all_counted_and_a_thousand_kept(tmp_path):
    path = write_shapes(tmp_path, photos=1)
    data = json.loads(path.read_text())
    crowd = {**data["annotations"][0], "bbox": [1, 1, 0, 0]}
    data["annotations"] += [{**crowd, "id": 10 + i} for i in range(1200)]
    path.write_text(json.dumps(data))
    report = check_dataset(load_coco(path, tmp_path / "images"))
    assert report.counts["degenerate_box"] == 1200
    assert len(report.findings["degenerate_box"]) == 1000


def test_a_file_that_changed_meanwhile_is_refused(tmp_path):
    path = write_shapes(tmp_path)
    dataset = load_coco(path, tmp_path / "images")
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "annotations": [{"image_id": 0}]}))
    with pytest.raises(DatasetError, match="changed"):
        check_dataset(dataset)


# Figures


def test_figures_show_the_rows_by_colour_and_by_mark():
    objects, photos = {"a": 1, "b": 200, "c": 0}, {"a": 1, "b": 90, "c": 0}
    rows = figures.class_count_rows(objects, photos)
    assert [row["class"] for row in rows] == ["b", "a", "c"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    figure = figures.class_counts(objects, photos)
    assert figure.layout.xaxis.type == "log"
    assert [list(trace.customdata) for trace in figure.data] == [[200, 1, 0], [90, 1, 0]]
    assert figures.class_counts({"a": 4, "b": 5}, {"a": 4, "b": 5}).layout.xaxis.type != "log"
    for one in (figure, figures.box_sizes([10, 20], [30, 5], [0, 1], ["a", "b"])):
        marks = [(t.marker.color, t.marker.symbol) for t in one.data if t.mode == "markers"]
        assert len({color for color, _ in marks}) == len({mark for _, mark in marks}) == 2
        assert one.layout.paper_bgcolor is None


def test_size_borders_are_where_coco_has_them():
    figure = figures.box_sizes([10, 40], [30, 50], [0, 0], ["a"])
    borders = [trace for trace in figure.data if trace.mode == "lines"]
    areas = [{round(x * y, 6) for x, y in zip(t.x, t.y, strict=True)} for t in borders]
    assert areas == [{32.0**2}, {96.0**2}]
    assert len({trace.line.dash for trace in borders}) == 2
    rows = figures.box_size_rows([10, 40, 100], [30, 50, 100], [0, 0, 0], ["a"])
    assert [(row["area"], row["size"]) for row in rows] == [
        (300, "small"),
        (2000, "medium"),
        (10_000, "large"),
    ]


def test_the_histogram_of_shapes_counts_each_box_once():
    draw = random.Random(2)
    widths = [draw.uniform(1, 100) for _ in range(500)]
    heights = [draw.uniform(1, 100) for _ in range(500)]
    rows = figures.aspect_ratio_rows(widths, heights)
    for row in rows:
        inside = sum(row["from"] <= h / w < row["to"] for w, h in zip(widths, heights, strict=True))
        assert inside == pytest.approx(row["boxes"], abs=1)  # borders are rounded
    assert sum(row["boxes"] for row in rows) == 500
    square = figures.aspect_ratio_rows([10], [10])
    assert square == [{"from": 0.917, "to": 1.0905, "boxes": 1}]
    assert len(figures.aspect_ratios(widths, heights).layout.shapes) == 3
    assert figures.aspect_ratio_rows([], []) == []
    assert figures.aspect_ratios([], []).data[0].x == ()
