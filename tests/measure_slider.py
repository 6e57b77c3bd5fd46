"""How long from a slider's key press to the painted boxes, in headless Chromium.

`python -m tests.measure_slider [URL]`: starts the app unless a running one is named. Not a test:
the number depends on the machine and on what else it does.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.browser import STAGE, browsing, serving, slider, wait_live

MOVES = 24
ARM = """(stage) => {
    const before = stage.dataset.painted;
    let pressed = null;
    window.elapsed = undefined;
    addEventListener('keydown', () => { pressed = performance.now(); },
                     { capture: true, once: true });
    const observer = new MutationObserver(() => {
        if (pressed === null || stage.dataset.painted === before) return;
        observer.disconnect();
        requestAnimationFrame(() => {  // the frame after the one that drew is on screen
            const channel = new MessageChannel();
            channel.port1.onmessage = () => { window.elapsed = performance.now() - pressed; };
            channel.port2.postMessage(0);
        });
    });
    observer.observe(stage, { attributes: true });
    setTimeout(() => { observer.disconnect(); window.elapsed ??= null; }, 3000);
}"""


def measure(address: str) -> list[float]:
    """Milliseconds per move; a move that changes no box is left out."""
    times = []
    with browsing(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"{address}/?score_thresh=0.05&nms_thresh=0.5")
        wait_live(page)
        slider(page, "detections_per_img").focus()
        for move in range(MOVES):
            page.locator(STAGE).evaluate(ARM)
            page.keyboard.press("ArrowLeft" if move % 2 else "ArrowRight")
            page.wait_for_function("window.elapsed !== undefined")
            elapsed = page.evaluate("window.elapsed")
            if elapsed is not None:
                times.append(elapsed)
            time.sleep(0.6)
    return times[2:]  # the first two warm up


def main() -> None:
    """Measure and print."""
    if len(sys.argv) > 1:
        times = measure(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log.txt") as address:
            times = measure(address)
    low, *_, high = sorted(times)
    print(f"{len(times)} moves: median {statistics.median(times):.0f} ms, {low:.0f} to {high:.0f}")


if __name__ == "__main__":
    main()
