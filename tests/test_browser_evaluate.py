"""The Evaluate page in a browser: the network once, a row to its photos, a photo to Detect."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from pages._shared import workroom
from retinanet import checkpoints
from retinanet.config import PostprocessConfig
from retinanet.samples import SAMPLES, load_sample
from tests.browser import (
    expected,
    listed_objects,
    listen_for_errors,
    serving,
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

HEADLINE = "[role=list][aria-label='what this setting gives']"


@pytest.fixture(scope="module")
def evaluate(chromium, tmp_path_factory):
    """The page's address, on a server with a workroom of its own."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(workroom.FOLDER, str(folder / "room"))
        with serving(folder / "log.txt") as url:
            yield f"{url}/evaluate"


def open_tab(page, address: str, tab: str) -> None:
    page.goto(f"{address}?score_thresh=0.3&evaluate_tab={tab}")
    page.wait_for_selector(HEADLINE, timeout=120_000)
    wait_ready(page)


def test_a_row_leads_to_its_photos_and_a_photo_to_detect_with_its_objects(page, evaluate, core):
    errors = listen_for_errors(page)
    open_tab(page, evaluate, "Worst+photos")
    first = page.locator(".rn-sheet button").first
    first.wait_for(timeout=60_000)
    name, told = first.get_attribute("title"), first.inner_text()
    assert re.search(r"(tp|fn|fp) \d", told)
    table = page.locator("[data-testid=stDataFrame]").last
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    page.mouse.click(box["x"] + 15, box["y"] + 50)  # the box that chooses the first row
    page.locator(".rn-sheet").nth(1).wait_for(timeout=60_000)
    wait_ready(page)
    one = page.locator(".rn-sheet").nth(1).locator("button")
    assert one.count() == 1
    assert one.get_attribute("title") == name
    one.click()
    page.wait_for_url(re.compile(r"/\?"), timeout=60_000)
    wait_live(page)
    sample = next(one for one in SAMPLES if name.startswith(load_sample(one.key).name))
    config = PostprocessConfig(score_thresh=0.3, detections_per_img=100)
    wait_for_boxes(page, expected(core, load_sample(sample.key), config))
    page.get_by_role("link", name="Anchors").click()
    page.wait_for_url(re.compile("/anchors"), timeout=60_000)
    wait_live(page)
    assert sorted(name for name, _ in listed_objects(page)) == sorted(
        box.category for box in sample.boxes
    )
    assert errors == []


def test_a_knob_changes_the_numbers_and_the_link_holds_it(page, evaluate):
    open_tab(page, evaluate, "Errors")
    before = page.inner_text(HEADLINE)
    field = page.locator(".st-key-knob_score_thresh input")
    field.fill("0.1")
    field.press("Enter")
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.innerText !== text"
        " && document.querySelector(where)",
        arg=[HEADLINE, before],
        timeout=60_000,
    )
    wait_ready(page)
    after = page.inner_text(HEADLINE)
    assert parse_qs(urlsplit(page.url).query)["score_thresh"] == ["0.1"]
    page.reload()
    page.wait_for_selector(HEADLINE, timeout=120_000)
    wait_ready(page)
    assert page.locator(".st-key-run_network").count() == 0
    assert (
        page.inner_text(HEADLINE).split("post-processing")[0] == after.split("post-processing")[0]
    )
    page.get_by_role("tab", name="Errors").wait_for()
    assert page.get_by_role("tab", name="Errors").get_attribute("aria-selected") == "true"
