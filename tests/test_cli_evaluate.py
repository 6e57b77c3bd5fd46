"""`evaluate` on the command line: sweeps, stored candidates, floors, and refusals."""

import csv
import json
import math
import shlex

import pytest
import torch

import retinanet.cli.evaluate as command
from retinanet.__main__ import main
from retinanet.checkpoints import save_checkpoint
from retinanet.coco import load_coco
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.evaluation import METRICS, coco_results, score
from retinanet.model import RetinaNet
from tests.shapes import write_shapes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set, a tiny model with scores all over, and what it says by the ordinary way."""
    folder = tmp_path_factory.mktemp("cli")
    annotations = write_shapes(folder / "data")
    torch.manual_seed(0)
    config = ModelConfig(depth=18, num_classes=2, num_convs=1, min_size=64, max_size=96)
    dataset = load_coco(annotations, folder / "data" / "images")
    model = RetinaNet(config, dataset.categories, dataset.category_ids)
    with torch.no_grad():
        model.head.classification_head.cls_logits.weight.mul_(8)
        model.head.classification_head.cls_logits.bias.fill_(-2)
    save_checkpoint(model, folder / "m.safetensors", dtype=torch.float32)
    return folder


@pytest.fixture
def arguments(place):
    """The command; its work folder is shared, so the network runs in the first test only."""
    data = place / "data"
    start = ["evaluate", str(data / "instances.json"), "--images", str(data / "images")]
    weights = ["--weights", str(place / "m.safetensors"), "--device", "cpu"]
    return [*start, *weights, "--work-folder", str(place / "work")]


def test_the_metrics_are_those_of_the_ordinary_way(place, arguments, tmp_path, capsys):
    out, found = tmp_path / "m.json", tmp_path / "r.json"
    assert main([*arguments, "--json", str(out), "--results", str(found)]) == 0
    printed = capsys.readouterr()
    dataset = load_coco(place / "data" / "instances.json", place / "data" / "images")
    model = command.load_model(place / "m.safetensors", device="cpu")
    expected = coco_results(model, dataset)
    assert json.loads(found.read_text()) == expected
    metrics, plain = score(dataset, expected), json.loads(out.read_text())
    assert "NaN" not in out.read_text()  # which is not JSON
    assert plain["AP_large"] is None  # there are no large objects
    assert {n: math.nan if plain[n] is None else plain[n] for n in METRICS} == pytest.approx(
        {name: metrics[name] for name in METRICS}, nan_ok=True
    )
    assert plain["AP50_per_class"] == metrics["AP50_per_class"]
    assert plain["counts"]["tp"] + plain["counts"]["fn"] == 8
    assert printed.out.startswith(f"AP {metrics['AP']:.3f}  AP50 ")
    assert "4/4 photos" in printed.err


def test_the_network_does_not_run_again(arguments, capsys, monkeypatch):
    assert main(arguments) == 0
    capsys.readouterr()

    def never(*_arguments):
        raise AssertionError("the candidates are stored")

    monkeypatch.setattr(RetinaNet, "forward", never)
    assert main([*arguments, "--nms-thresh", "0.3", "--score-thresh", "0.2"]) == 0
    assert "4 of 4 photos were stored already" in capsys.readouterr().err


def test_a_sweep_prints_the_best_and_writes_every_setting(arguments, tmp_path, capsys):
    table, out = tmp_path / "rows.csv", tmp_path / "all.json"
    grid = ["--sweep", "score_thresh=0.05:0.65:0.2", "nms_thresh=0.3,0.5"]
    assert main([*arguments, *grid, "--csv", str(table), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "8 settings on 4 photos" in printed
    assert "best by F1:" in printed
    assert "best by AP:" in printed
    with table.open() as file:
        rows = list(csv.DictReader(file))
    plain = json.loads(out.read_text())
    assert len(rows) == len(plain["sweep"]) == 8
    assert plain["grid"]["score_thresh"] == [0.05, 0.25, 0.45, 0.65]
    best = max(plain["sweep"], key=lambda row: row["f1"])
    assert f"{round(best['f1'], 3)}" in printed.partition("best by F1:")[2]
    assert {row["detections_per_img"] for row in rows} == {"100"}


def test_without_a_sweep_the_table_has_the_classes(arguments, tmp_path):
    table = tmp_path / "rows.csv"
    assert main([*arguments, "--csv", str(table)]) == 0
    with table.open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"red", "blue"}
    assert rows["red"]["image_ids"] == "0 1 2 3"


def test_class_floors_can_be_given_back(arguments, tmp_path, capsys):
    out, again = tmp_path / "a.json", tmp_path / "b.json"
    wide = ["--detections-per-img", "3000", "--topk-candidates", "3000"]  # neither cuts
    few = ["--sweep", "score_thresh=0.01,0.2,0.4"]
    assert main([*arguments, *wide, *few, "--class-floors", "--json", str(out)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "--class-score-thresh" in last
    assert main([*arguments, *shlex.split(last), "--json", str(again)]) == 0
    plain = json.loads(out.read_text())
    floors = plain["class_floors"]["config"]
    assert PostprocessConfig.from_dict(floors).class_score_thresh
    counted = json.loads(again.read_text())["counts"]
    assert counted["class_score_thresh"] == floors["class_score_thresh"]
    per_class = [row["f1"] for row in plain["class_floors"]["rows"]]
    assert counted["macro_f1"] == pytest.approx(sum(per_class) / len(per_class))


def test_an_interrupted_pass_says_how_to_go_on(arguments, tmp_path, capsys, monkeypatch):
    here = [*arguments, "--work-folder", str(tmp_path / "work")]
    calls, real = [], RetinaNet.__call__

    def two(self, image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(RetinaNet, "__call__", two)
    assert main(here) == 130
    said = capsys.readouterr().err
    assert "2 of 4 photos are stored in" in said
    assert "the same command goes on from there" in said
    monkeypatch.setattr(RetinaNet, "__call__", real)
    assert main(here) == 0
    assert "2 of 4 photos were stored already" in capsys.readouterr().err


def test_unreadable_photos_are_named_and_left_out(tmp_path, arguments, capsys):
    annotations = write_shapes(tmp_path / "data")
    (tmp_path / "data" / "images" / "001.png").write_bytes(b"no picture")
    arguments[1:4] = [str(annotations), "--images", str(tmp_path / "data" / "images")]
    out = tmp_path / "m.json"
    assert main([*arguments, "--json", str(out)]) == 0
    assert "left out image 1: " in capsys.readouterr().err
    plain = json.loads(out.read_text())
    assert plain["counts"]["tp"] + plain["counts"]["fn"] == 6
    assert [image_id for image_id, _ in plain["skipped"]] == [1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sweep", "colour=1"], "not of the form"),
        (["--sweep", "nms_thresh=2"], "between 0 and 1"),
        (["--sweep", "nms_thresh=0:1:0"], "must rise"),
        (["--score-thresh", "2"], "between 0 and 1"),
        (["--class-score-thresh", "red=2"], "between 0 and 1"),
        (["--class-score-thresh", "pink=0.5"], "has no class"),
        (["--csv", "x.csv", "--json", "x.csv"], "name two files"),
        (["--results", "x.json", "--json", "./x.json"], "--json and --results both name"),
        (["--results", "x", "--html", "x"], "--results and --html both name"),
    ],
)
def test_bad_options_end_in_one_line_and_exit_code_2(
    arguments, capsys, monkeypatch, options, words
):
    monkeypatch.setattr(command.CandidateStore, "fill", None)
    assert main([*arguments, *options]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
