"""How quickly the workbench answers a hand, in headless Chromium.

`python -m tests.measure_slider [URL]`: starts the app unless a running one is named. Not a test:
the numbers depend on the machine and on what else it does.

- drag: a slider moved anew in each frame for two seconds; the time from frame to frame.
- release: a key press on a slider until the preview is painted, and until the core's own answer is.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.browser import STAGE, browsing, knob, link, serving, wait_live

MOVES = 24
PAGES = {
    "embedded model's own size": {"photo": "motorcycle", "score_thresh": "0.01"},
    "800x1333": {
        "photo": "motorcycle",
        "score_thresh": "0.01",
        "min_size": "800",
        "max_size": "1333",
    },
}
DRAG = """async ([stage, slider]) => {
    const times = [];
    const low = Number(slider.min), high = Number(slider.max);
    slider.dispatchEvent(new PointerEvent('pointerdown', { bubbles: true, composed: true }));
    const start = performance.now();
    await new Promise((done) => {
        const frame = (now) => {
            times.push(now);
            const turn = (now - start) / 2000;
            if (turn > 1) return done();
            slider.value = low + (high - low) * (0.01 + 0.5 * Math.abs(Math.sin(6 * turn)));
            slider.dispatchEvent(new Event('input', { bubbles: true }));
            requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
    });
    dispatchEvent(new PointerEvent('pointerup'));
    slider.dispatchEvent(new Event('change', { bubbles: true }));
    return times.slice(1).map((time, i) => time - times[i]);
}"""
# The frame after the one that drew is on screen.
PRESS = """([stage, slider, key]) => new Promise((done) => {
    const before = stage.dataset.painted;
    const result = { live: null, core: null };
    const start = performance.now();
    const seen = (name) => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => {
            result[name] ??= performance.now() - start;
            if (result.core !== null) done(result);
        };
        channel.port2.postMessage(0);
    });
    const observer = new MutationObserver(() => {
        if (stage.dataset.live !== '') seen('live');
        if (stage.dataset.painted !== before) { observer.disconnect(); seen('core'); }
    });
    observer.observe(stage, { attributes: true });
    setTimeout(() => { observer.disconnect(); done(result); }, 3000);
    slider.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
})"""


def handles(page, name: str) -> list:
    """The stage and a knob's slider, for a script in the page."""
    return [page.locator(STAGE).element_handle(), knob(page, name).element_handle()]


def measure_drag(page) -> None:
    """Frames while score_thresh and nms_thresh are dragged."""
    for name in ("score_thresh", "nms_thresh"):
        frames = sorted(page.evaluate(DRAG, handles(page, name)))
        p95 = frames[int(0.95 * len(frames))]
        print(
            f"  drag {name}: {len(frames)} frames, median {statistics.median(frames):.1f} ms, "
            f"p95 {p95:.1f} ms, worst {frames[-1]:.1f} ms"
        )
        wait_live(page)


def measure_release(page) -> None:
    """Milliseconds from key press to paint."""
    answers = []
    for move in range(MOVES):
        key = "ArrowLeft" if move % 2 else "ArrowRight"
        answers.append(page.evaluate(PRESS, [*handles(page, "detections_per_img"), key]))
        time.sleep(0.5)
    for name, words in (("live", "preview painted"), ("core", "core's answer painted")):
        times = sorted(one[name] for one in answers[2:] if one[name] is not None)
        print(
            f"  release: {words}, {len(times)} moves, median {statistics.median(times):.0f} ms, "
            f"{times[0]:.0f} to {times[-1]:.0f}"
        )


def measure(address: str) -> None:
    """Both, at the embedded model's size and at 800x1333."""
    with browsing(viewport={"width": 1280, "height": 900}) as context:
        for title, query in PAGES.items():
            page = context.new_page()
            page.goto(link(address, **query))
            wait_live(page, 240_000)
            print(title)
            measure_drag(page)
            measure_release(page)
            page.close()


def main() -> None:
    """Measure and print."""
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log.txt") as address:
        measure(address)


if __name__ == "__main__":
    main()
