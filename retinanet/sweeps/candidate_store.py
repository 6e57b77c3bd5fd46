"""Candidates of a data set's photos on disk: the network runs once for each, then never again.

Each photo has one file, written whole or not at all, so that a run that is killed loses the photo
it was at and no other. Nothing is held in memory for a photo but the name of its file.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retinanet.coco import CocoDataset, DatasetError, Photo, open_photo
from retinanet.config import ConfigError, PostprocessConfig
from retinanet.detection import DetectionTrace, detect
from retinanet.export import to_coco_results
from retinanet.images import ImageError
from retinanet.model import RetinaNet
from retinanet.single_flight import Cancelled
from retinanet.sweeps.store_files import (
    HEADER,
    StoreHeader,
    file_name,
    list_files,
    read_header,
    slug,
    unwritable,
    write,
)
from retinanet.sweeps.stored import StoredImage, from_bytes, pack, to_bytes
from retinanet.types import Image, Outputs

SCORE_FLOOR = 0.01
"""Pairs with a score above this are stored, unless more is asked for: AP counts from there on."""

TOPK = 1000
"""Pairs of a level that are stored, unless more is asked for: torchvision's `topk_candidates`."""


@dataclass(frozen=True, slots=True)
class StoreProgress:
    """How far a long piece of work is.

    Args:
        done: photos dealt with, those found on disk and those skipped included.
        total: photos in all.
        seconds: since the start.
        eta_seconds: what is left at the pace so far; nan while there is no pace to go by.
        skipped: (image id, sentence) of the photos that cannot be read.
        found: photos that were on disk before.
    """

    done: int
    total: int
    seconds: float
    eta_seconds: float
    skipped: tuple[tuple[int, str], ...] = ()
    found: int = 0


