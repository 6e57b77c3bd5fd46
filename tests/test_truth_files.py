"""Ground truth from files: COCO, Pascal VOC, YOLO, and what is no such file."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retinanet as rn
from retinanet.export import to_coco_results
from retinanet.samples import load_sample
from retinanet.truth import (
    MAX_OBJECTS,
    TruthBox,
    clip_truth,
    coco_names,
    coco_spelling,
)
from retinanet.truth_files import (
    MAX_BYTES,
    TruthFile,
    TruthFileError,
    read_class_names,
    read_truth,
)
from tests.test_truth import STREET, short


@pytest.fixture(scope="module")
def outputs():
    model = rn.load_model("random", {"depth": 18, "min_size": 64, "max_size": 128})
    return model(load_sample("astronaut"))


def coco(annotations, images=None, **others):
    images = images or [{"id": 7, "file_name": "street.jpg", "width": 640, "height": 480}]
    categories = [{"id": 3, "name": "Dog"}, {"id": 4, "name": "unicorn"}]
    data = {"images": images, "annotations": annotations, "categories": categories, **others}
    return json.dumps(data).encode()


def annotation(bbox=(10, 20, 30, 40), category_id=3, image_id=7, **others):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), **others}


def read(data, name="street.json", image_names=STREET, **others) -> TruthFile:
    data = data if isinstance(data, bytes) else data.encode()
    return read_truth(data, name, image_names=image_names, **others)


def test_a_coco_file_by_hand():
    truth = read(
        coco(
            [
                annotation(),
                annotation((0, 0, 700, 500), 4),  # reaches beyond the picture
                annotation(iscrowd=1),
                annotation(score=0.49),
                annotation(score=0.5),
                annotation(category_id=99),
                annotation((5, 5, 0, 9)),
                annotation((5, 5, -3, 9)),
                annotation((1e308, 0, 1e308, 9)),
                annotation((10**400, 0, 1, 9)),
                annotation(image_id=8),
            ]
        )
    )
    dog = TruthBox("dog", (10, 20, 40, 60))
    street = (dog, TruthBox("unicorn", (0, 0, 640, 480)), dog)
    assert truth.objects_by_image == {"street.jpg": street}
    assert truth.notes == (
        "1 crowd (a group as one area) was left out.",
        "1 box with a score below 0.5 was left out.",
        "1 box of a category without a name was left out.",
        "4 boxes with less than 1 px a side inside the picture were left out.",
    )


def test_a_coco_file_without_categories_has_cocos_ids():
    truth = read(coco([annotation(category_id=90)], categories=[]))
    assert truth.objects_by_image["street.jpg"][0].category == "toothbrush"
    assert "taken as COCO's" in truth.notes[0]


def test_our_own_results_are_read(outputs):
    trace = rn.detect(outputs, rn.PostprocessConfig(score_thresh=0.0, detections_per_img=20))
    results = to_coco_results(trace, outputs, 1, "astro.png") * 2
    results = [dict(r, score=0.5 + 0.01 * i, category_id=1) for i, r in enumerate(results[:20])]
    results.append(dict(results[0], score=0.2))
    truth = read(json.dumps(results), image_names=[("astro.png", (512, 512))])
    kept = [box for box in trace.boxes.tolist() if box[2] - box[0] >= 1 and box[3] - box[1] >= 1]
    assert np.allclose([one.box for one in truth.objects_by_image["astro.png"]], kept, atol=1e-3)
    assert any("score below 0.5" in note for note in truth.notes)
    assert any("no size" in note for note in truth.notes)


def test_plain_results_go_to_the_only_picture_or_to_cocos_file_name():
    results = json.dumps([{**annotation(category_id=18, image_id=139), "score": 0.9}])
    truth = read(results, "results.json")
    assert truth.objects_by_image["street.jpg"] == (TruthBox("dog", (10, 20, 40, 60)),)
    assert any("the only picture" in note for note in truth.notes)
    two = [("000000000139.jpg", (640, 480)), ("b.jpg", (9, 9))]
    assert list(read(results, image_names=two).objects_by_image) == ["000000000139.jpg"]
    with pytest.raises(TruthFileError, match="rename"):
        read(results, image_names=[("a.jpg", (9, 9)), ("b.jpg", (9, 9))])


# Pascal VOC XML


def voc(objects, filename="street.jpg", size=(640, 480), head=""):
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<ymin>{box[1]}</ymin><xmin>{box[0]}</xmin><ymax>{box[3]}</ymax><xmax>{box[2]}</xmax>"
        "</bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, box, difficult in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"{head}<annotation><filename>{filename}</filename>{sides}{items}</annotation>"


def test_a_voc_file_by_hand():
    text = voc([("tvmonitor", (1, 1, 640, 480), 0), ("cow", ("10.5", 20, 30, 40), 1)])
    truth = read(text, "x.xml")
    assert truth.format == "Pascal VOC XML"
    assert truth.objects_by_image == {
        "street.jpg": (TruthBox("tv", (0, 0, 640, 480)), TruthBox("cow", (9.5, 19, 30, 40)))
    }
    assert truth.notes == ("1 object marked difficult was kept.",)


def test_all_voc_names_are_coco_names():
    voc_names = (  # the 20 of PASCAL VOC 2012
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
        *("train", "tvmonitor"),
    )
    assert {coco_spelling(name) for name in voc_names} < set(coco_names().values())
    assert len({coco_spelling(name) for name in voc_names}) == 20


def test_another_size_of_the_same_shape_is_scaled_and_another_shape_refused():
    half = voc([("dog", (1, 1, 160, 120), 0)], size=(320, 240))
    truth = read(half)
    assert truth.objects_by_image["street.jpg"] == (TruthBox("dog", (0, 0, 320, 240)),)
    assert truth.notes == ("It gives street.jpg 320 x 240 pixels; its boxes were scaled to 640 x "
                           "480.",)  # fmt: skip
    rounded = voc([("dog", (1, 1, 50, 50), 0)], size=(100, 67))
    assert read(rounded, image_names=[("street.jpg", (1000, 667))]).objects_by_image
    for size in ((480, 640), (640, 470), (1, 1), (1, 1e308), (1.7e308, 1.7e308)):
        other = voc([("dog", (1, 1, 50, 50), 0)], size=size)
        with pytest.raises(TruthFileError, match="another shape; give the annotations of this"):
            read(other)
    for size in (None, (0, 0), ("5e-324", "5e-324"), (-640, -480), ("1e999", "1e999")):
        assert "no size" in read(voc([("dog", (1, 1, 50, 50), 0)], size=size)).notes[0]


@pytest.mark.parametrize(
    "data",
    [
        voc([], head="<!DOCTYPE a>").encode(),
        voc([], head='<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>').encode(),
        voc([], head="<!doctype a>").encode(),
        voc([], head="<!DOCTYPE a>").encode("utf-16"),
        b"\xef\xbb\xbf" + voc([], head="<!DOCTYPE a>").encode(),
        voc([], head="<!DOCTYPE a>").encode("utf-16-le"),
        voc([], head="<!DOCTYPE a>").encode("utf-32"),
        voc([], head='<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a>').encode(),
        voc([], head="<!\0DOCTYPE a>").encode(),
        b"<a>" * 1_000_000,
        b"<annotation>" + b"<object>" * 100_000,
    ],
    ids=range(11),
)
def test_dangerous_xml_is_refused(data):
    with pytest.raises(TruthFileError, match=r"^street\.json .*\."):
        read(data)


def test_a_declared_encoding_changes_nothing():
    head = '<?xml version="1.0" encoding="UTF-16"?>'
    text = voc([("dögs", (1, 1, 50, 50), 0)], head=head)
    for data in (text.encode(), text.encode("utf-16")):
        assert read(data).objects_by_image["street.jpg"][0].category == "dögs"


# YOLO txt


def test_a_yolo_file_by_hand():
    truth = read(
        "16 0.5 0.5 0.5 0.25\n\n0 .25 .75 .5 .5 0.9\r\n0 .25 .75 .5 .5 0.1\n", "street.txt"
    )
    assert truth.format == "YOLO txt"
    assert truth.objects_by_image == {
        "street.jpg": (
            TruthBox("dog", (160, 180, 480, 300)),
            TruthBox("person", (0, 240, 320, 480)),
        )
    }
    assert "order of COCO's 80 classes" in truth.notes[0] and "below 0.5" in truth.notes[1]
    named = read("1 .5 .5 1 1", "street.txt", class_names=("a", "Diningtable"))
    assert named.objects_by_image["street.jpg"][0].category == "dining table"
    assert named.notes == ()


def test_an_empty_yolo_file_says_that_nothing_is_there():
    truth = read("", "street.txt")
    assert truth.objects_by_image == {"street.jpg": ()} and "It is empty" in truth.notes[0]
    with pytest.raises(TruthFileError, match="is empty"):
        read("", "street.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("person\ntraffic_light\n\n", ("person", "traffic light")),
        ("a\r\nb c\r\n", ("a", "b c")),
        ("names: [a, 'b, c', \"d\", it's]\nnc: 4", ("a", "b, c", "d", "it's")),
        ("nc: 2\nnames: [\n  a,  # first\n  'it''s, b',\n]\n", ("a", "it's, b")),
        ("names:\n- a\n- 'b # c'  # d\ntrain: x", ("a", "b # c")),
        ("path: x\nnames: # all\n  0: person\n  # none\n\n  1: 'b'\nnc: 2", ("person", "b")),
        ("names: {1: b, 0: 'a: c'}", ("a: c", "b")),
        ("\ufeffx\u202ey", ("xy",)),
    ],
)
def test_class_lists(text, expected):
    assert read_class_names(text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no name"),
        ("a\n\nb", "no name for class 1"),
        ("names: [a, b", "no ']'"),
        ("names: {0: a, 2: b}", "0, 1, 2"),
        ("names:\n  0: a\n  0: b", "0, 1, 2"),
        ("names:\n  first: a", "write '- name'"),
        ("names: 7", "list them as"),
        ("train: a\nval: b", "YAML without names"),
        ("a\n" * 10_001, "10,001 names"),
        (b"\xff\xfe\xff", "UTF-8"),
        ("'#" * 600_000, "larger than 1 MB"),
        ("names: ['" + "'\"" * 400_000, "no ']'"),
    ],
    ids=short,
)
def test_other_class_lists_are_refused_in_words(text, sentence):
    with pytest.raises(TruthFileError, match=sentence):
        read_class_names(text if isinstance(text, bytes) else text.encode())


# Which image is which picture


def test_names_match_without_folders_case_and_at_last_without_ending():
    names = ("train\\a.jpg", "x/B.JPG", "c.png", "gone.jpg")
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    data = coco([annotation((i, 0, 5, 5), image_id=i) for i in range(4)], images)
    size = (640, 480)
    truth = read(data, image_names=[("a.jpg", size), ("b.jpg", size), ("c.jpg", size)])
    lefts = {name: objects[0].box[0] for name, objects in truth.objects_by_image.items()}
    assert lefts == {"a.jpg": 0, "b.jpg": 1, "c.jpg": 2}
    assert "It also speaks of 1 other image, which is not open." in truth.notes


def test_names_to_the_letter_go_first():
    images = [{"id": i, "file_name": name} for i, name in enumerate(("a.png", "a.jpg", "A.jpg"))]
    data = coco([annotation((i, 0, 5, 5), image_id=i) for i in range(3)], images)
    truth = read(data, image_names=[("a.jpg", (640, 480)), ("A.jpg", (640, 480))])
    assert {name: o[0].box[0] for name, o in truth.objects_by_image.items()} == {
        "a.jpg": 1,
        "A.jpg": 2,
    }


def test_what_cannot_be_told_apart_is_left_out():
    names = ("train/a.jpg", "val/a.jpg", "b.jpg")
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    data = coco([annotation(image_id=i) for i in range(3)], images)
    truth = read(data, image_names=[("a.jpg", (640, 480)), ("b.jpg", (640, 480))])
    assert list(truth.objects_by_image) == ["b.jpg"]
    assert truth.notes[0].startswith("It speaks of train/a.jpg, val/a.jpg; which is a.jpg cannot")
    with pytest.raises(TruthFileError, match="cannot be told by name; rename"):
        read(data, image_names=[("a.jpg", (640, 480))])
    with pytest.raises(TruthFileError, match="cannot be told"):  # two pictures of one name
        read(coco([annotation()]), image_names=[*STREET, ("street.jpg", (9, 9))])


def test_a_file_of_one_image_may_go_by_its_own_name_or_to_the_only_picture():
    text = voc([("dog", (1, 1, 50, 50), 0)], filename="old.jpg")
    two = [("a.jpg", (640, 480)), ("b.jpg", (640, 480))]
    truth = read(text, "B.xml", image_names=two)
    note = "It calls its image old.jpg; it was taken for b.jpg, which has the file's own name."
    assert list(truth.objects_by_image) == ["b.jpg"] and truth.notes == (note,)
    with pytest.raises(TruthFileError, match=r"speaks of old.jpg, but open is a.jpg, b.jpg"):
        read(text, "c.xml", image_names=two)
    truth = read(text, "c.xml", image_names=two[:1])
    note = "It calls its image old.jpg; it was taken for a.jpg, the only picture."
    assert list(truth.objects_by_image) == ["a.jpg"] and truth.notes == (note,)
    assert "It names no image" in read("0 .5 .5 1 1", "c.txt", image_names=two[:1]).notes[1]
    with pytest.raises(TruthFileError, match="open its picture first"):
        read(text, image_names=[])


# Hostile files


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\x89PNG\r\n\x1a\n", "UTF-8"),
        (b"hello", "none of COCO JSON"),
        (b"a,b,c\n1,2,3", "none of COCO JSON"),
        (b"0 .5 .5 1\0 1", "NUL"),
        (b" " * (MAX_BYTES + 1), "larger than 20 MB"),
        (b"0 .5 .5 .1 .1\n" * 200_000, "one image's annotations"),
        (b"<a>" + b"<b/>" * 600_000, "one image's annotations"),
        (coco([annotation()] * 5_000), "5,000 objects .* at most 300"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"images": [', "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b"[]", "empty list"),
        (b"[1]", "result 1 is none of COCO's results"),
        (b"{}", "no list of images"),
        (b'{"images": [], "annotations": [], "categories": []}', "rename one"),
        (coco([annotation()]).replace(b"30", b"NaN"), "NaN"),
        (coco([annotation()]).replace(b"30", b"-Infinity"), "-Infinity"),
        (coco([annotation()]).replace(b"30", b"true"), "True' for a number|True for a number"),
        (coco([annotation()]).replace(b"30", b'"3"'), "for a number in annotation 1"),
        (coco([annotation(bbox=(1, 2, 3))]), "no bbox"),
        (coco([annotation(image_id=[7])]), "no image_id"),
        (coco([annotation(image_id=True)]), "no image_id"),
        (coco([annotation(score="high")]), "for a number"),
        (coco([], categories=[{"id": 1, "name": 7}]), "no name in category 1"),
        (coco([], categories=[{"id": 1, "name": "a"}] * 2), "two categories"),
        (coco([], categories={"id": 1}), "no list of categories"),
        (coco([], [{"id": 1}, {"id": 1}]), "two images"),
        (coco([], [{"id": 1, "file_name": 9}]), "no text in image 1"),
        (coco([annotation()] * (MAX_OBJECTS + 1)), "301 objects .* at most 300"),
        (b"<html></html>", "not Pascal VOC's 'annotation'"),
        (b"<annotation>", "not XML"),
        (voc([("dog", ("nan", 1, 2, 3), 0)]).encode(), "'nan' for a number in object 1"),
        (voc([("dog", ("9" * 61, 1, 2, 3), 0)]).encode(), "for a number in object 1"),
        (b"<annotation><object><name>a</name></object></annotation>", "no bndbox"),
        (b"0 .1 .1 .2 .1 .2 .2 .1", "polygons"),
        (b"0 .1 .1 .2", "4 columns"),
        (b"0 .5 .5 .5 .5\n0 .5 .5 nan .5", "line 2"),
        (b"0 320 240 50 50", "fractions"),
        (b"-1 .5 .5 .5 .5", "for a class"),
        (b"1.5 .5 .5 .5 .5", "for a class"),
        (b"1e999 .5 .5 .5 .5", "for a class"),
        (b"80 .5 .5 .5 .5", "80 class names; give the class list"),
        (b"1" * 1_900_000 + b"x", "none of COCO JSON"),
        (b"0 .5 .5 .5 .5\n" * 301, "at most 300"),
    ],
    ids=short,
)
def test_what_cannot_be_used_is_refused_in_one_sentence_that_says_what_to_do(data, sentence):
    with pytest.raises(TruthFileError, match=sentence) as caught:
        read(data, "str\u202eeet\n.json")
    message = str(caught.value)
    assert message.startswith("str?eet?.json ") and message.endswith(".") and len(message) < 300
    assert message.isprintable()


def test_long_and_strange_names():
    with pytest.raises(TruthFileError) as caught:
        read(b"hello", "n" * 5000)
    assert len(str(caught.value)) < 200
    truth = read(
        coco([annotation()], categories=[{"id": 3, "name": "\u202edo\x07g\n x" + "y" * 99}])
    )
    (one,) = truth.objects_by_image["street.jpg"]
    assert one.category.startswith("dog xyyy") and len(one.category) == 80
    nothing = read(coco([annotation()], categories=[{"id": 3, "name": "\u202e"}]))
    assert nothing.objects_by_image["street.jpg"] == () and "without a name" in nothing.notes[0]


def test_one_picture_that_cannot_be_used_does_not_cost_the_others():
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 5, "height": 50},
        {"id": 2, "file_name": "b"},
    ]
    data = coco([annotation(image_id=1), annotation(image_id=2)], images)
    truth = read(data, image_names=[("a.jpg", (640, 480)), ("b.png", (640, 480))])
    assert list(truth.objects_by_image) == ["b.png"]
    assert any("another shape" in note for note in truth.notes)


VALID = (
    coco([annotation(), annotation(score=0.7, iscrowd=0)]),
    json.dumps([{**annotation(), "score": 0.9, "file_name": "street.jpg"}]).encode(),
    voc([("dog", (1, 1, 50, 50), 1)], head='<?xml version="1.0" encoding="utf-8"?>').encode(),
    voc([("dog", (1, 1, 50, 50), 1)]).encode("utf-16"),
    b"16 0.5 0.5 0.5 0.25\n0 .25 .75 .5 .5 0.9\n",
    b"names: [a, 'b']\n",
    b"names:\n  0: a\n  1: 'b' # c\n",
)
SCRAPS = (
    *(b"{", b"}", b"[", b"]", b"<", b">", b'"', b"'", b",", b":", b"0", b"-", b"1e999", b"NaN"),
    *(b"null", b"true", b"\0", b"\xff", b"\xe2\x80\xae", b"\n", b"#", b"<!DOCTYPE a>", b"&amp;"),
    *(b'"bbox"', b"\\ud800", b"[[]]", b"{}", b'""', b"9" * 400),
)


@pytest.mark.parametrize("seed", range(20))
def test_mutated_files_give_a_result_or_a_sentence(seed):
    chance = random.Random(seed)
    readers = (
        lambda data: read(data, image_names=STREET),
        lambda data: read(data, image_names=[*STREET, ("b.jpg", (9, 9))], class_names=("a",) * 20),
        read_class_names,
    )
    for _ in range(150):
        data = bytearray(chance.choice(VALID))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data) + 1)
            end = min(len(data), at + chance.choice((0, 0, 1, 3, 20)))
            data[at:end] = chance.choice((*SCRAPS, bytes([chance.randrange(256)]), data[:at]))
        for reader in readers:
            try:
                result = reader(bytes(data))
            except TruthFileError as error:
                assert str(error).isprintable() and str(error).endswith(".")
                continue
            if isinstance(result, TruthFile):
                for objects in result.objects_by_image.values():
                    assert len(objects) <= MAX_OBJECTS
                    assert clip_truth(objects, (640, 480)) == objects
                assert all(note.isprintable() and note.endswith(".") for note in result.notes)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["images", "annotations", "categories"]), st.data())
def test_wrong_types_anywhere_in_coco_give_a_result_or_a_sentence(part, draw):
    content = json.loads(coco([annotation(score=0.9, iscrowd=0)]))
    entry = content[part][0]
    key = draw.draw(st.sampled_from(sorted(entry)))
    entry[key] = draw.draw(JSON_VALUES)
    if draw.draw(st.booleans()):
        content[part] = draw.draw(JSON_VALUES)
    try:
        read(json.dumps(content))
    except TruthFileError as error:
        assert str(error).startswith("street.json ")


def test_the_files_by_hand_are_what_they_claim():
    assert ElementTree.fromstring(VALID[2]).findtext("filename") == "street.jpg"
    for data in VALID[:5]:
        assert len(read(data).objects_by_image["street.jpg"]) >= 1
    assert read_class_names(VALID[5]) == ("a", "b") == read_class_names(VALID[6])
