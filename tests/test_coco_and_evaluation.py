"""Reading data sets, views of photos, and average precision."""

import json
import math
import random

import PIL.Image
import pytest
import torch

from retinanet.augment import crop, flip, make_view
from retinanet.coco import DatasetError, Target, load_coco
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.evaluation import METRICS, coco_results, score
from retinanet.images import load_image, to_tensor
from retinanet.model import RetinaNet
from tests.shapes import write_shapes


@pytest.fixture
def shapes(tmp_path):
    return write_shapes(tmp_path)


def edited(annotation_file, edit):
    data = json.loads(annotation_file.read_text())
    edit(data)
    annotation_file.write_text(json.dumps(data))
    return annotation_file


def test_labels_are_contiguous_in_the_order_of_category_ids(shapes):
    dataset = load_coco(shapes, shapes.parent / "images")
    assert dataset.categories == ("red", "blue")
    assert dataset.category_ids == (1, 7)
    assert [photo.target.labels.tolist() for photo in dataset.photos] == [[0, 1]] * 4
    assert dataset.report["boxes"] == 8


def test_boxes_are_corners_clipped_to_the_image(shapes):
    edited(shapes, lambda d: d["annotations"][0].update(bbox=[-5, 10, 30, 200]))
    photo = load_coco(shapes, shapes.parent / "images").photos[0]
    assert photo.target.boxes[0].tolist() == [0, 10, 25, 72]


