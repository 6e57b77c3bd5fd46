"""Why an object was missed: every claim is checked against `detect` and against brute force."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

import retinanet as rn
import retinanet.remedy as remedy_module
from retinanet.box_table import find_row
from retinanet.candidates import FATES
from retinanet.cli.whynot import describe
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.detection import detect
from retinanet.figures.inquest import inquest_formula, inquest_numbers, inquest_sentence, number
from retinanet.remedy import MAX_DETECTIONS, ROUND_COUNTS, changes_between, size_of
from retinanet.target import original_boxes
from retinanet.types import LEVELS
from retinanet.whynot import VERDICTS, why_not

from .test_detection import make_outputs

KNOBS = ("score_thresh", "nms_thresh", "topk_candidates", "detections_per_img")


@pytest.fixture(scope="module")
def crowded():
    """Small, few classes, much overlap: NMS decides a lot."""
    return make_outputs(seed=2, size=(64, 64), num_classes=3, delta=0.2)


@pytest.fixture(scope="module")
def offset():
    """Many classes: the coordinate trick shifts the boxes far and rounds them."""
    return make_outputs(seed=3, size=(64, 64), num_classes=13, delta=0.05)


@pytest.fixture(scope="module")
def tied():
    """Half-precision logits: many equal scores."""
    outputs = make_outputs(seed=4, size=(64, 64), num_classes=3, delta=0.2)
    outputs.cls_logits[:] = [level.bfloat16().float() for level in outputs.cls_logits]
    return outputs


def boxes_of(outputs):
    """Every anchor's decoded and clipped box in original pixels, [R, 4] float64."""
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    deltas, anchors = torch.cat(outputs.bbox_regression), torch.cat(outputs.anchors)
    boxes = clip_boxes_to_image(coder.decode_single(deltas, anchors), outputs.image_size)
    return to_original(outputs, boxes)


def to_original(outputs, boxes):
    (height, width), (rows, columns) = outputs.image_size, outputs.original_size
    scale = torch.tensor([columns / width, rows / height] * 2, dtype=torch.float64)
    return boxes.double() * scale


def iou_with(box, boxes):
    return box_iou(torch.tensor([box], dtype=torch.float64), boxes.double())[0]


def finding(trace, inquest):
    """Rows of the detections that find the object."""
    if not len(trace):
        return []
    hits = iou_with(inquest.box, trace.boxes) >= inquest.match_iou
    if inquest.label is not None:
        hits &= trace.labels == inquest.label
    return hits.nonzero().flatten().tolist()


def random_case(outputs, generator):
    """A box, a label and a setting; the box is often near a decoded one."""
    height, width = outputs.original_size
    x, y = np.sort(generator.random(2) * width), np.sort(generator.random(2) * height)
    box = [x[0], y[0], x[1] + 2, y[1] + 2]
    if generator.random() < 0.8:
        near = original_boxes(outputs)
        box = near[generator.integers(len(near))] + generator.normal(0, 3, 4)
        box = [*np.minimum(box[:2], [width - 2, height - 2]), *np.maximum(box[2:], box[:2] + 3)]
        box = [float(edge) for edge in [box[0], box[1], max(box[2], 2), max(box[3], 2)]]
    label = None if generator.random() < 0.4 else int(generator.integers(outputs.num_classes))
    floors = {int(own): float(generator.random() * 0.8) for own in generator.integers(0, 3, 2)}
    config = PostprocessConfig(
        score_thresh=float(generator.choice([0.0, 0.05, 0.3, 0.8, 0.95, generator.random()])),
        nms_thresh=float(generator.choice([0.05, 0.3, 0.5, 0.7, generator.random()])),
        topk_candidates=int(generator.choice([1, 3, 10, 50, 100, 1000])),
        detections_per_img=int(generator.choice([1, 5, 20, 100, 300])),
        class_score_thresh=floors if generator.random() < 0.25 else {},
    )
    return box, label, config, float(generator.choice([0.5, 0.5, 0.3, 0.75]))


def cases(outputs, seed, count):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        box, label, config, match_iou = random_case(outputs, generator)
        yield why_not(outputs, box, label, config, match_iou=match_iou)


