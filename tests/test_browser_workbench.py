"""The workbench driven by hand: every control, every question, links opened cold.

What the page shows is compared with what the core says in this process.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from pages._shared.stored import START
from retinanet import checkpoints
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.presets import PRESETS
from retinanet.rounds import nms_rounds
from retinanet.samples import load_sample
from retinanet.whynot import why_not
from tests.browser import (
    LOW,
    SPEC,
    STAGE,
    expected,
    knob,
    knob_value,
    link,
    listed_boxes,
    wait_for_boxes,
    wait_live,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
    ),
]
PHOTO = {"photo": "motorcycle", "score_thresh": "0.1", "nms_thresh": "0.5"}
AT = PostprocessConfig(0.1, 0.5, START.topk_candidates, START.detections_per_img)


@pytest.fixture
def bench(page, address):
    """The workbench with many boxes."""
    page.goto(link(address, **PHOTO))
    wait_live(page)
    return page


def answer(page):
    return page.locator(".rn-answer")


def painted(page) -> str:
    return page.locator(STAGE).get_attribute("data-painted")


def wait_for_new_paint(page, before: str) -> None:
    """Until the core's answer to a release has been painted."""
    page.wait_for_selector(f'{STAGE}:not([data-painted="{before}"])')
    wait_live(page)


def set_value(page, name: str, value) -> None:
    before = painted(page)
    knob_value(page, name).fill(str(value))
    knob_value(page, name).press("Enter")
    wait_for_new_paint(page, before)


def funnel(page) -> list[list[str]]:
    """The cells of the funnel, a row for all levels and one for each."""
    rows = page.locator(".rn-funnel tbody tr")
    return [rows.nth(i).locator("td").all_text_contents() for i in range(rows.count())]


def choose_mode(page, name: str) -> None:
    page.locator(f".rn-modes [data-choice={name}]").click()
    page.locator(f".rn-modes [data-choice={name}][aria-pressed=true]").wait_for()


def to_stage(page, x: float, y: float) -> tuple[float, float]:
    """A point of the photo, in pixels of the window."""
    left, top, scale = map(float, page.locator(STAGE).get_attribute("data-view").split(","))
    area = page.locator(STAGE).bounding_box()
    return area["x"] + left + scale * x, area["y"] + top + scale * y


# ------------------------------------------------------------------ the knobs


def drag_to(page, name: str, value: float) -> None:
    """Move the pressed mouse along a slider that goes from 0 to 1."""
    track = knob(page, name).bounding_box()
    x = track["x"] + 7 + value * (track["width"] - 14)
    page.mouse.move(x, track["y"] + track["height"] / 2)


def test_a_drag_is_answered_by_the_browser_and_settled_by_the_core(page, address, core):
    messages: list[float] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda _: messages.append(1)))
    page.goto(link(address, **PHOTO))
    wait_live(page)
    page.wait_for_timeout(500)  # the panels have followed
    image, stamp = load_sample("motorcycle"), painted(page)
    drag_to(page, "score_thresh", 0.1)
    page.mouse.down()
    messages.clear()
    for value in (0.15, 0.2, 0.3, 0.22):
        drag_to(page, "score_thresh", value)
        page.wait_for_selector(f"{STAGE}:not([data-live=''])")
        page.wait_for_timeout(100)
        shown = float(knob_value(page, "score_thresh").input_value())
        trace = core.detect(image, SPEC, PostprocessConfig(shown, detections_per_img=100))
        assert funnel(page)[0][-1] == f"{len(trace):,}"
        assert (
            funnel(page)[0][1] == f"{sum(trace.counts.values()) - trace.counts['below_thresh']:,}"
        )
    assert messages == [] and painted(page) == stamp  # the core has not been asked
    page.mouse.up()
    wait_for_new_paint(page, stamp)
    wait_for_boxes(page, expected(core, image, PostprocessConfig(shown, detections_per_img=100)))
    assert page.locator(STAGE).get_attribute("data-agrees") == "true"


