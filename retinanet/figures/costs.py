"""What the network's blocks cost, and which weights fit them, as rows and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retinanet.architecture import SUBNETS, Profile
from retinanet.fitting import Fit


def shape_text(shape: tuple[int, int, int]) -> str:
    """channels×height×width."""
    return "×".join(map(str, shape))


def count_text(value: int) -> str:
    """A large number in three digits and a unit: 9.91 G, 590 k."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= 0.9995 * size:
            short = value / size
            return f"{short:.{2 if short < 9.995 else 1 if short < 99.95 else 0}f} {unit}"
    return f"{value:,}"


def share_text(share: float) -> str:
    """A share of the time; a measurement, so whole percents."""
    return "<1%" if 0 < share < 0.005 else f"{100 * share:.0f}%"


def ms_text(ms: float) -> str:
    """Milliseconds, without digits that a single measurement does not have."""
    return f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}"


def architecture_rows(profile: Profile) -> list[dict[str, Any]]:
    """One row for each block and, below a subnet, for each level it reads; then the sum.

    Returns:
        {"block", "title", "level" (None for a whole block), "shape" (channels×height×width of what
        it gives), "parameters", "trainable", "frozen", "macs", "ms", "share" (0..1)}; rows of a
        level have no parameters of their own, and the sum has no shape. The sum's "ms" includes
        what is between the blocks.
    """
    rows = []
    for cost in profile.blocks:
        block, subnet = cost.block, cost.block.kind == "subnet"
        shape = None if subnet else shape_text(next(iter(cost.shapes.values())))
        rows.append(
            _row(block.name, block.title, None, shape, cost.macs, cost.ms, cost.share)
            | {
                "parameters": block.parameters,
                "trainable": block.trainable,
                "frozen": block.frozen,
            }
        )
        for level in cost.macs_per_level:
            macs, ms = cost.macs_per_level[level], cost.ms_per_level[level]
            part, shape = ms / profile.total_ms, shape_text(cost.shapes[level])
            rows.append(_row(block.name, block.title, level, shape, macs, ms, part))
    total = _row("sum", "all blocks", None, None, profile.macs, profile.total_ms, 1.0)
    trainable = sum(cost.block.trainable for cost in profile.blocks)
    return [*rows, total | {"parameters": profile.parameters, "trainable": trainable}]


def _row(
    name: str, title: str, level: str | None, shape: str | None, macs: int, ms: float, share: float
) -> dict[str, Any]:
    return {
        "block": name,
        "title": title,
        "level": level,
        "shape": shape,
        "parameters": None,
        "trainable": None,
        "frozen": None,
        "macs": macs,
        "ms": ms,
        "share": share,
    }


def architecture_sentence(profile: Profile) -> str:
    """How large the model is and where the work goes, in two sentences."""
    config, (height, width) = profile.config, profile.padded_size
    subnets = [profile.cost(name) for name in SUBNETS]
    macs, time = sum(c.macs for c in subnets), sum(c.share for c in subnets)
    finest = sum(c.macs_per_level["P3"] for c in subnets)
    pictures = "" if profile.batch == 1 else f"{profile.batch} pictures of "
    return (
        f"RetinaNet, ResNet-{config.depth}, {config.variant}, {config.num_convs} "
        f"convolution{'s' * (config.num_convs != 1)} in each subnet: "
        f"{profile.parameters:,} parameters, {count_text(profile.macs)} "
        f"multiply-accumulates and {ms_text(profile.total_ms)} ms for {pictures}"
        f"{width}×{height} px on {profile.device}. The two subnets do "
        f"{share_text(macs / profile.macs)} of the arithmetic, "
        f"{share_text(finest / profile.macs)} of it all on P3, in {share_text(time)} of the time."
    )


def fits_rows(fits: Sequence[Fit]) -> list[dict[str, Any]]:
    """One row for each set of weights and part of the model.

    Returns:
        {"weights", "title", "part", "fit" ("all", "some", "none"), "tensors" ("15 of 16"),
        "reason"}.
    """
    return [
        {
            "weights": fit.name,
            "title": fit.title,
            "part": part,
            "fit": found.extent,
            "tensors": f"{found.fitting:,} of {found.tensors:,}",
            "reason": found.reason,
        }
        for fit in fits
        for part, found in fit.parts.items()
    ]
