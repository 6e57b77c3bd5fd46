"""The Feature pyramid page in a browser: its maps and numbers are those of the core's features."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch

from retinanet import checkpoints
from retinanet.pyramid import lateral_strength, values_at
from retinanet.samples import load_sample
from tests.browser import (
    SPEC,
    STAGE,
    click_photo,
    knob,
    listen_for_errors,
    open_page,
    to_stage,
    wait_live,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
    ),
]
MAPS = ("C3", "C4", "C5", "P3", "P4", "P5", "P6", "P7")
LEVELS = MAPS[3:]
PHOTO = "motorcycle"


@pytest.fixture
def pyramid(page, address):
    open_page(page, address, "feature_pyramid", photo=PHOTO)
    return page


@pytest.fixture
def outputs(core):
    return core.outputs(load_sample(PHOTO), SPEC)


def on_picture(outputs, name: str) -> tuple[int, int]:
    """Rows and columns of a map whose centres lie on the resized picture, not on its padding."""
    height, width = outputs.image_size
    rows, columns = outputs.features[name].shape[1:]
    stride = 2 ** int(name[1])
    return min(rows, 1 + (height - 1) // stride), min(columns, 1 + (width - 1) // stride)


def strength_of(outputs, name: str) -> np.ndarray:
    """Root mean square over the channels, where the picture is."""
    rows, columns = on_picture(outputs, name)
    return outputs.features[name].double().pow(2).mean(dim=0).sqrt().numpy()[:rows, :columns]


def score_of(outputs, name: str) -> np.ndarray:
    """The best score of a cell's nine anchors, where the picture is."""
    rows, columns = on_picture(outputs, name)
    logits = outputs.cls_logits[LEVELS.index(name)]
    shape = (*outputs.features[name].shape[1:], -1)
    best = torch.sigmoid(logits).amax(dim=1).reshape(shape).amax(dim=2)
    return best.numpy()[:rows, :columns]


def range_words(values: np.ndarray) -> str:
    return f"{values.min():.2g} to {values.max():.2g}"


def thumbs(page) -> dict[str, str]:
    """What the small pictures of the maps say: name -> range."""
    texts = page.locator(".rn-below > .rn-thumbs button").all_text_contents()
    return {text.split(" ", 1)[0]: text.split(" ", 1)[1] for text in texts}


def choose(page, part: str, name: str) -> None:
    page.locator(f"{part} [data-choice={name}]").click()
    wait_live(page)


def open_map(page, name: str) -> None:
    page.locator(f"[data-key=map_{name}]").click()
    wait_live(page)


