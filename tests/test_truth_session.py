"""What is in the open picture: who says so, edits and undo, links, files in and out."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import streamlit as st
from pycocotools.coco import COCO

from pages._shared import engine, lens, truth, truth_panel
from pages._shared.gallery import Picture
from pages._shared.truth import Truth, TruthBox
from retinanet import checkpoints
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.engine import Engine, ModelSpec
from retinanet.samples import SAMPLES, load_sample
from retinanet.truth import parse_truth_text
from tests.apptest import INSIDE, SMALL, bench, jpeg, open_app, open_inside, open_tab, upload, words

CAT = TruthBox("cat", (10.0, 20.0, 110.0, 220.0))
DOG = TruthBox("dog", (1.0, 2.5, 30.0, 40.0))
SIZE = load_sample("astronaut").size

# ------------------------------------------------------------------ without a page


class Query(dict):
    """The address, as `st.query_params` gives it."""

    def to_dict(self):
        return dict(self)


@pytest.fixture
def session(monkeypatch):
    kept: dict = {}
    monkeypatch.setattr(st, "session_state", kept)
    monkeypatch.setattr(st, "query_params", Query())
    return kept


def sample(key="coffee"):
    return Picture(key, load_sample(key), key, is_sample=True)


def own_picture(key="f" * 64):
    return Picture(key, load_sample("coffee"), "mine.jpg", is_sample=False)


@pytest.fixture(scope="module")
def trace():
    """Detections of which some are above 0.5 and some below."""
    spec = ModelSpec("random", depth=18, min_size=64, max_size=128)
    outputs = Engine().outputs(load_sample("coffee"), spec)
    for logits in outputs.cls_logits:
        # An untrained model scores everything the same.
        logits.sub_(logits.mean()).div_(logits.std()).mul_(1.5).sub_(5)
    found = detect(outputs, PostprocessConfig(0.1, 0.5, 300, 250))
    assert found.scores.max() > 0.5 > found.scores.min()
    return found


def gives(trace):
    """How a page hands over its detections: they are worked out where they are asked for."""
    return lambda: trace


def never():
    raise AssertionError("the detections were asked for, though somebody has said what is there")


@pytest.mark.parametrize("one", SAMPLES, ids=lambda one: one.key)
def test_a_sample_brings_its_own(session, one):
    told = truth.of(sample(one.key), never)
    assert told.source == "sample"
    assert [(box.category, box.box) for box in told.objects] == [
        (box.category, box.xyxy) for box in one.boxes
    ]
    assert not truth.link_text(one.key)


def test_detections_stand_in_for_what_nobody_has_said(session, trace):
    told = truth.of(own_picture(), gives(trace))
    assert told.source == "detections"
    width, height = load_sample("coffee").size
    boxes = trace.boxes[trace.scores >= 0.5].clamp(min=0).numpy()
    boxes = np.minimum(boxes, [width, height, width, height])
    sides = boxes[:, 2:] - boxes[:, :2]
    expected = boxes[(sides >= 1).all(axis=1)]
    assert 0 < len(expected) < len(trace.scores)
    np.testing.assert_allclose([one.box for one in told.objects], expected, rtol=1e-6)
    assert not truth.link_text("f" * 64)


def test_nothing_is_known_before_there_are_detections(session):
    told = truth.of(own_picture(), None)
    assert (told.objects, told.source) == ((), "none")
    assert told.words == "0 objects, nobody has said what is there"


def test_an_edit_starts_from_what_stands_in(session, trace):
    shown = truth.of(own_picture(), gives(trace))
    key = own_picture().key
    truth.edit(key, shown.objects)  # what the browser was told comes back: no edit
    assert truth.of(own_picture(), gives(trace)).source == "detections"
    truth.edit(key, shown.objects[1:])
    now = truth.of(own_picture(), gives(trace))
    assert (now.objects, now.source) == (shown.objects[1:], "drawn")
    truth.undo(key)
    before = truth.of(own_picture(), never)
    assert (before.objects, before.source) == (shown.objects, "detections")


def test_edits_are_undone_one_by_one(session):
    picture = sample()
    start = truth.of(picture, None)
    truth.edit("coffee", [CAT])
    truth.put("coffee", [CAT, DOG], "file")
    truth.edit("coffee", [])
    assert truth.of(picture, None).words == "0 objects, drawn here"
    seen = []
    for _ in range(4):
        truth.undo("coffee")
        now = truth.of(picture, None)
        seen.append((now.objects, now.source))
    first = (start.objects, "sample")
    assert seen == [((CAT, DOG), "file"), ((CAT,), "drawn"), first, first]


def test_undo_of_nothing_and_of_another_picture_changes_nothing(session):
    truth.undo("coffee")
    truth.edit("coffee", [CAT])
    truth.undo("cat")
    assert truth.of(sample(), None).objects == (CAT,)
    assert truth.of(sample("cat"), None).source == "sample"


def test_undo_goes_back_a_bounded_way(session):
    for x in range(truth.MAX_UNDO + 30):
        truth.edit("coffee", [TruthBox("cat", (x, 0, x + 5, 5))])
    assert len(truth.of(sample(), None).past) == truth.MAX_UNDO
    assert all(not one.past for one in truth.of(sample(), None).past)


def test_words_count_and_name_the_source():
    assert Truth((CAT,), "drawn").words == "1 object, drawn here"
    assert Truth((CAT, DOG), "file").words == "2 objects, from your file"


# ------------------------------------------------------------------ the link


def test_a_link_speaks_of_the_picture_that_it_opens_and_of_no_other(session):
    st.query_params["truth"] = "cat:10,20,110,220;dog:1,2.5,30,4000"
    told = truth.of(sample(), None)
    height = load_sample("coffee").size[1]
    assert told.objects == (CAT, TruthBox("dog", (1.0, 2.5, 30.0, float(height))))
    assert told.source == "link"
    assert truth.of(sample("cat"), None).source == "sample"
    assert truth.link_text("coffee") == f"cat:10,20,110,220;dog:1,2.5,30,{height}"


@pytest.mark.parametrize(
    "text", ["cat", "cat:1,2,3", "cat:nan,1,2,3", ":1,2,3,4", "cat:9,9,1,1", "%ff:1,2,3,4"]
)
def test_a_link_that_says_nothing_leaves_a_sentence(session, text):
    st.query_params["truth"] = text
    assert truth.of(sample(), None).source == "sample"
    (sentence,) = session["notices"]
    assert sentence.startswith("The link's truth is ignored: ")
    truth.of(sample(), None)
    assert len(session["notices"]) == 1


def test_an_empty_truth_in_the_link_is_a_picture_without_objects(session):
    st.query_params["truth"] = ""
    assert truth.of(sample(), None) == Truth((), "link")


def test_that_nothing_is_there_survives_the_link(session):
    """All objects removed by hand: whoever opens the link shall not see the sample's again."""
    truth.edit("coffee", [])
    lens.write_link((), "coffee")
    session.clear()
    assert truth.of(sample(), None).objects == ()