# --- fixes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "seed", "count"),
    [("crowded", 0, 90), ("crowded", 1, 90), ("offset", 0, 50), ("tied", 0, 60)],
)
def test_every_fix_makes_a_matching_box_appear(kind, seed, count, request, monkeypatch):
    outputs = request.getfixturevalue(kind)
    calls = []
    monkeypatch.setattr(
        remedy_module, "detect", lambda *given: calls.append(given) or detect(*given)
    )
    verdicts, fixed = set(), 0
    for inquest in cases(outputs, seed, count):
        assert len(calls) <= MAX_DETECTIONS
        calls.clear()
        found = finding(detect(outputs, inquest.config), inquest)
        assert (inquest.verdict == "found") == bool(found)
        assert not (found and (inquest.fix or inquest.alternatives))
        for fix in [fix for fix in (inquest.fix, *inquest.alternatives) if fix]:
            config = inquest.fixed_config(fix)
            trace = detect(outputs, config)
            rows = finding(trace, inquest)
            assert rows, (inquest.config, fix)
            told = fix["detection"]
            assert told["index"] == rows[0]
            assert told["score"] == float(trace.scores[rows[0]])
            assert told["label"] == int(trace.labels[rows[0]])
            assert told["box"] == trace.boxes[rows[0]].tolist()
            assert told["iou"] == pytest.approx(float(iou_with(inquest.box, trace.boxes)[rows[0]]))
            assert fix["changes"] == changes_between(inquest.config, config)
            assert fix["size"] == pytest.approx(size_of(inquest.config, config))
            fixed += 1
        sizes = [fix["size"] for fix in inquest.alternatives]
        assert sizes == sorted(sizes)
        if inquest.alternatives:
            assert {len(fix["changes"]) for fix in (inquest.fix, *inquest.alternatives)} == {1}
            assert inquest.fix["size"] <= sizes[0]
        verdicts.add(inquest.verdict)
    assert fixed > 15
    assert len(verdicts) > 4


def single_knob_grid(config, positions):
    """(size, changed setting), the smallest first: one knob on a fine grid."""
    grids = {
        "score_thresh": [n / 100 for n in range(101)],
        "nms_thresh": [n / 100 for n in range(101)],
        "topk_candidates": ROUND_COUNTS,
        "detections_per_img": positions,
    }
    moved = (replace(config, **{knob: value}) for knob in KNOBS for value in grids[knob])
    return sorted(
        ((size_of(config, new), new) for new in moved if new != config), key=lambda row: row[0]
    )


@pytest.mark.parametrize(("kind", "count"), [("crowded", 40), ("offset", 10)])
def test_no_single_knob_on_a_fine_grid_does_better(kind, count, request):
    """The grid has every value that the search rounds to, so no step of slack is needed."""
    outputs = request.getfixturevalue(kind)
    missed = single = 0
    for inquest in cases(outputs, 11, count):
        if inquest.verdict in ("found", "no_box"):
            continue
        missed += 1
        alone = inquest.fix is not None and len(inquest.fix["changes"]) == 1
        single += alone
        positions = np.unique(np.geomspace(1, 2000, 50).astype(int)).tolist()
        for size, config in single_knob_grid(inquest.config, positions):
            if alone and size >= inquest.fix["size"] - 1e-9:
                break
            assert not finding(detect(outputs, config), inquest), (inquest, config)
    assert missed > count / 3
    assert single > count / 10


def test_without_a_fix_the_best_matching_pair_is_beyond_reach():
    outputs = make_outputs(seed=5, size=(96, 128), num_classes=20)
    none = 0
    for inquest in cases(outputs, 1, 30):
        if inquest.fix is None and inquest.verdict not in ("found", "no_box"):
            none += 1
            assert inquest.candidate["rank"] > ROUND_COUNTS[-1]
            for size, config in single_knob_grid(inquest.config, [1, 100, 10_000])[::40]:
                assert not finding(detect(outputs, config), inquest), (size, config)
    assert none


# --- the verdict and the candidate ---------------------------------------------------------


