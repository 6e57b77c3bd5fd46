"""All detections of a data set under a grid of settings, matched; 42 bytes for each detection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from retinanet.coco import CocoDataset
from retinanet.coco_matching import MAX_DETS, class_ranks
from retinanet.single_flight import Cancelled
from retinanet.sweeps.candidate_store import CandidateStore, StoreProgress
from retinanet.sweeps.grid import Grid
from retinanet.sweeps.matching import match_image
from retinanet.sweeps.runs import Run, above, runs_of
from retinanet.sweeps.truths import ImageTruths, Truths

RECORD = np.dtype(
    [
        ("score", "f4"),
        ("label", "i4"),
        ("column", "i4"),  # the class among the data set's, -1 for none of them
        ("image", "u4"),  # place among the image ids, ascending
        ("rank", "u4"),  # place in the photo, 0 for the best
        ("class_rank", "u4"),  # place among its class in the photo
        ("first", "u1"),  # places of the score thresholds it is a detection for
        ("last", "u1"),
        ("true", "u8"),  # bits of `matching.Matches`
        ("ignored", "u8"),
    ]
)


@dataclass(frozen=True, eq=False)
class MatchedDetections:
    """The matched detections of each `nms_thresh` and `topk_candidates` of a grid.

    Args:
        grid: the settings.
        class_score_thresh: floors of single classes that all of them have.
        truths: the objects.
        image_ids: [I] int64, ascending.
        records: {(topk_candidates, nms_thresh): [N] `RECORD`}, by column, then score, photo, rank.
        labels: {column: label index} of the classes that both model and data set have.
        network_seconds: [I] float, what the network took for each photo when it was stored.
    """

    grid: Grid
    class_score_thresh: tuple[tuple[int, float], ...]
    truths: Truths
    image_ids: np.ndarray
    records: dict[tuple[int, float], np.ndarray]
    labels: dict[int, int]
    network_seconds: np.ndarray

    def at(
        self, score_thresh: float, nms_thresh: float, topk_candidates: int, detections_per_img: int
    ) -> np.ndarray:
        """[N] `RECORD` of one setting, in the order of `records`.

        Raises:
            KeyError, ValueError: the setting is not in the grid.
        """
        place = self.grid.score_thresh.index(score_thresh)
        rows = self.records[topk_candidates, nms_thresh]
        kept = above(rows["score"], score_thresh) & (rows["rank"] < detections_per_img)
        return rows[kept & (rows["first"] <= place) & (place <= rows["last"])]

    @property
    def nbytes(self) -> int:
        """Bytes of the records."""
        return sum(rows.nbytes for rows in self.records.values())


def collect(
    store: CandidateStore,
    dataset: CocoDataset,
    grid: Grid,
    *,
    class_score_thresh: Sequence[tuple[int, float]] = (),
    progress: Callable[[StoreProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> MatchedDetections:
    """Post-process and match every stored photo of the data set, one at a time.

    Raises:
        Cancelled: `cancel` was set.
        ConfigError: a setting asks for more than is stored.
        DatasetError: none of the photos is stored, or a file is damaged.
    """
    for config in (grid.settings[0], grid.settings[-1]):
        store.check(config)
    dataset = store.stored_part(dataset)
    truths = Truths(dataset)
    image_ids = truths.image_ids
    found = {(k, n): bytearray() for k in grid.topk_candidates for n in grid.nms_thresh}
    labels: dict[int, int] = {}
    seconds = np.zeros(len(image_ids))
    started = time.perf_counter()
    for place, image_id in enumerate(image_ids.tolist()):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        image = store.read(image_id)
        columns = truths.columns(image.outputs.category_ids, image.outputs.num_classes)
        own = truths.of(image_id)
        for topk, nms_thresh, runs in runs_of(image, grid, class_score_thresh):
            for run in runs:
                rows = _records(run, columns, own, place)
                found[topk, nms_thresh] += rows.tobytes()
        if not labels:
            labels = {int(c): label for label, c in enumerate(columns) if c >= 0}
        seconds[place] = image.network_seconds
        if progress is not None:
            spent = time.perf_counter() - started
            left = spent / (place + 1) * (len(image_ids) - place - 1)
            progress(StoreProgress(place + 1, len(image_ids), spent, left, store.skipped))
    records = {key: _ordered(rows) for key, rows in found.items()}
    floors = tuple(class_score_thresh)
    return MatchedDetections(grid, floors, truths, image_ids, records, labels, seconds)


def _records(run: Run, columns: np.ndarray, truths: ImageTruths, place: int) -> np.ndarray:
    own = columns[run.labels]
    matches = match_image(run.boxes, own, truths)
    rows = np.zeros(len(own), RECORD)
    rows["score"], rows["label"], rows["column"] = run.scores, run.labels, own
    rows["image"], rows["rank"] = place, np.arange(len(own))
    rows["class_rank"] = class_ranks(own)
    rows["first"], rows["last"] = run.first, run.last
    rows["true"], rows["ignored"] = matches.true, matches.ignored
    return rows


def _ordered(data: bytearray) -> np.ndarray:
    """By class, then as COCO ranks a class's detections: score, photo, place in the photo."""
    rows = np.frombuffer(data, RECORD) if data else np.zeros(0, RECORD)
    return rows[np.lexsort([rows["rank"], rows["image"], -rows["score"], rows["column"]])]


def counted(rows: np.ndarray) -> np.ndarray:
    """Those that COCO's AP counts: of a class of the data set, among the best 100 of its photo."""
    return rows[(rows["column"] >= 0) & (rows["class_rank"] < MAX_DETS)]
