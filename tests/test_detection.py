"""Detections equal torchvision's, and the ledger of fates is conserved, for every setting."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import batched_nms, box_iou, nms

from retinanet import candidates as candidates_module
from retinanet.anchors import grid_anchors
from retinanet.candidates import CUT_SHOWN, FATES, ScoreLadder, candidates_of
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.detection import detect
from retinanet.nms import coordinate_trick_limit, find_overlaps, score_order, survivors
from retinanet.types import LEVELS, Outputs

SEEDS = range(3)


def make_outputs(seed=0, size=(96, 128), num_classes=5, spread=2.0, delta=0.3, centre=-3.0):
    """Synthetic outputs with spread-out logits, no two scores of which are equal."""
    generator = torch.Generator().manual_seed(seed)
    grids = [(math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in (8, 16, 32, 64, 128)]
    anchors = grid_anchors(size, grids)
    total = sum(len(level) for level in anchors) * num_classes
    # Quantiles of the normal distribution in random order.
    quantiles = torch.linspace(-1, 1, total + 2, dtype=torch.float64)[1:-1]
    logits = (centre + spread * math.sqrt(2) * torch.erfinv(quantiles)).float()
    assert len(torch.sigmoid(logits).unique()) == total
    logits = logits[torch.randperm(total, generator=generator)].reshape(-1, num_classes)
    counts = [len(level) for level in anchors]
    deltas = torch.randn(sum(counts), 4, generator=generator) * delta
    return Outputs(
        features={},
        cls_logits=list(logits.split(counts)),
        bbox_regression=list(deltas.split(counts)),
        anchors=anchors,
        grid_sizes=grids,
        image_size=(size[0] - 3, size[1] - 5),
        padded_size=size,
        original_size=(2 * size[0] + 1, 3 * size[1]),
        config=ModelConfig(num_classes=num_classes),
        categories=("ant", "bee", None, "bee"),
    )


def torchvision_detections(outputs, config):
    """`RetinaNet.postprocess_detections` and the resize to original pixels."""
    settings_of_model = SimpleNamespace(
        score_thresh=config.score_thresh,
        nms_thresh=config.nms_thresh,
        topk_candidates=config.topk_candidates,
        detections_per_img=config.detections_per_img,
        box_coder=BoxCoder(weights=(1.0, 1.0, 1.0, 1.0)),
    )
    heads = {
        "cls_logits": [level[None] for level in outputs.cls_logits],
        "bbox_regression": [level[None] for level in outputs.bbox_regression],
    }
    found = TorchvisionRetinaNet.postprocess_detections(
        settings_of_model, heads, [outputs.anchors], [outputs.image_size]
    )[0]
    found["boxes"] = resize_boxes(found["boxes"], outputs.image_size, outputs.original_size)
    return found


def assert_equals_torchvision(outputs, config):
    trace, expected = detect(outputs, config), torchvision_detections(outputs, config)
    assert torch.equal(trace.boxes, expected["boxes"]), config
    assert torch.equal(trace.scores, expected["scores"]), config
    assert torch.equal(trace.labels, expected["labels"]), config
    return trace


def random_configs(seed, count):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield PostprocessConfig(
            score_thresh=float(generator.choice([0.0, 1.0, *generator.random(8) ** 2])),
            nms_thresh=float(generator.choice([0.0, 1.0, *generator.random(8)])),
            topk_candidates=int(generator.choice([1, 5000, *generator.integers(1, 1500, 8)])),
            detections_per_img=int(generator.choice([1, 10_000, *generator.integers(1, 600, 8)])),
        )


configs = st.builds(
    PostprocessConfig,
    score_thresh=st.sampled_from([0.0, 1e-5, 1.0]) | st.floats(0, 1),
    nms_thresh=st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
    topk_candidates=st.integers(1, 3000),
    detections_per_img=st.integers(1, 1000),
)


@pytest.fixture(scope="module")
def outputs():
    return make_outputs()


@pytest.fixture(scope="module")
def many_classes():
    """Large class offsets, so that the coordinate trick rounds."""
    return make_outputs(seed=1, size=(64, 96), num_classes=91, delta=0.1)


# --- the same as torchvision ---------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_torchvision_for_random_settings(seed):
    outputs = make_outputs(seed)
    ways = set()
    for config in random_configs(seed, 80):
        trace = assert_equals_torchvision(outputs, config)
        ways.add(trace.max_coordinate is None)
    assert ways == {True, False}  # NMS class by class, and by the coordinate trick


def test_equals_torchvision_with_many_classes(many_classes):
    for config in random_configs(7, 40):
        assert_equals_torchvision(many_classes, config)


@pytest.mark.parametrize(
    "config",
    [
        PostprocessConfig(score_thresh=0.0),
        PostprocessConfig(score_thresh=1.0),  # nothing is above
        PostprocessConfig(topk_candidates=1),
        PostprocessConfig(topk_candidates=10**9, score_thresh=0.3),
        PostprocessConfig(topk_candidates=6000, score_thresh=0.0),  # beyond what is prepared
        PostprocessConfig(nms_thresh=0.0),
        PostprocessConfig(nms_thresh=1.0),
        PostprocessConfig(detections_per_img=1),
        PostprocessConfig(detections_per_img=10**9),
    ],
)
def test_equals_torchvision_at_the_ends_of_each_range(config):
    trace = assert_equals_torchvision(make_outputs(5), config)
    assert (len(trace) == 0) == (config.score_thresh == 1.0)


def test_a_fresh_model_detects_nothing_by_default():
    outputs = make_outputs(centre=-4.595, spread=0.05)
    assert len(detect(outputs)) == 0
    assert_equals_torchvision(outputs, PostprocessConfig(score_thresh=0.0))


def test_one_crowded_class_goes_through_torchvisions_own_nms(monkeypatch):
    monkeypatch.setattr(candidates_module, "PAIR_BUDGET", 10)
    outputs = make_outputs(2)
    for config in random_configs(3, 10):
        assert_equals_torchvision(outputs, config)


def test_equal_scores_go_as_torch_topk_puts_them():
    outputs = make_outputs()
    outputs.cls_logits[:] = [torch.zeros_like(level) for level in outputs.cls_logits]
    config = PostprocessConfig(topk_candidates=7, nms_thresh=1.0)
    trace = detect(outputs, config)
    table = trace.candidates
    entered = table.fate != FATES.index("cut_by_topk")
    flat = (table.anchor * 5 + table.label)[entered]
    assert table.level[entered].tolist() == [level for level in range(5) for _ in range(7)]
    expected = [level.sigmoid().flatten().topk(7).indices for level in outputs.cls_logits]
    assert flat.tolist() == torch.cat(expected).tolist()
    assert_equals_torchvision(outputs, config)


def test_coordinate_trick_limit_is_that_of_the_library():
    limit = coordinate_trick_limit("cpu")
    boxes = torch.tensor([[0.0, 0, 1, 1], [-2, -2, -1, -1]])
    for count, kept in ((limit, 1), (limit + 1, 2)):
        padded = torch.cat([boxes, torch.zeros(count - 2, 4)])
        scores = torch.linspace(1, 0.1, count)
        labels = torch.zeros(count, dtype=torch.int64)
        labels[1] = 1
        assert int((batched_nms(padded, scores, labels, 0.5) < 2).sum()) == kept


@pytest.mark.parametrize("thresh", [0.0, 0.3, 0.5, 1.0])
def test_survivors_are_those_of_torchvision_nms(thresh):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + torch.rand(400, 2, generator=generator) * 50], dim=1)
    scores = torch.rand(400, generator=generator)
    order = score_order(scores.numpy())
    overlaps = find_overlaps(boxes.numpy(), np.zeros(400, np.int64), order)
    kept = survivors(400, overlaps.above(thresh))
    assert np.flatnonzero(kept).tolist() == sorted(nms(boxes, scores, thresh).tolist())


def test_suppression_is_decided_at_the_exact_iou():
    """At a threshold equal to a pair's IoU both stay; at the next number below, one goes."""
    outputs = make_outputs(3)
    trace = detect(outputs, PostprocessConfig(nms_thresh=0.3))
    iou = float(trace.suppressed_iou[trace.suppressed_by >= 0][0])
    for thresh in (iou, math.nextafter(iou, 0.0)):
        assert_equals_torchvision(outputs, PostprocessConfig(nms_thresh=thresh))