def brute_force(outputs, inquest):
    """(fate, score, level, anchor, label) of each pair that finds the object, by the ledger."""
    trace = detect(outputs, inquest.config)
    hits = iou_with(inquest.box, boxes_of(outputs)) >= inquest.match_iou
    floors = dict(inquest.config.class_score_thresh)
    least = [
        max(inquest.config.score_thresh, floors.get(label, 0.0))
        for label in range(outputs.num_classes)
    ]
    pairs, index = [], 0
    for level, logits in enumerate(outputs.cls_logits):
        scores = torch.sigmoid(logits)
        for anchor in hits[index : index + len(logits)].nonzero().flatten().tolist():
            for label in range(outputs.num_classes):
                if inquest.label not in (None, label):
                    continue
                number_of_pair = (index + anchor) * outputs.num_classes + label
                row = find_row(trace, number_of_pair)
                passes = scores[anchor, label] > torch.tensor(least[label])
                fate = FATES.index("cut_by_topk") if passes else FATES.index("below_thresh")
                fate = fate if row is None else int(trace.candidates.fate[row])
                pairs.append((fate, float(scores[anchor, label]), level, anchor, label))
        index += len(logits)
    return trace, pairs


@pytest.mark.parametrize(("kind", "count"), [("crowded", 60), ("offset", 25)])
def test_the_candidate_is_the_pair_that_comes_nearest_to_being_kept(kind, count, request):
    outputs = request.getfixturevalue(kind)
    seen = set()
    for inquest in cases(outputs, 21, count):
        trace, pairs = brute_force(outputs, inquest)
        assert inquest.pairs_matching == len(pairs)
        assert inquest.boxes_matching == len({pair[2:4] for pair in pairs})
        if not pairs:
            assert inquest.verdict == "no_box"
            assert inquest.candidate is None
            continue
        fate, score, level, anchor, label = max(pairs)
        told = inquest.candidate
        assert told["fate"] == FATES[fate]
        assert told["score"] == pytest.approx(score, rel=1e-6)
        assert (told["level"], told["anchor"], told["label"]) == (LEVELS[level], anchor, label)
        assert told["category"] == trace.categories[label]
        box = boxes_of(outputs)[sum(outputs.anchors_per_level[:level]) + anchor]
        assert told["box"] == pytest.approx(box.tolist(), abs=1e-3)
        assert told["iou"] == pytest.approx(float(iou_with(inquest.box, box[None])[0]), abs=1e-5)
        rank = 1 + int((torch.sigmoid(outputs.cls_logits[level]) > told["score"]).sum())
        assert told["rank"] == rank
        if FATES[fate] == "kept":
            assert inquest.verdict == "found"
            assert inquest.detection["index"] + 1 == told["position"]
        else:
            other = finding(trace, replace(inquest, label=None))
            assert inquest.verdict == ("other_class" if other else FATES[fate])
            assert (inquest.detection and inquest.detection["index"]) == (
                other[0] if other else None
            )
        check_what_stopped_it(trace, told)
        seen.add(told["fate"])
    assert seen == set(FATES) or kind == "offset"


def check_what_stopped_it(trace, told):
    if told["fate"] == "below_thresh":
        assert told["score"] <= np.float32(told["score_thresh"])
    row = find_row(trace, told["pair"])
    assert (told["suppressed_by"] is None) == (told["fate"] != "suppressed")
    if told["fate"] == "suppressed":
        expected = trace.explain(row)["suppressed_by"]
        for key in ("score", "iou", "box"):
            assert told["suppressed_by"][key] == expected[key]
        assert told["suppressed_by"]["label"] == told["label"]
    position = int(trace.candidates.position[row]) if row is not None else 0
    assert told["position"] == (position or None)


