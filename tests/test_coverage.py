"""What each object has for anchors, and that every remedy offered works and is the mildest."""

from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

from retinanet.anchors import AnchorShape
from retinanet.assignment import assign_anchors
from retinanet.config import MatcherConfig
from retinanet.coverage import object_coverage, remedies, scaled_max_size
from retinanet.images import ImageError
from retinanet.layout import layout_of, place_in_layout
from retinanet.matcher_presets import MATCHER_PRESETS

SIZE = (150, 201)
MIN, MAX = 150, 201
CONFIGS = [
    MatcherConfig(),
    MatcherConfig(0.5, 0.4, False),
    MatcherConfig(0.7, 0.3),
    MatcherConfig(0.9, 0.1),
]


@pytest.fixture(scope="module")
def layout():
    return layout_of(SIZE, MIN, MAX)


def random_boxes(count, seed, largest=100.0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor([180.0, 130.0])
    sides = torch.rand(count, 2, generator=generator) ** 2 * largest + 3
    return torch.cat([low, low + sides], dim=1)


def natural(layout, boxes, index, config):
    """By the definition alone, from torchvision's IoU: is an anchor foreground by its IoU?"""
    resized = assign_anchors(layout, boxes).gt_boxes
    value, best = box_iou(resized, torch.cat(layout.anchors)).max(dim=0)
    return bool(((best == index) & (value >= config.fg_iou_thresh)).any())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", range(6))
def test_coverage_is_what_a_count_of_the_trace_gives(layout, config, seed):
    boxes = random_boxes(1 + 3 * seed, seed)
    match = assign_anchors(layout, boxes, config=config)
    covered = object_coverage(match, layout)
    assert [cov.gt for cov in covered] == list(range(len(boxes)))
    assert sum(cov.num_foreground for cov in covered) == match.counts["foreground"]
    levels = match.counts_per_level
    for level in levels:
        assert sum(cov.levels[level] for cov in covered) == levels[level]["foreground"]
    iou = box_iou(match.gt_boxes, torch.cat(layout.anchors))
    for cov in covered:
        own = match.matched_idxs == cov.gt
        assert cov.num_foreground == int(own.sum()) == sum(cov.levels.values())
        assert cov.num_natural == int((own & (match.max_iou >= config.fg_iou_thresh)).sum())
        assert cov.best_iou == float(iou[cov.gt].max()) == float(iou[cov.gt, cov.best_anchor])
        assert cov.best_level == place_in_layout(layout, cov.best_anchor)["level"]
        assert (cov.status == "natural") == natural(layout, boxes, cov.gt, config)
        assert (cov.status == "none") == (not own.any())
        holder = int(match.matched_idxs[cov.best_anchor])
        assert cov.taken_by == (holder if holder >= 0 and holder != cov.gt else None)
        if cov.status == "none" and config.allow_low_quality_matches:
            assert cov.taken_by is not None  # nothing else can take them


def test_three_objects_by_hand(layout):
    # A 32 px square on a location of P3 is an anchor; the same box once more gets nothing, as the
    # first of equals holds; a 4 px object in a corner overlaps a 32 px anchor by 16/1024 at most.
    boxes = [[48, 48, 80, 80], [48, 48, 80, 80], [196, 2, 200, 6]]
    match = assign_anchors(layout, boxes)
    first, second, tiny = object_coverage(match, layout)
    assert (first.status, first.best_iou, first.taken_by) == ("natural", 1.0, None)
    assert place_in_layout(layout, first.best_anchor)["box"] == [48, 48, 80, 80]
    assert (second.status, second.best_iou, second.taken_by) == ("none", 1.0, 0)
    assert second.num_foreground == 0
    # 23 x 45 px is the smallest anchor that holds it: cut from 22.6 x 45.3 to 22 x 46 = 1,012 px
    assert (tiny.status, tiny.taken_by, tiny.num_natural) == ("forced", None, 0)
    assert tiny.best_iou == pytest.approx(16 / 1012)
    off = object_coverage(assign_anchors(layout, boxes, config=CONFIGS[1]), layout)
    assert (off[2].status, off[2].num_foreground) == ("none", 0)
    assert object_coverage(assign_anchors(layout, []), layout) == []


def test_of_tied_best_anchors_one_that_trains_on_the_object_is_named(layout):
    # Centred between two locations of P3, the left one taken by the object that is its anchor.
    boxes = [[48, 48, 80, 80], [52, 48, 84, 80]]
    cov = object_coverage(assign_anchors(layout, boxes), layout)[1]
    assert cov.taken_by is None
    assert place_in_layout(layout, cov.best_anchor)["box"] == [56, 48, 88, 80]


def test_another_layout_is_refused(layout):
    match = assign_anchors(layout_of((64, 64), 64, 64), [[1, 1, 9, 9]])
    with pytest.raises(ValueError, match="match the same layout"):
        object_coverage(match, layout)


def lowered(config, bound):
    return replace(config, fg_iou_thresh=bound, bg_iou_thresh=min(bound, config.bg_iou_thresh))


def covered_at(boxes, index, config, min_size, max_size, shape):
    try:
        layout = layout_of(SIZE, min_size, max_size, shape)
    except ImageError:
        return False
    return object_coverage(assign_anchors(layout, boxes, config=config), layout)[index].status


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 7])
def test_every_remedy_works_and_what_is_milder_does_not(layout, seed):
    config = CONFIGS[seed % 2]
    boxes = random_boxes(3, 100 + seed, largest=30.0)
    uncovered = [i for i in range(3) if not natural(layout, boxes, i, config)]
    for index in uncovered[:2]:
        found = remedies(layout, boxes, index, config, min_size=MIN, max_size=MAX)
        bound = found.fg_iou_thresh
        if bound is not None:
            assert natural(layout, boxes, index, lowered(config, bound))
            assert not natural(layout, boxes, index, lowered(config, bound + 0.01))
        if found.scale:
            more = replace(layout.shape, scales=(*layout.shape.scales, found.scale))
            assert covered_at(boxes, index, config, MIN, MAX, more) == "natural"
        if found.aspect_ratio:
            ratios = (*layout.shape.aspect_ratios, found.aspect_ratio)
            more = replace(layout.shape, aspect_ratios=ratios)
            assert covered_at(boxes, index, config, MIN, MAX, more) == "natural"
        if found.min_size:
            largest = scaled_max_size(MIN, MAX, found.min_size)
            at = (boxes, index, config, found.min_size, largest, layout.shape)
            assert covered_at(*at) == "natural"


