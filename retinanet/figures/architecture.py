"""The network drawn with what each part costs; the rows and the words are in `costs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go

from retinanet.architecture import BlockCost, FrozenView, Profile
from retinanet.figures.costs import (
    architecture_rows,
    architecture_sentence,
    count_text,
    fits_rows,
    ms_text,
    shape_text,
    share_text,
)
from retinanet.figures.palette import LEVEL_COLORS, OKABE_ITO, text_color
from retinanet.types import LEVELS, STAGES

__all__ = ["architecture_figure", "architecture_rows", "architecture_sentence", "fits_rows"]

BACKBONE_COLOR = "#B8BFC6"
"""The stem and the ResNet's layers."""

FROZEN_COLOR = "#E4E7EA"
"""The same where training leaves them as they are; hatched as well."""

HATCH_COLOR = "#CCD2D8"

SUBNET_COLORS: dict[str, str] = {
    "classification_head": OKABE_ITO[0],
    "regression_head": OKABE_ITO[1],
}
"""The two subnets."""

ARROW_COLOR = "#7A8794"

COLUMNS: tuple[tuple[float, float], ...] = ((0.0, 32.0), (35.5, 66.5), (70.0, 100.0))
"""Left and right edge of the backbone, the pyramid and the subnets, in the drawing's units."""

ROW_OF: dict[str, float] = {
    "stem": 0,
    "layer1": 1,
    "layer2": 2,
    "layer3": 3,
    "layer4": 4,
    "P3": 2,
    "P4": 3,
    "P5": 4,
    "P6": 5,
    "P7": 6,
}
BOX_HEIGHT = 0.8

_SUBNET_ROWS = {"classification_head": 4.5, "regression_head": 1.5}
_SUBNET_HEIGHT, _LAYER_HEIGHT = 2.8, 0.42


@dataclass
class _Boxes:
    """Columns of the bars that are the boxes."""

    left: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    middle: list[float] = field(default_factory=list)
    height: list[float] = field(default_factory=list)
    color: list[str] = field(default_factory=list)
    hatch: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    hover: list[str] = field(default_factory=list)

    def add(
        self,
        sides: tuple[float, float],
        middle: float,
        height: float,
        color: str,
        text: str,
        hover: str,
        frozen: bool = False,
    ) -> None:
        self.left.append(sides[0])
        self.right.append(sides[1])
        self.middle.append(middle)
        self.height.append(height)
        self.color.append(FROZEN_COLOR if frozen else color)
        self.hatch.append("/" if frozen else "")
        self.text.append(text)
        self.hover.append(hover)

    def trace(self) -> go.Bar:
        return go.Bar(
            orientation="h",
            base=self.left,
            x=[right - left for left, right in zip(self.left, self.right, strict=True)],
            y=self.middle,
            width=self.height,
            marker={
                "color": self.color,
                "line": {"width": 1, "color": ARROW_COLOR},
                "pattern": {
                    "shape": self.hatch,
                    "fgcolor": HATCH_COLOR,
                    "fillmode": "overlay",
                    "size": 7,
                    "solidity": 0.2,
                },
            },
            text=self.text,
            textposition="inside",
            insidetextanchor="middle",
            constraintext="inside",  # a narrow screen shrinks the words, none overlap
            textangle=0,
            textfont={"size": 12, "color": [text_color(color) for color in self.color]},
            hovertext=self.hover,
            hovertemplate="%{hovertext}<extra></extra>",
        )


def architecture_figure(
    profile: Profile, frozen: FrozenView | Sequence[str] | None = None
) -> go.Figure:
    """The network, from the picture (bottom left) to the two subnets (right).

    In each box its name, the shape of what it gives (channels×height×width), parameters ("par"),
    multiply-accumulates ("MAC") and share of the time; exact numbers and milliseconds at a touch.
    Words shrink with the boxes, so that none overlap on a phone. Blocks that training does not
    change are grey, hatched and called frozen.

    Args:
        profile: of the model on some picture.
        frozen: which are frozen: from `frozen_view`, or the blocks' names; None: as the model's
            configuration says.
    """
    names = _frozen_names(profile, frozen)
    boxes = _Boxes()
    for cost in profile.blocks:
        if cost.block.kind in ("stem", "stage"):
            _add_backbone(boxes, cost, cost.block.name in names)
    for level in LEVELS:
        _add_level(boxes, profile, level)
    for name in SUBNET_COLORS:
        _add_subnet(boxes, profile, name)
    figure = go.Figure(boxes.trace())
    _add_arrows(figure, profile)
    height, width = profile.padded_size
    centre = sum(COLUMNS[1]) / 2
    _note(figure, centre, 0, f"input 3×{height}×{width}")
    _note(
        figure,
        centre,
        1,
        f"{count_text(profile.parameters)} par, {count_text(profile.macs)} MAC,<br>"
        f"{ms_text(profile.total_ms)} ms. In a box: shape,<br>parameters, MAC, time",
    )
    figure.update_layout(
        height=420,
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        showlegend=False,
        barmode="overlay",
        hovermode="closest",
        xaxis={"visible": False, "range": [-0.5, 100.5], "fixedrange": True},
        yaxis={"visible": False, "range": [-0.55, 6.55], "fixedrange": True},
    )
    return figure


def _frozen_names(profile: Profile, frozen: FrozenView | Sequence[str] | None) -> set[str]:
    if frozen is None:
        return {cost.block.name for cost in profile.blocks if cost.block.frozen}
    return set(frozen.frozen if isinstance(frozen, FrozenView) else frozen)


