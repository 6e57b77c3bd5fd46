"""The app without a browser: uploads, batches, files taken home, weights that cannot be had."""

from __future__ import annotations

import io
import json
import re

import PIL.Image
import pytest

from pages._shared import batch, engine, explore, stored, takehome
from pages._shared.engine import Jobs
from retinanet import checkpoints
from retinanet.checkpoints import CheckpointError
from retinanet.config import PostprocessConfig
from retinanet.engine import ModelSpec
from retinanet.samples import SAMPLES, load_sample
from tests.apptest import (
    ALL_BOXES,
    ROOT,
    canvas,
    header,
    jpeg,
    kept_pairs,
    open_app,
    upload,
    widget,
    words,
)

pytestmark = pytest.mark.skipif(
    not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
)


@pytest.fixture(autouse=True)
def _wait_for_the_network(monkeypatch):
    """AppTest has no browser that asks again, so a page waits for its answer here."""
    monkeypatch.setattr(engine, "FIRST_LOOK_SECONDS", 120)


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
    spec = ModelSpec("random", depth=18, min_size=64, max_size=128)
    run = batch.Batch(images, spec, PostprocessConfig())
    run.cancel()
    run.start()
    run.wait(60)
    assert run.cancelled and not run.running and run.done < len(images)


def test_batch_files_hold_every_picture():
    spec = ModelSpec("random", depth=18, min_size=64, max_size=128)
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
    assert kept_pairs(app) == kept_pairs(open_app())
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
    assert kept_pairs(app) == kept_pairs(open_app())


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
