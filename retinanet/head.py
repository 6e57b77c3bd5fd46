"""The two subnets that share the pyramid: which class, and where.

Paper, section 4 "Classification Subnet" and "Box Regression Subnet": `num_convs` 3x3 convolutions
with ReLU and one prediction layer, the same weights on every level, nothing shared between the two.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from retinanet.anchors import NUM_ANCHORS
from retinanet.config import ModelConfig

PRIOR_PROBABILITY = 0.01
"""pi of the paper, section 4.1: what a fresh head says of every anchor and class."""


def subnet(channels: int, num_convs: int, variant: str) -> nn.Sequential:
    """`num_convs` blocks of 3x3 convolution, GroupNorm in "v2", and ReLU."""
    norm = partial(nn.GroupNorm, 32) if variant == "v2" else None
    blocks = [Conv2dNormActivation(channels, channels, norm_layer=norm) for _ in range(num_convs)]
    return nn.Sequential(*blocks)


def init_convolutions(module: nn.Module) -> None:
    """Weights from N(0, 0.01), biases 0 (paper, section 4.1 "Initialization")."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def rows_by_location(prediction: Tensor, columns: int) -> Tensor:
    """(N, A * columns, H, W) -> (N, H * W * A, columns)."""
    n, _, height, width = prediction.shape
    split = prediction.view(n, -1, columns, height, width)
    return split.permute(0, 3, 4, 1, 2).reshape(n, -1, columns)


class ClassificationHead(nn.Module):
    """The classification subnet; its last bias makes a fresh head say `PRIOR_PROBABILITY`."""

    _version = 2  # torchvision's: older files name the convolutions otherwise

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.conv = subnet(channels, config.num_convs, config.variant)
        self.cls_logits = nn.Conv2d(channels, NUM_ANCHORS * config.num_classes, 3, padding=1)
        init_convolutions(self)
        prior_bias = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        nn.init.constant_(self.cls_logits.bias, prior_bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Per level (N, C, H, W) -> (N, H*W*A, K) logits."""
        return [
            rows_by_location(self.cls_logits(self.conv(level)), self.num_classes)
            for level in features
        ]


class RegressionHead(nn.Module):
    """The box regression subnet."""

    _version = 2

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.conv = subnet(channels, config.num_convs, config.variant)
        self.bbox_reg = nn.Conv2d(channels, NUM_ANCHORS * 4, 3, padding=1)
        init_convolutions(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Per level (N, C, H, W) -> (N, H*W*A, 4) deltas dx, dy, dw, dh."""
        return [rows_by_location(self.bbox_reg(self.conv(level)), 4) for level in features]


class Head(nn.Module):
    """Both subnets, named as torchvision names them."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.classification_head = ClassificationHead(channels, config)
        self.regression_head = RegressionHead(channels, config)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level features -> (per level class logits, per level box deltas)."""
        return self.classification_head(features), self.regression_head(features)
