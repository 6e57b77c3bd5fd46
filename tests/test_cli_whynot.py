"""`python -m retinanet why-not`."""

from __future__ import annotations

import json

import pytest

import retinanet as rn
from retinanet.__main__ import main
from retinanet.config import PostprocessConfig
from retinanet.whynot import why_not
from tests.zoo import noise

TINY = ["--weights", "random", "--depth", "18", "--min-size", "64", "--max-size", "96"]
TINY += ["--num-classes", "3", "--num-convs", "1"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("whynot") / "photo.png"
    noise(96, 64).save(path)
    return str(path)


def run(capsys, *arguments):
    capsys.readouterr()
    try:
        code = main(["why-not", *arguments])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_command_prints_and_writes_what_python_gives(capsys, photo, tmp_path):
    target = tmp_path / "inquest.json"
    box, floors = ["10", "5", "60", "50"], ["--class-score-thresh", "1=0.02"]
    code, out, err = run(
        capsys, photo, "--box", *box, *TINY, *floors, "--category", "1", "--json", str(target)
    )
    assert code == 0, err
    model = rn.load_model(
        "random",
        {"depth": 18, "min_size": 64, "max_size": 96, "num_classes": 3, "num_convs": 1},
        "cpu",
    )
    config = PostprocessConfig(class_score_thresh={1: 0.02})
    inquest = why_not(model(rn.load_image(photo)), list(map(float, box)), 1, config)
    assert out.splitlines()[0] == "photo.png, 96 x 64 pixels"
    assert "Missed" in out
    stored = json.loads(target.read_text())
    assert stored.keys() == inquest.to_dict().keys()
    assert stored["verdict"] == inquest.verdict == "below_thresh"
    assert stored["config"] == config.to_dict()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--box", "10", "5", "60"], "--box"),
        (["--box", "10", "5", "60", "many"], "many"),
        (["--box", "60", "5", "10", "50"], "no area"),
        (["--box", "10", "5", "nan", "50"], "finite"),
        (["--box", "200", "5", "300", "50"], "outside the picture of 96 x 64"),
        (["--box", "10", "5", "60", "50", "--category", "unicorn"], "unicorn"),
        (["--box", "10", "5", "60", "50", "--nms-thresh", "2"], "nms_thresh"),
        (["--box", "10", "5", "60", "50", "--match-iou", "2"], "match_iou"),
        (["--box", "10", "5", "60", "50", "--json", "no/such/x.json"], "does not exist"),
        ([], "--box"),
    ],
)
def test_bad_input_gives_one_line(capsys, photo, arguments, words):
    code, out, err = run(capsys, photo, *arguments, *TINY)
    assert code == 2
    assert out == ""
    assert words in err
    assert err.splitlines()[-1].startswith("retinanet why-not:")
    assert "Traceback" not in err
