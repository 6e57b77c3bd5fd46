"""The two values that flow from the picture to the traces: `Image` and `Outputs`.

Sizes follow the field: `Image.size` is (width, height) as in Pillow; sizes that describe tensors
(`Outputs.image_size`, `original_size`, `padded_size`, grids) are (height, width) as in torchvision.
Boxes are `[x1, y1, x2, y2]`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retinanet.config import ModelConfig

if TYPE_CHECKING:
    import PIL.Image

LEVELS: tuple[str, ...] = ("P3", "P4", "P5", "P6", "P7")
"""The pyramid levels that carry anchors, finest first: the order of every per-level list."""

STAGES: tuple[str, ...] = ("C3", "C4", "C5")
"""The ResNet stages (layer2, layer3, layer4) that feed the pyramid."""


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded picture: upright, RGB, eight bits a channel.

    Args:
        pil: the picture, mode "RGB". Read-only by agreement: it is shared between sessions.
        id: SHA-256 of the file's bytes (of the pixels for a PIL image), 64 hex digits.
        name: how the person named it; for display only, never part of a path.
        notes: what decoding changed, one sentence each ("Rotated as its EXIF tag says.").
    """

    pil: PIL.Image.Image
    id: str
    name: str = "image"
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pil.size


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the network said about one image, before any threshold.

    A = anchors per location (9), K = num_classes, (H, W) = the level's grid. Per-level lists are
    in the order of `LEVELS`; rows run over H, then W, then A.

    Args:
        features: {"C3".."C5", "P3".."P7"} -> [C, H, W] float32, before the subnets.
        cls_logits: per level [H*W*A, K] float32; `sigmoid` of it is the score.
        bbox_regression: per level [H*W*A, 4] float32: dx, dy in anchor sizes, dw, dh in log sizes.
        anchors: per level [H*W*A, 4] float32, pixels of the resized image.
        grid_sizes: per level (H, W).
        image_size: (height, width) of the resized image, without padding.
        padded_size: (height, width) of the tensor the network saw.
        original_size: (height, width) of the picture as uploaded.
        config: of the model that made this.
        categories: the model's class names by label index; None where a label has no class.
        category_ids: the data set's ids by label index (COCO's, for the shipped weights).
        image_id: `Image.id` of the picture, "" for bare tensors.
    """

    features: dict[str, Tensor]
    cls_logits: list[Tensor]
    bbox_regression: list[Tensor]
    anchors: list[Tensor]
    grid_sizes: list[tuple[int, int]]
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    original_size: tuple[int, int]
    config: ModelConfig
    categories: tuple[str | None, ...] = ()
    category_ids: tuple[int, ...] = ()
    image_id: str = ""
    # What is derived from the tensors once, and who may derive it. It belongs to this very object:
    # copies (`dataclasses.replace`, pickle, `copy`) may differ in what it was made from.
    _memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _deriving: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_memo", "_deriving")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _memo={}, _deriving=threading.RLock())

    def derived(self, key: str, make: Callable[[Outputs], Any]) -> Any:
        """What `make` gives for these outputs: made at the first call, then kept with them.

        Only callers for these very outputs wait while it is made; `make` may ask for others. What
        has `nbytes` is counted in `Outputs.nbytes`.
        """
        if key not in self._memo:
            with self._deriving:
                if key not in self._memo:
                    self._memo[key] = make(self)
        return self._memo[key]

    @property
    def anchors_per_level(self) -> list[int]:
        """Number of anchors on each level."""
        return [len(anchors) for anchors in self.anchors]

    @property
    def num_anchors(self) -> int:
        """Number of anchors on all levels together."""
        return sum(self.anchors_per_level)

    @property
    def num_classes(self) -> int:
        """K, the number of sigmoid columns."""
        return self.cls_logits[0].shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.cls_logits[0].device

    @property
    def nbytes(self) -> int:
        """Bytes held by the tensors and by what has been derived from them so far."""
        tensors = [*self.features.values(), *self.cls_logits, *self.bbox_regression, *self.anchors]
        derived = sum(getattr(value, "nbytes", 0) for value in list(self._memo.values()))
        return sum(tensor.nbytes for tensor in tensors) + derived

    def category_name(self, label: int) -> str:
        """The name shown for a label index; "class 12" where the model gives none."""
        name = self.categories[label] if 0 <= label < len(self.categories) else None
        return name if name else f"class {label}"

    def category_id(self, label: int) -> int:
        """The data set's id of a label index; the index itself where the model gives none."""
        return self.category_ids[label] if label < len(self.category_ids) else label
