"""Candidates on disk: the same detections as from the network, resumed, and never mixed."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from retinanet.coco import DatasetError, load_coco, open_photo
from retinanet.config import ConfigError, ModelConfig, PostprocessConfig
from retinanet.detection import detect
from retinanet.evaluation import coco_results
from retinanet.export import to_coco_results
from retinanet.model import RetinaNet
from retinanet.nms import coordinate_trick_limit
from retinanet.single_flight import Cancelled
from retinanet.sweeps import CandidateStore, Grid, StoreProgress, detections, model_key, results
from retinanet.sweeps.runs import runs_of
from retinanet.sweeps.store_files import write
from tests.shapes import write_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    annotations = write_shapes(tmp_path_factory.mktemp("shapes"))
    return load_coco(annotations, annotations.parent / "images")


@pytest.fixture(scope="module")
def model(shapes):
    torch.manual_seed(0)
    config = ModelConfig(depth=18, num_classes=2, num_convs=1, min_size=64, max_size=96)
    return RetinaNet(config, shapes.categories, shapes.category_ids).eval()


@pytest.fixture(scope="module")
def forwards(model):
    """Forwards with seeded random scores over the whole range, without and with equal ones."""

    def make(step):
        @torch.no_grad()
        def forward(image):
            outputs = model(image)
            noise = torch.Generator().manual_seed(len(image.id) + int(image.id[:6], 16))
            logits = [torch.randn(own.shape, generator=noise) * 2 - 2 for own in outputs.cls_logits]
            if step:
                logits = [(own / step).round() * step for own in logits]
            deltas = [
                torch.randn(own.shape, generator=noise) / 3 for own in outputs.bbox_regression
            ]
            return replace(outputs, cls_logits=logits, bbox_regression=deltas)

        return forward

    return {"distinct": make(0), "some equal": make(0.01), "many equal": make(0.5)}


def same(found, trace):
    expected = (trace.boxes, trace.scores, trace.labels)
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["distinct", "some equal", "many equal"])
def test_stored_candidates_give_the_detections_bit_for_bit(tmp_path, shapes, forwards, kind):
    draw, forward = random.Random(kind), forwards[kind]
    store = CandidateStore.fill(tmp_path, forward, shapes, key="k", score_floor=0.02, topk=700)
    outputs = {photo.image_id: forward(open_photo(photo)) for photo in shapes.photos}
    entered = []
    for _ in range(24):
        config = PostprocessConfig(
            score_thresh=draw.choice([0.02, 0.05, draw.uniform(0.02, 0.9)]),
            nms_thresh=draw.choice([0.0, 0.3, 0.5, 1.0, draw.random()]),
            topk_candidates=draw.choice([1, 10, 700, draw.randint(2, 699)]),
            detections_per_img=draw.choice([1, 20, 100, 3000]),
        )
        image_id = draw.choice(list(outputs))
        trace = detect(outputs[image_id], config)
        assert same(detections(store, image_id, config), trace), config
        entered.append(sum(trace.takes))
    limit = coordinate_trick_limit("cpu")
    assert min(entered) <= limit < max(entered), "both ways of torchvision's NMS are wanted"


@pytest.mark.parametrize("kind", ["distinct", "some equal", "many equal"])
def test_a_sweep_shares_runs_of_nms_and_differs_in_no_bit(tmp_path, shapes, forwards, kind):
    one = replace(shapes, photos=shapes.photos[:1])
    store = CandidateStore.fill(tmp_path, forwards[kind], one, key="k", score_floor=0.05)
    grid = Grid((0.05, 0.07, 0.2, 0.21, 0.5, 0.7), (0.3, 0.5, 0.8), (90, 1000), (25, 2000))
    image, runs, entered = store.read(0), 0, set()
    for topk, nms_thresh, own in runs_of(image, grid):
        runs += len(own)
        for place, score_thresh in enumerate(grid.score_thresh):
            (run,) = [run for run in own if run.first <= place <= run.last]
            for limit in grid.detections_per_img:
                config = PostprocessConfig(score_thresh, nms_thresh, topk, limit)
                trace = detect(image.outputs, config)
                entered.add(sum(trace.takes) <= coordinate_trick_limit("cpu"))
                kept = run.scores[run.scores > np.float32(score_thresh)]
                assert np.array_equal(kept[:limit], trace.scores.numpy())
                boxes = [own["bbox"] for own in to_coco_results(trace, image.outputs, 0)]
                assert run.boxes[: len(kept)][:limit].tolist() == boxes
                assert np.array_equal(run.labels[: len(kept)][:limit], trace.labels.numpy())
    assert entered == {True, False}
    if kind == "distinct":
        assert runs <= 6 * len(grid.score_thresh) / 2, "runs are shared where they can be"


@pytest.mark.parametrize("kind", ["distinct", "many equal"])
def test_floors_of_single_classes_are_exact_or_refused(tmp_path, shapes, forwards, kind):
    draw, forward = random.Random(kind), forwards[kind]
    store = CandidateStore.fill(tmp_path, forward, shapes, key="k", score_floor=0.02, topk=300)
    outputs = {photo.image_id: forward(open_photo(photo)) for photo in shapes.photos}
    exact = refused = 0
    for _ in range(30):
        config = PostprocessConfig(
            score_thresh=draw.uniform(0.02, 0.6),
            topk_candidates=draw.randint(1, 300),
            class_score_thresh={draw.randint(0, 1): draw.uniform(0.02, 0.9)},
        )
        image_id = draw.choice(list(outputs))
        try:
            found = detections(store, image_id, config)
        except ConfigError as error:
            assert "larger topk" in str(error)
            refused += 1
            continue
        assert same(found, detect(outputs[image_id], config)), config
        exact += 1
    assert exact > 10
    assert refused > 0


def test_results_are_those_of_the_ordinary_way_in_the_data_sets_order(tmp_path, shapes, model):
    store = CandidateStore.fill(tmp_path, model, shapes, key="k", score_floor=0.0)
    config = PostprocessConfig(score_thresh=0.0, detections_per_img=7)
    assert list(results(store, config, shapes)) == coco_results(model, shapes, config)


def counting(model):
    seen = []

    def forward(image):
        seen.append(image.name)
        return model(image)

    return forward, seen


def test_a_second_pass_runs_only_what_is_missing(tmp_path, model):
    annotations = write_shapes(tmp_path / "data")
    dataset = load_coco(annotations, annotations.parent / "images")
    forward, seen = counting(model)
    told: list[StoreProgress] = []
    first = CandidateStore.fill(tmp_path / "s", forward, dataset, key="k", progress=told.append)
    assert len(seen) == 4 == len(first)
    assert [(at.done, at.total, at.found) for at in told] == [(n, 4, 0) for n in range(5)]
    assert told[-1].eta_seconds == 0 < told[1].eta_seconds
    assert told[0].eta_seconds != told[0].eta_seconds, "no pace to go by yet"
    assert not list(first.folder.glob("*.part"))

    CandidateStore.fill(tmp_path / "s", forward, dataset, key="k", progress=told.append)
    assert len(seen) == 4
    assert (told[-1].done, told[-1].found) == (4, 4)

    # A changed annotation changes nothing; a changed photo is run again.
    data = json.loads(annotations.read_text())
    data["annotations"] = data["annotations"][1:]
    annotations.write_text(json.dumps(data))
    path = dataset.photos[2].path
    path.write_bytes(path.read_bytes() + b"\0")
    dataset = load_coco(annotations, annotations.parent / "images")
    CandidateStore.fill(tmp_path / "s", forward, dataset, key="k")
    assert len(seen) == 5
    assert CandidateStore.open(first.folder).image_ids == (0, 1, 2, 3)


@pytest.mark.parametrize("other", [{"key": "other"}, {"score_floor": 0.02}, {"topk": 20}])
def test_what_was_stored_otherwise_is_not_mixed_in(tmp_path, shapes, model, other):
    forward, seen = counting(model)
    usual = {"key": "k", "score_floor": 0.01, "topk": 50}
    first = CandidateStore.fill(tmp_path, forward, shapes, **usual)
    second = CandidateStore.fill(tmp_path, forward, shapes, **(usual | other))
    assert len(seen) == 8
    assert first.folder != second.folder


def test_a_pass_that_is_stopped_loses_the_current_photo_only(tmp_path, shapes, model):
    calls = []

    def killed(image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return model(image)

    with pytest.raises(KeyboardInterrupt):
        CandidateStore.fill(tmp_path, killed, shapes, key="k")
    stop, told = threading.Event(), []

    def one_more(at):
        told.append(at)
        if at.done == 3:
            stop.set()

    with pytest.raises(Cancelled):
        CandidateStore.fill(tmp_path, model, shapes, key="k", progress=one_more, cancel=stop)
    assert (told[0].found, told[-1].done) == (2, 3)
    assert len(CandidateStore.fill(tmp_path, model, shapes, key="k")) == 4


def test_photos_that_cannot_be_read_are_listed_and_left_out(tmp_path, model):
    annotations = write_shapes(tmp_path / "data")
    dataset = load_coco(annotations, annotations.parent / "images")
    dataset.photos[0].path.write_bytes(b"no picture")
    dataset.photos[3].path.unlink()
    told = []
    store = CandidateStore.fill(tmp_path / "s", model, dataset, key="k", progress=told.append)
    assert [image_id for image_id, _ in store.skipped] == [0, 3]
    assert "000.png" in store.skipped[0][1] or "picture" in store.skipped[0][1]
    assert told[-1].skipped == store.skipped
    assert [photo.image_id for photo in store.stored_part(dataset).photos] == [1, 2]
    with pytest.raises(DatasetError, match="No candidates of image 0"):
        detections(store, 0, PostprocessConfig())


def test_what_the_store_cannot_answer_is_refused_in_words(tmp_path, shapes, model):
    store = CandidateStore.fill(tmp_path, model, shapes, key="k", score_floor=0.01, topk=20)
    with pytest.raises(ConfigError, match="lower score_floor"):
        detections(store, 0, PostprocessConfig(score_thresh=0.009, topk_candidates=20))
    with pytest.raises(ConfigError, match="larger topk"):
        detections(store, 0, PostprocessConfig(topk_candidates=21))
    with pytest.raises(ConfigError, match="score_thresh"):
        CandidateStore.fill(tmp_path, model, shapes, key="k", score_floor=-1)
    with pytest.raises(DatasetError, match="other limits"):
        CandidateStore(store.folder, score_floor=0.01, topk=21)
    with pytest.raises(DatasetError, match="no stored candidates"):
        CandidateStore.open(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        CandidateStore.fill(tmp_path / "file", model, shapes, key="k")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", "half"])
def test_damaged_files_are_refused_in_words(tmp_path, shapes, model, damage):
    store = CandidateStore.fill(tmp_path, model, shapes, key="k", topk=20)
    path = next(store.folder.glob("0-*"))
    path.write_bytes(path.read_bytes()[:-200] if damage == "half" else damage)
    with pytest.raises(DatasetError, match="damaged"):
        detections(store, 0, PostprocessConfig(topk_candidates=20))
    (store.folder / "store.json").write_text("[]")
    with pytest.raises(DatasetError, match="damaged"):
        CandidateStore.open(store.folder)


def test_the_key_changes_with_weights_size_and_precision(model):
    key = model_key(model)
    assert key == model_key(model)
    assert key != model_key(model, "bf16")
    other = RetinaNet(replace(model.config, min_size=72), model.categories, model.category_ids)
    other.load_state_dict(model.state_dict())
    assert key != model_key(other)
    other.config = model.config
    assert key == model_key(other)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    assert key != model_key(other)


def test_a_model_of_other_classes_under_the_same_key_is_refused(tmp_path, shapes, model):
    few = replace(shapes, photos=shapes.photos[:1])
    CandidateStore.fill(tmp_path, model, few, key="k")
    other = RetinaNet(model.config, ("a", "b"), shapes.category_ids).eval()
    with pytest.raises(DatasetError, match="key of its own"):
        CandidateStore.fill(tmp_path, other, shapes, key="k")


def test_two_that_store_the_same_photo_at_once_do_not_meet(tmp_path):
    path = tmp_path / "1-a.safetensors"

    def store_often(text):
        for _ in range(100):
            write(path, text * 5000)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(store_often, (b"a", b"b", b"c")))
    assert len(set(path.read_bytes())) == 1
    assert [own.name for own in tmp_path.iterdir()] == [path.name]
