"""Ground truth under a hand, in a browser: drawn, moved, named, removed; in the link."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from pages._shared.stored import START
from retinanet import checkpoints
from retinanet.samples import get_sample, load_sample
from retinanet.truth import parse_truth_text
from tests.browser import (
    SPEC,
    STAGE,
    assert_agrees,
    click_photo,
    drag_photo,
    listed_objects,
    listen_for_errors,
    open_page,
    press_and_move,
    press_key,
    wait_live,
    wait_ready,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
    ),
]
COFFEE = [(box.category, list(box.xyxy)) for box in get_sample("coffee").boxes]
CUP = COFFEE[0][1]
NEAR = 2.0  # pixels of the photo that a dragged mouse may be off


@pytest.fixture
def coffee(page, address):
    open_page(page, address, "anchors", photo="coffee")
    return page


def select(page, index: int) -> None:
    page.locator(f"[data-key=object_{index}]").click()
    wait_live(page)


def selected(page) -> int:
    """The object that the panel says is selected, -1 for none."""
    pressed = page.locator(".rn-objects button").evaluate_all(
        "all => all.findIndex((button) => button.getAttribute('aria-pressed') === 'true')"
    )
    return int(pressed)


def linked(url: str) -> list[tuple[str, list[float]]]:
    """The ground truth that an address tells."""
    text = parse_qs(urlsplit(url).query).get("truth", [""])[0]
    return [(one.category, list(one.box)) for one in parse_truth_text(text)]


def assert_linked(page) -> None:
    """The address comes to tell what the stage shows."""
    wanted = [
        (name, [pytest.approx(edge, abs=0.051) for edge in box])
        for name, box in listed_objects(page)
    ]
    page.wait_for_url(lambda url: linked(url) == wanted)


def wait_for_count(page, count: int) -> None:
    """Until the stage lists so many objects; for what the browser leaves to Python."""
    page.wait_for_function(
        """([count]) => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
            .some((host) => host.shadowRoot?.querySelectorAll('.rn-list li').length === count
                && host.shadowRoot.querySelector('.rn-stage'))""",
        arg=[count],
    )
    wait_live(page)


# ------------------------------------------------------------------ the hand on the stage


def test_an_object_is_added_and_a_place_asked_about_without_a_pointer(coffee):
    coffee.locator(STAGE).focus()
    coffee.keyboard.press("a")
    press_key(coffee, "Enter")
    objects = listed_objects(coffee)
    assert objects[:-1] == COFFEE
    assert objects[-1][1] == pytest.approx([200, 133.3, 400, 266.7], abs=NEAR)
    assert selected(coffee) == len(COFFEE)
    press_key(coffee, "Escape")
    press_key(coffee, "Enter")
    coffee.wait_for_url(lambda url: "point=300%2C200" in url)
    press_key(coffee, "Enter")  # the same closes again
    coffee.wait_for_url(lambda url: "point" not in url)


@pytest.mark.parametrize("way", ["button", "key"])
def test_an_object_is_added(coffee, way):
    if way == "key":
        coffee.locator(STAGE).focus()
        coffee.keyboard.press("a")
    else:
        coffee.locator("[data-key=add]").click()
    coffee.locator(f"{STAGE}.adding").wait_for()
    drag_photo(coffee, (450, 60), (560, 170))
    objects = listed_objects(coffee)
    assert objects[:-1] == COFFEE
    assert objects[-1][1] == pytest.approx([450, 60, 560, 170], abs=NEAR)
    assert selected(coffee) == len(COFFEE)
    assert_agrees(coffee)
    assert_linked(coffee)
    assert coffee.locator(f"{STAGE}.adding").count() == 0
    coffee.locator(".rn-truth p", has_text="drawn here").wait_for()


def test_an_object_drawn_backwards_and_beyond_the_edge(coffee):
    coffee.locator("[data-key=add]").click()
    drag_photo(coffee, (560, 330), (640, 395))  # beyond the right edge, at 600
    assert listed_objects(coffee)[-1][1] == pytest.approx([560, 330, 600, 395], abs=NEAR)
    coffee.locator("[data-key=add]").click()
    drag_photo(coffee, (500, 300), (430, 200))
    assert listed_objects(coffee)[-1][1] == pytest.approx([430, 200, 500, 300], abs=NEAR)


def test_an_object_is_moved(coffee):
    select(coffee, 0)
    drag_photo(coffee, (280, 150), (310, 190))
    wanted = [CUP[0] + 30, CUP[1] + 40, CUP[2] + 30, CUP[3] + 40]
    assert listed_objects(coffee)[0][1] == pytest.approx(wanted, abs=NEAR)
    drag_photo(coffee, (310, 190), (310, 395))  # stopped by the lower edge, at 400
    shown = listed_objects(coffee)[0][1]
    assert shown[3] == 400 and shown[3] - shown[1] == pytest.approx(CUP[3] - CUP[1], abs=0.11)
    assert_agrees(coffee)
    assert_linked(coffee)


HOLDS = {  # where a hand takes hold of the cup, where it goes, what that changes
    "left side": ((173, 160), (130, 200), {0: 130}),
    "lower side": ((290, 309), (300, 350), {3: 350}),
    "upper left corner": ((173, 18), (150, 40), {0: 150, 1: 40}),
    "lower right corner": ((408, 309), (380, 330), {2: 380, 3: 330}),
}


@pytest.mark.parametrize("name", list(HOLDS))
def test_an_object_is_resized(coffee, name):
    start, end, changes = HOLDS[name]
    select(coffee, 0)
    drag_photo(coffee, start, end)
    wanted = [changes.get(at, edge) for at, edge in enumerate(CUP)]
    assert listed_objects(coffee)[0][1] == pytest.approx(wanted, abs=NEAR)
    assert_agrees(coffee)
    assert_linked(coffee)


def test_a_side_cannot_be_dragged_across_the_other(coffee):
    select(coffee, 0)
    drag_photo(coffee, (CUP[0], 160), (550, 160))
    x1, _, x2, _ = listed_objects(coffee)[0][1]
    assert 0 < x2 - x1 <= 2.1 and x2 == CUP[2]
    assert_agrees(coffee)


def test_escape_lets_go(coffee):
    coffee.locator("[data-key=add]").click()
    coffee.locator(f"{STAGE}.adding").wait_for()
    press_key(coffee, "Escape")
    assert coffee.locator(f"{STAGE}.adding").count() == 0
    select(coffee, 1)
    press_key(coffee, "Escape")
    assert selected(coffee) == -1
    assert listed_objects(coffee) == COFFEE


# ------------------------------------------------------------------ the panel and the keys


def test_an_object_is_renamed(coffee):
    select(coffee, 0)
    field = coffee.get_by_label("category of the object")
    field.fill("wine glass: old")
    field.press("Enter")
    wait_live(coffee)
    assert listed_objects(coffee) == [("wine glass: old", CUP), *COFFEE[1:]]
    assert_linked(coffee)


def test_corners_are_typed(coffee):
    select(coffee, 0)
    for name, value in (("x1", 10), ("y1", 20), ("x2", 110), ("y2", 150)):
        field = coffee.get_by_label(f"{name} of the object, pixels")
        field.fill(str(value))
        field.press("Enter")
        wait_live(coffee)
    assert listed_objects(coffee)[0] == ("cup", [10, 20, 110, 150])
    assert_agrees(coffee)
    assert_linked(coffee)
    field = coffee.get_by_label("x1 of the object, pixels")
    field.fill("120")  # beyond x2
    field.press("Enter")
    assert field.input_value() == "10"
    assert listed_objects(coffee)[0] == ("cup", [10, 20, 110, 150])


@pytest.mark.parametrize("way", ["Delete", "Backspace", "button"])
def test_an_object_is_removed_and_brought_back(coffee, way):
    select(coffee, 1)
    if way == "button":
        coffee.locator("[data-key=remove]").click()
        wait_live(coffee)
    else:
        press_key(coffee, way)
    assert listed_objects(coffee) == [COFFEE[0], COFFEE[2]]
    assert selected(coffee) == -1
    assert_linked(coffee)
    coffee.locator("[data-key=undo]").click()
    wait_for_count(coffee, 3)
    assert listed_objects(coffee) == COFFEE
    coffee.wait_for_url(lambda url: "truth=" not in url)
    assert coffee.locator("[data-key=undo]").is_disabled()


def test_the_last_object_removed_stays_removed(page, address):
    open_page(page, address, "anchors", photo="astronaut")
    select(page, 0)
    press_key(page, "Delete")
    assert listed_objects(page) == []
    assert_agrees(page)
    page.locator(".rn-headline", has_text="none to learn from").wait_for()
    page.wait_for_url("**truth=*")
    page.reload()
    wait_live(page)
    assert listed_objects(page) == []  # the link says so


def test_undo_goes_back_step_by_step(coffee):
    steps = [listed_objects(coffee)]
    select(coffee, 0)
    for end in ((300, 170), (320, 190)):
        drag_photo(coffee, (end[0] - 20, end[1] - 20), end)
        steps.append(listed_objects(coffee))
    press_key(coffee, "Delete")
    for wanted in reversed(steps):
        coffee.locator(STAGE).focus()
        coffee.keyboard.press("u")
        coffee.wait_for_function(SHOWS, arg=[[text_of(one) for one in wanted]])
        wait_live(coffee)
        assert listed_objects(coffee) == wanted


def test_a_hand_may_undo_faster_than_the_answers_come(coffee):
    select(coffee, 0)
    for end in ((300, 170), (320, 190)):
        drag_photo(coffee, (end[0] - 20, end[1] - 20), end)
    coffee.locator(STAGE).focus()
    coffee.keyboard.press("Delete")
    for _ in range(5):
        coffee.keyboard.press("u")
    coffee.wait_for_function(SHOWS, arg=[[text_of(one) for one in COFFEE]])
    wait_live(coffee)
    assert coffee.locator("[data-key=undo]").is_disabled()


SHOWS = """([wanted]) => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
    .some((host) => {
        const all = [...(host.shadowRoot?.querySelectorAll('.rn-list li') ?? [])];
        return all.length === wanted.length
            && all.every((one, i) => one.textContent.endsWith(wanted[i]));
    })"""


def text_of(one: tuple[str, list[float]]) -> str:
    return f"corners {' '.join(f'{edge:.1f}' for edge in one[1])}"


def test_n_and_p_step_through_the_objects(coffee):
    seen = []
    for key in ("n", "n", "n", "n", "p", "p"):
        press_key(coffee, key)
        seen.append(selected(coffee))
    assert seen == [0, 1, 2, 0, 2, 1]
    coffee.wait_for_url("**object=1**")


# ------------------------------------------------------------------ all pages, the link


def test_a_dragged_object_is_put_back_when_the_drag_is_broken_off(coffee):
    select(coffee, 0)
    press_and_move(coffee, (280, 150), (330, 200))
    coffee.wait_for_selector(f"{STAGE}[data-live=live]")
    coffee.locator(STAGE).evaluate(
        "(stage) => stage.dispatchEvent(new PointerEvent('pointercancel', { pointerId: 1 }))"
    )
    coffee.mouse.up()
    wait_live(coffee)
    assert listed_objects(coffee) == COFFEE


def test_the_detections_are_adopted(page, address, core):
    open_page(page, address, "anchors", photo="cat")
    trace = core.detect(load_sample("cat"), SPEC, START)
    page.locator("[data-key=adopt]").click()
    page.locator(".rn-truth p", has_text="adopted from the detections").wait_for()
    wait_live(page)
    shown = listed_objects(page)
    assert [name for name, _ in shown] == [trace.categories[int(i)] for i in trace.labels]
    for (_, box), wanted in zip(shown, trace.boxes.tolist(), strict=True):
        assert box == pytest.approx(wanted, abs=0.11)
    assert_agrees(page)
    assert_linked(page)
    page.locator("[data-key=undo]").click()
    page.locator(".rn-truth p", has_text="drawn by hand").wait_for()
    wait_live(page)
    assert [name for name, _ in listed_objects(page)] == ["cat"]


def go_to(page, name: str, sign: str, mark: str) -> None:
    """Another page by the bar at the top, until its bench, with this mark, shows the picture."""
    page.get_by_role("link", name=name, exact=True).click()
    page.wait_for_url(f"**{sign}**")
    page.locator(mark).first.wait_for()
    wait_live(page)


def test_objects_hold_on_every_page(coffee):
    errors = listen_for_errors(coffee)
    coffee.locator("[data-key=add]").click()
    drag_photo(coffee, (450, 60), (560, 170))
    assert_linked(coffee)
    wanted = listed_objects(coffee)
    for name, sign, mark in (
        ("Focal loss", "/focal_loss", ".rn-plot"),
        ("Feature pyramid", "/feature_pyramid", ".rn-thumbs"),
        ("Anchors", "/anchors", ".rn-shape"),
    ):
        go_to(coffee, name, sign, mark)
        wait_for_count(coffee, len(wanted))
        assert listed_objects(coffee) == wanted
        assert_linked(coffee)
    coffee.get_by_role("link", name="Detect", exact=True).click()
    coffee.locator(".rn-main-knobs").wait_for()
    wait_ready(coffee)
    coffee.get_by_role("link", name="Anchors", exact=True).click()
    coffee.locator(".rn-shape").wait_for()
    wait_for_count(coffee, len(wanted))
    assert listed_objects(coffee) == wanted
    assert_agrees(coffee)
    assert errors == []


def test_a_link_opened_cold_shows_the_same_objects(coffee):
    coffee.locator("[data-key=add]").click()
    drag_photo(coffee, (450, 60), (560, 170))
    click_photo(coffee, 60, 60)
    assert_linked(coffee)
    wanted = listed_objects(coffee)
    counts = coffee.locator(".rn-funnel tbody").inner_text()
    fresh = coffee.context.new_page()
    try:
        fresh.goto(coffee.url)
        wait_live(fresh)
        shown = listed_objects(fresh)
        assert shown == [(n, [pytest.approx(v, abs=0.051) for v in box]) for n, box in wanted]
        assert fresh.locator(".rn-funnel tbody").inner_text() == counts
        assert_agrees(fresh)
        assert_linked(fresh)
    finally:
        fresh.close()


def test_another_photo_has_its_own_objects(coffee):
    select(coffee, 0)
    press_key(coffee, "Delete")
    coffee.get_by_role("button", name="Astronaut").click()
    coffee.locator(f'{STAGE}[aria-label^="Astronaut"]').wait_for()
    wait_for_count(coffee, 1)
    assert listed_objects(coffee)[0][0] == "person"
    coffee.wait_for_url(lambda url: "truth=" not in url)
    coffee.get_by_role("button", name="Coffee").click()
    coffee.locator(f'{STAGE}[aria-label^="Coffee"]').wait_for()
    wait_for_count(coffee, 2)
    assert listed_objects(coffee) == COFFEE[1:]
