"""Deeper subnets that begin as what they were: the added convolutions hand on what they get.

Chen, Goodfellow, Shlens: "Net2Net: Accelerating Learning via Knowledge Transfer", arXiv
1511.05641, section 2.3 "Net2DeeperNet". A fresh convolution behind trained ones would throw away
what they say; the identity keeps it, and training makes of it what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from retinanet.model import RetinaNet
from retinanet.types import LEVELS

SUBNETS = ("classification_head", "regression_head")


def set_identity(block: Conv2dNormActivation) -> None:
    """Make a subnet's block pass on its input, in place.

    What comes out of a ReLU is not negative, so the block's own ReLU changes nothing. Without a
    norm this is exact; a GroupNorm still has to be given the statistics: see `fit_group_norms`.
    """
    nn.init.dirac_(block[0].weight)
    if block[0].bias is not None:
        nn.init.zeros_(block[0].bias)


@torch.no_grad()
def fit_group_norms(model: RetinaNet, trained: int, images: Sequence[Tensor]) -> None:
    """Let the GroupNorms behind identities undo what they do, as nearly as constants can.

    A GroupNorm takes each group's mean away and divides by its deviation. Its own scale and shift
    are set to both, averaged over the pictures and the five levels, in place: what differs from
    picture to picture is lost, what differs from place to place stays.

    Args:
        model: "v2", with `set_identity` blocks behind the first `trained` of each subnet.
        trained: 1 or more.
        images: [3, h, w] each, normalised and resized; at least one.
    """
    training = model.training
    model.eval()
    pyramids = [model.backbone(image[None].to(model.device)) for image in images]
    for name in SUBNETS:
        blocks = getattr(model.head, name).conv
        # What is to come out of every added block is what comes out of the trained ones.
        seen = [blocks[:trained](pyramid[level]) for pyramid in pyramids for level in LEVELS]
        for block in blocks[trained:]:
            norm = block[1]
            groups = [features.reshape(norm.num_groups, -1) for features in seen]
            size = norm.num_channels // norm.num_groups
            mean = torch.stack([g.mean(1) for g in groups]).mean(0)
            deviation = torch.stack([g.std(1, correction=0) for g in groups]).mean(0)
            norm.weight.copy_(deviation.repeat_interleave(size))
            norm.bias.copy_(mean.repeat_interleave(size))
    model.train(training)