def test_what_is_no_label_becomes_an_area_to_ignore_or_is_counted(shapes):
    def edit(data):
        first, second, third, fourth, fifth, *_ = data["annotations"]
        first["iscrowd"] = 1
        second["score"] = 0.4
        third["bbox"] = [5, 5, 0, 10]
        fourth["category_id"] = 99
        fifth["score"] = 0.6
        data["images"][0]["low_boxes"] = [[1, 2, 3, 4, 1, 0.2]]
        data["images"][3]["source"] = "noncommercial"

    dataset = load_coco(
        edited(shapes, edit), shapes.parent / "images", exclude_sources=["noncommercial"]
    )
    first, second, third = dataset.photos
    assert len(first.target.boxes) == 0
    assert len(first.target.ignore) == 3
    assert first.target.ignore[0].tolist() == [1, 2, 4, 6]
    assert len(second.target.boxes) == 0
    assert len(third.target.boxes) == 2
    counted = {name: dataset.report[name] for name in ("degenerate_boxes", "unknown_categories")}
    assert counted == {"degenerate_boxes": 1, "unknown_categories": 1}
    assert dataset.report["excluded"] == 1


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda d: d.pop("categories"), "categories"),
        (lambda d: d["images"][0].pop("file_name"), "file_name"),
        (lambda d: d["images"][0].update(file_name="../../secret.png"), "leads out"),
        (lambda d: [i.update(file_name="gone.png") for i in d["images"]], "leaves no image"),
        (lambda d: d["annotations"][0].update(bbox=None), "wrong type"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "wrong"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3, "4"]), "wrong"),
        (lambda d: d["annotations"][0].update(bbox=[10**400, 2, 3, 4]), "wrong"),
        (lambda d: d["images"].append("a.png"), "wrong"),
        (lambda d: d["images"][0].update(width="abc"), "wrong"),
        (lambda d: d["images"][0].update(width=float("inf")), "wrong"),
        (lambda d: d["images"][0].update(file_name="a\0.png"), "cannot be the name"),
        (lambda d: d["images"][0].update(file_name="a" * 5000), "cannot be the name"),
        (lambda d: d["images"][0].update(id="first"), "whole number"),
        (lambda d: d["images"][0].update(id=1), "same id"),
        (lambda d: d["categories"][0].update(id="7"), "wrong|whole number"),
        (lambda d: d["categories"][0].update(id=1), "same id"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_in_words(shapes, edit, sentence):
    with pytest.raises(DatasetError, match=sentence):
        load_coco(edited(shapes, edit), shapes.parent / "images")


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\x00"])
def test_a_file_that_is_no_coco_json_is_refused_in_words(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DatasetError, match=r"a\.json"):
        load_coco(tmp_path / "a.json", tmp_path)


def test_missing_files_and_folders_are_named(tmp_path, shapes):
    with pytest.raises(DatasetError, match="cannot be read"):
        load_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(DatasetError, match="no folder"):
        load_coco(shapes, tmp_path / "nowhere")


def test_flipping_twice_is_nothing_and_once_moves_boxes_with_the_pixels(shapes):
    photo = load_coco(shapes, shapes.parent / "images").photos[0]
    image = to_tensor(load_image(photo.path))
    once = flip(image, photo.target)
    twice = flip(*once)
    assert torch.equal(twice[0], image)
    assert torch.equal(twice[1].boxes, photo.target.boxes)
    for box, flipped in zip(photo.target.boxes.int(), once[1].boxes.int(), strict=True):
        (x1, y1, x2, y2), (a1, b1, a2, b2) = box.tolist(), flipped.tolist()
        assert torch.equal(image[:, y1:y2, x1:x2].flip(-1), once[0][:, b1:b2, a1:a2])


def test_a_crop_keeps_visible_objects_and_ignores_cut_ones():
    image = torch.rand(3, 100, 100)
    target = Target(
        boxes=torch.tensor([[0.0, 0, 100, 100], [90, 90, 100, 100], [0, 0, 10, 10]]),
        labels=torch.tensor([0, 1, 2]),
        ignore=torch.tensor([[0.0, 0, 4, 4]]),
    )
    window, cropped = crop(image, target, 0.5, random.Random(0))
    assert window.shape == (3, 50, 50)
    # the big one shows a quarter of itself: ignored, not background and not an object
    assert 0 not in cropped.labels.tolist()
    assert [0.0, 0, 50, 50] in cropped.ignore.tolist()
    assert (cropped.boxes >= 0).all()
    assert (cropped.boxes <= 50).all()


def test_views_are_a_pure_function_and_view_zero_is_the_photo(shapes):
    photo = load_coco(shapes, shapes.parent / "images").photos[0]
    sizes = {"min_size": 72, "max_size": 96, "scale_jitter": (0.5, 2.0)}
    plain = make_view(photo, 0, **sizes)
    assert plain.image.shape == (3, 72, 96)
    assert torch.equal(plain.target.boxes, photo.target.boxes)
    views = [make_view(photo, number, **sizes, seed=1) for number in range(1, 6)]
    again = [make_view(photo, number, **sizes, seed=1) for number in range(1, 6)]
    for view, same in zip(views, again, strict=True):
        assert torch.equal(view.image, same.image)
        assert torch.equal(view.target.boxes, same.target.boxes)
    assert len({view.image.shape for view in views}) > 1


def perfect_results(annotation_file):
    data = json.loads(annotation_file.read_text())
    keys = ("image_id", "category_id", "bbox")
    return [{key: a[key] for key in keys} | {"score": 0.9} for a in data["annotations"]]


def test_perfect_detections_score_one_and_half_of_them_score_half(shapes):
    dataset = load_coco(shapes, shapes.parent / "images")
    metrics = score(dataset, perfect_results(shapes))
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["AP50_per_class"] == pytest.approx({"red": 1, "blue": 1})
    only_red = [r for r in perfect_results(shapes) if r["category_id"] == 1]
    metrics = score(dataset, only_red)
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["AP50_per_class"] == pytest.approx({"red": 1, "blue": 0})
    nothing = score(dataset, [])
    assert nothing["AP50"] == 0 and nothing["AP50_per_class"] == {"red": 0, "blue": 0}
    unmeasured = [name for name in METRICS if math.isnan(metrics[name])]
    assert [name for name in METRICS if math.isnan(nothing[name])] == unmeasured != []
    assert set(METRICS) <= set(metrics)


def test_annotations_without_area_crowd_flag_and_id_are_scored(shapes):
    perfect = perfect_results(shapes)
    whole = score(load_coco(shapes, shapes.parent / "images"), perfect)

    def edit(data):
        for annotation in data["annotations"]:
            for name in ("area", "iscrowd", "id"):
                del annotation[name]

    bare = score(load_coco(edited(shapes, edit), shapes.parent / "images"), perfect)
    assert bare.pop("AP50_per_class") == whole.pop("AP50_per_class")
    assert bare == pytest.approx(whole, nan_ok=True)


def test_weak_labels_cost_neither_a_hit_nor_a_miss(shapes):
    perfect = perfect_results(shapes)

    def weaken(data):
        data["annotations"][0]["score"] = 0.4
        data["annotations"][2]["bbox"] = [5, 5, 0, 10]
        data["annotations"].append({"image_id": 99, "category_id": 1, "bbox": [0, 0, 9, 9]})

    edited(shapes, weaken)
    images = shapes.parent / "images"
    certain = [result for index, result in enumerate(perfect) if index not in (0, 2)]
    assert score(load_coco(shapes, images), certain)["AP"] == pytest.approx(1)
    assert score(load_coco(shapes, images), [perfect[0], *certain])["AP"] == pytest.approx(1)
    trusting = load_coco(shapes, images, min_label_score=0.3)
    assert score(trusting, certain)["AP"] < 0.9


def test_a_photo_of_another_size_than_the_data_set_says_is_refused_where_it_is_used(shapes):
    path = shapes.parent / "images" / "000.png"
    with PIL.Image.open(path) as stored:
        exif = stored.getexif()
        exif[0x0112] = 6  # turn a quarter
        stored.save(path, exif=exif)
    dataset = load_coco(shapes, shapes.parent / "images")
    with pytest.raises(DatasetError, match=r"000\.png is 72x96 pixels when upright.*96x72"):
        make_view(dataset.photos[0], 0, min_size=72, max_size=96)
    model = RetinaNet(ModelConfig(depth=18, num_classes=2, num_convs=1)).eval()
    with pytest.raises(DatasetError, match="upright"):
        coco_results(model, dataset)


def test_results_of_a_model_are_in_cocos_format_and_in_the_images(shapes):
    dataset = load_coco(shapes, shapes.parent / "images")
    config = ModelConfig(depth=18, num_classes=2, num_convs=1, min_size=72, max_size=96)
    model = RetinaNet(config, dataset.categories, dataset.category_ids).eval()
    seen = []
    settings = PostprocessConfig(score_thresh=0, detections_per_img=5)
    results = coco_results(model, dataset, settings, lambda *done: seen.append(done))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(results) == 20
    for result in results:
        x, y, width, height = result["bbox"]
        assert x >= 0 and y >= 0 and x + width <= 96.01 and y + height <= 72.01
        assert result["category_id"] in (1, 7)
    assert 0 <= score(dataset, results)["AP"] < 0.5
