"""Validating while training: COCO's metrics on held-out photos, shared out over the processes."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from retinanet.coco import CocoDataset
from retinanet.distributed import ALONE, World
from retinanet.evaluation import coco_results, score
from retinanet.model import RetinaNet
from retinanet.single_flight import Cancelled


def evaluate_shared(
    model: RetinaNet,
    dataset: CocoDataset,
    *,
    world: World = ALONE,
    cancel: threading.Event | None = None,
) -> dict[str, Any] | None:
    """`evaluation.evaluate` with each process's share of the photos.

    Args:
        model: in eval mode, the same in every process.
        dataset: the whole data set, the same in every process.
        world: the processes.
        cancel: when set in any process, all give up.

    Returns:
        The metrics, the same numbers as one process would give, in rank 0; None in the others, and
        in all of them when cancelled.

    Raises:
        DatasetError, ImageError: a photo cannot be used.
    """
    share = replace(dataset, photos=tuple(world.share(dataset.photos)))

    def watched(done: int, total: int) -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled

    stopped, results = False, []
    try:
        results = coco_results(model, share, progress=watched)
    except Cancelled:
        stopped = True
    if world.any(stopped):
        return None
    by_photo: dict[int, list[dict[str, Any]]] = {photo.image_id: [] for photo in share.photos}
    for entry in results:
        by_photo[entry["image_id"]].append(entry)
    # In the photos' own order, so that scores that tie are ranked as in one process.
    gathered = world.gather(list(by_photo.values()))
    return score(dataset, [e for own in gathered for e in own]) if world.is_main else None
