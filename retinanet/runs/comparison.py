"""Runs side by side: one row each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import median
from typing import Any

from retinanet.runs.endings import diverged_in
from retinanet.runs.request import RunRequest
from retinanet.runs.store import RunState
from retinanet.runs.verdicts import verdict

__all__ = ["PARTS", "WARM_UP_STEPS", "compare", "settings", "verdict"]

WARM_UP_STEPS = 2
"""The first steps of a run are slower: libraries load, memory is taken, kernels are chosen."""

PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer")
"""What a step's time is split into."""

_NOT_COMPARED = ("name", "experiment", "num_classes")


def compare(states: Sequence[RunState]) -> list[dict[str, Any]]:
    """One row a run, the runs of an experiment together and in the order of submission.

    Args:
        states: in any order.

    Returns:
        Rows of plain data, None where a run has not measured it:
        "id", "name", "experiment", "state", "sentence";
        "label": a short name, unlike those of the other runs of the experiment;
        "differs": what sets the run apart from the others of its experiment, as text;
        "start", "frozen_stages", "alpha", "gamma", "prior";
        "trainable", "total": parameters; "trainable_share": 0..1;
        "step", "steps": done and in all;
        "seconds": median of a step after the first two, "seconds_low" and "seconds_high" its
        quartiles, and "seconds_data", "seconds_forward", "seconds_backward", "seconds_optimizer"
        the medians of its parts, which need not add up to it;
        "memory_bytes": the most in use; of a CPU that is the whole process;
        "training_bytes": of gradients and optimiser state alone, as the run's probe counted them;
        "first_classification", "last_classification": loss of the first and the last step;
        "AP", "AP50": of the last validation, "AP_best", "AP50_best": the best, 0..1;
        "AP_step": the steps done at the last validation;
        "seconds_ratio", "memory_ratio": to the first row of the experiment;
        "diverged_in": the step in which the loss stopped being a finite number.
    """
    groups: dict[str, list[RunState]] = {}
    for state in states:
        groups.setdefault(state.request.experiment, []).append(state)
    return [row for group in groups.values() for row in _group_rows(group)]


def settings(request: RunRequest) -> dict[str, Any]:
    """Everything that a request sets, flat: {"annotations": ..., "depth": 50, "alpha": 0.25}."""
    flat: dict[str, Any] = {}
    for config in (request, request.model, request.train, request.train.matcher):
        flat |= {f.name: getattr(config, f.name) for f in fields(config)}
    flat |= {f.name: getattr(request.train.loss, f.name) for f in fields(request.train.loss)}
    nested = ("model", "train", "matcher", "loss")
    return {name: value for name, value in flat.items() if name not in nested}


def _group_rows(group: Sequence[RunState]) -> list[dict[str, Any]]:
    ordered = sorted(group, key=lambda state: state.submitted)
    differing = _differing([settings(state.request) for state in ordered])
    rows = [_row(state, differing) for state in ordered]
    for row, label in zip(rows, _labels(rows), strict=True):
        row["label"] = label
        row["seconds_ratio"] = _ratio(row["seconds"], rows[0]["seconds"])
        row["memory_ratio"] = _ratio(row["memory_bytes"], rows[0]["memory_bytes"])
    return rows


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an experiment calls its variant; the whole name, or the id too, where that is taken."""
    whole = [row["name"] for row in rows]
    for names in ([name.split(": ")[0] for name in whole], whole):
        if len(set(names)) == len(names):
            return names
    return [f"{row['name']} ({row['id'][:6]})" for row in rows]


def _differing(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    names = (name for name in all_settings[0] if name not in _NOT_COMPARED)
    return [name for name in names if any(s[name] != all_settings[0][name] for s in all_settings)]


def _row(state: RunState, differing: Sequence[str]) -> dict[str, Any]:
    request, record = state.request, state.record
    cost = record.cost or {}
    trainable, total = cost.get("trainable"), cost.get("total")
    flat = settings(request)
    return {
        "id": state.id,
        "name": request.name,
        "label": request.name,
        "experiment": request.experiment,
        "state": state.state,
        "sentence": state.sentence,
        "differs": ", ".join(f"{name} {flat[name]}" for name in differing),
        "start": request.start,
        "frozen_stages": request.model.frozen_stages,
        "alpha": request.train.loss.alpha,
        "gamma": request.train.loss.gamma,
        "prior": request.train.prior,
        "trainable": trainable,
        "total": total,
        "trainable_share": _ratio(trainable, total),
        "step": record.step,
        "steps": record.steps or request.train.steps,
        **_times(record.curve),
        "memory_bytes": max(_numbers(record.curve, "memory_bytes"), default=None),
        "training_bytes": _sum(cost.get("gradient_bytes"), cost.get("optimizer_bytes")),
        "first_classification": record.curve[0].get("classification") if record.curve else None,
        "last_classification": record.curve[-1].get("classification") if record.curve else None,
        **_precision(record.validations),
        "diverged_in": diverged_in(state.sentence) if state.state == "failed" else None,
    }


def _times(curve: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    warm = [point for point in curve if point["step"] > WARM_UP_STEPS]
    seconds = sorted(_numbers(warm, "seconds"))
    times = {"seconds": median(seconds) if seconds else None}
    times["seconds_low"] = seconds[(len(seconds) - 1) // 4] if seconds else None
    times["seconds_high"] = seconds[-1 - (len(seconds) - 1) // 4] if seconds else None
    for part in PARTS:
        values = _numbers(warm, f"seconds_{part}")
        times[f"seconds_{part}"] = median(values) if values else None
    return times


def _precision(validations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"AP_step": validations[-1]["step"] if validations else None}
    for name in ("AP", "AP50"):
        row[name] = validations[-1].get(name) if validations else None
        row[f"{name}_best"] = max(_numbers(validations, name), default=None)
    return row


def _numbers(points: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The values of a column that are finite numbers."""
    values = (point.get(name) for point in points)
    return [value for value in values if isinstance(value, int | float) and math.isfinite(value)]


def _ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value is not None and to else None


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second
