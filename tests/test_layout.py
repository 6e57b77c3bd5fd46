"""Anchors without a network: equal to the network's, and to torchvision's for any shape."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

import retinanet as rn
from retinanet.anchors import ANCHOR_SIZES, DEFAULT_SHAPE, AnchorShape, grid_anchors
from retinanet.assignment import assign, assign_anchors
from retinanet.config import DEPTHS, ConfigError, MatcherConfig
from retinanet.explain import place_of_anchor
from retinanet.images import ImageError, resize_boxes
from retinanet.layout import layout_of, place_in_layout

SHAPES = [
    AnchorShape(16, (1.0, 1.5), (1.0,)),
    AnchorShape(50.5, (0.25, 1.0, 4.0), (0.05, 0.5, 1.0, 2.0, 20.0)),
    AnchorShape(256, (0.7,), (3.0, 1 / 3)),
]


@pytest.fixture(scope="module")
def model():
    return rn.load_model("random", rn.ModelConfig(depth=18, min_size=64, max_size=128))


def outputs_of(model, size):
    return model(torch.rand(3, *size, generator=torch.Generator().manual_seed(1)))


def assert_same(layout, outputs):
    for name in ("original_size", "image_size", "padded_size", "grid_sizes", "anchors_per_level"):
        assert getattr(layout, name) == getattr(outputs, name), name
    assert layout.num_anchors == outputs.num_anchors
    for ours, theirs in zip(layout.anchors, outputs.anchors, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_layout_is_what_a_network_of_any_depth_has(depth):
    model = rn.load_model("random", rn.ModelConfig(depth=depth, min_size=64, max_size=96))
    for size in ((64, 64), (300, 200), (37, 90)):
        assert_same(layout_of(size, 64, 96), outputs_of(model, size))


@given(height=st.integers(8, 400), width=st.integers(8, 400))
@settings(deadline=None, max_examples=25)
def test_a_layout_is_what_the_network_has_for_pictures_of_any_size(model, height, width):
    if max(height, width) > 60 * min(height, width):
        return
    assert_same(layout_of((height, width), 64, 128), outputs_of(model, (height, width)))


def test_the_papers_and_torchvisions_input_sizes_have_their_known_numbers_of_anchors():
    assert layout_of((800, 1333), 800, 1333).num_anchors == 201_600
    assert layout_of((608, 1024), 608, 1024).num_anchors == 116_712


def test_the_default_shape_is_the_papers():
    assert AnchorShape().sizes() == ANCHOR_SIZES
    assert AnchorShape().num_anchors == 9
    assert AnchorShape().exact_sizes()[4][1] == pytest.approx(645.0796, abs=1e-4)
    assert AnchorShape.from_dict(SHAPES[1].to_dict()) == SHAPES[1]
    assert AnchorShape(32, [1.0], [1]) == AnchorShape(32.0, (1.0,), (1.0,))


@pytest.mark.parametrize("shape", SHAPES)
def test_anchors_of_another_shape_are_torchvisions(shape):
    padded, grids = (800, 1344), [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    generator = AnchorGenerator(shape.sizes(), (shape.aspect_ratios,) * 5)
    features = [torch.empty(1, 1, *grid) for grid in grids]
    theirs = generator(ImageList(torch.empty(1, 3, *padded), [padded]), features)[0]
    assert torch.equal(torch.cat(grid_anchors(padded, grids, shape=shape)), theirs)
    assert torch.equal(torch.cat(layout_of((800, 1333), 800, 1333, shape).anchors), theirs)


def test_a_place_is_the_one_that_the_life_of_a_box_names(model):
    outputs = outputs_of(model, (150, 201))
    layout = layout_of((150, 201), 64, 128)
    starts = np.cumsum([0, *layout.anchors_per_level])
    anchors = torch.cat(outputs.anchors)
    original = resize_boxes(anchors, outputs.image_size, outputs.original_size)
    for index in range(0, layout.num_anchors, 37):
        level = int(np.searchsorted(starts, index, side="right")) - 1
        life = place_of_anchor(outputs, level, index - int(starts[level]))
        place = place_in_layout(layout, index)
        assert place["level"] == life["level"]
        assert (place["row"], place["column"]) == (life["cell"]["row"], life["cell"]["col"])
        assert place["size"] == life["anchor_shape"]["size"]
        assert place["aspect_ratio"] == life["anchor_shape"]["ratio"]
        assert place["box"] == anchors[index].tolist()
        assert place["box_original"] == original[index].tolist()
    place = place_in_layout(layout, torch.tensor(9 * 5 + 4))
    assert place["level"] == "P3"
    assert (place["row"], place["column"], place["index_in_cell"]) == (0, 5, 4)
    assert place["box"] == [20, -20, 60, 20]  # 40 px, square, around (40, 0)


def test_a_place_in_another_shape_has_its_size_and_ratio():
    shape = SHAPES[1]  # 3 scales, 5 ratios
    layout = layout_of((200, 300), 200, 300, shape)
    for index in range(0, layout.num_anchors, 101):
        place = place_in_layout(layout, index)
        x1, y1, x2, y2 = place["box"]
        width = place["size"] / place["aspect_ratio"] ** 0.5
        assert x2 - x1 == pytest.approx(width, abs=1.01)  # both corners are rounded
        assert y2 - y1 == pytest.approx(width * place["aspect_ratio"], abs=1.01)
        assert 0 <= place["index_in_cell"] < 15


def test_matching_without_a_network_is_matching_with_one(model):
    outputs = outputs_of(model, (150, 201))
    layout = layout_of((150, 201), 64, 128)
    boxes, labels = [[20, 30, 90, 120], [5, 5, 40, 30]], [7, 3]
    ours, theirs = assign_anchors(layout, boxes, labels), assign(outputs, boxes, labels)
    for name in ("matched_idxs", "max_iou", "best_gt", "is_low_quality", "gt_boxes", "gt_labels"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.counts_per_level == theirs.counts_per_level
    from_outputs = assign_anchors(outputs, boxes)
    assert torch.equal(from_outputs.matched_idxs, theirs.matched_idxs)
    assert from_outputs.gt_labels.tolist() == [0, 0]
    assert assign_anchors(layout, []).counts["background"] == layout.num_anchors


@pytest.mark.parametrize("count", [15, 16, 17, 50])
def test_many_objects_are_matched_as_torchvision_does_at_once(count):
    layout = layout_of((300, 400), 300, 400)
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([400.0, 300.0])
    boxes = torch.cat([corners.min(dim=1).values, corners.max(dim=1).values + 2], dim=1)
    boxes[-1] = boxes[0]  # equal objects in different parts: the first of equals holds
    match = assign_anchors(layout, boxes)
    iou = box_iou(boxes, torch.cat(layout.anchors))
    assert torch.equal(match.matched_idxs, Matcher(0.5, 0.4, True)(iou))
    assert torch.equal(match.max_iou, iou.max(dim=0).values)
    assert torch.equal(match.best_gt, iou.max(dim=0).indices)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"base_size": 3}, "base_size must be between 4 and 256"),
        ({"base_size": float("nan")}, "base_size must be a number"),
        ({"scales": ()}, "scales must be 1 to 5 numbers, not 0"),
        ({"scales": (1, 1.1, 1.2, 1.3, 1.4, 1.5)}, "scales must be 1 to 5 numbers, not 6"),
        ({"scales": (0.2,)}, "each of scales must be between 0.25 and 4"),
        ({"scales": 1.0}, "scales must be a list of numbers"),
        ({"scales": (1.0, 1)}, "scales has 1 twice"),
        ({"aspect_ratios": (21.0,)}, "each of aspect_ratios must be between 0.05 and 20"),
        ({"aspect_ratios": ("wide",)}, "each of aspect_ratios must be a number"),
        ({"aspect_ratios": tuple(range(1, 9))}, "aspect_ratios must be 1 to 7 numbers, not 8"),
    ],
)
def test_shapes_that_cannot_be_are_refused_in_words(settings, sentence):
    with pytest.raises(ConfigError, match=f"AnchorShape: {sentence}"):
        AnchorShape(**settings)


def test_what_cannot_be_laid_out_or_found_is_refused_in_words():
    with pytest.raises(ConfigError, match="min_size"):
        layout_of((100, 100), 8, 100)
    with pytest.raises(ConfigError, match="max_size"):
        layout_of((100, 100), 100, 50)
    with pytest.raises(ImageError, match="too thin"):
        layout_of((1, 5000), 64, 128)
    layout = layout_of((100, 100), 64, 128)
    for index in (-1, layout.num_anchors):
        with pytest.raises(IndexError, match=f"no anchor {index}"):
            place_in_layout(layout, index)
    with pytest.raises(ValueError, match="0 or more; the least here is -2"):
        assign_anchors(layout, [[0, 0, 5, 5]], [-2])
    with pytest.raises(ValueError, match="1 ground-truth boxes but 2 labels"):
        assign_anchors(layout, [[0, 0, 5, 5]], [1, 2])
    assert layout.shape is DEFAULT_SHAPE
    assert MatcherConfig() == assign_anchors(layout, []).config