# --- the ledger ----------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs)
def test_fates_sum_to_all_pairs(outputs, config):
    trace = detect(outputs, config)
    assert tuple(trace.counts) == FATES
    assert sum(trace.counts.values()) == outputs.num_anchors * outputs.num_classes
    assert trace.counts["kept"] == len(trace)
    assert list(trace.counts_per_level) == list(LEVELS)
    for level, counts in enumerate(trace.counts_per_level.values()):
        scores = torch.sigmoid(outputs.cls_logits[level])
        above = int((scores > config.score_thresh).sum())
        assert min(counts.values()) >= 0
        assert counts["below_thresh"] == scores.numel() - above
        assert counts["cut_by_topk"] == max(0, above - config.topk_candidates)
        assert sum(counts.values()) == scores.numel()
    for fate in FATES:
        assert trace.counts[fate] == sum(level[fate] for level in trace.counts_per_level.values())


def test_candidates_are_listed_by_fate():
    outputs = make_outputs(1)
    trace = detect(outputs, PostprocessConfig(topk_candidates=120, detections_per_img=40))
    table = trace.candidates
    fates = [FATES[code] for code in table.fate.tolist()]
    runs = [fate for index, fate in enumerate(fates) if index == 0 or fates[index - 1] != fate]
    assert runs == ["kept", "over_limit", "suppressed", "cut_by_topk"]
    for fate in ("kept", "over_limit", "suppressed"):
        assert fates.count(fate) == trace.counts[fate]
        scores = table.score[[name == fate for name in fates]]
        assert (scores[1:] <= scores[:-1]).all()
    above = [level["cut_by_topk"] for level in trace.counts_per_level.values()]
    assert fates.count("cut_by_topk") == sum(min(count, CUT_SHOWN) for count in above)
    assert torch.equal(table.box_original[: len(trace)], trace.boxes)
    assert torch.equal(table.score[: len(trace)], trace.scores)
    assert torch.equal(table.label[: len(trace)], trace.labels)
    survivors_count = trace.counts["kept"] + trace.counts["over_limit"]
    assert table.position[:survivors_count].tolist() == list(range(1, survivors_count + 1))
    assert not table.position[survivors_count:].any()
    for row in (0, 50, len(table) - 1):  # each row leads back to its logit
        logit = outputs.cls_logits[table.level[row]][table.anchor[row], table.label[row]]
        assert torch.isclose(torch.sigmoid(logit), table.score[row])


