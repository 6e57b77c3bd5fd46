"""`anchors`, `loss` and `pyramid` on the command line: what the pages show, without the pages."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

import retinanet as rn
from retinanet.__main__ import main
from retinanet.anchors import AnchorShape
from retinanet.assignment import assign_anchors
from retinanet.checkpoints import load_model, save_checkpoint
from retinanet.cli import anchors as anchors_command
from retinanet.config import LossConfig, MatcherConfig
from retinanet.coverage import object_coverage, remedies
from retinanet.dialects import DIALECTS, match_dialect
from retinanet.images import resize_boxes
from retinanet.layout import layout_of
from retinanet.loss_shares import hardest_shares, holders
from retinanet.loudest import loudest
from retinanet.matcher_presets import MATCHER_PRESETS
from retinanet.prior import compare_priors
from retinanet.pyramid import top_down_share, values_at
from retinanet.truth import TruthBox, to_coco
from tests.zoo import noise
from tests.zoo_checkpoints import tiny_model

CAT, DOG = (10.0, 5.0, 60.0, 50.0), (70.0, 40.0, 78.0, 62.0)
BOXES = torch.tensor([CAT, DOG])
BOX_OPTIONS = (
    *("--box", *map(str, CAT), "--category", "cat"),
    *("--box", *map(str, DOG), "--category", "dog"),
)
TINY_SIZE = ("--min-size", "64", "--max-size", "96")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inside")


@pytest.fixture(scope="module")
def photo(folder) -> str:
    path = folder / "photo.png"
    noise(96, 64).save(path)
    return str(path)


@pytest.fixture(scope="module")
def weights(folder) -> str:
    """A tiny model of cats and dogs, with a label 1 that has no name."""
    torch.manual_seed(1)
    model = load_model("random", tiny_model().config.to_dict(), "cpu")
    model.categories, model.category_ids = ("cat", None, "dog"), (17, 0, 18)
    with torch.no_grad():
        model.head.classification_head.cls_logits.weight.mul_(40)
        model.head.classification_head.cls_logits.bias.fill_(-2.0)
    path = folder / "tiny.safetensors"
    save_checkpoint(model, path, dtype=torch.float32)
    return str(path)


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights, device="cpu")


@pytest.fixture(scope="module")
def outputs(model, photo):
    with torch.no_grad():
        return model(rn.load_image(photo))


@pytest.fixture(scope="module")
def truth(folder) -> str:
    objects = [TruthBox("cat", CAT), TruthBox("dog", DOG)]
    path = folder / "truth.json"
    path.write_text(json.dumps(to_coco([("photo.png", (96, 64), objects)])))
    return str(path)


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse's way
        code = end.code
    return code, *capsys.readouterr()


def run_json(capsys, folder, *arguments: object) -> tuple[dict, str, str]:
    """What a command writes as JSON, stdout and stderr."""
    target = folder / "out.json"
    code, out, err = run(capsys, *arguments, "--json", target)
    assert code == 0, err
    return json.loads(target.read_text()), out, err


def read_rows(path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


# --- anchors -------------------------------------------------------------------------------


def torchvision_match(outputs, **bounds) -> torch.Tensor:
    """What torchvision's own matcher makes of the model's anchors."""
    settings = {"fg": 0.5, "bg": 0.4, "low": True} | bounds
    matcher = Matcher(settings["fg"], settings["bg"], settings["low"])
    resized = resize_boxes(BOXES, outputs.original_size, outputs.image_size)
    return matcher(box_iou(resized, torch.cat(outputs.anchors)))


@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        ([], {}),
        (["--fg-iou-thresh", "0.6", "--bg-iou-thresh", "0.2"], {"fg": 0.6, "bg": 0.2}),
        (["--no-allow-low-quality-matches"], {"low": False}),
        (["--preset", "rpn"], {"fg": 0.7, "bg": 0.3}),
        (["--preset", "rpn", "--bg-iou-thresh", "0.1"], {"fg": 0.7, "bg": 0.1}),
        (["--preset", "paper", "--allow-low-quality-matches"], {}),
    ],
)
def test_anchors_counts_as_torchvision_on_the_models_own_anchors(
    capsys, folder, photo, outputs, options, bounds
):
    plain, out, err = run_json(capsys, folder, "anchors", photo, *BOX_OPTIONS, *TINY_SIZE, *options)
    matched = torchvision_match(outputs, **bounds)
    total = plain["levels"][-1]
    assert total["foreground"] == int((matched >= 0).sum())
    assert total["background"] == int((matched == -1).sum())
    assert total["ignored"] == int((matched == -2).sum())
    for row, level in zip(plain["levels"], matched.split(outputs.anchors_per_level), strict=False):
        assert row["foreground"] == int((level >= 0).sum())
        assert row["anchors"] == len(level)
    assert [one["foreground"] for one in plain["objects"]] == [
        int((matched == gt).sum()) for gt in range(2)
    ]
    assert out.startswith("photo.png, 96 x 64 pixels, resized to 96 x 64\n")
    assert plain["imbalance"] in out
    assert err == ""


def test_anchors_tells_of_each_object_and_its_remedies(capsys, folder, photo):
    target = folder / "objects.csv"
    arguments = ("anchors", photo, *BOX_OPTIONS, *TINY_SIZE, "--csv", target)
    plain, out, _ = run_json(capsys, folder, *arguments)
    layout, config = layout_of((64, 96), 64, 96), MatcherConfig()
    coverages = object_coverage(assign_anchors(layout, BOXES, config=config), layout)
    assert {own.status for own in coverages} == {"natural", "forced"}
    for own, one, row in zip(coverages, plain["objects"], read_rows(target), strict=True):
        ways = remedies(layout, BOXES, own.gt, config, min_size=64, max_size=96)
        assert one["status"] == own.status == row["status"]
        assert one["best_iou"] == pytest.approx(own.best_iou, abs=1e-4)
        assert one["remedies"] == {f.name: getattr(ways, f.name) for f in fields(ways)}
        assert row["remedy_min_size"] == str(ways.min_size or "")
        assert one["sentence"] in out
    assert [one["box"] for one in plain["objects"]] == BOXES.tolist()
    assert "object 2, dog: no anchor is foreground for it by its IoU alone" in out
    assert tuple(read_rows(target)[0]) == anchors_command.CSV_COLUMNS
    assert sum(row["foreground"] for row in plain["best_iou"]) > 0


def test_anchors_takes_other_anchors(capsys, folder, photo):
    options = ("--base-size", "16", "--scales", "1", "1.5", "--aspect-ratios", "1", "3")
    arguments = ("anchors", photo, *BOX_OPTIONS, *TINY_SIZE, *options)
    plain, _, _ = run_json(capsys, folder, *arguments)
    layout = layout_of((64, 96), 64, 96, AnchorShape(16, (1, 1.5), (1, 3)))
    assert plain["levels"][-1]["anchors"] == layout.num_anchors
    assert plain["levels"][-1]["foreground"] == assign_anchors(layout, BOXES).counts["foreground"]
    assert plain["anchors"] == json.loads(json.dumps(layout.shape.to_dict()))


def test_anchors_compares_the_dialects(capsys, folder, photo):
    arguments = ("anchors", photo, *BOX_OPTIONS, *TINY_SIZE)
    alone, out, _ = run_json(capsys, folder, *arguments)
    assert "dialects" not in alone
    plain, longer, _ = run_json(capsys, folder, *arguments, "--dialects")
    layout = layout_of((64, 96), 64, 96)
    for row, dialect in zip(plain["dialects"], DIALECTS, strict=True):
        match = match_dialect(dialect.name, layout, BOXES, MatcherConfig())
        assert {fate: row[fate] for fate in match.counts} == match.counts
    assert set(plain["dialect_sentences"]) == {"paper", "detectron2", "mmdetection"}
    assert longer.startswith(out)
    for sentence in plain["dialect_sentences"].values():
        assert sentence in longer


def test_anchors_needs_no_network(capsys, folder, photo, monkeypatch):
    def never(*_arguments, **_options):
        raise AssertionError("no model may be built and nothing downloaded")

    monkeypatch.setattr("retinanet.model.RetinaNet.__init__", never)
    monkeypatch.setattr("retinanet.checkpoints._download", never)
    for name, size in (("coco-v2", [800, 1333]), ("random", [800, 1333])):
        arguments = ("anchors", photo, "--box", *CAT, "--weights", name)
        plain, _, _ = run_json(capsys, folder, *arguments)
        assert list(plain["input_size"].values()) == size
    plain, _, _ = run_json(capsys, folder, *arguments, "--min-size", "400")
    assert plain["input_size"] == {"min_size": 400, "max_size": 1333}


def test_anchors_takes_the_weights_own_size(capsys, folder, photo, weights):
    plain, _, _ = run_json(capsys, folder, "anchors", photo, *BOX_OPTIONS, "--weights", weights)
    assert plain["input_size"] == {"min_size": 64, "max_size": 96}


# --- ground truth --------------------------------------------------------------------------


def test_a_file_says_the_same_as_its_boxes(capsys, folder, photo, truth):
    boxes, _, _ = run_json(capsys, folder, "anchors", photo, *BOX_OPTIONS, *TINY_SIZE)
    file, _, err = run_json(capsys, folder, "anchors", photo, "--truth", truth, *TINY_SIZE)
    assert file == boxes
    assert err == ""


def test_the_numbers_of_a_yolo_file_get_their_names(capsys, folder, photo):
    yolo, names = folder / "photo.txt", folder / "classes.txt"
    yolo.write_text("1 0.5 0.5 0.5 0.5\n")
    arguments = ("anchors", photo, "--truth", yolo, *TINY_SIZE)
    plain, _, _ = run_json(capsys, folder, *arguments)
    assert plain["objects"][0]["category"] == "bicycle"
    names.write_text("wheel\nanemone\n")
    plain, _, _ = run_json(capsys, folder, *arguments, "--class-names", names)
    assert plain["objects"][0]["category"] == "anemone"
    assert plain["objects"][0]["box"] == [24, 16, 72, 48]


def test_a_file_without_objects_leaves_everything_background(capsys, folder, photo):
    yolo, target = folder / "nothing.txt", folder / "nothing.csv"
    yolo.write_text("")
    arguments = ("anchors", photo, "--truth", yolo, *TINY_SIZE, "--dialects", "--csv", target)
    plain, out, err = run_json(capsys, folder, *arguments)
    assert plain["levels"][-1]["background"] == plain["levels"][-1]["anchors"]
    assert "There is no object" in out
    assert read_rows(target) == []
    assert target.read_text().strip().split(",") == list(anchors_command.CSV_COLUMNS)
    assert "nothing.txt" in err


def test_a_box_is_cut_at_the_pictures_edge_and_that_is_said(capsys, folder, photo):
    arguments = ("anchors", photo, "--box", "-20", "5", "60", "500", *TINY_SIZE)
    plain, out, err = run_json(capsys, folder, *arguments)
    assert plain["objects"][0]["box"] == [0, 5, 60, 64]
    assert err == "Box 1 reaches beyond the picture; 0, 5, 60, 64 is left of it.\n"
    assert "object 1: " in out


@pytest.mark.parametrize("command", ["anchors", "loss"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--truth", "--box", "missing"]),
        (["--box", *CAT, "--truth", "t.json"], ["not allowed"]),
        (["--box", "1", "2", "3"], ["--box"]),
        (["--box", "60", "5", "10", "50", "--category", "cat"], ["Box 1", "no area"]),
        (["--box", "1", "5", "nan", "50", "--category", "cat"], ["Box 1", "finite"]),
        (["--box", "200", "5", "300", "50", "--category", "cat"], ["Box 1", "96 x 64"]),
        (["--category", "cat", "--box", *CAT], ["--category", "before it"]),
        (["--box", *CAT, "--category", "cat", "--category", "dog"], ["box 1 has one"]),
        (["--box", *CAT, "--category", "\n"], ["Box 1", "category"]),
        (["--truth", "no-such.json"], ["no-such.json", "No such file"]),
        (["--truth", "."], ["cannot be read"]),
        (["--truth", __file__], ["test_cli_inside.py"]),
        (["--box", *CAT, "--category", "cat", "--class-names", __file__], ["--truth"]),
        (["--box", *CAT, "--category", "cat", "--preset", "mine"], ["mine", "extreme"]),
        (["--box", *CAT, "--category", "cat", "--fg-iou-thresh", "0.1"], ["bg_iou_thresh"]),
        (["--box", *CAT, "--category", "cat", "--fg-iou-thresh", "2"], ["fg_iou_thresh"]),
        (["--box", *CAT, "--category", "cat", "--min-size", "5"], ["min_size"]),
        (["--box", *CAT, "--category", "cat", "--weights", "no-such"], ["no-such"]),
        (["--box", *CAT, "--category", "cat", "--json", "no/such/x.json"], ["does not exist"]),
        (["--box", *CAT, "--category", "cat", "--csv", "."], ["is a folder"]),
    ],
)
def test_bad_ground_truth_and_settings_give_one_line(capsys, photo, command, options, words):
    assert_one_line(run(capsys, command, photo, *options), f"retinanet {command}:", *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["anchors", "--base-size", "1"], ["base_size"]),
        (["anchors", "--scales", "1", "1"], ["scales", "twice"]),
        (["anchors", "--aspect-ratios", "0"], ["aspect_ratios"]),
        (["loss", "--alpha", "2"], ["alpha"]),
        (["loss", "--gamma", "-1"], ["gamma"]),
        (["loss", "--loudest", "-1"], ["--loudest"]),
        (["loss", "--device", "abacus"], ["abacus"]),
        (["loss", "--weights", "random", "--depth", "19"], ["depth"]),
    ],
)
def test_bad_options_of_one_command_give_one_line(capsys, photo, arguments, words):
    command, *options = arguments
    boxes = ("--box", *CAT, "--category", "cat")
    assert_one_line(run(capsys, command, photo, *boxes, *options), *words)


def assert_one_line(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


@pytest.mark.parametrize("command", ["anchors", "loss", "pyramid"])
def test_pictures_and_files_of_ones_own(capsys, photo, truth, command):
    before = [Path(own).read_bytes() for own in (truth, photo)]
    needed = [] if command == "pyramid" else ["--truth", truth]
    assert_one_line(run(capsys, command, "gone.png", *needed), "gone.png")
    for target in [photo, *needed[1:]]:
        result = run(capsys, command, photo, *needed, "--csv", target)
        assert_one_line(result, "would be overwritten")
    assert [Path(own).read_bytes() for own in (truth, photo)] == before
    same = str(Path(photo).parent / "both.out")
    result = run(capsys, command, photo, *needed, "--csv", same, "--json", same)
    assert_one_line(result, "two files")


# --- loss ----------------------------------------------------------------------------------


def test_loss_is_torchvisions(capsys, folder, photo, weights, outputs):
    arguments = ("loss", photo, *BOX_OPTIONS, "--weights", weights)
    plain, out, _ = run_json(capsys, folder, *arguments)
    matched = torchvision_match(outputs)
    boxes = resize_boxes(BOXES, outputs.original_size, outputs.image_size)
    expected = RetinaNetHead(256, 9, 3).compute_loss(
        [{"boxes": boxes, "labels": torch.tensor([0, 2])}],
        {
            "cls_logits": torch.cat(outputs.cls_logits)[None],
            "bbox_regression": torch.cat(outputs.bbox_regression)[None],
        },
        [torch.cat(outputs.anchors)],
        [matched],
    )
    assert plain["classification"] == pytest.approx(float(expected["classification"]), rel=1e-5)
    assert plain["bbox_regression"] == pytest.approx(float(expected["bbox_regression"]), rel=1e-5)
    assert plain["num_foreground"] == int((matched >= 0).sum())
    assert f"Classification loss {plain['classification']:.4f}" in out


@pytest.mark.parametrize(
    ("options", "loss", "matcher"),
    [
        ([], LossConfig(), MatcherConfig()),
        (["--alpha", "0.5", "--gamma", "0"], LossConfig(0.5, 0), MatcherConfig()),
        (["--gamma", "3"], LossConfig(0.25, 3), MatcherConfig()),
        (["--fg-iou-thresh", "0.7"], LossConfig(), MatcherConfig(0.7)),
        *(
            (["--preset", preset.name], LossConfig(), preset.config)
            for preset in MATCHER_PRESETS[1:]
        ),
    ],
)
def test_loss_writes_what_python_gives(
    capsys, folder, photo, weights, outputs, options, loss, matcher
):
    arguments = ("loss", photo, *BOX_OPTIONS, "--weights", weights, *options)
    plain, out, _ = run_json(capsys, folder, *arguments)
    match = rn.assign(outputs, BOXES, torch.tensor([0, 2]), matcher)
    trace = rn.compute_loss(outputs, match, loss)
    assert plain["classification"] == pytest.approx(float(trace.classification), rel=1e-6)
    assert plain["bbox_regression"] == pytest.approx(float(trace.bbox_regression), rel=1e-6)
    for row in plain["levels"][:-1]:
        for name, value in trace.per_level[row["level"]].items():
            assert row[name] == pytest.approx(value, rel=1e-6)
    for name in ("classification", "bbox_regression"):
        parts = [row[name] for row in plain["levels"][:-1]]
        assert sum(parts) == pytest.approx(plain["levels"][-1][name], rel=1e-5)
    assert (plain["loss"], plain["matcher"]) == (loss.to_dict(), matcher.to_dict())
    assert plain["config"] == outputs.config.to_dict()
    own = holders(outputs, match, loss)
    assert [row["pairs"] for row in plain["holders"]] == [group.pairs for group in own.groups]
    gammas = {row["gamma"] for row in plain["hardest_20_percent"]}
    assert loss.gamma in gammas
    hardest = hardest_shares(outputs, match, sorted(gammas))
    for row in plain["hardest_20_percent"]:
        assert row["share_of_loss"] == pytest.approx(hardest[row["side"]][row["gamma"]])
    priors = compare_priors(outputs, match, loss)
    assert [row["total"] for row in plain["prior"]] == [prior.total for prior in priors]
    for sentence in plain["sentences"].values():
        assert sentence in out


def test_the_loudest_anchors_are_told_and_written(capsys, folder, photo, weights, outputs):
    target = folder / "loud.csv"
    arguments = ("loss", photo, *BOX_OPTIONS, "--weights", weights, "--csv", target)
    plain, out, _ = run_json(capsys, folder, *arguments, "--loudest", "2")
    match = rn.assign(outputs, BOXES, torch.tensor([0, 2]))
    trace = rn.compute_loss(outputs, match)
    rows = read_rows(target)
    for fate, kind in (("foreground", "positive"), ("background", "negative")):
        found = loudest(outputs, match, trace, kind, 2)
        assert len(found) == 2
        assert [one["anchor"] for one in plain["loudest"][fate]] == [one.anchor for one in found]
        own = [row for row in rows if row["fate"] == fate]
        assert [float(row["loss"]) for row in own] == pytest.approx([one.loss for one in found])
        assert [float(row["x1"]) for row in own] == pytest.approx(
            [one.box[0] for one in found], abs=0.01
        )
        for one in found:
            assert one.sentence in out
    plain, out, _ = run_json(capsys, folder, *arguments, "--loudest", "0")
    assert plain["loudest"] == {"foreground": [], "background": []}
    assert "Loudest" not in out
    assert read_rows(target) == []


def test_a_class_that_the_model_lacks_is_left_out_and_named(capsys, folder, photo, weights):
    arguments = ("loss", photo, *BOX_OPTIONS, "--weights", weights)
    known, _, _ = run_json(capsys, folder, *arguments)
    unicorn = ("--box", "1", "1", "40", "40", "--category", "unicorn")
    plain, _, err = run_json(capsys, folder, *arguments, *unicorn)
    assert err.splitlines()[0] == "Left out, as tiny.safetensors has no such class: unicorn."
    assert plain == known | {"left_out": ["unicorn"]}


def test_loss_of_a_file_and_of_nothing(capsys, folder, photo, weights, truth):
    arguments = ("loss", photo, "--weights", weights)
    boxes, _, _ = run_json(capsys, folder, *arguments, *BOX_OPTIONS)
    file, _, _ = run_json(capsys, folder, *arguments, "--truth", truth)
    assert file == boxes
    (folder / "none.txt").write_text("")
    plain, out, _ = run_json(capsys, folder, *arguments, "--truth", folder / "none.txt")
    assert plain["num_foreground"] == 0
    assert plain["bbox_regression"] == 0
    assert "There is no foreground anchor" in out


def test_a_model_without_names_is_asked_by_label(capsys, folder, photo):
    shape = ("--depth", "18", "--num-convs", "1", "--num-classes", "3")
    arguments = ("loss", photo, "--weights", "random", *shape, *TINY_SIZE, "--box", *CAT)
    plain, _, _ = run_json(capsys, folder, *arguments, "--category", "class 2")
    assert plain["objects"] == [{"category": "class 2", "label": 2, "box": list(CAT)}]
    assert_one_line(run(capsys, *arguments), "Box 1 has no category")


# --- pyramid -------------------------------------------------------------------------------


def test_pyramid_writes_what_python_gives(capsys, folder, photo, weights, model, outputs):
    target = folder / "maps.csv"
    arguments = ("pyramid", photo, "--weights", weights, "--csv", target)
    plain, out, _ = run_json(capsys, folder, *arguments)
    rows = {row["map"]: row for row in plain["levels"]}
    assert list(rows) == ["C3", "C4", "C5", "P3", "P4", "P5", "P6", "P7"]
    for name, row in rows.items():
        assert [row["channels"], row["rows"], row["columns"]] == list(outputs.features[name].shape)
    assert sum(row["anchors"] or 0 for row in rows.values()) == outputs.num_anchors
    shares = top_down_share(model, outputs)
    assert plain["top_down_share"] == pytest.approx(shares)
    assert rows["P3"]["top_down_share"] == pytest.approx(shares["P3"])
    assert rows["P6"]["top_down_share"] is None
    assert plain["levels_sentence"] in out
    assert plain["top_down_sentence"] in out
    assert [row["map"] for row in read_rows(target)] == list(rows)
    assert read_rows(target)[3]["anchor_sizes"] == "32 40 50"
    assert "values" not in plain
    assert "architecture" not in plain


def test_pyramid_says_what_the_maps_say_at_a_point(capsys, folder, photo, weights, outputs):
    target = folder / "point.csv"
    arguments = ("pyramid", photo, "--weights", weights, "--point", "40", "30.5", "--csv", target)
    plain, out, _ = run_json(capsys, folder, *arguments)
    values = values_at(outputs, 40, 30.5)
    for ours, one, row in zip(plain["values"], values, read_rows(target), strict=True):
        assert (ours["map"], ours["row"], ours["column"]) == (one["map"], one["row"], one["column"])
        assert ours["strength"] == pytest.approx(one["strength"], rel=1e-5)
        assert ours["score"] == pytest.approx(one["score"], rel=1e-5)
        assert row["map"] == one["map"]
        assert float(row["strength"]) == pytest.approx(one["strength"], rel=1e-5)
    assert plain["point"] == [40, 30.5]
    assert plain["point_sentence"] in out


def test_pyramid_profiles_the_network(capsys, folder, photo, weights, model):
    plain, out, _ = run_json(capsys, folder, "pyramid", photo, "--weights", weights, "--profile")
    whole = [row for row in plain["architecture"] if row["level"] is None]
    *blocks, total = whole
    assert total["parameters"] == sum(p.numel() for p in model.parameters())
    assert total["macs"] == sum(row["macs"] for row in blocks)
    assert {row["weights"] for row in plain["weights_that_fit"]} >= {"coco-v1", "coco-v2"}
    assert plain["architecture_sentence"] in out
    assert "classification_head" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--point", "5"], ["--point"]),
        (["--point", "5", "many"], ["many"]),
        (["--point", "200", "5"], ["--point 200 5", "96 x 64"]),
        (["--point", "nan", "5"], ["nan"]),
        (["--weights", "no-such"], ["no-such"]),
        (["--device", "abacus"], ["abacus"]),
        (["--json", "no/such/x.json"], ["does not exist"]),
        (["--min-size", "5"], ["min_size"]),
    ],
)
def test_pyramid_refuses_bad_options(capsys, photo, options, words):
    assert_one_line(run(capsys, "pyramid", photo, *options), "retinanet pyramid:", *words)


# --- the whole -----------------------------------------------------------------------------

MATCHING = [f"--{field.name.replace('_', '-')}" for field in fields(MatcherConfig)]
SHAPE = [f"--{field.name.replace('_', '-')}" for field in fields(AnchorShape)]
TRUTH = ["--truth", "--box", "--category", "--class-names"]
EVERYWHERE = ["--json", "--csv", "--weights", "--min-size", "--max-size"]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("anchors", [*TRUTH, *MATCHING, *SHAPE, "--preset", "--dialects", *EVERYWHERE]),
        ("loss", [*TRUTH, *MATCHING, "--alpha", "--gamma", "--preset", "--loudest", *EVERYWHERE]),
        ("pyramid", ["--point", "--profile", "--depth", "--precision", *EVERYWHERE]),
    ],
)
def test_help_names_every_option(capsys, command, options):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    for option in options:
        assert option in out


def test_a_terminal_of_another_code_page_gets_every_line(monkeypatch, photo):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    arguments = ["anchors", photo, "--box", *map(str, CAT), *TINY_SIZE, "--dialects"]
    assert main(arguments) == 0
    assert b"From torchvision to Paper" in written.getvalue()
