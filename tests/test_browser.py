"""The app in headless Chromium: upload -> boxes -> knob -> export, links, the canvas's pixels."""

from __future__ import annotations

import io
import json

import numpy as np
import PIL.Image
import pytest

from pages._shared import stored
from retinanet import checkpoints
from retinanet.config import PostprocessConfig
from retinanet.figures.palette import label_color
from retinanet.images import load_image
from retinanet.samples import load_sample, sample_path
from tests.browser import (
    LOW,
    STAGE,
    expected,
    knob,
    knob_value,
    link,
    listed_boxes,
    wait_for_boxes,
    wait_live,
    wait_ready,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
    ),
]
PIXEL_OF_CANVAS = """(stage, [px, py]) => {
    const [x, y, scale] = stage.dataset.view.split(',').map(Number);
    const canvas = stage.querySelector('.rn-canvas');
    const ratio = canvas.width / stage.clientWidth;
    const at = [(x + px * scale) * ratio, (y + py * scale) * ratio].map(Math.round);
    return [...canvas.getContext('2d').getImageData(at[0], at[1], 1, 1).data];
}"""


def upload(page, *files: tuple[str, bytes]) -> None:
    page.locator(".st-key-upload input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/jpeg", "buffer": data} for name, data in files]
    )


def jpeg(color: str) -> bytes:
    target = io.BytesIO()
    PIL.Image.new("RGB", (320, 240), color).save(target, "JPEG")
    return target.getvalue()


def test_upload_boxes_knob_export(page, address, core):
    page.goto(link(address, **LOW))
    wait_live(page)
    data = sample_path("cat").read_bytes()
    upload(page, ("my cat.png", data))
    image = load_image(data, "my cat.png")
    config = PostprocessConfig(
        0.05, stored.START.nms_thresh, detections_per_img=stored.START.detections_per_img
    )
    table = expected(core, image, config)
    assert len(table) > 1
    wait_for_boxes(page, table)

    knob(page, "detections_per_img").focus()
    page.keyboard.press("Home")
    table = expected(core, image, PostprocessConfig(0.05, detections_per_img=1))
    wait_for_boxes(page, table)
    page.wait_for_url("**detections_per_img=1**")

    page.get_by_role("tab", name="Take home").click()
    with page.expect_download() as download:
        page.locator(".st-key-save_json button").click()
    results = json.loads(download.value.path().read_text())
    x1, y1, x2, y2 = table.boxes[0].tolist()
    assert [round(v, 3) for v in results[0]["bbox"]] == pytest.approx(
        [x1, y1, x2 - x1, y2 - y1], abs=0.01
    )
    with page.expect_download() as download:
        page.locator(".st-key-save_png button").click()
    assert PIL.Image.open(download.value.path()).size == image.size


@pytest.mark.parametrize("path", ["", "detect", "model"])
def test_each_page_opens_cold_by_its_url(page, address, path):
    page.goto(f"{address}/{path}")
    wait_ready(page)
    page.get_by_text("About the model").first.wait_for()


def test_a_cold_link_restores_the_view(page, address, core):
    page.goto(link(address, photo="cat", color="level", nms_thresh="0.3", **LOW))
    config = PostprocessConfig(0.05, 0.3, detections_per_img=stored.START.detections_per_img)
    wait_for_boxes(page, expected(core, load_sample("cat"), config))
    assert "pyramid level" in page.locator(".rn-legend").inner_text()
    assert knob_value(page, "score_thresh").input_value() == "0.05"
    assert knob_value(page, "nms_thresh").input_value() == "0.30"


def test_a_bad_upload_gives_a_sentence_and_keeps_the_state(page, address):
    page.goto(link(address, photo="coffee", **LOW))
    wait_live(page)
    before = page.locator(STAGE).get_attribute("data-painted")
    upload(page, ("broken.jpg", b"this is no picture"))
    notice = page.locator(".st-key-notices")
    notice.wait_for()
    assert "broken.jpg" in notice.inner_text()
    wait_live(page)
    assert page.locator(STAGE).get_attribute("data-painted") == before
    assert "photo=coffee" in page.url


def test_the_canvas_paints_the_box_that_the_core_found(page, address, core):
    page.goto(link(address, photo="coffee", detections_per_img="1", **LOW))
    config = PostprocessConfig(0.05, detections_per_img=1)
    table = expected(core, load_sample("coffee"), config)
    wait_for_boxes(page, table)
    x1, y1, x2, y2 = table.boxes[0].tolist()
    assert x1 > 2  # an edge on the picture's border would be painted half outside
    middle = (y1 + y2) / 2
    edge = [[x1 + offset, middle] for offset in (-0.6, -0.2, 0.2, 0.6, 1.0)]
    color = label_color(int(table.labels[0]))
    wanted = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    *on_edge, inside = (
        np.abs(np.array(page.locator(STAGE).evaluate(PIXEL_OF_CANVAS, point)[:3]) - wanted).max()
        for point in [*edge, [(x1 + x2) / 2, middle]]
    )
    # The line is antialiased over a dark halo: its full colour is in one of the pixels across it.
    assert min(on_edge) <= 60
    assert inside > 20


def test_a_click_selects_a_box_and_escape_lets_go(page, address):
    page.goto(link(address, photo="cat", detections_per_img="1", **LOW))
    wait_live(page)
    x1, y1, x2, y2 = listed_boxes(page)[0]
    left, top, scale = map(float, page.locator(STAGE).get_attribute("data-view").split(","))
    area = page.locator(STAGE).bounding_box()
    page.mouse.click(
        area["x"] + left + scale * (x1 + x2) / 2, area["y"] + top + scale * (y1 + y2) / 2
    )
    page.locator(".rn-answer", has_text="Kept, as number 1").wait_for()
    page.wait_for_url("**box=**")
    page.keyboard.press("Escape")
    page.locator(".rn-answer", has_text="Click a box").wait_for()


def test_keys_zoom_and_pan_the_canvas(page, address):
    page.goto(link(address, photo="cat"))
    wait_live(page)
    stage = page.locator(STAGE)
    stage.focus()
    for key in ("+", "+", "ArrowDown"):
        before = stage.get_attribute("data-view")
        page.keyboard.press(key)
        page.wait_for_selector(f'{STAGE}:not([data-view="{before}"])')
    page.keyboard.press("0")
    page.wait_for_selector(f"{STAGE}:not(.zoomed)")


def test_a_batch_becomes_a_contact_sheet_that_opens_its_photos(page, address):
    page.goto(address)
    wait_live(page)
    upload(page, ("red.jpg", jpeg("red")), ("bad.jpg", b"?"), ("blue.jpg", jpeg("blue")))
    page.locator(".st-key-save_batch_zip button").wait_for(timeout=120_000)
    assert "bad.jpg" in page.locator(".st-key-notices").inner_text()
    page.get_by_role("button", name="blue.jpg").click()
    page.locator(f'{STAGE}[aria-label^="blue.jpg"]').wait_for()
    page.get_by_role("button", name="blue.jpg", pressed=True).wait_for()
