"""Maps as bytes over their ranges, without the padding; channels of a map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from retinanet.cells import MAPS
from retinanet.config import ConfigError
from retinanet.map_view import (
    as_bytes,
    channels_of,
    grid_facts,
    inside_size,
    maps_of,
    ranges_of,
)
from retinanet.types import LEVELS, STAGES
from tests.oracle import our_model

SIZE = (96, 150)
STRIDES = {"3": 8, "4": 16, "5": 32, "6": 64, "7": 128}


@pytest.fixture(scope="module")
def outputs():
    return our_model("v1")(torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def spoiled(outputs):
    """The same outputs with a thousand in every cell of the padding."""
    features = {name: own.clone() for name, own in outputs.features.items()}
    logits = []
    for name, own in features.items():
        rows, columns = seen_of(outputs, name)
        own[:, rows:] = 1000.0
        own[:, :, columns:] = 1000.0
    for name, own in zip(LEVELS, outputs.cls_logits, strict=True):
        rows, columns = seen_of(outputs, name)
        grid = own.clone().reshape(*features[name].shape[-2:], -1)
        grid[rows:], grid[:, columns:] = 50.0, 50.0
        logits.append(grid.reshape(own.shape))
    return replace(outputs, features=features, cls_logits=logits)


def seen_of(outputs, name):
    """(rows, columns) whose centres, one stride apart from 0 on, are pixels of the picture."""
    stride = STRIDES[name[1]]
    height, width = outputs.image_size
    return len(range(0, height, stride)), len(range(0, width, stride))


# ------------------------------------------------------------------ bytes


def test_bytes_by_hand():
    values = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 9.0, np.nan, np.inf, -np.inf])
    assert as_bytes(values, (0.0, 2.0)).tolist() == [0, 0, 64, 128, 255, 255, 0, 255, 0]
    assert as_bytes(values[:4], (0.0, 2.0)).dtype == np.uint8


def test_an_empty_range_is_one_colour():
    assert as_bytes(np.array([[3.0, 3.0]]), (3.0, 3.0)).tolist() == [[0, 0]]


def test_bytes_are_the_nearest_steps():
    values = np.random.default_rng(0).uniform(-2, 3, (7, 9)).astype(np.float32)
    steps = as_bytes(values, (-2.0, 3.0))
    assert steps.shape == values.shape
    assert np.abs(steps / 255 * 5 - 2 - values).max() <= 5 / 255 / 2 + 1e-6


# ------------------------------------------------------------------ ranges and grids


@pytest.mark.parametrize("name", MAPS)
def test_the_inside_is_counted_by_its_centres(outputs, name):
    assert inside_size(outputs, name) == seen_of(outputs, name)
    rows, columns = outputs.features[name].shape[-2:]
    assert grid_facts(outputs, name) == {
        "rows": rows,
        "columns": columns,
        "inside": seen_of(outputs, name),
    }


def test_this_picture_has_padding(outputs, spoiled):
    """Else the tests below would say nothing."""
    assert seen_of(outputs, "P3") != tuple(outputs.features["P3"].shape[-2:])
    assert maps_of(outputs, "strength")["P3"].max() < 500 < maps_of(spoiled, "strength")["P3"].max()
    assert maps_of(outputs, "score")["P3"].max() < 1 == maps_of(spoiled, "score")["P3"].max()


@pytest.mark.parametrize("kind", ["strength", "score"])
@pytest.mark.parametrize("mode", ["unit", "level", "all"])
def test_padding_does_not_count(outputs, spoiled, kind, mode):
    clean = ranges_of(outputs, maps_of(outputs, kind), mode, kind)
    assert ranges_of(spoiled, maps_of(spoiled, kind), mode, kind) == clean


@pytest.mark.parametrize("kind", ["strength", "score"])
def test_ranges_by_hand(outputs, kind):
    maps = maps_of(outputs, kind)
    seen = {}
    for name, own in maps.items():
        rows, columns = seen_of(outputs, name)
        seen[name] = own[:rows, :columns]
    level = ranges_of(outputs, maps, "level", kind)
    assert level == {name: (float(o.min()), float(o.max())) for name, o in seen.items()}
    low, high = min(o.min() for o in seen.values()), max(o.max() for o in seen.values())
    assert set(ranges_of(outputs, maps, "all", kind).values()) == {(float(low), float(high))}
    unit = ranges_of(outputs, maps, "unit", kind)
    if kind == "score":
        assert set(unit.values()) == {(0.0, 1.0)}
    else:
        assert unit == {name: (0.0, float(np.abs(o).max())) for name, o in seen.items()}


def test_a_map_of_nothing_has_a_range(outputs):
    nothing = {name: np.zeros_like(own) for name, own in maps_of(outputs, "strength").items()}
    for mode in ("unit", "level", "all"):
        for name, (low, high) in ranges_of(outputs, nothing, mode, "strength").items():
            assert np.isfinite([low, high]).all() and low <= high
            assert not as_bytes(nothing[name], (low, high)).any()


# ------------------------------------------------------------------ maps


def test_the_kinds_of_maps(outputs):
    for kind, names in (("strength", MAPS), ("channel", MAPS), ("score", LEVELS), ("pca", MAPS)):
        maps = maps_of(outputs, kind)
        assert sorted(maps) == sorted(names)
        for name, own in maps.items():
            assert own.shape[:2] == tuple(outputs.features[name].shape[-2:])
            assert (own.dtype, own.ndim) == ((np.uint8, 3) if kind == "pca" else (np.float32, 2))
    with pytest.raises(ConfigError, match="strength, score, pca, channel, not 'mean'"):
        maps_of(outputs, "mean")


def test_strength_and_score_by_hand(outputs):
    strength, score = maps_of(outputs, "strength"), maps_of(outputs, "score")
    for name in MAPS:
        expected = outputs.features[name].square().mean(dim=0).sqrt()
        np.testing.assert_allclose(strength[name], expected.numpy(), rtol=1e-5)
    for name, logits in zip(LEVELS, outputs.cls_logits, strict=True):
        best = logits.sigmoid().reshape(*outputs.features[name].shape[-2:], -1).amax(dim=2)
        np.testing.assert_allclose(score[name], best.numpy(), rtol=1e-5)


# ------------------------------------------------------------------ channels


def ranking_by_hand(outputs, name, rank):
    rows, columns = seen_of(outputs, name)
    seen = outputs.features[name][:, :rows, :columns].double()
    return seen.abs().mean(dim=(1, 2)) if rank == "active" else seen.std(dim=(1, 2), correction=0)


@pytest.mark.parametrize("rank", ["active", "varied"])
@pytest.mark.parametrize("name", [STAGES[0], "P3", "P5"])
def test_the_first_channels_of_a_ranking(outputs, name, rank):
    own = channels_of(outputs, name, rank, -1, "level")
    measure = ranking_by_hand(outputs, name, rank)
    assert len(own.numbers) == len(set(own.numbers)) == 16
    listed = measure[own.numbers]
    assert (listed.diff() <= 1e-9).all()
    rest = measure[[n for n in range(len(measure)) if n not in own.numbers]]
    assert listed.min() >= rest.max() - 1e-9
    assert own.shown == own.numbers[0]


@pytest.mark.parametrize("mode", ["unit", "level", "all"])
def test_channels_and_their_bytes(outputs, mode):
    own = channels_of(outputs, "P3", "active", 200, mode)
    features, (rows, columns) = outputs.features["P3"].numpy(), seen_of(outputs, "P3")
    assert own.shown == 200
    np.testing.assert_array_equal(own.values, features[200])
    assert own.grid.shape == (16, *features.shape[1:]) and own.grid.dtype == np.uint8
    listed = [*own.numbers, 200]
    seen = {number: features[number, :rows, :columns] for number in listed}
    expected = {
        "unit": {number: (0.0, float(np.abs(one).max())) for number, one in seen.items()},
        "level": {number: (float(one.min()), float(one.max())) for number, one in seen.items()},
        "all": dict.fromkeys(
            listed,
            (
                float(min(one.min() for one in seen.values())),
                float(max(one.max() for one in seen.values())),
            ),
        ),
    }[mode]
    assert own.value_range == expected[200]
    assert own.ranges == [expected[number] for number in own.numbers]
    for at, number in enumerate(own.numbers):
        np.testing.assert_array_equal(own.grid[at], as_bytes(features[number], expected[number]))


@pytest.mark.parametrize("shown", [-1, -7, 256, 10**9])
def test_a_channel_that_is_not_there_is_the_first_of_the_ranking(outputs, shown):
    own = channels_of(outputs, "P3", "varied", shown, "level")
    assert own.shown == own.numbers[0]


def test_padding_neither_ranks_nor_ranges_channels(outputs, spoiled):
    for rank in ("active", "varied"):
        clean, dirty = (channels_of(o, "P3", rank, -1, "all") for o in (outputs, spoiled))
        assert (clean.numbers, clean.ranges) == (dirty.numbers, dirty.ranges)


def test_what_is_not_a_number_ranges_nothing(outputs):
    """A NaN or an infinite end would be no JSON, so nothing would be drawn at all."""
    features = {name: torch.full_like(own, torch.nan) for name, own in outputs.features.items()}
    features["P4"] = outputs.features["P4"].clone()
    features["P4"][0, 0, 0] = torch.inf
    broken = replace(outputs, features=features)
    for family in ("strength", "channel"):
        maps = maps_of(broken, family)
        for mode in ("unit", "level", "all"):
            ranges = ranges_of(broken, maps, mode, family)
            assert np.isfinite(list(ranges.values())).all()
    for name in ("P3", "P4"):
        for mode in ("unit", "level", "all"):
            found = channels_of(broken, name, "active", 0, mode)
            assert np.isfinite([found.value_range, *found.ranges]).all()
    assert (maps_of(broken, "pca")["C3"] == 0).all()
    assert ranges_of(broken, {"P3": maps_of(broken, "strength")["P3"]}, "unit", "strength") == {
        "P3": (0.0, 1.0)
    }
