"""The app without a browser: every page cold, every control, links, bad input, batches."""

from __future__ import annotations

import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from streamlit.testing.v1 import AppTest

from pages._shared import batch, engine, explore, stored, takehome
from pages._shared.engine import Jobs
from pages._shared.gallery import Picture
from pages._shared.setup import PAGES
from retinanet import checkpoints
from retinanet.checkpoints import CheckpointError
from retinanet.config import PostprocessConfig
from retinanet.engine import ModelSpec
from retinanet.figures.boxes import find_row, pack_boxes
from retinanet.samples import SAMPLES, load_sample

ROOT = Path(__file__).parent.parent
PAGE_PATHS = ["app.py", *(page.path for page in PAGES)]
SMALL = {"weights": "random", "depth": "18", "min_size": "64", "max_size": "96"}
ALL_BOXES = {**SMALL, "score_thresh": "0.0", "detections_per_img": "20"}

pytestmark = pytest.mark.skipif(
    not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
)


@pytest.fixture(autouse=True)
def _wait_for_the_network(monkeypatch):
    """AppTest has no browser that asks again, so a page waits for its answer here."""
    monkeypatch.setattr(engine, "FIRST_LOOK_SECONDS", 120)


def open_app(path: str = "pages/detect.py", **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / path), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def component(app: AppTest, name: str) -> bytes:
    """The data of a mounted component."""
    found = [
        element.proto
        for element in app.get("bidi_component")
        if element.proto.component_name == f"retinanet_{name}"
    ]
    assert len(found) == 1, f"{name}: {len(found)}"
    return found[0].bytes


def header(packed: bytes) -> dict:
    (length,) = struct.unpack_from("<I", packed)
    return json.loads(packed[4 : 4 + length])


def canvas(app: AppTest) -> dict:
    return header(component(app, "canvas"))


def widget(app: AppTest, kind: str, key: str):
    return next(one for one in getattr(app, kind) if one.key == key)


def ledger(app: AppTest) -> str:
    return next(one.value for one in app.get("html") if "rn-ledger" in str(one.value))


def words(app: AppTest) -> str:
    blocks = (app.markdown, app.warning, app.error, app.caption, app.info)
    return "\n".join(element.value for block in blocks for element in block)


def jpeg(color: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    target = io.BytesIO()
    PIL.Image.new("RGB", size, color).save(target, "JPEG")
    return target.getvalue()


def upload(app: AppTest, *files: tuple[str, bytes]) -> None:
    uploader = next(one for one in app.file_uploader if one.key.startswith("uploader_"))
    uploader.set_value([(name, data, "image/jpeg") for name, data in files])
    app.run()
    assert not app.exception


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
    shown = canvas(open_app())
    assert shown["count"] == len(stored.first_example().table)
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
    assert (shown["watermark"], shown["color_by"]) == ("RANDOM WEIGHTS", "level")
    command = app.code[0].value
    for part in (
        "--depth 18",
        "--variant v2",
        "--num-convs 2",
        "--min-size 64",
        "--max-size 96",
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
        ("topk_candidates", "3"),
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
    assert canvas(app)["count"] == canvas(open_app())["count"]


def test_a_link_to_an_upload_of_another_session_says_so():
    app = open_app(photo="0" * 64)
    assert "an uploaded picture lives in the session" in words(app)
    assert canvas(app)["image_id"] == load_sample(SAMPLES[0].key).id


# ------------------------------------------------------------------ every control


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("slider", "score_thresh", 0.02),
        ("slider", "nms_thresh", 0.05),
        ("select_slider", "topk_candidates", 1),
        ("slider", "detections_per_img", 5),
    ],
)
def test_each_knob_changes_the_boxes(kind, key, value):
    app = open_app(**ALL_BOXES)
    before, counted = canvas(app)["stamp"], ledger(app)
    widget(app, kind, key).set_value(value).run()
    assert canvas(app)["stamp"] != before
    assert ledger(app) != counted


def test_each_knob_says_what_it_changes():
    app = open_app()
    controls = [*app.slider, *app.select_slider]
    assert len(controls) == 4
    assert all("badge[now]" in control.label for control in controls)
    sidebar = " ".join(element.value for element in app.sidebar.markdown)
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


def test_colour_switch_and_its_line():
    app = open_app(**ALL_BOXES)
    by_class = canvas(app)
    app.segmented_control[0].set_value("level").run()
    by_level = canvas(app)
    assert by_level["legend"] != by_class["legend"]
    assert by_level["color_by"] == "level"


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
        ("Take home", "detections of"),
        ("Reproduce", "Either gives the boxes"),
        ("Why this box", "Click a box"),
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


