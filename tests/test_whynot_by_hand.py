"""Why an object was missed: cases small enough to follow by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.figures.inquest import inquest_formula, inquest_sentence
from retinanet.whynot import why_not

from .test_detection import make_outputs
from .test_explain import outputs_with
from .test_whynot import finding, to_original


def drawn(outputs, box):
    """A box of the network's pixels in those of the original picture."""
    return to_original(outputs, torch.tensor([box]))[0].tolist()


def test_a_score_below_the_threshold():
    outputs = outputs_with([(0, 300, 0.2124, (0, 0, 40, 40))])
    config = PostprocessConfig(score_thresh=0.3)
    inquest = why_not(outputs, drawn(outputs, (0, 0, 40, 50)), 0, config)
    assert inquest.verdict == "below_thresh"
    assert inquest.candidate["score"] == pytest.approx(0.2124)
    assert inquest.candidate["iou"] == pytest.approx(0.8, abs=1e-4)
    assert inquest.fix["changes"] == {"score_thresh": 0.21}
    assert inquest.fix["size"] == pytest.approx(0.09)
    assert inquest_sentence(inquest.to_dict(), config) == (
        "Missed: the best matching ant box scores 0.212, below score_thresh 0.30. Lower "
        "score_thresh to 0.21 and it appears."
    )


@pytest.mark.parametrize(
    ("score", "value"),
    # The roundest number just below; never 0, which would let everything in.
    [(0.2105, 0.21), (0.011, 0.01), (0.0075, 0.007), (0.00012, 0.0001)],
)
def test_thresholds_are_set_as_a_hand_would(score, value):
    outputs = outputs_with([(0, 300, score, (0, 0, 40, 40))])
    inquest = why_not(outputs, drawn(outputs, (0, 0, 40, 40)), 0, PostprocessConfig(0.3))
    assert inquest.fix["changes"] == {"score_thresh": value}


def suppressed_chain():
    """A suppresses B, which would suppress C: IoU of A and B 1/3, of B and C 0.43."""
    return outputs_with(
        [
            (0, 300, 0.5, (0, 36, 40, 76)),  # C, the best of P3
            (1, 100, 0.6, (0, 20, 40, 60)),  # B, on P4
            (2, 50, 0.7, (0, 0, 40, 40)),  # A, on P5
        ]
    )


@pytest.mark.parametrize(
    ("now", "fixed"),
    # C lives in [0.05, 1/3), where A takes B out, and from 0.4286 on.
    [(0.4, 0.43), (0.35, 0.33), (0.37, 0.33), (0.39, 0.43)],
)
def test_nms_thresh_goes_to_the_nearest_of_several_stretches(now, fixed):
    outputs = suppressed_chain()
    config = PostprocessConfig(score_thresh=0.4, nms_thresh=now)
    inquest = why_not(outputs, drawn(outputs, (0, 36, 40, 76)), 0, config, match_iou=0.9)
    assert inquest.verdict == "suppressed"
    by = inquest.candidate["suppressed_by"]
    assert by["score"] == pytest.approx(0.6)
    assert by["iou"] == pytest.approx(960 / 2240, abs=1e-3)
    assert inquest.fix["changes"] == {"nms_thresh": fixed}
    assert "suppressed by a better box, score 0.600" in inquest_sentence(inquest.to_dict(), config)


def ten_on_p3(scores):
    """Small boxes in a row on P3, none overlapping, and the last one's place."""
    boxes = [(0, 100 + 9 * n, score, (12 * n, 0, 12 * n + 9, 9)) for n, score in enumerate(scores)]
    return outputs_with(boxes), boxes[-1][3]


