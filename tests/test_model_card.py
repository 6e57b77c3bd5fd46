"""Intervals, thresholds judged on other photos, and the measured part of a card."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from retinanet import model_card
from retinanet.__main__ import main
from retinanet.card_reading import (
    ENTRY,
    class_rows,
    data_sentence,
    measured,
    metric_rows,
    size_and_speed_sentences,
    threshold_sentences,
)
from retinanet.checkpoints import load_model, save_checkpoint
from retinanet.coco import ground_truth, load_coco
from retinanet.config import ConfigError, ModelConfig, PostprocessConfig
from retinanet.evaluation import AP_POSTPROCESS, METRICS, coco_results, score
from retinanet.model import RetinaNet
from retinanet.model_card import GRID, measure_card, precise_setting
from retinanet.sweeps import (
    Grid,
    ap_intervals,
    held_out_floors,
    results,
    sweep,
)
from retinanet.sweeps.bootstrap import _Sample
from tests.made_up import fill_store, write_boxes
from tests.shapes import write_shapes

CONFIG = PostprocessConfig(score_thresh=0.02, topk_candidates=400, detections_per_img=100)


FEW = Grid((0.01, 0.1, 0.3, 0.5), (0.3, 0.5))


@pytest.fixture(scope="module", autouse=True)
def _few_settings():
    """A tiny model has scores all over: each setting of the whole surface would take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_card, "GRID", FEW)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_boxes(tmp_path_factory.mktemp("boxes"), photos=8)


@pytest.fixture(scope="module")
def store(dataset, tmp_path_factory):
    return fill_store(tmp_path_factory.mktemp("store"), dataset, ties=False)


@pytest.fixture(scope="module")
def swept(store, dataset):
    grid = Grid((0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 0.5, 400, 100)
    return sweep(store, dataset, grid, latency_photos=0)


# ------------------------------------------------------------------ intervals


def test_the_value_is_that_of_the_sweep_and_lies_in_its_interval(swept):
    found = ap_intervals(swept, CONFIG, ("a", "c"), resamples=50)
    row = swept.at(CONFIG)
    per_class = {own["category"]: own["AP50"] for own in swept.per_class(CONFIG)}
    assert {name: own.value for name, own in found.items()} == pytest.approx(
        {name: row.metrics[name] for name in ("AP", "AP50", "AP75")}
        | {f"AP50 of {name}": per_class[name] for name in ("a", "c")}
    )
    for own in found.values():
        assert 0 < own.high - own.low < 0.6
        assert own.low <= own.value <= own.high


def drawn_again(dataset, found, times):
    """The data set with each photo as often as it was drawn, and the results on it."""
    truth = ground_truth(dataset)
    data = {"images": [], "annotations": [], "categories": truth["categories"]}
    detected = []
    for photo, count in zip(sorted(dataset.photos, key=lambda p: p.image_id), times, strict=True):
        for _ in range(count):
            new = len(data["images"]) + 1
            entry = {"id": new, "file_name": photo.path.name}
            data["images"].append(entry | {"width": photo.width, "height": photo.height})
            for own in truth["annotations"]:
                if own["image_id"] == photo.image_id:
                    data["annotations"].append(own | {"image_id": new})
            detected += [d | {"image_id": new} for d in found if d["image_id"] == photo.image_id]
    return data, detected


@pytest.mark.parametrize("times", [(2, 0, 1, 1, 3, 0, 0, 1), (0, 0, 0, 4, 0, 0, 4, 0)])
def test_a_photo_drawn_twice_counts_as_two(swept, store, dataset, tmp_path, times):
    """pycocotools' numbers for a data set that has the photo twice, to the last digit."""
    data, detected = drawn_again(dataset, list(results(store, CONFIG, dataset)), times)
    file = tmp_path / "again.json"
    file.write_text(json.dumps(data))
    expected = score(load_coco(file, dataset.photos[0].path.parent), detected)
    values = _Sample(swept.matched, CONFIG).quantities(np.array(times), ("a", "b"))
    per_class = expected["AP50_per_class"]
    wanted = [expected[name] for name in ("AP", "AP50", "AP75")]
    wanted += [per_class.get(name, float("nan")) for name in ("a", "b")]
    assert values == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def test_intervals_are_wider_the_surer_they_are_and_the_same_for_a_seed(swept):
    def of(**settings):
        return ap_intervals(swept, CONFIG, resamples=100, **settings)["AP"]

    assert of(seed=3) == of(seed=3)
    assert of(seed=3) != of(seed=4)
    narrow, wide = of(level=0.5), of(level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resamples": 0}, "1 resample or more"),
        ({"seed": -1}, "a seed of 0 or more"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"classes": ("dragon",)}, "no class 'dragon'"),
        ({"config": PostprocessConfig(score_thresh=0.77)}, "not in the swept grid"),
    ],
)
def test_what_a_bootstrap_refuses(swept, settings, said):
    with pytest.raises(ConfigError, match=said):
        ap_intervals(swept, **{"config": CONFIG} | settings)


