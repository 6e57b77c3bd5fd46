"""Two traces side by side: every detection is accounted for, every cause is tried out again."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from retinanet.candidates import CUT_SHOWN
from retinanet.compare import KINDS, MODEL, UNCHANGED_IOU, compare
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.detection import detect
from retinanet.figures.changes import change_sentence, comparison_sentence
from retinanet.types import LEVELS

from .test_detection import make_outputs

KNOBS = tuple(field.name for field in dataclasses.fields(PostprocessConfig))


@pytest.fixture(scope="module")
def outputs():
    return make_outputs(seed=2, size=(64, 64), num_classes=3, delta=0.2)


@pytest.fixture(scope="module")
def retrained(outputs):
    """What a further trained model could say: other scores, boxes a little elsewhere."""
    generator = torch.Generator().manual_seed(9)

    def shaken(levels, by):
        return [x + by * torch.randn(x.shape, generator=generator) for x in levels]

    return dataclasses.replace(
        outputs,
        cls_logits=shaken(outputs.cls_logits, 0.7),
        bbox_regression=shaken(outputs.bbox_regression, 0.02),
    )


configs = st.builds(
    PostprocessConfig,
    score_thresh=st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5]),
    nms_thresh=st.sampled_from([0.2, 0.4, 0.5, 0.6, 0.9]),
    topk_candidates=st.sampled_from([5, 30, 100, 1000]),
    detections_per_img=st.sampled_from([5, 20, 50, 300]),
    class_score_thresh=st.sampled_from([{}, {0: 0.3}, {1: 0.6, 2: 0.02}]),
)


def pairs_of(trace):
    """The detections as (level, anchor, label)."""
    table, count = trace.candidates, len(trace)
    return list(
        zip(*(c[:count].tolist() for c in (table.level, table.anchor, table.label)), strict=True)
    )


def changes_of(comparison, *kinds):
    return [change for change in comparison.changes if change.kind in kinds]


def names_of(trace):
    return [trace.categories[label] for label in trace.labels.tolist()]


def matched_by_hand(before, after, same_iou):
    """{(kind, i, j)}, each stage by falling IoU, with torchvision's IoU and plain loops."""
    overlaps = box_iou(before.boxes, after.boxes).double()
    overlaps = overlaps.nan_to_num(-1.0).tolist()  # two empty boxes give 0 / 0
    every = [(i, j) for i in range(len(before)) for j in range(len(after))]
    falling = sorted(every, key=lambda at: (-overlaps[at[0]][at[1]], *at))
    if before.outputs is after.outputs:
        own, other = before.labels.tolist(), after.labels.tolist()
        first, second = pairs_of(before), pairs_of(after)
        stages = [("unchanged", lambda i, j, iou: first[i] == second[j])]
    else:
        own, other = names_of(before), names_of(after)
        stages = [("unchanged", lambda i, j, iou: own[i] == other[j] and iou >= UNCHANGED_IOU)]
    stages.append(("moved", lambda i, j, iou: own[i] == other[j] and iou >= same_iou))
    stages.append(("relabelled", lambda i, j, iou: own[i] != other[j] and iou >= same_iou))
    found, left, right = set(), set(range(len(before))), set(range(len(after)))
    for kind, belongs in stages:
        for i, j in falling:
            if i in left and j in right and belongs(i, j, overlaps[i][j]):
                found.add((kind, i, j))
                left.remove(i)
                right.remove(j)
    return found | {("lost", i, None) for i in left} | {("gained", None, j) for j in right}


def as_set(comparison):
    indices = [
        (c.kind, c.before and c.before.index, c.after and c.after.index) for c in comparison.changes
    ]
    return {*indices, *(("unchanged", i, j) for i, j in comparison.unchanged)}


