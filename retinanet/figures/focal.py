"""The focal loss drawn: its curves, who holds the loss, and the paper's Figure 4 and tables 1a, 1b.

Paper: arXiv 1708.02002. Every figure has a sibling that gives its data as rows. The curves are
drawn in `focal_curves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from retinanet.figures.focal_curves import (
    BACKGROUND,
    FOREGROUND,
    GAMMA_STYLES,
    MARGIN,
    OTHER_GAMMA,
    curves_rows,
    loss_curves,
)
from retinanet.figures.palette import OKABE_ITO, text_color
from retinanet.loss_shares import TABLE_1A, TABLE_1B, WEIGHTINGS, Holders
from retinanet.pair_sums import SHARE_GAMMAS
from retinanet.prior import FirstLoss

__all__ = [
    "cdf_figure",
    "cdf_rows",
    "curves_rows",
    "holders_figure",
    "holders_rows",
    "loss_curves",
    "paper_ap",
    "percent",
    "prior_figure",
    "prior_rows",
    "shares_figure",
    "shares_rows",
]

GROUP_STYLES: dict[str, tuple[str, str]] = {
    "easy negatives": (BACKGROUND, ""),
    "hard negatives": (OKABE_ITO[5], "/"),
    "foreground": (FOREGROUND, "x"),
}
"""Colour and hatching of each group that holds loss."""

WEIGHTING_WORDS: dict[str, str] = {
    "cross_entropy": "cross entropy",
    "balanced": "alpha-balanced cross entropy",
    "focal": "focal loss",
}


def holders_rows(holders: Holders) -> list[dict[str, float | int | str]]:
    """A row per group: its pairs and their share, then loss and gradient shares by weighting."""
    return [
        {
            "group": group.name,
            "pairs": group.pairs,
            "pair_share": group.pair_share,
            **{
                f"{name}_{kind}": getattr(group, kind)[name]
                for name in WEIGHTINGS
                for kind in ("loss", "loss_share", "gradient_share")
            },
        }
        for group in holders.groups
    ]


def holders_figure(holders: Holders) -> go.Figure:
    """The groups' shares of the pairs, of the loss and of the gradient: each bar adds up to all."""
    bars = [("pairs", "pair_share")]
    for kind in ("loss", "gradient"):
        bars += [
            (f"{kind}, {WEIGHTING_WORDS[name]}", f"{name}_{kind}_share") for name in WEIGHTINGS
        ]
    names, keys = zip(*bars, strict=True)
    figure = go.Figure()
    for row in holders_rows(holders):
        color, hatch = GROUP_STYLES[row["group"]]
        figure.add_bar(
            y=names,
            x=[row[key] for key in keys],
            name=f"{row['group']}: {row['pairs']:,} pairs",
            orientation="h",
            marker={"color": color, "pattern": {"shape": hatch, "solidity": 0.12}},
            insidetextfont={"color": text_color(color)},
            text=[percent(row[key]) if row[key] >= 0.04 else "" for key in keys],
            textposition="inside",
            insidetextanchor="middle",
            customdata=[percent(row[key]) for key in keys],
            hovertemplate=f"{row['group']}: %{{customdata}} of the %{{y}}<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        height=330,
        margin=MARGIN,
        bargap=0.25,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        xaxis={"title": "share", "tickformat": ".0%", "range": [0, 1]},
        yaxis={"autorange": "reversed"},
    )
    return figure


def percent(share: float) -> str:
    """A share as per cent with two digits that count; "0%" and "100%" only for none and all."""
    if share != share:  # of outputs that are not finite
        return "not a number"
    if share <= 0:
        return "0%"
    if share >= 0.9995:
        return "over 99.9%" if share < 1 else "100%"
    if share < 1e-6:
        return "under 0.0001%"
    value = 100 * share
    digits = 1 if value >= 10 else 1 - int(np.floor(np.log10(value)))
    return f"{value:.{digits}f}%"


def paper_ap(alpha: float, gamma: float) -> float | None:
    """AP of the paper's tables 1a and 1b at these settings, None where they have no such cell."""
    return TABLE_1B.get((gamma, alpha), TABLE_1A.get(alpha) if gamma == 0 else None)


