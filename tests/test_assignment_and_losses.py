"""Matching and both losses against torchvision's, for every kind of ground truth."""

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from retinanet.assignment import (
    assign,
    assign_anchors,
    ignore_background_in,
    match_anchors,
    rematch,
)
from retinanet.config import ConfigError, LossConfig, MatcherConfig
from retinanet.dialects import match_dialect
from retinanet.layout import layout_of
from retinanet.losses import compute_loss
from retinanet.types import LEVELS
from tests.oracle import our_model, torchvision_model

HEIGHT, WIDTH = 150, 201


@pytest.fixture(scope="module", params=["v1", "v2"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def outputs(variant, image):
    return our_model(variant)(image)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    low, high = corners.min(dim=1).values, corners.max(dim=1).values
    return torch.cat([low, high + 1], dim=1)


GROUND_TRUTHS = {
    "none": torch.zeros(0, 4),
    "one": torch.tensor([[20.0, 30.0, 90.0, 120.0]]),
    "tiny": torch.tensor([[50.0, 50.0, 51.0, 51.5]]),
    "the same twice": torch.tensor([[20.0, 30.0, 90.0, 120.0]] * 2),
    "whole picture": torch.tensor([[0.0, 0.0, WIDTH, HEIGHT]]),
    "many": random_boxes(12, seed=1),
}
BEYOND_ANCHORS = {
    "no width": torch.tensor([[40.0, 40.0, 40.0, 90.0]]),
    "no overlap": torch.tensor([[5000.0, 5000.0, 5100.0, 5100.0]]),
    "no overlap beside a good one": torch.tensor(
        [[5000.0, 5000.0, 5100.0, 5100.0], [20.0, 30.0, 90.0, 120.0]]
    ),
}
MATCHERS = [
    MatcherConfig(),
    MatcherConfig(0.7, 0.3),
    MatcherConfig(0.5, 0.5, allow_low_quality_matches=False),
    MatcherConfig(0.9, 0.1),
    MatcherConfig(0.0, 0.0),
    MatcherConfig(1.0, 1.0),
]


@pytest.mark.parametrize("config", MATCHERS)
@pytest.mark.parametrize("boxes", [*GROUND_TRUTHS.values(), *BEYOND_ANCHORS.values()])
def test_matches_are_torchvisions(outputs, boxes, config):
    anchors = torch.cat(outputs.anchors)
    ours = match_anchors(anchors, boxes, config)
    if len(boxes) == 0:  # torchvision's RetinaNet guards its Matcher so
        assert (ours.matched_idxs == -1).all()
        return
    matcher = Matcher(config.fg_iou_thresh, config.bg_iou_thresh, config.allow_low_quality_matches)
    assert torch.equal(ours.matched_idxs, matcher(box_iou(boxes, anchors)))


@pytest.mark.parametrize("seed", range(20))
def test_random_matches_are_torchvisions(outputs, seed):
    boxes = random_boxes(1 + seed, seed)
    anchors = torch.cat(outputs.anchors)
    ours = match_anchors(anchors, boxes, MatcherConfig())
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, anchors))
    assert torch.equal(ours.matched_idxs, theirs)


@pytest.mark.parametrize("config", MATCHERS)
@pytest.mark.parametrize("name", GROUND_TRUTHS)
def test_each_anchor_has_exactly_one_fate(outputs, name, config):
    boxes = GROUND_TRUTHS[name]
    match = assign(outputs, boxes, torch.ones(len(boxes)), config)
    assert sum(match.counts.values()) == outputs.num_anchors
    levels = match.counts_per_level
    assert list(levels) == list(LEVELS)
    for fate, count in match.counts.items():
        assert sum(level[fate] for level in levels.values()) == count
    low = match.is_low_quality
    assert (match.matched_idxs[low] == match.best_gt[low]).all()
    assert (match.max_iou[low] < config.fg_iou_thresh).all()


def test_without_low_quality_matches_a_hard_object_gets_no_anchor(outputs):
    tiny = GROUND_TRUTHS["tiny"]
    forced = assign(outputs, tiny, torch.tensor([3]))
    assert forced.counts["foreground"] > 0
    assert forced.is_low_quality.sum() == forced.counts["foreground"]
    honest = assign(outputs, tiny, torch.tensor([3]), MatcherConfig(0.5, 0.4, False))
    assert honest.counts["foreground"] == 0