# --- the matching --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    first=configs, second=configs, same_iou=st.sampled_from([0.3, 0.5, 0.7]), other=st.booleans()
)
def test_every_detection_is_in_one_change_or_one_unchanged_pair(
    outputs, retrained, first, second, same_iou, other
):
    before, after = detect(outputs, first), detect(retrained if other else outputs, second)
    comparison = compare(before, after, same_iou=same_iou)
    changes = comparison.changes
    in_before = [c.before.index for c in changes if c.before] + [i for i, _ in comparison.unchanged]
    in_after = [c.after.index for c in changes if c.after] + [j for _, j in comparison.unchanged]
    assert sorted(in_before) == list(range(len(before)))
    assert sorted(in_after) == list(range(len(after)))
    for change in changes:
        assert (change.before is None) == (change.kind == "gained")
        assert (change.after is None) == (change.kind == "lost")
    assert [c.kind for c in changes] == sorted((c.kind for c in changes), key=KINDS.index)
    assert sum(comparison.counts.values()) == len(changes) + len(comparison.unchanged)
    assert as_set(comparison) == matched_by_hand(before, after, same_iou)


def test_both_sides_are_those_of_the_traces(outputs):
    before = detect(outputs, PostprocessConfig(score_thresh=0.3))
    after = detect(outputs, PostprocessConfig(score_thresh=0.1, nms_thresh=0.7))
    comparison = compare(before, after)
    for side, trace in ((comparison.before, before), (comparison.after, after)):
        assert torch.equal(torch.tensor([d.box for d in side]), trace.boxes)
        assert torch.equal(torch.tensor([d.score for d in side]), trace.scores)
        assert [d.label for d in side] == trace.labels.tolist()
        assert [d.category for d in side] == names_of(trace)
        assert [LEVELS.index(d.level) for d in side] == [pair[0] for pair in pairs_of(trace)]
        assert [d.index for d in side] == list(range(len(trace)))
        assert len({d.pair for d in side}) == len(trace)
    overlaps = box_iou(before.boxes, after.boxes)
    assert changes_of(comparison, "moved")
    for change in changes_of(comparison, "moved", "relabelled"):
        assert change.iou == pytest.approx(float(overlaps[change.before.index, change.after.index]))


def test_a_trace_against_itself_is_unchanged(outputs):
    trace = detect(outputs, PostprocessConfig(score_thresh=0.2))
    comparison = compare(trace, trace)
    assert comparison.changes == ()
    assert comparison.unchanged == tuple((i, i) for i in range(len(trace)))
    assert comparison.knobs == ()
    nothing = detect(outputs, PostprocessConfig(score_thresh=1.0))
    assert compare(nothing, nothing).counts == dict.fromkeys((*KINDS, "unchanged"), 0)
    assert compare(nothing, trace).counts["gained"] == len(trace)


def test_turned_round_gained_is_lost(outputs):
    before = detect(outputs, PostprocessConfig(score_thresh=0.3, nms_thresh=0.6))
    after = detect(outputs, PostprocessConfig(score_thresh=0.1, nms_thresh=0.4))
    there, back = compare(before, after), compare(after, before)
    swapped = {"gained": "lost", "lost": "gained"}
    assert as_set(back) == {(swapped.get(kind, kind), j, i) for kind, i, j in as_set(there)}


def test_other_models_are_compared_by_the_names_of_the_categories():
    plain = one_box_each([(0, 4, 1, 0.8)], num_classes=3, categories=("cat", "dog", "cow"))
    wider = one_box_each([(0, 4, 3, 0.7)], num_classes=5, categories=(None, "x", "y", "dog"))
    comparison = compare(detect(plain), detect(wider))
    assert comparison.unchanged == ((0, 0),)
    renamed = one_box_each([(0, 4, 3, 0.7)], num_classes=5, categories=(None, "x", "y", "cow"))
    (change,) = compare(detect(plain), detect(renamed)).changes
    assert (change.kind, change.knobs, change.alone) == ("relabelled", (MODEL,), True)
    assert change.iou == pytest.approx(1)
    assert change_sentence(change, PostprocessConfig(), PostprocessConfig()) == (
        "dog 0.80 relabelled cow 0.70 (IoU 1.00): the other model did it alone."
    )


