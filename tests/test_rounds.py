"""NMS told round by round adds up to what the trace says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from retinanet.candidates import FATES
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.rounds import nms_rounds

from .test_detection import make_outputs
from .test_explain import outputs_with


@pytest.fixture(scope="module")
def crowded():
    return make_outputs(seed=2, size=(64, 64), num_classes=3, delta=0.2)


@pytest.fixture(scope="module")
def many_classes():
    """Large class offsets: what NMS compares is rounded."""
    return make_outputs(seed=3, size=(64, 64), num_classes=91, delta=0.05)


@pytest.fixture(scope="module")
def tied():
    outputs = make_outputs(seed=4, size=(64, 64), num_classes=3, delta=0.2)
    outputs.cls_logits[:] = [(level * 4).round() / 4 for level in outputs.cls_logits]
    return outputs


def told_by_hand(trace):
    """The rounds as plain loops over NMS's order, with torchvision's IoU."""
    table = trace.candidates
    entered = [row for row in range(len(table)) if FATES[table.fate[row]] != "cut_by_topk"]
    entered.sort(key=lambda row: (-table.score[row], table.level[row], table.rank[row]))
    iou = box_iou(torch.tensor(trace.compared_boxes), torch.tensor(trace.compared_boxes)).numpy()
    rounds = []
    while entered:
        keeper = entered.pop(0)
        others = [row for row in entered if table.label[row] == table.label[keeper]]
        touching = [row for row in others if iou[keeper, row] > 0]
        removed = [bool(iou[keeper, row] > trace.config.nms_thresh) for row in touching]
        gone = {row for row, out in zip(touching, removed, strict=True) if out}
        entered = [row for row in entered if row not in gone]
        rounds.append(
            {
                "keeper": keeper,
                "compared": touching,
                "iou": [float(iou[keeper, row]) for row in touching],
                "removed": removed,
                "apart": len(others) - len(touching),
            }
        )
    return rounds


@pytest.mark.parametrize("kind", ["crowded", "many_classes", "tied"])
@pytest.mark.parametrize("nms_thresh", [0.0, 0.4, 1.0])
def test_rounds_are_those_of_plain_loops(kind, nms_thresh, request):
    config = PostprocessConfig(0.2, nms_thresh, topk_candidates=80, detections_per_img=30)
    trace = detect(request.getfixturevalue(kind), config)
    told = [part.to_dict() for part in nms_rounds(trace)]
    assert told == told_by_hand(trace)
    assert json.loads(json.dumps(told)) == told


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rounds_add_up_to_the_trace(crowded, many_classes, tied, data):
    outputs = data.draw(st.sampled_from([crowded, many_classes, tied]))
    config = PostprocessConfig(
        score_thresh=data.draw(st.floats(0, 1)),
        nms_thresh=data.draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1)),
        topk_candidates=data.draw(st.integers(1, 500)),
        detections_per_img=data.draw(st.integers(1, 300)),
        class_score_thresh=data.draw(st.dictionaries(st.integers(0, 2), st.floats(0, 1))),
    )
    trace = detect(outputs, config)
    rounds, table = nms_rounds(trace), trace.candidates
    by, iou = trace.suppressed_by.numpy(), trace.suppressed_iou.numpy()
    survivors = np.flatnonzero(table.position.numpy() > 0)
    assert sorted(part.keeper for part in rounds) == survivors.tolist()
    scores = table.score.numpy()[[part.keeper for part in rounds]]
    assert (scores[1:] <= scores[:-1]).all()

    removed = [row for part in rounds for row in part.compared[part.removed].tolist()]
    assert sorted(removed) == np.flatnonzero(by >= 0).tolist()  # each exactly once
    decided: set[int] = set()
    for part in rounds:
        decided.add(part.keeper)
        gone = part.compared[part.removed]
        assert (by[gone] == part.keeper).all()
        assert (part.iou[part.removed] == iou[gone]).all()
        assert (part.removed == (part.iou > np.float64(config.nms_thresh))).all()
        assert (part.iou > 0).all()
        assert (table.label.numpy()[part.compared] == int(table.label[part.keeper])).all()
        assert (np.diff(table.score.numpy()[part.compared]) <= 0).all()
        assert not decided & set(part.compared.tolist())
        decided |= set(gone.tolist())
    # Every two boxes of a class are compared once, unless one was gone before.
    for label in np.unique(table.label.numpy()):
        own = [part for part in rounds if int(table.label[part.keeper]) == label]
        entered = (table.label == label) & (table.fate != FATES.index("cut_by_topk"))
        undecided = int(entered.sum())
        for part in own:
            assert len(part.compared) + part.apart == undecided - 1
            undecided -= 1 + int(part.removed.sum())
        assert undecided == 0


def test_a_small_story():
    outputs = outputs_with(
        [
            (0, 300, 0.5, (0, 36, 40, 76)),  # IoU with the next 960 / 2240
            (1, 100, 0.6, (0, 20, 40, 60)),  # IoU with the next 1 / 3
            (2, 50, 0.7, (0, 0, 40, 40)),
            (2, 60, 0.9, (60, 90, 69, 99)),
        ]
    )
    trace = detect(outputs, PostprocessConfig(nms_thresh=0.3))
    rounds = [part.to_dict() for part in nms_rounds(trace)]
    # Rows: the kept ones 0.9, 0.7, 0.5, then the suppressed 0.6.
    assert [part["keeper"] for part in rounds] == [0, 1, 2]
    assert rounds[0] == {"keeper": 0, "compared": [], "iou": [], "removed": [], "apart": 3}
    assert rounds[1]["compared"] == [3, 2]
    assert rounds[1]["iou"] == pytest.approx([1 / 3, 160 / 3040], abs=1e-3)
    assert rounds[1]["removed"] == [True, False]
    assert rounds[2] == {"keeper": 2, "compared": [], "iou": [], "removed": [], "apart": 0}


def test_the_first_rounds_alone(crowded):
    trace = detect(crowded)
    every = [part.to_dict() for part in nms_rounds(trace)]
    for limit in (0, 1, 7, len(every), 10**6):
        assert [part.to_dict() for part in nms_rounds(trace, limit)] == every[:limit]
    with pytest.raises(ValueError, match="0 or more, not -1"):
        nms_rounds(trace, -1)
    with pytest.raises(TypeError):
        nms_rounds(trace, 1.5)


def test_nothing_enters_nothing_is_told(crowded):
    assert nms_rounds(detect(crowded, PostprocessConfig(score_thresh=1.0))) == []
