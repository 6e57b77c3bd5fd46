"""Experiments: runs that differ in one thing and share data, seed and everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from retinanet.config import LossConfig
from retinanet.runs.request import MAX_NAME_CHARACTERS, RunRequest

NOISE_STAGES = 4
"""The stages that the freezing experiment also freezes as random numbers."""

LOSSES: tuple[tuple[str, LossConfig, float], ...] = (
    ("cross entropy", LossConfig(alpha=0.5, gamma=0.0), 0.01),
    ("alpha-balanced cross entropy", LossConfig(alpha=0.75, gamma=0.0), 0.01),
    ("focal loss", LossConfig(alpha=0.25, gamma=2.0), 0.01),
    ("cross entropy, pi 0.5", LossConfig(alpha=0.5, gamma=0.0), 0.5),
)
"""Name, loss and prior: the best rows of the paper's tables 1a and 1b, and a head without its
prior (section 3.3). Alpha .5 halves both sides of plain cross entropy."""


@dataclass(frozen=True)
class Experiment:
    """Several runs that together show one thing.

    Args:
        title: a word or two.
        sentence: what it shows and what to expect, with the source.
        make: the requests from a base request.
        note: what a base request takes away from it, a sentence; "" for nothing.
    """

    title: str
    sentence: str
    make: Callable[[RunRequest], list[RunRequest]]
    note: Callable[[RunRequest], str]


def freezing(base: RunRequest) -> list[RunRequest]:
    """More and more frozen stages from the same start, and four frozen stages of random numbers.

    Args:
        base: its `frozen_stages` is replaced, and its `experiment` kept when it has one.

    Returns:
        frozen_stages 0, 1, 2, 3, 4 and then 4 from random numbers, six runs; five where the base
        itself starts from random numbers, whose fifth run is that one (see `freezing_note`).
    """
    requests = [
        _variant(base, "freezing", f"frozen_stages {stages}", stages, base.start, base.start_kind)
        for stages in range(5)
    ]
    if base.start_kind == "fresh":
        return requests
    name = f"frozen_stages {NOISE_STAGES}, noise"
    return [*requests, _variant(base, "freezing", name, NOISE_STAGES, "random", "fresh")]


def freezing_note(base: RunRequest) -> str:
    """Why a base does not show all of freezing; "" where it does."""
    if base.start_kind == "fresh":
        return (
            "These runs start from random numbers: there is nothing worth freezing, and each "
            "frozen stage only takes away what could be learned. Start from a backbone or a "
            "detector to see what freezing saves."
        )
    if base.start_kind == "backbone":
        return ""
    return "The run that freezes noise starts its head from random numbers as well."


def imbalance(base: RunRequest) -> list[RunRequest]:
    """The class imbalance met by cross entropy, its balanced form and the focal loss.

    Args:
        base: its loss and prior are replaced, and its `experiment` kept when it has one.

    Returns:
        The runs of `LOSSES`; without the last, which would be the first again, where the base
        starts as a whole detector (see `imbalance_note`).
    """
    losses = LOSSES[:-1] if base.start_kind == "weights" else LOSSES
    return [
        replace(
            base,
            name=_named(base, name),
            experiment=base.experiment or "imbalance",
            train=replace(base.train, loss=loss, prior=prior),
        )
        for name, loss, prior in losses
    ]


def imbalance_note(base: RunRequest) -> str:
    """Why a base does not show all of the imbalance; "" where it does."""
    if base.start_kind == "weights":
        return (
            "The classification layer is a trained detector's, which has met the imbalance "
            "already: the prior has no effect on it and its run is left out. Start from random "
            "numbers or a backbone to see the first steps that the paper is about."
        )
    if base.start_kind == "init-from":
        return (
            "Where the detector's classification layer fits, it is taken and the prior has no "
            "effect; it is fresh only where the classes differ."
        )
    return ""


EXPERIMENTS: dict[str, Experiment] = {
    "freezing": Experiment(
        "Freezing",
        "Frozen stages make a step cheaper, as the backward pass ends above them; AP should hold "
        "while the frozen features are good for the data, fall where too many are frozen, and "
        "collapse where random numbers are frozen. Detectors are usually trained with the stem and "
        "layer1 frozen (torchvision's trainable_layers=3).",
        freezing,
        freezing_note,
    ),
    "imbalance": Experiment(
        "Class imbalance",
        "Nearly all anchors are background. On COCO, with 90k steps, the paper gets AP 30.2 from "
        "cross entropy, 31.1 with alpha .75 and 34.0 with the focal loss (tables 1a and 1b, "
        "ResNet-50 at 600 px); without the prior pi = .01 its training diverged (section 5.1, "
        "arXiv 1708.02002). Expect an enormous first loss with pi = .5, and smaller gaps in AP on "
        "a small data set.",
        imbalance,
        imbalance_note,
    ),
}
"""Key -> experiment, as the command line names them."""


def _variant(
    base: RunRequest, key: str, name: str, stages: int, start: str, start_kind: str
) -> RunRequest:
    return replace(
        base,
        name=_named(base, name),
        experiment=base.experiment or key,
        model=replace(base.model, frozen_stages=stages),
        start=start,
        start_kind=start_kind,
    )


def _named(base: RunRequest, what: str) -> str:
    """The variant first, as the base's name is cut where both are too long."""
    return f"{what}: {base.name}"[:MAX_NAME_CHARACTERS]
