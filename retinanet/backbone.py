"""ResNet and feature pyramid: an image tensor in, C3..C5 and P3..P7 out.

Paper, section 4 "Feature Pyramid Network Backbone". The blocks are torchvision's and so are the
parameter names, so state dicts pass both ways.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet.config import ModelConfig
from retinanet.types import LEVELS, STAGES

FPN_CHANNELS = 256

STEM = ("conv1", "bn1")


def move_stride_to_1x1(body: nn.Module) -> None:
    """Put the stride of layer2..layer4's first bottleneck into its 1x1 convolution (Caffe style).

    Basic blocks (depth 18 and 34) have no 1x1 convolution on the main path and stay as they are.
    """
    for layer in (body.layer2, body.layer3, body.layer4):
        block = layer[0]
        if isinstance(block, resnet.Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


class Backbone(nn.Module):
    """ResNet body and FPN.

    Args:
        config: `depth`, `variant`, `stride_in_1x1`, `norm_eps` and `frozen_stages` are read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        norm = FrozenBatchNorm2d if config.variant == "v1" else nn.BatchNorm2d
        build = getattr(resnet, f"resnet{config.depth}")
        body = build(weights=None, norm_layer=partial(norm, eps=config.norm_eps))
        if config.stride_in_1x1:
            move_stride_to_1x1(body)
        channels = [body.inplanes // 2 ** (2 - i) for i in range(3)]  # C3, C4, C5
        self.body = IntermediateLayerGetter(body, {"layer2": "C3", "layer3": "C4", "layer4": "C5"})
        p6_channels = FPN_CHANNELS if config.variant == "v1" else channels[-1]
        self.fpn = FeaturePyramidNetwork(
            channels, FPN_CHANNELS, extra_blocks=LastLevelP6P7(p6_channels, FPN_CHANNELS)
        )
        self.frozen_stages = config.frozen_stages
        self.norms_frozen = False
        self.freeze()

    def frozen_names(self) -> tuple[str, ...]:
        """The body's frozen children, from the stem upwards."""
        if self.frozen_stages < 0:
            return ()
        return STEM + tuple(f"layer{stage}" for stage in range(1, self.frozen_stages + 1))

    def freeze(self) -> None:
        """Stop gradients to the frozen children (torchvision `_resnet_fpn_extractor`) and norms."""
        frozen = self.frozen_names()
        for name, child in self.body.named_children():
            child.requires_grad_(name not in frozen)
        if self.norms_frozen:
            for norm in self._norms():
                norm.requires_grad_(False)

    def freeze_norms(self, frozen: bool = True) -> None:
        """Keep every batch norm of the body as it is, also in stages that train; or no longer.

        A small batch says little about a channel's mean and deviation; ImageNet's serve (as in He
        et al., "Deep Residual Learning", arXiv 1512.03385, appendix A). Of "v1" they always are.
        """
        if frozen != self.norms_frozen:
            self.norms_frozen = frozen
            self.freeze()
            self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """As `nn.Module.train`, but frozen stages and norms stay in eval mode.

        A frozen stage whose batch norm kept updating its running statistics would still change.
        """
        super().train(mode)
        for name in self.frozen_names():
            self.body[name].eval()
        if self.norms_frozen:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.body.modules() if isinstance(module, nn.BatchNorm2d)]

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] normalised images -> {"C3", "C4", "C5"}."""
        return self.body(images)

    def pyramid(self, stages: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"C3", "C4", "C5"} -> the same with {"P3".."P7"} added."""
        levels = self.fpn({name: stages[name] for name in STAGES})
        return stages | dict(zip(LEVELS, levels.values(), strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] normalised images -> {"C3".."C5", "P3".."P7"}, each [N, C, H', W']."""
        return self.pyramid(self.stages(images))
