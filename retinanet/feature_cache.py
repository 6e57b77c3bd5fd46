"""C3..C5 of training views on disk, for training above a ResNet that is frozen whole.

The frozen part of the network gives the same answer in each epoch; computing it once makes
training the pyramid and the subnets feasible on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from retinanet.augment import View
from retinanet.backbone import Backbone
from retinanet.coco import Target
from retinanet.images import batch_images
from retinanet.train_config import TrainingError
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
        path = self.path(key)
        unfinished = path.with_suffix(".part")
        try:
            save_file(tensors, unfinished, {"padded_size": f"{padded_size[0]}x{padded_size[1]}"})
            unfinished.replace(path)  # a killed run leaves no half file
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            raise TrainingError(
                f"The stored features {path} cannot be written: {error}; make room, or set "
                "cache_views to 0."
            ) from error

    def padded_size(self, key: str) -> tuple[int, int]:
        """(height, width) of a view's padded image, without reading its tensors."""
        with self._opened(key) as file:
            return _size(file)

    def read(self, key: str) -> CachedView:
        """A view from the cache."""
        with self._opened(key) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            padded_size = _size(file)
        target = Target(tensors["boxes"], tensors["labels"], tensors["ignore"])
        stages = {name: tensors[name].float() for name in STAGES}
        return CachedView(stages, padded_size, target)

    @contextmanager
    def _opened(self, key: str) -> Iterator[Any]:
        try:
            with safe_open(self.path(key), "pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"The stored features {self.path(key)} are gone or damaged; remove the folder "
                f"{self.folder}, and they are made again."
            ) from error


def _size(file: Any) -> tuple[int, int]:
    height, width = file.metadata()["padded_size"].split("x")
    return int(height), int(width)