def test_the_recommended_setting_is_the_best_of_the_precise_ones(swept):
    wanted = sorted(row.counts.precision for row in swept.rows)[-2]
    chosen = precise_setting(swept, wanted)
    allowed = [row.counts.f1 for row in swept.rows if row.counts.precision >= wanted]
    assert len(allowed) == 2
    assert chosen.counts.f1 == max(allowed)
    assert chosen.counts.precision >= wanted
    assert precise_setting(swept, 0.0) == precise_setting(swept, 1.1) == swept.best("f1")


# ------------------------------------------------------------------ thresholds on other photos


def test_held_out_floors_are_counted_on_the_photos_they_were_not_chosen_on(swept, dataset):
    found = held_out_floors(swept, folds=4, seed=1)
    objects = sum(not a["iscrowd"] for a in ground_truth(dataset)["annotations"])
    for counts in (found.one, found.each):
        assert counts.tp + counts.fn == objects  # every photo is judged once
    best = max(row.counts.f1 for row in swept.rows)
    assert found.one.f1 <= best + 0.05  # chosen elsewhere: hardly ever better than hindsight
    assert found.pays == (found.each.f1 > found.one.f1)
    assert held_out_floors(swept, folds=4, seed=1) == found


def test_one_photo_a_fold_is_choosing_on_all_the_others(swept):
    """Leave one out, worked out again by plain counting."""
    rows = swept.matched.at(0.02, 0.5, 400, 100)
    rows = rows[rows["column"] >= 0]
    images, _ = swept.matched.truths.by_image
    right = (rows["true"] & np.uint64(1)) != 0
    wrong = ~right & ((rows["ignored"] & np.uint64(1)) == 0)
    tp = fp = 0
    for photo in range(swept.photos):
        others = rows["image"] != photo
        objects = int((images != photo).sum())

        def f1(threshold, others=others, objects=objects):
            kept = others & (rows["score"] > threshold)
            hits, misses = int((kept & right).sum()), int((kept & wrong).sum())
            return 2 * hits / (hits + misses + objects)

        candidates = np.append(0.02, rows["score"][others])
        best = max(f1(threshold) for threshold in candidates)
        threshold = max(t for t in candidates if f1(t) == best)
        kept = ~others & (rows["score"] > threshold)
        tp, fp = tp + int((kept & right).sum()), fp + int((kept & wrong).sum())
    found = held_out_floors(swept, folds=swept.photos).one
    # The floor lies between two scores of the others, a photo's own may lie there, too.
    assert abs(found.tp - tp) <= 1
    assert abs(found.fp - fp) <= 2


@pytest.mark.parametrize("folds", [1, 9])
def test_too_few_and_too_many_folds(swept, folds):
    with pytest.raises(ConfigError, match="8 photos can be split into 2 to 8 folds"):
        held_out_floors(swept, folds=folds)


# ------------------------------------------------------------------ the card


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model with scores all over, and photos to measure it on."""
    folder = tmp_path_factory.mktemp("card")
    write_shapes(folder / "data", photos=5)
    torch.manual_seed(0)
    config = ModelConfig(depth=18, num_classes=2, num_convs=1, min_size=64, max_size=96)
    model = RetinaNet(config, ("red", "blue"), (1, 7))
    with torch.no_grad():
        model.head.classification_head.cls_logits.weight.mul_(8)
        model.head.classification_head.cls_logits.bias.fill_(-2)
    save_checkpoint(model, folder / "m.safetensors", card={"title": "Tiny", "data": ["made up"]})
    return folder


@pytest.fixture(scope="module")
def written(place):
    """The command's checkpoint."""
    data = place / "data"
    words = place / "words.json"
    words.write_text(json.dumps({"title": "Tiny and measured"}))
    arguments = [str(place / "m.safetensors"), str(data / "instances.json")]
    arguments += ["--images", str(data / "images"), "--device", "cpu", "--card", str(words)]
    arguments += ["--work-folder", str(place / "work"), "--resamples", "20"]
    assert main(["card", *arguments, "--out", str(place / "out.safetensors")]) == 0
    return load_model(place / "out.safetensors", device="cpu")