def test_cut_by_topk_and_over_the_limit():
    outputs, last = ten_on_p3([0.9 - 0.05 * n for n in range(10)])
    box = drawn(outputs, last)
    cut = why_not(outputs, box, 0, PostprocessConfig(0.3, topk_candidates=7))
    assert cut.verdict == "cut_by_topk"
    assert cut.candidate["rank"] == 10
    assert cut.fix["changes"] == {"topk_candidates": 10}
    assert cut.fix["size"] == pytest.approx(math.log10(10 / 7) / 4)
    assert "number 10 on P3, beyond topk_candidates 7" in inquest_sentence(
        cut.to_dict(), cut.config
    )
    over = why_not(outputs, box, 0, PostprocessConfig(0.3, detections_per_img=7))
    assert over.verdict == "over_limit"
    assert over.candidate["position"] == 10
    assert over.fix["changes"] == {"detections_per_img": 10}
    assert "number 10, beyond detections_per_img 7" in inquest_sentence(over.to_dict(), over.config)
    both = why_not(outputs, box, 0, PostprocessConfig(0.6, topk_candidates=7, detections_per_img=8))
    assert both.verdict == "below_thresh"
    assert both.fix["changes"] == {
        "score_thresh": 0.44,
        "topk_candidates": 10,
        "detections_per_img": 10,
    }
    assert inquest_sentence(both.to_dict(), both.config).endswith(
        "Lower score_thresh to 0.44, raise topk_candidates to 10 and raise detections_per_img to "
        "10, and it appears."
    )


def test_no_box_comes_near():
    outputs = outputs_with([])
    inquest = why_not(outputs, [0, 0, 3, 3], 0)
    assert inquest.verdict == "no_box"
    assert inquest.candidate is None
    assert inquest.fix is None
    sentence = inquest_sentence(inquest.to_dict(), inquest.config)
    assert f"{inquest.best_box['iou']:.3f}" in sentence
    assert f"{outputs.num_anchors:,} anchors" in sentence


def test_kept_as_another_class():
    outputs = make_outputs(seed=2, size=(64, 64), num_classes=3, delta=0.2)
    trace = detect(outputs)
    label = (int(trace.labels[0]) + 1) % 3
    config = PostprocessConfig(detections_per_img=1)
    inquest = why_not(outputs, trace.boxes[0].tolist(), label, config)
    assert inquest.verdict == "other_class"
    assert inquest.detection["index"] == 0
    assert inquest.fix["detection"]["label"] == label
    sentence = inquest_sentence(inquest.to_dict(), config)
    assert f"Missed as {inquest.category}, kept as {trace.categories[trace.labels[0]]}" in sentence
    assert why_not(outputs, trace.boxes[0].tolist(), None, config).verdict == "found"


def test_a_floor_of_its_class_is_lowered():
    outputs = outputs_with([(0, 300, 0.4125, (0, 0, 40, 40))])
    box = drawn(outputs, (0, 0, 40, 40))
    config = PostprocessConfig(score_thresh=0.3, class_score_thresh={0: 0.6, 5: 0.7})
    inquest = why_not(outputs, box, 0, config)
    assert inquest.verdict == "below_thresh"
    assert inquest.candidate["score_thresh"] == 0.6
    assert inquest.fix["changes"] == {"class_score_thresh": {"0": 0.41, "5": 0.7}}
    assert inquest.fix["size"] == pytest.approx(0.19)
    assert inquest_sentence(inquest.to_dict(), config) == (
        "Missed: the best matching ant box scores 0.412, below the floor of its class, 0.60. Lower "
        "the floor of ant to 0.41 and it appears."
    )
    config = replace(config, score_thresh=0.5)
    both = why_not(outputs, box, None, config)
    assert both.fix["changes"] == {
        "score_thresh": 0.41,
        "class_score_thresh": {"0": 0.41, "5": 0.7},
    }
    assert finding(detect(outputs, both.fixed_config(both.fix)), both)


def test_a_score_of_0_or_none_cannot_be_brought_in():
    outputs = outputs_with([])
    for level in outputs.cls_logits:
        level.fill_(-200.0)
    outputs.cls_logits[1].fill_(math.nan)
    inquest = why_not(outputs, drawn(outputs, (0, 0, 40, 40)), 0, PostprocessConfig(0.3))
    assert inquest.candidate["score"] == 0
    assert inquest.fix is None
    json.dumps(inquest.to_dict(), allow_nan=False)


def test_boxes_that_are_not_numbers_match_nothing():
    outputs = make_outputs(seed=4, size=(64, 64), num_classes=3)
    for deltas in outputs.bbox_regression:
        deltas.fill_(math.nan)
    inquest = why_not(outputs, [10, 10, 40, 40])
    assert inquest.verdict == "no_box"
    assert inquest.best_box is None
    json.dumps(inquest.to_dict(), allow_nan=False)
    assert "no box overlaps" in inquest_formula(inquest.to_dict(), inquest.config)
    assert "overlaps the drawn box" in inquest_sentence(inquest.to_dict(), inquest.config)
