"""A server on a free port and a headless Chromium, for the browser tests and for measuring."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from pages._shared import stored
from retinanet.engine import ModelSpec

ROOT = Path(__file__).parent.parent
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_SECONDS = 90
READY = "[data-testid=stApp][data-test-script-state=notRunning]"


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome, None when there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(log: Path) -> Iterator[str]:
    """The app as a newcomer starts it; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py"]
    options = ["--server.port", str(port), "--server.headless", "true"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], cwd=ROOT, stdout=output, stderr=output, env=os.environ.copy()
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_healthy(address, process, log)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_healthy(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"The server did not start:\n{log.read_text(errors='replace')}")


@contextmanager
def browsing(**context):
    """A Playwright browser context; the arguments are those of `Browser.new_context`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        try:
            yield browser.new_context(**context)
        finally:
            browser.close()


def wait_ready(page, timeout: float = 60_000) -> None:
    """Until the script has run, without an exception on the page."""
    page.wait_for_selector(READY, timeout=timeout)
    assert page.locator("[data-testid=stException]").count() == 0, page.inner_text("body")


def wait_live(page, timeout: float = 90_000) -> None:
    """Until the canvas shows the photo with the core's result: no message lies over it."""
    page.wait_for_function(
        """() => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')].some(
            (host) => {
                const stage = host.shadowRoot?.querySelector('.rn-stage');
                return stage?.dataset.painted?.endsWith(':photo') && stage.dataset.live === ''
                    && stage.querySelector('.rn-status').textContent === '';
            })""",
        timeout=timeout,
    )
    wait_ready(page, timeout)


STAGE = ".rn-stage"  # Playwright's CSS sees through open shadow roots


def link(address: str, **query: str) -> str:
    """The app's address with query parameters."""
    return f"{address}/?" + urlencode(query)


def knob(page, name: str):
    """The slider of a knob of the workbench."""
    return page.locator(f"[data-knob='{name}'] input[type=range]")


def knob_value(page, name: str):
    """The field of a knob of the workbench in which a number can be typed."""
    return page.locator(f"[data-knob='{name}'] input[type=number]")


SPEC = ModelSpec("embedded", precision="fp32")
LOW = {"score_thresh": "0.05"}  # weak boxes too, so that every photo has some


def expected(core, image, config):
    """What the core says in this process; the server's last bits may differ (threads)."""
    return stored.result_from_trace(core.detect(image, SPEC, config)).table


def listed_boxes(page) -> np.ndarray:
    """The corners that the canvas lists for screen readers, [N, 4]."""
    texts = page.locator(".rn-list li").all_text_contents()
    return np.array([[float(v) for v in text.split("corners ")[1].split()] for text in texts])


def wait_for_boxes(page, table, seconds: float = 120) -> None:
    """Until the canvas shows these boxes, to a tenth of a pixel, and has painted them."""
    end = time.monotonic() + seconds
    shown = np.zeros((0, 4))
    while time.monotonic() < end:
        shown = listed_boxes(page)
        if shown.shape == table.boxes.shape and np.abs(shown - table.boxes).max() < 0.11:
            wait_live(page)
            return
        time.sleep(0.1)
    np.testing.assert_allclose(shown, table.boxes, atol=0.11)
