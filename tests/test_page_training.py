"""The Training page without a browser: plan, link, costs, a run from start to end."""

from __future__ import annotations

import io
import re
import shutil
import time
import zipfile
from dataclasses import fields

import pytest

from pages._shared import data_choice, data_panel, engine, plan, runs, tasks, workroom
from pages._shared.plan import Plan
from retinanet import checkpoints
from retinanet.checkpoints import load_model, stated_config
from retinanet.coco import DatasetError
from retinanet.config import ModelConfig
from retinanet.runs import RunError, RunQueue
from retinanet.shapes import ShapesConfig
from tests.apptest import open_app, widget, words

pytestmark = pytest.mark.skipif(
    not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
)

PAGE = "pages/training.py"
TINY = {
    "images": "8",
    "train_start": "random",
    "train_depth": "18",
    "train_num_convs": "1",
    "train_variant": "v1",
    "train_size": "64",
    "train_steps": "2",
    "train_batch_size": "2",
    "train_checks": "1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("workroom")


@pytest.fixture(autouse=True)
def _workroom(monkeypatch, folder):
    monkeypatch.setattr(engine, "FIRST_LOOK_SECONDS", 120)
    monkeypatch.setenv(workroom.FOLDER, str(folder))
    # AppTest has no browser that looks again: a page waits for its task here.
    waiting = tasks.Task.wait
    monkeypatch.setattr(tasks.Task, "wait", lambda task, seconds: waiting(task, 120))
    runs.get_queue.clear()
    yield
    runs.get_queue().close()
    runs.get_queue.clear()


def linked(app) -> dict[str, str]:
    """The query parameters."""
    told = dict(app.query_params)
    return {name: one if isinstance(one, str) else one[0] for name, one in told.items()}


def _button(app, key):
    return widget(app, "button", key)


def command(app) -> str:
    return next(block.value for block in app.code if "retinanet train" in block.value)


def test_the_page_opens_cold_and_says_what_trains():
    app = open_app(PAGE, **TINY)
    model = load_model(
        "random",
        ModelConfig(
            depth=18, num_classes=6, num_convs=1, frozen_stages=2, min_size=64, max_size=107
        ),
    )
    counts = [p.numel() for p in model.parameters() if p.requires_grad]
    total = sum(p.numel() for p in model.parameters())
    assert f"{sum(counts):,} of {total:,} parameters train" in words(app)
    assert "No run yet" in words(app)
    assert not app.exception


def test_the_plan_that_nobody_touched_fits_the_embedded_model_whole():
    known, start = stated_config("embedded"), Plan()
    assert start.start == "embedded"
    shape = (known.depth, known.variant, known.num_convs)
    assert (start.depth, start.variant, start.num_convs) == shape


CONTROLS = {  # key -> kind, what a hand sets, what the command then says
    "plan_depth": ("selectbox", 34, "--depth 34"),
    "plan_variant": ("selectbox", "v2", "--variant v2"),
    "plan_num_convs": ("number_input", 3, "--num-convs 3"),
    "plan_size": ("number_input", 96, "--min-size 96"),
    "plan_frozen": ("slider", 3, "--frozen-stages 3"),
    "plan_steps": ("number_input", 7, "--steps 7"),
    "plan_batch_size": ("number_input", 3, "--batch-size 3"),
    "plan_optimizer": ("selectbox", "sgd", None),
    "plan_lr": ("number_input", 0.25, "--lr 0.25"),
    "plan_body_lr": ("number_input", 0.1, "--body-lr 0.1"),
    "plan_repeat_thresh": ("number_input", 0.001, "--repeat-thresh 0.001"),
    "plan_precision": ("selectbox", "bf16", "--precision bf16"),
    "plan_freeze_norms": ("checkbox", True, "--freeze-norms"),
    "plan_ema": ("number_input", 0.9, "--ema-decay 0.9"),
    "plan_checks": ("number_input", 2, "--checkpoint-every 4"),
    "plan_seed": ("number_input", 5, "--seed 5"),
    "plan_bounds": ("slider", (0.3, 0.7), "--fg-iou-thresh 0.7"),
    "plan_alpha": ("number_input", 0.75, "--alpha 0.75"),
    "plan_gamma": ("number_input", 0.5, "--gamma 0.5"),
    "plan_prior": ("number_input", 0.5, "--prior 0.5"),
    "plan_forced": ("checkbox", False, "--no-allow-low-quality-matches"),
    "data_images": ("number_input", 16, None),
    "data_imbalance": ("number_input", 10.0, None),
    "data_seed_input": ("number_input", 3, None),
}


def test_no_control_is_dead_and_the_link_holds_each():
    app = open_app(PAGE, **{**TINY, "train_variant": "v1"})
    for key, (kind, value, told) in CONTROLS.items():
        before, link = command(app), linked(app)
        widget(app, kind, key).set_value(value)
        app.run()
        assert not app.exception, key
        assert command(app) != before, key
        assert linked(app) != link, key
        if told:
            assert told in command(app), (key, command(app))
    again = open_app(PAGE, **linked(app))
    assert command(again) == command(app)


def test_another_start_brings_the_shape_in_which_it_fits():
    app = open_app(PAGE, **TINY)
    widget(app, "selectbox", "plan_start").set_value("coco-v2")
    app.run()
    assert "--init-from coco-v2" in command(app)
    shown = [widget(app, "selectbox", f"plan_{name}").value for name in ("depth", "variant")]
    assert shown == [50, "v2"] and widget(app, "number_input", "plan_num_convs").value == 4
    # The command leaves out what is the default: depth 50 and num_convs 4.
    assert "--variant v2" in command(app) and "--depth" not in command(app)


def test_every_field_of_the_plan_is_read_from_a_link_and_what_is_wrong_is_said():
    assert set(plan._PARSERS) == {field.name for field in fields(Plan)}
    bad = {name: "nonsense" for name in plan.QUERY_NAMES if name != "train_name"}
    app = open_app(PAGE, images="8", **bad)
    for name in bad:
        assert f"link's {name}=nonsense is ignored".replace("_", "\\_") in words(app), name
    assert not app.exception


def test_more_stands_closed_until_a_link_sets_some_of_it():
    def more(app):
        return next(one for one in app.expander if one.label == "More")

    assert not more(open_app(PAGE, **TINY)).proto.expanded
    app = open_app(PAGE, **TINY, train_body_lr="0.1")
    assert more(app).proto.expanded
    widget(app, "number_input", "plan_body_lr").set_value(1.0)
    app.run()
    assert more(app).proto.expanded  # it does not fall shut under the hand
    assert "train_body_lr" not in linked(app)


def test_the_settings_of_more_reach_the_run_from_a_link():
    link = {"body_lr": "0.1", "repeat_thresh": "0.05", "precision": "bf16", "freeze_norms": "True"}
    settings = {**TINY, "train_variant": "v2", **{f"train_{k}": v for k, v in link.items()}}
    app = open_app(PAGE, **settings)
    for told in ("--body-lr 0.1", "--repeat-thresh 0.05", "--precision bf16", "--freeze-norms"):
        assert told in command(app)
    found = linked(app)
    assert {name: found[f"train_{name}"] for name in link} == link
    for name, wrong in {"body_lr": "1.5", "repeat_thresh": "nan", "freeze_norms": "1"}.items():
        app = open_app(PAGE, **{**TINY, f"train_{name}": wrong})
        assert f"link's train_{name}={wrong} is ignored" in words(app).replace("\\", "")


def test_frozen_norms_do_not_train_and_v1_has_no_others():
    app = open_app(PAGE, **{**TINY, "train_variant": "v2"})
    before = words(app)
    widget(app, "checkbox", "plan_freeze_norms").set_value(True)
    app.run()
    trains = [
        int(re.search(r"([\d,]+) of [\d,]+ parameters train", text)[1].replace(",", ""))
        for text in (before, words(app))
    ]
    # Depth 18, layer3 and layer4 train: five norms each, of a scale and a shift a channel.
    assert trains[0] - trains[1] == 2 * 5 * (256 + 512)
    widget(app, "selectbox", "plan_variant").set_value("v1")
    app.run()
    assert widget(app, "checkbox", "plan_freeze_norms").disabled


@pytest.mark.parametrize(
    ("start", "variant", "num_convs", "added"),
    [
        ("embedded", "v2", 4, 0),
        ("embedded", "v2", 7, 3),
        ("embedded", "v1", 6, 0),  # nothing of its subnets fits
        ("coco-v1", "v1", 6, 2),
        ("coco-v2", "v2", 2, 0),
        ("imagenet", "v2", 8, 0),
        ("random", "v2", 8, 0),
    ],
)
def test_added_convolutions_are_said_to_begin_as_the_identity(start, variant, num_convs, added):
    wanted = Plan(start=start, variant=variant, num_convs=num_convs)
    assert plan.added_convs(wanted) == added
    link = {"train_variant": variant, "train_num_convs": str(num_convs), "train_start": start}
    app = open_app(PAGE, **{**TINY, **link})
    sentence = f"{added} more than the start has: added convolutions begin as the identity."
    assert (sentence in words(app)) == (added > 0)


def test_what_changes_the_cost_is_measured_anew_and_the_rest_is_not():
    settings = {**TINY, "train_variant": "v2", "train_steps": "3"}
    app = open_app(PAGE, **settings)
    _button(app, "measure_cost").click()
    app.run()

    def is_measured(**changes):
        app = open_app(PAGE, **settings, **{f"train_{name}": v for name, v in changes.items()})
        return not any(one.key == "measure_cost" for one in app.button)

    assert is_measured()
    assert is_measured(lr="0.1", body_lr="0.1", repeat_thresh="0.5", seed="3")
    assert not is_measured(precision="bf16")
    assert not is_measured(freeze_norms="True")


def test_a_batch_larger_than_the_data_set_is_refused_in_words():
    app = open_app(PAGE, **{**TINY, "train_batch_size": "64"})
    assert "A batch of 64 needs as many photos" in words(app).replace("\\", "")
    assert not app.exception


def test_the_cost_is_measured_before_a_run():
    app = open_app(PAGE, **TINY)
    _button(app, "measure_cost").click()
    app.run()
    text = words(app).replace("\\", "")
    assert "A step of 2 images takes" in text and "2 steps take about" in text
    assert not app.exception


def test_a_run_from_start_to_the_model_of_every_page():
    app = open_app(PAGE, **TINY)
    _button(app, "start_run").click()
    app.run()
    run_id = linked(app)["run"]
    done = runs.get_queue().wait(run_id, 100)
    assert done.state == "done", done.sentence
    app.run()
    assert not app.exception, app.exception[0].message
    for tab in ("Losses", "AP and pictures", "Gradients", "Step time", "Numbers", "Command"):
        app.session_state["run_tab"] = tab
        app.run()
        assert not app.exception, (tab, app.exception[0].message)
    _button(app, "use_trained").click()
    app.run()
    option = widget(app, "selectbox", "weights").value
    assert option.endswith(run_id[:6])
    detect = open_app("pages/detect.py", weights=option)
    assert widget(detect, "selectbox", "weights").value == option
    assert not detect.exception and not detect.error
    card = open_app("pages/model.py", weights=option)
    assert "Recipe" in words(card)
    # Removed, it is gone from the choice, with a sentence.
    _button(app, f"remove_{run_id}").click()
    app.run()
    assert widget(app, "selectbox", "weights").value == "embedded"
    assert "is not on this server" in words(app)


def test_another_persons_run_is_neither_shown_nor_named(monkeypatch):
    monkeypatch.setattr(workroom, "is_local", lambda: False)
    app = open_app(PAGE, **TINY)
    _button(app, "start_run").click()
    app.run()
    run_id = linked(app)["run"]
    other = open_app(PAGE, **TINY)
    assert "No run yet" in words(other)
    assert run_id not in str(other.query_params)
    with_link = open_app(PAGE, run=run_id, **TINY)
    assert any(one.key == f"open_{run_id}" for one in with_link.button)
    runs.get_queue().cancel(run_id)


def _zip(**entries: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "/"), data)
    return target.getvalue()