def test_anchors_boxes_and_classes_are_the_best_there_are(crowded):
    anchors = to_original(crowded, torch.cat(crowded.anchors))
    starts = np.cumsum([0, *crowded.anchors_per_level])
    for inquest in cases(crowded, 31, 20):
        iou = iou_with(inquest.box, anchors)
        assert inquest.anchors_matching == int((iou >= inquest.match_iou).sum())
        told = [row["iou"] for row in inquest.nearest_anchors]
        assert told == pytest.approx(iou.sort(descending=True).values[: len(told)].tolist())
        assert len(told) == min(5, int((iou > 0).sum()))
        for row in inquest.nearest_anchors:
            level = LEVELS.index(row["level"])
            index = int(starts[level]) + row["anchor"]
            assert float(iou[index]) == pytest.approx(row["iou"])
            assert row["box"] == pytest.approx(anchors[index].tolist(), abs=1e-3)
            columns = crowded.grid_sizes[level][1]
            assert row["anchor"] // 9 == row["cell"]["row"] * columns + row["cell"]["col"]
        decoded = iou_with(inquest.box, boxes_of(crowded))
        assert inquest.best_box["iou"] == pytest.approx(float(decoded.max()), abs=1e-5)
        matching = torch.sigmoid(torch.cat(crowded.cls_logits))[decoded >= inquest.match_iou]
        best = matching.amax(dim=0).sort(descending=True) if len(matching) else None
        assert [row["score"] for row in inquest.best_classes] == pytest.approx(
            best.values[:5].tolist() if best else []
        )
        assert [row["label"] for row in inquest.best_classes] == (
            best.indices[:5].tolist() if best else []
        )


def test_an_anchor_is_told_as_explain_tells_it(crowded):
    trace = detect(crowded)
    story = trace.explain(0)
    inquest = why_not(crowded, story["box"], story["label"])
    assert inquest.verdict == "found"
    for key in ("level", "anchor", "cell", "anchor_shape", "label", "category", "score", "box"):
        assert inquest.candidate[key] == story[key]


def test_boxes_are_decoded_once_and_are_those_of_detect(crowded):
    outputs = make_outputs(seed=6)
    before = outputs.nbytes
    boxes = original_boxes(outputs)
    assert original_boxes(outputs) is boxes
    assert outputs.nbytes == before + boxes.nbytes
    starts = np.cumsum([0, *outputs.anchors_per_level])
    trace = detect(outputs)
    rows = trace.candidates
    index = starts[rows.level.numpy()] + rows.anchor.numpy()
    assert np.array_equal(boxes[index], rows.box_original.numpy())


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0, 0, 10], "four finite numbers"),
        ([0, 0, 10, 10, 10], "four finite numbers"),
        ([0, 0, 10, math.nan], "four finite numbers"),
        ([0, 0, 10, math.inf], "four finite numbers"),
        ([0, 0, 10, "10"], "four finite numbers"),
        ([0, 0, 10, None], "four finite numbers"),
        ([0, 0, 10, 10**400], "four finite numbers"),
        ("0010", "four finite numbers"),
        (7, "four finite numbers"),
        (None, "four finite numbers"),
        ([10, 0, 10, 10], "no area"),
        ([10, 0, 5, 10], "no area"),
        ([-20, 0, -10, 10], "outside the picture of 192 x 129 pixels"),
        ([0, 129, 10, 140], "outside the picture"),
    ],
)
def test_bad_boxes_are_refused_in_a_sentence(crowded, box, words):
    with pytest.raises(ConfigError, match=words) as refused:
        why_not(crowded, box)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("label", [-1, 3, 1.5, True, "ant"])
def test_bad_labels_are_refused(crowded, label):
    with pytest.raises(ConfigError, match="from 0 to 2"):
        why_not(crowded, [0, 0, 50, 50], label)


@pytest.mark.parametrize("match_iou", [0, -0.1, 1.1, math.nan, "0.5", True])
def test_bad_match_iou_is_refused(crowded, match_iou):
    with pytest.raises(ConfigError, match="match_iou"):
        why_not(crowded, [0, 0, 50, 50], match_iou=match_iou)


def test_what_lies_outside_the_picture_is_cut_off(crowded):
    height, width = crowded.original_size
    inquest = why_not(crowded, np.array([-50.0, 20, width + 9, height + 1e9]), np.int64(1))
    assert inquest.box == (0.0, 20.0, float(width), float(height))
    assert inquest.label == 1


# --- words ---------------------------------------------------------------------------------


