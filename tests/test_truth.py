"""Ground truth of a person: boxes, labels, links, and hostile files of three formats."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

import retinanet as rn
from retinanet.samples import SAMPLES, load_sample, sample_ground_truth
from retinanet.truth import (
    TruthBox,
    TruthError,
    clip_truth,
    coco_names,
    known_categories,
    labelled,
    parse_truth_text,
    to_coco,
    truth_from_detections,
    truth_text,
)
from retinanet.truth_files import (
    read_truth,
)

PERSON = TruthBox("person", (18, 15, 366, 512))
DOG = TruthBox("dog", (1, 2.5, 30, 40))
STREET = [("street.jpg", (640, 480))]
OFFICIAL_NAMES = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]


@pytest.fixture(scope="module")
def outputs():
    model = rn.load_model("random", {"depth": 18, "min_size": 64, "max_size": 128})
    return model(load_sample("astronaut"))


def short(value) -> str:
    """A parameter in a test's name."""
    return ascii(value)[:30]


# Boxes


def test_a_box_is_plain_floats_whatever_it_was_made_of():
    made = TruthBox(" dog ", np.array([1, 2.5, 30, 40], np.float32))
    assert made == DOG and hash(made) == hash(DOG)
    assert [type(edge) for edge in made.box] == [float] * 4


@pytest.mark.parametrize(
    ("category", "box", "sentence"),
    [
        ("", (0, 0, 1, 1), "needs a category"),
        ("  ", (0, 0, 1, 1), "needs a category"),
        (None, (0, 0, 1, 1), "needs a category"),
        ("do\ng", (0, 0, 1, 1), "cannot be printed"),
        ("dog\u202egod", (0, 0, 1, 1), "cannot be printed"),
        ("\ud800", (0, 0, 1, 1), "cannot be printed"),
        ("d" * 81, (0, 0, 1, 1), "81 characters; use at most 80"),
        ("dog", (0, 0, 1), "four numbers"),
        ("dog", 7, "four numbers"),
        ("dog", "1234", "four numbers"),
        ("dog", (0, 0, 1, True), "four numbers"),
        ("dog", (0, 0, float("nan"), 1), "finite"),
        ("dog", (0, 0, float("inf"), 1), "finite"),
        ("dog", (0, 0, 10**400, 1), "finite"),
        ("dog", (5, 0, 5, 1), "no area"),
        ("dog", (0, 9, 5, 1), "no area"),
        ("dog", (16_777_216, 0, 16_777_217, 1), "no area"),  # one number in float32
    ],
)
def test_what_is_no_object_is_refused_in_words(category, box, sentence):
    with pytest.raises(TruthError, match=sentence):
        TruthBox(category, box)


def test_clipping_keeps_what_is_at_least_a_pixel_inside():
    objects = [
        TruthBox("a", (-5, -5, 20, 20)),
        TruthBox("b", (99, 49, 200, 200)),  # one pixel is left
        TruthBox("c", (99.5, 0, 200, 50)),  # half a pixel is left
        TruthBox("d", (200, 200, 300, 300)),
        TruthBox("e", (3, 3, 3.5, 40)),
    ]
    assert clip_truth(objects, (100, 50)) == (
        TruthBox("a", (0, 0, 20, 20)),
        TruthBox("b", (99, 49, 100, 50)),
    )


# Labels


def test_coco_names_are_torchvisions():
    assert len(coco_names()) == 80
    assert all(OFFICIAL_NAMES[number] == name for number, name in coco_names().items())
    assert set(coco_names().values()) == set(OFFICIAL_NAMES) - {"__background__", "N/A"}


def test_a_nameless_model_of_91_columns_is_torchvisions():
    known = known_categories((None,) * 91, 91)
    assert known == known_categories((), 91)
    assert known["person"] == 1 and known["toothbrush"] == 90 and len(known) == 80
    assert known_categories((None,) * 80, 80) == {}
    official = tuple(None if n in ("__background__", "N/A") else n for n in OFFICIAL_NAMES)
    assert known_categories(official, 91) == known
    assert known_categories(("x", None, "y", "x", "beyond"), 4) == {"x": 0, "y": 2}


