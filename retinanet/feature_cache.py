"""C3..C5 of training views on disk, for training above a ResNet that is frozen whole.

The frozen part of the network gives the same answer in each epoch; computing it once makes
training the pyramid and the subnets feasible on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from retinanet.augment import View
from retinanet.backbone import Backbone
from retinanet.coco import Target
from retinanet.images import batch_images
from retinanet.types import STAGES


@dataclass(frozen=True, eq=False)
class CachedView:
    """What training needs of a view once the ResNet has seen it.

    Args:
        stages: {"C3", "C4", "C5"} -> [C, H, W] float32.
        padded_size: (height, width) that they were made from.
        target: boxes in pixels of the padded image.
    """

    stages: dict[str, Tensor]
    padded_size: tuple[int, int]
    target: Target


class FeatureCache:
    """Cached views in a folder, one safetensors file each, features in float16.

    Args:
        folder: made when missing. One folder belongs to one set of weights, sizes and seed.
        stored_as: the file name, without its ending, for a key. The files hold targets as well,
            so it must change with the photo and its labels.
    """

    def __init__(self, folder: Path, stored_as: Callable[[str], str]) -> None:
        self.folder = folder
        self.stored_as = stored_as
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """The file of a view."""
        return self.folder / f"{self.stored_as(key)}.safetensors"

    @torch.no_grad()
    def fill(
        self,
        backbone: Backbone,
        keys: Sequence[str],
        make: Callable[[str], View],
        progress: Callable[[int, int], None],
    ) -> None:
        """Compute what is missing.

        Args:
            backbone: in eval mode.
            keys: of all views.
            make: the view of a key.
            progress: called with (views done, views in all) after each view.
        """
        for done, key in enumerate(keys, start=1):
            if not self.path(key).exists():
                view = make(key)
                batch = batch_images([view.image.to(next(backbone.parameters()).device)])
                self._write(key, backbone.stages(batch), tuple(batch.shape[-2:]), view.target)
            progress(done, len(keys))

    def _write(
        self, key: str, stages: dict[str, Tensor], padded_size: tuple[int, int], target: Target
    ) -> None:
        tensors = {name: stages[name][0].half().contiguous().cpu() for name in STAGES}
        tensors |= {
            "boxes": target.boxes.contiguous(),
            "labels": target.labels.contiguous(),
            "ignore": target.ignore.contiguous(),
        }
        unfinished = self.path(key).with_suffix(".part")
        save_file(tensors, unfinished, {"padded_size": f"{padded_size[0]}x{padded_size[1]}"})
        unfinished.replace(self.path(key))  # a killed run leaves no half file

    def padded_size(self, key: str) -> tuple[int, int]:
        """(height, width) of a view's padded image, without reading its tensors."""
        with safe_open(self.path(key), "pt") as file:
            height, width = file.metadata()["padded_size"].split("x")
        return int(height), int(width)

    def read(self, key: str) -> CachedView:
        """A view from the cache."""
        with safe_open(self.path(key), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        target = Target(tensors["boxes"], tensors["labels"], tensors["ignore"])
        stages = {name: tensors[name].float() for name in STAGES}
        return CachedView(stages, self.padded_size(key), target)
