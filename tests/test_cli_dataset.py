"""`dataset` and `shapes` on the command line: what they print and write, and refusals."""

import csv
import json
from dataclasses import fields

import pytest

from retinanet.__main__ import build_parser, main
from retinanet.coco import load_coco
from retinanet.shapes import ShapesConfig
from tests.shapes import write_shapes
from tests.test_datasets import random_truth, write_yolo


def refusal(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_shapes_has_an_option_for_every_setting_and_makes_the_set(tmp_path, capsys):
    folder = tmp_path / "set"
    options = ["--images", "3", "--size", "64", "--objects", "0", "2", "--seed", "4"]
    assert main(["shapes", str(folder), *options, "--imbalance", "5"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "instances.json")
    info = json.loads((folder / "instances.json").read_text())["info"]["shapes"]
    config = ShapesConfig(images=3, size=64, objects=(0, 2), seed=4, imbalance=5)
    assert info == {"format": 1, **json.loads(json.dumps(config.to_dict()))}
    args = build_parser(["shapes"]).parse_args(["shapes", "x"])
    assert ShapesConfig(**{f.name: getattr(args, f.name) for f in fields(config)}) == ShapesConfig()
    assert "something other" in refusal(capsys, "shapes", folder, *options)
    assert "smaller value first" in refusal(capsys, "shapes", folder, "--objects", "3", "1")


def test_dataset_prints_the_report_and_leaves_the_converted_set(tmp_path, capsys):
    source = write_yolo(tmp_path / "yolo", random_truth())
    paths = {name: tmp_path / f"report.{name}" for name in ("json", "csv")}
    options = [f"--{name}={path}" for name, path in paths.items()]
    assert main(["dataset", str(source), "--out", str(tmp_path / "coco"), *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("yolo, split train (there is also val)\n")
    assert "Converted from YOLO txt: 6 photos, 15 boxes, 3 classes in all splits." in printed
    assert "1 photo has no object (for example p0.png)" in printed
    plain = json.loads(paths["json"].read_text())
    assert plain["splits"] == ["train", "val"]
    assert plain["report"]["boxes"] == 2 + 4
    with paths["csv"].open(newline="") as file:
        kinds = [row["kind"] for row in csv.DictReader(file)]
    assert kinds == ["duplicate_image", "duplicate_image", "no_objects"]
    for split, boxes in (("train", 6), ("val", 9)):
        folder = tmp_path / "coco" / split
        assert load_coco(folder / "instances.json", folder / "images").report["boxes"] == boxes
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("coco", "report.csv", "report.json", "yolo"),
    ]
    assert main(["dataset", str(source), "--split", "val", "--work-folder", f"{tmp_path}/w"]) == 0
    assert (tmp_path / "w" / "instances_val.json").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split", "best"], "There is no split 'best'"),
        (["--json", "no/such/x.json"], "does not exist"),
        (["--out", "."], "is already there"),
        (["--work-folder", "SOURCE/work"], "lies in the data set"),
    ],
)
def test_bad_options_end_in_one_line_and_exit_code_2(tmp_path, capsys, options, words):
    write_shapes(tmp_path / "set")
    options = [option.replace("SOURCE", str(tmp_path / "set")) for option in options]
    assert words in refusal(capsys, "dataset", tmp_path / "set", *options)


def test_a_source_that_is_none_ends_in_one_line(tmp_path, capsys):
    assert "There is no folder or zip" in refusal(capsys, "dataset", tmp_path / "none")
    (tmp_path / "a.zip").write_text("PK")
    assert "no zip file" in refusal(capsys, "dataset", tmp_path / "a.zip")
