"""The pages that look inside, without a browser: cold, every tab, numbers, controls, bad input."""

from __future__ import annotations

import contextlib
import csv
import io
import json

import numpy as np
import pytest
import torch
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from pages._shared import engine, lens
from pages._shared.anchors_room import AnchorsPart
from pages._shared.canvas.lens_kit import FATE_NUMBERS
from pages._shared.lens import Lens
from pages._shared.loss_room import LossPart
from pages._shared.pyramid_room import PyramidPart
from retinanet import checkpoints
from retinanet.checkpoints import CheckpointError
from retinanet.engine import ModelSpec
from retinanet.images import resize_boxes
from retinanet.samples import load_sample
from retinanet.truth import TruthBox
from tests.apptest import INSIDE, SMALL, bench, open_inside, open_tab, tab_words, widget, words

PARTS = {part.name: part for part in (AnchorsPart, LossPart, PyramidPart)}
TABS = [(name, title) for name, part in PARTS.items() for title in part().tabs]
CUP = TruthBox("cup", (173, 18, 408, 309))
SPOON = TruthBox("spoon", (326, 66, 424, 325))
CRUMB = TruthBox("spoon", (20, 20, 32, 30))  # too small for any anchor
KNOWN = (CUP, SPOON, CRUMB)
COFFEE = {**SMALL, "photo": "coffee"}
POINT = "250,200"
LABELS = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]


@pytest.fixture(autouse=True)
def _wait_for_the_network(monkeypatch):
    """AppTest has no browser that asks again, so a page waits for its answer here."""
    monkeypatch.setattr(engine, "FIRST_LOOK_SECONDS", 120)


def outputs_of(variant="v1", photo="coffee"):
    """The outputs that a page opened with `COFFEE` speaks of."""
    sizes = {"min_size": 64, "max_size": 128}
    spec = ModelSpec("random", 18, num_convs=4, variant=variant, precision="fp32", **sizes)
    return engine.get_engine().outputs(load_sample(photo), spec)


def matched_by_torchvision(outputs, objects, fg=0.5, bg=0.4, low=True):
    """(matched_idxs, IoU [G, R], boxes in the anchors' pixels)."""
    given = torch.tensor([one.box for one in objects])
    boxes = resize_boxes(given, outputs.original_size, outputs.image_size)
    iou = box_iou(boxes, torch.cat(outputs.anchors))
    return Matcher(fg, bg, allow_low_quality_matches=low)(iou), iou, boxes


# ------------------------------------------------------------------ every page, every tab


@pytest.mark.parametrize("name", INSIDE)
def test_a_page_opens_cold_and_tells_something(name):
    app = open_inside(name, **SMALL)
    told, _ = bench(app, name)
    assert told["ready"] and told["status"] == "" and not app.error
    assert told["story"]["sentences"] and all(told["story"]["sentences"])
    assert [tab.label for tab in app.tabs] == list(PARTS[name]().tabs)


@pytest.mark.parametrize(("name", "title"), TABS)
@pytest.mark.parametrize("objects", [(*KNOWN, TruthBox("teapot", (5, 5, 90, 90))), ()], ids=len)
def test_every_tab_opens_and_its_tables_can_be_read(saved, name, title, objects):
    place = {"point": POINT} if objects else {}
    app = open_inside(name, tab=title, objects=objects, **COFFEE, **place)
    assert not app.error
    (shown,) = [tab for tab in app.tabs if tab.label == title]
    assert len(shown.children) > 0
    for file_name, data in saved.items():
        if file_name.endswith(".csv"):
            header, *rows = list(csv.reader(io.StringIO(data())))
            assert len(header) == len(set(header)) and all(header), file_name
            assert rows and {len(row) for row in rows} == {len(header)}, file_name
        elif file_name.endswith(".json"):
            assert len(json.loads(data())["annotations"]) == len(objects)


def test_only_the_open_tab_is_worked_out():
    app = open_inside("loss", tab="The prior", **SMALL)
    filled = [tab.label for tab in app.tabs if len(tab.children)]
    assert filled == ["The prior"]