class CandidateStore:
    """The stored candidates of some photos. Reading is safe from several threads.

    Args:
        folder: of the files.
        score_floor: settings with a lower `score_thresh` cannot be answered; [0, 1).
        topk: nor those with more `topk_candidates`; 1 or more.
        files: name of the file of each image id; those in the folder unless given.
        skipped: (image id, sentence) of the photos that cannot be read.
        header: as in the folder's `store.json`; read from there unless given.

    Raises:
        ConfigError: a value is outside its range.
        DatasetError: the folder holds no stored candidates, or those of another floor or top-K.
    """

    def __init__(
        self,
        folder: Path,
        *,
        score_floor: float,
        topk: int,
        files: Mapping[int, str] | None = None,
        skipped: tuple[tuple[int, str], ...] = (),
        header: StoreHeader | None = None,
    ) -> None:
        _check_limits(score_floor, topk)
        self.folder, self.score_floor, self.topk = Path(folder), float(score_floor), int(topk)
        self.header = header or read_header(self.folder)
        if (self.header.score_floor, self.header.topk) != (self.score_floor, self.topk):
            raise DatasetError(
                f"{self.folder} holds candidates above {self.header.score_floor:g}, the best "
                f"{self.header.topk:,} of a level; store them again for other limits."
            )
        self._files = dict(list_files(self.folder) if files is None else files)
        self.skipped = skipped

    @classmethod
    def open(cls, folder: Path) -> CandidateStore:
        """The store in a folder (`store.folder` of an earlier one), with all its photos.

        Raises:
            DatasetError: the folder holds no stored candidates.
        """
        header = read_header(Path(folder))
        return cls(folder, score_floor=header.score_floor, topk=header.topk, header=header)

    @classmethod
    @torch.no_grad()
    def fill(
        cls,
        folder: Path,
        forward: Callable[[Image], Outputs],
        dataset: CocoDataset,
        *,
        key: str,
        score_floor: float = SCORE_FLOOR,
        topk: int = TOPK,
        progress: Callable[[StoreProgress], None] = lambda _: None,
        cancel: threading.Event | None = None,
    ) -> CandidateStore:
        """Run the network on every photo that is not stored yet.

        Args:
            folder: each key, floor, top-K and list of classes has a folder of its own in it
                (`store.folder`); what was stored under another is not mixed in.
            forward: a model in eval mode, or the engine's call.
            dataset: its photos are read from their files, one at a time. A photo whose file
                changed is run again; its annotations do not matter.
            key: names the model, the size and the precision: `model_key`.
            score_floor: pairs with a score strictly above this are stored.
            topk: of each level at most so many, and those that tie with the last.
            progress: called before the first photo and after each.
            cancel: set it to stop after the current photo.

        Returns:
            The store of this data set's photos, without those that cannot be read (`skipped`).

        Raises:
            Cancelled: `cancel` was set; what is done stays, and the same call goes on from there.
            ConfigError: the floor or the top-K is outside its range.
            DatasetError: the folder cannot be written.
        """
        _check_limits(score_floor, topk)
        home = Path(folder) / slug(key, score_floor, topk)
        filling = _Filling(home, StoreHeader(key, float(score_floor), int(topk)), forward)
        filling.run(dataset, progress, cancel)
        header = filling.header
        return cls(
            home,
            score_floor=score_floor,
            topk=topk,
            files=filling.files,
            skipped=tuple(filling.skipped),
            header=header,
        )

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Of the stored photos, ascending."""
        return tuple(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._files

    def read(self, image_id: int) -> StoredImage:
        """One photo's candidates.

        Raises:
            DatasetError: it is not stored, or its file is damaged.
        """
        if image_id not in self._files:
            raise DatasetError(f"No candidates of image {image_id} are stored; fill the store.")
        path = self.folder / self._files[image_id]
        header = self.header
        try:
            return from_bytes(path.read_bytes(), header.categories, header.category_ids)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise DatasetError(f"{path} is damaged; remove it and fill the store again.") from error

    def check(self, config: PostprocessConfig) -> None:
        """Refuse a setting that what is stored cannot answer.

        Raises:
            ConfigError: `score_thresh` is below the floor, or `topk_candidates` above the top-K.
        """
        if config.score_thresh < self.score_floor:
            raise ConfigError(
                f"score_thresh {config.score_thresh:g} is below {self.score_floor:g}, the lowest "
                "score that was stored; store the candidates with a lower score_floor."
            )
        if config.topk_candidates > self.topk:
            raise ConfigError(
                f"topk_candidates {config.topk_candidates:,} is more than the {self.topk:,} pairs "
                "of a level that were stored; store the candidates with a larger topk."
            )

    def stored_part(self, dataset: CocoDataset) -> CocoDataset:
        """The data set with those of its photos that are stored, in its order.

        Raises:
            DatasetError: none is.
        """
        photos = tuple(photo for photo in dataset.photos if photo.image_id in self)
        if not photos:
            raise DatasetError("None of the data set's photos could be read or is stored.")
        return replace(dataset, photos=photos)

    def trace(self, image_id: int, config: PostprocessConfig) -> DetectionTrace:
        """`detect` on the stored candidates: use its boxes, scores and labels, not its counts.

        Raises:
            ConfigError, DatasetError: as `check` and `read`.
        """
        self.check(config)
        return detect(self.read(image_id).outputs, config)


def detections(
    store: CandidateStore, image_id: int, config: PostprocessConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """What `detect` gives for the photo under a setting, bit for bit, without the network.

    Candidates that a GPU made are processed on the CPU here, where NMS may round the last bit of
    an IoU differently.

    Returns:
        boxes [N, 4] float32 xyxy in pixels of the original photo; scores [N] float32, descending;
        labels [N] int64.

    Raises:
        ConfigError: the setting asks for more than is stored.
        DatasetError: the photo is not stored, or its file is damaged.
    """
    trace = store.trace(image_id, config)
    return trace.boxes, trace.scores, trace.labels


def results(
    store: CandidateStore, config: PostprocessConfig, dataset: CocoDataset
) -> Iterator[dict[str, Any]]:
    """The detections of the data set's stored photos in COCO's results format, in its order.

    Raises:
        ConfigError, DatasetError: as `detections`.
    """
    for photo in store.stored_part(dataset).photos:
        trace = store.trace(photo.image_id, config)
        yield from to_coco_results(trace, trace.outputs, photo.image_id)


def model_key(model: RetinaNet, precision: str = "fp32") -> str:
    """A key for `fill`: the model's name and 16 hex digits of its weights, size and precision."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    shape = (model.config.to_dict(), model.categories, model.category_ids, precision)
    digest.update(repr(shape).encode())
    return f"{Path(model.name).stem}-{digest.hexdigest()[:16]}"


