"""One load, one forward, one at a time; a cache that stays within its bytes; plain refusals."""

from __future__ import annotations

import copy
import json
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import PIL.Image
import pytest
import torch

import retinanet.engine as engine_module
from retinanet.checkpoints import CheckpointError, load_model
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.devices import DeviceError, pick_device, supports_bf16
from retinanet.engine import Cancelled, Engine, EngineError, ModelSpec
from retinanet.model import RetinaNet
from retinanet.single_flight import SingleFlight
from retinanet.types import Image
from tests.zoo_checkpoints import BAD_CHECKPOINTS, BAD_NAMES, tiny_checkpoint

SPEC = ModelSpec("random", depth=18, num_classes=3, num_convs=1, min_size=64, max_size=96)
PATIENCE = 60  # seconds until a thread that never comes fails the test


def picture(name: str = "a", size: tuple[int, int] = (48, 40)) -> Image:
    shade = sum(name.encode()) % 256
    return Image(PIL.Image.new("RGB", size, (shade, 90, 160)), id=name)


@pytest.fixture(scope="module")
def loaded() -> RetinaNet:
    return load_model("random", SPEC.overrides(), "cpu")


@pytest.fixture
def engine(loaded: RetinaNet, monkeypatch) -> Engine:
    """A fresh engine for `SPEC`, which gets a copy of a model that is loaded once."""
    monkeypatch.setattr(engine_module, "load_model", lambda *_: copy.deepcopy(loaded))
    return Engine(device="cpu")


