"""The drawings, rows and sentences about the pyramid and the network: true to their numbers."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import PIL.Image
import plotly.colors
import plotly.graph_objects as go
import pytest

from retinanet.architecture import frozen_view, profile
from retinanet.cells import MAPS, cell_at, map_extent
from retinanet.checkpoints import load_model
from retinanet.figures.architecture import (
    architecture_figure,
    architecture_rows,
    architecture_sentence,
    fits_rows,
)
from retinanet.figures.costs import count_text, share_text
from retinanet.figures.maps import COLORSCALES, color_table, map_image, overlay_figure
from retinanet.figures.palette import LEVEL_COLORS
from retinanet.figures.pyramid import (
    level_rows,
    levels_figure,
    levels_sentence,
    point_rows,
    point_sentence,
    top_down_rows,
    top_down_sentence,
)
from retinanet.fitting import PARTS, weights_that_fit
from retinanet.pyramid import strength, top_down_share, values_at
from retinanet.receptive import receptive_fields
from retinanet.types import LEVELS, Image, Outputs


@pytest.fixture(scope="module")
def photo() -> Image:
    noise = np.random.default_rng(0).integers(0, 255, (60, 110, 3), np.uint8)
    return Image(PIL.Image.fromarray(noise), id="noise")


@pytest.fixture(scope="module", params=["v1", "v2"])
def model(request):
    settings = {"depth": 18, "num_classes": 3, "num_convs": 2, "min_size": 64, "max_size": 128}
    return load_model("random", {**settings, "variant": request.param}, "cpu")


@pytest.fixture(scope="module")
def outputs(model, photo) -> Outputs:
    return model(photo)


@pytest.fixture(scope="module")
def costs(model, photo):
    return profile(model, photo)


# Maps


@pytest.mark.parametrize("colorscale", COLORSCALES)
def test_colours_are_plotlys(colorscale: str):
    table = color_table(colorscale)
    for step in (0, 31, 128, 200, 255):
        (color,) = plotly.colors.sample_colorscale(colorscale, [step / 255])
        expected = np.array(plotly.colors.unlabel_rgb(color))
        assert np.abs(table[step] - expected).max() <= 1
    lightness = table.astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) >= -1).all()


def test_map_image_by_hand():
    image = map_image(np.array([[0.0, 5.0, 10.0], [-9.0, 99.0, np.nan]]), 0.0, 10.0)
    table = color_table()
    expected = [[table[0], table[128], table[255]], [table[0], table[255], [128] * 3]]
    np.testing.assert_array_equal(image, np.array(expected))
    assert image.dtype == np.uint8
    flat = map_image(np.full((2, 2), 3.0), 3.0, 3.0)
    np.testing.assert_array_equal(flat, np.broadcast_to(table[0], (2, 2, 3)))
    with pytest.raises(ValueError, match="Viridis"):
        map_image(np.zeros((2, 2)), 0, 1, "Jet")
    with pytest.raises(ValueError, match="rows and columns"):
        map_image(np.zeros(4), 0, 1)


@pytest.mark.parametrize("level", MAPS)
def test_the_overlay_lies_where_the_cells_are(photo, outputs, level: str):
    values = strength(outputs, level)
    figure = overlay_figure(photo, outputs, values, level, 0.0, 2.0, "strength")
    (heat,) = figure.data
    rows, columns = values.shape
    for row, column in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)):
        x, y = heat.x0 + column * heat.dx, heat.y0 + row * heat.dy
        assert cell_at(outputs, level, x, y) == (row, column)
    extent = (
        heat.x0 - heat.dx / 2,
        heat.y0 - heat.dy / 2,
        heat.x0 + (columns - 0.5) * heat.dx,
        heat.y0 + (rows - 0.5) * heat.dy,
    )
    assert extent == pytest.approx(map_extent(outputs, level))
    assert (heat.zmin, heat.zmax) == (0.0, 2.0)
    (under,) = figure.layout.images
    assert (under.x, under.y, under.sizex, under.sizey) == (0, 0, 110, 60)
    jpeg = base64.b64decode(under.source.split(",")[1])
    assert PIL.Image.open(io.BytesIO(jpeg)).size == photo.size
    assert tuple(figure.layout.xaxis.range) == (0, 110)
    assert tuple(figure.layout.yaxis.range) == (60, 0)  # downwards, as in a photo


def test_an_overlay_of_something_else_is_refused(photo, outputs):
    with pytest.raises(ValueError, match="grid"):
        overlay_figure(photo, outputs, np.zeros((2, 2)), "P3", 0, 1, "")
    other = Image(PIL.Image.new("RGB", (9, 9)), id="other")
    with pytest.raises(ValueError, match="9x9"):
        overlay_figure(other, outputs, strength(outputs, "P3"), "P3", 0, 1, "")


# The pyramid


def test_level_rows_are_the_outputs(model, outputs):
    rows = level_rows(outputs, model)
    fields = receptive_fields(model)
    assert [row["map"] for row in rows] == list(MAPS)
    for row in rows:
        channels, height, width = outputs.features[row["map"]].shape
        assert (row["channels"], row["rows"], row["columns"]) == (channels, height, width)
        assert row["receptive_top_down"] == fields[row["map"]].top_down
    assert sum(row["anchors"] or 0 for row in rows) == outputs.num_anchors
    assert json.loads(json.dumps(rows)) == rows
    sentence = levels_sentence(rows)
    assert f"{outputs.num_anchors:,} anchors" in sentence
    assert f"{fields['P3'].top_down:,} px" in sentence
    assert "32, 40 or 50 px" in sentence


def test_levels_figure_shows_the_rows(model, outputs):
    rows = level_rows(outputs, model)
    bars, *series = levels_figure(rows).data
    assert list(bars.y) == list(LEVELS)
    assert list(bars.base) == [32, 64, 128, 256, 512]
    assert [b + x for b, x in zip(bars.base, bars.x, strict=True)] == [50, 101, 203, 406, 812]
    assert list(bars.marker.color) == list(LEVEL_COLORS.values())
    assert len({trace.marker.symbol for trace in series}) == len(series)
    assert len({trace.marker.color for trace in series}) == len(series)


def test_point_rows_and_sentence(outputs):
    values = values_at(outputs, 30, 20)
    rows = point_rows(values)
    assert len(rows) == len(MAPS)
    assert len({tuple(row) for row in rows}) == 1  # the same columns throughout
    for row, value in zip(rows, values, strict=True):
        assert (row["x1"], row["y1"], row["x2"], row["y2"]) == value["cell_box"]
    best = max(values, key=lambda value: value["score"] or -1)
    sentence = point_sentence(values)
    assert f"{best['score']:.3f} for {best['category']}, on {best['map']}" in sentence
    # Not that they cover it: the last half cell of the picture can lie beyond them all.
    assert sentence.startswith("Each of the five levels has one cell for this point")


@pytest.mark.parametrize(
    ("share", "text"), [(0.694, "69%"), (0.0, "0%"), (1.0, "100%"), (0.004, "0.4%"), (1.2, "120%")]
)
def test_top_down_sentence(share: float, text: str):
    shares = {"P3": share, "P4": 0.5, "P5": 0.0}
    assert f"a strength of {text} of P3 and 50% of P4" in top_down_sentence(shares)


def test_top_down_rows(model, outputs):
    shares = top_down_share(model, outputs)
    assert top_down_rows(shares)[0] == {"level": "P3", "top_down_share": shares["P3"]}


# The network


def words(figure: go.Figure) -> str:
    return " ".join([*figure.data[0].text, *(note.text for note in figure.layout.annotations)])


def test_the_drawing_has_every_block_and_number(model, outputs, costs):
    figure = architecture_figure(costs)
    boxes = figure.data[0]
    for name, features in outputs.features.items():
        shape = "×".join(map(str, features.shape))
        text = next(text for text in boxes.text if re.search(rf"\b{name}\b", text))
        assert shape in text
    hovers = " ".join(boxes.hovertext)
    for cost in costs.blocks:
        assert f"{cost.block.parameters:,} parameters" in hovers
        assert count_text(cost.macs) in hovers
    squares = [text for text in boxes.text if text in ("3×3", "out")]
    assert squares == ["3×3", "3×3", "out"] * 2  # num_convs is 2
    height, width = costs.padded_size
    assert f"input 3×{height}×{width}" in words(figure)
    for level in LEVELS:
        index = next(i for i, text in enumerate(boxes.text) if f"<b>{level}</b>" in text)
        assert boxes.marker.color[index] == LEVEL_COLORS[level]


def test_boxes_do_not_overlap(costs):
    boxes = architecture_figure(costs).data[0]
    sides = [
        (left, left + wide, middle - tall / 2, middle + tall / 2)
        for left, wide, middle, tall in zip(boxes.base, boxes.x, boxes.y, boxes.width, strict=True)
    ]
    slack = 1e-6
    for i, (a1, a2, b1, b2) in enumerate(sides):
        for c1, c2, d1, d2 in sides[:i]:
            apart = a2 <= c1 + slack or c2 <= a1 + slack or b2 <= d1 + slack or d2 <= b1 + slack
            assert apart


@pytest.mark.parametrize("frozen_stages", [-1, 0, 3])
def test_frozen_blocks_are_hatched_grey_and_named(model, costs, frozen_stages: int):
    view = frozen_view(model, frozen_stages)
    for given in (view, list(view.frozen)):
        boxes = architecture_figure(costs, given).data[0]
        hatched = [
            text.split("<br>")[0]
            for text, shape in zip(boxes.text, boxes.marker.pattern.shape, strict=True)
            if shape
        ]
        assert len(hatched) == len(view.frozen)
        assert all("frozen" in text for text in hatched)
        assert sum("frozen" in text for text in boxes.text) == len(view.frozen)
    assert architecture_figure(costs).data[0].text == (
        architecture_figure(costs, frozen_view(model, model.config.frozen_stages)).data[0].text
    )


def test_p6_hangs_where_it_is_made(model, costs):
    figure = architecture_figure(costs)
    into_p6 = [note for note in figure.layout.annotations if note.showarrow and 4.5 < note.y < 5.1]
    (arrow,) = into_p6
    assert (arrow.ax < 35) == (model.config.variant == "v2")  # from C5 on the left


def test_architecture_rows_add_up(costs):
    *rows, total = architecture_rows(costs)
    blocks = [row for row in rows if row["level"] is None]
    assert total["block"] == "sum"
    for column in ("parameters", "trainable", "macs"):
        assert sum(row[column] for row in blocks) == total[column]
    per_level = [row for row in rows if row["level"]]
    for name in ("classification_head", "regression_head"):
        whole = next(row for row in blocks if row["block"] == name)
        parts = [row for row in per_level if row["block"] == name]
        assert [row["level"] for row in parts] == list(LEVELS)
        assert sum(row["macs"] for row in parts) == whole["macs"]
    assert len({tuple(row) for row in [*rows, total]}) == 1
    sentence = architecture_sentence(costs)
    assert f"{costs.parameters:,} parameters" in sentence
    assert "2 convolutions in each subnet" in sentence
    share = sum(row["macs"] for row in per_level) / costs.macs
    assert f"do {share_text(share)} of the arithmetic" in sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999, "999"),
        (1000, "1.00 k"),
        (590_080, "590 k"),
        (999_900, "1.00 M"),
        (9_909_043_200, "9.91 G"),
        (95_116_492_800, "95.1 G"),
        (202_860_134_400, "203 G"),
    ],
)
def test_counts_have_three_digits(value: int, text: str):
    assert count_text(value) == text


def test_fits_rows(model):
    fits = weights_that_fit(model.config)
    rows = fits_rows(fits)
    assert len(rows) == len(fits) * len(PARTS)
    assert {row["fit"] for row in rows} <= {"all", "some", "none"}
    assert json.loads(json.dumps(rows)) == rows


def test_figures_leave_the_look_to_the_page(model, photo, outputs, costs):
    plain = go.Figure()
    for figure in (
        architecture_figure(costs),
        levels_figure(level_rows(outputs, model)),
        overlay_figure(photo, outputs, strength(outputs, "P3"), "P3", 0, 1, "strength"),
    ):
        assert figure.layout.template == plain.layout.template
        assert figure.layout.paper_bgcolor is None
        json.loads(figure.to_json())
