"""The Evaluate page without a browser: its numbers are pycocotools', every row opens its photos."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pages._shared import engine, evaluate_state, evaluate_work, tasks, workroom
from pages._shared.data_choice import Choice
from pages._shared.evaluate_state import Desk
from pages._shared.evaluate_tabs import OF_THE_DATA, TABS
from retinanet.__main__ import main
from retinanet.analysis import confusion, dataset_coverage, error_types, worst_images
from retinanet.checkpoints import load_model, save_checkpoint
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.evaluation import METRICS, coco_results, score
from retinanet.model import RetinaNet
from retinanet.shapes import CATEGORIES, ShapesConfig
from retinanet.sweeps import DEFAULT_GRID, SCORE_FLOOR
from tests.apptest import ROOT, component, header, tab_words, widget, words

IDS = {"tiny": "abcdef0123456789", "other": "fedcba9876543210"}
TINY, OTHER = "tiny-abcdef", "other-fedcba"
LOW = {"score_thresh": "0.02", "nms_thresh": "0.5", "detections_per_img": "30"}
KNOBS = PostprocessConfig(score_thresh=0.02, detections_per_img=30)
PHOTOS = 8


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A workroom with two tiny models: one of the shapes' classes, one of others."""
    folder = tmp_path_factory.mktemp("room")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(workroom.FOLDER, str(folder))
        torch.manual_seed(0)
        config = ModelConfig(depth=18, num_classes=6, num_convs=1, min_size=64, max_size=96)
        named = {"tiny": CATEGORIES, "other": [f"thing {i}" for i in range(6)]}
        for name, categories in named.items():
            home = folder / "training" / IDS[name]
            home.mkdir(parents=True)
            model = RetinaNet(config, categories, range(1, 7)).eval()
            save_checkpoint(model, home / "model.safetensors")
            (home / "request.json").write_text(json.dumps({"name": name}))
        yield folder


@pytest.fixture(autouse=True)
def _wait_for_work(monkeypatch):
    """AppTest has no browser that asks again, so a page waits for its answer here."""
    monkeypatch.setattr(engine, "FIRST_LOOK_SECONDS", 120)
    wait = tasks.Task.wait
    monkeypatch.setattr(tasks.Task, "wait", lambda task, seconds: wait(task, 120))


