"""The gallery: files that are there, boxes that lie inside and mean COCO categories."""

from __future__ import annotations

import sys

import pytest
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from retinanet.images import ImageError
from retinanet.samples import SAMPLES, get_sample, load_sample, sample_ground_truth, sample_path

KEYS = [sample.key for sample in SAMPLES]
COCO_NAMES = set(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]) - {
    "N/A",
    "__background__",
}


def test_keys_and_titles_are_unique_and_complete():
    assert len(set(KEYS)) == len(SAMPLES) >= 5
    assert len({sample.title for sample in SAMPLES}) == len(SAMPLES)
    assert all(sample.credit.endswith(".") for sample in SAMPLES)
    assert {"astronaut", "coffee", "cat", "motorcycle"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_boxes_lie_in_the_photo_and_are_coco_categories(key):
    image = load_sample(key)
    width, height = image.size
    for box in sample_ground_truth(key):
        assert 0 <= box.x1 < box.x2 <= width and 0 <= box.y1 < box.y2 <= height, box
        assert box.category in COCO_NAMES
        assert box.xyxy == tuple(box)[1:]
    assert image.name == get_sample(key).file


def test_a_photo_is_decoded_once():
    assert load_sample("coffee") is load_sample("coffee")


def test_the_first_sample_has_something_to_find():
    assert SAMPLES[0].boxes


def test_an_unknown_key_names_the_known_ones():
    for call in (get_sample, sample_path, load_sample, sample_ground_truth):
        with pytest.raises(ImageError, match="choose one of astronaut, coffee"):
            call("../secret")


def test_without_scikit_image_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImageError, match="come with scikit-image"):
        sample_path("coffee")


def test_locating_a_photo_does_not_import_scikit_image(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "skimage"]:
        monkeypatch.delitem(sys.modules, module)
    load_sample.__wrapped__("cat")
    assert "skimage" not in sys.modules
