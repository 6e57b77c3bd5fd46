"""Training runs as processes of their own: a queue of them, experiments, and what they show."""

from retinanet.runs.comparison import compare, verdict
from retinanet.runs.endings import diverged_in
from retinanet.runs.errors import RunError
from retinanet.runs.experiments import EXPERIMENTS, Experiment, freezing, imbalance
from retinanet.runs.queue import RunQueue
from retinanet.runs.request import START_KINDS, RunRequest
from retinanet.runs.store import STATES, RunState

__all__ = [
    "EXPERIMENTS",
    "START_KINDS",
    "STATES",
    "Experiment",
    "RunError",
    "RunQueue",
    "RunRequest",
    "RunState",
    "compare",
    "diverged_in",
    "freezing",
    "imbalance",
    "verdict",
]
