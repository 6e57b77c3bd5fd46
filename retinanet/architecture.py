"""The network's blocks: their parameters, and what each costs on a picture of a given size.

A block is a piece of the drawing: the stem, layer1..layer4, a lateral connection and an output
convolution of the pyramid for each of P3..P5, P6, P7, and the two subnets. Names are torchvision's.
Costs are measured on a twin of the model that shares its tensors, so that a model in use by others
never carries a hook.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retinanet.backbone import STEM
from retinanet.config import ModelConfig
from retinanet.devices import device_title
from retinanet.model import Picture, RetinaNet
from retinanet.types import LEVELS, STAGES

KINDS: tuple[str, ...] = ("stem", "stage", "lateral", "output", "extra", "subnet")
"""What a block can be, from the picture upwards."""

SUBNETS: tuple[str, ...] = ("classification_head", "regression_head")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the network.

    Args:
        name: torchvision's: "stem", "layer1".."layer4", "inner_blocks.0".."inner_blocks.2",
            "layer_blocks.0".."layer_blocks.2", "p6", "p7", "classification_head",
            "regression_head".
        title: the same in words.
        kind: one of `KINDS`.
        maps: the maps that it gives, or for a subnet those that it reads.
        parameters: all of them; a frozen batch norm (v1) has none.
        trainable: those that training changes at the frozen stages asked for.
        out_channels: channels of what it gives.
        frozen: training leaves it as it is.
    """

    name: str
    title: str
    kind: str
    maps: tuple[str, ...]
    parameters: int
    trainable: int
    out_channels: int
    frozen: bool


class _Part(NamedTuple):
    """A block's modules, in the order in which they run."""

    title: str
    kind: str
    maps: tuple[str, ...]
    modules: tuple[nn.Module, ...]


def _parts(model: RetinaNet) -> dict[str, _Part]:
    """{block name: its part}, from the picture upwards."""
    body, fpn, head = model.backbone.body, model.backbone.fpn, model.head
    parts = {"stem": _Part("stem", "stem", (), tuple(body[name] for name in _stem_names(body)))}
    for stage in range(1, 5):
        name, maps = f"layer{stage}", STAGES[stage - 2 : stage - 1] if stage > 1 else ()
        parts[name] = _Part(f"ResNet {name}", "stage", maps, (body[name],))
    for block, level in enumerate(LEVELS[:3]):
        lateral = _Part(f"lateral to {level}", "lateral", (level,), (fpn.inner_blocks[block],))
        output = _Part(f"output {level}", "output", (level,), (fpn.layer_blocks[block],))
        parts |= {f"inner_blocks.{block}": lateral, f"layer_blocks.{block}": output}
    parts["p6"] = _Part("P6", "extra", ("P6",), (fpn.extra_blocks.p6,))
    parts["p7"] = _Part("P7", "extra", ("P7",), (fpn.extra_blocks.p7,))
    for name, title in zip(SUBNETS, ("classification subnet", "box subnet"), strict=True):
        parts[name] = _Part(title, "subnet", LEVELS, (getattr(head, name),))
    return parts


def _stem_names(body: nn.Module) -> list[str]:
    return [name for name in body if not name.startswith("layer")]


def _parameters(modules: tuple[nn.Module, ...]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _convolutions(modules: tuple[nn.Module, ...]) -> list[nn.Conv2d]:
    layers = itertools.chain.from_iterable(module.modules() for module in modules)
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)]


def describe(model: RetinaNet, frozen_stages: int | None = None) -> list[Block]:
    """The model's blocks, from the picture upwards; their parameters add up to the model's.

    Args:
        model: is read only.
        frozen_stages: for `Block.trainable`, -1 to 4; None: as in the model's configuration.

    Raises:
        ConfigError: `frozen_stages` is outside its range.
    """
    frozen = _frozen_blocks(model, frozen_stages)
    return [
        Block(
            name=name,
            title=part.title,
            kind=part.kind,
            maps=part.maps,
            parameters=_parameters(part.modules),
            trainable=0 if name in frozen else _parameters(part.modules),
            out_channels=_convolutions(part.modules)[-1].out_channels,
            frozen=name in frozen,
        )
        for name, part in _parts(model).items()
    ]