def test_too_much_for_a_link_is_left_out(session):
    few = [TruthBox("person", (i, i, i + 20, i + 30)) for i in range(20)]
    truth.put("coffee", few, "drawn")
    assert len(truth.link_text("coffee")) <= truth.MAX_LINK_TEXT
    st.query_params["truth"] = truth.link_text("coffee")
    many = [TruthBox("person", (i, i, i + 20, i + 30)) for i in range(200)]
    truth.put("coffee", many, "file")
    assert not truth.link_text("coffee")
    for source, expected in (("adopted", True), ("link", True), ("detections", False)):
        truth.put("coffee", few, source)
        assert bool(truth.link_text("coffee")) is expected


# ------------------------------------------------------------------ on the page


@pytest.fixture
def waiting(monkeypatch):
    """AppTest has no browser that asks again, so a page waits for its answer here."""
    monkeypatch.setattr(engine, "FIRST_LOOK_SECONDS", 120)


def shown(app, name="anchors"):
    return bench(app, name)[0]["truth"]


def give(app, *files):
    uploader = next(one for one in app.file_uploader if one.key.startswith("truth_file_"))
    uploader.set_value([(name, data, "application/octet-stream") for name, data in files])
    app.run()
    assert not app.exception
    return app


@pytest.fixture
def page(waiting):
    return open_inside("anchors", tab="Ground truth", **SMALL)