# --- which knob ----------------------------------------------------------------------------


def turned(before, after, knobs):
    """The pairs detected on the first trace's outputs with these knobs of the second's."""
    values = {knob: getattr(after.config, knob) for knob in knobs}
    return set(pairs_of(detect(before.outputs, dataclasses.replace(before.config, **values))))


@settings(max_examples=50, deadline=None)
@given(first=configs, second=configs)
def test_the_knobs_named_do_it_and_the_others_do_not(outputs, first, second):
    before, after = detect(outputs, first), detect(outputs, second)
    differing = [knob for knob in KNOBS if getattr(first, knob) != getattr(second, knob)]
    comparison = compare(before, after)
    assert comparison.knobs == tuple(differing)
    first_pairs, second_pairs = pairs_of(before), pairs_of(after)
    alone = {knob: turned(before, after, [knob]) for knob in differing}
    without = {
        knob: turned(before, after, [other for other in differing if other != knob])
        for knob in differing
    }
    for change in comparison.changes:
        old = change.before and first_pairs[change.before.index]
        new = change.after and second_pairs[change.after.index]

        def happens(pairs, old=old, new=new):
            return old not in pairs and (new is None or new in pairs)

        doing_it = tuple(knob for knob in differing if happens(alone[knob]))
        assert change.alone == bool(doing_it)
        if change.alone:
            assert change.knobs == doing_it
        else:
            needed = tuple(knob for knob in differing if not happens(without[knob]))
            assert change.knobs == (needed or tuple(differing))
            assert len(differing) > 1


def test_two_knobs_together():
    """A second box needs both a lower threshold and room: neither alone brings it."""
    outputs = one_box_each([(0, 0, 0, 0.9), (1, 0, 1, 0.4)])
    before = detect(outputs, PostprocessConfig(score_thresh=0.5, detections_per_img=1))
    after = detect(outputs, PostprocessConfig(score_thresh=0.3, detections_per_img=2))
    (change,) = compare(before, after).changes
    assert (change.kind, change.alone) == ("gained", False)
    assert change.knobs == ("score_thresh", "detections_per_img")
    assert change_sentence(change, before.config, after.config) == (
        "bee 0.40 gained: score_thresh 0.50 -> 0.30 and detections_per_img 1 -> 2 did it together; "
        "before, its score was not above score_thresh 0.50."
    )


def test_each_of_two_knobs_alone():
    outputs = one_box_each([(0, 0, 0, 0.9), (1, 0, 1, 0.4)])
    before = detect(outputs, PostprocessConfig(score_thresh=0.3, detections_per_img=2))
    after = detect(outputs, PostprocessConfig(score_thresh=0.5, detections_per_img=1))
    (change,) = compare(before, after).changes
    assert (change.kind, change.alone) == ("lost", True)
    assert change.knobs == ("score_thresh", "detections_per_img")
    assert change_sentence(change, before.config, after.config) == (
        "bee 0.40 lost: score_thresh 0.30 -> 0.50 and detections_per_img 2 -> 1 each did it alone; "
        "now, its score is not above score_thresh 0.50."
    )


def test_one_knob_is_needed_and_two_others_stand_in_for_each_other():
    """The worse ant is suppressed, then without room until the bee goes or one more may stay."""
    outputs = one_box_each([(0, 40, 0, 0.9), (0, 571, 1, 0.7), (0, 41, 0, 0.6)])
    before = detect(outputs, PostprocessConfig(0.3, 0.5, 1000, 2))
    after = detect(outputs, PostprocessConfig(0.3, 0.7, 1000, 3, {1: 0.8}))
    (gained,) = changes_of(compare(before, after), "gained")
    assert (gained.after.category, gained.alone) == ("ant", False)
    assert gained.knobs == ("nms_thresh",)
    sentence = change_sentence(gained, before.config, after.config)
    assert "ant 0.60 gained: it needed nms_thresh 0.50 -> 0.70 and more; before, " in sentence