def test_a_selected_box_is_explained_and_let_go():
    app = open_app(**ALL_BOXES, tab="Why this box")
    packed = component(app, "canvas")
    pair = np.frombuffer(packed[-4 * canvas(app)["count"] :], "<i4")[0]
    app = open_app(**ALL_BOXES, tab="Why this box", box=str(pair))
    assert "Kept, as number 1 after NMS" in words(app)
    assert "score = 1 / (1 + exp(-(" in app.code[0].value
    assert canvas(app)["selected"] == pair
    widget(app, "button", "let_go").click().run()
    assert canvas(app)["selected"] == -1


def test_a_selected_box_that_drops_out_still_has_its_life_told():
    app = open_app(**ALL_BOXES)
    packed = component(app, "canvas")
    pair = np.frombuffer(packed[-4 * canvas(app)["count"] :], "<i4")[-1]
    app = open_app(**{**ALL_BOXES, "detections_per_img": "1"}, box=str(pair))
    assert "beyond detections_per_img 1" in words(app).replace("\\", "")


def test_find_row_finds_every_kept_pair_and_refuses_the_rest():
    trace = engine.get_engine().detect(
        load_sample("coffee"),
        ModelSpec("random", depth=18, min_size=64, max_size=96),
        PostprocessConfig(score_thresh=0.0, detections_per_img=30),
    )
    pairs = stored.result_from_trace(trace).table.pairs.tolist()
    assert [find_row(trace, pair) for pair in pairs] == list(range(30))
    assert find_row(trace, -1) is None
    assert find_row(trace, trace.outputs.num_anchors * trace.outputs.num_classes) is None


def test_the_canvas_gets_what_the_core_says():
    app = open_app(**ALL_BOXES)
    spec = ModelSpec(
        "random", depth=18, num_convs=4, variant="v1", min_size=64, max_size=96, precision="fp32"
    )
    config = PostprocessConfig(0.0, stored.START.nms_thresh, stored.START.topk_candidates, 20)
    image = load_sample(SAMPLES[0].key)
    result = stored.result_from_trace(engine.get_engine().detect(image, spec, config))
    expected = pack_boxes(
        result.table,
        image_id=image.id,
        size=image.size,
        title=SAMPLES[0].title,
        watermark="RANDOM WEIGHTS",
    )
    assert component(app, "canvas") == expected


def test_the_python_that_is_shown_gives_the_same_boxes():
    spec = ModelSpec("random", depth=18, min_size=64, max_size=96)
    config = PostprocessConfig(score_thresh=0.0, detections_per_img=7)
    picture = Picture("coffee", load_sample("coffee"), "Coffee", is_sample=True)
    code = takehome.python_code(spec, picture, config).replace("print(", "shown = (")
    names: dict = {}
    exec(code, names)
    expected = engine.get_engine().detect(picture.image, spec, config)
    np.testing.assert_array_equal(names["trace"].boxes.numpy(), expected.boxes.numpy())
    np.testing.assert_array_equal(names["trace"].scores.numpy(), expected.scores.numpy())


# ------------------------------------------------------------------ uploads and batches


def test_upload_opens_the_photo_and_survives_a_page_switch():
    app = open_app("app.py", **ALL_BOXES)
    upload(app, ("street.jpg", jpeg()))
    assert canvas(app)["title"] == "street.jpg"
    app.switch_page("pages/model.py").run()
    app.switch_page("pages/detect.py").run()
    assert canvas(app)["title"] == "street.jpg"


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", jpeg()[:60]], ids=["empty", "text", "truncated"]
)
def test_a_bad_upload_gives_one_sentence_and_keeps_the_state(data):
    app = open_app(**{**ALL_BOXES, "nms_thresh": "0.4"})
    upload(app, ("good.jpg", jpeg()))
    before = canvas(app)["stamp"]
    upload(app, ("bad_*one*.jpg", data))
    assert len(app.warning) == 1 and "bad\\_\\*one\\*" in app.warning[0].value
    assert canvas(app)["stamp"] == before
    next(one for one in app.button if one.label == "Dismiss").click().run()
    assert not app.warning


def test_one_bad_file_among_many_loses_nothing():
    app = open_app(**ALL_BOXES)
    upload(app, ("a.jpg", jpeg("red")), ("b.jpg", b"junk"), ("c.jpg", jpeg("blue")))
    assert len(app.warning) == 1
    assert [one.name for one in app.session_state["uploads"].values()] == ["a.jpg", "c.jpg"]


