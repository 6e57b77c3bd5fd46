"""The focal loss's curves over p_t, with the image's own pairs beneath (paper, Figure 1)."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from retinanet.figures.palette import ASSIGNMENT_COLORS, OKABE_ITO
from retinanet.focal import cross_entropy_curve, focal_curve
from retinanet.loss_shares import CDF_GAMMAS

FOREGROUND, BACKGROUND = ASSIGNMENT_COLORS["foreground"], ASSIGNMENT_COLORS["background"]

GAMMA_STYLES: dict[float, tuple[str, str]] = dict(
    zip(
        CDF_GAMMAS,
        zip(
            (OKABE_ITO[4], OKABE_ITO[1], OKABE_ITO[2], OKABE_ITO[0], OKABE_ITO[5]),
            ("solid", "longdash", "dash", "dashdot", "dot"),
            strict=True,
        ),
        strict=True,
    )
)
"""Colour and dash of the gammas in the paper's figures."""

OTHER_GAMMA = (OKABE_ITO[6], "longdashdot")

P_T = np.linspace(0.005, 1, 200)
RUG_MARKS = 300
MARGIN = {"l": 0, "r": 10, "t": 8, "b": 40}


def loss_curves(
    alpha: float,
    gamma: float,
    positives_p_t: ArrayLike = (),
    negatives_p_t: ArrayLike = (),
) -> go.Figure:
    """The loss over p_t (paper, Figure 1), and below it where the image's own pairs stand.

    Args:
        alpha: of the focal loss.
        gamma: of it.
        positives_p_t: [F] of the foreground; more than 300 are drawn as 300 quantiles.
        negatives_p_t: [B] counts of the negative pairs in B equal bins of p_t from 0 to 1, as
            `loss_shares.rugs` gives them.
    """
    figure = go.Figure()
    for name, color, dash, width, y in _curves(alpha, gamma):
        figure.add_scatter(
            x=P_T,
            y=y,
            name=name,
            mode="lines",
            line={"color": color, "dash": dash, "width": width},
            hovertemplate="p_t %{x:.3f}: %{y:.4f}",
        )
    positives, counts = np.asarray(positives_p_t, dtype=float), np.asarray(negatives_p_t)
    figure.add_bar(
        x=_bin_centres(len(counts)),
        y=np.where(counts > 0, counts, np.nan),  # a logarithmic axis has no 0
        width=1 / max(1, len(counts)),
        name="negative pairs here",
        marker={"color": BACKGROUND, "line": {"width": 0}},
        hovertemplate="p_t around %{x:.2f}: %{y:,} negative pairs<extra></extra>",
        yaxis="y2",
    )
    marks = _thinned(positives)
    figure.add_scatter(
        x=marks,
        y=np.zeros(len(marks)),
        name=f"positives here: {len(positives):,}",
        mode="markers",
        marker={
            "symbol": "line-ns",
            "size": 12,
            "color": FOREGROUND,
            "line": {"color": FOREGROUND, "width": 1.5},
        },
        hovertemplate="p_t %{x:.3f}<extra>positive</extra>",
        yaxis="y3",
    )
    figure.add_shape(
        type="rect",
        x0=0.5,
        x1=1,
        yref="y domain",
        y0=0,
        y1=1,
        fillcolor=BACKGROUND,
        opacity=0.12,
        line={"width": 0},
        label={"text": "well classified, p_t > 0.5", "textposition": "top center"},
    )
    figure.update_layout(
        height=430,
        margin=MARGIN,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        bargap=0,
        xaxis={"title": "p_t, probability of the truth", "range": [0, 1], "anchor": "y2"},
        yaxis={"title": "loss, nats", "range": [0, 5], "domain": [0.42, 1]},
        yaxis2={"title": "pairs, log", "type": "log", "domain": [0, 0.24], "dtick": 2},
        yaxis3={"visible": False, "range": [-1, 1], "domain": [0.27, 0.36]},
    )
    return figure


def curves_rows(
    alpha: float, gamma: float, positives_p_t: ArrayLike = (), negatives_p_t: ArrayLike = ()
) -> list[dict[str, float | str]]:
    """{"series", "p_t", "value"}: each curve's points, then each positive, then the histogram."""
    rows = [
        {"series": name, "p_t": float(x), "value": float(y)}
        for name, *_, curve in _curves(alpha, gamma)
        for x, y in zip(P_T, curve, strict=True)
    ]
    rows += [
        {"series": "positive pair", "p_t": float(p), "value": 1.0}
        for p in np.asarray(positives_p_t, dtype=float)
    ]
    counts = np.asarray(negatives_p_t)
    rows += [
        {"series": "negative pairs in the bin around", "p_t": float(x), "value": float(count)}
        for x, count in zip(_bin_centres(len(counts)), counts, strict=True)
    ]
    return rows


def _curves(alpha: float, gamma: float) -> list[tuple[str, str, str, float, NDArray]]:
    """(name, colour, dash, width, y) of the paper's curves without alpha and of the chosen two."""
    paper = [
        (f"gamma {g:g}" if g else "cross entropy", *GAMMA_STYLES[g], 1.2, focal_curve(P_T, 1, g))
        for g in CDF_GAMMAS[1:]
    ]
    plain = ("cross entropy", *GAMMA_STYLES[0.0], 1.2, cross_entropy_curve(P_T))
    chosen = [
        (
            f"{side}: {weight:.3g} × gamma {gamma:g}",
            color,
            dash,
            3.5,
            focal_curve(P_T, weight, gamma),
        )
        for side, weight, color, dash in (
            ("foreground", alpha, FOREGROUND, "solid"),
            ("background", 1 - alpha, BACKGROUND, "dash"),
        )
    ]
    return [plain, *paper, *chosen]


def _bin_centres(bins: int) -> NDArray:
    return (np.arange(bins) + 0.5) / max(1, bins)


def _thinned(values: NDArray) -> NDArray:
    if len(values) <= RUG_MARKS:
        return values
    return np.quantile(values, np.linspace(0, 1, RUG_MARKS))
