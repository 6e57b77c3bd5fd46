"""A server on a free port and a headless Chromium, for the browser tests and for measuring."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

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
    """Until the canvas shows the photo with the core's whole result: no message lies over it."""
    from playwright.sync_api import TimeoutError as TooLong

    try:
        _wait_live(page, timeout)
    except TooLong as late:
        raise AssertionError(f"the stage did not come alive: {_state_of(page)}") from late
    wait_ready(page, timeout)


def _state_of(page) -> str:
    """What a stage that does not come alive says of itself."""
    told = page.evaluate(
        """() => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
            .map((host) => host.shadowRoot?.querySelector('.rn-stage')).filter(Boolean)
            .map((stage) => [{...stage.dataset}, stage.querySelector('.rn-status').textContent])"""
    )
    faults = page.locator("[data-testid=stException]").all_text_contents()
    return f"{page.url} {told} {faults}"


def _wait_live(page, timeout: float) -> None:
    page.wait_for_function(
        """() => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')].some(
            (host) => {
                const stage = host.shadowRoot?.querySelector('.rn-stage');
                return stage?.dataset.painted?.endsWith(':photo') && stage.dataset.live === ''
                    && !stage.dataset.more
                    && stage.querySelector('.rn-status').textContent === '';
            })""",
        timeout=timeout,
    )


ANCHOR_SIZES = tuple(
    (size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in (32, 64, 128, 256, 512)
)  # of torchvision's retinanet_resnet50_fpn

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


# ------------------------------------------------------------------ the pages that look inside


def open_page(page, address: str, path: str, **query: str) -> None:
    """A page of the app by its own address, until its stage shows what the core says."""
    page.goto(f"{address}/{path}?{urlencode(query)}")
    wait_live(page)


def listen_for_errors(page) -> list[str]:
    """What goes wrong in the browser from now on, as it is logged."""
    found: list[str] = []

    def logged(said) -> None:
        # On a page's own address Streamlit first looks for its server below that address.
        is_probe = "/_stcore/" in said.location["url"] and "404" in said.text
        if said.type == "error" and not is_probe:
            found.append(f"{said.text} ({said.location['url']})")

    page.on("console", logged)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def to_stage(page, x: float, y: float) -> tuple[float, float]:
    """A point of the photo, in pixels of the window."""
    left, top, scale = map(float, page.locator(STAGE).get_attribute("data-view").split(","))
    area = page.locator(STAGE).bounding_box()
    return area["x"] + left + scale * x, area["y"] + top + scale * y


def click_photo(page, x: float, y: float) -> None:
    """Click a point of the photo and wait for the core's answer."""
    page.locator(STAGE).scroll_into_view_if_needed()
    page.mouse.click(*to_stage(page, x, y))
    wait_live(page)


def press_and_move(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag on the photo without letting go."""
    page.locator(STAGE).scroll_into_view_if_needed()
    page.mouse.move(*to_stage(page, *start))
    page.mouse.down()
    page.mouse.move(*to_stage(page, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    page.mouse.move(*to_stage(page, *end))


def drag_photo(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag on the photo, let go, and wait for the core's answer."""
    press_and_move(page, start, end)
    page.mouse.up()
    wait_live(page)


def press_key(page, key: str) -> None:
    """Press a key on the stage and wait for the core's answer."""
    page.locator(STAGE).focus()
    page.keyboard.press(key)
    wait_live(page)


SLIDE = """(slider, position) => {
    slider.value = position;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
}"""


def slide(page, name: str, position: float) -> None:
    """Move a slider as a hand does that has not let go yet."""
    knob(page, name).evaluate(SLIDE, position)
    page.wait_for_selector(f"{STAGE}[data-live=live]")
    # It was live before, where the hand had moved before: what it shows comes with the next frame.
    page.evaluate(
        "() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
    )


def let_go(page, name: str) -> None:
    """Release a slider and wait for the core's answer."""
    knob(page, name).evaluate("(slider) => slider.dispatchEvent(new Event('change'))")
    wait_live(page)


def listed_objects(page) -> list[tuple[str, list[float]]]:
    """The ground truth that the stage lists for screen readers: names and corners."""
    found = []
    for text in page.locator(".rn-list li").all_text_contents():
        words, corners = text.split(", corners ")
        found.append((words.split(",")[0], [float(v) for v in corners.split()]))
    return found


def level_table(page) -> list[list[str]]:
    """The cells of the table by level: a row for all levels and one for each."""
    rows = page.locator(".rn-funnel tbody tr").all()
    return [row.locator("td").all_text_contents() for row in rows]


def assert_agrees(page) -> None:
    """The browser's copy of the core has come to what the core says."""
    assert page.locator(STAGE).get_attribute("data-agrees") == "true"


def torchvision_anchors(
    size: tuple[int, int], sizes: tuple[int, int], cells=ANCHOR_SIZES, ratios=(0.5, 1.0, 2.0)
) -> tuple[list[torch.Tensor], Callable]:
    """torchvision's anchors of a picture per level, and what brings boxes to their pixels.

    Args:
        size: of the picture, (width, height).
        sizes: min_size and max_size of the network's input.
        cells: per level the square roots of the anchors' areas.
        ratios: height / width.
    """
    transform = GeneralizedRCNNTransform(*sizes, [0.0] * 3, [1.0] * 3)
    blank = torch.zeros(3, size[1], size[0])
    batch, _ = transform([blank])
    height, width = batch.tensors.shape[-2:]
    maps = [torch.zeros(1, 1, -(-height // 2**k), -(-width // 2**k)) for k in range(3, 8)]
    generator = AnchorGenerator(cells, (tuple(ratios),) * len(cells))
    counts = [m.shape[-2] * m.shape[-1] * len(cells[0]) * len(ratios) for m in maps]

    def resized(boxes) -> torch.Tensor:
        target = {"boxes": torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)}
        return transform([blank], [target])[1][0]["boxes"]

    return list(generator(batch, maps)[0].split(counts)), resized


def torchvision_match(anchors, boxes: torch.Tensor, high=0.5, low=0.4, low_quality=True):
    """What torchvision's matcher makes of anchors: [A] the object, -1 background, -2 ignored."""
    anchors = torch.cat(anchors)
    if not len(boxes):
        return torch.full((len(anchors),), -1)
    return Matcher(high, low, low_quality)(box_iou(boxes, anchors))
