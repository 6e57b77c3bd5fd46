"""A request for a run: as data, and as the command line that `train` reads."""

import argparse
import json
import random
import shlex
from pathlib import Path

import pytest

from retinanet.cli import train as train_command
from retinanet.config import ConfigError, LossConfig, MatcherConfig, ModelConfig
from retinanet.runs import RunRequest
from retinanet.train_config import PLAIN_FIELDS, TrainConfig
from tests.shapes import write_shapes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", photos=4)


def random_request(draw, data):
    number = draw.uniform
    kind = draw.choice(["fresh", "backbone", "weights", "init-from"])
    low, high = sorted((number(0, 1), number(0, 1)))
    val = draw.choice([None, Path("-val.json"), Path("a b/val's.json")])
    return RunRequest(
        name=draw.choice(["R18, 2 frozen", 'quote\'s "run"', "ü" * 80]),
        annotations=draw.choice([data, Path("-odd.json"), Path("with space/a.json")]),
        images=Path("images; rm -rf"),
        val=val,
        val_images=None if val is None else draw.choice([None, Path("-images")]),
        model=ModelConfig(
            depth=draw.choice([18, 34, 50]),
            num_convs=draw.randint(1, 8),
            variant=draw.choice(["v1", "v2"]),
            min_size=draw.randint(32, 800),
            max_size=draw.randint(800, 1400),
            frozen_stages=draw.randint(-1, 4),
            stride_in_1x1=draw.random() < 0.5,
            norm_eps=draw.choice([0.0, 1e-5]),
        ),
        train=TrainConfig(
            steps=draw.randint(1, 10**6),
            lr=10 ** number(-8, 0),
            schedule=draw.choice(["step", "cosine"]),
            scale_jitter=(number(0.1, 1), number(1, 3)),
            prior=number(0.001, 0.9),
            seed=draw.randint(-5, 5),
            matcher=MatcherConfig(high, low, draw.random() < 0.5),
            loss=LossConfig(number(0, 1), number(0, 5)),
        ),
        start="random" if kind == "fresh" else draw.choice(["imagenet", "weights of/mine.pth"]),
        start_kind=kind,
        device=draw.choice(["auto", "cpu", "cuda:1"]),
        val_every=draw.randint(0, 9),
        exclude_sources=draw.choice([(), ("web", "old ones")]),
    )


def read_back(words):
    """The settings as `train` itself reads them."""
    parser = argparse.ArgumentParser()
    train_command.add_arguments(parser)
    return parser.parse_args(words)


def test_train_reads_from_the_arguments_what_the_request_says(data):
    draw = random.Random(3)
    for _ in range(60):
        request = random_request(draw, data)
        words = request.arguments(Path("-folder"), Path("-out.safetensors"), resume=True)
        pasted = shlex.split(request.command())
        assert pasted[:4] == ["python", "-m", "retinanet", "train"]
        assert len(pasted[3:]) < len(words)
        for args in (read_back(words[1:]), read_back(pasted[4:])):
            model = {name: getattr(args, name) for name in train_command.MODEL_OPTIONS}
            assert ModelConfig(**model) == request.model
            plain = {name: getattr(args, name) for name in PLAIN_FIELDS}
            assert {**request.train.to_dict(), **plain, "scale_jitter": None} == {
                **request.train.to_dict(),
                "scale_jitter": None,
            }
            assert tuple(args.scale_jitter) == request.train.scale_jitter
            assert (args.alpha, args.gamma) == (request.train.loss.alpha, request.train.loss.gamma)
            assert args.fg_iou_thresh == request.train.matcher.fg_iou_thresh
            assert args.allow_low_quality_matches == request.train.matcher.allow_low_quality_matches
            assert args.annotations == request.annotations
            assert (args.val, args.val_images) == (request.val, request.val_images)
            given = {
                "backbone": args.backbone,
                "weights": args.weights,
                "init-from": args.init_from,
            }
            wanted = dict.fromkeys(given) | {request.start_kind: request.start}
            wanted.pop("fresh", None)
            assert given == wanted
            assert args.device == request.device
            assert tuple(args.exclude_sources) == request.exclude_sources
        assert read_back(words[1:]).resume


def test_a_request_survives_json(data):
    draw = random.Random(4)
    for _ in range(30):
        request = random_request(draw, data)
        assert RunRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "1 to 80"),
        ({"name": "x" * 81}, "1 to 80"),
        ({"name": "two\nlines"}, "one line"),
        ({"name": 7}, "text"),
        ({"annotations": ["a"]}, "path"),
        ({"annotations": "a\0b"}, "path"),
        ({"images": "x" * 5000}, "path"),
        ({"images": None}, "path"),
        ({"val_images": "photos"}, "needs val"),
        ({"start_kind": "torch.load"}, "start_kind"),
        ({"start": "--out=x", "start_kind": "weights"}, "hyphen"),
        ({"start": "imagenet"}, "go together"),
        ({"device": "cpu --out x"}, "device"),
        ({"val_every": True}, "val_every"),
        ({"val_every": -1}, "val_every"),
        ({"min_label_score": "high"}, "min_label_score"),
        ({"exclude_sources": "web"}, "exclude_sources"),
        ({"exclude_sources": ["--out"]}, "hyphen"),
        ({"model": []}, "object"),
        ({"model": {"depth": 49}}, "depth"),
        ({"model": {"colour": 1}}, "colour"),
        ({"train": {"steps": "9"}}, "steps"),
        ({"train": {"steps": 2.5}}, "steps"),
        ({"train": {"lr": float("nan")}}, "lr"),
        ({"train": {"loss": {"gamma": []}}}, "gamma"),
        ({"train": 3}, "object"),
        ({"shell": "rm"}, "no setting named shell"),
    ],
)
def test_hostile_data_makes_no_request(change, words):
    data = {"name": "a", "annotations": "a.json", "images": "images"} | change
    with pytest.raises(ConfigError, match=words):
        RunRequest.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "x", {1: 2}, {"name": "a"}])
def test_what_is_no_object_makes_no_request(data):
    with pytest.raises(ConfigError):
        RunRequest.from_dict(data)