def test_a_drag_that_ends_where_it_began_settles(bench, core):
    drag_to(bench, "nms_thresh", 0.5)
    bench.mouse.down()
    for value in (0.7, 0.5):
        drag_to(bench, "nms_thresh", value)
        bench.wait_for_timeout(100)
    bench.mouse.up()
    bench.wait_for_selector(f"{STAGE}[data-live='']")
    wait_for_boxes(bench, expected(core, load_sample("motorcycle"), AT))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_thresh", 0.2),
        ("nms_thresh", 0.25),
        ("topk_candidates", 7),
        ("detections_per_img", 9),
    ],
)
def test_each_knob_gives_what_the_core_gives(bench, core, name, value):
    before = funnel(bench)
    set_value(bench, name, value)
    config = PostprocessConfig.from_dict({**AT.to_dict(), name: value})
    wait_for_boxes(bench, expected(core, load_sample("motorcycle"), config))
    trace = core.detect(load_sample("motorcycle"), SPEC, config)
    shown = funnel(bench)
    assert shown != before
    assert shown[0][-1] == f"{trace.counts['kept']:,}"
    for row, counts in zip(shown[1:], trace.counts_per_level.values(), strict=True):
        assert row[0] == f"{sum(counts.values()):,}" and row[-1] == f"{counts['kept']:,}"
    bench.wait_for_url(f"**{name}={value}**")


@pytest.mark.parametrize(
    "name", ["score_thresh", "nms_thresh", "topk_candidates", "detections_per_img"]
)
def test_keys_step_each_slider(bench, name):
    value = knob_value(bench, name)
    seen = [value.input_value()]
    knob(bench, name).focus()
    for key in ("ArrowRight", "ArrowLeft", "PageDown", "Home", "End"):
        bench.keyboard.press(key)
        seen.append(value.input_value())
    assert float(seen[1]) > float(seen[0]) == float(seen[2])
    assert float(seen[4]) < float(seen[0]) < float(seen[5])
    wait_live(bench)


def test_a_bad_number_is_put_right(bench):
    for typed, shown in (("7", "1.00"), ("-3", "0.00")):
        set_value(bench, "nms_thresh", typed)
        assert knob_value(bench, "nms_thresh").input_value() == shown
    knob_value(bench, "nms_thresh").fill("")
    knob_value(bench, "nms_thresh").press("Enter")
    assert knob_value(bench, "nms_thresh").input_value() == "0.00"


def test_presets_set_every_knob(bench, core):
    for preset in PRESETS:
        if preset.config.score_thresh < 0.05:
            continue  # hundreds of boxes to list: the others show the same
        before = painted(bench)
        bench.locator(".rn-preset").select_option(preset.name)
        wait_for_new_paint(bench, before)
        for name in ("score_thresh", "nms_thresh", "topk_candidates", "detections_per_img"):
            shown = float(knob_value(bench, name).input_value())
            assert shown == getattr(preset.config, name)
        assert bench.locator(".rn-purpose").inner_text() == preset.purpose
        wait_for_boxes(bench, expected(core, load_sample("motorcycle"), preset.config))


def test_a_threshold_of_one_class(bench, core):
    image = load_sample("motorcycle")
    trace = core.detect(image, SPEC, AT)
    label = int(trace.labels[0])
    bench.locator(".rn-classes summary").click()
    name = f"class {label}"
    value = round(float(trace.scores[0]) - 0.02, 2)
    set_value(bench, name, value)
    config = PostprocessConfig(0.1, detections_per_img=100, class_score_thresh={label: value})
    wait_for_boxes(bench, expected(core, image, config))
    bench.wait_for_url("**class_score_thresh=**")
    before = painted(bench)
    bench.locator(f"[data-knob='{name}'] .rn-reset").click()
    wait_for_new_paint(bench, before)
    wait_for_boxes(bench, expected(core, image, AT))


@pytest.mark.parametrize(
    ("name", "value"),
    [("fg_iou_thresh", 0.7), ("bg_iou_thresh", 0.2), ("alpha", 0.5), ("gamma", 0)],
)
def test_training_knobs_say_that_the_boxes_stay(bench, core, name, value):
    bench.locator(".rn-training summary").click()
    note = bench.locator(".rn-training .rn-note")
    before = note.inner_text()
    set_value(bench, name, value)
    assert "changes training only, and none of the boxes" in note.inner_text()
    assert note.inner_text() != before
    wait_for_boxes(bench, expected(core, load_sample("motorcycle"), AT))


def test_colours_mean_what_the_line_below_says(bench):
    before = painted(bench)
    bench.locator(".rn-colors [data-choice=level]").click()
    wait_for_new_paint(bench, before)
    bench.locator(".rn-legend", has_text="pyramid level").wait_for()
    bench.wait_for_url("**color=level**")