def torchvision_losses(variant, image, boxes, labels):
    model = torchvision_model(variant).train()
    try:
        model.zero_grad()
        return model([image], [{"boxes": boxes, "labels": labels}])
    finally:
        model.eval()


@pytest.mark.parametrize("name", GROUND_TRUTHS)
def test_losses_and_gradients_equal_torchvisions(image, name):
    # v1 only: in training mode v2's batch norm normalises with the batch, not its statistics.
    boxes = GROUND_TRUTHS[name]
    labels = torch.arange(len(boxes)) % 91
    theirs = torchvision_losses("v1", image, boxes, labels)
    (theirs["classification"] + theirs["bbox_regression"]).backward()

    ours = our_model("v1").train()
    try:
        ours.zero_grad()
        outputs = ours(image)
        loss = compute_loss(outputs, assign(outputs, boxes, labels))
        (loss.classification + loss.bbox_regression).backward()
    finally:
        ours.eval()
    assert torch.equal(loss.classification, theirs["classification"])
    assert torch.equal(loss.bbox_regression, theirs["bbox_regression"])
    reference = dict(torchvision_model("v1").named_parameters())
    for parameter_name, parameter in ours.named_parameters():
        gradient = reference[parameter_name].grad
        if gradient is None:
            assert parameter.grad is None, parameter_name
        else:
            assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-6), parameter_name


@pytest.mark.parametrize("name", GROUND_TRUTHS)
def test_head_losses_and_their_gradients_equal_torchvisions_in_both_variants(
    variant, outputs, name
):
    boxes = GROUND_TRUTHS[name]
    labels = torch.arange(len(boxes)) % 91
    match = assign(outputs, boxes, labels)

    def leaves():
        return [
            torch.cat(tensors).clone().requires_grad_()
            for tensors in (outputs.cls_logits, outputs.bbox_regression)
        ]

    logits, deltas = leaves()
    theirs = torchvision_model(variant).head.compute_loss(
        [{"boxes": match.gt_boxes, "labels": labels}],
        {"cls_logits": logits[None], "bbox_regression": deltas[None]},
        [torch.cat(outputs.anchors)],
        [match.matched_idxs],
    )
    (theirs["classification"] + theirs["bbox_regression"]).backward()
    our_logits, our_deltas = leaves()
    per_level = outputs.anchors_per_level
    traced = replace(
        outputs,
        cls_logits=list(our_logits.split(per_level)),
        bbox_regression=list(our_deltas.split(per_level)),
    )
    loss = compute_loss(traced, match)
    (loss.classification + loss.bbox_regression).backward()
    assert torch.equal(loss.classification, theirs["classification"])
    assert torch.equal(loss.bbox_regression, theirs["bbox_regression"])
    assert torch.equal(our_logits.grad, logits.grad)
    assert torch.equal(our_deltas.grad, deltas.grad)


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(0.75, 0.0), LossConfig(0.5, 5.0)])
@pytest.mark.parametrize("name", GROUND_TRUTHS)
def test_the_parts_of_the_loss_sum_to_the_whole(outputs, name, config):
    boxes = GROUND_TRUTHS[name]
    loss = compute_loss(outputs, assign(outputs, boxes, torch.ones(len(boxes))), config)
    for part, total, key in (
        (loss.per_anchor, loss.classification, "classification"),
        (loss.per_anchor_bbox, loss.bbox_regression, "bbox_regression"),
    ):
        assert torch.isclose(part.double().sum(), total.double(), rtol=1e-4)
        levels = sum(level[key] for level in loss.per_level.values())
        assert levels == pytest.approx(float(total), rel=1e-4)
    match = assign(outputs, boxes, torch.ones(len(boxes)))
    assert not loss.per_anchor[match.matched_idxs == -2].any()
    assert not loss.per_anchor_bbox[match.matched_idxs < 0].any()
    assert loss.num_foreground == match.counts["foreground"]


