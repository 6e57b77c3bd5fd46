"""The command line: what it prints and writes, and one line with exit code 2 for bad input."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import PIL.Image
import pytest
import torch

import retinanet.benchmark as benchmark_module
import retinanet.cli.benchmark as benchmark_command
from retinanet.__main__ import COMMANDS, main
from retinanet.benchmark import compare_detections
from retinanet.checkpoints import load_model, save_checkpoint
from retinanet.cli.detect import describe
from retinanet.cli.files import shown
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.images import load_image
from retinanet.keymaps import CheckpointError
from retinanet.presets import PRESETS
from tests.zoo import BAD_IMAGES, ODD_IMAGES, noise
from tests.zoo_checkpoints import BAD_CHECKPOINTS, BAD_NAMES, tiny_model

LARGE = ["--min-size", "800", "--max-size", "1333"]
LOW = ["--score-thresh", "0.01"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def weights(folder) -> str:
    """A tiny model whose scores are spread out, so that it detects something."""
    torch.manual_seed(1)
    model = load_model("random", tiny_model().config.to_dict(), "cpu")
    model.categories, model.category_ids = ("cat", None, "dog"), (17, 0, 18)
    logits = torch.cat(model(noise(96, 64)).cls_logits)
    layer = model.head.classification_head.cls_logits
    with torch.no_grad():
        layer.weight.mul_(1.5 / logits.std())
        layer.bias.fill_(-5.0)
    path = folder / "tiny.safetensors"
    save_checkpoint(model, path, recommended=PostprocessConfig(score_thresh=0.06))
    return str(path)


@pytest.fixture(scope="module")
def photo(folder) -> Path:
    path = folder / "photo.png"
    noise(96, 64).save(path)
    return path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse's way
        code = end.code
    return code, *capsys.readouterr()


def assert_one_line(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err


# --- detect --------------------------------------------------------------------------------


def test_detect_writes_what_python_gives(capsys, folder, photo, weights):
    targets = [folder / name for name in ("boxes.json", "boxes.csv", "drawn.png")]
    options = [
        f for pair in zip(("--json", "--csv", "--image"), targets, strict=True) for f in pair
    ]
    code, out, _ = run(capsys, "detect", photo, "--weights", weights, *options)
    assert code == 0
    model = load_model(weights, device="cpu")
    trace = detect(model(load_image(photo)), model.recommended)
    assert len(trace) > 3
    assert out.splitlines()[0] == f"photo.png, 96 x 64 pixels: {len(trace)} detections"
    assert out == describe(load_image(photo), trace) + "\n"

    results = json.loads(targets[0].read_text())
    assert [entry["score"] for entry in results] == trace.scores.tolist()
    assert {entry["category_id"] for entry in results} <= {17, 0, 18}
    x, y, width, height = results[0]["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(trace.boxes[0].tolist(), abs=1e-4)
    rows = list(csv.DictReader(io.StringIO(targets[1].read_text())))
    assert [float(row["score"]) for row in rows] == pytest.approx(trace.scores.tolist(), abs=1e-6)
    with PIL.Image.open(targets[2]) as drawn:
        assert drawn.size == (96, 64)


def test_the_weights_recommendation_is_the_default(capsys, photo, weights):
    recommended = run(capsys, "detect", photo, "--weights", weights)[1]
    assert (
        recommended
        == run(capsys, "detect", photo, "--weights", weights, "--score-thresh", "0.06")[1]
    )
    assert (
        recommended
        != run(capsys, "detect", photo, "--weights", weights, "--score-thresh", "0.1")[1]
    )


CHANGES = {
    "score_thresh": 0.2,
    "nms_thresh": 0.1,
    "topk_candidates": 2,
    "detections_per_img": 3,
    "class_score_thresh": "cat=0.9",
}


@pytest.mark.parametrize("name", [field.name for field in fields(PostprocessConfig)])
def test_every_setting_is_an_option_that_changes_the_result(capsys, photo, weights, name):
    arguments = ["detect", photo, "--weights", weights]
    before = run(capsys, *arguments)[1]
    option = f"--{name.replace('_', '-')}"
    code, after, _ = run(capsys, *arguments, option, CHANGES[name])
    assert code == 0
    assert after != before


def test_sizes_and_shape_are_options(capsys, photo, weights):
    arguments = ["detect", photo, *LOW]
    given = run(capsys, *arguments, "--weights", weights)[1]
    smaller = run(capsys, *arguments, "--weights", weights, "--min-size", 48)[1]
    assert smaller != given
    shape = ["--depth", 18, "--num-convs", 1, "--num-classes", 2, "--variant", "v2"]
    code, out, _ = run(
        capsys,
        *arguments,
        "--weights",
        "random",
        *shape,
        "--min-size",
        64,
        "--max-size",
        96,
        "--score-thresh",
        0,
    )
    assert code == 0
    assert "class 1" in out


def test_many_pictures_by_folder_and_pattern(capsys, folder, weights):
    photos = folder / "many"
    photos.mkdir()
    for name in ("a.png", "b.jpg", "b.png"):
        noise(80, 60).save(photos / name)
    (photos / "readme.txt").write_text("no picture")
    code, out, err = run(
        capsys,
        "detect",
        photos,
        photos / "*.png",
        "--weights",
        weights,
        "--json",
        folder / "many.json",
        "--image",
        folder / "drawn",
    )
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines() if "pixels" in line] == [
        "a.png",
        "b.jpg",
        "b.png",
    ]
    assert "[3/3]" in err
    assert sorted(path.name for path in (folder / "drawn").iterdir()) == [
        "a.png",
        "b-2.png",
        "b.png",
    ]
    results = json.loads((folder / "many.json").read_text())
    assert {(entry["image_id"], entry["file_name"]) for entry in results} == {
        (1, "a.png"),
        (2, "b.jpg"),
        (3, "b.png"),
    }


def test_a_bad_picture_among_many_is_reported_and_the_others_go_on(capsys, folder, photo, weights):
    bad = folder / "bad.jpg"
    bad.write_bytes(BAD_IMAGES["truncated.jpg"]())
    code, out, err = run(
        capsys,
        "detect",
        folder / "none.png",
        bad,
        photo,
        "--weights",
        weights,
        "--csv",
        folder / "others.csv",
    )
    assert code == 2
    assert out.startswith("photo.png")
    complaints = [line for line in err.splitlines() if line.startswith("retinanet detect:")]
    assert len(complaints) == 2
    assert "none.png" in complaints[0]
    assert "bad.jpg" in complaints[1]
    assert "photo.png" in (folder / "others.csv").read_text()


def test_hostile_pictures_give_a_line_each(capsys, folder, weights):
    zoo = folder / "zoo"
    zoo.mkdir()
    for name, build in BAD_IMAGES.items():
        (zoo / name).write_bytes(build())
    files = sorted(zoo.iterdir())
    code, out, err = run(capsys, "detect", *files, "--weights", weights)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    complaints = [line for line in err.splitlines() if line.startswith("retinanet detect:")]
    assert len(complaints) == len(BAD_IMAGES)


@pytest.mark.parametrize("name", ["1x1.png", "10000x10.png", "10x10000.jpg"])
def test_odd_pictures_are_drawn_in_full(capsys, folder, weights, name):
    path = folder / name
    path.write_bytes(ODD_IMAGES[name]())
    target = folder / f"drawn-{path.stem}.png"
    code, _, err = run(capsys, "detect", path, "--weights", weights, "--image", target, *LARGE)
    assert code == 0, err
    with PIL.Image.open(target) as drawn:
        assert drawn.size == load_image(path).size


@pytest.mark.parametrize("name", sorted(BAD_CHECKPOINTS))
def test_bad_weights_give_one_line(capsys, tmp_path, photo, name):
    path = BAD_CHECKPOINTS[name](tmp_path)
    assert_one_line(run(capsys, "detect", photo, "--weights", path), "retinanet detect:")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--nms-thresh", "1.5"], ["nms_thresh", "between 0 and 1"]),
        (["--score-thresh", "nan"], ["score_thresh"]),
        (["--topk-candidates", "0"], ["topk_candidates", "1 or more"]),
        (["--topk-candidates", "many"], ["--topk-candidates", "many"]),
        (["--detections-per-img", "-3"], ["detections_per_img"]),
        (["--weights", "no-such"], ["no-such", "embedded"]),
        (["--weights", "random", "--depth", "19"], ["depth"]),
        (["--weights", "random", "--min-size", "900", "--max-size", "800"], ["max_size"]),
        (["--device", "abacus"], ["abacus"]),
        (["--precision", "fp8"], ["--precision"]),
        (["--frobnicate"], ["--frobnicate"]),
        (["--json", "no/such/folder/a.json"], ["does not exist"]),
        (["--json", "."], ["is a folder"]),
        (["--image", "drawn.xyz"], [".png"]),
    ],
)
def test_bad_options_give_one_line(capsys, photo, options, words):
    assert_one_line(run(capsys, "detect", photo, *options), "retinanet", *words)


def test_a_file_cannot_hold_several_pictures(capsys, folder, photo, weights):
    other = folder / "other.png"
    noise().save(other)
    result = run(
        capsys, "detect", photo, other, "--weights", weights, "--image", folder / "one.png"
    )
    assert_one_line(result, "folder")


def test_a_target_that_cannot_be_written_gives_one_line(capsys, folder, photo, weights):
    (folder / "file").write_text("not a folder")
    code, _, err = run(
        capsys, "detect", photo, "--weights", weights, "--json", folder / "file" / "boxes.json"
    )
    assert code == 2
    assert "Traceback" not in err


def test_the_persons_own_pictures_are_never_overwritten(capsys, tmp_path, weights):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("p.png", "q.jpg"):
        noise().save(photos / name)
    (tmp_path / "link.png").symlink_to(photos / "p.png")
    before = {path: path.read_bytes() for path in photos.iterdir()}
    for inputs, options in (
        ([photos / "p.png"], ["--image", photos / "p.png"]),
        ([photos / "p.png"], ["--image", tmp_path / "link.png"]),
        ([photos / "p.png"], ["--image", photos]),
        ([photos], ["--image", photos]),
        ([photos], ["--json", photos / "q.jpg"]),
        ([photos / "q.jpg"], ["--csv", photos / ".." / "photos" / "q.jpg"]),
    ):
        result = run(capsys, "detect", *inputs, "--weights", weights, *options)
        assert_one_line(result, "would be overwritten")
    assert {path: path.read_bytes() for path in photos.iterdir()} == before


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_weights_cannot_have_give_one_line(capsys, photo, name):
    assert_one_line(run(capsys, "detect", photo, "--weights", BAD_NAMES[name]), "retinanet detect:")


def test_no_picture_gives_one_line(capsys, tmp_path):
    assert_one_line(run(capsys, "detect", tmp_path), "no picture")
    assert_one_line(run(capsys, "detect", tmp_path / "gone.jpg"), "does not exist")


def test_names_that_are_no_text_are_printed_all_the_same(capsys, tmp_path, weights):
    assert shown("a\udcffb\x1b[2J\n.png") == "a?b?[2J?.png"
    path = tmp_path / "line\nbreak.png"
    noise().save(path)
    code, out, _ = run(capsys, "detect", path, "--weights", weights)
    assert code == 0
    assert out.startswith("line?break.png")


# --- the whole -----------------------------------------------------------------------------


def test_as_a_module(photo, weights):
    arguments = [sys.executable, "-m", "retinanet", "detect", str(photo), "--weights", weights]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("photo.png, 96 x 64 pixels")


def test_help_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        assert name in out


@pytest.mark.parametrize("arguments", [[], ["dettect", "a.png"], ["detect"]])
def test_a_wrong_call_gives_one_line(capsys, arguments):
    assert_one_line(run(capsys, *arguments), "--help")


# --- benchmark -----------------------------------------------------------------------------


def test_benchmark_measures_the_same_boxes(capsys, folder, monkeypatch):
    def no_embedded(name):
        raise CheckpointError("none here")

    monkeypatch.setattr(benchmark_command, "open_checkpoint", no_embedded)
    monkeypatch.setattr(benchmark_module, "SETTINGS", benchmark_module.SETTINGS[:2])
    target = folder / "benchmark.json"
    code, out, err = run(
        capsys,
        "benchmark",
        "--device",
        "cpu",
        "--repeats",
        1,
        "--min-size",
        64,
        "--max-size",
        96,
        "--json",
        target,
    )
    assert code == 0
    assert "none here" in err
    report = json.loads(target.read_text())
    change = report["settings_change"]
    assert change["entered_nms"] > 0
    assert change["times_faster"] == pytest.approx(change["torchvision_ms"] / change["ours_ms"])
    rows = {row["name"]: row for row in report["forward"][0]["rows"]}
    exact = rows["ours fp32"]["difference"]
    assert exact["detections"] == change["detections"] > 0
    assert exact["unmatched"] == 0
    assert exact["box_px"] < 0.01
    assert exact["score"] < 1e-4
    assert set(report["memory"]["peak_of_a_call"]) == {"torchvision eager fp32", "ours fp32"}
    inside = report["inside"]
    assert inside["same_matches"]
    assert inside["loss_difference"] < 1e-4
    times = {row["name"]: row["ms"] for row in inside["rows"]}
    for row in inside["rows"]:
        assert row["times_faster"] == pytest.approx(times[row["against"]] / row["ms"])
        assert row["name"] in out
    for word in ("assign", "object_coverage", "compute_loss", "negative_sums", "loss_from_sums"):
        assert any(name.startswith(word) for name in times)
    for word in ("torchvision", "64x96", "MB", "times faster", "the same matches"):
        assert word in out


def test_compare_detections_finds_what_differs():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 2, 3])
    other = boxes.clone()
    other[1, 2] += 1.5
    ours = other, torch.tensor([0.9, 0.75, 0.7]), torch.tensor([1, 2, 4])
    found = compare_detections(ours, (boxes, scores, labels))
    assert found["box_px"] == 1.5
    assert found["score"] == pytest.approx(0.05)
    assert (found["unmatched"], found["detections"]) == (1, 3)
    nothing = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert compare_detections(nothing, (boxes, scores, labels))["unmatched"] == 3
    assert compare_detections(ours, nothing)["unmatched"] == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--repeats", "0"], "--repeats"),
        (["--device", "abacus"], "abacus"),
        (["--json", "no/such/x.json"], "x.json"),
        (["--min-size", "5"], "min_size"),
    ],
)
def test_benchmark_refuses_bad_options(capsys, options, word, monkeypatch):
    def never(*_arguments, **_options):
        raise AssertionError("bad options must be refused before the work")

    if "abacus" not in options:
        monkeypatch.setattr(benchmark_command, "run_benchmark", never)
    code, _, err = run(capsys, "benchmark", *options)
    assert code == 2
    assert word in err
    assert "Traceback" not in err


# --- presets and reports -------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_sets_every_knob(capsys, photo, weights, preset):
    model = load_model(weights, device="cpu")
    arguments = ["detect", photo, "--weights", weights, "--preset", preset.name]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    trace = detect(model(load_image(photo)), preset.config)
    assert out == describe(load_image(photo), trace) + "\n"
    code, out, _ = run(capsys, *arguments, "--detections-per-img", 2)
    trace = detect(model(load_image(photo)), replace(preset.config, detections_per_img=2))
    assert out == describe(load_image(photo), trace) + "\n"


def test_an_unknown_preset_gives_one_line_with_the_known_ones(capsys, photo):
    result = run(capsys, "detect", photo, "--preset", "mmdetection", "--weights", "no-such")
    assert_one_line(result, "mmdetection", *(preset.name for preset in PRESETS))


def test_the_report_is_written_and_its_command_gives_the_same_boxes(
    capsys, monkeypatch, tmp_path, weights
):
    noise(96, 64).save(tmp_path / "my photo.png")
    target = tmp_path / "report.html"
    code, out, _ = run(
        capsys,
        *("detect", tmp_path / "my photo.png", "--weights", weights, "--html", target),
        *("--preset", "deepforest", "--score-thresh", "0.07", "--class-score-thresh", "dog=0.08"),
    )
    assert code == 0
    text = target.read_text(encoding="utf-8")
    model = load_model(weights, device="cpu")
    image = load_image(tmp_path / "my photo.png")
    trace = detect(model(image), PostprocessConfig(0.07, 0.05, 1000, 300, {2: 0.08}))
    assert len(trace) > 1
    assert out == describe(image, trace) + "\n"
    for row, score in enumerate(trace.scores.tolist(), start=1):
        assert re.search(rf'<tr id="row-{row}">.*?{score:.3f}', text)
    pre = re.sub(r"<[^>]+>", "", re.search(r"<pre>(.*?)</pre>", text)[1])
    words = shlex.split(html.unescape(pre))
    assert words[:4] == ["python", "-m", "retinanet", "detect"]
    assert run(capsys, *words[3:])[1] == out


def test_reports_of_many_pictures_go_to_a_folder(capsys, tmp_path, weights):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.jpg", "b.png"):
        noise(80, 60).save(photos / name)
    (tmp_path / "reports").mkdir()
    code, _, _ = run(
        capsys,
        *("detect", photos, "--weights", weights, "--html", tmp_path / "reports"),
        *("--image", tmp_path / "reports"),
    )
    assert code == 0
    names = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert names == sorted(
        f"{stem}{suffix}" for stem in ("a", "b", "b-2") for suffix in (".html", ".png")
    )
    result = run(capsys, "detect", photos, "--weights", weights, "--html", tmp_path / "all.html")
    assert_one_line(result, "--html", "folder")


def test_a_report_needs_a_place_it_can_be_written_to(capsys, tmp_path, weights):
    path = tmp_path / "page.html"
    noise().save(path, "PNG")
    for target, words in (
        (tmp_path / "report.pdf", ["--html", ".html"]),
        (tmp_path / "no" / "report.html", ["does not exist"]),
        (path, ["would be overwritten"]),
    ):
        assert_one_line(run(capsys, "detect", path, "--weights", weights, "--html", target), *words)
