"""`train` and `evaluate` on the command line: what they write, and refusals before the work."""

import json
from pathlib import Path

import PIL.Image
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import retinanet.cli.evaluate as evaluate_command
from retinanet.__main__ import main
from retinanet.run_log import read_run
from retinanet.training_run import TrainingRun
from tests.shapes import write_shapes


def test_the_command_line_trains_evaluates_and_writes_a_card(tmp_path, capsys):
    annotations = write_shapes(tmp_path / "data")
    images = str(tmp_path / "data" / "images")
    out = tmp_path / "model.safetensors"
    command = ["train", str(annotations), "--images", images]
    command += ["--val", str(annotations), "--depth", "18", "--num-convs", "1", "--min-size", "64"]
    command += ["--max-size", "96", "--steps", "2", "--batch-size", "2", "--out", str(out)]
    command += ["--run-folder", str(tmp_path / "run"), "--device", "cpu"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    with safe_open(out, "pt") as file:
        card = json.loads(file.metadata()["card"])
    assert card["recipe"]["steps"] == 2
    assert card["validation"]["AP_large"] is None  # no shape is large, and NaN is no JSON
    assert 0 <= card["validation"]["AP50"] <= 1
    command = ["evaluate", str(annotations), "--images", images, "--weights", str(out)]
    assert main([*command, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("AP ")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--images", "nowhere"], "no folder nowhere"),
        (["--images", ".", "--depth", "49"], "depth must be one of"),
        (["--images", ".", "--fg-iou-thresh", "0.2"], "bg_iou_thresh"),
    ],
)
def test_bad_options_end_in_one_line_and_exit_code_2(tmp_path, capsys, extra, sentence):
    annotations = write_shapes(tmp_path / "data")
    if extra[1] == ".":
        extra = ["--images", str(tmp_path / "data" / "images"), *extra[2:]]
    code = main(["train", str(annotations), *extra, "--out", str(tmp_path / "x.safetensors")])
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error
    assert "\n" not in error


@pytest.fixture
def command(tmp_path):
    """A `train` command that ends after two steps; later options win."""
    annotations = write_shapes(tmp_path / "data")
    images = str(tmp_path / "data" / "images")
    shape = ["--depth", "18", "--num-convs", "1", "--min-size", "64", "--max-size", "96"]
    work = ["--steps", "2", "--batch-size", "2", "--device", "cpu"]
    places = ["--out", str(tmp_path / "m.safetensors"), "--run-folder", str(tmp_path / "run")]
    return ["train", str(annotations), "--images", images, *shape, *work, *places]


def test_the_seed_decides_the_weights(command, tmp_path):
    quick = [*command, "--steps", "1", "--no-probe"]

    def weights(seed, start):
        torch.manual_seed(start)
        out = tmp_path / f"{seed}-{start}.safetensors"
        assert main([*quick, "--out", str(out), "--seed", str(seed)]) == 0
        return load_file(out)

    first, same, other = weights(1, start=5), weights(1, start=6), weights(2, start=5)
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    frozen = "backbone.body.conv1.weight"  # as it was initialised
    assert not torch.equal(first[frozen], other[frozen])


def test_a_resumed_run_keeps_its_validations(command, tmp_path):
    validating = ["--val", command[1], "--val-every", "1", "--checkpoint-every", "1"]
    assert main([*command, *validating]) == 0
    assert main([*command, *validating, "--steps", "3", "--resume"]) == 0
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        card = json.loads(file.metadata()["card"])
    assert [point["step"] for point in card["validations"]] == [1, 2, 3]
    assert [point["step"] for point in card["curve"]] == [1, 2, 3]
    run = read_run(tmp_path / "run")
    assert (run.state, run.step, run.steps, run.fault) == ("done", 3, 3, "")
    assert run.sentence == str(tmp_path / "m.safetensors")
    assert [point["step"] for point in run.validations] == [1, 2, 3]
    assert run.cost["steps"] == 3
    for preview in run.previews:
        pictures = [PIL.Image.open(tmp_path / "run" / name) for name in preview["files"]]
        assert [picture.size for picture in pictures] == [(96, 72)] * 4
    assert [preview["step"] for preview in run.previews] == [1, 2, 3]


def test_the_last_step_is_validated_once_when_no_other_is(command, tmp_path):
    assert main([*command, "--val", command[1], "--no-preview", "--no-probe"]) == 0
    run = read_run(tmp_path / "run")
    assert [point["step"] for point in run.validations] == [2]
    assert (run.previews, run.cost) == ([], None)


def test_a_probe_prints_the_cost_and_trains_nothing(command, tmp_path, capsys):
    assert main([*command, "--probe", "--steps", "600", "--frozen-stages", "4"]) == 0
    out = capsys.readouterr().out
    assert "frozen: stem, layer1, layer2, layer3, layer4" in out
    assert "600 steps take about" in out
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "m.safetensors").exists()


def test_what_fits_is_taken_and_said_in_a_line(command, tmp_path, capsys):
    start = ["--init-from", "embedded", "--depth", "50", "--variant", "v2", "--steps", "1"]
    assert main([*command, *start, "--no-probe"]) == 0
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("embedded:"))
    assert "took stem, layer1, layer2, layer3, layer4, fpn" in line
    assert "fresh: classification_head.cls_logits" in line


def test_one_start_at_most(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--weights", "embedded", "--backbone", "imagenet"])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def never(*_arguments, **_options):
    raise AssertionError("this must be refused before the work")


def refusal(capsys, arguments):
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith("data: ")]
    assert len(lines) == 1, error
    return lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "m.pth"], "must end in .safetensors"),
        (["--out", "no/such/m.safetensors"], "does not exist"),
        (["--card", "missing.json"], "cannot be read"),
        (["--card", "list.json"], "must hold a JSON object"),
        (["--card", "text.json"], "not a JSON file"),
        (["--run-folder", "text.json"], "cannot be written"),
        (["--run-folder", "text.json/run"], "cannot be written"),
        (["--weights", "m.safetensors"], "inputs"),
        (["--clip-grad-norm", "0"], "clip_grad_norm"),
        (["--prior", "1"], "prior"),
        (["--num-classes", "91"], "leave it out"),
        (["--val-every", "-1"], "--val-every must be 0 or more"),
        (["--checkpoint-seconds", "-1"], "checkpoint_seconds must be 0 or more"),
        (["--init-from", "random"], "random weights"),
        (["--init-from", "missing.pth"], "missing.pth"),
    ],
)
def test_train_refuses_before_the_work(command, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrainingRun, "log_cost", never)
    monkeypatch.setattr(TrainingRun, "train", never)
    Path("list.json").write_text("[]")
    Path("text.json").write_text("{")
    assert words in refusal(capsys, [*command, *options])


def test_a_damaged_log_is_refused_before_the_work(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TrainingRun, "log_cost", never)
    monkeypatch.setattr(TrainingRun, "train", never)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "steps.jsonl").write_text('{"step": "twenty"}\n')
    assert "damaged" in refusal(capsys, [*command, "--resume"])


@pytest.mark.parametrize("option", ["--json", "--results"])
def test_evaluate_refuses_before_the_work(tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr(evaluate_command, "load_model", never)
    annotations = write_shapes(tmp_path / "data")
    arguments = ["evaluate", annotations, "--images", annotations.parent / "images", option]
    assert "does not exist" in refusal(capsys, [*arguments, "no/such/x.json"])
    assert "is a folder" in refusal(capsys, [*arguments, tmp_path])
    before = annotations.read_bytes()
    assert "overwritten" in refusal(capsys, [*arguments, annotations])
    assert annotations.read_bytes() == before