def shares_rows(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float | None]]:
    """The rows of `shares_over_gamma`, each with "paper_ap", None where the paper has none."""
    return [{**row, "paper_ap": paper_ap(row["alpha"], row["gamma"])} for row in rows]


def shares_figure(rows: Sequence[Mapping[str, float]], alpha: float, gamma: float) -> go.Figure:
    """The foreground's share of the loss over gamma, one panel per alpha, with the paper's AP.

    Args:
        rows: from `shares_over_gamma`.
        alpha: the chosen one; its panel, if it is among the rows, marks `gamma`.
        gamma: the chosen one.
    """
    table = shares_rows(rows)
    alphas = sorted({row["alpha"] for row in table})
    figure = go.Figure()
    width = 1 / max(1, len(alphas))
    for number, own in enumerate(alphas):
        axis, start = str(number + 1) if number else "", number * width
        panel = sorted((r for r in table if r["alpha"] == own), key=lambda row: row["gamma"])
        _add_shares(figure, panel, axis, shows_legend=number == 0)
        if own == alpha:
            _add_chosen(figure, gamma, axis)
        figure.add_annotation(
            text=f"alpha {own:g}{', chosen' if own == alpha else ''}",
            x=start + 0.46 * width,
            y=1.02,
            xref="paper",
            yref="paper",
            yanchor="bottom",
            showarrow=False,
        )
        domain, last = [start, start + 0.92 * width], max(5.0, gamma)
        figure.update_layout(
            {f"xaxis{axis}": {"title": "gamma", "domain": domain, "range": [-0.3, last + 0.3]}}
        )
    figure.update_layout(
        height=360,
        margin={**MARGIN, "t": 60},
        legend={"orientation": "h", "y": 1.12, "yanchor": "bottom"},
        yaxis={"title": "share of the image's total", "tickformat": ".0%", "range": [0, 1.04]},
    )
    return figure


def _add_chosen(figure: go.Figure, gamma: float, axis: str) -> None:
    color, dash = OTHER_GAMMA
    figure.add_scatter(
        x=[gamma, gamma],
        y=[0, 1],
        xaxis=f"x{axis}",
        name=f"gamma {gamma:g}, chosen",
        mode="lines",
        line={"color": color, "dash": dash, "width": 2},
        hoverinfo="name",
    )


def _add_shares(
    figure: go.Figure, panel: list[dict[str, float | None]], axis: str, shows_legend: bool
) -> None:
    """Foreground below, background above, the gradient's share, and the paper's cells."""
    gammas = [row["gamma"] for row in panel]
    loss = [row["foreground_loss_share"] for row in panel]
    common = {"x": gammas, "xaxis": f"x{axis}", "showlegend": shows_legend}
    hover = "gamma %{x:g}: %{customdata}<extra>%{fullData.name}</extra>"
    for name, shares, color, hatch in (
        ("foreground's loss", loss, FOREGROUND, "x"),
        ("background's loss", [1 - share for share in loss], BACKGROUND, ""),
    ):
        figure.add_scatter(
            **common,
            y=shares,
            name=name,
            stackgroup=f"loss{axis}",
            mode="lines",
            line={"color": color, "width": 1},
            fillpattern={"shape": hatch, "size": 8, "solidity": 0.15},
            customdata=[percent(share) for share in shares],
            hovertemplate=hover,
        )
    slopes = [row["foreground_gradient_share"] for row in panel]
    figure.add_scatter(
        **common,
        y=slopes,
        name="foreground's gradient",
        mode="lines",
        line={"color": OKABE_ITO[5], "dash": "dash", "width": 2},
        customdata=[percent(share) for share in slopes],
        hovertemplate=hover,
    )
    cells = [row for row in panel if row["paper_ap"] is not None]
    figure.add_scatter(
        x=[row["gamma"] for row in cells],
        y=[row["foreground_loss_share"] for row in cells],
        xaxis=f"x{axis}",
        showlegend=shows_legend,
        name="AP in the paper's tables 1a, 1b",
        mode="markers+text",
        marker={"symbol": "diamond", "size": 10, "color": OKABE_ITO[0]},
        text=[f"AP {row['paper_ap']:.1f}" for row in cells],
        textposition=[_beside(row["gamma"], row["foreground_loss_share"]) for row in cells],
        hovertemplate="gamma %{x:g}: %{text}<extra>paper</extra>",
    )