@pytest.mark.parametrize("kind", lens.MAPS)
@pytest.mark.parametrize("feature", ["C3", "P3", "P7"])
def test_every_map_of_every_feature_is_drawn(kind, feature):
    app = open_inside("pyramid", tab="This map", **SMALL, map=kind, feature=feature, lateral="True")
    told, columns = bench(app, "pyramid")
    outputs = outputs_of(photo="astronaut")
    # C3 has no scores: P3's are shown, and said to be P3's.
    assert told["feature"] == ("P3" if kind == "score" and feature == "C3" else feature)
    shape = outputs.features[told["feature"]].shape
    assert (told["map"]["rows"], told["map"]["columns"]) == tuple(shape[1:])
    cells = shape[1] * shape[2]
    assert len(columns["rgb"]) == 3 * cells if kind == "pca" else len(columns["values"]) == cells
    if kind == "channel":
        assert len(columns["grid"]) == 16 * cells and len(told["grid"]) == 16
    if kind == "strength":
        expected = outputs.features[feature].square().mean(dim=0).sqrt().flatten()
        np.testing.assert_allclose(columns["values"], expected.numpy(), rtol=1e-5)
        assert ("lateral" in columns) == (feature == "P3")


# ------------------------------------------------------------------ numbers


BOUNDS = [(0.5, 0.4, True), (0.7, 0.3, True), (0.5, 0.5, False), (0.9, 0.1, True)]


def settings_of(*bounds):
    names = ("fg_iou_thresh", "bg_iou_thresh", "allow_low_quality_matches")
    return dict(zip(names, map(str, bounds), strict=True))


@pytest.mark.parametrize("bounds", BOUNDS)
def test_the_anchors_page_counts_what_torchvision_matches(bounds):
    app = open_inside("anchors", objects=KNOWN, **COFFEE, **settings_of(*bounds))
    told, columns = bench(app, "anchors")
    outputs = outputs_of()
    theirs, iou, _ = matched_by_torchvision(outputs, KNOWN, *bounds)
    highest = iou.max(dim=0).values
    states = columns["states"]
    assert len(states) == len(theirs) == sum(sum(level[:3]) for level in told["counts"])
    forced = (theirs >= 0) & (highest < bounds[0])
    expected = torch.full_like(theirs, FATE_NUMBERS["foreground"])
    expected[theirs == -1] = FATE_NUMBERS["background"]
    expected[theirs == -2] = FATE_NUMBERS["ignored"]
    expected[forced] = FATE_NUMBERS["forced"]
    np.testing.assert_array_equal(states, expected.numpy())
    levels = zip(told["counts"], theirs.split(outputs.anchors_per_level), strict=True)
    for (background, ignored, foreground, _), own in levels:
        fates = ((own == -1).sum(), (own == -2).sum(), (own >= 0).sum())
        assert (background, ignored, foreground) == tuple(map(int, fates))
    assert sum(level[3] for level in told["counts"]) == int(forced.sum())
    for index, one in enumerate(told["objects"]):
        assert one["iou"] == pytest.approx(float(iou[index].max()), rel=1e-6)
        assert one["foreground"] == int((theirs == index).sum())
        assert one["forced"] == int((forced & (theirs == index)).sum())


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("bounds", [BOUNDS[0], BOUNDS[1]])
def test_the_loss_page_says_torchvisions_loss(variant, bounds):
    query = {**COFFEE, **settings_of(*bounds), "variant": variant}
    told, columns = bench(open_inside("loss", objects=KNOWN, **query), "loss")
    outputs = outputs_of(variant)
    theirs, _, boxes = matched_by_torchvision(outputs, KNOWN, *bounds)
    head = RetinaNetHead(256, 9, 91)
    head.regression_head._loss_type = {"v1": "l1", "v2": "giou"}[variant]
    losses = head.compute_loss(
        [{"boxes": boxes, "labels": torch.tensor([LABELS.index(o.category) for o in KNOWN])}],
        {
            "cls_logits": torch.cat(outputs.cls_logits)[None],
            "bbox_regression": torch.cat(outputs.bbox_regression)[None],
        },
        [torch.cat(outputs.anchors)],
        [theirs],
    )
    total = float(losses["classification"])
    assert told["classification"] == pytest.approx(total, rel=1e-5)
    assert told["loss_words"] == f"Box loss {float(losses['bbox_regression']):.4f}."
    # All of it is somewhere: in the cells, on the two sides of the levels.
    assert columns["cells"].astype(np.float64).sum() == pytest.approx(total, rel=1e-4)
    assert sum(map(sum, told["sides"])) == pytest.approx(total, rel=1e-4)
    np.testing.assert_array_equal(columns["foreground"], torch.where(theirs >= 0)[0].numpy())
    np.testing.assert_array_equal(columns["ignored"], torch.where(theirs == -2)[0].numpy())
    shares = [float(one["words"].partition("%")[0]) / 100 for one in told["objects"]]
    foreground = sum(side for side, _ in told["sides"])
    assert sum(shares) == pytest.approx(foreground / total, abs=0.002)


