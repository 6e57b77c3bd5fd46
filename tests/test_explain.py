"""The life story of a candidate: every number is checked against what `detect` then does."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from retinanet.anchors import grid_anchors
from retinanet.candidates import FATES
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.types import LEVELS

from .test_detection import make_outputs

KEPT = FATES.index("kept")


@pytest.fixture(scope="module")
def crowded():
    """Small, few classes, much overlap: NMS decides a lot."""
    return make_outputs(seed=2, size=(64, 64), num_classes=3, delta=0.2)


@pytest.fixture(scope="module")
def offset():
    """Many classes: the coordinate trick shifts the boxes far and rounds them."""
    return make_outputs(seed=3, size=(64, 64), num_classes=91, delta=0.05)


def pair(trace, index):
    table = trace.candidates
    return tuple(int(column[index]) for column in (table.level, table.anchor, table.label))


def fate_at(outputs, config, wanted):
    """Whether a pair is a detection, and whether it survives NMS, at a setting."""
    trace = detect(outputs, config)
    level = torch.arange(len(LEVELS)).repeat_interleave(torch.tensor(trace.takes))
    parts = list(zip(trace.heads, trace.takes, strict=True))
    anchor = torch.cat([head.anchors[:take] for head, take in parts])
    label = torch.cat([head.labels[:take] for head, take in parts])
    pairs = torch.stack([level, anchor, label], dim=1)[trace.survivors]
    place = (pairs == torch.tensor(wanted)).all(dim=1).nonzero().flatten().tolist()
    return bool(place) and place[0] < len(trace), bool(place)


def inside(intervals, value):
    return any(
        part["from"] <= value
        and (
            part["to"] is None
            or value < part["to"]
            or (part["to_included"] and value == part["to"])
        )
        for part in intervals
    )


def around(story, knob, generator):
    """Values on both sides of every end of every interval, and a few others."""
    intervals = [*story["survives_nms"], *(story["kept"] or [])]
    ends = {end for part in intervals for end in (part["from"], part["to"]) if end is not None}
    ends = generator.permutation(sorted(ends))[:6].tolist()
    if knob == "topk_candidates":
        values = {int(end) + step for end in ends for step in (-1, 0, 1)}
        values |= set(generator.integers(1, 900, 4).tolist())
        return sorted(value for value in values if value >= 1)
    if knob == "score_thresh":  # compared in float32
        towards = [
            (end, np.nextafter(np.float32(end), np.float32(side)))
            for end in ends
            for side in (0, 1)
        ]
        values = {float(value) for values in towards for value in values}
    else:
        values = {math.nextafter(end, side) for end in ends for side in (0.0, 1.0)} | set(ends)
    values |= set(generator.random(4).tolist()) | {0.0, 1.0}
    return sorted(value for value in values if 0 <= value <= 1)


def check_story(outputs, config, trace, index, generator):
    wanted, changes = pair(trace, index), trace.explain(index)["changes_at"]
    for knob in ("score_thresh", "nms_thresh", "topk_candidates"):
        story = changes[knob]
        assert inside(story["kept"], getattr(config, knob)) == (
            int(trace.candidates.fate[index]) == KEPT
        )
        for value in around(story, knob, generator):
            moved = dataclasses.replace(config, **{knob: value})
            if knob == "topk_candidates" and story["known_up_to"] is not None:
                assert all(part["to"] <= story["known_up_to"] for part in story["kept"])
                if value > story["known_up_to"]:
                    continue
            told = inside(story["kept"], value), inside(story["survives_nms"], value)
            assert told == fate_at(outputs, moved, wanted), (knob, value, story, index)
    limits = changes["detections_per_img"]
    position = limits["value"]
    for value in [1, 5, 10**6] + ([position - 1, position] if position else []):
        if value >= 1:
            moved = dataclasses.replace(config, detections_per_img=value)
            assert inside(limits["kept"], value) == fate_at(outputs, moved, wanted)[0]


CONFIGS = [
    PostprocessConfig(),  # hundreds of candidates: NMS class by class
    PostprocessConfig(detections_per_img=20),  # the limit binds
    PostprocessConfig(score_thresh=0.3, nms_thresh=0.3, detections_per_img=15),
    PostprocessConfig(score_thresh=0.2, topk_candidates=60, nms_thresh=0.4),
    PostprocessConfig(score_thresh=0.01, topk_candidates=190, detections_per_img=60),
    PostprocessConfig(score_thresh=0.0, topk_candidates=300, nms_thresh=0.7),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", ["crowded", "offset"])
def test_knob_values_are_exact(config, kind, request):
    outputs = request.getfixturevalue(kind)
    generator = np.random.default_rng(0)
    trace = detect(outputs, config)
    fates = trace.candidates.fate.numpy()
    for fate in np.unique(fates):
        rows = np.flatnonzero(fates == fate)
        for index in generator.choice(rows, min(2, len(rows)), replace=False).tolist():
            check_story(outputs, config, trace, index, generator)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_knob_values_are_exact_for_any_setting(crowded, data):
    config = PostprocessConfig(
        score_thresh=data.draw(st.floats(0, 0.6)),
        nms_thresh=data.draw(st.floats(0, 1)),
        topk_candidates=data.draw(st.integers(1, 400)),
        detections_per_img=data.draw(st.integers(1, 200)),
    )
    trace = detect(crowded, config)
    if len(trace.candidates):
        index = data.draw(st.integers(0, len(trace.candidates) - 1))
        check_story(crowded, config, trace, index, np.random.default_rng(index))


def outputs_with(boxes):
    """Outputs of one class that see nothing but (level, anchor, score, box) as told."""
    outputs = make_outputs(size=(128, 128), num_classes=1)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    for level in outputs.cls_logits:
        level.fill_(-30.0)
    for level, anchor, score, box in boxes:
        outputs.cls_logits[level][anchor] = math.log(score / (1 - score))
        outputs.bbox_regression[level][anchor] = coder.encode_single(
            torch.tensor([box], dtype=torch.float32), outputs.anchors[level][anchor][None]
        )[0]
    return outputs


def test_survival_is_a_union_of_intervals():
    """A suppresses B, which would suppress C: C lives where A is there, or B is not."""
    outputs = outputs_with(
        [
            (0, 300, 0.5, (0, 36, 40, 76)),  # C, the best of P3
            (1, 100, 0.6, (0, 20, 40, 60)),  # B, second on P4; IoU with C 960 / 2240 = 0.43
            (1, 200, 0.9, (90, 90, 99, 99)),
            (2, 50, 0.7, (0, 0, 40, 40)),  # A, third on P5; IoU with B 1/3, with C 0.05
            (2, 60, 0.92, (60, 90, 69, 99)),
            (2, 70, 0.94, (60, 60, 69, 69)),
        ]
    )
    config = PostprocessConfig(nms_thresh=0.3)
    trace = detect(outputs, config)
    index = next(i for i in range(len(trace)) if pair(trace, i) == (0, 300, 0))
    changes = trace.explain(index)["changes_at"]
    over_topk = [(part["from"], part["to"]) for part in changes["topk_candidates"]["kept"]]
    assert over_topk == [(1, 1), (3, None)]
    over_nms = [(part["from"], part["to"]) for part in changes["nms_thresh"]["kept"]]
    assert over_nms[0] == pytest.approx((160 / 3040, 1 / 3), abs=1e-3)
    assert over_nms[1] == pytest.approx((960 / 2240, 1.0), abs=1e-3)
    assert changes["nms_thresh"]["kept"][1]["to_included"]
    assert changes["score_thresh"]["kept"] == [
        {"from": 0.0, "to": pytest.approx(0.5), "to_included": False}
    ]
    check_story(outputs, config, trace, index, np.random.default_rng(0))


def test_explain_tells_where_a_box_comes_from(crowded):
    trace = detect(crowded, PostprocessConfig(detections_per_img=30))
    table = trace.candidates
    cells = grid_anchors(crowded.padded_size, crowded.grid_sizes)
    for index in (0, 29, 35, len(table) - 1):
        story = trace.explain(index)
        level, anchor, _ = pair(trace, index)
        assert story["level"] == LEVELS[level]
        assert story["anchor_box"] == cells[level][anchor].tolist()
        columns = crowded.grid_sizes[level][1]
        shape = story["anchor_shape"]
        row, col = story["cell"]["row"], story["cell"]["col"]
        assert anchor // 9 == row * columns + col
        assert shape["height"] / shape["width"] == pytest.approx(shape["ratio"], rel=0.1)
        area = shape["height"] * shape["width"]
        assert math.sqrt(area) == pytest.approx(shape["size"], rel=0.05)
        assert list(story["scores"]) == ["ant", "bee", "class 2"]
        assert story["scores"][story["category"]] == pytest.approx(story["score"])
        logits = crowded.cls_logits[level][anchor]
        assert list(story["logits"].values()) == logits.tolist()
        deltas = torch.tensor(list(story["deltas"].values()))[None]
        decoded = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(deltas, cells[level][anchor][None])
        assert story["decoded_box"] == pytest.approx(decoded[0].tolist(), rel=1e-5)
        height, width = crowded.image_size
        low, high = torch.zeros(4), torch.tensor([width, height] * 2)
        clipped = torch.minimum(torch.maximum(decoded[0], low), high)
        assert story["clipped_box"] == pytest.approx(clipped.tolist(), rel=1e-5, abs=1e-4)
        scores = torch.sigmoid(crowded.cls_logits[level])
        assert story["rank_in_level"] == 1 + int((scores > table.score[index]).sum())
        assert story["fate"] == FATES[table.fate[index]]
        assert json.loads(json.dumps(story, allow_nan=False)) == story


def test_explain_names_the_suppressor(crowded):
    trace = detect(crowded)
    index = int((trace.suppressed_by >= 0).nonzero()[0])
    by = trace.explain(index)["suppressed_by"]
    other = trace.explain(by["candidate"])
    assert other["fate"] in ("kept", "over_limit")
    assert other["box"] == by["box"]
    assert other["score"] == by["score"] > trace.explain(index)["score"]
    assert by["iou"] > trace.config.nms_thresh
    assert by["plain_iou"] == pytest.approx(by["iou"], abs=0.01)
    assert trace.explain(0)["suppressed_by"] is None


def test_classes_that_share_a_name_are_told_apart():
    story = detect(make_outputs()).explain(0)
    assert list(story["scores"]) == ["ant", "bee (1)", "class 2", "bee (3)", "class 4"]


def test_explain_refuses_what_is_not_listed(crowded):
    trace = detect(crowded)
    for index in (-1, len(trace.candidates)):
        with pytest.raises(IndexError, match="no candidate"):
            trace.explain(index)


def test_topk_is_known_as_far_as_pairs_are_prepared():
    outputs = make_outputs(1)  # 8,640 pairs on P3, of which 5,000 are prepared
    config = PostprocessConfig(score_thresh=0.0, topk_candidates=3990)
    trace = detect(outputs, config)
    on_p4 = (trace.candidates.level == 1).nonzero().flatten()
    worst = int(on_p4[trace.candidates.score[on_p4].argmin()])  # more of P3 could come before it
    story = trace.explain(worst)["changes_at"]["topk_candidates"]
    assert story["known_up_to"] == 5000
    assert all(part["to"] <= 5000 for part in story["survives_nms"])
    assert trace.explain(0)["changes_at"]["topk_candidates"]["known_up_to"] is None


def test_too_many_candidates_before_it_is_said(crowded, monkeypatch):
    monkeypatch.setattr("retinanet.survival.PAIR_BUDGET", 10)
    trace = detect(crowded, PostprocessConfig(detections_per_img=20))
    late = trace.explain(trace.counts["kept"] + 5)["changes_at"]
    assert late["nms_thresh"]["kept"] is None
    assert late["nms_thresh"]["survives_nms"]
    assert trace.explain(3)["changes_at"]["nms_thresh"]["kept"]
