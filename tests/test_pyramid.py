"""Where cells lie on the photo, what they hold and what they can see."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from retinanet.anchors import ANCHOR_SIZES, grid_anchors
from retinanet.assignment import assign
from retinanet.cells import MAPS, cell_at, cell_box, inside, level_stride, map_extent
from retinanet.checkpoints import load_model
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.detection import detect
from retinanet.images import resize
from retinanet.pca import SAMPLE
from retinanet.pyramid import (
    best_scores,
    channel,
    class_scores,
    detection_levels,
    lateral_only,
    lateral_strength,
    level_of_box,
    object_levels,
    pca_explained,
    pca_rgb,
    rank_channels,
    strength,
    top_down_share,
    value_ranges,
    values_at,
)
from retinanet.top_down import run_exactly
from retinanet.types import LEVELS, STAGES, Outputs
from tests.oracle import our_model

CLASSES = 5


def made_outputs(
    image_size: tuple[int, int], original_size: tuple[int, int], seed: int = 0
) -> Outputs:
    """Random outputs of a made-up model with the right grids and anchors."""
    generator = torch.Generator().manual_seed(seed)
    padded = tuple(32 * math.ceil(side / 32) for side in image_size)
    grid = {"C3": tuple(side // 8 for side in padded)}
    for name, above in (("C4", "C3"), ("C5", "C4"), ("P6", "C5"), ("P7", "P6")):
        grid[name] = tuple((side + 1) // 2 for side in grid[above])
    grid |= {level: grid[stage] for level, stage in zip(LEVELS, STAGES, strict=False)}
    channels = {"C3": 4, "C4": 6, "C5": 8}
    features = {
        name: torch.randn(channels.get(name, 7), *grid[name], generator=generator) for name in MAPS
    }
    grids = [grid[level] for level in LEVELS]
    counts = [rows * columns * 9 for rows, columns in grids]
    return Outputs(
        features=features,
        cls_logits=[torch.randn(count, CLASSES, generator=generator) for count in counts],
        bbox_regression=[torch.randn(count, 4, generator=generator) * 0.1 for count in counts],
        anchors=grid_anchors(padded, grids),
        grid_sizes=grids,
        image_size=image_size,
        padded_size=padded,
        original_size=original_size,
        config=ModelConfig(num_classes=CLASSES),
        categories=("cat", "dog", None, "cow", "hen"),
    )


@pytest.fixture(scope="module")
def outputs() -> Outputs:
    return made_outputs((100, 150), (200, 300))


@pytest.fixture(scope="module")
def model():
    return load_model("random", {"depth": 18, "min_size": 64, "max_size": 128}, "cpu")


@pytest.fixture(scope="module")
def real(model) -> Outputs:
    torch.manual_seed(1)
    return model(torch.rand(3, 60, 110))


# Cells


def test_strides_are_those_of_the_network(outputs: Outputs):
    assert [level_stride(name) for name in MAPS] == [8, 16, 32, 8, 16, 32, 64, 128]
    with pytest.raises(ValueError, match="C3, C4, C5, P3"):
        level_stride("P2")


def test_a_cell_by_hand(outputs: Outputs):
    # Resized to 100x150 from 200x300: every pixel is two. Cell 3 of stride 8 is centred on 24.5.
    assert cell_box(outputs, "P3", 0, 3) == (41.0, -7.0, 57.0, 9.0)
    assert map_extent(outputs, "P7") == (-127.0, -127.0, 385.0, 129.0)  # 1 row, 2 columns
    with pytest.raises(ValueError, match="16 rows and 20 columns"):
        cell_box(outputs, "P3", 16, 0)


@pytest.mark.parametrize("level", MAPS)
def test_cells_tile_the_extent_and_are_found_again(outputs: Outputs, level: str):
    rows, columns = outputs.features[level].shape[-2:]
    boxes = np.array(
        [[cell_box(outputs, level, r, c) for c in range(columns)] for r in range(rows)]
    )
    np.testing.assert_allclose(
        boxes[
            :,
            1:,
            :,
        ][..., 0],
        boxes[:, :-1][..., 2],
    )
    np.testing.assert_allclose(boxes[1:][..., 1], boxes[:-1][..., 3])
    extent = (*boxes[0, 0, :2], *boxes[-1, -1, 2:])
    np.testing.assert_allclose(map_extent(outputs, level), extent)
    rng = np.random.default_rng(0)
    for r in range(rows):
        for c in range(columns):
            x1, y1, x2, y2 = boxes[r, c]
            x, y = rng.uniform(x1 + 1e-6, x2 - 1e-6), rng.uniform(y1 + 1e-6, y2 - 1e-6)
            assert cell_at(outputs, level, x, y) == (r, c)


def test_points_outside_take_the_nearest_cell(outputs: Outputs):
    rows, columns = outputs.grid_sizes[0]
    assert cell_at(outputs, "P3", -1e9, 1e9) == (rows - 1, 0)
    assert cell_at(outputs, "P3", 1e9, -5) == (0, columns - 1)
    with pytest.raises(ValueError, match="finite"):
        cell_at(outputs, "P3", math.nan, 0)


def test_inside_is_where_the_centre_is_a_pixel_of_the_picture():
    outputs = made_outputs((97, 129), (97, 129))  # padded to 128x160
    mask = inside(outputs, "P4")  # centres 0, 16, ..., 96 | 112 and 0, ..., 128 | 144
    assert mask.shape == (8, 10)
    assert mask[:7, :9].all()
    assert mask.sum() == 63


def averaging(depth: int, stride_in_1x1: bool = False):
    settings = {"depth": depth, "stride_in_1x1": stride_in_1x1}
    """The backbone with equal positive weights: it passes on where something was."""
    averaged = load_model("random", settings, "cpu").double()
    for layer in averaged.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.fill_(1 / layer.weight[0].numel())
            if layer.bias is not None:
                layer.bias.data.zero_()
    averaged.backbone.body.maxpool = nn.AvgPool2d(3, 2, 1)  # a maximum has no centroid
    return averaged


SHIFT = {"P3": 1.5, "P4": 0.5}
"""Cells by which the top-down copies may shift what was seen, right and down."""


@pytest.mark.parametrize(("depth", "stride_in_1x1"), [(18, False), (50, True)])
@pytest.mark.parametrize(
    ("size", "at"), [((300, 420), (150, 210)), ((211, 333), (140, 97)), ((256, 256), (100.7, 130))]
)
@torch.no_grad()
def test_the_response_lies_on_what_caused_it(depth, stride_in_1x1, size, at):
    """An impulse on the photo, resized and padded as pictures are, comes out on its own cells."""
    network = averaging(depth, stride_in_1x1)
    photo = torch.zeros(3, *size, dtype=torch.float64)
    y, x = int(at[0]), int(at[1])
    photo[:, y - 2 : y + 3, x - 2 : x + 3] = 1.0  # several pixels: a single one may be skipped
    resized = resize(photo, 384, 640)
    shape = tuple(resized.shape[-2:])
    outputs = made_outputs(shape, size)
    batch = torch.zeros(1, 3, *outputs.padded_size, dtype=torch.float64)
    batch[0, :, : shape[0], : shape[1]] = resized
    for name, features in network.backbone(batch).items():
        if name in ("P6", "P7"):  # so wide that the border cuts the response off
            continue
        response = features[0].mean(dim=0).numpy()
        rows, columns = response.shape
        boxes = [cell_box(outputs, name, r, 0) for r in range(rows)]
        centre_y = np.array([(box[1] + box[3]) / 2 for box in boxes])
        boxes = [cell_box(outputs, name, 0, c) for c in range(columns)]
        centre_x = np.array([(box[0] + box[2]) / 2 for box in boxes])
        found = (
            (response.sum(axis=0) @ centre_x) / response.sum(),
            (response.sum(axis=1) @ centre_y) / response.sum(),
        )
        cell = cell_box(outputs, name, 0, 0)[2] - cell_box(outputs, name, 0, 0)[0]
        for place, true in zip(found, (x + 0.5, y + 0.5), strict=True):
            off = (place - true) / cell
            assert -0.35 < off < 0.35 + SHIFT.get(name, 0.0), (name, off)


# Maps


def test_strength_and_channel(outputs: Outputs):
    features = outputs.features["C4"].numpy()
    np.testing.assert_allclose(
        strength(outputs, "C4"), np.sqrt((features**2).sum(axis=0) / 6), rtol=1e-6
    )
    np.testing.assert_array_equal(channel(outputs, "C4", 2), features[2])
    assert strength(outputs, "C4") is strength(outputs, "C4")
    with pytest.raises(ValueError, match="0 to 5"):
        channel(outputs, "C4", 6)
    with pytest.raises(ValueError, match="read-only"):
        strength(outputs, "C4")[0, 0] = 1


def test_channels_are_ranked_over_the_picture_alone():
    outputs = made_outputs((97, 129), (97, 129))
    features, mask = outputs.features["P3"], torch.from_numpy(inside(outputs, "P3"))
    assert not mask.all()
    features[0] = torch.where(mask, 0.0, 100.0)  # large in the padding, nothing in the picture
    features[1] = 50.0  # large and the same everywhere
    active, varied = (rank_channels(outputs, "P3", by) for by in ("active", "varied"))
    assert active[0] == 1
    assert active[-1] == 0
    assert set(varied[-2:]) == {0, 1}
    values = [float(features[c][mask].std(correction=0)) for c in varied]
    assert values == sorted(values, reverse=True)
    assert rank_channels(outputs, "P3", count=2) == active[:2]
    for wrong in ({"by": "loud"}, {"count": 0}):
        with pytest.raises(ValueError):
            rank_channels(outputs, "P3", **wrong)


@pytest.mark.parametrize("level", LEVELS)
def test_scores_of_a_cell_are_the_best_of_its_anchors(outputs: Outputs, level: str):
    index = LEVELS.index(level)
    rows, columns = outputs.grid_sizes[index]
    scores = torch.sigmoid(outputs.cls_logits[index]).reshape(rows, columns, 9, CLASSES)
    by_class = scores.amax(dim=2).numpy()
    best = best_scores(outputs, level)
    np.testing.assert_allclose(best.score, by_class.max(axis=2), rtol=1e-6)
    np.testing.assert_array_equal(best.label, by_class.argmax(axis=2))
    np.testing.assert_allclose(class_scores(outputs, level, 3), by_class[..., 3], rtol=1e-6)


def test_a_logit_that_is_no_number_scores_nothing():
    outputs = made_outputs((64, 64), (64, 64))
    outputs.cls_logits[0][:9] = torch.nan
    outputs.cls_logits[0][9, 0] = torch.nan
    best = best_scores(outputs, "P3")
    assert best.score[0, 0] == 0
    assert best.score[0, 1] > 0
    assert class_scores(outputs, "P3", 0)[0, 0] == 0


def test_what_has_no_scores_says_so(outputs: Outputs):
    with pytest.raises(ValueError, match="P3, P4"):
        best_scores(outputs, "C3")
    with pytest.raises(ValueError, match="0 to 4"):
        class_scores(outputs, "P3", 5)


def test_value_ranges_by_hand():
    maps = {"P3": np.array([[0.0, 2.0], [np.nan, -1.0]]), "P4": np.array([[5.0]])}
    assert value_ranges(maps, "unit") == {"P3": (0.0, 1.0), "P4": (0.0, 1.0)}
    assert value_ranges(maps, "level") == {"P3": (-1.0, 2.0), "P4": (5.0, 5.0)}
    assert value_ranges(maps, "all") == {"P3": (-1.0, 5.0), "P4": (-1.0, 5.0)}
    assert value_ranges({"P3": np.full((2, 2), np.inf)}, "all") == {"P3": (0.0, 1.0)}
    with pytest.raises(ValueError, match="unit, level or all"):
        value_ranges(maps, "own")


# Principal components


def test_one_basis_for_all_levels_equals_numpys():
    outputs = made_outputs((97, 129), (97, 129), seed=4)
    mix = torch.randn(7, 7, generator=torch.Generator().manual_seed(1))
    for level in LEVELS:  # correlated channels, so that components are told apart
        outputs.features[level] = torch.einsum("dc,chw->dhw", mix, outputs.features[level])
    cells = [
        outputs.features[level].numpy()[:, inside(outputs, level)].T.astype(float)
        for level in LEVELS
    ]
    assert max(map(len, cells)) < SAMPLE  # so all cells are used
    mean = np.mean([level.mean(axis=0) for level in cells], axis=0)
    moments = [(level - mean).T @ (level - mean) / len(level) for level in cells]
    values, vectors = np.linalg.eigh(np.mean(moments, axis=0))
    shares = values[::-1][:3] / values.sum()
    np.testing.assert_allclose(pca_explained(outputs)["P5"], shares, rtol=1e-9)
    images = pca_rgb(outputs)
    assert {name: image.shape for name, image in images.items()} == {
        level: (*outputs.grid_sizes[i], 3) for i, level in enumerate(LEVELS)
    }
    for component in range(3):
        vector = vectors[:, ::-1][:, component]
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        for level in LEVELS:  # the same order of values, up to what was cut off at the ends
            exact = np.einsum("c,chw->hw", vector, outputs.features[level].numpy())
            shown = images[level][..., component]
            order = np.argsort(exact, axis=None)
            assert (np.diff(shown.flatten()[order].astype(int)) >= 0).all()


def test_colours_do_not_depend_on_what_else_is_shown(outputs: Outputs):
    alone = pca_rgb(made_outputs((100, 150), (200, 300)), ["P4"])
    np.testing.assert_array_equal(alone["P4"], pca_rgb(outputs)["P4"])
    stages = pca_explained(outputs, STAGES)
    assert len(set(stages.values())) == 3  # each its own basis
    for shares in stages.values():
        assert 1 >= sum(shares) > 0
        assert shares[0] >= shares[1] >= shares[2]


def test_few_cells_equal_values_and_no_numbers():
    outputs = made_outputs((32, 32), (32, 32))  # C5 has one cell
    assert pca_explained(outputs, ["C5"])["C5"] == (0, 0, 0)
    assert (pca_rgb(outputs, ["C5"])["C5"] == 128).all()
    for level in LEVELS:
        outputs.features[level].fill_(3.0)
    outputs.features["P3"][0, 1, 1] = torch.nan
    image = pca_rgb(outputs)["P3"]
    assert (image[1, 1] == 0).all()
    assert (image[0, 0] == 128).all()


def test_wide_maps_are_fitted_from_their_cells():
    outputs = made_outputs((64, 64), (64, 64))
    outputs.features["C5"] = torch.randn(300, 2, 2, generator=torch.Generator().manual_seed(2))
    cells = outputs.features["C5"].flatten(1).T.numpy().astype(float)
    singular = np.linalg.svd(cells - cells.mean(axis=0), compute_uv=False)
    shares = np.square(singular[:3]) / np.square(singular).sum()
    np.testing.assert_allclose(pca_explained(outputs, ["C5"])["C5"], shares, rtol=1e-6)


# The top-down path


def test_without_top_down_p5_stays_and_p4_is_the_pyramid_of_c4_alone(model, real: Outputs):
    alone = lateral_only(model, real)
    torch.testing.assert_close(alone["P5"], real.features["P5"], rtol=1e-5, atol=1e-5)
    # With nothing in C5 (and no bias) nothing comes down, and the pyramid gives the lateral alone.
    fpn = model.backbone.fpn
    assert all(float(block[0].bias.detach().abs().max()) == 0 for block in fpn.inner_blocks)
    stages = {name: real.features[name][None] for name in STAGES}
    for name, below in (("P4", "C5"), ("P3", "C4")):
        stages[below] = torch.zeros_like(stages[below])
        with torch.no_grad():
            levels = model.backbone.pyramid(stages)
        torch.testing.assert_close(alone[name], levels[name][0], rtol=1e-5, atol=1e-5)
    assert not alone["P3"].requires_grad


@torch.no_grad()
def test_in_double_precision_a_block_says_the_same(model, real: Outputs):
    block = model.backbone.fpn.layer_blocks[2]
    features = torch.randn(1, 256, 5, 6, generator=torch.Generator().manual_seed(3))
    exact = run_exactly(block, features, double=True)
    torch.testing.assert_close(exact, block(features), rtol=1e-4, atol=1e-5)
    assert block[0].weight.dtype == torch.float32


def test_share_of_what_comes_down(model, real: Outputs):
    share, alone = top_down_share(model, real), lateral_only(model, real)
    assert share["P5"] == pytest.approx(0, abs=1e-6)
    for name in ("P3", "P4"):
        mask = inside(real, name)
        merged = real.features[name].numpy()[:, mask]
        added = merged - alone[name].numpy()[:, mask]
        rms = [np.sqrt(np.mean(np.square(part, dtype=float))) for part in (added, merged)]
        assert share[name] == pytest.approx(rms[0] / rms[1], rel=1e-5)
        assert share[name] > 0.1
    expected = alone["P4"].square().mean(dim=0).sqrt().numpy()
    np.testing.assert_allclose(lateral_strength(model, real)["P4"], expected, rtol=1e-6)


def test_another_model_is_refused_or_asked_itself(model, real: Outputs):
    with pytest.raises(ValueError, match="the model that made them"):
        lateral_only(our_model("v1"), real)
    other = load_model("random", {"depth": 18}, "cpu")
    for block in other.backbone.fpn.layer_blocks:
        nn.init.normal_(block[0].weight, std=0.1)
    assert top_down_share(other, real) != top_down_share(model, real)


# At a point, and of boxes


def test_values_at_a_point(real: Outputs):
    values = values_at(real, 50.0, 30.0)
    assert [value["map"] for value in values] == list(MAPS)
    for value in values:
        name, row, column = value["map"], value["row"], value["column"]
        x1, y1, x2, y2 = value["cell_box"]
        assert x1 <= 50 <= x2 and y1 <= 30 <= y2
        vector = real.features[name][:, row, column]
        assert value["strength"] == pytest.approx(float(vector.square().mean().sqrt()), rel=1e-5)
        others = real.features[name].square().mean(dim=0).sqrt().numpy()[inside(real, name)]
        assert value["percentile"] == pytest.approx(
            100 * np.mean(others <= np.float32(value["strength"])), abs=100 / len(others)
        )
        if name in STAGES:
            assert value["score"] is value["anchor_sizes"] is None
    index, p4 = LEVELS.index("P4"), values[MAPS.index("P4")]
    first = (p4["row"] * real.grid_sizes[index][1] + p4["column"]) * 9
    scores = torch.sigmoid(real.cls_logits[index][first : first + 9])
    assert p4["score"] == pytest.approx(float(scores.max()), rel=1e-6)
    assert p4["label"] == int(scores.max(dim=0).values.argmax())
    scale = math.sqrt((110 * 60) / (real.image_size[0] * real.image_size[1]))
    assert p4["anchor_sizes"] == pytest.approx([size * scale for size in ANCHOR_SIZES[1]])


def test_levels_of_boxes_equal_torchvisions_iou():
    outputs = made_outputs((320, 480), (200, 300))
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 150, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 140, (20, 2))], axis=1)
    ends = np.cumsum([0, *outputs.anchors_per_level])
    for row, box in zip(object_levels(outputs, boxes), boxes, strict=True):
        iou = box_iou(
            torch.tensor(box * 1.6, dtype=torch.float32)[None], torch.cat(outputs.anchors)
        )
        best = [float(iou[0, a:b].max()) for a, b in pairwise(ends)]
        assert [row[level] for level in LEVELS] == pytest.approx(best, rel=1e-5)
        assert row["level"] == LEVELS[int(np.argmax(best))]
        assert row["iou"] == pytest.approx(max(best), rel=1e-5)
        assert row["size_network"] == pytest.approx(1.6 * row["size"])
        found = level_of_box(box, outputs)
        trace = assign(outputs, torch.tensor(box[None]), torch.zeros(1))
        assert max(found["iou"].values()) == pytest.approx(float(trace.max_iou.max()))


def test_an_anchor_belongs_to_its_own_level():
    outputs = made_outputs((1024, 1024), (1024, 1024))
    for index, level in enumerate(LEVELS):
        rows, columns = outputs.grid_sizes[index]
        middle = ((rows // 2) * columns + columns // 2) * 9 + 4
        found = level_of_box(outputs.anchors[index][middle], outputs)
        assert found["level"] == level
        assert found["iou"][level] == pytest.approx(1.0)


def test_boxes_that_are_none(outputs: Outputs):
    far = level_of_box([9000, 9000, 9010, 9010], outputs)
    assert far == {"level": None, "iou": dict.fromkeys(LEVELS, 0.0)}
    assert object_levels(outputs, np.zeros((0, 4))) == []
    for wrong in ([5, 5, 5, 9], [0, 0, math.inf, 4], [1, 2, 3]):
        with pytest.raises(ValueError):
            level_of_box(wrong, outputs)


def test_detections_say_their_level(outputs: Outputs):
    trace = detect(outputs, PostprocessConfig(score_thresh=0.8, detections_per_img=20))
    rows = detection_levels(trace)
    assert len(rows) == len(trace) > 5
    for index, row in enumerate(rows):
        life = trace.explain(index)
        assert (row["level"], row["category"]) == (life["level"], life["category"])
        assert row["score"] == pytest.approx(life["score"])
        assert row["box"] == pytest.approx(life["box"])


# Receptive fields
