"""Which pixels a cell can see at all: the theoretical receptive field.

Found by walking the live model backwards: a range of cells of a layer's output needs a range of its
input, [a*s - p, b*s - p + d*(k - 1)] for kernel k, stride s, padding p and dilation d. Where paths
meet, the widest counts. Layers are square, so one axis stands for both.

Group norm (the subnets of "v2") takes its mean and variance from the whole map, so strictly every
pixel moves every prediction there; that is left out. All this is what could matter; what does
matter to a trained network is a smaller part around the centre (Luo et al., arXiv 1701.04128).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from retinanet.cells import MAPS, Box, check_map, level_stride, scales
from retinanet.types import STAGES, Outputs

if TYPE_CHECKING:
    from retinanet.model import RetinaNet

Span = tuple[int, int]
"""First and last index, both included."""

Subnet = Literal["classification", "regression"]

_MERGED = ("P3", "P4", "P5")


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Side lengths in pixels of the resized image, the widest of all cells of the map.

    Args:
        stride: of the map.
        lateral: of a cell, without the pyramid's top-down path.
        top_down: the same with it; more on P3 and P4, nothing else on C3..C5 and P5.
        classification: of a prediction of the classification subnet; None on C3..C5.
        regression: of one of the box regression subnet; None on C3..C5.
    """

    stride: int
    lateral: int
    top_down: int
    classification: int | None
    regression: int | None


def receptive_fields(model: RetinaNet) -> dict[str, ReceptiveField]:
    """The receptive field of each map and of what the subnets say on it.

    Args:
        model: its convolutions and pools are read; nothing is computed with them.

    Returns:
        {"C3".."C5", "P3".."P7": field}.
    """
    return {
        name: ReceptiveField(
            stride=level_stride(name),
            lateral=_widest(model, name, top_down=False),
            top_down=_widest(model, name),
            classification=None if name in STAGES else _widest(model, name, "classification"),
            regression=None if name in STAGES else _widest(model, name, "regression"),
        )
        for name in MAPS
    }


def pixel_span(
    model: RetinaNet, level: str, cell: int, subnet: Subnet | None = None, top_down: bool = True
) -> Span:
    """First and last pixel that cell `cell` of a map can see along one axis.

    Args:
        model: as in `receptive_fields`.
        level: one of `MAPS`.
        cell: row or column.
        subnet: follow this subnet down from its prediction on the level; None: from the map.
        top_down: follow the pyramid's top-down path too.

    Returns:
        Pixels of the resized image; they may lie beyond it.

    Raises:
        ValueError: there is no such map, or no subnet reads it.
    """
    check_map(level)
    span = (cell, cell)
    if subnet is not None:
        check_map(level, MAPS[len(STAGES) :])
        span = _through(getattr(model.head, f"{subnet}_head"), span)
    return _map(model, level, span, top_down)


def field_box(
    model: RetinaNet,
    outputs: Outputs,
    level: str,
    row: int,
    column: int,
    subnet: Subnet | None = None,
    top_down: bool = True,
) -> Box:
    """The square that a cell can see, in pixels of the original picture, not clipped to it.

    Arguments and errors as `pixel_span`.
    """
    x1, x2 = pixel_span(model, level, column, subnet, top_down)
    y1, y2 = pixel_span(model, level, row, subnet, top_down)
    x, y = scales(outputs)
    return x1 * x, y1 * y, (x2 + 1) * x, (y2 + 1) * y


def _widest(
    model: RetinaNet, level: str, subnet: Subnet | None = None, top_down: bool = True
) -> int:
    # A cell of P3 lies at one of four places within the cell of P5 that comes down to it.
    spans = [pixel_span(model, level, cell, subnet, top_down) for cell in range(4)]
    return max(high - low + 1 for low, high in spans)


def _map(model: RetinaNet, level: str, span: Span, top_down: bool) -> Span:
    """The pixels that a range of cells of a map needs."""
    fpn = model.backbone.fpn
    if level == "P7":
        return _map(model, "P6", _through(fpn.extra_blocks.p7, span), top_down)
    if level == "P6":
        source = "P5" if fpn.extra_blocks.use_P5 else "C5"
        return _map(model, source, _through(fpn.extra_blocks.p6, span), top_down)
    if level in _MERGED:
        block = _MERGED.index(level)
        return _merged(model, block, _through(fpn.layer_blocks[block], span), top_down)
    return _stage(model.backbone.body, level, span)


def _merged(model: RetinaNet, block: int, span: Span, top_down: bool) -> Span:
    """The same for the sum of a lateral connection and of what comes down to it."""
    lateral = _through(model.backbone.fpn.inner_blocks[block], span)
    own = _stage(model.backbone.body, STAGES[block], lateral)
    if not top_down or block == len(_MERGED) - 1:
        return own
    # Nearest-neighbour upsampling; sizes are multiples of 32, so it doubles them exactly.
    return _union([own, _merged(model, block + 1, (span[0] // 2, span[1] // 2), top_down)])


def _stage(body: nn.Module, stage: str, span: Span) -> Span:
    names = list(body)
    last = names.index(f"layer{STAGES.index(stage) + 2}")
    return _chain((body[name] for name in names[: last + 1]), span)


def _chain(layers: Iterable[nn.Module], span: Span) -> Span:
    for layer in reversed(list(layers)):
        span = _through(layer, span)
    return span


def _through(layer: nn.Module, span: Span) -> Span:
    """The range of a layer's input that a range of its output needs."""
    if isinstance(layer, BasicBlock | Bottleneck):
        main = _chain((child for child in layer.children() if child is not layer.downsample), span)
        return _union([main, _through(layer.downsample, span) if layer.downsample else span])
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, padding = (
            _side(getattr(layer, name)) for name in ("kernel_size", "stride", "padding")
        )
        reach = _side(getattr(layer, "dilation", 1)) * (kernel - 1)
        return span[0] * stride - padding, span[1] * stride - padding + reach
    return _chain(layer.children(), span)  # a norm or a ReLU has none and changes nothing


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _union(spans: list[Span]) -> Span:
    return min(low for low, _ in spans), max(high for _, high in spans)
