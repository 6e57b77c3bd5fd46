"""The one place that owns the device, the models and what they have said.

One `Engine` serves a whole process: any number of threads may call it. A model is loaded once, a
picture goes through it once, and only one forward runs at a time. What it returns is shared
between callers and must not be changed.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from retinanet.architecture import Profile, profile
from retinanet.checkpoints import NAMED, load_model
from retinanet.config import PostprocessConfig
from retinanet.detection import DetectionTrace, detect
from retinanet.devices import DeviceError, device_title, pick_device, supports_bf16
from retinanet.images import resized_size
from retinanet.model import RetinaNet
from retinanet.single_flight import POLL_SECONDS, Cancelled, SingleFlight
from retinanet.types import Image, Outputs
from retinanet.weight_files import weights_path

__all__ = [
    "Cancelled",
    "DeviceError",
    "Engine",
    "EngineError",
    "ModelSpec",
    "pick_device",
    "supports_bf16",
]

T = TypeVar("T")

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[str, ...] = ("fp32", "bf16")

DEFAULT_CACHE_BYTES = 1_500_000_000
"""1.5 GB. One picture at 800x1333 with 91 classes holds about 200 MB (features, logits, anchors),
so this keeps about seven, or about thirty at half the side."""

MAX_PROFILES = 32
"""How many profiles are kept; each is a few kilobytes."""

_OUT_OF_MEMORY = (
    "can't allocate memory",  # CPU, Linux
    "not enough memory",  # CPU, Windows
    "out of memory",  # CUDA and MPS
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)


class EngineError(RuntimeError):
    """The engine could not do it; the message is a sentence that says what to do."""


@dataclass(frozen=True)
class ModelSpec:
    """Which model is wanted: weights by name or path, and the settings that differ from theirs.

    None leaves a setting as the checkpoint has it (for "random": `ModelConfig`'s default).

    Args:
        weights: what `load_model` takes.
        depth, num_classes, num_convs, variant, min_size, max_size: as in `ModelConfig`.
        precision: "fp32" or "bf16"; None takes the engine's.
    """

    weights: str = "embedded"
    depth: int | None = None
    num_classes: int | None = None
    num_convs: int | None = None
    variant: str | None = None
    min_size: int | None = None
    max_size: int | None = None
    precision: Precision | None = None

    def overrides(self) -> dict[str, Any]:
        """The `ModelConfig` fields that are set here."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if value is not None and name not in ("weights", "precision")
        }


