"""RetinaNet: images in, `Outputs` out. It never thresholds.

Paper: Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002. State-dict names and
numbers are those of torchvision's `retinanet_resnet50_fpn` (v1) and `..._v2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor, nn

from retinanet.anchors import grid_anchors
from retinanet.backbone import FPN_CHANNELS, Backbone
from retinanet.config import ConfigError, ModelConfig, PostprocessConfig
from retinanet.head import Head
from retinanet.images import batch_images, normalize, resize, to_tensor
from retinanet.types import LEVELS, Image, Outputs

if TYPE_CHECKING:
    import PIL.Image

Picture = Union[Image, "PIL.Image.Image", Tensor]


@dataclass(frozen=True, eq=False)
class RawOutputs:
    """What the network says about a batch, with its gradients.

    Args:
        features: {"C3".."P7"} -> [N, C, H, W].
        cls_logits: per level [N, H*W*A, K].
        bbox_regression: per level [N, H*W*A, 4].
        grid_sizes: per level (H, W).
        padded_size: (height, width) of the batch.
        anchors: per level [H*W*A, 4] in pixels of the batch, the same for each image of it.
    """

    features: dict[str, Tensor]
    cls_logits: list[Tensor]
    bbox_regression: list[Tensor]
    grid_sizes: list[tuple[int, int]]
    padded_size: tuple[int, int]
    anchors: list[Tensor]


class RetinaNet(nn.Module):
    """The detector's network.

    Args:
        config: shape and input size.
        categories: class names by label index, None where a label has no class; all None when
            none are given.
        category_ids: the data set's id by label index; the indices when none are given.

    Raises:
        ConfigError: the names or the ids are not one per class.
    """

    def __init__(
        self,
        config: ModelConfig | None = None,
        categories: Sequence[str | None] = (),
        category_ids: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.config = config or ModelConfig()
        classes = self.config.num_classes
        self.categories = tuple(categories) or (None,) * classes
        self.category_ids = tuple(category_ids) or tuple(range(classes))
        for name in ("categories", "category_ids"):
            if len(getattr(self, name)) != classes:
                raise ConfigError(
                    f"A RetinaNet with num_classes={classes} was given "
                    f"{len(getattr(self, name))} {name}; it needs one per class."
                )
        self.name = "unnamed"
        self.card: dict = {}
        self.recommended: PostprocessConfig | None = None
        self.backbone = Backbone(self.config)
        self.head = Head(FPN_CHANNELS, self.config)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.head.regression_head.bbox_reg.weight.device

    def forward(self, images: Picture | Sequence[Picture]) -> Outputs | list[Outputs]:
        """Run the network on one picture or a batch.

        In eval mode no gradients are kept. A batch is padded to its largest height and width, so
        its anchors, and with them its numbers, differ slightly from those of each picture alone;
        this is torchvision's way.

        Args:
            images: `Image`, PIL image or float tensor [3, H, W] in [0, 1]; or a sequence of them.

        Returns:
            One `Outputs`, or a list of them for a sequence.
        """
        single = isinstance(images, Image | Tensor) or not isinstance(images, Sequence)
        pictures = [images] if single else list(images)
        tensors = [self._tensor(picture) for picture in pictures]
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            resized = [
                resize(normalize(tensor), self.config.min_size, self.config.max_size)
                for tensor in tensors
            ]
            raw = self.forward_batch(batch_images(resized))
        outputs = [
            self._outputs(raw, index, pictures[index], tensors[index], resized[index])
            for index in range(len(pictures))
        ]
        return outputs[0] if single else outputs

    def forward_batch(self, batch: Tensor, levels: Sequence[str] = LEVELS) -> RawOutputs:
        """Run the network on a normalised, padded batch [N, 3, H, W]; keeps gradients."""
        return self.forward_stages(self.backbone.stages(batch), tuple(batch.shape[-2:]), levels)

    def forward_stages(
        self,
        stages: dict[str, Tensor],
        padded_size: tuple[int, int],
        levels: Sequence[str] = LEVELS,
    ) -> RawOutputs:
        """Run everything above the ResNet on {"C3", "C4", "C5"}.

        Args:
            stages: each [N, C, H, W], as `backbone.stages` gives them.
            padded_size: (height, width) of the batch that they were made from.
            levels: the pyramid levels that the subnets run on; logits and deltas are given for
                these, grid sizes and anchors for all.
        """
        features = self.backbone.pyramid(stages)
        cls_logits, bbox_regression = self.head([features[name] for name in levels])
        grid_sizes = [tuple(features[name].shape[-2:]) for name in LEVELS]
        anchors = grid_anchors(padded_size, grid_sizes, cls_logits[0].device)
        return RawOutputs(features, cls_logits, bbox_regression, grid_sizes, padded_size, anchors)

    def _tensor(self, picture: Picture) -> Tensor:
        tensor = picture if isinstance(picture, Tensor) else to_tensor(picture)
        if tensor.dim() != 3 or tensor.shape[0] != 3 or not tensor.is_floating_point():
            raise ValueError(
                "A picture given as a tensor must be float [3, height, width] with values in "
                f"0..1, not {tensor.dtype} {list(tensor.shape)}."
            )
        return tensor.to(self.device)

    def _outputs(
        self, raw: RawOutputs, index: int, picture: Picture, original: Tensor, resized: Tensor
    ) -> Outputs:
        return Outputs(
            features={name: level[index].float() for name, level in raw.features.items()},
            cls_logits=[level[index].float() for level in raw.cls_logits],
            bbox_regression=[level[index].float() for level in raw.bbox_regression],
            anchors=raw.anchors,
            grid_sizes=raw.grid_sizes,
            image_size=tuple(resized.shape[-2:]),
            padded_size=raw.padded_size,
            original_size=tuple(original.shape[-2:]),
            config=self.config,
            categories=self.categories,
            category_ids=self.category_ids,
            image_id=picture.id if isinstance(picture, Image) else "",
        )