def test_objects_become_boxes_and_labels_that_assign_takes(outputs):
    objects = [PERSON, TruthBox("unicorn", (0, 0, 9, 9)), DOG, TruthBox("unicorn", (1, 1, 9, 9))]
    found = labelled(objects, outputs.categories, outputs.num_classes)
    assert found.boxes == [[18, 15, 366, 512], [1, 2.5, 30, 40]]
    assert found.labels == [1, 18] == [OFFICIAL_NAMES.index("person"), OFFICIAL_NAMES.index("dog")]
    assert found.rows == (0, 2) and found.unknown == ("unicorn",)
    match = rn.assign(outputs, found.boxes, found.labels)
    assert match.gt_labels.tolist() == [1, 18] and match.counts["foreground"] > 0
    nothing = labelled([], outputs.categories, outputs.num_classes)
    assert rn.assign(outputs, nothing.boxes, nothing.labels).counts["foreground"] == 0
    assert torch.isfinite(rn.compute_loss(outputs, match, rn.LossConfig()).classification)


def test_names_are_compared_to_the_letter_first_and_then_by_spelling():
    couch, sofa = TruthBox("couch", (0, 0, 9, 9)), TruthBox("Sofa", (0, 0, 9, 9))
    assert labelled([couch, sofa], ("cat", "sofa"), 2).labels == [1, 1]  # a model trained on VOC
    assert labelled([couch, sofa], ("couch", "Sofa"), 2).labels == [0, 1]
    light = TruthBox("Traffic_Light", (0, 0, 9, 9))
    assert labelled([light], (None,) * 91, 91).labels == [10]
    assert labelled([TruthBox("class 7", (0, 0, 9, 9))], (), 20).labels == [7]
    assert labelled([TruthBox("class 20", (0, 0, 9, 9))], (), 20).unknown == ("class 20",)
    assert labelled([TruthBox("class 7", (0, 0, 9, 9))], (), 91).unknown == ("class 7",)


def test_every_sample_has_labels_in_both_coco_layouts():
    boxes = [b for sample in SAMPLES for b in sample_ground_truth(sample.key)]
    objects = [TruthBox(b.category, b.xyxy) for b in boxes]
    contiguous = tuple(coco_names().values())
    for categories, classes in (((), 91), (contiguous, 80)):
        found = labelled(objects, categories, classes)
        assert not found.unknown and len(found.labels) == len(objects) == 12
    assert [contiguous[label] for label in found.labels] == [one.category for one in objects]


def test_detections_are_adopted_at_or_above_a_score(outputs):
    trace = rn.detect(outputs, rn.PostprocessConfig(score_thresh=0.0))
    scores = trace.scores.tolist()
    middle = float(f"{scores[len(scores) // 2]:.9g}")
    adopted = truth_from_detections(trace, middle)
    expected = [
        (box, label)
        for box, score, label in zip(
            trace.boxes.tolist(), scores, trace.labels.tolist(), strict=True
        )
        if score >= scores[len(scores) // 2] and box[0] < box[2] and box[1] < box[3]
    ]
    assert [list(one.box) for one in adopted] == [box for box, _ in expected]
    names = [OFFICIAL_NAMES[label] for _, label in expected]
    for one, name, (_, label) in zip(adopted, names, expected, strict=True):
        assert one.category == (f"class {label}" if name in ("__background__", "N/A") else name)
    assert truth_from_detections(trace) == ()  # a fresh model's scores are near 0.01
    with pytest.raises(TruthError, match="from 0 to 1"):
        truth_from_detections(trace, 1.5)


# Links


def test_a_link_is_short_and_reads_back():
    text = truth_text([PERSON, DOG])
    assert text == "person:18,15,366,512;dog:1,2.5,30,40"
    assert parse_truth_text(text) == (PERSON, DOG)
    assert parse_truth_text("") == () == parse_truth_text("  ") and truth_text(()) == ""
    assert truth_text([TruthBox("a", (-0.04, 0.26, 10.0, 1e8))]) == "a:0,0.3,10,100000000"
    tricky = TruthBox("50% a:b;c,d é", (0, 0, 1, 1))
    assert truth_text([tricky]) == "50%25 a%3Ab%3Bc%2Cd é:0,0,1,1"


NAMES = st.text(min_size=1, max_size=80).filter(lambda t: t.isprintable() and t.strip())
STARTS = st.floats(-1e5, 1e5)
SIDES = st.floats(0.15, 1e5)


@settings(max_examples=200, deadline=None)
@given(NAMES, STARTS, STARTS, SIDES, SIDES)
def test_links_keep_names_to_the_letter_and_boxes_to_a_twentieth_of_a_pixel(name, x, y, w, h):
    one = TruthBox(name, (x, y, x + w, y + h))
    (back,) = parse_truth_text(truth_text([one]))
    assert back.category == one.category
    assert np.allclose(back.box, one.box, rtol=0, atol=0.0501)
    assert truth_text([back]) == truth_text([one])


def test_a_thin_box_keeps_its_area_in_a_link():
    thin = TruthBox("a", (1.01, 0, 1.04, 1e-30))
    assert parse_truth_text(truth_text([thin])) == (thin,)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("person", "not of the form"),
        ("person:1,2,3", "not of the form"),
        ("person:1,2,3,nan", "not of the form"),
        ("person:1,2,3,1e5", "not of the form"),
        ("person:1,2,3,٤", "not of the form"),
        ("person:1,2,3,4;", "Object 2"),
        ("person:1,2,9999999999,4", "not of the form"),
        ("person:1,2,999999999,4", "finite"),
        (":1,2,3,4", "Object 1 .* needs a category"),
        ("a%0Ab:1,2,3,4", "cannot be printed"),
        ("a%FF:1,2,3,4", "UTF-8"),
        ("dog:1,1,2,2;dog:5,2,3,4", "Object 2 .* no area"),
        (";".join(["a:1,2,3,4"] * 301), "301 objects; at most 300"),
        ("a" * 8001, "8,001 characters"),
        (7, "is text"),
    ],
    ids=short,
)
def test_a_damaged_link_is_refused_in_words(text, sentence):
    with pytest.raises(TruthError, match=sentence):
        parse_truth_text(text)