def _add_backbone(boxes: _Boxes, cost: BlockCost, frozen: bool) -> None:
    name = cost.block.name
    (given, shape), *_ = cost.shapes.items()
    title = f"{name} → {given}" if given in STAGES else name
    mark = ", frozen" if frozen else ""
    boxes.add(
        COLUMNS[0],
        ROW_OF[name],
        BOX_HEIGHT,
        BACKBONE_COLOR,
        f"<b>{title}{mark}</b><br>{shape_text(shape)}<br>{_brief([cost])}",
        _hover(f"{cost.block.title}{mark}", [cost]),
        frozen,
    )


def _add_level(boxes: _Boxes, profile: Profile, level: str) -> None:
    costs = [
        cost
        for cost in profile.blocks
        if cost.block.kind in ("lateral", "output", "extra") and cost.block.maps == (level,)
    ]
    shape = costs[-1].shapes[level]
    boxes.add(
        COLUMNS[1],
        ROW_OF[level],
        BOX_HEIGHT,
        LEVEL_COLORS[level],
        f"<b>{level}</b><br>{shape_text(shape)}<br>{_brief(costs)}",
        "<br><br>".join(_hover(cost.block.title, [cost]) for cost in costs),
    )


def _add_subnet(boxes: _Boxes, profile: Profile, name: str) -> None:
    """One box, and in its upper part the convolutions that it is made of."""
    cost, color, middle = profile.cost(name), SUBNET_COLORS[name], _SUBNET_ROWS[name]
    left, right = COLUMNS[2]
    convs, channels = profile.config.num_convs, cost.block.out_channels
    text = (
        f"<b>{cost.block.title}</b><br>{convs} × conv 3×3, 1 prediction<br>"
        f"gives {channels:,} channels<br>{_brief([cost])}"
    )
    body = _SUBNET_HEIGHT - _LAYER_HEIGHT
    top = middle + _SUBNET_HEIGHT / 2 - _LAYER_HEIGHT / 2
    boxes.add(
        (left, right),
        middle - _LAYER_HEIGHT / 2,
        body,
        color,
        text,
        _hover(cost.block.title, [cost]) + _per_level(cost),
    )
    step = (right - left) / (convs + 1)
    for layer in range(convs + 1):
        last = layer == convs
        what = "prediction" if last else f"convolution {layer + 1} of {convs}"
        boxes.add(
            (left + layer * step, left + (layer + 1) * step),
            top,
            _LAYER_HEIGHT,
            color,
            "out" if last else "3×3",
            f"{cost.block.title}: {what}, 3×3, {channels if last else 256:,} channels",
        )


def _per_level(cost: BlockCost) -> str:
    return "".join(
        f"<br>{level}: {shape_text(cost.shapes[level])}, "
        f"{count_text(cost.macs_per_level[level])} MAC, {ms_text(cost.ms_per_level[level])} ms"
        for level in cost.shapes
    )


def _add_arrows(figure: go.Figure, profile: Profile) -> None:
    half, (left, right), levels = BOX_HEIGHT / 2, COLUMNS[0], COLUMNS[1]
    middle, centre = (left + right) / 2, sum(levels) / 2
    for row in range(4):  # up the ResNet
        _arrow(figure, (middle, row + half), (middle, row + 1 - half))
    for row in (2, 3, 4):  # lateral connections
        _arrow(figure, (right, row), (levels[0], row))
    for row in (4, 3):  # top-down
        _arrow(figure, (centre, row - half), (centre, row - 1 + half))
    if profile.config.variant == "v1":  # P6 from P5
        _arrow(figure, (centre, 4 + half), (centre, 5 - half))
    else:  # P6 from C5
        _arrow(figure, (middle, 4 + half), (levels[0], 5))
    _arrow(figure, (centre, 5 + half), (centre, 6 - half))
    _arrow(figure, (levels[0], 0), (right, 0))  # the picture into the stem
    bus = (levels[1] + COLUMNS[2][0]) / 2  # every level goes to both subnets
    _line(figure, (bus, min(_SUBNET_ROWS.values())), (bus, ROW_OF["P7"]))
    for level in LEVELS:
        _line(figure, (levels[1], ROW_OF[level]), (bus, ROW_OF[level]))
    for row in _SUBNET_ROWS.values():
        _arrow(figure, (bus, row), (COLUMNS[2][0], row))


def _line(figure: go.Figure, start: tuple[float, float], end: tuple[float, float]) -> None:
    figure.add_shape(
        type="line",
        x0=start[0],
        y0=start[1],
        x1=end[0],
        y1=end[1],
        line={"color": ARROW_COLOR, "width": 1.2},
    )


def _arrow(figure: go.Figure, start: tuple[float, float], end: tuple[float, float]) -> None:
    figure.add_annotation(
        x=end[0],
        y=end[1],
        ax=start[0],
        ay=start[1],
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        text="",
        showarrow=True,
        arrowhead=3,
        arrowsize=0.8,
        arrowwidth=1.2,
        arrowcolor=ARROW_COLOR,
    )


def _note(figure: go.Figure, x: float, y: float, text: str) -> None:
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font={"size": 10})


def _brief(costs: Sequence[BlockCost]) -> str:
    """Parameters, arithmetic and share of the time of some blocks together."""
    parameters = sum(cost.block.parameters for cost in costs)
    macs, share = sum(cost.macs for cost in costs), sum(cost.share for cost in costs)
    return f"{count_text(parameters)} par, {count_text(macs)} MAC, {share_text(share)}"


def _hover(title: str, costs: Sequence[BlockCost]) -> str:
    cost = costs[0]
    return (
        f"<b>{title}</b><br>{cost.block.parameters:,} parameters<br>"
        f"{count_text(cost.macs)} multiply-accumulates<br>{ms_text(cost.ms)} ms, "
        f"{share_text(cost.share)} of the time"
    )
