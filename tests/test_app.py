"""The app without a browser: every page cold, every control, links, bad input, batches."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pages._shared import engine, stored, takehome
from pages._shared.gallery import Picture
from pages._shared.setup import PAGES
from retinanet import checkpoints
from retinanet.box_table import find_row
from retinanet.config import PostprocessConfig
from retinanet.engine import ModelSpec
from retinanet.figures.columns import unpack_columns
from retinanet.samples import SAMPLES, load_sample
from tests.apptest import (
    ALL_BOXES,
    ROOT,
    canvas,
    component,
    jpeg,
    kept_pairs,
    open_app,
    upload,
    widget,
    words,
)

PAGE_PATHS = ["app.py", *(page.path for page in PAGES)]

pytestmark = pytest.mark.skipif(
    not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
)


@pytest.fixture(autouse=True)
def _wait_for_the_network(monkeypatch):
    """AppTest has no browser that asks again, so a page waits for its answer here."""
    monkeypatch.setattr(engine, "FIRST_LOOK_SECONDS", 120)


# ------------------------------------------------------------------ pages and links


@pytest.mark.parametrize("path", PAGE_PATHS)
def test_each_page_opens_cold(path):
    app = open_app(path)
    assert not app.error


def test_navigation_lists_only_pages_that_exist():
    assert all((ROOT / page.path).is_file() for page in PAGES)


def test_first_page_shows_the_first_sample_without_any_input():
    shown = canvas(open_app("app.py"))
    assert shown["image_id"] == load_sample(SAMPLES[0].key).id
    assert shown["status"] == "" and shown["watermark"] == ""


def test_stored_first_example_is_the_live_result():
    live, kept = stored.compute(), stored.first_example()
    assert kept.counts_per_level == live.counts_per_level
    assert kept.num_anchors == live.num_anchors and kept.num_classes == live.num_classes
    assert kept.table.names == live.table.names
    np.testing.assert_array_equal(kept.table.pairs, live.table.pairs)
    np.testing.assert_allclose(kept.table.boxes, live.table.boxes, atol=0.05)
    np.testing.assert_allclose(kept.table.scores, live.table.scores, atol=1e-3)


def test_stored_result_is_shown_while_the_model_loads(monkeypatch):
    busy = engine.Progress("working", "Loading the embedded model", 1.0)
    monkeypatch.setattr(engine, "ask_outputs", lambda spec, image: busy)
    app = open_app()
    shown = canvas(app)
    assert kept_pairs(app) == stored.first_example().table.pairs.tolist()
    assert shown["status"].startswith("Stored result, model loading.")


def test_a_link_restores_sample_model_and_knobs():
    query = {
        **ALL_BOXES,
        "photo": "coffee",
        "variant": "v2",
        "num_convs": "2",
        "nms_thresh": "0.4",
        "topk_candidates": "50",
        "color": "level",
        "tab": "Reproduce",
    }
    app = open_app(**query)
    shown = canvas(app)
    assert shown["image_id"] == load_sample("coffee").id
    assert (shown["watermark"], shown["view"]["color"]) == ("RANDOM WEIGHTS", "level")
    command = app.code[0].value
    for part in (
        "--depth 18",
        "--variant v2",
        "--num-convs 2",
        "--min-size 64",
        "--max-size 128",
        "--score-thresh 0.0",
        "--nms-thresh 0.4",
        "--topk-candidates 50",
        "--detections-per-img 20",
        "coffee",
    ):
        assert part in command


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("score_thresh", "2"),
        ("score_thresh", "nan"),
        ("nms_thresh", "high"),
        ("topk_candidates", "0"),
        ("topk_candidates", "1e3"),
        ("class_score_thresh", "person:1"),
        ("class_score_thresh", "0:7"),
        ("gamma", "-1"),
        ("stage", "first"),
        ("mode", "x"),
        ("why", "1,2,3"),
        ("why", "1,2,nan,4"),
        ("pin", "{}"),
        ("pin", '{"weights":"/etc/passwd"}'),
        ("pin", '{"weights":"random","depth":[1]}'),
        ("detections_per_img", "0"),
        ("depth", "19"),
        ("weights", "<script>"),
        ("min_size", "1e9"),
        ("tab", "Nowhere"),
        ("box", "-4"),
    ],
)
def test_a_bad_value_in_the_link_is_ignored_with_a_sentence(name, text):
    app = open_app(**{name: text})
    assert f"The link's {name}" in words(app).replace("\\", "")
    assert kept_pairs(app) == kept_pairs(open_app())


def test_a_link_to_an_upload_of_another_session_says_so():
    app = open_app(photo="0" * 64)
    assert "an uploaded picture lives in the session" in words(app)
    assert canvas(app)["image_id"] == load_sample(SAMPLES[0].key).id


def test_the_links_view_opens_once_its_photo_is_brought(tmp_path):
    name = hashlib.sha256(jpeg()).hexdigest()
    app = open_app(**ALL_BOXES, photo=name, why="5,5,40,40", mode="whynot")
    assert canvas(app)["view"]["why"] is None  # it is no question about the sample
    upload(app, ("mine.jpg", jpeg()))
    shown = canvas(app)
    assert shown["title"] == "mine.jpg" and shown["view"]["why"] == [5, 5, 40, 40]
    assert shown["inquest"]["sentence"]


# ------------------------------------------------------------------ every control


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_thresh", "0.012"),
        ("nms_thresh", "0.05"),
        ("topk_candidates", "1"),
        ("detections_per_img", "5"),
    ],
)
def test_each_knob_changes_the_boxes(name, value):
    before, after = open_app(**ALL_BOXES), open_app(**{**ALL_BOXES, name: value})
    assert kept_pairs(after) != kept_pairs(before)
    assert canvas(after)["counts"] != canvas(before)["counts"]


def test_a_threshold_of_one_class_takes_out_its_boxes():
    before = open_app(**ALL_BOXES)
    label = kept_pairs(before)[0] % 91
    after = open_app(**ALL_BOXES, class_score_thresh=f"{label}:0.9")
    assert all(pair % 91 != label for pair in kept_pairs(after))
    assert canvas(after)["counts"] != canvas(before)["counts"]


def test_each_model_control_stands_under_its_badge():
    sidebar = " ".join(element.value for element in open_app().sidebar.markdown)
    assert sidebar.count("badge[rebuilds the model]") == 4


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("selectbox", "depth", 34),
        ("selectbox", "variant", "v2"),
        ("slider", "num_convs", 1),
        ("number_input", "min_size", 96),
        ("number_input", "max_size", 64),
    ],
)
def test_each_model_control_changes_the_boxes(kind, key, value):
    app = open_app(**ALL_BOXES, photo="coffee")
    before = canvas(app)["stamp"]
    widget(app, kind, key).set_value(value).run()
    assert not app.exception
    assert canvas(app)["stamp"] != before


def test_weights_change_the_boxes_and_random_is_watermarked():
    app = open_app()
    before = canvas(app)
    widget(app, "number_input", "min_size").set_value(64)
    widget(app, "number_input", "max_size").set_value(96)
    widget(app, "selectbox", "weights").set_value("random").run()
    after = canvas(app)
    assert (before["watermark"], after["watermark"]) == ("", "RANDOM WEIGHTS")
    assert after["stamp"] != before["stamp"]


def test_what_the_weights_fix_is_disabled_with_the_reason():
    app = open_app()
    fixed = {box.label: box for box in app.sidebar.text_input}
    assert set(fixed) == {"depth", "variant", "num_convs"}
    assert all(
        box.disabled and "Only depth 50" in box.help.replace("only", "Only")
        for box in fixed.values()
    )


def test_precision_changes_the_model_or_says_why_not():
    app = open_app()
    control = widget(app, "selectbox", "precision")
    if control.disabled:
        assert "no bf16" in control.help
    else:
        before = canvas(app)["stamp"]
        control.set_value("bf16").run()
        assert canvas(app)["stamp"] != before


def test_camera_switch_opens_the_camera():
    app = open_app()
    assert not app.get("camera_input")
    widget(app, "toggle", "camera_on").set_value(True).run()
    assert app.get("camera_input")


def test_sizes_the_wrong_way_round_give_a_sentence():
    app = open_app(min_size="640", max_size="320")
    assert "must not be below min_size" in words(app)


# ------------------------------------------------------------------ panels


@pytest.mark.parametrize(
    ("tab", "sign"),
    [
        ("Ledger", "pairs = "),
        ("Take home", "boxes in its own pixels"),
        ("Reproduce", "Either gives the boxes"),
    ],
)
def test_each_tab_has_its_content(tab, sign):
    app = open_app(**ALL_BOXES, tab=tab)
    assert sign in words(app)


def test_the_ledger_adds_up():
    app = open_app(**ALL_BOXES, tab="Ledger")
    frame = next(one.value for one in app.dataframe if "all" in one.value)
    fates = frame.drop(index="sum")
    assert (fates.sum() == frame.loc["sum"]).all()
    assert (frame.drop(columns="all").sum(axis=1) == frame["all"]).all()


def test_a_selected_box_is_explained():
    pair = kept_pairs(open_app(**ALL_BOXES))[0]
    shown = canvas(open_app(**ALL_BOXES, box=str(pair)))
    assert "Kept, as number 1 after NMS" in shown["life"]["sentence"]
    assert "score = 1 / (1 + exp(-(" in shown["life"]["formula"]
    assert shown["view"]["box"] == pair
    assert set(shown["life"]["survives"]) >= {"score_thresh", "nms_thresh", "topk_candidates"}


def test_a_selected_box_that_drops_out_still_has_its_life_told():
    pair = kept_pairs(open_app(**ALL_BOXES))[-1]
    shown = canvas(open_app(**{**ALL_BOXES, "detections_per_img": "1"}, box=str(pair)))
    assert "beyond detections_per_img 1" in shown["life"]["sentence"]


def test_another_model_can_be_pinned():
    """The pinned one runs too; what differs is told with the model as the cause."""
    pin = {"weights": "random", "depth": 18, "num_convs": 2, "variant": "v1", "precision": "fp32"}
    pin |= {"min_size": 64, "max_size": 128, "score_thresh": 0.0, "detections_per_img": 6}
    app = open_app(**ALL_BOXES, mode="compare", pin=json.dumps(pin))
    header, columns = unpack_columns(component(app, "canvas"))
    changes = header["compare"]["changes"]
    assert len(columns["pin_scores"]) == 6 and "num_convs 2" in header["compare"]["before_title"]
    assert changes and any("model" in change["sentence"] for change in changes)
    sides = {s: [c[s] for c in changes if c[s] is not None] for s in ("before", "after")}
    for side, shown in (("before", 6), ("after", 20)):
        assert len(sides[side]) == len(set(sides[side])) <= shown


def test_find_row_finds_every_kept_pair_and_refuses_the_rest():
    trace = engine.get_engine().detect(
        load_sample("coffee"),
        ModelSpec("random", depth=18, min_size=64, max_size=128),
        PostprocessConfig(score_thresh=0.0, detections_per_img=30),
    )
    pairs = stored.result_from_trace(trace).table.pairs.tolist()
    assert [find_row(trace, pair) for pair in pairs] == list(range(30))
    assert find_row(trace, -1) is None
    assert find_row(trace, trace.outputs.num_anchors * trace.outputs.num_classes) is None


def test_the_canvas_gets_what_the_core_says():
    app = open_app(**ALL_BOXES)
    spec = ModelSpec(
        "random", depth=18, num_convs=4, variant="v1", min_size=64, max_size=128, precision="fp32"
    )
    config = PostprocessConfig(0.0, stored.START.nms_thresh, stored.START.topk_candidates, 20)
    image = load_sample(SAMPLES[0].key)
    result = stored.result_from_trace(engine.get_engine().detect(image, spec, config))
    header, columns = unpack_columns(component(app, "canvas"))
    assert (header["image_id"], header["title"]) == (image.id, SAMPLES[0].title)
    assert header["counts"] == [list(level.values()) for level in result.counts_per_level.values()]
    for name in ("boxes", "scores", "labels", "levels", "pairs"):
        shown = columns[f"kept_{name}"]
        np.testing.assert_array_equal(shown, getattr(result.table, name).ravel())


def test_the_python_that_is_shown_gives_the_same_boxes():
    spec = ModelSpec("random", depth=18, min_size=64, max_size=128)
    config = PostprocessConfig(0.0, detections_per_img=7, class_score_thresh={3: 0.0101})
    picture = Picture("coffee", load_sample("coffee"), "Coffee", is_sample=True)
    code = takehome.python_code(spec, picture, config).replace("print(", "shown = (")
    names: dict = {}
    exec(code, names)
    expected = engine.get_engine().detect(picture.image, spec, config)
    np.testing.assert_array_equal(names["trace"].boxes.numpy(), expected.boxes.numpy())
    np.testing.assert_array_equal(names["trace"].scores.numpy(), expected.scores.numpy())


@pytest.mark.skipif(shutil.which("bash") is None, reason="the shown line is for a POSIX shell")
def test_the_command_line_that_is_shown_gives_the_same_boxes(tmp_path):
    spec = ModelSpec("random", depth=18, min_size=64, max_size=128)
    config = PostprocessConfig(0.0, detections_per_img=7, class_score_thresh={3: 0.0101, 5: 0.5})
    picture = Picture("coffee", load_sample("coffee"), "Coffee", is_sample=True)
    line = takehome.command_line(spec, picture, config)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    folder = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([folder, environment.get("PATH", "")])
    subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, check=True)
    boxes = [one["bbox"] for one in json.loads((tmp_path / "boxes.json").read_text())]
    trace = engine.get_engine().detect(picture.image, spec, config)
    x1, y1, x2, y2 = trace.boxes.numpy().T
    np.testing.assert_allclose(boxes, np.stack([x1, y1, x2 - x1, y2 - y1], 1), atol=0.01)
    assert PIL.Image.open(tmp_path / "boxes.png").size == picture.image.size