def test_what_no_link_can_hold_is_written_but_not_read():
    for objects in ([DOG] * 301, [TruthBox("d" * 80, (0, 0, 1, 1))] * 200):
        with pytest.raises(TruthError):
            parse_truth_text(truth_text(objects))


# COCO files


def entries():
    return [
        ("a.png", (640, 512), (PERSON, DOG, TruthBox("unicorn", (0.1, 0.2, 18.4, 9.9)))),
        ("empty.png", (30, 20), ()),
        ("b.png", (100, 80), (TruthBox("axolotl", (5, 5, 50, 50)), TruthBox("dog", (0, 0, 9, 9)))),
    ]


def test_a_coco_file_loads_in_pycocotools(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(to_coco(entries())))
    coco = COCO(str(tmp_path / "truth.json"))
    assert coco.getImgIds() == [1, 2, 3] and coco.getAnnIds() == [1, 2, 3, 4, 5]
    assert [(c["id"], c["name"]) for c in coco.loadCats(coco.getCatIds())] == [
        (1, "person"),
        (18, "dog"),
        (1001, "axolotl"),
        (1002, "unicorn"),
    ]
    unicorn = coco.loadAnns([3])[0]
    assert unicorn["bbox"] == [0.1, 0.2, 18.3, 9.7] and unicorn["area"] == 177.51
    assert coco.getAnnIds(imgIds=[3], catIds=[18]) == [5] and unicorn["iscrowd"] == 0


def test_a_coco_file_loads_in_load_coco(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(to_coco(entries())))
    for name, size, _ in entries():
        PIL.Image.new("RGB", size).save(tmp_path / name)
    dataset = rn.load_coco(tmp_path / "truth.json", tmp_path)
    assert dataset.report["photos"] == 3 and dataset.report["boxes"] == 5
    for photo, (_, size, objects) in zip(dataset.photos, entries(), strict=True):
        assert (photo.width, photo.height) == size
        names = [dataset.categories[label] for label in photo.target.labels.tolist()]
        assert names == [one.category for one in objects]
        boxes = torch.tensor([one.box for one in objects]).reshape(-1, 4)
        assert torch.allclose(photo.target.boxes, boxes, atol=1e-5)


def test_a_coco_file_reads_back():
    data = json.dumps(to_coco(entries())).encode()
    truth = read_truth(data, "t.json", image_names=[(name, size) for name, size, _ in entries()])
    assert truth.format == "COCO JSON" and truth.notes == ()
    for name, _, objects in entries():
        back = truth.objects_by_image[name]
        assert [one.category for one in back] == [one.category for one in objects]
        assert np.allclose(*([one.box for one in some] for some in (back, objects))) or not objects