def test_a_batch_gives_a_contact_sheet_and_files():
    app = open_app(**ALL_BOXES)
    upload(app, *((f"{color}.jpg", jpeg(color)) for color in ("red", "green", "blue")))
    run: batch.Batch = app.session_state["batch"]
    run.wait(60)
    app.run()
    assert run.done == 3 and not run.faults
    sheet = [
        element.proto
        for element in app.get("bidi_component")
        if element.proto.component_name == "retinanet_sheet"
    ]
    items = header(sheet[-1].bytes)["items"]
    assert [item["title"] for item in items] == ["red.jpg", "green.jpg", "blue.jpg"]
    assert all(len(item["boxes"]) == 20 for item in items)
    widget(app, "button", "remove_one").click().run()
    assert len(app.session_state["uploads"]) == 2


def test_a_batch_can_be_stopped():
    images = [load_sample(sample.key) for sample in SAMPLES]
    spec = ModelSpec("random", depth=18, min_size=64, max_size=96)
    run = batch.Batch(images, spec, PostprocessConfig())
    run.cancel()
    run.start()
    run.wait(60)
    assert run.cancelled and not run.running and run.done < len(images)


def test_batch_files_hold_every_picture():
    spec = ModelSpec("random", depth=18, min_size=64, max_size=96)
    config = PostprocessConfig(score_thresh=0.0, detections_per_img=3)
    entries = []
    for key in ("coffee", "cat"):
        image = load_sample(key)
        trace = engine.get_engine().detect(image, spec, config)
        entries.append((f"{key}.png", image, stored.result_from_trace(trace).table))
    results = json.loads(takehome.coco_json(entries))
    assert [one["image_id"] for one in results] == [1, 1, 1, 2, 2, 2]
    assert len(takehome.csv_table(entries).strip().splitlines()) == 7
    png = PIL.Image.open(io.BytesIO(takehome.annotated_png(entries[0])))
    assert png.size == load_sample("coffee").size
    assert takehome.annotated_zip(entries)[:2] == b"PK"


@pytest.mark.parametrize(
    ("name", "stem"), [("../../etc/passwd.png", "etc_passwd"), ("Ünï.jpg", "n"), ("...", "picture")]
)
def test_file_names_from_strangers_are_made_harmless(name, stem):
    assert takehome.file_stem(name) == stem
    assert re.fullmatch(r"[A-Za-z0-9_-]+", takehome.file_stem(name))


# ------------------------------------------------------------------ weights that cannot be had


def test_without_a_network_the_app_goes_on_with_the_embedded_model(monkeypatch):
    def refuse(name, *_):
        raise CheckpointError("The weights could not be downloaded: put the file there by hand.")

    monkeypatch.setattr(checkpoints, "_open_official", refuse)
    app = open_app(weights="coco-v2")
    assert "could not be downloaded" in app.error[0].value
    assert "The embedded model answers meanwhile." in words(app)
    assert canvas(app)["count"] == canvas(open_app())["count"]
    engine.try_again(ModelSpec("coco-v2", precision="fp32"), "")


def test_an_unsafe_checkpoint_gives_one_sentence(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (print, ("ran",))

    app = open_app(weights="upload")
    uploader = next(one for one in app.file_uploader if one.key == "checkpoint")
    bomb = pickle.dumps({"model": Bomb()})
    uploader.set_value(("evil.pth", bomb, "application/octet-stream"))
    app.run()
    assert not app.exception and len(app.error) == 1
    assert canvas(app)["count"] == canvas(open_app())["count"]


def test_jobs_tell_known_failures_and_raise_bugs():
    jobs = Jobs()

    def fail(error):
        raise error

    told = jobs.ask("known", lambda: fail(CheckpointError("No such file.")), "")
    assert (told.state, told.sentence) == ("failed", "No such file.")
    with pytest.raises(ZeroDivisionError):
        jobs.ask("bug", lambda: fail(ZeroDivisionError()), "")
    assert jobs.ask("fine", lambda: None, "").state == "ready"


def test_no_page_imports_torch():
    for path in [ROOT / "app.py", *(ROOT / "pages").rglob("*.py")]:
        assert not re.search(r"^\s*(import|from) torch", path.read_text(), re.M), path


def test_polling_is_not_left_on():
    assert 0.1 <= explore.POLL_SECONDS <= 1.0
