"""The best candidates of a picture as one block of bytes, sent to the browser once.

From it the browser answers a knob that is being dragged; what stays on release is the core's trace.
"""

from __future__ import annotations

import numpy as np

from retinanet.box_table import pair_numbers
from retinanet.candidates import Candidates, candidates_of, selected
from retinanet.figures.columns import pack_columns
from retinanet.nms import coordinate_trick_limit
from retinanet.types import Outputs

ROWS_PER_LEVEL = 2000
"""Pairs sent for each level. The browser says so when a setting would need more of them."""

SCORE_STEPS = 100
"""Thresholds 0, 1/100, ..., 1 for which the exact number of pairs above is sent as well."""


def candidate_table(outputs: Outputs) -> bytes:
    """The block for these outputs (`pack_candidates`): made at the first call, kept with them."""
    candidates_of(outputs)  # first: what is derived must not wait for what is derived
    return outputs.derived("candidate_table", pack_candidates)


def pack_candidates(outputs: Outputs) -> bytes:
    """What the browser needs to threshold, cut, suppress and count.

    Columns (see `pack_columns`) of n pairs, level after level and best first within each: "boxes"
    [n, 4] xyxy in pixels of the resized image (what NMS compares), "scores", "labels", "pairs" (as
    in `BoxTable.pairs`).

    The header holds, per level, "counts" (pairs sent), "totals" (all pairs) and "above" (pairs with
    a score strictly above 0, 0.01, ..., 1); "image_size" and "original_size" as (height, width);
    "trick_limit" (see `coordinate_trick_limit`); "names" by label index.
    """
    prepared = candidates_of(outputs)
    counts = [min(len(head), ROWS_PER_LEVEL) for head in prepared.heads]
    boxes, scores, labels = (part.cpu().numpy() for part in selected(prepared.heads, counts))
    header = {
        "counts": counts,
        "totals": prepared.totals,
        "above": _counts_above(outputs, prepared),
        "image_size": outputs.image_size,
        "original_size": outputs.original_size,
        "trick_limit": int(min(coordinate_trick_limit(outputs.device.type), 1 << 30)),
        "names": prepared.names,
    }
    columns = {
        "boxes": boxes,
        "scores": scores,
        "labels": labels,
        "pairs": _pairs(outputs, prepared, counts, labels),
    }
    return pack_columns(header, columns)


def _counts_above(outputs: Outputs, prepared: Candidates) -> list[list[int]]:
    thresholds = [step / SCORE_STEPS for step in range(SCORE_STEPS + 1)]
    return [
        [prepared.count_above(outputs, level, threshold) for threshold in thresholds]
        for level in range(len(prepared.heads))
    ]


def _pairs(
    outputs: Outputs, prepared: Candidates, counts: list[int], labels: np.ndarray
) -> np.ndarray:
    first = np.concatenate(([0], np.cumsum(outputs.anchors_per_level)))
    anchors = [
        start + head.anchors[:count].cpu().numpy()
        for start, head, count in zip(first, prepared.heads, counts, strict=False)
    ]
    return pair_numbers(np.concatenate(anchors), labels, outputs.num_classes)
