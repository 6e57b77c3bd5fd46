"""Floors of single classes: the setting, the fates, the knob values, the command line."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import batched_nms, clip_boxes_to_image

from retinanet import candidates as candidates_module
from retinanet import explain as explain_module
from retinanet.__main__ import main
from retinanet.candidates import FATES, candidates_of
from retinanet.checkpoint_metadata import Metadata, from_strings, to_strings
from retinanet.checkpoints import load_model, save_checkpoint
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.detection import detect
from retinanet.images import load_image
from retinanet.keymaps import CheckpointError

from .test_detection import make_outputs
from .test_explain import check_story
from .zoo import noise
from .zoo_checkpoints import tiny_model

FOUR = ["score_thresh", "nms_thresh", "topk_candidates", "detections_per_img"]


# --- the setting ---------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 200), st.floats(0, 1), min_size=1))
def test_the_setting_is_read_from_any_form_and_back(floors):
    config = PostprocessConfig(class_score_thresh=floors)
    assert config.class_score_thresh == tuple(sorted(floors.items()))
    others = [list(floors.items()), reversed(list(floors.items())), config.class_score_thresh]
    for other in others:
        assert PostprocessConfig(class_score_thresh=other) == config
    assert hash(config) == hash(PostprocessConfig(class_score_thresh=dict(floors)))
    plain = json.loads(json.dumps(config.to_dict()))
    assert plain == config.to_dict()
    assert plain["class_score_thresh"] == {str(label): value for label, value in floors.items()}
    assert PostprocessConfig.from_dict(plain) == config
    assert PostprocessConfig(**plain) == config
    stored = from_strings(to_strings(Metadata(recommended=config)))
    assert stored.recommended == config


def test_without_floors_the_plain_data_has_the_four_keys():
    assert list(PostprocessConfig().to_dict()) == FOUR
    assert PostprocessConfig.from_dict(PostprocessConfig().to_dict()) == PostprocessConfig()
    assert PostprocessConfig(class_score_thresh={}) == PostprocessConfig()


@pytest.mark.parametrize(
    ("floors", "words"),
    [
        (0.5, "number for each"),
        (None, "number for each"),
        ("0=0.5", "number for each"),
        ([0, 1], "number for each"),
        ([(0, 0.5, 1)], "number for each"),
        ({-1: 0.5}, "must be 0 or more, not -1"),
        ({1.5: 0.5}, "whole number"),
        ({True: 0.5}, "whole number"),
        ({"cat": 0.5}, "whole number"),
        ({"9" * 5000: 0.5}, "whole number"),
        ({0: 1.5}, "between 0 and 1, not 1.5"),
        ({0: -0.1}, "between 0 and 1"),
        ({0: math.nan}, "must be a number"),
        ({0: "0.5"}, "must be a number"),
        ([(2, 0.5), (2, 0.6)], "label 2 twice"),
        ({"2": 0.5, 2: 0.6}, "label 2 twice"),
    ],
)
def test_what_cannot_work_is_refused_in_words(floors, words):
    with pytest.raises(ConfigError, match=words) as refused:
        PostprocessConfig(class_score_thresh=floors)
    assert str(refused.value).endswith(".")


def test_a_checkpoint_cannot_bring_in_nonsense():
    strings = to_strings(Metadata())
    for floors in ('{"cat": 0.5}', "[[0, 7]]", "3", '{"0": null}'):
        unusable = {**strings, "recommended": f'{{"class_score_thresh": {floors}}}'}
        with pytest.raises(CheckpointError, match="class_score_thresh"):
            from_strings(unusable)


# --- the fates -----------------------------------------------------------------------------


def by_hand(outputs, config):
    """Boxes, scores, labels, and how many pairs of each level pass; by torch and torchvision."""
    least = torch.full((outputs.num_classes,), config.score_thresh)
    for label, floor in config.class_score_thresh:
        if label < outputs.num_classes:
            least[label] = max(least[label], torch.tensor(floor))
    parts, passing = [], []
    levels = zip(outputs.cls_logits, outputs.bbox_regression, outputs.anchors, strict=True)
    for logits, deltas, anchors in levels:
        scores = torch.sigmoid(logits)
        flat = (scores > least).flatten().nonzero().flatten()
        best = scores.flatten()[flat]
        passing.append(len(best))
        best, chosen = best.topk(min(len(best), config.topk_candidates))
        anchor, label = flat[chosen] // outputs.num_classes, flat[chosen] % outputs.num_classes
        boxes = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(deltas[anchor], anchors[anchor])
        parts.append((clip_boxes_to_image(boxes, outputs.image_size), best, label))
    boxes, scores, labels = map(torch.cat, zip(*parts, strict=True))
    kept = batched_nms(boxes, scores, labels, config.nms_thresh)[: config.detections_per_img]
    original = resize_boxes(boxes[kept], outputs.image_size, outputs.original_size)
    return original, scores[kept], labels[kept], passing


def random_setting(generator, num_classes):
    some = generator.choice(num_classes, generator.integers(1, num_classes + 1), replace=False)
    draws = [0.0, 1.0, *generator.random(3), *generator.random(3) ** 2]
    return PostprocessConfig(
        score_thresh=float(generator.choice([0.0, 0.001, *generator.random(3) ** 2])),
        nms_thresh=float(generator.random()),
        topk_candidates=int(generator.choice([1, 50, 300, 1000, 4500])),
        detections_per_img=int(generator.choice([5, 100, 1000])),
        class_score_thresh={int(label): float(generator.choice(draws)) for label in some},
    )


def with_ties(outputs):
    return dataclasses.replace(
        outputs, cls_logits=[(level * 8).round() / 8 for level in outputs.cls_logits]
    )


PICTURES = {
    "few classes": lambda: make_outputs(0),
    "many classes": lambda: make_outputs(1, (64, 96), num_classes=30),
    "one class": lambda: make_outputs(2, num_classes=1),
    "equal scores": lambda: with_ties(make_outputs(3)),
    "not numbers": lambda: not_numbers(make_outputs(4)),
}


def not_numbers(outputs):
    outputs.cls_logits[0][::3] = math.nan
    outputs.cls_logits[1][:, 1] = math.inf
    return outputs


@pytest.mark.parametrize("kind", PICTURES)
def test_equals_what_is_done_by_hand(kind, monkeypatch):
    """Also where floors leave so few of the prepared pairs that all scores are asked again."""
    monkeypatch.setattr(candidates_module, "HEAD_PAIRS", 1500)
    outputs = PICTURES[kind]()
    generator = np.random.default_rng(0)
    for _ in range(60):
        config = random_setting(generator, outputs.num_classes)
        trace, (boxes, scores, labels, passing) = detect(outputs, config), by_hand(outputs, config)
        assert torch.equal(trace.boxes, boxes), config
        assert torch.equal(trace.scores, scores), config
        assert torch.equal(trace.labels, labels), config
        for counts, logits, above in zip(
            trace.counts_per_level.values(), outputs.cls_logits, passing, strict=True
        ):
            assert sum(counts.values()) == logits.numel()
            assert min(counts.values()) >= 0
            assert counts["below_thresh"] == logits.numel() - above
            assert counts["cut_by_topk"] == max(0, above - config.topk_candidates)
    if kind == "few classes":
        assert candidates_of(outputs)._floored  # all scores were asked
        assert candidates_of(outputs)._columns


def test_a_floor_that_is_a_score_stops_that_pair():
    outputs = make_outputs(0)
    score, label = (float(detect(outputs).scores[0]), int(detect(outputs).labels[0]))
    at = detect(outputs, PostprocessConfig(class_score_thresh={label: score}))
    below = detect(
        outputs,
        PostprocessConfig(
            class_score_thresh={label: float(np.nextafter(np.float32(score), np.float32(0)))}
        ),
    )
    assert label not in at.labels
    assert below.scores[below.labels == label].tolist() == [score]


@pytest.mark.parametrize("kind", PICTURES)
def test_floors_at_or_below_score_thresh_change_nothing(kind):
    outputs = PICTURES[kind]()
    generator = np.random.default_rng(1)
    for _ in range(25):
        config = random_setting(generator, outputs.num_classes)
        low = {label: min(floor, config.score_thresh) for label, floor in config.class_score_thresh}
        low[outputs.num_classes + 3] = 0.9  # a class that the model has not
        plain = detect(outputs, dataclasses.replace(config, class_score_thresh=()))
        trace = detect(outputs, dataclasses.replace(config, class_score_thresh=low))
        assert trace.counts_per_level == plain.counts_per_level
        for name in ("boxes", "scores", "labels", "survivors"):
            assert torch.equal(getattr(trace, name), getattr(plain, name))
        for name in trace.candidates.__slots__:
            listed, expected = getattr(trace.candidates, name), getattr(plain.candidates, name)
            assert torch.equal(listed, expected)
        assert torch.equal(trace.suppressed_by, plain.suppressed_by)


def kept_of_others(trace, label):
    pairs = zip(trace.boxes.tolist(), trace.scores.tolist(), trace.labels.tolist(), strict=True)
    return [pair for pair in pairs if pair[2] != label]


def test_a_floor_touches_other_classes_only_through_top_k_and_the_cap():
    outputs = make_outputs(5)
    generator = np.random.default_rng(2)
    entered_more = 0
    for _ in range(30):
        config = dataclasses.replace(
            random_setting(generator, 5), topk_candidates=10**6, detections_per_img=10**6
        )
        label, lower = (int(generator.integers(5)), dict(config.class_score_thresh))
        higher = {**lower, label: min(1.0, lower.get(label, 0.0) + float(generator.random()))}
        plain = detect(outputs, config)
        raised = detect(outputs, dataclasses.replace(config, class_score_thresh=higher))
        assert kept_of_others(raised, label) == kept_of_others(plain, label)
        own = raised.scores[raised.labels == label].tolist()
        # Of the class itself the best stay: NMS is greedy by score.
        assert own == [
            score
            for score in plain.scores[plain.labels == label].tolist()
            if np.float32(score) > np.float32(higher[label])
        ]
        # With top-K in force, the places that become free go to other classes.
        cut = {"topk_candidates": 60, "score_thresh": 0.0}
        few = detect(outputs, dataclasses.replace(config, **cut)).candidates
        freed = detect(
            outputs, dataclasses.replace(config, class_score_thresh=higher, **cut)
        ).candidates
        entered = [
            {
                (level, anchor, own)
                for level, anchor, own, fate in zip(
                    table.level.tolist(),
                    table.anchor.tolist(),
                    table.label.tolist(),
                    table.fate.tolist(),
                    strict=True,
                )
                if own != label and FATES[fate] != "cut_by_topk"
            }
            for table in (few, freed)
        ]
        assert entered[0] <= entered[1]
        entered_more += entered[0] < entered[1]
    assert entered_more > 5


def test_ranks_and_suppressors_count_what_is_left():
    outputs = make_outputs(2, (64, 64), num_classes=3, delta=0.2)
    config = PostprocessConfig(class_score_thresh={0: 0.4, 2: 0.2}, detections_per_img=60)
    trace = detect(outputs, config)
    least, table = torch.tensor([0.4, 0.05, 0.2]), trace.candidates
    assert (table.score > least[table.label]).all()
    for row in range(0, len(table), 37):
        level, score = int(table.level[row]), table.score[row]
        scores = torch.sigmoid(outputs.cls_logits[level])
        assert int(table.rank[row]) == 1 + int(((scores > score) & (scores > least)).sum())
    for row in torch.nonzero(trace.suppressed_by >= 0).flatten()[:20].tolist():
        by = trace.explain(row)["suppressed_by"]
        assert trace.explain(by["candidate"])["fate"] in ("kept", "over_limit")
        assert by["iou"] > config.nms_thresh


# --- the knob values -----------------------------------------------------------------------


STORIES = [
    PostprocessConfig(class_score_thresh={0: 0.5, 1: 0.1}),
    PostprocessConfig(score_thresh=0.3, class_score_thresh={0: 0.2, 1: 0.6}, detections_per_img=15),
    PostprocessConfig(score_thresh=0.2, class_score_thresh={2: 0.4}, topk_candidates=60),
    PostprocessConfig(
        score_thresh=0.0, class_score_thresh={0: 0.3, 1: 0.02}, topk_candidates=250, nms_thresh=0.7
    ),
]


@pytest.mark.parametrize("config", STORIES)
@pytest.mark.parametrize("classes", [3, 91])
def test_knob_values_are_exact_with_floors(config, classes):
    """A floor below the score threshold counts too, once that is lowered."""
    outputs = make_outputs(2, (64, 64), num_classes=classes, delta=0.1)
    generator = np.random.default_rng(0)
    trace = detect(outputs, config)
    fates, labels = trace.candidates.fate.numpy(), trace.candidates.label.numpy()
    floored = np.isin(labels, [label for label, _ in config.class_score_thresh])
    for fate in np.unique(fates):
        rows = np.flatnonzero((fates == fate) & floored)
        rows = rows if len(rows) else np.flatnonzero(fates == fate)
        check_story(outputs, config, trace, int(generator.choice(rows)), generator)


def test_knob_values_do_not_depend_on_how_much_is_prepared(monkeypatch):
    """Floors can leave less of the prepared pairs than enter NMS at a lower score threshold."""
    config = PostprocessConfig(
        score_thresh=0.8, class_score_thresh=dict.fromkeys(range(4), 0.9), topk_candidates=1500
    )
    outputs = make_outputs(3, delta=0.05)
    trace = detect(outputs, config)
    monkeypatch.setattr(candidates_module, "HEAD_PAIRS", 300)
    scant = dataclasses.replace(outputs)
    other = detect(scant, config)
    assert max(map(len, other.heads)) < 200
    scores = trace.scores[[0, 10, len(trace) - 1]].tolist()
    for score in scores:
        stretches = [explain_module._score_stretches(t, score) for t in (trace, other)]
        assert len(stretches[0]) > 1
        assert stretches[0] == stretches[1]
    for row in (0, 10, len(trace) - 1):
        assert trace.explain(row) == other.explain(row)
        check_story(scant, config, other, row, np.random.default_rng(row))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_knob_values_are_exact_for_any_floors(data):
    outputs = make_outputs(6, (64, 64), num_classes=4, delta=0.2)
    config = PostprocessConfig(
        score_thresh=data.draw(st.floats(0, 0.5)),
        nms_thresh=data.draw(st.floats(0, 1)),
        topk_candidates=data.draw(st.integers(1, 400)),
        detections_per_img=data.draw(st.integers(1, 200)),
        class_score_thresh=data.draw(st.dictionaries(st.integers(0, 5), st.floats(0, 0.8))),
    )
    trace = detect(outputs, config)
    if len(trace.candidates):
        index = data.draw(st.integers(0, len(trace.candidates) - 1))
        check_story(outputs, config, trace, index, np.random.default_rng(index))


# --- the command line ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A photo and the weights of a tiny model that finds something in it."""
    folder = tmp_path_factory.mktemp("floors")
    torch.manual_seed(1)
    model = load_model("random", tiny_model().config.to_dict(), "cpu")
    model.categories = ("traffic light", None, "dog")
    logits = torch.cat(model(noise(96, 64)).cls_logits)
    layer = model.head.classification_head.cls_logits
    with torch.no_grad():
        layer.weight.mul_(1.5 / logits.std())
        layer.bias.fill_(-5.0)
    recommended = PostprocessConfig(score_thresh=0.03, class_score_thresh={2: 0.06})
    save_checkpoint(model, folder / "tiny.safetensors", recommended=recommended)
    noise(96, 64).save(folder / "photo.png")
    return folder


