"""What a bench and Python say to each other (talk.js), with a slow or a deaf Python."""

from __future__ import annotations

import pytest

from pages._shared.canvas import script

pytestmark = pytest.mark.browser

BENCH = """() => {
    globalThis.now = 0;
    globalThis.timers = [];
    performance.now = () => now;
    globalThis.setTimeout = (call, wait) => timers.push({ call, at: now + wait }) && timers.at(-1);
    globalThis.clearTimeout = (timer) => (timers = timers.filter((one) => one !== timer));
    globalThis.said = [];
    globalThis.bench = {
        sent: 0, wanted: 0, answered: 0, pointers: new Map(), state: {}, answer: { image_id: "a" },
        setStateValue: (_, message) => said.push(message.serial),
    };
    globalThis.pass = (seconds) => {
        for (const end = now + 1000 * seconds; now < end; now += 50) {
            const due = timers.filter(({ at }) => at <= now);
            timers = timers.filter(({ at }) => at > now);
            for (const { call } of due) call();
        }
    };
}"""


@pytest.fixture
def page(context):
    opened = context.new_page()
    opened.add_script_tag(content=script("talk"))
    opened.evaluate(BENCH)
    yield opened
    opened.close()


def test_a_lost_message_is_sent_again_until_it_is_answered(page):
    assert page.evaluate("send(bench), pass(9), said") == [1, 2, 3]
    assert page.evaluate("bench.answered = 3, pass(30), said") == [1, 2, 3]


def test_an_answer_slower_than_the_repetition_is_good(page):
    """Each answer takes longer than a message is waited for: the last one is never reached."""
    page.evaluate("send(bench), pass(6)")
    assert page.evaluate("bench.sent") == 2
    page.evaluate("bench.answered = 1")  # to the first, while the second is on its way
    assert not page.evaluate("isOvertaken(bench)")
    assert page.evaluate("pass(30), said") == [1, 2]


def test_an_answer_to_what_a_hand_has_left_behind_is_not(page):
    page.evaluate("send(bench), pass(6), bench.answered = 1, send(bench), bench.answered = 2")
    assert page.evaluate("said") == [1, 2, 3]
    assert page.evaluate("isOvertaken(bench)")
    assert not page.evaluate("bench.answered = 3, isOvertaken(bench)")


def test_nothing_is_repeated_under_a_hand(page):
    page.evaluate("send(bench), bench.pointers.set(1, [0, 0]), pass(20)")
    assert page.evaluate("said") == [1]
    assert page.evaluate("bench.pointers.clear(), pass(5), said.slice(0, 2)") == [1, 2]