# ------------------------------------------------------------------ the funnel


@pytest.mark.parametrize("stage", ["all", "above", "topk", "nms"])
def test_a_step_of_the_funnel_shows_its_boxes_and_closes_again(bench, core, stage):
    trace = core.detect(load_sample("motorcycle"), SPEC, AT)
    before = painted(bench)
    button = bench.locator(f".rn-funnel [data-stage={stage}]")
    button.click()
    wait_for_new_paint(bench, before)
    legend = bench.locator(".rn-legend", has_text="what became of the pair")
    legend.wait_for()
    words = legend.inner_text()
    assert f"kept ({len(trace)})" in words
    assert f"over detections_per_img ({trace.counts['over_limit']:,})" in words
    assert ("suppressed by NMS" in words) == (stage != "nms")
    assert ("below score_thresh" in words) == (stage == "all")
    bench.wait_for_url(f"**stage={stage}**")
    before = painted(bench)
    button.click()
    wait_for_new_paint(bench, before)
    bench.locator(".rn-legend", has_text="Colour: the category").wait_for()


# ------------------------------------------------------------------ the questions


def test_a_clicked_box_tells_its_life_at_three_depths(bench, core):
    trace = core.detect(load_sample("motorcycle"), SPEC, AT)
    bench.locator(STAGE).focus()
    bench.keyboard.press("n")
    answer(bench).get_by_text("Kept, as number 1 after NMS").wait_for()
    for depth, sign in (
        ("numbers", "rank in level"),
        ("formula", "score = 1 / (1 + exp(-("),
        ("source", "def decode"),
    ):
        part = answer(bench).locator(f"[data-depth={depth}]")
        part.locator("summary").click()
        assert sign in part.inner_text()
    strip = bench.locator("[data-knob=score_thresh] .rn-strip .kept")
    assert f"{float(trace.scores[0]):.4f}" in strip.get_attribute("title")
    answer(bench).locator("[data-key=let_go]").click()
    answer(bench).get_by_text("Click a box").wait_for()


def test_a_lesson_found_in_the_picture_holds(bench):
    answer(bench).locator("[data-depth=lesson] summary").click()
    first = answer(bench).locator("[data-key=lesson_0]")
    first.wait_for()
    name, kept_at = re.match(r"Set (\w+) to ([\d.]+)", first.inner_text()).groups()
    second = answer(bench).locator("[data-key=lesson_1]").inner_text()
    gone_at = re.match(r"Set \w+ to ([\d.]+)", second).group(1)
    assert float(gone_at) > float(kept_at)
    steps = (("lesson_0", kept_at, "Kept, as"), ("lesson_1", gone_at, "Suppressed"))
    for key, value, fate in steps:
        answer(bench).locator(f"[data-key={key}]").click()
        answer(bench).get_by_text(fate).first.wait_for()
        assert float(knob_value(bench, name).input_value()) == float(value)
        if key == "lesson_0":  # the answer has been drawn anew: its second button is another one
            answer(bench).locator("[data-key=lesson_1]").wait_for()


def test_why_not_is_answered_and_mended(page, address, core):
    page.goto(link(address, photo="coffee"))
    wait_live(page)
    choose_mode(page, "whynot")
    image = load_sample("coffee")
    outputs = core.outputs(image, SPEC)
    label = [outputs.category_name(i) for i in range(outputs.num_classes)].index("cup")
    config = detect(outputs, START).config
    spot = (173.0, 18.0, 408.0, 309.0)
    page.mouse.move(*to_stage(page, *spot[:2]))
    page.mouse.down()
    page.mouse.move(*to_stage(page, 300, 200))
    page.mouse.move(*to_stage(page, *spot[2:]))
    page.mouse.up()
    page.wait_for_url("**why=**")
    answer(page).locator("select").select_option(str(outputs.num_classes - 1))
    page.wait_for_url("**why_class=**")
    label = outputs.num_classes - 1
    corners = re.search(r"why=([^&]+)", page.url).group(1).replace("%2C", ",").split(",")
    drawn = [float(v) for v in corners]
    np.testing.assert_allclose(drawn, spot, atol=3)
    inquest = why_not(outputs, drawn, label, config)
    assert inquest.fix is not None
    fix = answer(page).locator("[data-key=fix_0]")
    fix.wait_for()
    assert "Missed" in answer(page).inner_text()
    answer(page).locator("[data-depth=numbers] summary").click()
    assert "IoU" in answer(page).inner_text()
    before = painted(page)
    fix.click()
    wait_for_new_paint(page, before)
    answer(page).get_by_text("Found").first.wait_for()
    mended = replace(START, **inquest.fix["changes"])
    wait_for_boxes(page, expected(core, image, mended))
    found = inquest.fix["detection"]["box"]
    shown = listed_boxes(page)
    assert np.abs(shown - np.array(found)).max(axis=1).min() < 0.5
    page.keyboard.press("Escape")


