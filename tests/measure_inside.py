"""How quickly the pages that look inside answer a hand, in headless Chromium.

`python -m tests.measure_inside [URL]`: starts the app unless a running one is named. Not a test:
the numbers depend on the machine and on what else it does.

- drag: a slider moved anew in each frame for two seconds; the time from frame to frame.
- release: a key press on a slider until the preview is painted, and until the core's own answer is.
- switch: a click in the navigation until the other page's picture is painted; the picture and what
  the network says of it are cached.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from retinanet.checkpoints import open_checkpoint
from retinanet.layout import layout_of
from retinanet.samples import load_sample
from tests.browser import browsing, serving, wait_live
from tests.measure_slider import DRAG, PRESS, handles

PHOTO = "motorcycle"
MOVES = 24
WARM_UP = 2
ROUNDS = 5
SETTLE_SECONDS = 0.6
"""After an answer the tabs are redrawn; the next move is not to wait for them."""

LARGE = {"min_size": 800, "max_size": 1333}
KNOBS = {"anchors": ("bg_iou_thresh", "fg_iou_thresh"), "focal_loss": ("alpha", "gamma")}
ROUTE = ("Focal loss", "Feature pyramid", "Anchors", "Detect", "Anchors")
"""The pages in the order in which they are opened, from Anchors and back to it."""

SWITCH = """([before, link]) => new Promise((done) => {
    const start = performance.now();
    const isShown = (host) => {
        const stage = host.shadowRoot?.querySelector('.rn-stage');
        return stage && stage !== before && stage.dataset.painted?.endsWith(':photo')
            && stage.dataset.live === '' && stage.querySelector('.rn-status').textContent === '';
    };
    const look = () => {
        const hosts = document.querySelectorAll('[data-testid=stBidiComponentIsolated]');
        if ([...hosts].some(isShown)) return done(performance.now() - start);
        if (performance.now() - start > 30000) return done(null);
        requestAnimationFrame(look);
    };
    link.click();
    requestAnimationFrame(look);
})"""
STAGE = ".rn-stage"


def page_link(address: str, path: str, size: dict[str, int]) -> str:
    """A page of the app with the sample photo, at an input size."""
    return f"{address}/{path}?" + urlencode({"photo": PHOTO, **size})


def row(words: str, times: Sequence[float], note: str = "") -> None:
    """One line of the table."""
    ordered = sorted(times)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(
        f"  {words:<44} {ordered[0]:8.1f} {statistics.median(ordered):8.1f} {p95:8.1f}"
        f" {ordered[-1]:8.1f} ms"
        f"  {len(ordered):4d} {note}",
        flush=True,
    )


def measure_drag(page, name: str) -> None:
    """Frames while a knob is dragged."""
    frames = page.evaluate(DRAG, handles(page, name))
    row(f"drag {name}, frame", frames, f"{1000 / statistics.mean(frames):.0f} frames per second")
    wait_live(page)
    time.sleep(SETTLE_SECONDS)


def measure_release(page, name: str) -> None:
    """From key press to paint."""
    answers = []
    for move in range(MOVES + WARM_UP):
        key = "ArrowLeft" if move % 2 else "ArrowRight"
        answers.append(page.evaluate(PRESS, [*handles(page, name), key]))
        wait_live(page)
        time.sleep(SETTLE_SECONDS)
    for kind, words in (("live", "preview painted"), ("core", "core's answer painted")):
        times = [one[kind] for one in answers[WARM_UP:] if one[kind] is not None]
        if times:
            row(f"release {name}, {words}", times)
        if len(times) < MOVES:
            print(f"  release {name}: {words} in {len(times)} of {MOVES} moves only")


def measure_switch(page) -> None:
    """From a click in the navigation to the other page's picture."""
    times: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    for turn in range(ROUNDS + 1):
        came_from = "Anchors"
        for title in ROUTE:
            before = page.locator(STAGE).element_handle()
            link = page.get_by_role("link", name=title, exact=True).first.element_handle()
            took = page.evaluate(SWITCH, [before, link])
            way, came_from = f"{came_from} to {title}", title
            if took is None:
                print(f"  switch {way}: not painted within 30 s")
            elif turn == 0:
                first[way] = took
            else:
                times.setdefault(way, []).append(took)
            wait_live(page)
            time.sleep(SETTLE_SECONDS)
    for way, own in times.items():
        row(f"switch {way}", own, f"the first time {first.get(way, float('nan')):.0f} ms")


def measure_size(context, address: str, title: str, size: dict[str, int]) -> None:
    """Everything at one input size."""
    heads = "".join(f" {name:>8}" for name in ("least", "median", "p95", "worst"))
    print(f"{title:<46}{heads}    {'count':>5}", flush=True)
    for path, knobs in KNOBS.items():
        page = context.new_page()
        page.goto(page_link(address, path, size))
        wait_live(page, 240_000)
        time.sleep(2 * SETTLE_SECONDS)
        for name in knobs:
            measure_drag(page, name)
        for name in knobs:
            measure_release(page, name)
        page.close()
    page = context.new_page()
    page.goto(page_link(address, "anchors", size))
    wait_live(page, 240_000)
    time.sleep(2 * SETTLE_SECONDS)
    measure_switch(page)
    page.close()


def measure(address: str) -> None:
    """At the embedded model's size and at 800x1333."""
    embedded = open_checkpoint("embedded").config
    own = {"min_size": embedded.min_size, "max_size": embedded.max_size}
    width, height = load_sample(PHOTO).size
    with browsing(viewport={"width": 1280, "height": 900}) as context:
        for title, size, query in (
            ("embedded model's own size", own, {}),
            ("800x1333", LARGE, LARGE),
        ):
            anchors = layout_of((height, width), **size).num_anchors
            measure_size(context, address, f"{title}, {anchors:,} anchors", query)


def main() -> None:
    """Measure and print."""
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log.txt") as address:
        measure(address)


if __name__ == "__main__":
    main()
