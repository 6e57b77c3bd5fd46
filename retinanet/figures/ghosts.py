"""Candidates that are no detections, and the rounds of NMS, as columns for the workbench."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retinanet.box_table import pair_numbers
from retinanet.candidates import FATES
from retinanet.rounds import NmsRound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from retinanet.detection import DetectionTrace

Columns = dict[str, "NDArray"]


def ghost_columns(
    trace: DetectionTrace, fates: Sequence[str], limit: int
) -> tuple[Columns, dict[str, int]]:
    """Listed candidates with one of these fates, and how many of how many they are.

    Those that came furthest are first: over the limit, suppressed, cut; within these by score.

    Args:
        trace: of the settings that are shown.
        fates: of `FATES`, without "kept" and "below_thresh" (those are not listed).
        limit: the most that are given.

    Returns:
        Columns "ghost_boxes" [n, 4] in pixels of the original picture, "ghost_scores",
        "ghost_labels", "ghost_levels", "ghost_pairs", "ghost_fates" (index into `FATES`),
        "ghost_by" (the pair that suppressed it, -1) and "ghost_iou" (with that one, 0); and
        {"shown", "total"}.
    """
    table = trace.candidates
    wanted = np.isin(table.fate.numpy(), [FATES.index(fate) for fate in fates])
    rows = np.flatnonzero(wanted)[:limit]  # the table is in this order
    pairs = candidate_pairs(trace)
    by = trace.suppressed_by.numpy()[rows]
    columns = {
        "ghost_boxes": table.box_original.numpy()[rows],
        "ghost_scores": table.score.numpy()[rows],
        "ghost_labels": table.label.numpy()[rows],
        "ghost_levels": table.level.numpy()[rows],
        "ghost_pairs": pairs[rows],
        "ghost_fates": table.fate.numpy()[rows],
        "ghost_by": np.where(by >= 0, pairs[by], -1),
        "ghost_iou": trace.suppressed_iou.numpy()[rows],
    }
    total = sum(trace.counts[fate] for fate in fates)
    return columns, {"shown": len(rows), "total": total}


def candidate_pairs(trace: DetectionTrace) -> NDArray[np.int32]:
    """The number of each listed candidate's pair, as in `BoxTable.pairs`."""
    table, outputs = trace.candidates, trace.outputs
    first = np.concatenate(([0], np.cumsum(outputs.anchors_per_level)))[table.level.numpy()]
    return pair_numbers(first + table.anchor.numpy(), table.label.numpy(), outputs.num_classes)


def round_columns(trace: DetectionTrace, rounds: Sequence[NmsRound]) -> Columns:
    """The rounds as columns: pairs instead of rows.

    Returns:
        "round_keeper" [R] pairs; "round_start" [R + 1]: round r compares its keeper with
        "round_other" (pairs) from start[r] to start[r + 1], at "round_iou", and takes out those
        with "round_removed" 1; "round_apart" [R]: more of its class that it does not touch.
    """
    pairs = candidate_pairs(trace)
    sizes = [len(one.compared) for one in rounds]
    others = np.array([row for one in rounds for row in one.compared], dtype=np.int64)
    return {
        "round_keeper": pairs[np.array([one.keeper for one in rounds], dtype=np.int64)],
        "round_start": np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))),
        "round_other": pairs[others],
        "round_iou": np.array([iou for one in rounds for iou in one.iou], dtype=np.float32),
        "round_removed": np.array([f for one in rounds for f in one.removed], dtype=np.int32),
        "round_apart": np.array([one.apart for one in rounds], dtype=np.int32),
    }