def test_nms_is_told_round_by_round(bench, core):
    trace = core.detect(load_sample("motorcycle"), SPEC, AT)
    rounds = nms_rounds(trace)
    choose_mode(bench, "nms")
    stage = bench.locator(STAGE)

    def sentence(number: int) -> tuple[str, str]:
        gone = int(rounds[number].removed.sum())
        return f"Round {number + 1} of {len(rounds):,}: take the best", f"{gone} overlap"

    for number in (0, 1, 2):
        bench.wait_for_selector(f'{STAGE}[data-round="{number}"]')
        for part in sentence(number):
            assert part in answer(bench).inner_text()
        answer(bench).locator("[data-key=next]").click()
    scrub = answer(bench).locator(".rn-scrub")
    scrub.fill(str(len(rounds) - 1))
    assert stage.get_attribute("data-round") == str(len(rounds) - 1)
    answer(bench).locator("[data-key=previous]").click()
    assert stage.get_attribute("data-round") == str(len(rounds) - 2)
    scrub.fill("0")
    answer(bench).locator("[data-key=play]").click()
    bench.wait_for_selector(f'{STAGE}[data-round="2"]')
    answer(bench).locator("[data-key=play]").click()
    assert answer(bench).locator("[data-key=play]").inner_text() == "Play"


def test_pinned_settings_are_compared(bench, core):
    choose_mode(bench, "compare")
    answer(bench).locator("[data-key=pin]").click()
    answer(bench).get_by_text("0 gained, 0 lost, 0 moved, 0 relabelled").wait_for()
    set_value(bench, "score_thresh", 0.3)
    image = load_sample("motorcycle")
    lost = len(core.detect(image, SPEC, AT)) - len(
        core.detect(image, SPEC, PostprocessConfig(0.3, detections_per_img=100))
    )
    change = answer(bench).locator(".rn-change[data-kind=lost]")
    change.first.wait_for()
    assert "score_thresh" in change.first.inner_text()
    kinds = answer(bench).locator(".rn-change").evaluate_all("all => all.map(x => x.dataset.kind)")
    assert kinds.count("lost") - kinds.count("gained") == lost
    assert "pin=" in bench.url
    answer(bench).locator("[data-key=unpin]").click()
    answer(bench).get_by_text("Pin the present model and settings").wait_for()


# ------------------------------------------------------------------ hands


def test_hover_and_wheel_on_the_stage(bench):
    x1, y1, x2, y2 = listed_boxes(bench)[0]
    bench.mouse.move(*to_stage(bench, (x1 + x2) / 2, (y1 + y2) / 2))
    bench.wait_for_selector(".rn-tip:not([hidden])")
    assert "score" in bench.locator(".rn-tip").inner_text()
    bench.keyboard.down("Control")
    bench.mouse.wheel(0, -400)
    bench.keyboard.up("Control")
    bench.wait_for_selector(f"{STAGE}.zoomed")
    bench.get_by_role("button", name="Whole picture").click()
    bench.wait_for_selector(f"{STAGE}:not(.zoomed)")


def test_only_the_first_button_selects(bench):
    x1, y1, x2, y2 = listed_boxes(bench)[0]
    bench.mouse.click(*to_stage(bench, (x1 + x2) / 2, (y1 + y2) / 2), button="right")
    bench.wait_for_timeout(300)
    assert "Click a box" in answer(bench).inner_text()


PINCH = """(stage) => {
    const area = stage.getBoundingClientRect();
    const [x, y] = [area.x + area.width / 2, area.y + area.height / 2];
    const touch = (type, id, dx) => stage.dispatchEvent(new PointerEvent(type, {
        pointerId: id, pointerType: 'touch', clientX: x + dx, clientY: y, bubbles: true }));
    stage.setPointerCapture = () => {};  // a made-up pointer cannot be captured
    touch('pointerdown', 11, -40); touch('pointerdown', 12, 40);
    for (let gap = 50; gap <= 120; gap += 10) {
        touch('pointermove', 11, -gap); touch('pointermove', 12, gap);
    }
    touch('pointerup', 11, -120); touch('pointerup', 12, 120);
}"""


