"""The workbench's view, in links and messages; the blocks that travel to the browser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pages._shared import answer, view
from pages._shared.canvas.kit import knobs_of
from pages._shared.view import Pin, View, from_message, from_query, to_query
from retinanet.assignment import assign
from retinanet.candidates import FATES, OVER_LIMIT, SUPPRESSED
from retinanet.config import LossConfig, MatcherConfig, PostprocessConfig
from retinanet.detection import detect
from retinanet.engine import Engine, ModelSpec
from retinanet.figures.candidate_table import SCORE_STEPS, candidate_table
from retinanet.figures.columns import pack_columns, unpack_columns
from retinanet.figures.ghosts import candidate_pairs, ghost_columns, round_columns
from retinanet.figures.life import survival_parts
from retinanet.losses import compute_loss
from retinanet.nms import Overlaps
from retinanet.rounds import nms_rounds
from retinanet.samples import load_sample

unit = some.floats(0, 1, allow_nan=False)
knobs = some.builds(
    PostprocessConfig,
    score_thresh=unit,
    nms_thresh=unit,
    topk_candidates=some.integers(1, view.MAX_TOPK),
    detections_per_img=some.integers(1, view.MAX_DETECTIONS),
    class_score_thresh=some.dictionaries(some.integers(0, 90), unit, max_size=3),
)
specs = some.builds(
    ModelSpec,
    weights=some.sampled_from(["embedded", "coco-v1", "random"]),
    depth=some.sampled_from([None, 18, 50]),
    min_size=some.sampled_from([None, 64, 800]),
    precision=some.sampled_from(["fp32", "bf16"]),
)
corners = some.tuples(*[some.floats(0, 5000).map(lambda edge: round(edge, 2))] * 4)
views = some.builds(
    View,
    knobs=knobs,
    matcher=some.just(MatcherConfig(0.6, 0.3)) | some.just(MatcherConfig()),
    loss=some.builds(LossConfig, alpha=unit, gamma=some.floats(0, 5)),
    color=some.sampled_from(view.COLORS),
    stage=some.sampled_from(view.STAGES),
    mode=some.sampled_from(view.MODES),
    box=some.integers(-1, 2**31 - 1),
    why=some.none() | corners,
    why_class=some.integers(-1, 90),
    lesson=some.booleans(),
    pin=some.none() | some.builds(Pin, spec=specs, knobs=knobs),
)


@pytest.fixture(autouse=True)
def sentences(monkeypatch):
    """What a person would be told, without a session to keep it in."""
    said: list[str] = []
    monkeypatch.setattr(view.state, "say", said.append)
    return said


@settings(max_examples=200, deadline=None)
@given(views)
def test_a_link_restores_the_view(shown):
    assert from_query(to_query(shown)) == shown


def test_a_link_says_only_what_differs_from_the_start():
    assert to_query(View()) == {}
    assert to_query(View(box=7, mode="nms")) == {"box": "7", "mode": "nms"}


def test_an_uploaded_checkpoints_path_stays_out_of_the_link():
    shown = View(pin=Pin(ModelSpec("/tmp/somewhere/abc.pth"), PostprocessConfig()))
    assert "pin" not in to_query(shown)


def test_bounds_the_wrong_way_round_are_left_out_with_a_sentence(sentences):
    assert from_query({"bg_iou_thresh": "0.9", "nms_thresh": "0.4"}) == View()
    assert len(sentences) == 1 and "bg_iou_thresh" in sentences[0]


@settings(max_examples=100, deadline=None)
@given(views, views)
def test_the_browser_sends_back_what_it_was_told(told, before):
    message = answer.view_for_browser(told) | {"serial": 12, "image_id": "x"}
    followed = from_message(message, before)
    assert followed.serial == 12 and followed.pin == before.pin
    assert answer.view_for_browser(followed) | {"image_id": "x"} == message
    assert followed.hurried == (told.knobs != before.knobs)


@pytest.mark.parametrize(
    "change",
    [
        {"knobs": knobs_of(PostprocessConfig()) | {"score_thresh": 3}},
        {"knobs": knobs_of(PostprocessConfig()) | {"class_score_thresh": {"0": "high"}}},
        {"knobs": knobs_of(PostprocessConfig()) | {"shell": "rm"}},
        {"training": {"fg_iou_thresh": 0.1, "bg_iou_thresh": 0.9, "alpha": 0.5, "gamma": 1}},
        {"stage": "x"},
        {"why": [1, 2, "nan", 4]},
    ],
)
def test_a_message_that_cannot_be_meant_is_refused(change):
    message = answer.view_for_browser(View()) | {"serial": 1} | change
    with pytest.raises(ValueError):
        from_message(message, View())


# ------------------------------------------------------------------ blocks


@pytest.fixture(scope="module")
def outputs():
    spec = ModelSpec("random", depth=18, min_size=64, max_size=128)
    made = Engine().outputs(load_sample("coffee"), spec)
    for logits in made.cls_logits:
        logits.mul_(300).sub_(logits.mean())  # an untrained model scores everything the same
    return made


@pytest.fixture(scope="module")
def trace(outputs):
    return detect(outputs, PostprocessConfig(0.5, 0.5, 300, 40))


def test_columns_survive_the_journey():
    columns = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([3, -1]), "c": np.zeros(0)}
    packed = pack_columns({"words": "Größe"}, columns)
    header, found = unpack_columns(packed)
    assert header["words"] == "Größe"
    assert [name for name, *_ in header["columns"]] == ["a", "b", "c"]
    for name, column in columns.items():
        np.testing.assert_array_equal(found[name], column.ravel())
    assert pack_columns({"words": "Größe"}, columns) == packed
    columns["b"] = np.array([3, -2])
    changed, _ = unpack_columns(pack_columns({"words": "Größe"}, columns))
    assert changed["stamp"] != header["stamp"]


def test_the_candidate_table_counts_exactly(outputs):
    header, columns = unpack_columns(candidate_table(outputs))
    assert candidate_table(outputs) is candidate_table(outputs)
    for level, logits in enumerate(outputs.cls_logits):
        scores = logits.sigmoid().flatten()
        assert header["totals"][level] == len(scores)
        for step in range(0, SCORE_STEPS + 1, 9):
            assert header["above"][level][step] == int((scores > step / SCORE_STEPS).sum())
    start = 0
    for count in header["counts"]:
        part = columns["scores"][start : start + count]
        assert (np.diff(part) <= 0).all()
        start += count
    assert start == len(columns["pairs"]) == len(set(columns["pairs"].tolist()))


def test_ghosts_are_the_ledgers_own(trace):
    columns, counts = ghost_columns(trace, ("over_limit", "suppressed"), 10_000)
    assert counts["shown"] == counts["total"]
    assert counts["total"] == trace.counts["over_limit"] + trace.counts["suppressed"] > 0
    fates = columns["ghost_fates"]
    assert (fates == OVER_LIMIT).sum() == trace.counts["over_limit"]
    pairs = candidate_pairs(trace).tolist()
    for pair, fate, by, iou in zip(
        *(columns[f"ghost_{name}"].tolist() for name in ("pairs", "fates", "by", "iou")),
        strict=True,
    ):
        row = pairs.index(pair)
        assert FATES[fate] == FATES[int(trace.candidates.fate[row])]
        assert (by >= 0) == (fate == SUPPRESSED)
        if by >= 0:
            assert by == pairs[int(trace.suppressed_by[row])] and iou > trace.config.nms_thresh
    few, counts = ghost_columns(trace, ("over_limit", "suppressed"), 5)
    assert (counts["shown"], len(few["ghost_pairs"])) == (5, 5)


def test_rounds_travel_as_pairs(trace):
    rounds = nms_rounds(trace)
    columns = round_columns(trace, rounds)
    pairs = candidate_pairs(trace)
    assert columns["round_keeper"].tolist() == [pairs[one.keeper] for one in rounds]
    start = columns["round_start"]
    for number in (0, len(rounds) // 2, len(rounds) - 1):
        part = slice(start[number], start[number + 1])
        np.testing.assert_array_equal(columns["round_other"][part], pairs[rounds[number].compared])
        np.testing.assert_array_equal(columns["round_removed"][part], rounds[number].removed)
    assert start[-1] == len(columns["round_other"]) == len(columns["round_iou"])


def test_survival_parts_are_the_lifes_own(trace):
    life = trace.explain(3)
    parts = survival_parts(life)
    for knob, change in life["changes_at"].items():
        kept = [(part["from"], part["to"]) for part in parts[knob] if part["kept"]]
        assert kept == [(part["from"], part["to"]) for part in change["kept"]]


@settings(max_examples=100, deadline=None)
@given(some.lists(unit.map(np.float32), max_size=40), unit | some.floats(0, 1, width=32))
def test_the_last_of_ascending_pairs_are_those_above(ious, threshold):
    index = np.arange(len(ious), dtype=np.int32)
    pairs = Overlaps(index, index, np.array(ious, np.float32))
    sliced, masked = pairs.ascending().last_above(threshold), pairs.above(threshold)
    assert sorted(sliced.first.tolist()) == sorted(masked.first.tolist())


def test_the_training_sentence_says_what_training_would_do(outputs):
    from pages._shared.gallery import Picture
    from pages._shared.training_note import AT_REST, training_words

    image = load_sample("coffee")
    picture = Picture("coffee", image, "Coffee", is_sample=False)
    trace = detect(outputs, PostprocessConfig(0.5, 0.5, 300, 4))
    assert training_words(picture, trace, View()) == AT_REST
    shown = View(matcher=MatcherConfig(0.6, 0.3), loss=LossConfig(0.5, 1.0))
    match = assign(outputs, trace.boxes.tolist(), trace.labels.tolist(), shown.matcher)
    loss = compute_loss(outputs, match, shown.loss)
    words = training_words(picture, trace, shown)
    assert f"{match.counts['foreground']:,} anchors as foreground" in words
    assert f"{float(loss.classification):.4f}" in words and "4 boxes detected now" in words


@pytest.fixture
def session(monkeypatch):
    kept: dict = {"view": View(box=3), "open_image": "this"}
    monkeypatch.setattr(view.st, "session_state", kept)
    return kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"knobs": knobs_of(PostprocessConfig()) | {"nms_thresh": 4}}, "nms_thresh"),
        ({"knobs": None}, "cannot be followed"),
        ({"stage": "x"}, "cannot be followed"),
    ],
)
def test_a_message_that_cannot_be_followed_leaves_a_sentence(session, change, words):
    message = answer.view_for_browser(View(box=9)) | {"serial": 5, "image_id": "this"} | change
    view.take_message(message)
    assert session["view"].knobs == View().knobs
    assert (session["view"].box, session["view"].serial) == (3, 5)
    assert words in session["view"].fault
    view.take_message(answer.view_for_browser(View(box=9)) | {"serial": 6, "image_id": "this"})
    assert (session["view"].box, session["view"].fault) == (9, "")


def test_a_question_about_the_last_photo_is_not_put_to_this_one(session):
    told = View(box=9, why=(1.0, 2.0, 3.0, 4.0), stage="topk")
    view.take_message(answer.view_for_browser(told) | {"serial": 7, "image_id": "another"})
    followed = session["view"]
    assert (followed.box, followed.why, followed.stage) == (3, None, "topk")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000,
        "{" * 500,
        '{"weights":"random","num_classes":100000}',
        '{"weights":"random","depth":152,"min_size":4096}',
        '{"weights":"random","depth":19}',
        '{"weights":"random","topk_candidates":1000000000}',
        '{"weights":"random","detections_per_img":1000000000}',
        '{"weights":"upload"}',
        '{"weights":"/etc/passwd"}',
        "null",
    ],
)
def test_a_pinned_model_may_ask_for_no_more_than_the_controls_can(sentences, text):
    assert from_query({"pin": text}) == View()
    assert len(sentences) == 1


def test_the_table_may_be_asked_for_first_by_its_name(outputs):
    """After the cache has let a picture go, its name is the first thing asked."""
    fresh = replace(outputs)
    assert answer.table_key(detect(fresh, PostprocessConfig(0.5))) == answer.table_key(
        detect(outputs, PostprocessConfig(0.5))
    )