@pytest.mark.parametrize(
    "data", [b"no zip at all", _zip(**{"..__..__evil.json": b"{}"}), _zip(readme=b"nothing here")]
)
def test_a_zip_that_cannot_be_used_leaves_a_sentence_and_the_page(data):
    app = open_app(PAGE, data="upload", zip=data_panel.keep_zip(data))
    assert app.error and app.error[0].value.endswith(".")
    assert not app.exception
    widget(app, "selectbox", "data_kind").set_value("shapes")
    app.run()
    assert not app.error and not app.exception


def test_work_that_failed_or_was_stopped_stands_until_its_button_is_pressed(monkeypatch):
    made = []

    def fail(choice, task):
        made.append(choice)
        raise DatasetError("It does not work.")

    monkeypatch.setattr(data_panel, "_make_shapes", fail)
    app = open_app(PAGE, **{**TINY, "data_seed": "77"})
    app.run()
    app.run()
    assert len(made) == 1 and app.error[0].value == "It does not work."
    next(one for one in app.button if one.label == "Try again").click()
    app.run()
    assert len(made) == 2


def test_a_bug_in_long_work_is_raised_once_and_tried_again_later(monkeypatch):
    known = tasks.get_tasks()
    monkeypatch.setattr(data_panel, "_make_shapes", lambda choice, task: 1 // 0)
    with pytest.raises(AssertionError):  # the page shows it
        open_app(PAGE, **{**TINY, "data_seed": "78"})
    assert known.get(data_choice.Choice("shapes", ShapesConfig(images=8, seed=78)).key) is None


def test_what_is_left_counts_from_the_stage_that_is_counted(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(tasks.time, "monotonic", lambda: now[0])
    told = []

    def work(task):
        now[0] += 60
        task.tell(120, 120)
        task.tell(0, 30)  # another stage
        now[0] += 5
        task.tell(10, 30)
        told.append(task.eta_seconds)

    tasks.Task("Composing", work).run()
    assert told == [pytest.approx(10)]  # and not 130


def test_work_that_nobody_watches_any_more_is_stopped():
    known, key = tasks.Tasks(), ("a", 1)
    task = known.start(key, "Waiting", lambda task: task.cancel.wait(20))
    task.watchers |= {"one": time.monotonic(), "two": time.monotonic()}
    known.leave(key, "one")
    assert known.get(key) is task and not task.cancel.is_set()
    known.leave(key, "two")
    assert known.get(key) is None and task.cancel.is_set()


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (("all",), ("all", None)),
        (("train", "val", "test"), ("train", "val")),
        (("test", "trainval"), ("trainval", "test")),
        (("train", "test", "trainval"), ("train", "test")),
        (("train", "trainval"), ("train", None)),
        (("val", "test"), ("val", "test")),
        (("left", "right"), ("left", None)),
    ],
)
def test_what_is_trained_on_is_not_measured_on(splits, chosen):
    assert data_panel.parts_of(splits) == chosen


