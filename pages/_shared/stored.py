"""The first sample's result, stored, so that it is on screen while the model still loads.

`python -m pages._shared.stored` writes it from the shipped model; a test compares the two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from retinanet.box_table import BoxTable, table_from_trace
from retinanet.config import PostprocessConfig
from retinanet.engine import Engine, ModelSpec
from retinanet.samples import SAMPLES, load_sample

PATH = Path(__file__).with_name("first_example.json")
START = PostprocessConfig(0.44, 0.3, 1000, 100)
"""Where the app's knobs start: what the embedded model's card recommends. torchvision's 0.05 and
300 suit an evaluation, not a first look."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a page shows of a picture, live or stored.

    Args:
        table: the kept detections.
        counts_per_level: the ledger.
        num_anchors: on all levels.
        num_classes: sigmoid columns.
    """

    table: BoxTable
    counts_per_level: dict[str, dict[str, int]]
    num_anchors: int
    num_classes: int

    @property
    def counts(self) -> dict[str, int]:
        """The ledger over all levels."""
        levels = list(self.counts_per_level.values())
        return {fate: sum(level[fate] for level in levels) for fate in levels[0]}


def result_from_trace(trace: Any) -> Result:
    """What a page shows, from a `DetectionTrace`."""
    return Result(
        table_from_trace(trace),
        trace.counts_per_level,
        trace.outputs.num_anchors,
        trace.outputs.num_classes,
    )


def compute() -> Result:
    """The first sample's result from the shipped model at the starting settings."""
    image = load_sample(SAMPLES[0].key)
    return result_from_trace(Engine().detect(image, ModelSpec("embedded"), START))


@lru_cache(maxsize=1)
def first_example() -> Result:
    """The stored result.

    Raises:
        OSError, ValueError, KeyError: the file is missing or damaged: a broken installation.
    """
    data = json.loads(PATH.read_text(encoding="utf-8"))
    return Result(
        BoxTable.from_plain(data["table"]),
        data["counts_per_level"],
        data["num_anchors"],
        data["num_classes"],
    )


def write() -> None:
    """Compute the result and store it."""
    result = compute()
    data = {
        "table": result.table.to_plain(),
        "counts_per_level": result.counts_per_level,
        "num_anchors": result.num_anchors,
        "num_classes": result.num_classes,
    }
    PATH.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