def _beside(gamma: float, share: float) -> str:
    """Where a cell's text stays within its panel."""
    side = "right" if gamma <= 0 else "left" if gamma >= max(SHARE_GAMMAS) else "center"
    return f"{'bottom' if share > 0.8 else 'top'} {side}"


Cdfs = Mapping[str, Mapping[float, tuple[NDArray, NDArray]]]


def cdf_rows(cdfs: Cdfs) -> list[dict[str, float | str]]:
    """{"side", "gamma", "fraction_of_samples", "share_of_loss"} of each point."""
    return [
        {
            "side": side,
            "gamma": gamma,
            "fraction_of_samples": float(x),
            "share_of_loss": float(y),
        }
        for side, curves in cdfs.items()
        for gamma, points in curves.items()
        for x, y in zip(*points, strict=True)
    ]


def cdf_figure(cdfs: Cdfs, side: str) -> go.Figure:
    """Cumulative loss from the easiest sample to the hardest, by gamma (paper, Figure 4).

    Args:
        cdfs: from `normalised_cdfs`.
        side: "positives" or "negatives".
    """
    figure = go.Figure()
    for gamma, (x, y) in cdfs[side].items():
        color, dash = GAMMA_STYLES.get(gamma, OTHER_GAMMA)
        figure.add_scatter(
            x=x,
            y=y,
            name=f"gamma {gamma:g}",
            mode="lines",
            line={"color": color, "dash": dash, "width": 2},
            hovertemplate="the easiest %{x:.1%}: %{y:.1%} of the loss",
        )
    figure.add_vline(x=0.8, line={"color": BACKGROUND, "dash": "dot", "width": 1})
    sample = "foreground anchors" if side == "positives" else "background anchors"
    figure.update_layout(
        height=300,
        margin=MARGIN,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        xaxis={
            "title": f"fraction of {sample}, easiest first; the line marks the hardest 20%",
            "tickformat": ".0%",
            "range": [0, 1],
        },
        yaxis={"title": "cumulative loss", "tickformat": ".0%", "range": [0, 1.02]},
    )
    return figure


def prior_rows(losses: Sequence[FirstLoss]) -> list[dict[str, float]]:
    """A row per prior: counts, the parts of the loss, and the background's shares."""
    return [
        {
            "pi": loss.pi,
            "bias": loss.bias,
            "num_positives": loss.num_positives,
            "num_negatives": loss.num_negatives,
            "positive": loss.positive,
            "negative": loss.negative,
            "total": loss.total,
            "negative_loss_share": loss.negative_loss_share,
            "negative_gradient_share": loss.negative_gradient_share,
        }
        for loss in losses
    ]


def prior_figure(losses: Sequence[FirstLoss]) -> go.Figure:
    """The two parts of a fresh head's loss for each prior, on a logarithmic axis."""
    rows = prior_rows(losses)
    figure = go.Figure()
    for side, key, color, hatch in (
        ("foreground", "positive", FOREGROUND, "x"),
        ("background", "negative", BACKGROUND, ""),
    ):
        values = [row[key] for row in rows]
        figure.add_bar(
            y=[f"pi {row['pi']:g}" for row in rows],
            x=[value if value > 0 else None for value in values],
            name=side,
            orientation="h",
            marker={"color": color, "pattern": {"shape": hatch, "solidity": 0.12}},
            insidetextfont={"color": text_color(color)},
            text=[f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values],
            textposition="auto",
            hovertemplate="%{y}, %{fullData.name}: %{text}<extra></extra>",
        )
    figure.update_layout(
        barmode="group",
        height=230,
        margin=MARGIN,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        xaxis={
            "title": "first classification loss per foreground anchor, log",
            "type": "log",
            "dtick": 1,
        },
        yaxis={"autorange": "reversed"},
    )
    return figure