class Forwards:
    """Stands in for the model's forward: counts, watches for overlap, and can be held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real = RetinaNet.forward
        self.count = self.running = self.most_running = 0
        self.errors: list[BaseException] = []
        self.started = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        lock = threading.Lock()

        def forward(model, images):
            with lock:
                self.count += 1
                self.running += 1
                self.most_running = max(self.most_running, self.running)
            try:
                self.started.set()
                assert self.may_go_on.wait(PATIENCE)
                if self.errors:
                    raise self.errors.pop(0)
                return self.real(model, images)
            finally:
                with lock:
                    self.running -= 1

        monkeypatch.setattr(RetinaNet, "forward", forward)


@pytest.fixture
def forwards(monkeypatch) -> Forwards:
    return Forwards(monkeypatch)


def start(function, *args) -> Future:
    """Run in a thread; the result or error is in the future."""
    future: Future = Future()

    def work() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


# Models


def test_eight_cold_callers_load_one_model(monkeypatch):
    loads = []
    real = engine_module.load_model
    together = threading.Barrier(8)

    def counted(*args):
        loads.append(args)
        return real(*args)

    monkeypatch.setattr(engine_module, "load_model", counted)
    engine = Engine(device="cpu")

    def cold(_):
        together.wait(PATIENCE)
        return engine.model(SPEC)

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(cold, range(8)))
    assert len(loads) == 1
    assert all(
        model.head.regression_head.bbox_reg.weight is models[0].head.regression_head.bbox_reg.weight
        for model in models
    )
    assert not models[0].training


def test_sizes_share_the_weights_and_differ_in_configuration(engine):
    small, large = engine.model(SPEC), engine.model(replace(SPEC, min_size=96, max_size=128))
    assert (small.config.min_size, large.config.min_size) == (64, 96)
    assert small.backbone is large.backbone
    assert len(engine.info()["models"]) == 1
    small_outputs = engine.outputs(picture(), SPEC)
    large_outputs = engine.outputs(picture(), replace(SPEC, min_size=96, max_size=128))
    assert small_outputs.image_size == (64, 76)
    assert large_outputs.image_size == (96, 115)


def test_a_size_that_cannot_work_is_a_config_error(engine):
    with pytest.raises(ConfigError, match="max_size"):
        engine.model(replace(SPEC, min_size=800))


def test_models_are_bounded():
    engine = Engine(device="cpu", max_models=2)
    for classes in (1, 2, 3):
        engine.model(replace(SPEC, num_classes=classes))
    assert [m["config"]["num_classes"] for m in engine.info()["models"]] == [2, 3]


def test_failed_load_is_told_to_everyone_and_tried_again(tmp_path):
    engine = Engine(device="cpu")
    path = BAD_CHECKPOINTS["NaN"](tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="not finite"):
            engine.model(ModelSpec(str(path)))
    path.unlink()
    assert engine.info()["models"] == []
    assert engine.model(SPEC).config.depth == 18


def test_a_file_that_changed_is_loaded_again(tmp_path):
    engine = Engine(device="cpu")
    path = tiny_checkpoint(tmp_path)
    first = engine.model(ModelSpec(str(path)))
    assert engine.model(ModelSpec(str(path))) is first
    assert first.categories == ("cat", None, "dog")
    stamp = path.stat()
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1_000_000_000))
    assert engine.model(ModelSpec(str(path))) is not first


# Outputs and their cache


def test_outputs_equal_the_models_own_and_are_kept(engine, forwards):
    outputs = engine.outputs(picture(), SPEC)
    assert engine.outputs(picture(), SPEC) is outputs
    assert forwards.count == 1
    own = engine.model(SPEC)(picture())
    for ours, theirs in zip(outputs.cls_logits, own.cls_logits, strict=True):
        assert torch.equal(ours, theirs)
    info = engine.info()
    assert (info["hits"], info["misses"], info["forwards"]) == (1, 1, 1)
    assert info["cache_entries"] == 1
    assert info["cache_bytes"] == outputs.nbytes


def test_detect_is_a_convenience_over_the_same_outputs(engine, forwards):
    engine.outputs(picture(), SPEC)
    every = engine.detect(picture(), SPEC, PostprocessConfig(score_thresh=0.0))
    none = engine.detect(picture(), SPEC, PostprocessConfig(score_thresh=1.0))
    assert len(every.boxes) > 0
    assert len(none.boxes) == 0
    assert forwards.count == 1


def test_eight_callers_share_one_forward(engine, forwards):
    forwards.may_go_on.clear()
    callers = [start(engine.outputs, picture(), SPEC) for _ in range(8)]
    assert forwards.started.wait(PATIENCE)
    forwards.may_go_on.set()
    results = [caller.result(PATIENCE) for caller in callers]
    assert forwards.count == 1
    assert all(result is results[0] for result in results)


def test_the_gate_lets_one_forward_run_at_a_time(engine, forwards):
    with ThreadPoolExecutor(6) as pool:
        outputs = list(pool.map(lambda name: engine.outputs(picture(name), SPEC), "abcdef"))
    assert forwards.count == 6
    assert forwards.most_running == 1
    assert len({id(output) for output in outputs}) == 6


def test_cache_is_bounded_in_bytes_and_drops_the_least_recently_used(engine, forwards):
    weight = engine.outputs(picture("a"), SPEC).nbytes
    engine.cache_bytes = int(2.5 * weight)
    engine.outputs(picture("b"), SPEC)
    engine.outputs(picture("a"), SPEC)  # a is the more recent now
    engine.outputs(picture("c"), SPEC)  # b has to go
    info = engine.info()
    assert info["cache_entries"] == 2
    assert info["cache_bytes"] <= engine.cache_bytes
    engine.outputs(picture("a"), SPEC)
    assert forwards.count == 3
    engine.outputs(picture("b"), SPEC)
    assert forwards.count == 4


def test_what_is_derived_from_outputs_counts_too(engine):
    before = engine.outputs(picture(), SPEC).nbytes
    engine.detect(picture(), SPEC)
    assert engine.info()["cache_bytes"] > before


def test_outputs_larger_than_the_cache_are_returned_and_not_kept(engine, forwards):
    engine.cache_bytes = 1000
    assert engine.outputs(picture(), SPEC).num_anchors > 0
    assert engine.info()["cache_entries"] == 0
    engine.outputs(picture(), SPEC)
    assert forwards.count == 2


def test_outputs_too_large_to_keep_drive_out_no_others(engine):
    small = engine.outputs(picture("small"), SPEC)
    engine.cache_bytes = int(1.5 * small.nbytes)
    large = engine.outputs(picture("large"), replace(SPEC, min_size=96, max_size=192))
    assert large.nbytes > engine.cache_bytes
    assert engine.outputs(picture("small"), SPEC) is small
    assert engine.info()["cache_entries"] == 1


def test_what_detect_derives_is_trimmed_at_once_and_on_hits(engine):
    weight = engine.outputs(picture("a"), SPEC).nbytes
    engine.outputs(picture("b"), SPEC)
    engine.cache_bytes = 2 * weight
    engine.detect(picture("b"), SPEC)
    info = engine.info()
    assert info["cache_entries"] == 1
    assert info["cache_bytes"] <= engine.cache_bytes
    kept = engine.outputs(picture("b"), SPEC)
    engine.cache_bytes = weight // 2
    assert engine.outputs(picture("b"), SPEC) is kept
    assert engine.info()["cache_entries"] == 0


def test_candidates_that_do_not_fit_the_memory_are_a_sentence(engine, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine_module, "detect", too_large)
    with pytest.raises(EngineError, match=r"candidates of the picture \(48x40\) did not fit"):
        engine.detect(picture(), SPEC)
    assert engine.info()["cache_entries"] == 0


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_weights_cannot_have_is_a_sentence(name):
    with pytest.raises(CheckpointError):
        Engine(device="cpu").model(ModelSpec(BAD_NAMES[name]))


def test_clear_forgets_everything(engine):
    held = engine.outputs(picture(), SPEC)
    engine.clear()
    info = engine.info()
    assert (info["cache_entries"], info["cache_bytes"], info["models"]) == (0, 0, [])
    assert held.num_classes == 3


# Cancelling


def test_a_caller_may_give_up_before_its_turn(engine, forwards):
    forwards.may_go_on.clear()
    first = start(engine.outputs, picture("a"), SPEC)
    assert forwards.started.wait(PATIENCE)
    cancel = threading.Event()
    waiting = start(engine.outputs, picture("b"), SPEC, cancel)
    cancel.set()
    with pytest.raises(Cancelled):
        waiting.result(PATIENCE)
    forwards.may_go_on.set()
    first.result(PATIENCE)
    assert forwards.count == 1
    engine.outputs(picture("b"), SPEC)
    assert forwards.count == 2


def test_a_caller_who_shares_a_forward_may_give_up(engine, forwards):
    forwards.may_go_on.clear()
    first = start(engine.outputs, picture(), SPEC)
    assert forwards.started.wait(PATIENCE)
    cancel = threading.Event()
    sharing = start(engine.outputs, picture(), SPEC, cancel)
    cancel.set()
    with pytest.raises(Cancelled):
        sharing.result(PATIENCE)
    assert not first.done()
    forwards.may_go_on.set()
    assert first.result(PATIENCE).num_anchors > 0


def test_an_event_set_before_the_call_cancels_it_but_not_a_cached_answer(engine, forwards):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        engine.outputs(picture(), SPEC, cancel)
    assert forwards.count == 0
    kept = engine.outputs(picture(), SPEC)
    assert engine.outputs(picture(), SPEC, cancel) is kept


def test_when_the_maker_gives_up_a_waiter_takes_over():
    flights = SingleFlight()
    making, give_up = threading.Event(), threading.Event()

    def abandoned():
        making.set()
        assert give_up.wait(PATIENCE)
        raise Cancelled

    maker = start(flights.run, "key", lambda: None, abandoned)
    assert making.wait(PATIENCE)
    waiter = start(flights.run, "key", lambda: None, lambda: "made by the waiter")
    give_up.set()
    with pytest.raises(Cancelled):
        maker.result(PATIENCE)
    assert waiter.result(PATIENCE) == "made by the waiter"


# Errors


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
    ids=["CUDA", "CPU", "Python"],
)
def test_out_of_memory_is_a_sentence_and_leaves_the_engine_usable(engine, forwards, error):
    engine.outputs(picture("kept"), SPEC)
    forwards.errors.append(error)
    with pytest.raises(EngineError) as answer:
        engine.outputs(picture("large"), SPEC)
    text = str(answer.value)
    assert "48x40" in text
    assert "76x64" in text
    assert "smaller min_size" in text
    assert "\n" not in text
    assert engine.info()["cache_entries"] == 0
    assert engine.outputs(picture("large"), SPEC).num_anchors > 0


def test_a_model_too_large_for_the_memory_is_a_sentence(monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine_module, "load_model", too_large)
    with pytest.raises(EngineError, match="The model 'random' did not fit"):
        Engine(device="cpu").model(SPEC)


def test_an_error_is_not_kept(engine, forwards):
    forwards.errors.append(RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        engine.outputs(picture(), SPEC)
    assert engine.outputs(picture(), SPEC).num_anchors > 0
    assert forwards.count == 2


def test_an_error_reaches_those_who_waited():
    flights = SingleFlight()
    making, joined = threading.Event(), threading.Event()

    def failing():
        making.set()
        assert joined.wait(PATIENCE)
        raise RuntimeError("something else")

    callers = [start(flights.run, "key", lambda: None, failing)]
    assert making.wait(PATIENCE)
    # `find` runs with the flights locked, so whoever has called it has also seen the flight.
    callers.append(start(flights.run, "key", joined.set, failing))
    for caller in callers:
        with pytest.raises(RuntimeError, match="something else"):
            caller.result(PATIENCE)
    assert flights.run("key", lambda: None, lambda: "made anew") == "made anew"


# Device and precision


def test_auto_finds_a_device():
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu9", "meta", "cuda:99", ""])
def test_a_device_that_is_not_there_is_a_sentence(name):
    with pytest.raises(DeviceError) as answer:
        Engine(device=name)
    assert str(answer.value).endswith(".")
    assert "\n" not in str(answer.value)


def test_missing_cuda_and_mps_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(DeviceError, match=f"no {name} device; it has cpu"):
            pick_device(name)


def test_bf16_without_hardware_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(engine_module, "supports_bf16", lambda device: False)
    with pytest.raises(EngineError, match="no bfloat16 arithmetic"):
        Engine(device="cpu", precision="bf16")
    engine = Engine(device="cpu")
    with pytest.raises(EngineError, match="use fp32"):
        engine.model(replace(SPEC, precision="bf16"))
    with pytest.raises(EngineError, match="no precision 'fp8'"):
        Engine(device="cpu", precision="fp8")


@pytest.mark.parametrize("capability", ["amx_bf16", "avx512_bf16", "bf16", None])
def test_bf16_follows_what_the_cpu_reports(monkeypatch, capability):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert supports_bf16("cpu") is (capability is not None)


def assert_close_in_bf16(engine: Engine) -> None:
    exact = engine.outputs(picture(), SPEC)
    rough = engine.outputs(picture(), replace(SPEC, precision="bf16"))
    assert rough is not exact
    for ours, theirs in zip(rough.cls_logits, exact.cls_logits, strict=True):
        assert ours.dtype == torch.float32
        assert not torch.equal(ours, theirs)
        assert torch.allclose(ours, theirs, atol=0.05)
    assert {m["precision"] for m in engine.info()["models"]} == {"fp32", "bf16"}


def test_bf16_path_gives_nearly_the_same_even_where_emulated(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "supports_bf16", lambda device: True)
    assert_close_in_bf16(engine)


@pytest.mark.skipif(
    not supports_bf16("cpu"), reason="this CPU has no bfloat16 arithmetic (AMX, AVX512-BF16, Arm)"
)
def test_bf16_on_a_cpu_that_has_it():
    assert_close_in_bf16(Engine(device="cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_cuda_fp32_is_exact_and_bf16_near():
    on_gpu, on_cpu = Engine(device="cuda"), Engine(device="cpu")
    ours, theirs = on_gpu.outputs(picture(), SPEC), on_cpu.outputs(picture(), SPEC)
    for left, right in zip(ours.cls_logits, theirs.cls_logits, strict=True):
        assert left.is_cuda
        assert torch.allclose(left.cpu(), right, atol=1e-4)
    if supports_bf16("cuda"):
        assert_close_in_bf16(on_gpu)


def test_info_is_plain_data(engine):
    engine.outputs(picture(), SPEC)
    info = engine.info()
    assert info["device"] == "cpu"
    assert "CPU" in info["device_name"]
    assert info["precision"] == "fp32"
    assert info["models"][0]["weights"] == "random"
    assert info["models"][0]["config"]["depth"] == 18
    json.dumps(info)


def test_a_picture_that_is_only_gone_through_drives_out_no_other(engine, forwards):
    kept = engine.outputs(picture("kept"), SPEC)
    engine.outputs(picture("passing"), SPEC, keep=False)
    assert engine.info()["cache_entries"] == 1
    assert engine.outputs(picture("kept"), SPEC, keep=False) is kept
    engine.outputs(picture("passing"), SPEC)
    assert forwards.count == 3