COCO_FILE = {
    "images": [{"id": 9, "file_name": "astronaut.png", "width": SIZE[0], "height": SIZE[1]}],
    "categories": [{"id": 17, "name": "cat"}, {"id": 3, "name": "rocket"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 17, "bbox": [10, 20, 100, 200], "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [300, 5.5, 90, 80], "iscrowd": 0},
    ],
}
VOC_FILE = (
    "<annotation><filename>astronaut.png</filename><size><width>512</width><height>512</height>"
    "</size><object><name>cat</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>110</xmax>"
    "<ymax>220</ymax></bndbox></object></annotation>"
)
# Centre 60, 120 and size 100 x 200 of 512: the cat's box; class 1 of its names.
YOLO_FILE = f"1 {60 / 512} {120 / 512} {100 / 512} {200 / 512}\n"


@pytest.mark.parametrize("name", INSIDE)
def test_a_page_opens_with_the_truth_of_its_link(waiting, name):
    app = open_inside(name, **SMALL, photo="coffee", truth="cat:10,20,110,220")
    told = shown(app, name)
    assert (told["objects"], told["words"]) == (
        [["cat", 10, 20, 110, 220]],
        "1 object, from the link.",
    )
    assert app.query_params["truth"] == "cat:10,20,110,220"


def test_a_page_says_what_it_does_not_understand_of_the_links_truth(waiting):
    app = open_inside("anchors", **SMALL, truth="cat:1,2")
    assert [name for name, *_ in shown(app)["objects"]] == ["person"]
    assert "The link's truth is ignored" in words(app).replace("\\", "")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([("instances.json", json.dumps(COCO_FILE))], ["cat", "rocket"]),
        ([("astronaut.xml", VOC_FILE)], ["cat"]),
        ([("astronaut.txt", YOLO_FILE), ("classes.txt", "robot\ncat\n")], ["cat"]),
        ([("data.yaml", "names: [robot, cat]\n"), ("astronaut.txt", YOLO_FILE)], ["cat"]),
    ],
    ids=["coco", "voc", "yolo", "yolo yaml"],
)
def test_a_file_says_what_is_there(page, files, names):
    give(page, *[(name, text.encode()) for name, text in files])
    told = shown(page)
    assert [name for name, *_ in told["objects"]] == names
    assert told["objects"][0][1:] == pytest.approx([10, 20, 110, 220], abs=0.01)
    assert told["words"].endswith("from your file.") and told["can_undo"]
    # The uploader is empty again, and the link says the same.
    assert not next(one for one in page.file_uploader if "truth_file_" in one.key).value
    linked = parse_truth_text(page.query_params["truth"])
    assert [[one.category, *one.box] for one in linked] == told["objects"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bad_*one*.json", b"{"),
        ("bad_*one*.json", b"[" * 50_000),
        ("bad_*one*.json", b""),
        ("bad_*one*.json", b"\xff\xfe\x00"),
        ("bad_*one*.json", json.dumps({**COCO_FILE, "annotations": "x"}).encode()),
        ("bad_*one*.json", json.dumps(COCO_FILE).replace("100", "NaN").encode()),
        ("bad_*one*.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'),
        ("bad_*one*.xml", b"<annotation>"),
        ("bad_*one*.txt", b"1 0.5 0.5 nan 0.5"),
        ("bad_*one*.txt", b"99 0.5 0.5 0.5 0.5"),
        ("bad_*one*.yaml", b"names: [a"),
        ("classes.txt", b"\x00"),
    ],
)
def test_a_hostile_file_leaves_one_sentence_and_what_was_there(page, name, data):
    before = shown(page)
    give(page, (name, data))
    assert shown(page) == before
    assert len(page.warning) == 1
    sentence = page.warning[0].value
    assert name == "classes.txt" or "bad\\_\\*one\\*" in sentence
    assert "\n" not in sentence.strip()


def test_one_bad_file_among_many_loses_nothing(page):
    give(page, ("broken.json", b"{"), ("astronaut.xml", VOC_FILE.encode()))
    assert [name for name, *_ in shown(page)["objects"]] == ["cat"]
    assert len(page.warning) == 1


def test_a_file_of_another_picture_leaves_a_sentence(page):
    other = {**COCO_FILE, "images": [{**COCO_FILE["images"][0], "id": i} for i in (9, 10)]}
    for image, name in zip(other["images"], ("a.png", "b.png"), strict=True):
        image["file_name"] = name
    before = shown(page)
    give(page, ("instances.json", json.dumps(other).encode()))
    assert shown(page) == before and len(page.warning) == 1


def test_a_file_speaks_of_the_other_uploads_too(waiting):
    app = open_inside("anchors", tab="Ground truth", **SMALL)
    upload(app, ("one.jpg", jpeg("red")), ("two.jpg", jpeg("blue")))
    images = [
        {"id": n, "file_name": name, "width": 64, "height": 48}
        for n, name in enumerate(("one.jpg", "two.jpg"))
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 17, "bbox": [n, 5, 20, 30], "iscrowd": 0}
        for n in (0, 1)
    ]
    data = {**COCO_FILE, "images": images, "annotations": boxes}
    give(app, ("instances.json", json.dumps(data).encode()))
    assert shown(app)["objects"] == [["cat", 0, 5, 20, 35]]
    second = list(app.session_state["uploads"])[1]
    assert app.session_state["truths"][second].objects == (TruthBox("cat", (1, 5, 21, 35)),)


def test_the_truth_is_the_same_on_all_pages(waiting):
    app = open_app("app.py", **SMALL)
    app.switch_page(INSIDE["anchors"]).run()
    open_tab(app, "anchors", "Ground truth")
    give(app, ("astronaut.xml", VOC_FILE.encode()))
    for name, path in INSIDE.items():
        app.switch_page(path).run()
        assert not app.exception
        assert shown(app, name)["objects"] == [["cat", 10, 20, 110, 220]]


