"""Four implementations' matching rules: torchvision's against torchvision, the others by hand."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen
from torchvision.ops import box_iou

from retinanet.assignment import assign_anchors, match_anchors
from retinanet.config import ConfigError, MatcherConfig
from retinanet.dialects import (
    DIALECTS,
    FORCED_IN_ONE,
    FORCED_TO_ANOTHER,
    REASONS,
    SIZES,
    STRIDES_DIFFER,
    TOGETHER,
    dialect_differences,
    dialect_layout,
    dialect_sentence,
    exact_cell_anchors,
    find_dialect,
    match_dialect,
    match_to_forcing_object,
)
from retinanet.layout import layout_of, place_in_layout

NAMES = [dialect.name for dialect in DIALECTS]
CONFIG = MatcherConfig()


@pytest.fixture(scope="module")
def layout():
    return layout_of((250, 333), 250, 333)


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor([300.0, 220.0])
    return torch.cat([low, low + torch.rand(count, 2, generator=generator) ** 2 * 150 + 3], dim=1)


def by_max_iou_assigner(iou, config):
    """The steps that MMDetection's documentation lists, anchor by anchor and object by object."""
    objects, anchors = iou.shape
    matched = [-2] * anchors
    for anchor in range(anchors):
        best = max(range(objects), key=lambda gt: float(iou[gt, anchor]))
        if iou[best, anchor] < config.bg_iou_thresh:
            matched[anchor] = -1
        if iou[best, anchor] >= config.fg_iou_thresh:
            matched[anchor] = best
    for gt in range(objects):
        highest = max(iou[gt])
        for anchor in range(anchors):
            if iou[gt, anchor] == highest:
                matched[anchor] = gt
    return matched


def test_the_four_dialects_say_their_rules():
    assert NAMES == ["paper", "torchvision", "detectron2", "mmdetection"]
    for dialect in DIALECTS:
        assert len(dialect.rules) == 3
        assert all(rule.endswith(".") for rule in dialect.rules)
        assert find_dialect(dialect.name) is dialect
    with pytest.raises(ConfigError, match="no dialect 'darknet'; there are paper, torchvision"):
        find_dialect("darknet")


@pytest.mark.parametrize("size", [(250, 333), (800, 1333), (97, 411)])
def test_torchvisions_dialect_is_torchvision(size):
    layout = layout_of(size, min(size), max(size))
    features = [torch.empty(1, 1, *grid) for grid in layout.grid_sizes]
    images = ImageList(torch.empty(1, 3, *layout.padded_size), [layout.image_size])
    anchors = _default_anchorgen()(images, features)[0]
    assert torch.equal(torch.cat(dialect_layout("torchvision", layout).anchors), anchors)
    for seed in range(3):
        boxes = random_boxes(1 + 4 * seed, seed).clamp(max=float(min(size)))
        boxes[:, 2:] += 1
        match = match_dialect("torchvision", layout, boxes, CONFIG)
        theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, anchors))
        assert torch.equal(match.matched_idxs, theirs)
        ours = assign_anchors(layout, boxes)
        assert torch.equal(ours.matched_idxs, match.matched_idxs)
        assert torch.equal(ours.is_low_quality, match.is_low_quality)


def test_exact_anchors_by_hand():
    # Ratio 0.5 (height / width): width 32 x sqrt 2 = 45.25, height 22.63; scale 2^(1/3): 40.32.
    cell = exact_cell_anchors((32.0, 32 * 2 ** (1 / 3)), (0.5, 1.0))
    expected = [
        [-22.627417, -11.313708, 22.627417, 11.313708],
        [-28.508759, -14.254380, 28.508759, 14.254380],
        [-16, -16, 16, 16],
        [-20.158737, -20.158737, 20.158737, 20.158737],
    ]
    assert torch.allclose(cell, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["paper", "detectron2", "mmdetection"])