def open_evaluate(tab: str = "Data", **query: str) -> AppTest:
    query = {"weights": TINY, "data": "shapes", "images": f"{PHOTOS}", **query}
    app = AppTest.from_file(str(ROOT / "pages/evaluate.py"), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    app.session_state["evaluate_tab"] = tab
    return rerun(app)


def rerun(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def press(app: AppTest, key: str) -> AppTest:
    widget(app, "button", key).click()
    return rerun(app)


def to_tab(app: AppTest, tab: str) -> AppTest:
    app.query_params["evaluate_tab"] = tab
    app.session_state["evaluate_tab"] = tab
    return rerun(app)


def keys(app: AppTest, kind: str) -> list[str]:
    return [one.key for one in getattr(app, kind)]


def choose(app: AppTest, start: str, row: int) -> AppTest:
    """Choose a row of the table whose key begins so."""
    key = table_key(app, start)
    selection = {"rows": [row], "columns": [], "cells": []}
    app.session_state[key] = {"selection": selection}
    return rerun(app)


def table_key(app: AppTest, start: str) -> str:
    found = [one.key for one in app.dataframe if one.key and one.key.startswith(start)]
    assert found, [one.key for one in app.dataframe]
    return found[0]


@pytest.fixture(scope="module")
def filled(room):
    """The data set's held-out part, after the network has run on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "FIRST_LOOK_SECONDS", 120)
        wait = tasks.Task.wait
        patch.setattr(tasks.Task, "wait", lambda task, seconds: wait(task, 120))
        app = open_evaluate()
        assert "run_network" in keys(app, "button")
        assert f"{PHOTOS - evaluate_work.TIMED_PHOTOS}" in words(app)
        press(app, "run_network")
        data = tasks.get_tasks().get(Choice("shapes", ShapesConfig(images=PHOTOS)).key).result
    model = load_model(room / "training" / IDS["tiny"] / "model.safetensors")
    results = coco_results(model, data.val, KNOBS)
    return SimpleNamespace(
        dataset=data.val,
        results=results,
        metrics=score(data.val, results),
        errors=error_types(data.val, results),
    )


def forwards() -> int:
    return engine.get_engine().info()["forwards"]


def headline(app: AppTest) -> dict[str, str]:
    """The strip of numbers: {name: what is shown}."""
    body = next(one.proto.body for one in app.get("html") if "role='list'" in one.proto.body)
    texts = [text for text in re.split(r"<[^>]*>", body) if text.strip()]
    return dict(zip(texts[::2], texts[1::2], strict=True))


# ------------------------------------------------------------------ before the network


def test_a_model_of_other_classes_is_refused_and_those_trained_here_are_a_click_away(room):
    app = open_evaluate(weights=OTHER)
    assert "means other things by the data set's category ids" in words(app)
    assert "desk_part" in keys(app, "button_group")  # the photos can still be chosen
    press(app, f"use_{TINY}")
    assert app.session_state["weights"] == TINY
    assert "means other things" not in words(app)


def test_without_the_network_the_data_set_speaks_and_the_rest_says_what_to_do(room):
    app = open_evaluate(weights=TINY, data_seed="5")
    left = PHOTOS - evaluate_work.TIMED_PHOTOS  # those that told the cost are on disk
    assert widget(app, "button", "run_network").label == f"Run the network on {left} photos"
    assert re.search(rf"{left} photos, about [\d.]+ s each: ", words(app))
    for tab in TABS:
        to_tab(app, tab)
        assert ("run the network above" in tab_words(app)) == (tab not in OF_THE_DATA)


def test_a_pass_that_was_stopped_goes_on_from_where_it_was(room, monkeypatch):
    app = open_evaluate(data_seed="5")  # the photos of the test before
    outputs = engine.Engine.outputs

    def stopped_after_one(core, image, spec, cancel, **how):
        found = outputs(core, image, spec, cancel, **how)
        cancel.set()
        return found

    left = PHOTOS - evaluate_work.TIMED_PHOTOS
    with monkeypatch.context() as patch:
        patch.setattr(engine.Engine, "outputs", stopped_after_one)
        press(app, "run_network")
    rerun(app)  # as the browser does when a task has ended
    offered = widget(app, "button", "run_network").label
    assert offered == f"Run the network on {left - 1} photos"
    assert f"{PHOTOS - left + 1} of {PHOTOS} are on disk" in words(app)
    before = forwards()
    press(app, "run_network")
    assert "AP50" in headline(app)
    assert forwards() - before == left - 1


# ------------------------------------------------------------------ the numbers


def test_the_headline_is_pycocotools_and_the_network_has_run_once(filled):
    before = forwards()
    app = open_evaluate(**LOW)
    assert forwards() == before  # all on disk: no click, no network
    assert "run_network" not in keys(app, "button")
    shown = headline(app)
    for name in METRICS:
        value = filled.metrics[name]
        assert shown[name.replace("_", " ")] == ("–" if value != value else f"{value:.3f}")
    counts = filled.errors.counts
    right = counts["true_positives"]
    wrong = counts["detections"] - right - counts["left_out"]
    found = f"{right:,} of {counts['objects']:,} objects found, {wrong:,} false detections"
    assert found in words(app)
    assert shown["precision"] == f"{right / (right + wrong):.3f}"
    assert shown["recall"] == f"{right / counts['objects']:.3f}"


def test_a_knob_is_the_sessions_and_no_network_runs(filled):
    app = open_evaluate(**LOW)
    before, first = forwards(), headline(app)
    widget(app, "number_input", "knob_nms_thresh").set_value(0.2)
    rerun(app)
    assert app.session_state["view"].knobs == replace(KNOBS, nms_thresh=0.2)
    assert headline(app) != first
    assert forwards() == before
    assert app.query_params["nms_thresh"] == "0.2"
    widget(app, "number_input", "desk_photos").set_value(4)
    rerun(app)
    assert app.query_params["photos"] == "4"
    assert forwards() == before  # some of those that are on disk


def test_a_setting_below_what_is_stored_is_answered_as_near_as_can_be(filled):
    app = open_evaluate(score_thresh="0.001", topk_candidates="5000", detections_per_img="30")
    assert "the nearest one is evaluated" in words(app)
    assert widget(app, "number_input", "knob_score_thresh").value == SCORE_FLOOR
    assert app.session_state["view"].knobs.score_thresh == 0.001  # Detect's stays


# ------------------------------------------------------------------ rows and photos


def sheet_ids(app: AppTest) -> list[int]:
    return [int(item["id"]) for item in header(component(app, "sheet"))["items"]]


def test_every_kind_of_error_opens_its_photos(filled):
    app = open_evaluate("Errors", **LOW)
    for row, wanted in enumerate(filled.errors.rows):
        choose(app, "error_table_", row)
        if wanted["count"]:
            assert sheet_ids(app) == list(wanted["image_ids"])
        else:
            assert "There are none." in tab_words(app)


def test_a_cell_of_the_confusion_opens_its_photos(filled):
    made = confusion(filled.dataset, filled.results)
    app = open_evaluate("Confusion", **LOW)
    key = table_key(app, "matrix_")
    frame = widget(app, "dataframe", key).value
    order = made.occurring
    for place, row in enumerate(order):
        for column, other in enumerate(order):
            shown = frame.iloc[place, column + 1]
            assert (0 if shown != shown else shown) == made.matrix[row, other]
    place, column = next(
        (r, c)
        for r, row in enumerate(order)
        for c, other in enumerate(order)
        if made.matrix[row, other]
    )
    cells = [(place, frame.columns[column + 1])]
    app.session_state[key] = {"selection": {"rows": [], "columns": [], "cells": cells}}
    rerun(app)
    assert sheet_ids(app) == list(made.image_ids(order[place], order[column]))


def test_a_class_and_a_score_open_their_photos(filled):
    app = open_evaluate("Classes", **LOW)
    choose(app, "classes_", 0)
    shown = widget(app, "dataframe", table_key(app, "classes_")).value.iloc[0]
    label = CATEGORIES.index(shown["category"])
    there = [p.image_id for p in filled.dataset.photos if label in p.target.labels.tolist()]
    assert shown["gts"] == sum(p.target.labels.tolist().count(label) for p in filled.dataset.photos)
    widget(app, "button_group", "class_photos").set_value("all")
    rerun(app)
    assert sorted(sheet_ids(app)) == there
    to_tab(app, "Scores")
    choose(app, "scores_", 0)
    low, high = map(
        float,
        widget(app, "dataframe", table_key(app, "scores_")).value.iloc[0]["score"].split(" to "),
    )
    wanted = {one["image_id"] for one in filled.results if low <= one["score"] < high}
    assert set(sheet_ids(app)) == wanted


def test_the_worst_photos_are_worst_first(filled):
    app = open_evaluate("Worst photos", **LOW)
    rows = worst_images(filled.dataset, filled.errors)
    assert sheet_ids(app) == [row["image_id"] for row in rows]
    first = header(component(app, "sheet"))["items"][0]
    told = {"tp": rows[0]["tp"], "fn": rows[0]["fn"], "fp": rows[0]["fp"]}
    assert first["caption"] == ", ".join(f"{name} {n}" for name, n in told.items() if n)
    assert first["title"].startswith(rows[0]["file"])


# ------------------------------------------------------------------ other settings


def test_the_sweep_marks_the_best_and_one_click_takes_it_over(filled):
    grid = {"sweep_score_thresh": "0.02:0.04:0.01", "sweep_nms_thresh": "0.3, 0.5"}
    app = open_evaluate("Sweep", **LOW, **grid, sweep_detections_per_img="30")
    before = forwards()
    assert widget(app, "button", "run_sweep").label == "Sweep 6 settings"
    press(app, "run_sweep")
    assert forwards() == before
    shown = widget(app, "dataframe", table_key(app, "best_f1_")).value
    assert len(shown) == 6
    assert shown["f1"].is_monotonic_decreasing
    same = shown[(shown["score_thresh"] == 0.02) & (shown["nms_thresh"] == 0.5)].iloc[0]
    assert same["AP"] == pytest.approx(filled.metrics["AP"], abs=1e-9)
    choose(app, "best_f1_", 0)
    assert sheet_ids(app)
    press(app, "take_setting")
    best = shown.iloc[0]
    assert app.session_state["view"].knobs == PostprocessConfig(
        float(best["score_thresh"]), float(best["nms_thresh"]), 1000, 30
    )
    widget(app, "text_input", "grid_nms_thresh").set_value("0.3, many")
    rerun(app)
    assert "nms_thresh: 'many' is no number" in words(app).replace("\\", "")


def test_thresholds_of_single_classes_are_taken_over_and_let_go(filled):
    app = open_evaluate("Classes", **LOW)
    press(app, "take_floors")
    knobs = app.session_state["view"].knobs
    assert len(knobs.class_score_thresh) == len(CATEGORIES)
    assert headline(app)["F1"] != f"{filled.metrics['AP']:.3f}"
    press(app, "drop_floors")
    assert app.session_state["view"].knobs.class_score_thresh == ()


def test_the_grid_of_the_link_is_the_core_s(filled):
    assert evaluate_state.grid_of(Desk()) == DEFAULT_GRID
    desk = Desk(grid={**Desk().grid, "score_thresh": "0.05:0.95:0.1", "nms_thresh": "0.3, 0.5"})
    grid = evaluate_state.grid_of(desk)
    assert grid.score_thresh == (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
    assert grid.nms_thresh == (0.3, 0.5)


def test_the_curves_end_where_the_threshold_cuts(filled):
    app = open_evaluate("Curves", **LOW)
    counts = filled.errors.counts
    recall = counts["true_positives"] / counts["objects"]
    assert f"ends the curve of all classes at recall {recall:.3f}" in tab_words(app).replace(
        "\\", ""
    )


# ------------------------------------------------------------------ without the network


def test_a_suggestion_is_taken_over(filled):
    app = open_evaluate("Coverage")
    found = dataset_coverage(filled.dataset, ModelConfig(num_classes=6, min_size=64, max_size=96))
    assert f"{found.without:,} of {found.objects:,} objects have no natural match" in tab_words(app)
    assert sheet_ids(app) == list(found.without_image_ids)
    place = [one.setting for one in found.suggestions].index("fg_iou_thresh")
    press(app, f"suggest_{place}")
    assert app.session_state["view"].matcher.fg_iou_thresh == found.suggestions[place].value


def test_the_data_tab_opens_the_photos_of_a_class(filled):
    app = open_evaluate("Data")
    choose(app, "class_counts_val", 0)
    name = widget(app, "dataframe", "class_counts_val").value.iloc[0]["class"]
    label = CATEGORIES.index(name)
    there = {p.image_id for p in filled.dataset.photos if label in p.target.labels.tolist()}
    assert set(sheet_ids(app)) == there


# ------------------------------------------------------------------ take home


def test_what_is_taken_home_is_what_the_command_gives(filled, saved, tmp_path, capsys, monkeypatch):
    grid = {"sweep_score_thresh": "0.02, 0.03", "sweep_nms_thresh": "0.3, 0.5"}
    app = open_evaluate("Take home", **LOW, **grid)
    files = {name.split("_", 2)[-1]: make for name, make in saved.items()}
    assert json.loads(files["results.json"]()) == filled.results
    metrics = json.loads(files["metrics.json"]())
    assert metrics["metrics"]["AP"] == pytest.approx(filled.metrics["AP"], abs=1e-9)
    assert "image_ids" not in files["classes.csv"]()
    press(app, "make_report")
    (report,) = (made for name, made in saved.items() if name.endswith(".html"))
    assert report.lower().startswith("<!doctype html>")
    lines = [one.value for one in app.code if one.value.startswith("python -m retinanet")]
    assert lines[1].startswith(lines[0])
    target = tmp_path / "metrics.json"
    arguments = [*shlex.split(lines[1])[3:], "--work-folder", str(tmp_path / "work")]
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--json", str(target)]) == 0
    assert json.loads(target.read_text())["AP"] == pytest.approx(filled.metrics["AP"], abs=1e-9)
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 1 + 4
    python = next(one.value for one in app.code if "import retinanet" in one.value)
    python = python.replace('Path("runs/evaluate")', f"Path({str(tmp_path / 'python')!r})")
    capsys.readouterr()
    exec(compile(python, "shown", "exec"), {})
    printed = capsys.readouterr().out
    assert f"{filled.errors.rows[0]['sentence']}" in printed


# ------------------------------------------------------------------ the link


def test_the_link_brings_the_desk_back():
    desk = Desk("train", 50, 7, {**Desk().grid, "nms_thresh": "0.3"}, "Anchors")
    assert evaluate_state.from_query(evaluate_state.to_query(desk)) == desk
    assert evaluate_state.to_query(Desk()) == {}


def test_a_hostile_link_leaves_sentences(filled):
    app = open_evaluate(
        part="all", photos="-3", sample_seed="x", opens="/etc", sweep_nms_thresh="1" * 500
    )
    assert app.session_state["desk"] == Desk()
    for name in ("part", "photos", "sample_seed", "opens"):
        assert f"{name}=" in words(app).replace("\\", "")
