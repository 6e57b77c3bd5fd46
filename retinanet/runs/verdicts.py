"""What a comparison of runs shows, in sentences with their numbers, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

SAME_AP = 0.01
"""APs of single runs that are closer than this are not told apart."""

_UNFINISHED = ("queued", "running", "pausing", "paused", "cancelling")


def verdict(rows: Sequence[Row]) -> list[str]:
    """What the rows of `compare` show, experiment by experiment.

    Step times are told apart where their middle halves (first to third quartile) do not overlap,
    APs where they differ by 0.01 or more: each run is one seed, so less says nothing.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["experiment"], []).append(row)
    return [sentence for group in groups.values() for sentence in _group_verdict(group)]


def _group_verdict(rows: Sequence[Row]) -> list[str]:
    if len(rows) < 2:
        return ["One run alone has nothing to be compared with."]
    sentences = _states(rows)
    if len({row["frozen_stages"] for row in rows}) > 1:
        return sentences + _cheaper(rows) + _precise(rows) + _noise(rows)
    if len({(row["alpha"], row["gamma"], row["prior"]) for row in rows}) > 1:
        return sentences + _first_losses(rows) + _precise(rows)
    return sentences + _precise(rows)


def _states(rows: Sequence[Row]) -> list[str]:
    """Which runs diverged, failed, or are not at their end."""
    sentences = [
        f"{row['label']} diverged in step {row['diverged_in']:,}: its loss was no finite number."
        for row in rows
        if row["diverged_in"] is not None
    ]
    sentences += [
        f"{row['label']} failed: {row['sentence']}"
        for row in rows
        if row["state"] == "failed" and row["diverged_in"] is None
    ]
    open_runs = sum(row["state"] in _UNFINISHED for row in rows)
    if open_runs:
        sentences.append(
            f"{open_runs:,} of {len(rows):,} runs {'is' if open_runs == 1 else 'are'} not at the "
            "end; what is said here may change."
        )
    return sentences


def _cheaper(rows: Sequence[Row]) -> list[str]:
    """What freezing saves, against the first run."""
    first = rows[0]
    if first["seconds"] is None:
        return ["The first run has no steps after its first two yet, so no times are compared."]
    sentences = []
    for row in rows[1:]:
        if row["seconds"] is None or row["start"] != first["start"]:
            continue
        words = f"{row['label']}: a step takes {_seconds(row['seconds'])}, "
        words += f"{row['seconds_ratio']:.2f} times {first['label']}'s {_seconds(first['seconds'])}"
        if _overlap(row, first):
            words += ", a difference within the spread of the steps"
        if row["trainable_share"] is not None:
            words += f"; {100 * row['trainable_share']:.0f}% of the parameters train"
        if row["training_bytes"] is not None and first["training_bytes"]:
            ratio = row["training_bytes"] / first["training_bytes"]
            words += f", and gradients and optimiser state take {ratio:.2f} times the memory"
        sentences.append(f"{words}.")
    told = [row for row in rows[1:] if row["seconds"] is not None and not _overlap(row, first)]
    if sentences and not any(row["seconds"] < first["seconds"] for row in told):
        sentences.append("These runs do not show that freezing makes a step cheaper.")
    return sentences + _disturbed(rows)


def _disturbed(rows: Sequence[Row]) -> list[str]:
    """Where a run that works out fewer gradients than another took longer all the same."""
    start = rows[0]["start"]
    measured = [row for row in rows if row["seconds"] is not None and row["start"] == start]
    for row in measured:
        for other in measured:
            less = row["frozen_stages"] > other["frozen_stages"]
            if less and row["seconds"] > other["seconds"] and not _overlap(row, other):
                return [
                    f"{row['label']} does less work than {other['label']} and took longer: the "
                    "machine was busy with other things, so take these times with care."
                ]
    return []


def _precise(rows: Sequence[Row]) -> list[str]:
    """Where AP differs from the first run's, by the last validation of each."""
    measured = [row for row in rows if row["AP"] is not None]
    if len(measured) < 2:
        return ["Fewer than two runs were validated, so nothing is said of AP."]
    first, *others = measured
    sentences = [f"{first['label']} reaches AP {first['AP']:.3f}."]
    same = []
    for row in others:
        gain = row["AP"] - first["AP"]
        if abs(gain) < SAME_AP:
            same.append(row)
            continue
        verb = "rises" if gain > 0 else "falls"
        sentences.append(f"AP {verb} by {abs(gain):.3f} to {row['AP']:.3f} with {row['label']}.")
    if same:
        names = ", ".join(f"{row['label']} ({row['AP']:.3f})" for row in same)
        sentences.append(f"Within {SAME_AP} of it, which one seed does not tell apart: {names}.")
    if len({row["AP_step"] for row in measured}) > 1:
        sentences.append("The last validations are not of the same step.")
    return sentences


def _noise(rows: Sequence[Row]) -> list[str]:
    """Frozen features against frozen random numbers."""
    fresh = [row for row in rows if row["start"] == "random"]
    if len(fresh) == len(rows):
        return ["All runs start from random numbers: there was nothing worth freezing."]
    for noise in fresh:
        twins = [
            row
            for row in rows
            if row["start"] != "random" and row["frozen_stages"] == noise["frozen_stages"]
        ]
        if twins and noise["AP"] is not None and twins[0]["AP"] is not None:
            return [
                f"The same {noise['frozen_stages']} frozen stages reach AP {twins[0]['AP']:.3f} "
                f"from {twins[0]['start']} and {noise['AP']:.3f} from random numbers"
                + (
                    ": freezing keeps what is there, and noise is not worth keeping."
                    if twins[0]["AP"] - noise["AP"] >= SAME_AP
                    else ", which these runs do not tell apart."
                )
            ]
    return []


def _first_losses(rows: Sequence[Row]) -> list[str]:
    """What the prior does to the first step."""
    sentences = []
    for row in rows:
        twin = next(
            (
                other
                for other in rows
                if other["prior"] < row["prior"]
                and (other["alpha"], other["gamma"]) == (row["alpha"], row["gamma"])
            ),
            None,
        )
        ours = row["first_classification"]
        if twin is None or not ours or not twin["first_classification"]:
            continue
        theirs = twin["first_classification"]
        sentences.append(
            f"With pi {row['prior']:g} the first classification loss is {ours:,.4g}, "
            f"{ours / theirs:,.3g} times the {theirs:,.4g} with pi {twin['prior']:g}."
        )
    if len({(row["alpha"], row["gamma"]) for row in rows}) > 1:
        sentences.append(
            "Losses with another alpha or gamma are other quantities and are not compared; AP is."
        )
    return sentences


def _overlap(row: Row, other: Row) -> bool:
    """Whether the middle halves of two runs' step times overlap."""
    return (
        row["seconds_low"] <= other["seconds_high"] and other["seconds_low"] <= row["seconds_high"]
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:,.0f} ms"