@pytest.mark.parametrize("name", INSIDE)
def test_the_python_that_is_shown_gives_the_same_numbers(name):
    app = open_inside(name, tab="In Python", objects=KNOWN, **COFFEE, gamma="1.5", point=POINT)
    (code,) = app.code
    names: dict = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.value.replace(".show()", ""), names)
    told, columns = bench(app, name)
    if name == "anchors":
        counts = [names["match"].counts[fate] for fate in ("background", "ignored", "foreground")]
        assert counts == np.sum(told["counts"], axis=0)[:3].tolist()
        assert printed.getvalue().count("ObjectCoverage(") == len(KNOWN)
    elif name == "loss":
        total = float(names["loss"].classification)
        assert total == pytest.approx(told["classification"], rel=1e-5)
        assert names["loss"].config.gamma == 1.5
    else:
        np.testing.assert_allclose(names["values"].ravel(), columns["values"], rtol=1e-6)


def test_the_clicked_place_is_explained_with_its_numbers():
    """Anchors: the nine of a cell; loss: the loudest one; pyramid: a cell of every map."""
    outputs = outputs_of()
    query = {**COFFEE, "point": POINT, "level": "P4"}
    told, _ = bench(open_inside("anchors", objects=KNOWN, **query), "anchors")
    assert len(told["cell"]["anchors"]) == len(told["story"]["numbers"]) == 9
    assert "IoU =" in told["story"]["formula"]
    told, _ = bench(open_inside("loss", objects=KNOWN, **query), "loss")
    assert told["anchor"]["box"] and "FL" in told["story"]["formula"]
    told, _ = bench(open_inside("pyramid", objects=KNOWN, **query, feature="C4"), "pyramid")
    assert [cell["name"] for cell in told["place"]["cells"]] == ["P7", "P6", "P5", "P4", "P3", "C4"]
    x, y = 250, 200
    for cell in told["place"]["cells"]:
        left, top, right, bottom = cell["box"]
        assert left <= x <= right and top <= y <= bottom
    height, width = outputs.image_size
    picture_height, picture_width = outputs.original_size
    row, column = (
        round((y * height / picture_height - 0.5) / 16),
        round((x * width / picture_width - 0.5) / 16),
    )
    value = float(outputs.features["C4"][:, row, column].square().mean().sqrt())
    assert f"= {value:.4g}; " in told["story"]["formula"]


# ------------------------------------------------------------------ no dead control

ECHO = ("view", "stamp", "details", "truth")
"""What repeats the question; a change there alone is no answer."""


def answered(name, tab="", **query):
    app = open_inside(name, tab=tab, objects=KNOWN, **{**COFFEE, **query})
    told, columns = bench(app, name)
    plain = {key: value for key, value in told.items() if key not in ECHO}
    return plain, {key: column.tobytes() for key, column in columns.items()}, tab_words(app)


CHANNEL = {"map": "channel"}
CONTROLS = [
    ("anchors", "point", POINT, {}),
    ("anchors", "level", "P6", {"point": POINT}),
    ("anchors", "object", "2", {}),
    ("anchors", "show", "dialect", {}),
    ("anchors", "dialect", "detectron2", {"show": "dialect"}),
    ("anchors", "base_size", "48", {}),
    ("anchors", "scales", "1,1.5", {}),
    ("anchors", "aspect_ratios", "1,3", {}),
    ("anchors", "fg_iou_thresh", "0.8", {}),
    ("anchors", "bg_iou_thresh", "0.1", {}),
    ("anchors", "allow_low_quality_matches", "False", {}),
    ("loss", "point", POINT, {}),
    ("loss", "level", "P6", {"point": POINT}),
    ("loss", "kind", "background", {}),
    ("loss", "fg_iou_thresh", "0.8", {}),
    ("loss", "bg_iou_thresh", "0.1", {}),
    ("loss", "allow_low_quality_matches", "False", {}),
    ("loss", "alpha", "0.5", {}),
    ("loss", "gamma", "0.0", {}),
    ("pyramid", "point", POINT, {}),
    *(("pyramid", "map", kind, {}) for kind in lens.MAPS[1:]),
    ("pyramid", "feature", "P5", {}),
    ("pyramid", "scale", "all", {}),
    ("pyramid", "scale", "unit", {}),
    ("pyramid", "channel", "17", CHANNEL),
    ("pyramid", "rank", "varied", CHANNEL),
    ("pyramid", "lateral", "True", {}),
]


