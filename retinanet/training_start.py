"""The model that a run starts from: fresh, on a ResNet's weights, or from a detector."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import nn

from retinanet.augment import make_view
from retinanet.checkpoints import Checkpoint, build_model, load_backbone_weights, open_checkpoint
from retinanet.coco import CocoDataset, DatasetError
from retinanet.config import ModelConfig
from retinanet.deepening import fit_group_norms
from retinanet.model import RetinaNet
from retinanet.partial_loading import PartialLoad, load_what_fits
from retinanet.prior import prior_bias

FITTED_PHOTOS = 8
"""How many photos the norms of added convolutions are fitted to."""


def set_prior(model: RetinaNet, pi: float) -> None:
    """Make a classification layer that knows nothing yet say pi of every anchor and class.

    The bias becomes -log((1 - pi) / pi) (paper, sections 3.3 and 4.1), in place. Only for a fresh
    layer: of a trained one it would throw away what its bias has learned.

    Args:
        model: whose `cls_logits` is fresh.
        pi: in (0, 1).

    Raises:
        ConfigError: pi is out of range.
    """
    nn.init.constant_(model.head.classification_head.cls_logits.bias, prior_bias(pi))


def start_model(
    config: ModelConfig,
    dataset: CocoDataset,
    *,
    prior: float = 0.01,
    seed: int = 0,
    backbone: str | None = None,
    weights: str | None = None,
    init_from: str | None = None,
) -> tuple[RetinaNet, PartialLoad | None]:
    """The model of a run before its first step, on the CPU.

    At most one of the last three is given; without any, all weights are random numbers.

    Args:
        config: its shape; `num_classes` is the data set's.
        dataset: gives the classes.
        prior: pi of a fresh classification layer, in (0, 1).
        seed: of the random weights.
        backbone: ImageNet weights of a ResNet: a file or "imagenet".
        weights: a detector of this very shape, by name or path; all of it is taken.
        init_from: a detector by name or path, of which what fits is taken.

    Returns:
        The model, and what was taken where `init_from` is given.

    Raises:
        CheckpointError: the weights cannot be used.
        ConfigError: a setting is out of range.
        DatasetError, ImageError: a photo cannot be used, or there is none, where added
            convolutions have to be fitted to some.
    """
    if weights:
        return build_model(open_checkpoint(weights), config), None
    source = open_checkpoint(init_from) if init_from else None
    torch.manual_seed(seed)
    model = RetinaNet(
        _with_facts(config, source) if source else config,
        dataset.categories,
        dataset.category_ids,
    )
    load = load_what_fits(model, source) if source else None
    if load is None or load.fresh_logits:
        set_prior(model, prior)
    if load and load.identity and config.variant == "v2":
        _fit_to_photos(model, source, dataset, seed)
    if backbone:
        load_backbone_weights(model, backbone)
    return model, load


def _fit_to_photos(model: RetinaNet, source: Checkpoint, dataset: CocoDataset, seed: int) -> None:
    """Fit the norms of added convolutions to photos drawn by the seed, plain and whole."""
    if not dataset.photos:
        raise DatasetError("The data set has no photos to fit the added convolutions' norms to.")
    draw = random.Random(seed)  # noqa: S311
    photos = draw.sample(dataset.photos, min(FITTED_PHOTOS, len(dataset.photos)))
    sizes = {"min_size": model.config.min_size, "max_size": model.config.max_size}
    images = [make_view(photo, 0, **sizes).image for photo in photos]
    fit_group_norms(model, source.config.num_convs, images)


def _with_facts(config: ModelConfig, source: Checkpoint) -> ModelConfig:
    """Where the strides lie and the norms' epsilon are facts about a ResNet's weights."""
    if not source.declared or source.config.depth != config.depth:
        return config
    found = source.config
    return replace(config, stride_in_1x1=found.stride_in_1x1, norm_eps=found.norm_eps)
