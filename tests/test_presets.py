"""Presets are what their sources say, and each gives another result where it should."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet

from pages._shared.stored import START
from pages._shared.view import MAX_DETECTIONS
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.detection import detect
from retinanet.presets import PRESETS, find_preset, preset_of

from .test_detection import make_outputs

KNOBS = ("score_thresh", "nms_thresh", "topk_candidates", "detections_per_img")


def knobs(name):
    return tuple(getattr(find_preset(name).config, knob) for knob in KNOBS)


def test_the_numbers_are_those_of_the_sources():
    defaults = inspect.signature(TorchvisionRetinaNet).parameters
    assert knobs("torchvision") == tuple(defaults[knob].default for knob in KNOBS)
    assert knobs("torchvision") == tuple(getattr(PostprocessConfig(), knob) for knob in KNOBS)
    assert find_preset("explorer").config == START
    assert knobs("paper") == knobs("detectron2") == (0.05, 0.5, 1000, 100)
    assert knobs("deepforest") == (0.1, 0.05, 1000, 300)
    assert knobs("everything") == (0.0, 0.5, 1000, 500)


def test_the_app_can_draw_what_every_preset_keeps():
    for preset in PRESETS:
        assert preset.config.detections_per_img <= MAX_DETECTIONS
        assert not preset.config.class_score_thresh


def test_each_is_described_and_found_by_its_name():
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    for preset in PRESETS:
        assert find_preset(preset.name) is preset
        assert preset.name == preset.name.lower()
        assert preset.name.isalnum()
        assert preset.title
        for sentence in (preset.purpose, preset.source):
            assert sentence.endswith(".")
            assert sentence[0].isupper() or sentence.startswith("score_thresh")  # a knob's name
        assert preset_of(dataclasses.replace(preset.config)).config == preset.config
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS[0].name = "other"


def test_the_first_of_equal_ones_is_named_and_none_of_others():
    assert preset_of(find_preset("detectron2").config).name == "paper"
    for change in (
        {"score_thresh": 0.31},
        {"detections_per_img": 99},
        {"class_score_thresh": {0: 0.5}},
    ):
        assert preset_of(dataclasses.replace(find_preset("explorer").config, **change)) is None


@pytest.mark.parametrize("name", ["", "Paper", "mmdetection", "paper "])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(ConfigError) as error:
        find_preset(name)
    for preset in PRESETS:
        assert preset.name in str(error.value)
    assert repr(name) in str(error.value)


def test_everything_shows_what_the_others_hide():
    outputs = make_outputs(centre=-9.0, spread=0.5)
    found = {preset.name: len(detect(outputs, preset.config)) for preset in PRESETS}
    assert found.pop("everything") == 500
    assert set(found.values()) == {0}


def test_presets_differ_in_what_they_find():
    outputs = make_outputs(seed=1, spread=0.7)
    found = {p.name: detect(outputs, p.config) for p in PRESETS if p.name != "detectron2"}
    kept = {name: tuple(trace.scores.tolist()) for name, trace in found.items()}
    assert len(set(kept.values())) == len(found)
    assert torch.equal(found["paper"].boxes, found["torchvision"].boxes[:100])
