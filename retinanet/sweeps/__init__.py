"""Candidates on disk, and any grid of post-processing settings scored without the network."""

from retinanet.sweeps.bootstrap import Interval, ap_intervals, check_bootstrap
from retinanet.sweeps.candidate_store import (
    SCORE_FLOOR,
    TOPK,
    CandidateStore,
    StoreProgress,
    detections,
    model_key,
    results,
)
from retinanet.sweeps.cross_validated import HeldOutFloors, held_out_floors
from retinanet.sweeps.curves import PRCurve, pr_curves
from retinanet.sweeps.grid import DEFAULT_GRID, Grid, parse_grid
from retinanet.sweeps.operating import ClassFloor, ClassFloors, class_floors
from retinanet.sweeps.sweep import RANKED_BY, Counts, Sweep, SweepRow, sweep

__all__ = [
    "DEFAULT_GRID",
    "RANKED_BY",
    "SCORE_FLOOR",
    "TOPK",
    "CandidateStore",
    "ClassFloor",
    "ClassFloors",
    "Counts",
    "Grid",
    "HeldOutFloors",
    "Interval",
    "PRCurve",
    "StoreProgress",
    "Sweep",
    "SweepRow",
    "ap_intervals",
    "check_bootstrap",
    "class_floors",
    "detections",
    "held_out_floors",
    "model_key",
    "parse_grid",
    "pr_curves",
    "results",
    "sweep",
]