@settings(max_examples=40, deadline=None)
@given(config=configs)
def test_suppressors_explain_exactly_what_nms_dropped(outputs, config):
    trace = detect(outputs, config)
    table, by, iou = trace.candidates, trace.suppressed_by, trace.suppressed_iou
    suppressed = table.fate == FATES.index("suppressed")
    assert torch.equal(by >= 0, suppressed)
    rows, judges = suppressed.nonzero().flatten(), by[suppressed]
    assert (table.position[judges] > 0).all()  # kept or over the limit
    assert torch.equal(table.label[judges], table.label[rows])
    assert (table.score[judges] > table.score[rows]).all()
    assert (iou[rows].double() > config.nms_thresh).all()
    plain = box_iou(table.box[judges], table.box[rows]).diagonal()
    assert torch.allclose(iou[rows], plain, atol=0.01)
    # No kept box before the one named could have done it.
    for row, judge in list(zip(rows.tolist(), judges.tolist(), strict=True))[:20]:
        earlier = (table.position > 0) & (table.score > table.score[judge])
        earlier &= table.label == table.label[row]
        overlaps = box_iou(table.box[earlier], table.box[row][None])
        assert (overlaps <= config.nms_thresh + 0.01).all()


def test_what_is_not_a_number_passes_no_threshold():
    outputs = make_outputs(4)
    outputs.cls_logits[0][::3] = math.nan
    outputs.cls_logits[1][:] = math.nan
    outputs.cls_logits[2][0] = math.inf
    outputs.cls_logits[2][1] = -math.inf
    outputs.bbox_regression[0][::7] = math.inf
    for config in (PostprocessConfig(), PostprocessConfig(score_thresh=0.0)):
        trace = detect(outputs, config)
        expected = torchvision_detections(outputs, config)
        assert trace.scores.isfinite().all()
        assert len(trace) == len(expected["scores"])
        assert torch.equal(trace.scores, expected["scores"])
        assert sum(trace.counts.values()) == outputs.num_anchors * outputs.num_classes
        assert trace.counts_per_level["P4"]["below_thresh"] == outputs.cls_logits[1].numel()