def test_the_checkpoint_has_its_card_its_thresholds_and_the_same_weights(place, written, capsys):
    before = load_model(place / "m.safetensors", device="cpu")
    for name, value in before.state_dict().items():
        assert torch.equal(value, written.state_dict()[name]), name
    assert {k: v for k, v in written.card.items() if k != ENTRY} == {
        "title": "Tiny and measured",
        "data": ["made up"],
    }
    dataset = load_coco(place / "data" / "instances.json", place / "data" / "images")
    expected = score(dataset, coco_results(before, dataset))
    found = measured(written.card)
    values = {row.metric: row.value for row in metric_rows(found)}
    wanted = {name: expected[name] for name in METRICS if expected[name] == expected[name]}
    assert values.keys() >= wanted.keys()
    assert {name: values[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
    assert {row.category: row.AP50 for row in class_rows(found)} == pytest.approx(
        expected["AP50_per_class"], abs=1e-4
    )
    assert sum(row.objects for row in class_rows(found)) == found["data"]["objects"]
    assert found["size"]["parameters"] == sum(p.numel() for p in before.parameters())
    size = (place / "out.safetensors").stat().st_size
    assert 0 < size - found["size"]["bytes_fp16"] < 100_000  # the header


def test_the_recommended_thresholds_have_the_best_f1_of_the_surface(place, written, tmp_path):
    dataset = load_coco(place / "data" / "instances.json", place / "data" / "images")
    model = load_model(place / "m.safetensors", device="cpu")
    card = measure_card(model, dataset, tmp_path, resamples=2)
    assert card.recommended == written.recommended
    assert written.recommended in FEW.settings or written.recommended.class_score_thresh
    chosen = card.card["thresholds"]["best_by_f1"]
    assert card.card["thresholds"]["f1"] <= chosen["f1"]
    for other in (0.1, 0.3, 0.5):
        assert score_f1(model, dataset, PostprocessConfig(other, 0.5, 1000, 100)) <= (
            chosen["f1"] + 1e-4
        )


def score_f1(model, dataset, config):
    """F1 at IoU .5 by pycocotools' matching: there are no crowds in the shapes."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth(dataset)
        truth.createIndex()
        found = coco_results(model, dataset, config)
        if not found:
            return 0.0
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
    of_all = [e for e in evaluation.evalImgs if e and e["aRng"] == [0, 1e10]]
    hits = sum(int((e["dtMatches"][0] > 0).sum()) for e in of_all)
    return 2 * hits / (len(found) + len(truth.dataset["annotations"]))


def test_measuring_changes_nothing_of_the_model(place, tmp_path):
    dataset = load_coco(place / "data" / "instances.json", place / "data" / "images")
    model = load_model(place / "m.safetensors", device="cpu")
    before = model.config
    measure_card(model, dataset, tmp_path, resamples=1)
    assert model.config is before


def test_a_file_that_cannot_be_written_is_refused_before_the_work(place, capsys):
    data = place / "data"
    arguments = [str(place / "m.safetensors"), str(data / "instances.json")]
    arguments += ["--images", str(data / "images")]
    assert main(["card", *arguments, "--out", str(place / "no" / "x.safetensors")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "-1"], "a seed of 0 or more"),
        (["--resamples", "0"], "1 resample or more"),
        (["--out", "x.pth"], "must end in .safetensors"),
    ],
)
def test_bad_options_are_refused_before_the_work(place, tmp_path, capsys, arguments, said):
    data, work = place / "data", tmp_path / "work"
    start = [str(place / "m.safetensors"), str(data / "instances.json")]
    start += ["--images", str(data / "images"), "--work-folder", str(work)]
    assert main(["card", *start, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not work.exists()


def test_what_is_measured_is_not_overwritten(place, capsys):
    data, source = place / "data", place / "m.safetensors"
    start = [str(source), str(data / "instances.json"), "--images", str(data / "images")]
    assert main(["card", *start, "--out", str(source)]) == 2
    assert "would be overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(annotations=[]), "has no objects to find"),
        (lambda data: data.update(images=data["images"][:1]), "two photos or more"),
    ],
)
def test_too_little_to_measure_on_is_said(place, tmp_path, capsys, change, said):
    data = json.loads((place / "data" / "instances.json").read_text())
    change(data)
    file = tmp_path / "little.json"
    file.write_text(json.dumps(data))
    start = [str(place / "m.safetensors"), str(file), "--images", str(place / "data" / "images")]
    assert main(["card", *start, "--work-folder", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_photo_that_cannot_be_read_is_left_out_and_named(place, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for photo in (place / "data" / "images").iterdir():
        (images / photo.name).write_bytes(photo.read_bytes())
    dataset = load_coco(place / "data" / "instances.json", images)
    dataset.photos[0].path.write_bytes(b"no picture")
    model = load_model(place / "m.safetensors", device="cpu")
    card = measure_card(model, dataset, tmp_path / "work", resamples=2).card
    assert card["data"]["photos"] == 4
    assert [own[0] for own in card["data"]["left_out"]] == [dataset.photos[0].image_id]


def test_the_sentences_say_the_numbers():
    card = {
        "data": {"annotations": "dev.json", "photos": 60, "objects": 1499},
        "metrics": {"AP": {"value": 0.1}},
        "thresholds": {
            "score_thresh": 0.26,
            "nms_thresh": 0.5,
            "f1": 0.3,
            "precision": 0.5,
            "recall": 0.214,
            "precision_asked_for": 0.5,
            "best_by_f1": {
                "score_thresh": 0.2,
                "nms_thresh": 0.4,
                "f1": 0.31,
                "precision": 0.35,
                "recall": 0.25,
            },
            "held_out_f1": {"one_threshold": 0.28, "floor_for_each_class": 0.2, "folds": 5},
        },
        "size": {"parameters": 37_968_000, "bytes_fp16": 76_100_000},
        "speed": {"device": "CPU, 2 threads", "network_seconds": 0.25, "share_of_800_px": 0.1},
    }
    assert data_sentence(card) == "Measured on the 60 photos of dev.json, with 1,499 objects."
    assert threshold_sentences(card) == [
        "Recommended: score_thresh 0.26 and nms_thresh 0.5. There 50% of the boxes are right, 21% "
        "of the objects are found, and F1 is 0.30.",
        "It has the best F1 of the settings with 50% of the boxes right or more. F1 alone is "
        "highest (0.31) at score_thresh 0.2 and nms_thresh 0.4, with 35% right and 25% found.",
        "On photos that the thresholds were not chosen on, a threshold for each class gives F1 "
        "0.200 instead of 0.280 with one for all, and all classes share one.",
    ]
    assert size_and_speed_sentences(card) == [
        "37,968,000 parameters, 76.1 MB as float16.",
        "The network takes 0.25 s for a photo on CPU, 2 threads: 0.10 of what it takes at the "
        "paper's 800 px.",
    ]


@pytest.mark.parametrize(
    "entry",
    [
        "text",
        [],
        {},
        {"metrics": [1, 2]},
        {"metrics": {"AP": 0.1}},
        {"metrics": {"AP": {"value": "high"}}},
        {"metrics": {"AP": {"value": float("nan")}}},
        {"metrics": {"AP": {"value": 7}}},
        {"metrics": {"AP": {"value": True}}},
    ],
)
def test_a_strangers_card_is_no_reason_to_fail(entry):
    assert measured({ENTRY: entry}) is None


def test_a_card_with_some_of_it_damaged_shows_the_rest():
    card = {
        "metrics": {"AP": {"value": 0.1, "low": "x"}, "AP50": None},
        "classes": [{"category": "cat", "AP50": 0.5, "AP": 0.2, "objects": 3}, 7, {"category": 1}],
        "thresholds": [],
        "size": {"parameters": -4},
        "data": {"photos": 2.5},
    }
    found = measured({ENTRY: card})
    assert [(row.value, row.low) for row in metric_rows(found)] == [(0.1, None)]
    assert [row.category for row in class_rows(found)] == ["cat"]
    assert data_sentence(found) == ""
    assert threshold_sentences(found) == size_and_speed_sentences(found) == []


def test_a_name_that_cannot_be_shown_is_made_so():
    card = {"metrics": {"A\ud800P": {"value": 0.1}}, "data": {"annotations": "\ud800" * 999}}
    assert metric_rows(card)[0].metric == "A?P"
    assert data_sentence(card | {"data": {"annotations": "\ud800", "photos": 1, "objects": 1}}) == (
        "Measured on the 1 photos of ?, with 1 objects."
    )


def test_ap_is_measured_where_the_surface_has_it():
    assert AP_POSTPROCESS in GRID.settings
    assert replace(AP_POSTPROCESS, score_thresh=0.26) in GRID.settings
