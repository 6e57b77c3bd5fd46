"""The lens of the pages that look inside: links, hostile messages, what is shared with Detect."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from types import SimpleNamespace

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pages._shared import lens, truth, view
from pages._shared.anchors_room import AnchorsPart
from pages._shared.gallery import Picture
from pages._shared.lens import Act, Lens, for_browser, from_message, from_query, to_query
from pages._shared.loss_room import LossPart
from pages._shared.pyramid_room import PyramidPart
from pages._shared.view import View
from retinanet.config import ConfigError, LossConfig, MatcherConfig
from retinanet.truth import MAX_OBJECTS, TruthBox, TruthError
from retinanet.types import Image

LINKED = {field.name for field in fields(Lens)} - {"serial", "fault", "hurried", "acts"}
PARTS = [AnchorsPart, LossPart, PyramidPart]
PICTURE = Picture("photo", Image(PIL.Image.new("RGB", (640, 480)), "this"), "photo", False)
CAT = TruthBox("cat", (10.0, 20.0, 110.0, 220.0))

places = some.floats(0, 9000).map(lambda edge: round(edge, 2))


def shape_numbers(low, high, most):
    return some.lists(some.floats(low, high), min_size=1, max_size=most, unique=True).map(tuple)


lenses = some.builds(
    Lens,
    level=some.sampled_from(("all", *lens.LEVELS)),
    point=some.none() | some.tuples(places, places),
    object=some.integers(-1, 300),
    map=some.sampled_from(lens.MAPS),
    feature=some.sampled_from(lens.FEATURES),
    scale=some.sampled_from(lens.SCALES),
    channel=some.integers(-1, 2047),
    rank=some.sampled_from(lens.RANKS),
    lateral=some.booleans(),
    frozen=some.integers(-1, 4),
    range=some.sampled_from(lens.SCALES),
    show=some.sampled_from(lens.SHOWN),
    dialect=some.sampled_from(lens.DIALECTS),
    base_size=some.integers(16, 1024).map(lambda quarters: quarters / 4),
    scales=shape_numbers(0.25, 4, 5),
    aspect_ratios=shape_numbers(0.05, 20, 7),
    kind=some.sampled_from(lens.KINDS),
)


class Query(dict):
    """The address, as `st.query_params` gives it."""

    def to_dict(self):
        return dict(self)


@pytest.fixture(autouse=True)
def session(monkeypatch):
    """A session without a browser: what it keeps, and in "query" its address."""
    kept: dict = {}
    query = Query()
    monkeypatch.setattr(lens.st, "session_state", kept)
    monkeypatch.setattr(lens.st, "query_params", query)
    return SimpleNamespace(kept=kept, query=query)


def notices(session):
    return session.kept.get("notices", [])


# ------------------------------------------------------------------ the link


@settings(max_examples=150, deadline=None)
@given(lenses)
def test_a_link_restores_the_lens(shown):
    assert from_query(to_query(shown)) == shown


@settings(max_examples=100, deadline=None)
@given(some.floats(4, 256))
def test_a_link_restores_any_base_size(size):
    shown = Lens(base_size=size)
    assert from_query(to_query(shown)).base_size == size


@pytest.mark.parametrize("point", [(12345.67, 8.25), (100000.25, 99999.75)])
def test_a_link_restores_a_place_on_a_very_wide_picture(point):
    assert from_query(to_query(Lens(point=point))).point == point


def test_each_field_has_its_own_place_in_the_link():
    other = Lens(
        level="P4",
        point=(1.5, 2.0),
        object=3,
        map="pca",
        feature="C4",
        scale="unit",
        channel=7,
        rank="varied",
        lateral=True,
        frozen=-1,
        range="level",
        show="iou",
        dialect="detectron2",
        base_size=24.0,
        scales=(1.0, 1.5),
        aspect_ratios=(1.0,),
        kind="background",
        serial=4,
        fault="words",
        hurried=True,
    )
    assert set(to_query(other)) == LINKED
    for name in sorted(LINKED):
        alone = replace(Lens(), **{name: getattr(other, name)})
        assert list(to_query(alone)) == [name]
        assert from_query(to_query(alone)) == alone
    assert from_query(to_query(other)) == replace(other, serial=0, fault="", hurried=False)
    assert to_query(Lens()) == {}


def test_the_link_does_not_share_a_name_with_detects():
    assert not LINKED & set(view.NAMES)


def test_each_page_lists_fields_of_the_lens_and_together_they_list_all():
    listed = [set(part.names) for part in PARTS]
    assert set().union(*listed) == LINKED


BAD = {
    "level": ["P8", "", "p3", "all ", "C3"],
    "point": ["1", "1,2,3", "nan,1", "1,inf", "a,b", ""],
    "object": ["-1", "1.5", "x", "1e3", "99999999"],
    "map": ["<script>", "", "Strength"],
    "feature": ["P2", "all"],
    "scale": ["log"],
    "channel": ["-2", "5000", "nan"],
    "rank": ["first"],
    "lateral": ["1", "true", ""],
    "frozen": ["-2", "5", "1.0"],
    "range": ["none"],
    "show": ["all"],
    "dialect": ["keras"],
    "base_size": ["3", "257", "nan", "inf", "big"],
    "scales": ["", "x", "1;2", "1,2,3,4,5,6,7,8,9,10"],
    "aspect_ratios": ["", "1:2", ","],
    "kind": ["ignored"],
}
BAD_SHAPES = [
    {"scales": "1,1"},
    {"scales": "nan"},
    {"scales": "-1,2"},
    {"scales": "1e9"},
    {"scales": "1,2,3,4,3.5,2.5"},
    {"aspect_ratios": "0"},
    {"aspect_ratios": "inf"},
]


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in BAD.items() for t in texts])
def test_a_bad_value_leaves_one_sentence_and_the_rest_stands(session, name, text):
    good = {"level": "P5", "kind": "foreground", "map": "score"}
    good.pop(name, None)
    found = from_query({**good, name: text})
    assert found == from_query(good)
    (sentence,) = notices(session)
    assert sentence.startswith(f"The link's {name}={text[:40]} is ignored: it takes ")


def test_every_field_has_a_bad_value_here():
    assert set(BAD) == LINKED


@pytest.mark.parametrize("query", BAD_SHAPES)
def test_anchors_that_cannot_be_built_are_left_out_in_words(session, query):
    found = from_query({**query, "level": "P4"})
    assert found == Lens(level="P4")
    (sentence,) = notices(session)
    assert next(iter(query)) in sentence


@settings(max_examples=100, deadline=None)
@given(some.dictionaries(some.sampled_from(sorted(BAD)), some.text(max_size=30)))
def test_no_text_breaks_a_link(query):
    found = from_query(query)
    assert found.shape.num_anchors > 0
    assert from_query(to_query(found)) == found


# ------------------------------------------------------------------ messages


def message_of(shown=None, **changes):
    told = for_browser(shown or Lens()) | {"serial": 5, "image_id": "this", "truth": None}
    told["acts"] += "truth" in changes or "undo" in changes
    return told | changes


@settings(max_examples=100, deadline=None)
@given(lenses, lenses)
def test_the_browser_sends_back_what_it_was_told(told, before):
    followed, training, act = from_message(message_of(told), before)
    assert followed == replace(told, serial=5)
    assert training == (MatcherConfig(), LossConfig())
    assert act == Act()


def test_a_message_may_leave_fields_out():
    told = {"serial": 2, "acts": 0, "training": for_browser(Lens())["training"]}
    assert from_message(told, Lens(level="P6"))[0] == Lens(level="P6", serial=2)


TRAINING = {
    "fg_iou_thresh": 0.7,
    "bg_iou_thresh": 0.2,
    "allow_low_quality_matches": False,
    "alpha": 0.75,
    "gamma": 0.5,
}


def test_training_settings_and_objects_are_read():
    drawn = [["cat", 10, 20, 110, 220]]
    _, training, act = from_message(message_of(training=TRAINING, truth=drawn), Lens())
    assert training == (MatcherConfig(0.7, 0.2, False), LossConfig(0.75, 0.5))
    assert act == Act((CAT,), 0)


HOSTILE = [
    None,
    7,
    "view",
    [],
    {},
    {"serial": 1},
    message_of(serial=None),
    message_of(serial="x"),
    message_of(serial=math.nan),
    message_of(serial=math.inf),
    message_of(acts=None),
    message_of(undo="all"),
    message_of(training=None),
    message_of(training={}),
    message_of(training=[1, 2]),
    message_of(training=TRAINING | {"gamma": math.nan}),
    message_of(training=TRAINING | {"gamma": -1}),
    message_of(training=TRAINING | {"alpha": "much"}),
    message_of(training=TRAINING | {"fg_iou_thresh": 0.1}),
    message_of(training=TRAINING | {"fg_iou_thresh": 10**400}),
    message_of(training={k: v for k, v in TRAINING.items() if k != "alpha"}),
    message_of(level="P8"),
    message_of(level=["P3", "P4"]),
    message_of(point=[1]),
    message_of(point=[1, 2, 3]),
    message_of(point=[math.nan, 1]),
    message_of(point=[math.inf, 1]),
    message_of(point={"x": 1}),
    message_of(object=1.5),
    message_of(object=10**30),
    message_of(object=True),
    message_of(channel=-5),
    message_of(lateral="yes"),
    message_of(base_size=10**400),
    message_of(base_size=0),
    message_of(scales=[]),
    message_of(scales=[1, 1]),
    message_of(scales=[1] * 10_000),
    message_of(aspect_ratios=[0]),
    message_of(aspect_ratios=[math.nan]),
    message_of(truth=5),
    message_of(truth=[5]),
    message_of(truth=[[]]),
    message_of(truth=[["cat"]]),
    message_of(truth=[["cat", 1, 2, 3]]),
    message_of(truth=[["cat", 1, 2, 3, None]]),
    message_of(truth=[["cat", 1, 2, 3, math.nan]]),
    message_of(truth=[["cat", 1, 2, 3, math.inf]]),
    message_of(truth=[["cat", 1, 2, 3, 10**400]]),
    message_of(truth=[["cat", 5, 5, 5, 9]]),
    message_of(truth=[["", 1, 2, 3, 4]]),
    message_of(truth=[["c" * 81, 1, 2, 3, 4]]),
    message_of(truth=[["a\nb", 1, 2, 3, 4]]),
    message_of(truth=[["cat", 1, 2, 30, 40]] * (MAX_OBJECTS + 1)),
]


@pytest.mark.parametrize("message", HOSTILE, ids=range(len(HOSTILE)))
def test_a_message_that_cannot_be_followed_leaves_a_sentence(session, message):
    session.kept["lens"] = before = Lens(level="P4", serial=3)
    session.kept["truths"] = {"photo": truth.Truth((CAT,), "drawn")}
    lens.take_message(message, PICTURE)
    after = session.kept["lens"]
    assert after.fault.endswith((".", "!", "?")) and len(after.fault) < 400
    assert replace(after, fault="", serial=3) == before
    assert view.current().matcher == MatcherConfig() and view.current().loss == LossConfig()
    assert session.kept["truths"]["photo"].objects == (CAT,)
    # The next message is followed, and the sentence goes.
    lens.take_message(message_of(level="P5"), PICTURE)
    assert (session.kept["lens"].level, session.kept["lens"].fault) == ("P5", "")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"training": TRAINING | {"bg_iou_thresh": 0.9}}, ConfigError, "bg_iou_thresh"),
        ({"scales": [9]}, ConfigError, "scales"),
        ({"truth": [["cat", 5, 5, 5, 9]]}, TruthError, "no area"),
    ],
)
def test_the_cores_own_sentence_is_shown(session, change, kind, words):
    with pytest.raises(kind, match=words):
        from_message(message_of(**change), Lens())
    lens.take_message(message_of(**change), PICTURE)
    assert words in lens.current().fault and lens.current().serial == 5


def test_a_question_about_the_last_photo_is_not_put_to_this_one(session):
    session.kept["lens"] = Lens(object=1)
    told = message_of(Lens(point=(5.0, 6.0), object=2, level="P6"), truth=[["cat", 1, 2, 30, 40]])
    lens.take_message(told | {"image_id": "another"}, PICTURE)
    followed = lens.current()
    assert (followed.point, followed.object, followed.level) == (None, 1, "P6")
    assert "photo" not in session.kept.get("truths", {})


def test_what_is_drawn_becomes_the_truth_and_what_is_sent_again_does_not(session):
    drawn = [["cat", 10, 20, 110, 220]]
    lens.take_message(message_of(truth=drawn), PICTURE)
    assert session.kept["truths"]["photo"].objects == (CAT,)
    lens.take_message(message_of(truth=drawn), PICTURE)
    assert len(session.kept["truths"]["photo"].past) == 1


def test_a_message_that_is_sent_again_does_nothing_again(session):
    draw = message_of(truth=[["cat", 10, 20, 110, 220]])
    lens.take_message(draw, PICTURE)
    undo = draw | {"serial": 6, "acts": 2, "truth": None, "undo": 1}
    lens.take_message(undo, PICTURE)
    assert session.kept["truths"]["photo"].objects == ()
    for again in (draw, undo):
        lens.take_message(again | {"serial": 7}, PICTURE)
        assert session.kept["truths"]["photo"].objects == ()
        assert lens.current().acts == 2


def test_what_is_drawn_and_taken_back_in_one_message_leaves_all_as_it_was(session):
    lens.take_message(message_of(truth=[["cat", 10, 20, 110, 220]], undo=1), PICTURE)
    assert session.kept["truths"]["photo"].objects == ()
    lens.take_message(message_of(undo=10**9) | {"acts": 9}, PICTURE)  # more than there is
    assert session.kept["truths"]["photo"].objects == ()


# ------------------------------------------------------------------ hurried, then at leisure


@pytest.mark.parametrize(
    "change",
    [{"level": "P4"}, {"training": TRAINING}, {"truth": [["cat", 1, 2, 30, 40]]}, {"object": 0}],
)
def test_the_first_answer_is_hurried_and_the_next_is_not(session, change):
    lens.take_message(message_of(**change), PICTURE)
    assert lens.current().hurried
    again = {name: value for name, value in change.items() if name != "truth"}
    lens.take_message(message_of(**again) | {"serial": 6}, PICTURE)
    assert not lens.current().hurried and lens.current().serial == 6
    for name, value in change.items():
        if hasattr(lens.current(), name):
            assert getattr(lens.current(), name) == value


def test_a_fault_is_never_hurried(session):
    lens.take_message(message_of(level="P4"), PICTURE)
    lens.take_message(message_of(level="P8"), PICTURE)
    assert not lens.current().hurried and lens.current().fault


# ------------------------------------------------------------------ shared with Detect


def test_training_settings_are_the_views_own(session):
    session.kept["view"] = View(box=4)
    lens.take_message(message_of(training=TRAINING), PICTURE)
    now = view.current()
    assert (now.matcher, now.loss) == (MatcherConfig(0.7, 0.2, False), LossConfig(0.75, 0.5))
    assert now.box == 4 and now.knobs == View().knobs
    assert for_browser(lens.current())["training"] == TRAINING
    lens.write_link((), "photo")
    assert {name: session.query[name] for name in TRAINING} == {
        name: repr(value) for name, value in TRAINING.items()
    }


def test_a_new_session_takes_both_from_the_link(session):
    session.query.update(level="P6", gamma="5.0", fg_iou_thresh="0.9")
    assert lens.current() == Lens(level="P6")
    assert (view.current().loss.gamma, view.current().matcher.fg_iou_thresh) == (5.0, 0.9)


# ------------------------------------------------------------------ the address


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_address_has_only_names_of_the_page(session, part):
    session.query.update(weights="random", depth="18", foreign="kept", box="4", stage="nms")
    session.kept["view"] = View(box=4, stage="nms", loss=LossConfig(0.25, 1.0))
    session.kept["photo"] = "coffee"
    session.kept["truths"] = {"coffee": truth.Truth((CAT,), "drawn")}
    session.kept["lens"] = full = Lens(
        "P4", (1.0, 2.0), 1, "pca", "P4", "unit", 3, "varied", True, 0, "unit", "iou"
    )
    lens.write_link(part.names, "coffee")
    others = {"weights": "random", "depth": "18", "foreign": "kept"}
    shared = {"gamma": "1.0", "photo": "coffee", "truth": "cat:10,20,110,220"}
    own = {name: text for name, text in to_query(full).items() if name in part.names}
    assert session.query == {**others, **shared, **own}
    # Back at the start nothing of it is left.
    session.kept.update(lens=Lens(), view=View(), photo="", truths={})
    lens.write_link(part.names, "coffee")
    assert session.query == others


def test_back_and_forward_restore_what_the_address_says(session, monkeypatch):
    went = SimpleNamespace(is_history_navigation=True)
    monkeypatch.setattr(lens, "get_script_run_ctx", lambda: went)
    session.kept.update(lens=Lens(level="P7", serial=9), view=View(box=4, loss=LossConfig(0.1, 0)))
    session.query.update(level="P4", photo="cat", alpha="0.75", box="1")
    lens.follow_history()
    assert lens.current() == Lens(level="P4", serial=9)
    now = view.current()
    assert (now.loss, now.matcher, now.box) == (LossConfig(0.75, 2.0), MatcherConfig(), 4)
    assert session.kept["photo"] == session.kept["lens_photo"] == "cat"
    went.is_history_navigation = False
    session.query["level"] = "P5"
    lens.follow_history()
    assert lens.current().level == "P4"