class _Filling:
    """One run of `CandidateStore.fill`."""

    def __init__(
        self, home: Path, header: StoreHeader, forward: Callable[[Image], Outputs]
    ) -> None:
        self.home, self.header, self.forward = home, header, forward
        self.files: dict[int, str] = {}
        self.skipped: list[tuple[int, str]] = []
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(home, error) from error
        if (home / HEADER).exists():
            self.header = read_header(home)

    def run(
        self,
        dataset: CocoDataset,
        progress: Callable[[StoreProgress], None],
        cancel: threading.Event | None,
    ) -> None:
        missing = self._missing(dataset)
        total, started = len(dataset.photos), time.perf_counter()
        found = len(self.files)
        for number in range(len(missing) + 1):
            seconds = time.perf_counter() - started
            eta = seconds / number * (len(missing) - number) if number else math.nan
            done = total - len(missing) + number
            progress(
                StoreProgress(
                    *(done, total, seconds, eta if number < len(missing) else 0.0),
                    *(tuple(self.skipped), found),
                )
            )
            if number == len(missing):
                return
            if cancel is not None and cancel.is_set():
                raise Cancelled
            self._add(missing[number])

    def _missing(self, dataset: CocoDataset) -> list[Photo]:
        known = (self.home / HEADER).exists()  # without it nobody knows the files' classes
        missing = []
        for photo in dataset.photos:
            name = file_name(photo)
            if known and name is not None and (self.home / name).is_file():
                self.files[photo.image_id] = name
            else:
                missing.append(photo)
        return missing

    def _add(self, photo: Photo) -> None:
        """Store one photo, or note why it cannot be read."""
        name = file_name(photo)
        try:
            if name is None:
                raise DatasetError(f"{photo.path.name} is no longer there.")
            image = open_photo(photo)
        except (ImageError, DatasetError) as error:
            self.skipped.append((photo.image_id, str(error)))
            return
        started = time.perf_counter()
        outputs = self.forward(image)
        forwarded = time.perf_counter()
        floor, topk = self.header.score_floor, self.header.topk
        arrays = pack(outputs, floor, topk)
        seconds = (forwarded - started, time.perf_counter() - forwarded)
        self._agree(outputs)
        write(self.home / name, to_bytes(outputs, floor, topk, *seconds, arrays))
        self.files[photo.image_id] = name

    def _agree(self, outputs: Outputs) -> None:
        """The first photo says which classes there are; all others must have the same."""
        header = replace(
            self.header,
            categories=tuple(outputs.categories),
            category_ids=tuple(outputs.category_ids),
        )
        if header != self.header:
            if (self.home / HEADER).exists():
                raise DatasetError(
                    f"{self.home} holds candidates of a model with other classes under the same "
                    "key; give this model a key of its own, or remove the folder."
                )
            self.header = header
        if not (self.home / HEADER).exists():
            write(self.home / HEADER, json.dumps(asdict(self.header)).encode())


def _check_limits(score_floor: float, topk: int) -> None:
    """Raises ConfigError, in the words of the setting that each limit stands for."""
    PostprocessConfig(score_thresh=score_floor, topk_candidates=topk)