def test_the_exported_file_opens_in_pycocotools(waiting, monkeypatch, tmp_path):
    saved = {}
    offer = st.download_button

    def keep(label, data, file_name, *rest, **settings):
        saved[settings["key"]] = (file_name, data)
        return offer(label, data, file_name, *rest, **settings)

    monkeypatch.setattr(st, "download_button", keep)
    drawn = (CAT, TruthBox("rocket", (300, 5.5, 390, 85.5)))
    app = open_inside("loss", tab="Ground truth", objects=drawn, **SMALL)
    name, data = saved["save_truth"]
    assert re.fullmatch(r"[A-Za-z0-9_-]+_truth\.json", name)
    path = tmp_path / name
    path.write_text(data())
    coco = COCO(str(path))
    boxes = {coco.cats[one["category_id"]]["name"]: one["bbox"] for one in coco.anns.values()}
    assert boxes == {"cat": [10, 20, 100, 200], "rocket": [300, 5.5, 90, 80]}
    (image,) = coco.imgs.values()
    assert (image["width"], image["height"]) == SIZE
    assert len(coco.getAnnIds(imgIds=[image["id"]])) == 2
    # The same file brings them back.
    again = open_inside("anchors", tab="Ground truth", **SMALL)
    assert shown(give(again, (name, path.read_bytes())))["objects"] == shown(app, "loss")["objects"]


# ------------------------------------------------------------------ uploads


def test_an_upload_has_no_truth_until_somebody_says_so(waiting):
    app = open_inside("anchors", **SMALL)
    upload(app, ("red.jpg", jpeg("red")))
    told = shown(app)
    assert told["objects"] == [] and not told["can_undo"]
    assert told["words"] == "0 objects, nobody has said what is there."


@pytest.mark.skipif(
    not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
)
def test_the_detections_stand_in_on_the_page(waiting):
    target = io.BytesIO()
    load_sample("cat").pil.convert("RGB").save(target, "PNG")
    app = open_inside("anchors", weights="embedded", min_size="256", max_size="384")
    upload(app, ("mine.png", target.getvalue()))
    told = shown(app)
    spec = ModelSpec("embedded", min_size=256, max_size=384, precision="fp32")
    found = engine.get_engine().detect(load_sample("cat"), spec, PostprocessConfig(0.3, 0.5))
    expected = int((found.scores >= 0.5).sum())
    assert len(told["objects"]) == expected > 0
    assert "stand in" in told["words"]


def test_a_link_of_an_upload_says_nothing_of_the_sample_shown_meanwhile(waiting):
    """Its objects and its question are of that picture, and hold once it is brought."""
    key = hashlib.sha256(jpeg()).hexdigest()
    app = open_inside("anchors", **SMALL, photo=key, truth="cup:4,4,40,40", point="10,12")
    told, _ = bench(app, "anchors")
    assert [name for name, *_ in told["truth"]["objects"]] == ["person"]
    assert told["view"]["point"] is None
    assert "an uploaded picture lives in the session" in words(app)
    app.session_state["lens"] = replace(app.session_state["lens"], serial=7)
    upload(app, ("mine.jpg", jpeg()))
    told, _ = bench(app, "anchors")
    assert told["truth"]["objects"] == [["cup", 4, 4, 40, 40]]
    assert told["view"]["point"] == [10, 12]
    assert told["view"]["serial"] == 7  # the browser has counted so far


def test_a_fault_goes_with_the_picture_it_was_about(waiting):
    app = open_inside("anchors", **SMALL, photo="coffee")
    app.session_state["lens"] = replace(app.session_state["lens"], fault="That cannot be.")
    assert bench(app.run(), "anchors")[0]["status"] == "That cannot be."
    upload(app, ("red.jpg", jpeg("red")))
    assert bench(app, "anchors")[0]["status"] == ""


def test_many_files_of_annotations_read_the_pictures_once(session, monkeypatch):
    """Each picture's size comes from decoding it: sixty of each would be thousands of them."""
    asked = []
    monkeypatch.setattr(truth_panel, "_pictures", lambda _: asked.append(1) or [])
    truth_panel.take_in([(f"{n}.txt", b"0 0.5 0.5 0.1 0.1") for n in range(5)], None)
    assert len(asked) == 1


def test_another_picture_lets_go_of_what_was_asked(waiting):
    app = open_inside("anchors", **SMALL, photo="coffee", object="1", point="100,100")
    assert bench(app, "anchors")[0]["view"]["object"] == 1
    upload(app, ("red.jpg", jpeg("red")))
    now = bench(app, "anchors")[0]["view"]
    assert (now["object"], now["point"]) == (-1, None)
    assert "point" not in app.query_params and "object" not in app.query_params
    open_tab(app, "anchors", "Ground truth")