@pytest.mark.parametrize(("name", "field", "text", "rest"), CONTROLS)
def test_each_control_changes_what_is_answered(name, field, text, rest):
    before = answered(name, **rest)
    after = answered(name, **rest, **{field: text})
    assert before[:2] != after[:2], f"{field} changes nothing on {name}"


DRAWN_BY_THE_BROWSER = {
    "anchors": {"range": "unit", "show": "iou"},
    "loss": {"range": "unit", "object": "1"},
    "pyramid": {"object": "1"},
}
IN_A_TAB = {("pyramid", "frozen"), ("anchors", "dialect")}


@pytest.mark.parametrize("name", INSIDE)
def test_every_field_of_a_page_is_among_the_controls_tested_here(name):
    tested = {field for page, field, *_ in CONTROLS if page == name}
    tested |= set(DRAWN_BY_THE_BROWSER[name]) | {f for page, f in IN_A_TAB if page == name}
    assert set(PARTS[name].names) <= tested
    told, _ = bench(open_inside(name, objects=KNOWN, **COFFEE, **DRAWN_BY_THE_BROWSER[name]), name)
    for field, text in DRAWN_BY_THE_BROWSER[name].items():
        assert str(told["view"][field]) == text


def test_frozen_stages_change_what_training_would_change():
    seen = {answered("pyramid", "Architecture", frozen=str(n))[2] for n in range(-1, 5)}
    assert len(seen) == 6
    app = open_inside("pyramid", tab="Architecture", **SMALL)
    widget(app, "select_slider", "frozen_choice").set_value(3).run()
    assert not app.exception and "frozen_stages 3" in tab_words(app)
    assert app.query_params["frozen"] == "3"


def test_the_dialect_of_the_link_is_the_one_compared():
    sentences = {answered("anchors", "Dialects", dialect=one)[2] for one in lens.DIALECTS}
    assert len(sentences) == len(lens.DIALECTS)


@pytest.mark.parametrize("field", ["alpha", "gamma"])
def test_what_the_anchors_page_has_not_changes_nothing_there(field):
    assert answered("anchors") == answered("anchors", **{field: "0.9"})


# ------------------------------------------------------------------ what a picture may hold


def test_objects_of_unknown_classes_are_named_matched_and_left_out_of_the_loss():
    teapot = TruthBox("tea*pot", CUP.box)
    told, _ = bench(open_inside("anchors", objects=(teapot, SPOON), **COFFEE), "anchors")
    theirs, _, _ = matched_by_torchvision(outputs_of(), (teapot, SPOON))
    assert sum(level[2] for level in told["counts"]) == int((theirs >= 0).sum())
    assert told["objects"][0]["foreground"] > 0
    told, _ = bench(open_inside("loss", objects=(teapot, SPOON), **COFFEE), "loss")
    assert [one["known"] for one in told["objects"]] == [False, True]
    assert "tea*pot" in " ".join(told["story"]["sentences"])
    alone, _ = bench(open_inside("loss", objects=(SPOON,), **COFFEE), "loss")
    assert told["classification"] == alone["classification"] > 0
    assert told["sides"] == alone["sides"]