class Engine:
    """Device, models, cache and the gate before the device. Thread-safe.

    Args:
        device: "auto" (CUDA, then MPS, then CPU) or a device's name.
        precision: "fp32" is exact; "bf16" runs the forward in bfloat16 with channels last and
            returns float32. A `ModelSpec` may ask for the other.
        cache_bytes: how much the kept outputs may hold, on the model's device; the least recently
            used go first. Outputs larger than this are returned and not kept.
        max_models: how many sets of weights stay loaded.

    Raises:
        DeviceError: this machine has no such device.
        EngineError: the device has no bfloat16 arithmetic, or there is no such precision.
    """

    def __init__(
        self,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        max_models: int = 4,
    ) -> None:
        self.device = pick_device(device)
        self.precision = self._checked_precision(precision)
        self.cache_bytes = cache_bytes
        self.max_models = max_models
        self._gate = threading.Lock()  # held during a forward
        self._lock = threading.Lock()  # held while the fields below are read or changed
        self._networks: OrderedDict[Hashable, RetinaNet] = OrderedDict()
        self._cache: OrderedDict[Hashable, Outputs] = OrderedDict()
        self._profiles: OrderedDict[Hashable, Profile] = OrderedDict()
        self._hits = self._misses = 0
        self._flights = SingleFlight()

    def model(self, spec: ModelSpec) -> RetinaNet:
        """The model, loaded at the first call however many ask at once. Do not change it.

        Specs that differ in `min_size` and `max_size` only share one set of weights.

        Raises:
            CheckpointError, ConfigError: as `load_model`.
            EngineError: it does not fit into memory, or the precision is not to be had.
        """
        network_key = self._network_key(spec)
        overrides = spec.overrides()
        sizes = {
            name: overrides.pop(name) for name in ("min_size", "max_size") if name in overrides
        }
        network = self._flights.run(
            ("model", network_key),
            find=lambda: self._held(self._networks, network_key),
            make=lambda: self._load(network_key, spec, overrides),
        )
        if not sizes:
            return network
        view = copy.copy(network)  # shares every tensor and reads its own configuration
        view.config = replace(network.config, **sizes)
        return view

    def outputs(
        self,
        image: Image,
        spec: ModelSpec,
        cancel: threading.Event | None = None,
        *,
        keep: bool = True,
    ) -> Outputs:
        """What the model says about the picture: from the cache, or by one forward.

        Callers who ask for the same at the same time share one forward. The result is shared:
        read it, do not change it.

        Args:
            image: its `id` stands for its pixels.
            spec: which model, at which size and precision.
            cancel: set it to give up while waiting for the model's turn or for another caller's
                forward; one's own forward, once started, runs to its end.
            keep: put a new answer into the cache. Whoever goes through thousands of pictures does
                not, or those of all others would be driven out.

        Raises:
            Cancelled: `cancel` was set in time.
            EngineError: it did not fit into memory; the cache is empty then and the engine usable.
            CheckpointError, ConfigError, ImageError: as `load_model` and the model.
        """
        model = self.model(spec)
        size = (model.config.min_size, model.config.max_size)
        key = (self._network_key(spec), image.id, size)
        return self._flights.run(
            ("outputs", key),
            find=lambda: self._held(self._cache, key),
            make=lambda: self._compute(key, image, model, spec.precision, cancel, keep),
            cancel=cancel,
        )

    def detect(
        self,
        image: Image,
        spec: ModelSpec,
        config: PostprocessConfig | None = None,
        cancel: threading.Event | None = None,
    ) -> DetectionTrace:
        """`outputs`, then `retinanet.detection.detect`; errors as `outputs`."""
        outputs = self.outputs(image, spec, cancel)
        width, height = image.size
        with self._answering_for_memory(f"The candidates of the picture ({width}x{height})"):
            trace = detect(outputs, config or PostprocessConfig())
        with self._lock:
            self._trim()
        return trace

    def profile(
        self, image: Image, spec: ModelSpec, cancel: threading.Event | None = None
    ) -> Profile:
        """What each block of the network costs on a picture of this size: measured once, then kept.

        Pixels do not matter, only the size that the picture is resized to. Arguments and errors as
        `outputs`.
        """
        model = self.model(spec)
        width, height = image.size
        size = resized_size((height, width), model.config.min_size, model.config.max_size)
        key = (self._network_key(spec), size)

        def measure() -> Profile:
            with self._turn(cancel):
                found = self._on_device(image, model, spec.precision, profile)
            with self._lock:
                self._profiles[key] = found
                while len(self._profiles) > MAX_PROFILES:
                    self._profiles.popitem(last=False)
            return found

        return self._flights.run(
            ("profile", key),
            find=lambda: self._held(self._profiles, key),
            make=measure,
            cancel=cancel,
        )

    def info(self) -> dict[str, Any]:
        """What is going on, as plain data.

        `hits` are requests that the cache answered, `misses` those that began a forward; callers
        who shared another's forward are neither. Bytes include what was derived from the outputs.
        """
        with self._lock:
            return {
                "device": str(self.device),
                "device_name": device_title(self.device),
                "precision": self.precision,
                "bf16": supports_bf16(self.device),
                "models": [
                    {"name": network.name, "weights": key[0], "precision": key[-1]}
                    | {"config": network.config.to_dict()}
                    for key, network in self._networks.items()
                ],
                "cache_entries": len(self._cache),
                "cache_bytes": self._cached_bytes(),
                "cache_limit_bytes": self.cache_bytes,
                "hits": self._hits,
                "misses": self._misses,
                "forwards": self._misses,
            }

    def clear(self) -> None:
        """Forget all outputs and models; whoever holds one keeps it."""
        with self._lock:
            self._networks.clear()
            self._profiles.clear()
        self._empty_cache()

    def _checked_precision(self, precision: str) -> Precision:
        if precision not in PRECISIONS:
            raise EngineError(f"There is no precision {precision!r}; use fp32 or bf16.")
        if precision == "bf16" and not supports_bf16(self.device):
            raise EngineError(
                f"{device_title(self.device)} has no bfloat16 arithmetic, so bf16 would only be "
                "slower; use fp32."
            )
        return precision

    def _network_key(self, spec: ModelSpec) -> tuple[Hashable, ...]:
        """What decides the tensors: the weights as they now are on disk, shape and precision."""
        stamp = None
        if spec.weights not in NAMED and (path := weights_path(spec.weights)).is_file():
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        shape = tuple(
            item for item in spec.overrides().items() if item[0] not in ("min_size", "max_size")
        )
        return spec.weights, stamp, shape, spec.precision or self.precision

    def _held(self, shelf: OrderedDict[Hashable, Any], key: Hashable) -> Any:
        """The value under the key, now the most recently used; None when there is none."""
        with self._lock:
            value = shelf.get(key)
            if value is not None:
                shelf.move_to_end(key)
                if shelf is self._cache:
                    self._hits += 1
                    self._trim()
            return value

    def _load(
        self, key: tuple[Hashable, ...], spec: ModelSpec, overrides: dict[str, Any]
    ) -> RetinaNet:
        precision = self._checked_precision(key[-1])
        with self._answering_for_memory(f"The model {Path(spec.weights).name!r}"):
            network = load_model(spec.weights, overrides, self.device)
            if precision == "bf16":
                network = network.to(memory_format=torch.channels_last)
        with self._lock:
            self._networks[key] = network
            while len(self._networks) > self.max_models:
                self._networks.popitem(last=False)
        return network

    def _compute(
        self,
        key: Hashable,
        image: Image,
        model: RetinaNet,
        precision: Precision | None,
        cancel: threading.Event | None,
        keep: bool,
    ) -> Outputs:
        with self._turn(cancel):
            with self._lock:
                self._misses += 1
            outputs = self._on_device(image, model, precision, RetinaNet.__call__)
        if keep:
            with self._lock:
                self._cache[key] = outputs
                self._trim()
        return outputs

    def _on_device(
        self,
        image: Image,
        model: RetinaNet,
        precision: Precision | None,
        work: Callable[[RetinaNet, Image], T],
    ) -> T:
        """What `work` makes of the model and the picture, exact or in bfloat16."""
        width, height = image.size
        config = model.config
        h, w = resized_size((height, width), config.min_size, config.max_size)
        subject = f"The picture ({width}x{height}, resized to {w}x{h})"
        enabled = (precision or self.precision) == "bf16"
        bf16 = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)
        with self._answering_for_memory(subject), _exact_convolutions(self.device), bf16:
            return work(model, image)

    @contextmanager
    def _turn(self, cancel: threading.Event | None) -> Iterator[None]:
        """Hold the gate; while waiting for it, notice `cancel`."""
        if cancel is None:
            self._gate.acquire()
        else:
            while not cancel.is_set():
                if self._gate.acquire(timeout=POLL_SECONDS):
                    break
            else:
                raise Cancelled
        try:
            if cancel is not None and cancel.is_set():
                raise Cancelled
            yield
        finally:
            self._gate.release()

    @contextmanager
    def _answering_for_memory(self, subject: str) -> Iterator[None]:
        """Turn running out of memory into an `EngineError`, with the cache emptied."""
        try:
            yield
            return
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the except block: the error's frames held the very tensors that must go.
        self._empty_cache()
        raise EngineError(
            f"{subject} did not fit into the memory of {device_title(self.device)}. The cache was "
            "emptied: try again, or use a smaller min_size and max_size."
        )

    def _empty_cache(self) -> None:
        with self._lock:
            self._cache.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def _trim(self) -> None:
        """Back within the bytes; outputs grow while candidates are derived from them."""
        for key, outputs in list(self._cache.items()):
            if outputs.nbytes > self.cache_bytes:  # would drive out all others and not fit even so
                del self._cache[key]
        while self._cached_bytes() > self.cache_bytes:
            self._cache.popitem(last=False)

    def _cached_bytes(self) -> int:
        return sum(outputs.nbytes for outputs in self._cache.values())


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)


@contextmanager
def _exact_convolutions(device: torch.device) -> Iterator[None]:
    """Float32 convolutions in float32: cuDNN would round their inputs to TF32 by default."""
    cudnn = torch.backends.cudnn
    usual = cudnn.allow_tf32
    cudnn.allow_tf32 = usual and device.type != "cuda"
    try:
        yield
    finally:
        cudnn.allow_tf32 = usual
