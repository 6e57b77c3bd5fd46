"""The focal loss's figures, rows and words: what they draw and say is what the traces hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import retinanet as rn
from retinanet.assignment import assign
from retinanet.config import LossConfig, MatcherConfig
from retinanet.figures.focal import (
    cdf_figure,
    cdf_rows,
    curves_rows,
    holders_figure,
    holders_rows,
    loss_curves,
    paper_ap,
    percent,
    prior_figure,
    prior_rows,
    shares_figure,
    shares_rows,
)
from retinanet.figures.focal_words import (
    anchor_formula,
    anchor_numbers,
    anchor_sentence,
    cdf_sentence,
    holders_sentence,
    prior_sentence,
    shares_sentence,
)
from retinanet.loss_shares import (
    hardest_shares,
    holders,
    normalised_cdfs,
    rugs,
    shares_over_gamma,
)
from retinanet.loudest import anchor_loss
from retinanet.prior import compare_priors


@pytest.fixture(scope="module")
def outputs():
    model = rn.load_model("random", {"depth": 18, "min_size": 64, "max_size": 128})
    return model(torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def match(outputs):
    return assign(outputs, [[10.0, 10, 70, 80], [50, 20, 110, 85]], [5, 17])


def marks(figure):
    """(colour, dash or hatch or symbol, width) of each trace."""
    found = []
    for trace in figure.data:
        line, marker = trace.to_plotly_json().get("line"), trace.marker.to_plotly_json()
        if line:
            found.append((line["color"], line.get("dash", ""), line["width"]))
        else:
            shape = marker.get("symbol") or marker.get("pattern", {}).get("shape", "")
            found.append((marker["color"], shape, None))
    return found


def test_the_curves_are_the_papers(outputs, match):
    figure = loss_curves(0.25, 2.0, *rugs(outputs, match))
    named = {trace.name: trace for trace in figure.data}
    half = int(np.abs(named["cross entropy"].x - 0.5).argmin())
    p = named["cross entropy"].x[half]
    assert named["cross entropy"].y[half] == pytest.approx(-np.log(p))
    assert named["gamma 5"].y[half] == pytest.approx(-np.log(p) * (1 - p) ** 5)
    own = named["foreground: 0.25 × gamma 2"]
    assert own.y[half] == pytest.approx(-0.25 * np.log(p) * (1 - p) ** 2)
    other = named["background: 0.75 × gamma 2"]
    assert other.y[half] == pytest.approx(3 * own.y[half])


def test_the_curves_rugs_are_the_images(outputs, match):
    found = rugs(outputs, match)
    figure = loss_curves(0.25, 2.0, found.positives, found.negatives)
    named = {trace.name: trace for trace in figure.data}
    bars = named["negative pairs here"]
    assert np.nansum(bars.y) == found.negatives.sum()
    assert bars.x[-1] == pytest.approx(0.99)
    count = match.counts["foreground"]
    assert len(named[f"positives here: {count:,}"].x) == min(count, 300)
    many = loss_curves(0.25, 2.0, np.linspace(0, 1, 5000), found.negatives)
    assert len(many.data[-1].x) == 300
    rows = curves_rows(0.25, 2.0, found.positives, found.negatives)
    assert sum(row["series"] == "positive pair" for row in rows) == count
    binned = [row["value"] for row in rows if row["series"].startswith("negative pairs")]
    assert binned == found.negatives.tolist()


def test_the_curves_need_no_image():
    assert len(loss_curves(0.5, 0.0).data) == 9
    assert {row["series"] for row in curves_rows(0.5, 0.0)} == {
        "cross entropy",
        *(f"gamma {gamma}" for gamma in ("0.5", "1", "2", "5")),
        "foreground: 0.5 × gamma 0",
        "background: 0.5 × gamma 0",
    }


def test_each_bar_of_the_holders_adds_up_to_all(outputs, match):
    found = holders(outputs, match)
    figure = holders_figure(found)
    for bar in range(7):
        assert sum(trace.x[bar] for trace in figure.data) == pytest.approx(1)
    rows = holders_rows(found)
    assert sum(row["pairs"] for row in rows) == found.num_pairs
    foreground = rows[2]
    assert foreground["focal_loss_share"] == found.groups[2].loss_share["focal"]
    assert figure.data[2].x[3] == foreground["focal_loss_share"]
    assert figure.data[2].y[3] == "loss, focal loss"
    assert f"{foreground['pairs']:,} pairs" in figure.data[2].name


def test_shares_carry_the_papers_cells(outputs, match):
    rows = shares_over_gamma(outputs, match)
    table = {(row["alpha"], row["gamma"]): row["paper_ap"] for row in shares_rows(rows)}
    assert {cell: ap for cell, ap in table.items() if ap is not None} == {
        (0.25, 0.0): 10.8,
        (0.50, 0.0): 30.2,
        (0.75, 0.0): 31.1,
        (0.50, 0.5): 32.9,
        (0.25, 1.0): 33.7,
        (0.25, 2.0): 34.0,
        (0.25, 5.0): 32.2,
    }
    assert paper_ap(0.999, 0.0) == 25.1
    assert paper_ap(0.75, 2.0) is None
    figure = shares_figure(rows, 0.25, 1.7)
    texts = [text for trace in figure.data if trace.text for text in trace.text]
    assert sorted(texts) == sorted(f"AP {ap:.1f}" for ap in table.values() if ap is not None)
    chosen = [trace for trace in figure.data if trace.name == "gamma 1.7, chosen"]
    assert [(trace.xaxis, tuple(trace.x)) for trace in chosen] == [("x", (1.7, 1.7))]
    loss = next(trace for trace in figure.data if trace.name == "foreground's loss")
    assert list(loss.y) == [r["foreground_loss_share"] for r in rows if r["alpha"] == 0.25]


def test_the_cdfs_are_drawn_as_they_are(outputs, match):
    cdfs = normalised_cdfs(outputs, match, (0.0, 2.0, 3.3))
    for side in ("positives", "negatives"):
        figure = cdf_figure(cdfs, side)
        for trace, (gamma, (x, y)) in zip(figure.data, cdfs[side].items(), strict=True):
            assert trace.name == f"gamma {gamma:g}"
            assert (trace.x == x).all()
            assert (trace.y == y).all()
    rows = cdf_rows(cdfs)
    assert len(rows) == sum(len(x) for curves in cdfs.values() for x, _ in curves.values())
    assert rows[-1] == {
        "side": "negatives",
        "gamma": 3.3,
        "fraction_of_samples": 1.0,
        "share_of_loss": 1.0,
    }


def test_the_prior_figure_holds_both_parts(outputs, match):
    losses = compare_priors(outputs, match)
    figure = prior_figure(losses)
    assert list(figure.data[0].x) == [loss.positive for loss in losses]
    assert list(figure.data[1].x) == [loss.negative for loss in losses]
    for row, loss in zip(prior_rows(losses), losses, strict=True):
        assert row["total"] == row["positive"] + row["negative"] == loss.total


def test_every_series_differs_in_more_than_its_colour_and_every_axis_says_what_it_is(
    outputs, match
):
    found = rugs(outputs, match)
    cdfs = normalised_cdfs(outputs, match)
    figures = [
        loss_curves(0.25, 2.0, found.positives, found.negatives),
        holders_figure(holders(outputs, match)),
        cdf_figure(cdfs, "negatives"),
        prior_figure(compare_priors(outputs, match)),
        shares_figure(shares_over_gamma(outputs, match, (0.25,)), 0.25, 2.0),
    ]
    for figure in figures:
        without_color = [mark[1:] for mark in marks(figure)]
        assert len(set(marks(figure))) == len(figure.data)
        assert len(set(without_color)) >= len(figure.data) - 2
        assert figure.layout.xaxis.title.text
        assert figure.layout.paper_bgcolor is None
        json.loads(figure.to_json())


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0%"),
        (1.0, "100%"),
        (0.99996, "over 99.9%"),
        (0.9994, "99.9%"),
        (0.8616, "86.2%"),
        (0.0449, "4.5%"),
        (0.00013, "0.013%"),
        (1e-9, "under 0.0001%"),
        (float("nan"), "not a number"),
    ],
)
def test_shares_in_words(share, text):
    assert percent(share) == text


def test_the_sentences_hold_the_traces_numbers(outputs, match):
    found = holders(outputs, match, LossConfig(0.4, 1.5))
    said = holders_sentence(found)
    easy, _, foreground = found.groups
    for number in (
        f"{found.num_foreground:,} of {found.num_pairs:,}",
        percent(foreground.loss_share["cross_entropy"]),
        percent(foreground.loss_share["focal"]),
        percent(easy.loss_share["focal"]),
        "alpha 0.4, gamma 1.5",
    ):
        assert number in said
    shares = hardest_shares(outputs, match, (0.0, 2.0))
    for side in shares:
        said = cdf_sentence(side, shares[side])
        assert f"{percent(shares[side][2.0])} at gamma 2" in said
        assert "In the paper (Figure 4)" in said
    losses = compare_priors(outputs, match)
    said = prior_sentence(losses)
    assert said.startswith(f"With every score at 0.01 the first loss is {losses[0].total:.4g}")
    assert f"every score at 0.5 the first loss is {losses[1].total:.4g}" in said


def test_why_alpha_is_a_quarter(outputs, match):
    rows = shares_over_gamma(outputs, match)
    share = {(row["alpha"], row["gamma"]): row["foreground_loss_share"] for row in rows}
    said = shares_sentence(rows, 1.9)
    for cell in ((0.75, 0.0), (0.25, 0.0), (0.75, 2.0), (0.25, 2.0)):
        assert percent(share[cell]) in said
    assert "at gamma 2 it holds" in said
    assert ("so alpha can be lowered" in said) == (share[0.25, 2.0] >= share[0.75, 0.0])
    made_up = [
        {"alpha": alpha, "gamma": gamma, "foreground_loss_share": 0.9 if gamma == 0 else 0.1}
        for alpha in (0.25, 0.75)
        for gamma in (0.0, 2.0)
    ]
    assert "gives the foreground less than alpha 0.75 does without it" in shares_sentence(made_up)
    same = [row | {"foreground_loss_share": 1.0} for row in made_up]
    assert "gives the foreground as much as alpha 0.75 does" in shares_sentence(same)
    with pytest.raises(ValueError, match="The rows need alpha"):
        shares_sentence(rows[:3])


def test_an_anchor_in_words_numbers_and_latex(outputs, match):
    anchor = int(torch.where(match.matched_idxs == 0)[0][0])
    own = anchor_loss(outputs, match, anchor)
    said = anchor_sentence(own)
    assert said.startswith("Foreground on P")
    assert f"should say {own.category}" in said
    assert f"{own.p_t:.4g}" in said
    numbers = dict(anchor_numbers(own))
    assert numbers["p_t"] == f"{own.p_t:.4g}"
    assert numbers["part of the image's loss"] == f"{own.loss:.4g}"
    formula = anchor_formula(own)
    assert formula.count("{") == formula.count("}")
    assert (
        rf"= {own.alpha_t:g} \cdot {1 - own.p_t:.4g}^{{2}} \cdot {own.cross_entropy:.4g}" in formula
    )
    assert rf"\frac{{{own.focal_sum:.4g}}}{{{own.normalizer}}} = {own.loss:.4g}" in formula


def test_small_numbers_in_latex_are_powers_of_ten(outputs, match):
    anchor = int(torch.where(match.matched_idxs == -1)[0][0])
    own = anchor_loss(outputs, match, anchor, LossConfig(gamma=5.0))
    assert own.focal < 1e-5
    formula = anchor_formula(own)
    assert r"\cdot 10^{-" in formula
    assert "e-" not in formula
    assert "should not say" in anchor_sentence(own)


def test_an_ignored_anchor_says_so(outputs):
    match = assign(outputs, [[10.0, 10, 70, 80]], [5], MatcherConfig(0.9, 0.1, False))
    own = anchor_loss(outputs, match, int(torch.where(match.matched_idxs == -2)[0][0]))
    assert "in no loss" in anchor_sentence(own)
    assert r"\text{loss} &= 0" in anchor_formula(own)


def test_an_image_without_objects_is_drawn_and_told(outputs):
    match = assign(outputs, [], [])
    found = holders(outputs, match)
    assert holders_sentence(found).startswith("There is no foreground anchor")
    holders_figure(found)
    cdf_figure(normalised_cdfs(outputs, match), "positives")
    shares = hardest_shares(outputs, match)
    assert cdf_sentence("positives", shares["positives"]).startswith("There are no positives")
    said = shares_sentence(shares_over_gamma(outputs, match))
    assert said.startswith("Here the foreground holds none of the loss, whatever alpha and gamma.")
    assert "lowered" not in said
    figure = prior_figure(compare_priors(outputs, match))
    assert list(figure.data[0].x) == [None, None]
    assert "100% of it" in prior_sentence(compare_priors(outputs, match))
    shares_figure(shares_over_gamma(outputs, match), 0.25, 2.0)
    counts = rugs(outputs, match)
    loss_curves(0.25, 2.0, counts.positives, counts.negatives)


def test_nothing_but_ignored_anchors_is_told(outputs):
    match = assign(outputs, [[10.0, 10, 70, 80]], [5], MatcherConfig(1.0, 0.0, False))
    assert match.counts["ignored"] == outputs.num_anchors
    assert holders_sentence(holders(outputs, match)).startswith("Every anchor is ignored")


def test_logits_that_are_not_numbers_are_told(outputs, match):
    logits = [level.clone() for level in outputs.cls_logits]
    logits[1][0, 0] = torch.nan
    broken = replace(outputs, cls_logits=logits)
    anchor = len(logits[0])
    found = holders(broken, match)
    assert "not a number" in holders_sentence(found)
    holders_figure(found)
    shares_figure(shares_over_gamma(broken, match), 0.25, 2.0)
    assert "not a number" in shares_sentence(shares_over_gamma(broken, match))
    assert "not a number" in anchor_sentence(anchor_loss(broken, match, anchor))