def test_a_pinch_zooms(bench):
    before = bench.locator(STAGE).get_attribute("data-view")
    bench.locator(STAGE).evaluate(PINCH)
    bench.wait_for_selector(f'{STAGE}.zoomed:not([data-view="{before}"])')  # drawn so
    after = bench.locator(STAGE).get_attribute("data-view")
    assert float(after.split(",")[2]) > 2 * float(before.split(",")[2])


# ------------------------------------------------------------------ links


def test_a_link_opened_cold_restores_everything(bench):
    set_value(bench, "nms_thresh", 0.35)
    bench.locator(".rn-funnel [data-stage=topk]").click()
    choose_mode(bench, "compare")
    answer(bench).locator("[data-key=pin]").click()
    answer(bench).get_by_text("0 gained").wait_for()
    set_value(bench, "detections_per_img", 12)
    answer(bench).locator(".rn-change").first.wait_for()
    bench.wait_for_url("**detections_per_img=12**")
    bench.wait_for_url("**pin=**")
    words = answer(bench).inner_text()
    boxes, shown = listed_boxes(bench), funnel(bench)
    with_address = bench.url
    # A browser that has never been here. (A context of its own: Playwright runs one browser here.)
    fresh = bench.context.browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = fresh.new_page()
        page.goto(with_address)
        wait_live(page)
        answer(page).locator(".rn-change").first.wait_for()
        assert answer(page).inner_text() == words
        assert funnel(page) == shown
        np.testing.assert_array_equal(listed_boxes(page), boxes)
        assert knob_value(page, "nms_thresh").input_value() == "0.35"
        assert page.locator(".rn-funnel [data-stage=topk]").get_attribute("aria-pressed") == "true"
    finally:
        fresh.close()


def test_another_page_and_back_keeps_photo_and_view(page, address):
    page.goto(link(address, photo="rocket", score_thresh="0.1", stage="topk"))
    wait_live(page)
    page.locator(STAGE).evaluate("(stage) => { stage.dataset.mine = 'yes'; }")
    page.get_by_role("link", name="About the model").click()
    page.get_by_role("heading", name="About the model").wait_for()
    page.get_by_role("link", name="Detect").click()
    page.locator(f'{STAGE}[aria-label^="Rocket"]').wait_for()
    wait_live(page)
    assert knob_value(page, "score_thresh").input_value() == "0.10"
    assert page.locator(".rn-funnel [data-stage=topk]").get_attribute("aria-pressed") == "true"
    page.wait_for_url("**photo=rocket**")


def test_back_goes_a_step_back(bench, core):
    set_value(bench, "score_thresh", 0.3)
    set_value(bench, "nms_thresh", 0.4)
    bench.wait_for_url("**nms_thresh=0.4**")
    set_value(bench, "nms_thresh", 0.2)
    bench.wait_for_url("**nms_thresh=0.2**")
    bench.go_back()
    config = PostprocessConfig(0.3, 0.4, detections_per_img=100)
    wait_for_boxes(bench, expected(core, load_sample("motorcycle"), config))
    assert knob_value(bench, "nms_thresh").input_value() == "0.40"


def test_the_workbench_stays_when_the_photo_changes(bench):
    bench.locator(".rn-classes summary").click()
    bench.locator(STAGE).evaluate("(stage) => { stage.dataset.mine = 'yes'; }")
    bench.get_by_role("button", name=re.compile("Rocket")).click()
    bench.locator(f'{STAGE}[aria-label^="Rocket"]').wait_for()
    wait_live(bench)
    assert bench.locator(STAGE).get_attribute("data-mine") == "yes"
    assert bench.locator(".rn-classes").evaluate("(details) => details.open")


def test_a_phone_has_everything_in_one_column(address, context):
    phone = context.browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    try:
        page = phone.new_page()
        page.goto(link(address, photo="cat", **LOW))
        wait_live(page)
        for place in (".rn-stage", ".rn-main-knobs", ".rn-story"):
            box = page.locator(place).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390, place
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        phone.close()