def test_boxes_that_are_not_numbers_do_as_in_torchvision():
    outputs = make_outputs(4)
    outputs.bbox_regression[0][::5] = math.nan
    for config in (PostprocessConfig(), PostprocessConfig(topk_candidates=50)):
        trace, expected = detect(outputs, config), torchvision_detections(outputs, config)
        assert torch.equal(trace.scores, expected["scores"])
        assert torch.equal(trace.boxes.isnan(), expected["boxes"].isnan())
        json.dumps(trace.explain(0), allow_nan=False)


# --- prepared once -------------------------------------------------------------------------


class Untouchable(list):
    """In place of the outputs' tensors once everything is prepared."""

    def __getitem__(self, index):
        raise AssertionError("a settings change read the network's outputs")

    __iter__ = __len__ = __getitem__


def test_a_settings_change_never_reads_the_logits():
    outputs = make_outputs(6)
    detect(outputs)
    prepared = dataclasses.replace(
        outputs,
        cls_logits=Untouchable(),
        bbox_regression=Untouchable(),
        anchors=Untouchable(),
    )
    prepared._memo.update(outputs._memo)
    for config in random_configs(11, 40):
        config = dataclasses.replace(
            config,
            topk_candidates=min(config.topk_candidates, 4000),
            score_thresh=max(config.score_thresh, 0.001) if config.score_thresh else 0.0,
        )
        trace = detect(prepared, config)
        assert torch.equal(trace.boxes, detect(make_outputs(6), config).boxes)
        assert sum(trace.counts.values()) == outputs.num_anchors * 5


def test_preparation_is_kept_with_the_outputs_and_counted():
    outputs = make_outputs()
    before = outputs.nbytes
    first = candidates_of(outputs)
    assert candidates_of(outputs) is first
    assert outputs.nbytes == before + first.nbytes > before
    detect(outputs, PostprocessConfig(topk_candidates=8000, score_thresh=0.0))
    assert candidates_of(outputs) is first
    assert outputs.nbytes > before


def test_prepared_pairs_are_the_best_in_order_even_when_scores_tie():
    outputs = make_outputs()
    generator = torch.Generator().manual_seed(0)
    for level in outputs.cls_logits:
        level.copy_(torch.randint(-3, 1, level.shape, generator=generator).float())
    for logits, head in zip(outputs.cls_logits, candidates_of(outputs).heads, strict=True):
        flat = torch.sigmoid(logits).flatten()
        expected = flat.sort(descending=True, stable=True).indices[: len(head)]
        assert torch.equal(head.anchors * 5 + head.labels, expected)
        assert torch.equal(head.scores, flat[expected])


@given(
    scores=st.lists(st.floats(0, 1, width=32), max_size=60),
    thresh=st.floats(0, 1),
)
def test_ladder_counts_exactly(scores, thresh):
    values = np.array(scores, dtype=np.float32)
    ladder = ScoreLadder.build(values.copy())
    for value in (thresh, *scores):
        assert ladder.count_above(value) == int((torch.tensor(values) > value).sum())


def test_detect_gives_no_gradients():
    outputs = make_outputs()
    outputs.cls_logits[:] = [level.requires_grad_() for level in outputs.cls_logits]
    assert not detect(outputs).scores.requires_grad