def _frozen_blocks(model: RetinaNet, frozen_stages: int | None) -> tuple[str, ...]:
    config = model.config
    if frozen_stages is not None:
        config = replace(config, frozen_stages=frozen_stages)  # refuses what cannot be
    backbone = copy.copy(model.backbone)  # shares every tensor and reads its own number
    backbone.frozen_stages = config.frozen_stages
    names = ("stem" if name in STEM else name for name in backbone.frozen_names())
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class FrozenView:
    """What training would leave as it is at some number of frozen stages.

    Args:
        frozen_stages: -1 to 4.
        frozen: names of the blocks that stay as they are, from the stem upwards.
        parameters: of the whole model.
        trainable: of these, those that training changes.
        trainable_per_block: {block name: those of it that training changes}.
    """

    frozen_stages: int
    frozen: tuple[str, ...]
    parameters: int
    trainable: int
    trainable_per_block: dict[str, int]


def frozen_view(model: RetinaNet, frozen_stages: int) -> FrozenView:
    """The model as `ModelConfig(frozen_stages=...)` would build it; the model is not changed.

    Raises:
        ConfigError: `frozen_stages` is outside -1..4.
    """
    blocks = describe(model, frozen_stages)
    return FrozenView(
        frozen_stages=frozen_stages,
        frozen=tuple(block.name for block in blocks if block.frozen),
        parameters=sum(block.parameters for block in blocks),
        trainable=sum(block.trainable for block in blocks),
        trainable_per_block={block.name: block.trainable for block in blocks},
    )


@dataclass(frozen=True)
class BlockCost:
    """What one block costs on a picture.

    Args:
        block: which.
        shapes: {map: (channels, height, width)} of what it gives; the stem's and layer1's under
            their own names, a subnet's prediction under each level.
        macs: multiply-accumulates of its convolutions; a bias, a norm or a ReLU is not counted.
        macs_per_level: {"P3".."P7": macs}, for a subnet; else empty.
        ms: milliseconds.
        ms_per_level: {"P3".."P7": ms} of its convolutions, for a subnet; else empty.
        share: of `Profile.total_ms`, in [0, 1].
    """

    block: Block
    shapes: dict[str, tuple[int, int, int]]
    macs: int
    macs_per_level: dict[str, int]
    ms: float
    ms_per_level: dict[str, float]
    share: float


@dataclass(frozen=True)
class Profile:
    """Where a forward's arithmetic and time go.

    Args:
        config: of the model.
        device: where it ran, for a person.
        batch: pictures in the batch; MACs and times are for all of them.
        padded_size: (height, width) of the batch.
        blocks: from the picture upwards.
        parameters: of the whole model.
        macs: of all blocks.
        total_ms: from the stem's start to the end of the box subnet.
        other_ms: of this, what is between the blocks: the top-down sums, and P7's ReLU.
        repeats: how many times it ran; the run of median time is shown.
    """

    config: ModelConfig
    device: str
    batch: int
    padded_size: tuple[int, int]
    blocks: tuple[BlockCost, ...]
    parameters: int
    macs: int
    total_ms: float
    other_ms: float
    repeats: int

    def cost(self, name: str) -> BlockCost:
        """The cost of the block of this name.

        Raises:
            KeyError: there is no such block.
        """
        return {cost.block.name: cost for cost in self.blocks}[name]