def test_the_model_and_a_knob_together(outputs, retrained):
    config = PostprocessConfig(score_thresh=0.3, detections_per_img=300)
    comparison = compare(detect(outputs, config), detect(retrained, config))
    assert comparison.knobs == (MODEL,)
    assert not comparison.same_outputs
    assert {kind for kind, count in comparison.counts.items() if count} > {"gained", "unchanged"}
    assert all(c.knobs == (MODEL,) and c.alone and c.fate is None for c in comparison.changes)

    one = one_box_each([(0, 0, 0, 0.9)])
    two = one_box_each([(0, 0, 0, 0.9), (1, 0, 1, 0.4)])
    lower = PostprocessConfig(score_thresh=0.3)
    higher = PostprocessConfig(score_thresh=0.5)
    (change,) = compare(detect(one, higher), detect(two, lower)).changes
    assert (change.kind, change.knobs, change.alone) == ("gained", ("score_thresh", MODEL), False)
    (change,) = compare(detect(two, lower), detect(one, higher)).changes
    assert (change.kind, change.knobs, change.alone) == ("lost", ("score_thresh", MODEL), True)
    # A box that the other model only moves is lost by the threshold.
    near = one_box_each([(0, 40, 0, 0.9)])
    far = one_box_each([(0, 41, 0, 0.4)])
    (moved,) = compare(detect(near, lower), detect(far, lower)).changes
    assert (moved.kind, moved.knobs, moved.alone) == ("moved", (MODEL,), True)
    (lost,) = compare(detect(near, lower), detect(far, higher)).changes
    assert (lost.kind, lost.knobs, lost.alone) == ("lost", ("score_thresh", MODEL), False)


# --- the fate on the other side ------------------------------------------------------------


def test_the_fates_are_what_the_raw_scores_say(outputs):
    """Checked from logits and torchvision's IoU, not from the trace's own ledger."""
    seen = set()
    generator = np.random.default_rng(4)
    for _ in range(40):
        first, second = (
            PostprocessConfig(
                score_thresh=float(generator.choice([0.05, 0.2, 0.4])),
                nms_thresh=float(generator.choice([0.3, 0.5, 0.8])),
                topk_candidates=int(generator.choice([3, 20, 1000])),
                detections_per_img=int(generator.choice([4, 30, 300])),
            )
            for _ in range(2)
        )
        before, after = detect(outputs, first), detect(outputs, second)
        for change in changes_of(compare(before, after), "gained", "lost"):
            home, away = (after, before) if change.kind == "gained" else (before, after)
            detection, fate, config = change.before or change.after, change.fate, away.config
            level, anchor, label = pairs_of(home)[detection.index]
            scores = outputs.cls_logits[level].sigmoid()
            score = scores[anchor, label]
            rank = int((scores > score).sum()) + 1
            seen.add(fate.fate)
            assert (fate.fate == "below_thresh") == bool(score <= config.score_thresh)
            if fate.fate == "below_thresh":
                assert (fate.place, fate.by) == (None, None)
                continue
            assert (fate.fate == "cut_by_topk") == (rank > config.topk_candidates)
            if fate.fate == "cut_by_topk":
                assert (fate.place, fate.by) == (rank, None)
            elif fate.fate == "over_limit":
                assert fate.place > config.detections_per_img
                assert fate.place <= before.counts["kept"] + 10_000
            else:
                by = fate.by
                assert by.category == detection.category
                assert by.score > detection.score
                plain = box_iou(torch.tensor([by.box]), torch.tensor([detection.box]))
                assert by.iou == pytest.approx(float(plain), abs=1e-3)
                assert by.iou > config.nms_thresh
                if by.index is not None:
                    assert torch.equal(away.boxes[by.index], torch.tensor(by.box))
                    assert float(away.scores[by.index]) == by.score
    assert seen == {"below_thresh", "cut_by_topk", "suppressed", "over_limit"}


