"""The network in the stages that training is reported for, from the picture upwards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import nn

from retinanet.config import ModelConfig
from retinanet.model import RetinaNet

PARAMETER_STAGES: tuple[str, ...] = (
    *("stem", "layer1", "layer2", "layer3", "layer4"),
    *("fpn", "classification_head", "regression_head"),
)


def stage_of(name: str) -> str:
    """The stage that a parameter or buffer of a `RetinaNet` belongs to, by its name."""
    part, inner, *rest = name.split(".")
    if part == "head" or inner == "fpn":
        return inner
    return rest[0] if rest[0].startswith("layer") else "stem"


def parameters_by_stage(model: RetinaNet) -> dict[str, list[nn.Parameter]]:
    """{stage: its parameters}, every one of the model's once, in the order of the stages."""
    stages: dict[str, list[nn.Parameter]] = {stage: [] for stage in PARAMETER_STAGES}
    for name, parameter in model.named_parameters():
        stages[stage_of(name)].append(parameter)
    return stages


def trainable_parameters(model: RetinaNet) -> dict[str, tuple[int, int]]:
    """{stage: (parameters that train, parameters in all)}; buffers, as of norms, are none."""

    def count(parameters: Sequence[nn.Parameter]) -> int:
        return sum(parameter.numel() for parameter in parameters)

    return {
        stage: (count([p for p in own if p.requires_grad]), count(own))
        for stage, own in parameters_by_stage(model).items()
    }


@lru_cache(maxsize=64)
def parameters_of(config: ModelConfig, freeze_norms: bool = False) -> dict[str, tuple[int, int]]:
    """`trainable_parameters` of the model that a configuration builds, without building it.

    Args:
        config: of the model.
        freeze_norms: as in `TrainConfig`.
    """
    with torch.device("meta"):
        model = RetinaNet(config)
    model.backbone.freeze_norms(freeze_norms)
    return trainable_parameters(model)