def test_exact_dialects_have_nominal_strides_and_the_same_order_of_anchors(name):
    layout = layout_of((800, 1333), 800, 1333)
    own = dialect_layout(name, layout)
    assert own.anchors_per_level == layout.anchors_per_level
    for level, (ours, theirs) in enumerate(zip(own.anchors, layout.anchors, strict=True)):
        columns = layout.grid_sizes[level][1]
        centre = (ours[:, :2] + ours[:, 2:]) / 2
        stride = 8 * 2**level
        assert torch.allclose(centre[9 * (columns + 2) :][0], torch.tensor([2.0, 1]) * stride)
        sizes = ours[:, 2:] - ours[:, :2]
        # as cut to whole pixels: nearly the same box, index by index
        assert (sizes - (theirs[:, 2:] - theirs[:, :2])).abs().max() < 2
    x1, _, x2, _ = place_in_layout(layout, layout.num_anchors - 1)["box"]
    assert (x1 + x2) / 2 == 10 * 122  # the last column of P7 in torchvision, 10 x 128 elsewhere
    assert own.anchors[4][-1, [0, 2]].mean() == pytest.approx(10 * 128, abs=1e-3)


# Three anchors in a row, 10 x 10; G0 lies on the first, G1 mostly on the first too, G2 far off.
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10]])
ON_FIRST = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4]])  # IoU 1 and 0.4 with anchor 0


@pytest.mark.parametrize(
    ("boxes", "own", "forcing", "low"),
    [
        # both objects have anchor 0 as their best: it overlaps G0 most; MMDetection's last wins
        (ON_FIRST, [0, -1, -1], [1, -1, -1], [True, False, False]),
        (ON_FIRST.flip(0), [1, -1, -1], [1, -1, -1], [False, False, False]),
        # one tie: G covers half of anchors 1 and 2 (IoU 50/150 each), both are forced
        (torch.tensor([[15.0, 0, 25, 10]]), [-1, 0, 0], [-1, 0, 0], [False, True, True]),
        # G1 (IoU 1/3 with 0 and 1) ties on an anchor that is natural for G0
        (
            torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]]),
            [0, 1, -1],
            [1, 1, -1],
            [True, True, False],
        ),
        # an object that touches nothing takes all anchors that it does not touch
        (torch.tensor([[0.0, 0, 10, 10], [90, 90, 99, 99]]), [0, 0, 0], [1, 1, 1], [True] * 3),
    ],
)
def test_low_quality_rules_by_hand(boxes, own, forcing, low):
    assert match_anchors(ANCHORS, boxes, CONFIG).matched_idxs.tolist() == own  # Detectron2's
    theirs = match_to_forcing_object(ANCHORS, boxes, CONFIG)
    assert theirs.matched_idxs.tolist() == forcing
    assert theirs.is_low_quality.tolist() == low
    assert by_max_iou_assigner(box_iou(boxes, ANCHORS), CONFIG) == forcing


@pytest.mark.parametrize("config", [CONFIG, MatcherConfig(0.7, 0.3), MatcherConfig(0.2, 0.2)])
def test_mmdetections_rule_on_random_boxes(config):
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        low = torch.randint(0, 6, (45, 2), generator=generator).float()  # many ties
        boxes = torch.cat([low, low + torch.randint(2, 6, (45, 2), generator=generator)], dim=1)
        gt, anchors = boxes[:5], boxes[5:]
        match = match_to_forcing_object(anchors, gt, config)
        iou = box_iou(gt, anchors)
        assert match.matched_idxs.tolist() == by_max_iou_assigner(iou, config)
        foreground = match.matched_idxs >= 0
        own = iou[match.matched_idxs.clamp(min=0), torch.arange(40)]
        assert torch.equal(match.is_low_quality, foreground & (own < config.fg_iou_thresh))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("allow", [True, False])