def test_focal_loss_is_equation_5(outputs):
    # One anchor by hand: FL = -alpha_t (1 - p_t)^gamma log(p_t), summed over classes.
    match = assign(outputs, GROUND_TRUTHS["one"], torch.tensor([7]))
    loss = compute_loss(outputs, match, LossConfig(alpha=0.25, gamma=2.0))
    anchor = int(torch.where(match.matched_idxs >= 0)[0][0])
    p = torch.sigmoid(torch.cat(outputs.cls_logits)[anchor].double())
    expected = 0.0
    for label in range(len(p)):
        p_t, alpha_t = (p[label], 0.25) if label == 7 else (1 - p[label], 0.75)
        expected += float(-alpha_t * (1 - p_t) ** 2 * torch.log(p_t))
    assert float(loss.per_anchor[anchor]) * loss.num_foreground == pytest.approx(expected, 1e-4)


def test_areas_to_ignore_take_only_background_anchors_that_lie_in_them():
    anchors = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [6, 0, 16, 10], [0, 0, 10, 10]])
    matched = torch.tensor([-1, -1, -1, 2])
    areas = torch.tensor([[0.0, 0, 10, 10]])
    # shares inside: 1.0, 0.6, 0.4, and a foreground anchor that stays one
    assert ignore_background_in(matched, anchors, areas).tolist() == [-2, -2, -1, 2]
    assert ignore_background_in(matched, anchors, torch.zeros(0, 4)).tolist() == matched.tolist()


@pytest.mark.parametrize(
    ("boxes", "labels", "sentence"),
    [
        (torch.zeros(2, 4), torch.zeros(1), "2 ground-truth boxes but 1 labels"),
        (torch.tensor([[0, 0, float("nan"), 1]]), torch.zeros(1), "not a finite number"),
        (torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([91]), "from 0 to 90"),
        (torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([-1]), "from 0 to 90"),
        (torch.ones(4, 2), torch.zeros(2), r"not \[4, 2\]"),
        (torch.ones(2, 8), torch.zeros(4), r"not \[2, 8\]"),
        (torch.tensor([0.0, 0, 5, 5]), torch.zeros(1), r"not \[4\]"),
        (torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([[1]]), "must be a list"),
        (torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([1.9]), "not a whole number"),
        (torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([float("nan")]), "not a whole number"),
        (torch.tensor([[5.0, 0, 5, 5]]), torch.tensor([1]), "no area"),
        (torch.tensor([[0.0, 5, 5, 1]]), torch.tensor([1]), "no area"),
    ],
)
def test_ground_truth_that_cannot_be_matched_is_refused_in_words(outputs, boxes, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        assign(outputs, boxes, labels)


def test_lists_and_nothing_at_all_are_ground_truth(outputs):
    assert assign(outputs, [[20, 30, 90, 120]], [3.0]).gt_labels.tolist() == [3]
    assert assign(outputs, [], []).gt_boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (MatcherConfig, {"fg_iou_thresh": 0.3, "bg_iou_thresh": 0.4}),
        (MatcherConfig, {"fg_iou_thresh": 1.5}),
        (MatcherConfig, {"allow_low_quality_matches": 1}),
        (LossConfig, {"alpha": -0.1}),
        (LossConfig, {"gamma": float("nan")}),
    ],
)
def test_settings_out_of_range_are_refused(config, settings):
    with pytest.raises(ConfigError, match=config.__name__):
        config(**settings)


@pytest.mark.parametrize("bounds", [(0.5, 0.4, True), (0.9, 0.1, False), (0.3, 0.3, True)])
@pytest.mark.parametrize("objects", [0, 3])
def test_a_rematch_is_a_match(bounds, objects):
    layout = layout_of((120, 160), 120, 160)
    boxes = torch.tensor([[10.0, 12, 70, 90], [60, 20, 150, 110], [5, 5, 9, 9]])[:objects]
    again = rematch(assign_anchors(layout, boxes), MatcherConfig(*bounds))
    anew = assign_anchors(layout, boxes, config=MatcherConfig(*bounds))
    assert torch.equal(again.matched_idxs, anew.matched_idxs)
    assert torch.equal(again.is_low_quality, anew.is_low_quality)
    assert again.config == anew.config and again.counts == anew.counts


def test_another_implementations_match_is_not_rematched():
    layout = layout_of((120, 160), 120, 160)
    match = match_dialect(
        "mmdetection", layout, torch.tensor([[10.0, 12, 70, 90]]), MatcherConfig()
    )
    with pytest.raises(ValueError, match="match the anchors anew"):
        rematch(match, MatcherConfig(0.9, 0.1))