def legend_range(page) -> list[float]:
    text = page.locator(".rn-legend .key").first.inner_text()
    return [float(v) for v in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", text.split(":")[-1])]


PIXELS = """(canvas) => {
    const context = canvas.getContext('2d');
    return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""
DRAWN = "(stage) => stage.querySelector('.rn-canvas').toDataURL()"


def drawn(page) -> str:
    return page.locator(STAGE).evaluate(DRAWN)


# ------------------------------------------------------------------ the maps


def test_every_map_has_a_small_picture_with_its_range(pyramid, outputs):
    shown = thumbs(pyramid)
    assert tuple(shown) == MAPS
    for name in MAPS:
        assert shown[name] == range_words(strength_of(outputs, name))
    sizes = pyramid.locator(".rn-below > .rn-thumbs canvas").evaluate_all(
        "all => all.map(({ height, width }) => [height, width])"
    )
    assert [tuple(size) for size in sizes] == [on_picture(outputs, name) for name in MAPS]


@pytest.mark.parametrize("name", ["C4", "P3", "P5", "P7"])
def test_a_chosen_map_is_shown_with_its_range(pyramid, outputs, name):
    before = drawn(pyramid)
    open_map(pyramid, name)
    own = strength_of(outputs, name)
    assert legend_range(pyramid) == pytest.approx([own.min(), own.max()], abs=6e-4, rel=6e-3)
    assert pyramid.locator(".rn-headline strong").inner_text() == name
    pressed = pyramid.locator(".rn-below > .rn-thumbs [aria-pressed=true]")
    assert pressed.get_attribute("data-key") == f"map_{name}"
    if name != "P3":
        pyramid.wait_for_url(f"**feature={name}**")
        assert drawn(pyramid) != before


@pytest.mark.parametrize("scale", ["unit", "level", "all"])
def test_the_range_of_colours(page, address, outputs, scale):
    open_page(page, address, "feature_pyramid", photo=PHOTO, scale=scale, feature="P4")
    own = {name: strength_of(outputs, name) for name in MAPS}
    low, high = own["P4"].min(), own["P4"].max()
    if scale == "unit":
        low = 0.0
    if scale == "all":
        low = min(values.min() for values in own.values())
        high = max(values.max() for values in own.values())
    assert legend_range(page) == pytest.approx([low, high], abs=6e-4, rel=6e-3)


def test_best_scores(pyramid, outputs):
    choose(pyramid, ".rn-knobs", "score")
    pyramid.wait_for_url("**map=score**")
    shown = thumbs(pyramid)
    assert tuple(shown) == LEVELS
    for name in LEVELS:
        assert shown[name] == range_words(score_of(outputs, name))
    open_map(pyramid, "P6")
    own = score_of(outputs, "P6")
    assert legend_range(pyramid) == pytest.approx([own.min(), own.max()], abs=6e-4, rel=6e-3)


def test_the_main_directions_are_colours(pyramid):
    before = drawn(pyramid)
    choose(pyramid, ".rn-knobs", "pca")
    pyramid.wait_for_url("**map=pca**")
    assert tuple(name.strip() for name in thumbs(pyramid)) == MAPS
    assert drawn(pyramid) != before
    assert "main directions" in pyramid.locator(".rn-legend").inner_text()
    pixels = pyramid.locator("[data-key=map_P3] canvas").evaluate(PIXELS)
    red, green, blue, _ = np.array(pixels).reshape(-1, 4).T
    assert (red != green).any() and (green != blue).any()


def test_channels(pyramid, outputs):
    open_map(pyramid, "P5")
    choose(pyramid, ".rn-knobs", "channel")
    grid = pyramid.locator(".rn-channels .rn-thumbs button")
    assert grid.count() == 16
    rows, columns = on_picture(outputs, "P5")
    features = outputs.features["P5"][:, :rows, :columns].double()
    words = [text.split(": ") for text in grid.all_text_contents()]
    for number, told in words:
        own = features[int(number)].numpy()
        low, high = (float(v) for v in told.split(" to "))
        assert [low, high] == pytest.approx([own.min(), own.max()], rel=0.06, abs=6e-3)
    active = features.abs().mean(dim=(1, 2)).topk(16).indices.tolist()
    assert {int(number) for number, _ in words} == set(active)
    grid.nth(3).click()
    wait_live(pyramid)
    number = int(words[3][0])
    pyramid.wait_for_url(f"**channel={number}**")
    own = features[number].numpy()
    assert f"channel {number}" in pyramid.locator(".rn-legend").inner_text()
    assert legend_range(pyramid) == pytest.approx([own.min(), own.max()], abs=6e-4, rel=6e-2)
    assert (
        pyramid.locator(".rn-channels [aria-pressed=true]")
        .last.inner_text()
        .startswith(f"{number}:")
    )


def test_a_channel_by_its_number(pyramid, outputs):
    choose(pyramid, ".rn-knobs", "channel")
    field = pyramid.get_by_label("number of the channel")
    field.fill("77")
    field.press("Enter")
    wait_live(pyramid)
    pyramid.wait_for_url("**channel=77**")
    assert "channel 77" in pyramid.locator(".rn-legend").inner_text()
    rows, columns = on_picture(outputs, "P3")
    own = outputs.features["P3"][77, :rows, :columns].numpy()
    assert legend_range(pyramid) == pytest.approx([own.min(), own.max()], abs=6e-4, rel=6e-2)
    field.fill("4000")  # P3 has 256
    field.press("Enter")
    assert field.input_value() == "77"
    choose(pyramid, ".rn-channels", "varied")
    features = outputs.features["P3"][:, :rows, :columns].double()
    varied = features.flatten(1).var(dim=1).topk(16).indices.tolist()
    listed = pyramid.locator(".rn-channels .rn-thumbs button").all_text_contents()
    assert {int(text.split(":")[0]) for text in listed} == set(varied)


# ------------------------------------------------------------------ the lateral path


def test_the_lateral_path_alone_beside_the_merged_map(pyramid):
    before = drawn(pyramid)
    switch = pyramid.get_by_label("lateral path alone beside the merged map")
    switch.check()
    wait_live(pyramid)
    pyramid.wait_for_url("**lateral=True**")
    knob(pyramid, "swipe").wait_for()
    assert "comes down from coarser levels" in pyramid.locator(".rn-knobs").inner_text()
    both = drawn(pyramid)
    assert both != before
    pyramid.locator("[data-knob=swipe] input[type=number]").fill("0.2")
    pyramid.locator("[data-knob=swipe] input[type=number]").press("Enter")
    pyramid.wait_for_function(
        """(before) => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
            .some((host) => {
                const canvas = host.shadowRoot?.querySelector('.rn-stage .rn-canvas');
                return canvas && canvas.toDataURL() !== before;
            })""",
        arg=both,
    )
    open_map(pyramid, "P6")
    assert "Only P3, P4 and P5" in pyramid.locator(".rn-knobs").inner_text()
    assert not knob(pyramid, "swipe").is_visible()
    open_map(pyramid, "P3")
    switch.uncheck()
    wait_live(pyramid)
    assert drawn(pyramid) == before


COLUMN = """(stage, [px, py]) => {
    const [x, y, scale] = stage.dataset.view.split(',').map(Number);
    const canvas = stage.querySelector('.rn-canvas');
    const ratio = canvas.width / stage.clientWidth;
    const at = [(x + px * scale) * ratio, (y + py * scale) * ratio].map(Math.round);
    return [...canvas.getContext('2d').getImageData(at[0], at[1], 1, 1).data].slice(0, 3);
}"""


def test_left_of_the_line_lies_the_lateral_path(page, address, core, outputs):
    """The colour at some cells' centres, at full opacity, is viridis of the two maps."""
    query = {"photo": PHOTO, "feature": "P5", "lateral": "True", "truth": ""}
    open_page(page, address, "feature_pyramid", **query)
    page.locator("[data-knob=opacity] input[type=number]").fill("1")
    page.locator("[data-knob=opacity] input[type=number]").press("Enter")
    merged = strength_of(outputs, "P5")
    lateral = lateral_strength(core.model(SPEC), outputs)["P5"]
    width, _ = load_sample(PHOTO).size
    scale = width / outputs.image_size[1]
    for row, column in ((5, 2), (5, 8)):  # left and right of the middle
        x, y = (32 * column + 0.5) * scale, (32 * row + 0.5) * scale
        values = lateral if x < width / 2 else merged
        part = (values[row, column] - merged.min()) / (merged.max() - merged.min())
        wanted = viridis(float(np.clip(part, 0, 1)))
        shown = page.locator(STAGE).evaluate(COLUMN, [x, y])
        np.testing.assert_allclose(shown, wanted, atol=4)


def viridis(part: float) -> list[float]:
    from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

    (color,) = sample_colorscale(get_colorscale("Viridis"), [part])
    return list(unlabel_rgb(color))


# ------------------------------------------------------------------ a place


def linked_point(page) -> tuple[float, float]:
    page.wait_for_url("**point=**")
    (text,) = parse_qs(urlsplit(page.url).query)["point"]
    x, y = map(float, text.split(","))
    return x, y


def test_a_clicked_place_tells_every_map_and_closes_again(pyramid, outputs):
    errors = listen_for_errors(pyramid)
    click_photo(pyramid, 350, 220)
    x, y = linked_point(pyramid)
    told = pyramid.locator(".rn-answer")
    told.locator("[data-depth=numbers] summary").click()
    rows = [row.locator("td").all_text_contents() for row in told.locator(".rn-numbers tr").all()]
    values = values_at(outputs, x, y)
    assert [row[0].split(",")[0] for row in rows] == list(MAPS)
    image_height, image_width = outputs.image_size
    height, width = outputs.original_size
    for (place, said), value in zip(rows, values, strict=True):
        stride = 2 ** int(value["map"][1])
        column = round((x * image_width / width - 0.5) / stride)
        row = round((y * image_height / height - 0.5) / stride)
        assert place == f"{value['map']}, row {row}, column {column}"
        own = outputs.features[value["map"]][:, row, column].double().pow(2).mean().sqrt()
        strong = float(re.search(r"strength ([\d.e+-]+),", said).group(1))
        assert strong == pytest.approx(float(own), rel=6e-3)
        if value["score"] is not None:
            assert said.split("; ")[1].startswith(value["category"])
            score = float(said.rsplit(" ", 1)[1])
            assert score == pytest.approx(value["score"], abs=1.1e-3)
    assert "P3's cell" in pyramid.locator(".rn-legend").inner_text()
    assert "what P3 sees there" in pyramid.locator(".rn-legend").inner_text()
    told.locator("[data-depth=formula] summary").click()
    p3 = next(value for value in values if value["map"] == "P3")
    assert f"= {p3['column']}" in told.locator("[data-depth=formula] pre").inner_text()
    click_photo(pyramid, 350, 220)
    pyramid.wait_for_url(lambda url: "point=" not in url)
    assert "Choose a map" in told.inner_text()
    assert errors == []


@pytest.mark.parametrize("name", ["P3", "P4", "C5"])
def test_hovering_tells_the_cell_and_its_value(page, address, outputs, name):
    open_page(page, address, "feature_pyramid", photo=PHOTO, feature=name)
    for x, y in ((100, 80), (701, 462), (3, 3)):
        page.mouse.move(*to_stage(page, x, y))
        page.wait_for_selector(".rn-tip:not([hidden])")
        value = next(value for value in values_at(outputs, x, y) if value["map"] == name)
        words = f"{name}, row {value['row']}, column {value['column']}"
        page.locator(".rn-tip", has_text=words).wait_for()
        shown = float(page.locator(".rn-tip").inner_text().split()[-1])
        assert shown == pytest.approx(value["strength"], abs=6e-4, rel=6e-3)
