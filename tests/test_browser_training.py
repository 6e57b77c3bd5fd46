"""The Training page in a browser: a run outlives a reload, and its model goes to every page."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from retinanet import checkpoints
from tests.browser import listen_for_errors, open_page, wait_live, wait_ready

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
    ),
]
SMALL = {"weights": "random", "depth": "18", "min_size": "128", "max_size": "256"}
TINY = {
    "images": 8,
    "train_start": "random",
    "train_depth": 18,
    "train_num_convs": 1,
    "train_variant": "v1",
    "train_size": 64,
    "train_steps": 4,
    "train_batch_size": 2,
    "train_checks": 2,
}


def told(page, name: str) -> str:
    """A query parameter of the address."""
    return parse_qs(urlsplit(page.url).query).get(name, [""])[0]


def wait_for_weights(page, option: str) -> None:
    """Until the sidebar's choice of weights is this one."""
    from playwright.sync_api import expect

    expect(page.locator(".st-key-weights input").first).to_have_value(option, timeout=30_000)


def test_a_run_outlives_a_reload_and_its_model_goes_to_every_page(page, address):
    errors = listen_for_errors(page)
    page.goto(f"{address}/training?{urlencode(TINY)}")
    page.get_by_role("button", name="Start training").click(timeout=60_000)
    page.wait_for_url("**run=*")
    run_id = told(page, "run")
    page.reload()
    page.locator(f".st-key-open_{run_id} button").wait_for(timeout=60_000)
    use = page.get_by_role("button", name="Use it on every page")
    use.click(timeout=120_000)
    page.wait_for_url(re.compile(f"weights=[^&]*-{run_id[:6]}"))
    option = told(page, "weights")
    wait_for_weights(page, option)
    page.get_by_role("link", name="Anchors").first.click()
    page.wait_for_url("**/anchors?*")
    wait_live(page)
    wait_for_weights(page, option)
    assert option == told(page, "weights")
    assert page.locator("[data-testid=stException]").count() == 0
    assert not errors


def test_the_model_of_one_page_is_the_model_of_the_next_and_in_its_address(page, address):
    open_page(page, address, "focal_loss", **SMALL)
    page.get_by_role("link", name="Feature pyramid").first.click()
    page.wait_for_url("**/feature_pyramid?*")
    wait_live(page)
    for name, text in SMALL.items():
        assert told(page, name) == text, name
    page.reload()
    wait_ready(page)
    wait_for_weights(page, SMALL["weights"])