@dataclass
class _Run:
    """What the hooks saw in one forward; times in seconds.

    Args:
        input_shape: of the batch.
        started, ended: {block: time}.
        shapes: {block: shape of what its last layer gave, for each call}.
        macs: {block: {convolution: MACs of each call}}.
        calls: {subnet: (start, end) of its convolutions on each level}.
    """

    input_shape: tuple[int, ...] = ()
    started: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(list))
    macs: dict[str, dict[int, list[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    calls: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))

    def seconds(self) -> float:
        """From the stem's start to the end of the box subnet."""
        return self.ended[SUBNETS[-1]] - self.started["stem"]


@torch.no_grad()
def profile(model: RetinaNet, image_or_batch: Picture, repeats: int = 1) -> Profile:
    """Run the network and measure each block.

    On a GPU the device is waited for at every block's ends, which keeps blocks from overlapping:
    the sum is a little more than an unwatched forward takes; and one forward before the first
    measurement is not counted, as it makes choices that are kept.

    Args:
        model: runs as a twin in eval mode that shares its tensors; it is not changed.
        image_or_batch: a picture as the model takes it, or a normalised, padded batch
            [N, 3, H, W].
        repeats: forwards to measure, 1 or more; the one of median time counts.

    Raises:
        ValueError: `repeats` is below 1; or as the model for a picture it cannot take.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more, not {repeats}.")
    twin = _twin(model)
    forward = _forward_of(twin, image_or_batch)
    if model.device.type != "cpu":
        forward()
    runs = []
    watched = _Watch(twin)
    for _ in range(repeats):
        watched.run = _Run()
        forward()
        runs.append(watched.run)
    runs.sort(key=_Run.seconds)
    return _profile_of(model, runs[(repeats - 1) // 2], repeats)


def _twin(model: RetinaNet) -> RetinaNet:
    """The same network in modules of its own, around the same tensors."""
    tensors = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, tensors).eval()


def _forward_of(model: RetinaNet, image_or_batch: Picture) -> Callable[[], Any]:
    if isinstance(image_or_batch, Tensor) and image_or_batch.dim() == 4:
        return lambda: model.forward_batch(image_or_batch.to(model.device))
    return lambda: model(image_or_batch)


class _Watch:
    """Hooks on a model's blocks that write into `run`, for as long as the model lives."""

    def __init__(self, model: RetinaNet) -> None:
        self.run = _Run()
        self.device = model.device
        for name, part in _parts(model).items():
            first, last = part.modules[0], part.modules[-1]
            first.register_forward_pre_hook(self._starts(name))
            for layer in _convolutions(part.modules):
                layer.register_forward_hook(self._counts(name))
            if part.kind == "subnet":
                last_layer = _convolutions(part.modules)[-1]
                first.conv.register_forward_pre_hook(self._level_starts(name))
                last_layer.register_forward_hook(self._level_ends(name))
                last_layer.register_forward_hook(self._shapes(name))
            else:
                last.register_forward_hook(self._shapes(name))
            last.register_forward_hook(self._ends(name))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def _starts(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if name == "stem":
                self.run.input_shape = tuple(inputs[0].shape)
            self.run.started[name] = self._now()

        return hook

    def _ends(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.run.ended[name] = self._now()

        return hook

    def _level_starts(self, name: str) -> Callable[..., None]:
        return lambda *_: self.run.calls[name].append([self._now()])

    def _level_ends(self, name: str) -> Callable[..., None]:
        return lambda *_: self.run.calls[name][-1].append(self._now())

    def _shapes(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.run.shapes[name].append(tuple(output.shape[1:]))

        return hook

    def _counts(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Conv2d, inputs: Any, output: Tensor) -> None:
            taps = layer.weight[0].numel()  # in_channels / groups * kernel height * width
            self.run.macs[name][id(layer)].append(output.numel() * taps)

        return hook


def _profile_of(model: RetinaNet, run: _Run, repeats: int) -> Profile:
    costs = tuple(_cost(block, run) for block in describe(model))
    total = run.seconds() * 1e3
    return Profile(
        config=model.config,
        device=device_title(model.device),
        batch=run.input_shape[0],
        padded_size=(run.input_shape[2], run.input_shape[3]),
        blocks=costs,
        parameters=sum(cost.block.parameters for cost in costs),
        macs=sum(cost.macs for cost in costs),
        total_ms=total,
        other_ms=total - sum(cost.ms for cost in costs),
        repeats=repeats,
    )


def _cost(block: Block, run: _Run) -> BlockCost:
    calls = list(run.macs[block.name].values())
    subnet = block.kind == "subnet"
    per_level = [sum(macs) for macs in zip(*calls, strict=True)] if subnet else []
    times = [(end - start) * 1e3 for start, end in run.calls[block.name]]
    seconds = run.ended[block.name] - run.started[block.name]
    return BlockCost(
        block=block,
        shapes=dict(zip(block.maps or (block.name,), run.shapes[block.name], strict=True)),
        macs=sum(map(sum, calls)),
        macs_per_level=dict(zip(LEVELS, per_level, strict=False)),
        ms=seconds * 1e3,
        ms_per_level=dict(zip(LEVELS, times, strict=False)),
        share=seconds / run.seconds(),
    )
