"""`python -m retinanet evaluate` on what goes wrong: as the package's own functions say it."""

from __future__ import annotations

import json

import pytest

from retinanet.__main__ import main
from retinanet.analysis import dataset_coverage, error_types
from retinanet.checkpoints import load_model, save_checkpoint
from retinanet.coco import load_coco
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet
from tests.shapes import write_shapes


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    annotations = write_shapes(folder)
    dataset = load_coco(annotations, folder / "images")
    config = ModelConfig(depth=18, num_classes=2, num_convs=1, min_size=72, max_size=96)
    weights = folder / "tiny.safetensors"
    save_checkpoint(RetinaNet(config, dataset.categories, dataset.category_ids), weights)
    command = ["evaluate", annotations, "--images", folder / "images", "--weights", weights]
    command += ["--work-folder", folder / "work", "--score-thresh", "0"]
    return folder, dataset, weights, [str(one) for one in command]


def test_mistakes_and_coverage_are_those_of_the_package(evaluated, capsys):
    folder, dataset, weights, command = evaluated
    out = {name: str(folder / f"out.{name}") for name in ("json", "html", "results")}
    options = ["--json", out["json"], "--html", out["html"], "--results", out["results"]]
    assert main([*command, "--errors", "--coverage", *options]) == 0
    told = json.loads((folder / "out.json").read_text())
    results = json.loads((folder / "out.results").read_text())
    wanted = error_types(dataset, results)
    assert [(row["type"], row["count"]) for row in told["errors"]] == [
        (row["type"], row["count"]) for row in wanted.rows
    ]
    covered = dataset_coverage(dataset, load_model(weights).config)
    assert [row["foreground"] for row in told["coverage"]["levels"]] == [
        row["foreground"] for row in covered.levels
    ]
    printed = capsys.readouterr().out
    assert covered.suggestion in printed and "worst photos:" in printed
    page = (folder / "out.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "tiny.safetensors" in page


def test_a_report_that_cannot_be_written_is_refused_before_the_work(evaluated, capsys, tmp_path):
    *_, command = evaluated
    assert main([*command, "--html", str(tmp_path / "no" / "such.html")]) == 2
    assert "does not exist" in capsys.readouterr().err
