"""The focal loss in words: a sentence, the numbers, the formula with these numbers in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retinanet.figures.focal import percent
from retinanet.loss_shares import TABLE_1A, TABLE_1B, Holders
from retinanet.loudest import AnchorLoss
from retinanet.prior import FirstLoss

PAPER_CDF: dict[str, str] = {
    "positives": (
        "In the paper (Figure 4) the hardest 20% of the positives hold roughly half of the "
        "positive loss, whatever gamma."
    ),
    "negatives": (
        "In the paper (Figure 4) nearly all of the negative loss at gamma 2 comes from a small "
        "fraction of the negatives."
    ),
}
"""What the paper says of each side, in section 5.1, in our words."""


def holders_sentence(holders: Holders) -> str:
    """How few pairs the foreground is, and what it holds with and without focusing."""
    easy, hard, foreground = holders.groups
    config = holders.config
    if not holders.num_pairs:
        return "Every anchor is ignored, so no pair is in the loss, and the loss is 0."
    if not holders.num_foreground:
        return (
            f"There is no foreground anchor, so all of the loss is the background's: "
            f"{easy.pairs:,} easy and {hard.pairs:,} hard negatives."
        )
    return (
        f"{foreground.pairs:,} of {holders.num_pairs:,} (anchor, class) pairs are positive: "
        f"{percent(foreground.pair_share)}. They hold "
        f"{percent(foreground.loss_share['cross_entropy'])} of the loss with cross entropy and "
        f"{percent(foreground.loss_share['focal'])} with the focal loss (alpha {config.alpha:g}, "
        f"gamma {config.gamma:g}); the share of the {easy.pairs:,} easy negatives goes from "
        f"{percent(easy.loss_share['cross_entropy'])} to {percent(easy.loss_share['focal'])}."
    )


def shares_sentence(rows: Sequence[Mapping[str, float]], gamma: float = 2.0) -> str:
    """Why alpha is 0.25 and not 0.75: what the foreground holds with each, by gamma.

    Args:
        rows: from `shares_over_gamma`, with these two alphas, gamma 0 and another gamma.
        gamma: the one to speak of; the nearest above 0 among the rows is taken.

    Raises:
        ValueError: the rows lack one of these.
    """
    share = {(row["alpha"], row["gamma"]): row["foreground_loss_share"] for row in rows}
    known = [g for a, g in share if g > 0 and a == 0.25 and (0.75, g) in share]
    if not known or not {(0.25, 0.0), (0.75, 0.0)} <= share.keys():
        raise ValueError("The rows need alpha 0.25 and 0.75, each at gamma 0 and at one above 0.")
    at = min(known, key=lambda g: abs(g - gamma))
    paper = (
        f"In the paper alpha 0.75 was best at gamma 0 (AP {TABLE_1A[0.75]:.1f}), 0.25 at gamma 2 "
        f"(AP {TABLE_1B[2.0, 0.25]:.1f})."
    )
    if not any(share.values()):
        return f"Here the foreground holds none of the loss, whatever alpha and gamma. {paper}"
    focused, weighted = share[0.25, at], share[0.75, 0.0]
    why = (
        "Focusing has already given the foreground more than alpha 0.75 does without it, so "
        "alpha can be lowered"
        if focused > weighted
        else "On this image focusing with alpha 0.25 gives the foreground "
        f"{'less than' if focused < weighted else 'as much as'} alpha 0.75 does without it"
    )
    return (
        f"Here the foreground holds {percent(share[0.75, 0.0])} of the loss at gamma 0 with alpha "
        f"0.75 and {percent(share[0.25, 0.0])} with 0.25; at gamma {at:g} it holds "
        f"{percent(share[0.75, at])} and {percent(share[0.25, at])}. {why}. {paper}"
    )


def cdf_sentence(side: str, shares: Mapping[float, float]) -> str:
    """What the hardest 20% hold here, and in the paper.

    Args:
        side: "positives" (foreground anchors, matched class) or "negatives" (background anchors,
            all their columns).
        shares: {gamma: share}, one side of `hardest_shares`; at least one.
    """
    if not any(shares.values()):
        return f"There are no {side} with a loss here. {PAPER_CDF[side]}"
    samples = "foreground anchors" if side == "positives" else "background anchors"
    parts = [f"{percent(share)} at gamma {gamma:g}" for gamma, share in shares.items()]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Here the hardest 20% of the {samples} hold {listed} of their loss. {PAPER_CDF[side]}"


def prior_sentence(losses: Sequence[FirstLoss]) -> str:
    """What each prior makes of the first loss.

    Args:
        losses: from `compare_priors`; at least one.
    """
    said = [
        f"with every score at {loss.pi:g} the first loss is {_amount(loss.total)}, "
        f"{percent(loss.negative_loss_share)} of it and "
        f"{percent(loss.negative_gradient_share)} of the gradient from the background"
        for loss in losses
    ]
    text = "; ".join(said)
    config = losses[0].config
    return f"{text[0].upper()}{text[1:]} (alpha {config.alpha:g}, gamma {config.gamma:g})."


def anchor_sentence(own: AnchorLoss) -> str:
    """What the anchor is trained to say, what the model says, and what that costs."""
    if own.fate == "ignored":
        return (
            f"Ignored: its best IoU, {own.max_iou:.3f}, lies between the two bounds, so it is in "
            "no loss."
        )
    wish = f"say {own.category}" if own.target else f"not say {own.category}"
    return (
        f"{own.fate.capitalize()} on {own.place['level']}, best IoU {own.max_iou:.3f}: it should "
        f"{wish}, and the model says {_amount(own.p)}, so p_t is {_amount(own.p_t)} and the factor "
        f"(1 - p_t)^gamma leaves {percent(own.modulating_factor)} of the cross entropy. All "
        f"{own.num_columns:,} columns together add {_amount(own.loss)} to the image's loss."
    )


def anchor_numbers(own: AnchorLoss) -> list[tuple[str, str]]:
    """(name, value) pairs, in the order in which the values come about."""
    shape, cell = own.place["anchor_shape"], own.place["cell"]
    config = own.config
    return [
        ("level, cell", f"{own.place['level']}, row {cell['row']}, column {cell['col']}"),
        ("anchor", f"size {shape['size']} px, ratio h/w {shape['ratio']:g}"),
        ("fate", own.fate),
        ("best IoU", f"{own.max_iou:.3f}"),
        ("column with most of its loss", own.category),
        ("target", str(own.target)),
        ("logit x", f"{own.logit:+.3f}"),
        ("p = sigmoid(x)", _amount(own.p)),
        ("p_t", _amount(own.p_t)),
        ("alpha_t", f"{own.alpha_t:g}"),
        (f"(1 - p_t)^{config.gamma:g}", _amount(own.modulating_factor)),
        ("cross entropy, -log p_t", _amount(own.cross_entropy)),
        ("focal loss of the column", _amount(own.focal)),
        ("columns", f"{own.num_columns:,}"),
        ("focal loss of all columns", _amount(own.focal_sum)),
        ("normaliser, foreground anchors or 1", f"{own.normalizer:,}"),
        ("part of the image's loss", _amount(own.loss)),
    ]


def anchor_formula(own: AnchorLoss) -> str:
    """Equation 5 with this anchor's numbers, then its part of the image's loss; LaTeX.

    For an ignored anchor the first lines say what it would cost as background.
    """
    gamma = f"{own.config.gamma:g}"
    p, p_t = _tex(own.p), _tex(own.p_t)
    missing = 1 - own.p if own.target else own.p  # 1 - p_t, without its rounding
    lines = [
        rf"p &= \sigma({own.logit:.3f}) = {p}",
        rf"p_t &= {'p' if own.target else '1 - p'} = {p_t}",
        r"\mathrm{FL}(p_t) &= -\alpha_t (1 - p_t)^{\gamma} \log p_t"
        rf" = {own.alpha_t:g} \cdot {_tex(missing)}^{{{gamma}}} \cdot"
        rf" {_tex(own.cross_entropy)} = {_tex(own.focal)}",
        rf"\sum_{{k=1}}^{{{own.num_columns}}} \mathrm{{FL}}_k &= {_tex(own.focal_sum)}",
    ]
    if own.fate == "ignored":
        lines.append(r"\text{loss} &= 0 \quad \text{(ignored)}")
    else:
        lines.append(
            rf"\text{{loss}} &= \frac{{{_tex(own.focal_sum)}}}{{{own.normalizer}}}"
            rf" = {_tex(own.loss)}"
        )
    return r"\begin{aligned}" + r" \\ ".join(lines) + r"\end{aligned}"


def anchor_text(own: AnchorLoss) -> str:
    """`anchor_formula` as plain text."""
    gamma = f"{own.config.gamma:g}"
    missing = 1 - own.p if own.target else own.p  # 1 - p_t, without its rounding
    total = "0 (ignored)"
    if own.fate != "ignored":
        total = f"{_amount(own.focal_sum)} / {own.normalizer:,} = {_amount(own.loss)}"
    return "\n".join(
        [
            f"p   = sigmoid({own.logit:.3f}) = {_amount(own.p)}",
            f"p_t = {'p' if own.target else '1 - p'} = {_amount(own.p_t)}",
            "FL  = -alpha_t (1 - p_t)^gamma log p_t",
            f"    = {own.alpha_t:g} x {_amount(missing)}^{gamma} x {_amount(own.cross_entropy)}"
            f" = {_amount(own.focal)}",
            f"sum over {own.num_columns} columns = {_amount(own.focal_sum)}",
            f"loss = {total}",
        ]
    )


def _amount(value: float) -> str:
    """Four significant digits; powers of ten where the value is very small."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _tex(value: float) -> str:
    """The same as LaTeX; a power is in brackets, so that an exponent can follow it."""
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return rf"({mantissa} \cdot 10^{{{int(exponent)}}})" if exponent else mantissa