def milder(values, own, found):
    nearness = {v: min(max(v / o, o / v) for o in own) for v in values}
    return [v for v in values if nearness[v] < nearness[found] - 1e-9]


@pytest.mark.parametrize("index", [0, 1])
def test_the_smallest_size_and_the_mildest_scale_and_ratio_by_trying_all(index):
    # A thin object and a small one beside a rival: every smaller setting is matched in full.
    boxes = torch.tensor([[40.0, 20, 52, 110], [98, 58, 110, 71], [103, 62, 118, 80]])
    config = MatcherConfig(0.6, 0.4)
    shape = AnchorShape(32, (1.0, 1.5), (1.0,))
    layout = layout_of(SIZE, MIN, MAX, shape)
    assert not natural(layout, boxes, index, config)
    found = remedies(layout, boxes, index, config, min_size=MIN, max_size=MAX)

    def natural_with(more):
        return natural(layout_of(SIZE, MIN, MAX, more), boxes, index, config)

    if index == 0:
        assert found.aspect_ratio is not None
        ratios = [s / 200 for s in range(10, 200)] + [s / 20 for s in range(20, 401)]
        for ratio in milder(ratios, (1.0,), found.aspect_ratio):
            if ratio != 1.0:
                assert not natural_with(AnchorShape(32, (1.0, 1.5), (1.0, ratio))), ratio
    else:
        assert found.scale is not None
        assert found.min_size is not None
        for scale in milder([s / 100 for s in range(25, 401)], (1.0, 1.5), found.scale):
            if scale not in (1.0, 1.5):
                assert not natural_with(AnchorShape(32, (1.0, 1.5, scale), (1.0,))), scale
        for size in range(32, found.min_size):
            other = layout_of(SIZE, size, scaled_max_size(MIN, MAX, size), shape)
            assert not natural(other, boxes, index, config), size


def test_an_object_with_an_anchor_of_its_own_needs_no_remedy(layout):
    found = remedies(layout, [[48, 48, 80, 80]], 0, MatcherConfig(), min_size=MIN, max_size=MAX)
    assert (found.fg_iou_thresh, found.min_size, found.scale, found.aspect_ratio) == (
        1.0,
        None,
        None,
        None,
    )


def test_an_object_whose_equal_comes_first_has_no_remedy(layout):
    boxes = [[48, 48, 60, 60]] * 2
    found = remedies(layout, boxes, 1, MatcherConfig(), min_size=MIN, max_size=MAX)
    assert set(vars(found).values()) == {None}


def test_a_bound_under_a_hundredth_is_given_exactly(layout):
    boxes = [[100, 70, 102, 72]]  # 4 px of about 1,000
    found = remedies(layout, boxes, 0, MatcherConfig(), min_size=MIN, max_size=MAX)
    assert 0 < found.fg_iou_thresh < 0.01
    assert natural(layout, boxes, 0, lowered(MatcherConfig(), found.fg_iou_thresh))
    assert not natural(layout, boxes, 0, lowered(MatcherConfig(), found.fg_iou_thresh * 1.001))


def test_a_full_shape_gets_no_more_scales_or_ratios():
    full = AnchorShape(32, (1.0, 1.1, 1.2, 1.3, 1.4), (0.5, 0.6, 0.8, 1.0, 1.2, 1.6, 2.0))
    layout = layout_of(SIZE, MIN, MAX, full)
    found = remedies(layout, [[40, 20, 44, 120]], 0, MatcherConfig(), min_size=MIN, max_size=MAX)
    assert (found.scale, found.aspect_ratio) == (None, None)


def test_what_has_no_remedy_to_search_is_refused_in_words(layout):
    with pytest.raises(IndexError, match="no object 1: the picture has 1"):
        remedies(layout, [[0, 0, 9, 9]], 1, MatcherConfig(), min_size=MIN, max_size=MAX)
    with pytest.raises(ValueError, match="no area"):
        remedies(layout, [[0, 0, 0, 9]], 0, MatcherConfig(), min_size=MIN, max_size=MAX)


def test_max_size_keeps_its_proportion():
    assert scaled_max_size(800, 1333, 400) == 666  # 666.5, half to even
    assert scaled_max_size(800, 1333, 2048) == 3412
    assert scaled_max_size(800, 800, 100) == 100


def test_presets_are_named_once_and_hold_the_paper_and_the_extreme():
    names = [preset.name for preset in MATCHER_PRESETS]
    assert len(set(names)) == len(names)
    bounds = {p.name: (p.config.bg_iou_thresh, p.config.fg_iou_thresh) for p in MATCHER_PRESETS}
    assert bounds["paper"] == (0.4, 0.5)
    assert bounds["rpn"] == (0.3, 0.7)
    assert bounds["extreme"] == (0.1, 0.9)
    name, title, config, purpose = MATCHER_PRESETS[0]
    assert (name, config) == ("torchvision", MatcherConfig())
    assert title
    assert purpose.endswith(".")