def test_words_hold_the_numbers(crowded):
    seen = set()
    for inquest in cases(crowded, 41, 60):
        plain, config = inquest.to_dict(), inquest.config
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        sentence = inquest_sentence(plain, config)
        rows = dict(inquest_numbers(plain, config))
        assert sentence.startswith("Found" if inquest.verdict == "found" else "Missed")
        assert sentence.endswith(".")
        assert rows["boxes that match"].startswith(f"{inquest.boxes_matching:,}")
        assert inquest.verdict in VERDICTS
        told = inquest.candidate
        if told:
            assert told["category"] in sentence or inquest.detection
            assert f"{told['rank']:,}" in rows["rank in level"]
            assert rows["fate"] == told["fate"].replace("_", " ")
        if inquest.fix:
            for knob, value in inquest.fix["changes"].items():
                if knob != "class_score_thresh":
                    assert f"{knob} to {number(value)}" in sentence
                    assert f"{number(getattr(config, knob))} → {number(value)}" in rows["fix"]
        assert describe(inquest).startswith(sentence)
        check_formula(inquest)
        seen.add(inquest.verdict)
    assert len(seen) > 4


def check_formula(inquest):
    """The printed arithmetic is right as printed."""
    text = inquest_formula(inquest.to_dict(), inquest.config).replace(",", "")
    for factor, other, product in re.findall(r"= ([\d.]+) × ([\d.]+) = ([\d.]+)", text):
        slack = 0.01 * (float(factor) + float(other)) + 0.1
        assert float(factor) * float(other) == pytest.approx(float(product), abs=slack)
    for a, b, inter, union in re.findall(r"= ([\d.]+) \+ ([\d.]+) - ([\d.]+) = ([\d.]+)", text):
        assert float(a) + float(b) - float(inter) == pytest.approx(float(union), abs=0.31)
    quotients = re.findall(r"IoU +?= ([\d.]+) / ([\d.]+) = ([\d.]+)", text)
    for inter, union, iou in quotients:
        assert float(inter) / float(union) == pytest.approx(float(iou), abs=0.01)
    nearest = inquest.candidate or inquest.best_box
    assert float(quotients[0][2]) == pytest.approx(nearest["iou"], abs=1e-4)
    if inquest.candidate and inquest.candidate["fate"] == "suppressed":
        by = inquest.candidate["suppressed_by"]
        assert float(quotients[1][2]) == pytest.approx(by["iou"], abs=0.01)


def test_numbers_are_exact():
    assert number(0.3) == "0.30"
    assert number(0.215) == "0.215"
    assert float(number(0.16999998688697815)) == 0.16999998688697815
    assert number(12000) == "12,000"


def test_public_names():
    assert rn.why_not is why_not
    assert rn.Inquest.__name__ == "Inquest"


def test_a_box_that_is_just_the_drawn_one_has_one_verdict(crowded):
    """The bound is met to the last bit: what is kept and what matches are told by one IoU."""
    trace = detect(crowded, PostprocessConfig(0.0, 0.9, 1000, 300))
    for row in range(0, len(trace), 3):
        box = trace.boxes[row].tolist()
        if box[0] >= box[2] or box[1] >= box[3]:
            continue
        for label in (int(trace.labels[row]), (int(trace.labels[row]) + 1) % crowded.num_classes):
            inquest = why_not(crowded, box, label, trace.config, match_iou=1.0)
            assert inquest_sentence(inquest.to_dict(), trace.config)
            if inquest.verdict == "found":
                assert inquest.boxes_matching > 0
        told = why_not(crowded, box, int(trace.labels[row]), trace.config).detection
        bound = min(1.0, told["iou"])
        again = why_not(crowded, box, int(trace.labels[row]), trace.config, match_iou=bound)
        assert again.verdict == "found" and again.boxes_matching > 0


@pytest.mark.parametrize("seed", [3, 4])
def test_fixes_of_several_knobs_leave_the_thresholds_as_high_as_they_can_be(crowded, seed):
    several, generator = 0, np.random.default_rng(seed)
    for _ in range(40):
        box, label, config, match_iou = random_case(crowded, generator)
        config = replace(config, score_thresh=0.9, detections_per_img=1)
        inquest = why_not(crowded, box, label, config, match_iou=match_iou)
        fix = inquest.fix
        if fix is None or len(fix["changes"]) < 2 or "score_thresh" not in fix["changes"]:
            continue
        several += 1
        fixed = inquest.fixed_config(fix)
        score = fix["detection"]["score"]
        assert fixed.score_thresh >= round(score - 0.02, 2) or score < 0.02
    assert several