def test_a_pair_beyond_what_a_trace_lists_was_cut_all_the_same():
    outputs = make_outputs(seed=3, size=(64, 96), num_classes=20)
    before = detect(outputs, PostprocessConfig(0.0, 1.0, 5000, 10_000))
    after = detect(outputs, PostprocessConfig(0.0, 1.0, 10, 10_000))
    lost = changes_of(compare(before, after), "lost")
    places = [change.fate.place for change in lost]
    assert {change.fate.fate for change in lost} == {"cut_by_topk"}
    assert None in places
    assert max(place for place in places if place) == 10 + CUT_SHOWN
    last = next(change for change in lost if change.fate.place is None)
    assert "too far down in its level" in change_sentence(last, before.config, after.config)
    threshold = detect(outputs, PostprocessConfig(0.3, 1.0, 10, 10_000))
    fates = {
        change.before.score > np.float32(0.3): change.fate.fate
        for change in changes_of(compare(before, threshold), "lost")
    }
    assert fates == {True: "cut_by_topk", False: "below_thresh"}


# --- words and plain data ------------------------------------------------------------------


def test_sentences():
    outputs = one_box_each([(0, 40, 0, 0.9), (0, 41, 0, 0.6)])
    before = detect(outputs, PostprocessConfig(nms_thresh=0.5))
    after = detect(outputs, PostprocessConfig(nms_thresh=0.7))
    comparison = compare(before, after)
    iou = float(box_iou(after.boxes, after.boxes)[0, 1])
    assert comparison_sentence(comparison) == (
        "1 gained, 0 lost, 0 moved, 0 relabelled, 1 unchanged."
    )
    (change,) = comparison.changes
    assert change_sentence(change, before.config, after.config) == (
        "ant 0.60 gained: nms_thresh 0.50 -> 0.70 did it alone; "
        f"before, a better ant box (0.90) suppressed it at IoU {iou:.2f}."
    )
    (change,) = compare(after, before).changes
    assert change_sentence(change, after.config, before.config).endswith(
        f"did it alone; now, a better ant box (0.90) suppresses it at IoU {iou:.2f}."
    )
    full = detect(outputs, PostprocessConfig(nms_thresh=0.7, detections_per_img=1))
    (change,) = compare(after, full).changes
    assert change_sentence(change, after.config, full.config) == (
        "ant 0.60 lost: detections_per_img 300 -> 1 did it alone; "
        "now, it is number 2 after NMS, beyond detections_per_img 1."
    )
    cut = detect(outputs, PostprocessConfig(nms_thresh=0.7, topk_candidates=1))
    (change,) = compare(cut, after).changes
    assert change_sentence(change, cut.config, after.config) == (
        "ant 0.60 gained: topk_candidates 1 -> 1,000 did it alone; "
        "before, it was number 2 in its level, beyond topk_candidates 1."
    )


def test_an_iou_next_to_the_threshold_is_written_out():
    """Rounded to two digits, 0.65, it would seem to contradict what happened."""
    outputs = one_box_each([(0, 0, 0, 0.9), (0, 1, 0, 0.6)])
    low, high = PostprocessConfig(nms_thresh=0.5), PostprocessConfig(nms_thresh=0.65)
    (change,) = compare(detect(outputs, low), detect(outputs, high)).changes
    assert f"{change.fate.by.iou:.2f}" == "0.65"
    assert change_sentence(change, low, high).endswith("suppressed it at IoU 0.645.")


