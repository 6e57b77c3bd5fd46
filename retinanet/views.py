"""The views of a data set in training order, computed or read from a cache of the ResNet."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from retinanet.augment import View, make_view
from retinanet.coco import CocoDataset, DatasetError, Photo, Target
from retinanet.config import ConfigError
from retinanet.distributed import ALONE, World
from retinanet.feature_cache import CachedView, FeatureCache
from retinanet.images import batch_images
from retinanet.model import RetinaNet
from retinanet.types import STAGES

if TYPE_CHECKING:
    from retinanet.train_config import TrainConfig


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's data: padded images, or what the frozen ResNet said about them.

    Args:
        images: [N, 3, H, W]; None where `stages` are given.
        stages: {"C3", "C4", "C5"} -> [N, C, H', W']; None where `images` are given.
        padded_size: (H, W) of the whole global batch.
        targets: N of them; boxes in pixels of the padded images.
        share: images of this batch / images of the global batch; 0 for a stand-in, in a process
            for which the global batch has no image.
    """

    images: Tensor | None
    stages: dict[str, Tensor] | None
    padded_size: tuple[int, int]
    targets: list[Target]
    share: float = 1.0

    def to(self, device: torch.device) -> Batch:
        """The same with its images or stages on a device; the targets stay where they are."""
        images = None if self.images is None else self.images.to(device)
        stages = self.stages and {name: stage.to(device) for name, stage in self.stages.items()}
        return replace(self, images=images, stages=stages)


class Views:
    """The views of a data set by key, computed or read from a cache, and their order.

    Args:
        dataset: the training photos.
        model: gives the input size, and the frozen ResNet where views are cached.
        config: jitter, repeats, cache and seed.
        cache_folder: where stored answers go, in a folder of their own for each set of weights
            and settings; used when `config.cache_views` is not 0.

    Raises:
        ConfigError: views are to be cached and the ResNet trains.
        DatasetError: there are no photos.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        model: RetinaNet,
        config: TrainConfig,
        cache_folder: Path,
    ) -> None:
        if not dataset.photos:
            raise DatasetError("The data set has no photos to train on.")
        self.photos = {photo.image_id: photo for photo in dataset.photos}
        self.model_config = model.config
        self.config = config
        self.cache: FeatureCache | None = None
        self._stamps: dict[int, str] = {}
        self._times = occurrences(dataset.photos, config)
        if config.cache_views:
            if model.config.frozen_stages != 4:
                raise ConfigError("cache_views needs frozen_stages 4: a ResNet that never trains.")
            self.cache = FeatureCache(cache_folder / self._fingerprint(model), self._stored_as)

    def _fingerprint(self, model: RetinaNet) -> str:
        """A name for everything that the stored answers depend on, but the photos."""
        digest = hashlib.sha256()
        for name, tensor in model.backbone.body.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        shape = (model.config.stride_in_1x1, model.config.norm_eps)
        sizes = (self.model_config.min_size, self.model_config.max_size)
        digest.update(repr((shape, sizes, self.config.scale_jitter, self.config.seed)).encode())
        return digest.hexdigest()[:16]

    def _stored_as(self, key: str) -> str:
        """A view's name in the cache: another photo or other labels under its id get another."""
        image_id = int(key.rsplit("-", 1)[0])
        if image_id not in self._stamps:
            self._stamps[image_id] = photo_stamp(self.photos[image_id])
        return f"{key}-{self._stamps[image_id]}"

    def make(self, key: str) -> View:
        """The view of a key, "<image id>-<number>"."""
        image_id, number = key.rsplit("-", 1)
        return make_view(
            self.photos[int(image_id)],
            int(number),
            min_size=self.model_config.min_size,
            max_size=self.model_config.max_size,
            scale_jitter=self.config.scale_jitter,
            seed=self.config.seed,
        )

    def fill_cache(
        self, model: RetinaNet, progress: Callable[[int, int], None], world: World = ALONE
    ) -> None:
        """Run the frozen ResNet on every view that the cache lacks; nothing without a cache.

        Of several processes each does its share, so none may read before all are done.
        """
        if self.cache is None:
            return
        keys = [f"{image}-{v}" for v in range(self.config.cache_views) for image in self.photos]
        self.cache.fill(model.backbone.eval(), world.share(keys), self.make, progress)

    def _shape(self, key: str) -> tuple[int, int]:
        """What a batch must agree on: the padded size in a cache, else the orientation."""
        if self.cache is not None:
            return self.cache.padded_size(key)
        photo = self.photos[int(key.rsplit("-", 1)[0])]
        return int(photo.width >= photo.height), 0

    def batches(self) -> Iterator[list[str]]:
        """Batches of keys, epoch after epoch without end; the same for the same seed."""
        epoch = 0
        shapes: dict[str, tuple[int, int]] = {}
        while True:
            number = epoch % self.config.cache_views if self.config.cache_views else epoch
            order = random.Random(f"{self.config.seed}/{epoch}")  # noqa: S311
            buckets: dict[tuple[int, int], list[str]] = {}
            epoch_batches = []
            keys = [
                f"{image_id}-{number}"
                for image_id, times in self._times.items()
                for _ in range(int(times) + (times % 1 > 0 and order.random() < times % 1))
            ]
            order.shuffle(keys)
            for key in keys:
                if key not in shapes:
                    shapes[key] = self._shape(key)
                bucket = buckets.setdefault(shapes[key], [])
                bucket.append(key)
                if len(bucket) == self.config.batch_size:
                    epoch_batches.append(bucket.copy())
                    bucket.clear()
            epoch_batches += [bucket for bucket in buckets.values() if bucket]
            order.shuffle(epoch_batches)
            yield from epoch_batches
            epoch += 1

    def load(self, keys: list[str], world: World = ALONE) -> Batch:
        """The data of a batch; of several processes each loads its share of it.

        A share is padded as the whole batch is, since the anchors depend on the padding. A
        process that the batch has no image for gets the first one, with a share of 0.
        """
        own = world.share(keys)
        share = len(own) / len(keys)
        own = own or keys[:1]
        if self.cache is None:
            views = [self.make(key) for key in own]
            images = _padded_alike(batch_images([view.image for view in views]), world)
            targets = [view.target for view in views]
            return Batch(images, None, tuple(images.shape[-2:]), targets, share)
        cached: list[CachedView] = [self.cache.read(key) for key in own]
        stages = {name: torch.stack([view.stages[name] for view in cached]) for name in STAGES}
        targets = [view.target for view in cached]
        return Batch(None, stages, cached[0].padded_size, targets, share)


