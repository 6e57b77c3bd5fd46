"""The page of an evaluation: its numbers are the analysis's, and nothing in it can do harm."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import PIL.Image
import pytest

from retinanet.analysis import confusion, dataset_coverage, error_types, worst_images
from retinanet.coco import load_coco
from retinanet.config import ConfigError, ModelConfig, PostprocessConfig
from retinanet.evaluation import score
from retinanet.evaluation_report import PICTURE_SIDE, evaluation_html

from .random_results import random_results
from .shapes import write_shapes
from .test_report import HOSTILE, Page


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    annotations = write_shapes(tmp_path_factory.mktemp("shapes"), 5, (600, 400))
    dataset = load_coco(annotations, annotations.parent / "images")
    return dataset, random_results(dataset, 4)


@pytest.fixture(scope="module")
def coverage(case):
    return dataset_coverage(case[0], ModelConfig(min_size=320, max_size=480))


@pytest.fixture(scope="module")
def text(case, coverage):
    command = "python -m retinanet evaluate instances.json --images images"
    return evaluation_html(
        *case, title="shapes", command=command, model_name="tiny", coverage=coverage, notes=["a <b"]
    )


def test_its_tables_are_the_analysis(case, coverage, text):
    dataset, results = case
    page, errors = Page(text), error_types(dataset, results)
    rows = page.table("type", "count", "dAP50")
    assert [row[1] for row in rows] == [f"{row['count']:,}" for row in errors.rows]
    assert [row[2] for row in rows] == [f"{row['dAP50']:.3f}" for row in errors.rows]
    metrics = score(dataset, results)
    assert f"{metrics['AP50']:.3f}" in page.words_in("p")
    classes = {row[0]: row for row in page.table("class", "objects")}
    for name, value in metrics["AP50_per_class"].items():
        assert classes[name][6] == f"{value:.3f}"
    at = worst_images(dataset, results, limit=50, score_thresh=0.3)
    assert sum(int(row[2]) for row in classes.values()) == sum(row["tp"] for row in at)
    assert sum(int(row[3]) for row in classes.values()) == sum(row["fp"] for row in at)
    pairs = confusion(dataset, results, score_thresh=0.3).top_pairs(15)
    listed = page.table("object is", "detected as") or []
    assert [row[:3] for row in listed] == [
        [row["truth"], row["detected_as"], f"{row['count']:,}"] for row in pairs
    ]
    sizes = page.table("√area, px", "objects")
    assert sum(int(row[1]) for row in sizes) == coverage.objects == 10


def test_the_worst_photos_are_in_it_small(case, text):
    dataset, results = case
    pictures = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', text)
    rows = worst_images(dataset, results, limit=12, score_thresh=0.3)
    assert len(pictures) == len(rows) > 0
    for data in pictures:
        assert max(PIL.Image.open(io.BytesIO(base64.b64decode(data))).size) == PICTURE_SIDE
    assert text.count('stroke-dasharray="6 4"') == 2 * len(rows)  # two objects in each
    said = Page(text).words_in("figcaption")
    assert said.index(rows[0]["file"]) < said.index(rows[-1]["file"])


def test_it_stands_alone(text):
    page = Page(text)
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "default-src 'none'" in text
    assert "python -m retinanet evaluate instances.json --images images" in page.words_in(
        "span", "code"
    )


def test_what_comes_from_outside_is_escaped(case):
    dataset, results = case
    dataset = dataclasses.replace(dataset, categories=(HOSTILE, "blue"))
    words = {"title": HOSTILE, "command": HOSTILE, "model_name": HOSTILE, "notes": [HOSTILE]}
    text = evaluation_html(dataset, results, pictures=2, **words)
    page = Page(text)
    assert not page.of("script") and not page.of("img")
    assert not any(key.startswith("on") for _, found in page.elements for key in found)
    assert page.table("class")[0][0] == HOSTILE
    assert HOSTILE in page.words_in("h1")


def test_a_photo_that_has_gone_is_said_in_its_place(tmp_path):
    annotations = write_shapes(tmp_path, 3)
    dataset = load_coco(annotations, tmp_path / "images")
    (tmp_path / "images" / "000.png").unlink()
    (tmp_path / "images" / "001.png").write_bytes(b"no picture")
    page = Page(evaluation_html(dataset, [], title="gone"))
    assert len(page.of("figure")) == 3
    assert len(page.of("image")) == 1


def test_no_errors_no_photos_and_the_same_page_again(case):
    dataset, _ = case
    perfect = [
        {
            "image_id": photo.image_id,
            "category_id": dataset.category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": 0.9,
        }
        for photo in dataset.photos
        for (x1, y1, x2, y2), label in zip(
            photo.target.boxes.tolist(), photo.target.labels.tolist(), strict=True
        )
    ]
    config = PostprocessConfig(class_score_thresh={0: 0.4})
    first = evaluation_html(dataset, perfect, title="perfect", config=config)
    assert first == evaluation_html(dataset, perfect, title="perfect", config=config)
    page = Page(first)
    assert "No errors at scores above 0.3." in page.words_in("p")
    assert "no class is taken for another" in page.words_in("p")
    assert "AP 1.000, AP50 1.000" in page.words_in("p")


def test_its_words_name_the_bound_and_the_photos_that_were_counted(case):
    dataset, results = case
    errors = error_types(dataset, results, fg_iou=0.75)
    coverage = dataset_coverage(dataset, ModelConfig(min_size=64, max_size=96), limit=2)
    words = evaluation_html(
        dataset, results, title="a", errors=errors, coverage=coverage, pictures=1
    )
    assert "IoU .5" not in words and "What AP at IoU 0.75 (" in words
    assert words.count("and IoU 0.75.") >= 2  # classes, worst photos
    assert f"On 2 of {len(dataset.photos)} photos." in words


def test_settings_are_checked(case):
    for wrong in ({"score_thresh": 2}, {"pictures": 51}, {"pictures": -1}):
        with pytest.raises(ConfigError):
            evaluation_html(*case, title="a", **wrong)
