"""Candidates on disk, and any grid of post-processing settings scored without the network."""

from retinanet.sweeps.candidate_store import (
    CandidateStore,
    StoreProgress,
    detections,
    model_key,
    results,
)
from retinanet.sweeps.curves import PRCurve, pr_curves
from retinanet.sweeps.grid import DEFAULT_GRID, Grid, parse_grid
from retinanet.sweeps.operating import ClassFloor, ClassFloors, class_floors
from retinanet.sweeps.sweep import RANKED_BY, Counts, Sweep, SweepRow, sweep

__all__ = [
    "DEFAULT_GRID",
    "RANKED_BY",
    "CandidateStore",
    "ClassFloor",
    "ClassFloors",
    "Counts",
    "Grid",
    "PRCurve",
    "StoreProgress",
    "Sweep",
    "SweepRow",
    "class_floors",
    "detections",
    "model_key",
    "parse_grid",
    "pr_curves",
    "results",
    "sweep",
]
