"""torchvision's RetinaNets with random weights and logits spread out as a trained model's."""

from functools import cache

import torch
from torchvision.models import resnet50
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection import retinanet_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet.config import ModelConfig
from retinanet.model import RetinaNet


def retinanet_v1(**settings) -> TorchvisionRetinaNet:
    """`retinanet_resnet50_fpn` as it is with weights: without, it would take plain batch norm."""
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 3, [2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return TorchvisionRetinaNet(backbone, 91, **settings)


def retinanet_v2(**settings) -> TorchvisionRetinaNet:
    return retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, **settings)


BUILDERS = {"v1": retinanet_v1, "v2": retinanet_v2}


@cache
def torchvision_model(
    variant: str, min_size: int = 128, max_size: int = 213
) -> TorchvisionRetinaNet:
    torch.manual_seed(3)
    model = BUILDERS[variant](min_size=min_size, max_size=max_size)
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.8, 1.5)
    for subnet in (model.head.classification_head.conv, model.head.regression_head.conv):
        for parameter in subnet.parameters():
            if parameter.dim() > 1:  # keep the signal's size from layer to layer
                torch.nn.init.kaiming_normal_(parameter)
    _spread(model)
    return model.eval()


@torch.no_grad()
def _spread(model: TorchvisionRetinaNet) -> None:
    """Scale the prediction layers so that logits and deltas vary as a trained model's do."""
    features = list(model.backbone(torch.rand(1, 3, 128, 160) * 4 - 2).values())
    logits = model.head.classification_head(features)
    model.head.classification_head.cls_logits.weight.mul_(2.0 / logits.std())
    model.head.classification_head.cls_logits.bias.fill_(-3.0)
    deltas = model.head.regression_head(features)
    model.head.regression_head.bbox_reg.weight.mul_(0.4 / deltas.std())


@cache
def our_model(variant: str, min_size: int = 128, max_size: int = 213) -> RetinaNet:
    config = ModelConfig(variant=variant, min_size=min_size, max_size=max_size)
    model = RetinaNet(config)
    model.load_state_dict(torchvision_model(variant, min_size, max_size).state_dict(), strict=True)
    return model.eval()
