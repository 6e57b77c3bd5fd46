"""What the tests of the training loop train: four tiny photos, a tiny model."""

from __future__ import annotations

import torch

from retinanet.coco import CocoDataset
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet

QUICK = {"batch_size": 2, "warmup_steps": 2, "optimizer": "adamw", "lr": 2e-3}
"""Settings of a `TrainConfig`."""


def new_model(dataset: CocoDataset, **settings: object) -> RetinaNet:
    """The same weights each time for the same settings of its `ModelConfig`."""
    torch.manual_seed(0)
    small = {"depth": 18, "num_classes": 2, "num_convs": 1, "variant": "v2"}
    config = ModelConfig(**small | {"min_size": 72, "max_size": 96} | settings)
    return RetinaNet(config, dataset.categories, dataset.category_ids)