def test_a_run_that_the_queue_does_not_take_leaves_a_sentence(monkeypatch):
    app = open_app(PAGE, **TINY)

    def full(queue, request):
        raise RunError("100 runs wait already; wait, or cancel some.")

    monkeypatch.setattr(RunQueue, "submit", full)
    for key in ("start_run", "start_freezing"):
        _button(app, key).click()
        app.run()
        assert not app.exception
    assert "100 runs wait already" in words(app)


def test_shapes_that_were_removed_are_composed_anew():
    settings = {**TINY, "data_seed": "79"}
    app = open_app(PAGE, **settings)
    shutil.rmtree(workroom.folder("shapes"))
    app.run()
    _button(app, "start_run").click()
    app.run()
    assert not app.exception and linked(app)["run"]
    runs.get_queue().cancel(linked(app)["run"])


def test_a_link_to_a_run_that_is_not_here_says_so():
    app = open_app(PAGE, run="0" * 16, **TINY)
    assert "run is not on this server" in words(app)


def test_the_page_says_what_checking_the_data_found():
    text = words(open_app(PAGE, **TINY)).replace("\\", "")
    assert text.count("8 photos with ") == 2  # to train on, and to measure on


@pytest.mark.parametrize(
    ("address", "hosts", "local"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1"], True),
        ("127.0.0.1", ["your.host.name"], False),  # a proxy on this machine
        ("127.0.0.1", [], False),  # any host
        ("0.0.0.0", ["localhost"], False),
    ],
)
def test_a_server_that_others_can_reach_is_told_apart(monkeypatch, address, hosts, local):
    options = {"server.address": address, "server.allowedHosts": hosts}
    monkeypatch.setattr(workroom.st, "get_option", options.__getitem__)
    assert workroom.is_local() is local


def test_strangers_are_told_no_path_and_a_trained_model_by_its_link(monkeypatch):
    monkeypatch.setattr(workroom, "is_local", lambda: False)
    app = open_app(PAGE, **TINY)
    assert str(workroom.place()) not in command(app)
    run_id = "abcdef" + "0" * 10
    folder = workroom.folder("training", run_id)
    (folder / runs.MODEL_FILE).write_bytes(b"")
    (folder / "request.json").write_text('{"name": "Mine"}')
    assert (
        "mine-abcdef"
        in widget(open_app("pages/model.py", weights="mine-abcdef"), "selectbox", "weights").options
    )
    assert "mine-abcdef" not in widget(open_app("pages/model.py"), "selectbox", "weights").options
    (folder / "request.json").write_text("{")  # damaged: no page falls over it
    runs._name.clear()
    assert not open_app("pages/model.py", weights="mine-abcdef").exception
    shutil.rmtree(folder)