def run(files, *options):
    photo, weights = str(files / "photo.png"), str(files / "tiny.safetensors")
    target = files / "boxes.json"
    target.unlink(missing_ok=True)
    try:
        code = main(["detect", photo, "--weights", weights, "--json", str(target), *options])
    except SystemExit as end:  # argparse's way
        code = end.code
    return code, json.loads(target.read_text()) if target.exists() else None


@pytest.mark.parametrize(
    ("options", "floors"),
    [
        ([], {2: 0.06}),  # as the weights recommend
        (["--class-score-thresh", "dog=0.2", "traffic light=0.1"], {0: 0.1, 2: 0.2}),
        (["--class-score-thresh", "1=0.15", "--class-score-thresh", "2=0.1"], {1: 0.15, 2: 0.1}),
        (["--class-score-thresh", "dog=0"], {}),
    ],
)
def test_detect_takes_floors_by_name_or_label(files, options, floors):
    code, found = run(files, *options)
    assert code == 0
    outputs = load_model(str(files / "tiny.safetensors"), device="cpu")(
        load_image(files / "photo.png")
    )
    trace = detect(outputs, PostprocessConfig(score_thresh=0.03, class_score_thresh=floors))
    assert [entry["score"] for entry in found] == trace.scores.tolist()
    assert len(set(trace.labels.tolist())) == 3
    plain = detect(outputs, PostprocessConfig(score_thresh=0.03)).scores.tolist()
    assert (trace.scores.tolist() != plain) == bool(floors)


@pytest.mark.parametrize(
    ("floors", "words"),
    [
        (["cat=0.5"], "has no class 'cat'"),
        (["3=0.5"], "has no class '3'"),
        (["dog"], "'dog' is not of the form CLASS=SCORE"),
        (["dog=high"], "'dog=high' is not of the form CLASS=SCORE"),
        (["dog=1.5"], "between 0 and 1, not 1.5"),
        (["dog=nan"], "must be a number"),
        (["dog=0.2", "2=0.3"], "label 2 twice"),
        ([], "expected at least one argument"),
    ],
)
def test_bad_floors_end_in_one_line(files, capsys, floors, words):
    code, found = run(files, "--class-score-thresh", *floors)
    printed = capsys.readouterr()
    assert (code, found, printed.out) == (2, None, "")
    complaint = printed.err.splitlines()[-1]
    assert words in complaint
    assert "Traceback" not in printed.err