def test_the_dialect_and_not_the_setting_decides_about_forcing(layout, name, allow):
    tiny = [[100, 100, 103, 103]]
    match = match_dialect(name, layout, tiny, MatcherConfig(0.5, 0.4, allow))
    assert (match.counts["foreground"] == 0) == (name == "paper")
    assert match.config.allow_low_quality_matches == (name != "paper")
    assert (match.config.fg_iou_thresh, match.config.bg_iou_thresh) == (0.5, 0.4)
    assert sum(match.counts.values()) == layout.num_anchors
    assert match_dialect(name, layout, [], CONFIG).counts["background"] == layout.num_anchors


@pytest.mark.parametrize("base", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_differences_are_the_anchors_that_differ_each_with_a_reason(layout, base, other):
    boxes = random_boxes(12, 3)
    difference = dialect_differences(base, other, layout, boxes, CONFIG)
    first, second = (match_dialect(n, layout, boxes, CONFIG).matched_idxs for n in (base, other))
    assert torch.equal(difference.indices, torch.where(first != second)[0])
    assert torch.equal(difference.base_matched, first[difference.indices])
    assert torch.equal(difference.other_matched, second[difference.indices])
    assert list(difference.counts) == list(REASONS)
    assert sum(difference.counts.values()) == len(difference.indices) == len(difference.reasons)
    assert sum(difference.changes.values()) == len(difference.indices)
    shift = difference.other_counts["foreground"] - difference.base_counts["foreground"]
    gained = sum(n for (a, b), n in difference.changes.items() if a != b and b == "foreground")
    lost = sum(n for (a, b), n in difference.changes.items() if a != b and a == "foreground")
    assert shift == gained - lost


def test_each_reason_is_the_rule_that_does_it_alone(layout):
    # Every anchor around the tiny object is its best one, also those of the object around it.
    crowd = torch.tensor([[88.0, 88, 120, 120], [102, 102, 106, 106]])
    never_or_own = dialect_differences("paper", "detectron2", layout, crowd, CONFIG)
    assert set(never_or_own.reasons) == {FORCED_IN_ONE}
    own_or_forcing = dialect_differences("detectron2", "mmdetection", layout, crowd, CONFIG)
    assert set(own_or_forcing.reasons) == {FORCED_TO_ANOTHER}
    assert set(own_or_forcing.changes) == {("foreground", "foreground")}


def test_strides_and_sizes_are_told_apart():
    # On P3 to P5 strides are the same, so only sizes can be the reason there; a large object is
    # matched on P6 and P7, where strides differ too.
    layout = layout_of((800, 1333), 800, 1333)
    small = dialect_differences("torchvision", "detectron2", layout, [[210, 290, 256, 330]], CONFIG)
    assert len(small.indices) > 0
    assert small.counts[STRIDES_DIFFER] == small.counts[TOGETHER] == 0
    assert small.counts[SIZES] == len(small.indices)
    large = dialect_differences(
        "torchvision", "detectron2", layout, [[700, 150, 1290, 780]], CONFIG
    )
    assert large.counts[STRIDES_DIFFER] > 0


def test_sentences_hold_the_numbers(layout):
    crowd = torch.tensor([[88.0, 88, 120, 120], [102, 102, 106, 106]])
    difference = dialect_differences("detectron2", "mmdetection", layout, crowd, CONFIG)
    count = len(difference.indices)
    assert dialect_sentence(difference) == (
        f"From Detectron2 to MMDetection, {count} of {layout.num_anchors:,} anchors change "
        f"({count} foreground → foreground for another object); foreground goes from "
        f"{difference.base_counts['foreground']} to {difference.base_counts['foreground']}. With "
        f"one rule at a time switched: forced to another object: {count}."
    )
    same = dialect_differences("detectron2", "mmdetection", layout, [], CONFIG)
    assert dialect_sentence(same) == (
        f"Detectron2 and MMDetection train all {layout.num_anchors:,} anchors of this picture on "
        "the same."
    )