def occurrences(photos: Sequence[Photo], config: TrainConfig) -> dict[int, float]:
    """{image id: how often the photo occurs in an epoch}, a whole number or the mean of two.

    `repeat_true` for photos that people labelled, times the repeat factor of the photo's rarest
    class (LVIS, arXiv 1908.03195, appendix B.2).
    """
    classes = {photo.image_id: set(photo.target.labels.tolist()) for photo in photos}
    showing = Counter(label for labels in classes.values() for label in labels)
    wanted = config.repeat_thresh * len(photos)  # photos that show a class that is not rare
    times = {}
    for photo in photos:
        factors = [math.sqrt(wanted / showing[label]) for label in classes[photo.image_id]]
        repeats = 1 if photo.machine_labelled else config.repeat_true
        times[photo.image_id] = repeats * max([1.0, *factors])
    return times


def _padded_alike(images: Tensor, world: World) -> Tensor:
    """[N, 3, H, W] padded to the largest height and width that any process has."""
    height, width = map(int, world.maximum(images.shape[-2:]))
    return pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))


def photo_stamp(photo: Photo) -> str:
    """16 hex digits that change with the photo's file, its boxes, its labels or what to ignore.

    Raises:
        DatasetError: the file is gone.
    """
    try:
        status = photo.path.stat()
    except OSError as error:
        raise DatasetError(f"{photo.path} cannot be read: {error.strerror}.") from error
    file = (str(photo.path.resolve()), status.st_size, status.st_mtime_ns)
    digest = hashlib.sha256(repr((file, photo.width, photo.height)).encode())
    for tensor in (photo.target.boxes, photo.target.labels, photo.target.ignore):
        digest.update(repr(tuple(tensor.shape)).encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