@pytest.mark.parametrize("name", INSIDE)
def test_a_picture_without_objects(name):
    told, columns = bench(open_inside(name, objects=(), **COFFEE), name)
    assert told["objects"] == [] and told["story"]["sentences"]
    if name == "anchors":
        assert set(columns["states"]) == {FATE_NUMBERS["background"]}
        assert sum(level[0] for level in told["counts"]) == len(columns["states"])
    if name == "loss":
        p = torch.cat(outputs_of().cls_logits).double().sigmoid()
        by_hand = float((-0.75 * p**2 * torch.log(1 - p)).sum())  # equation 5, all background
        assert told["classification"] == pytest.approx(by_hand, rel=1e-4)
        assert told["loss_words"] == "Box loss 0.0000."


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize(
    "query",
    [
        {"point": "1e308,1e308"},
        {"point": "-1e9,1e9"},
        {"object": "9999"},
        {"level": "C3", "point": POINT},
        {"channel": "4096", "map": "channel", "feature": "C3"},
        {"base_size": "256", "scales": "4", "aspect_ratios": "0.05,20"},
        {"fg_iou_thresh": "0.0", "bg_iou_thresh": "0.0"},
        {"fg_iou_thresh": "1.0", "bg_iou_thresh": "1.0", "gamma": "5.0", "alpha": "1.0"},
        {"alpha": "0.0"},
    ],
    ids=str,
)
def test_the_ends_of_what_a_link_may_say(name, query):
    told, _ = bench(open_inside(name, objects=KNOWN, **COFFEE, **query), name)
    assert told["ready"]
    text = json.dumps(told)
    assert "NaN" not in text and "Infinity" not in text


def test_what_is_not_understood_is_said():
    app = open_inside("pyramid", **SMALL, map="heat", gamma="-1", scales="1,1")
    said = words(app).replace("\\", "")
    for part in ("The link's map=heat", "The link's gamma=-1", "scales has 1 twice"):
        assert part in said


def query_of(action):
    """The link that the button of a remedy leads to."""
    if "command" in action:
        _, smaller, larger = action["command"].split()
        return {"min_size": smaller, "max_size": larger}
    changes = dict(action["changes"])
    query = {name: str(value) for name, value in changes.pop("training", {}).items()}
    return query | {name: ",".join(map(repr, values)) for name, values in changes.items()}


def test_every_remedy_that_is_offered_gives_the_object_an_anchor_of_its_own():
    told, _ = bench(open_inside("anchors", objects=KNOWN, **COFFEE, object="2"), "anchors")
    assert told["objects"][2]["foreground"] == told["objects"][2]["forced"] > 0
    actions = told["story"]["actions"]
    assert len(actions) >= 2
    for action in actions:
        query = {**COFFEE, **query_of(action)}
        healed, _ = bench(open_inside("anchors", objects=KNOWN, **query), "anchors")
        own = healed["objects"][2]
        assert own["foreground"] > own["forced"], action["words"]


def test_the_first_answer_after_a_change_comes_without_what_takes_long():
    app = open_inside("anchors", objects=KNOWN, **COFFEE, object="2")
    full, _ = bench(app, "anchors")
    assert not full["more"] and full["story"]["actions"]
    app.session_state["lens"] = Lens(object=2, hurried=True)
    quick, _ = bench(open_tab(app, "anchors", "Objects"), "anchors")
    assert quick["more"] and "actions" not in quick["story"]
    assert quick["counts"] == full["counts"]


# ------------------------------------------------------------------ a model that cannot be had


@pytest.mark.skipif(
    not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
)
@pytest.mark.parametrize("name", INSIDE)
def test_a_model_that_fails_leaves_the_embedded_one(monkeypatch, name):
    def refuse(name, *_):
        raise CheckpointError("The weights could not be downloaded: put the file there by hand.")

    monkeypatch.setattr(checkpoints, "_open_official", refuse)
    app = open_inside(name, weights="coco-v2")
    assert "could not be downloaded" in app.error[0].value
    assert "The embedded model answers meanwhile." in words(app)
    assert bench(app, name)[0]["ready"]
    engine.try_again(ModelSpec("coco-v2", precision="fp32"), "")


@pytest.mark.parametrize("name", INSIDE)
def test_while_the_model_works_the_picture_is_there(monkeypatch, name):
    busy = engine.Progress("working", "Loading the random model", 1.0)
    monkeypatch.setattr(engine, "ask_outputs", lambda spec, image: busy)
    told, columns = bench(open_inside(name, objects=KNOWN, **COFFEE), name)
    assert (told["ready"], told["status"]) == (False, "Loading the random model.")
    assert len(told["truth"]["objects"]) == 3 and not told["truth"]["can_adopt"]
    assert columns == {}
