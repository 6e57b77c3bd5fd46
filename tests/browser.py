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
    """Until the canvas shows the photo with a live result: no message lies over it."""
    page.wait_for_function(
        """() => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')].some(
            (host) => {
                const stage = host.shadowRoot?.querySelector('.rn-stage');
                return stage?.dataset.painted?.endsWith(':photo')
                    && stage.querySelector('.rn-status').textContent === '';
            })""",
        timeout=timeout,
    )
    wait_ready(page, timeout)


STAGE = ".rn-stage"  # Playwright's CSS sees through open shadow roots


def slider(page, key: str):
    """The range input of a Streamlit slider."""
    return page.locator(f".st-key-{key} input[type=range]")