def test_the_floor_of_a_class_is_a_knob_too():
    outputs = one_box_each([(0, 0, 0, 0.9), (1, 0, 1, 0.4)])
    before = detect(outputs, PostprocessConfig(score_thresh=0.3))
    after = detect(outputs, PostprocessConfig(score_thresh=0.3, class_score_thresh={1: 0.5}))
    (change,) = compare(before, after).changes
    assert (change.kind, change.knobs, change.alone) == ("lost", ("class_score_thresh",), True)
    assert (change.fate.fate, change.fate.by) == ("below_thresh", None)
    assert change_sentence(change, before.config, after.config) == (
        "bee 0.40 lost: class_score_thresh of bee none -> 0.50 did it alone; "
        "now, its score is not above class_score_thresh of bee 0.50."
    )
    # Another class's floor makes room.
    full = detect(outputs, PostprocessConfig(score_thresh=0.3, detections_per_img=1))
    room = detect(outputs, dataclasses.replace(full.config, class_score_thresh={0: 0.95}))
    lost, gained = (changes_of(compare(full, room), kind)[0] for kind in ("lost", "gained"))
    assert lost.knobs == gained.knobs == ("class_score_thresh",)
    assert change_sentence(gained, full.config, room.config) == (
        "bee 0.40 gained: class_score_thresh of other classes did it alone; "
        "before, it was number 2 after NMS, beyond detections_per_img 1."
    )


def test_plain_data_draws_both_sides(outputs):
    before = detect(outputs, PostprocessConfig(score_thresh=0.3))
    after = detect(outputs, PostprocessConfig(score_thresh=0.1, detections_per_img=20))
    comparison = compare(before, after)
    data = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    for name, trace in (("before", before), ("after", after)):
        assert data[name]["config"] == trace.config.to_dict()
        rows = data[name]["detections"]
        assert torch.equal(torch.tensor([row["box"] for row in rows]), trace.boxes)
        assert [row["category"] for row in rows] == names_of(trace)
    assert data["counts"] == comparison.counts
    assert len(data["changes"]) == len(comparison.changes)
    for plain, change in zip(data["changes"], comparison.changes, strict=True):
        assert (plain["kind"], tuple(plain["knobs"])) == (change.kind, change.knobs)
        for name in ("before", "after"):
            detection = getattr(change, name)
            assert plain[name] == (detection and detection.index)
    assert [tuple(pair) for pair in data["unchanged"]] == list(comparison.unchanged)


def test_boxes_that_are_not_numbers_are_lost_and_gained():
    broken = make_outputs(4)
    broken.bbox_regression[0][:] = math.nan
    whole = make_outputs(4)
    config = PostprocessConfig(score_thresh=0.3)
    comparison = compare(detect(broken, config), detect(whole, config))
    assert comparison.counts["lost"] > 0
    data = json.dumps(comparison.to_dict(), allow_nan=False)
    assert "null" in data


@pytest.mark.parametrize("same_iou", [0, -0.1, 1.01, math.nan, math.inf])
def test_an_iou_that_cannot_work_is_refused(outputs, same_iou):
    trace = detect(outputs)
    with pytest.raises(ConfigError, match="same_iou"):
        compare(trace, trace, same_iou=same_iou)


def test_traces_of_two_pictures_are_refused(outputs):
    trace = detect(dataclasses.replace(outputs, image_id="a"))
    for other in ({"image_id": "b"}, {"original_size": (9, 9)}):
        with pytest.raises(ValueError, match="different pictures"):
            compare(trace, detect(dataclasses.replace(outputs, **other)))
    compare(trace, detect(outputs))  # bare tensors have no id


def one_box_each(boxes, **kwargs):
    """Outputs whose only scores above zero are those given: (level, anchor, label, score).

    Deltas are 0, so the boxes are the anchors.
    """
    num_classes = kwargs.pop("num_classes", 3)
    outputs = make_outputs(size=(64, 64), num_classes=num_classes, delta=0.0)
    for level in outputs.cls_logits:
        level.fill_(-100.0)
    for level, anchor, label, score in boxes:
        outputs.cls_logits[level][anchor, label] = math.log(score / (1 - score))
    return dataclasses.replace(outputs, **kwargs)
