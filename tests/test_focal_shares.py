"""The focal loss's arithmetic, the sums kept for the browser, and who holds the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from retinanet.assignment import assign
from retinanet.config import ConfigError, LossConfig, MatcherConfig
from retinanet.focal import (
    GAMMA_NODES,
    LOG_HIGH,
    LOG_LOW,
    alpha_t,
    anchor_sums,
    balanced_curve,
    cell_losses,
    column_sums,
    cross_entropy_curve,
    focal_curve,
    focal_gradient,
    foreground_terms,
    interpolated_log,
    negative_sums,
    p_t,
    packed_nodes,
    packed_sums,
    unpacked_logs,
)
from retinanet.loss_shares import (
    GROUPS,
    WEIGHTINGS,
    hardest_share,
    hardest_shares,
    holders,
    normalised_cdfs,
    rugs,
    sample_losses,
    shares_over_gamma,
)
from retinanet.losses import compute_loss
from tests.oracle import our_model, torchvision_model

HEIGHT, WIDTH = 150, 201
BOXES = torch.tensor(
    [[20.0, 30.0, 90.0, 120.0], [5.0, 5.0, 190.0, 140.0], [60.0, 60.0, 70.0, 72.0]]
)
LABELS = torch.tensor([3, 17, 44])
CONFIGS = [LossConfig(), LossConfig(0.75, 0.0), LossConfig(0.4, 0.5), LossConfig(0.6, 3.7)]


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def outputs(image):
    return our_model("v1")(image)


@pytest.fixture(scope="module")
def match(outputs):
    return assign(outputs, BOXES, LABELS)


def pairs(outputs, match):
    """(logits, targets) of every pair of a valid anchor, float64 [V, K], the naive way."""
    logits = torch.cat(outputs.cls_logits).double()
    targets = torch.zeros_like(logits)
    for anchor in torch.where(match.matched_idxs >= 0)[0]:
        targets[anchor, match.gt_labels[match.matched_idxs[anchor]]] = 1
    valid = match.matched_idxs != -2
    return logits[valid], targets[valid]


def realistic_logits(seed: int) -> torch.Tensor:
    """Rows as models give them: fresh heads, quiet background, one class that stands out."""
    generator = torch.Generator().manual_seed(seed)

    def normal(mean, std):
        return torch.randn(300, 91, generator=generator) * std + mean

    quiet, sure = normal(-9, 1.5), normal(-5, 1)
    for rows in (quiet, sure):
        column = torch.randint(91, (300, 1), generator=generator)
        rows.scatter_(1, column, torch.rand(300, 1, generator=generator) * 10 - 5)
    return torch.cat([normal(-4.6, 0.05), normal(-6, 2), normal(-3, 3), quiet, sure])


def test_the_papers_own_examples():
    # Section 3.2: with gamma 2, p_t = 0.9 costs 100 times less than CE, 0.968 about 1,000 times.
    assert cross_entropy_curve(0.9) / focal_curve(0.9, 1, 2) == pytest.approx(100)
    assert cross_entropy_curve(0.968) / focal_curve(0.968, 1, 2) == pytest.approx(1000, rel=0.03)
    # p_t = 0.5: ln 2; half of it at alpha 0.5; a quarter of that at gamma 2.
    assert cross_entropy_curve(0.5) == pytest.approx(0.693147, abs=1e-6)
    assert balanced_curve(0.5, 0.5) == pytest.approx(0.346574, abs=1e-6)
    assert focal_curve(0.5, 0.5, 2) == pytest.approx(0.0866434, abs=1e-6)


def test_p_t_and_alpha_t_by_hand():
    logits = torch.tensor([0.0, np.log(3.0), np.log(3.0), -40.0], dtype=torch.float64)
    targets = torch.tensor([1.0, 1.0, 0.0, 1.0])
    assert p_t(logits, targets)[:3].tolist() == pytest.approx([0.5, 0.75, 0.25])
    assert float(p_t(logits, targets)[3]) == pytest.approx(np.exp(-40))
    assert alpha_t(targets, 0.3).tolist() == pytest.approx([0.3, 0.3, 0.7, 0.3])


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0, 5.0])
def test_curves_are_torchvisions_loss_and_its_gradient(gamma):
    logits = torch.linspace(-12, 12, 97, dtype=torch.float64, requires_grad=True)
    for target in (0.0, 1.0):
        targets = torch.full_like(logits, target)
        loss = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        truth = p_t(logits.detach(), targets).numpy()
        np.testing.assert_allclose(focal_curve(truth, 1, gamma), loss.detach(), rtol=1e-6)
        np.testing.assert_allclose(
            focal_gradient(truth, gamma), gradient.abs(), rtol=1e-5, atol=1e-15
        )


def test_the_gradient_is_finite_at_both_ends():
    assert focal_gradient([0.0, 1.0], 2.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_column_sums_are_torchvisions(seed):
    logits = realistic_logits(seed)
    wide = logits.double().requires_grad_()
    gammas = (*GAMMA_NODES, 0.1, 7.5)
    losses, gradients = column_sums(logits, gammas)
    for number, gamma in enumerate(gammas):
        loss = sigmoid_focal_loss(wide, torch.zeros_like(wide), alpha=-1, gamma=gamma)
        (gradient,) = torch.autograd.grad(loss.sum(), wide)
        np.testing.assert_allclose(losses[:, number], loss.sum(1).detach(), rtol=2e-5)
        np.testing.assert_allclose(gradients[:, number], gradient.abs().sum(1), rtol=2e-5)


def test_a_column_of_minus_infinity_is_left_out():
    logits = realistic_logits(1)[:, :5]
    masked = torch.cat([logits, torch.full((len(logits), 1), -torch.inf)], dim=1)
    for ours, theirs in zip(column_sums(masked, (0, 2)), column_sums(logits, (0, 2)), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert column_sums(logits[:0], (0.0, 2.0))[0].shape == (0, 2)


def test_sums_are_kept_with_the_outputs_and_counted(image):
    outputs = our_model("v1")(image)
    before = outputs.nbytes
    sums = negative_sums(outputs)
    assert sums.nodes.shape == sums.gradients.shape == (outputs.num_anchors, 8)
    assert sums.nodes.dtype == torch.float32
    assert negative_sums(outputs) is sums
    assert outputs.nbytes - before == sums.nbytes == 2 * outputs.num_anchors * 8 * 4
    torch.testing.assert_close(anchor_sums(outputs, [2.0])[0][:, 0], sums.nodes[:, 4])


def test_packing_by_hand():
    sums = torch.tensor([0.0, 1.0, np.exp(LOG_HIGH), 1e9, np.exp(-59.9999), 1e-30, float("nan")])
    # ln 1 = 0 lies 60/66 of the way: 59,577.27.
    assert packed_sums(sums).tolist() == [0, 59577, 65535, 65535, 1, 0, 0]
    assert packed_sums(sums).dtype == np.uint16
    assert unpacked_logs(np.array([0, 65535], dtype=np.uint16)).tolist() == [-np.inf, LOG_HIGH]
    assert unpacked_logs(np.array([1], dtype=np.uint16))[0] == pytest.approx(LOG_LOW, abs=2e-3)


def test_packed_nodes_are_the_sums_to_a_step(outputs):
    packed, sums = packed_nodes(outputs), negative_sums(outputs).nodes.double().numpy()
    assert packed.shape == (outputs.num_anchors, 8)
    there = np.log(sums, out=np.full(sums.shape, -np.inf), where=sums > 0) >= LOG_LOW
    there &= sums <= np.exp(LOG_HIGH)
    assert there.mean() > 0.9
    np.testing.assert_allclose(np.exp(unpacked_logs(packed))[there], sums[there], rtol=6e-4)


def test_the_interpolation_goes_through_the_nodes_and_is_exact_for_parabolas():
    x = np.array(GAMMA_NODES)
    generator = np.random.default_rng(2)
    for _ in range(20):
        a, b, c = generator.normal(size=3)
        for gamma in (*GAMMA_NODES, *generator.uniform(0, 5, 10)):
            value = interpolated_log(a * x**2 + b * x + c, gamma)
            assert value == pytest.approx(a * gamma**2 + b * gamma + c, abs=1e-9)
    any_values = generator.normal(size=(4, 8))
    for number, gamma in enumerate(GAMMA_NODES):
        np.testing.assert_allclose(interpolated_log(any_values, gamma), any_values[:, number])


@pytest.mark.parametrize("gamma", [-0.1, 5.1, float("nan")])
def test_no_gamma_outside_the_nodes(gamma):
    with pytest.raises(ValueError, match="gamma must be between 0 and 5"):
        interpolated_log(np.zeros(8), gamma)


@pytest.mark.parametrize("seed", range(5))
def test_interpolated_sums_are_within_a_hundredth(seed):
    """From packed nodes to the sum: an anchor's within 1%, a kind's total within 0.5%."""
    logits = realistic_logits(seed)
    logs = unpacked_logs(packed_sums(column_sums(logits, GAMMA_NODES)[0]))
    wide = logits.double()
    cross_entropy = torch.nn.functional.softplus(wide)
    for gamma in np.arange(0, 5.05, 0.1).clip(max=5):
        exact = (torch.sigmoid(wide) ** gamma * cross_entropy).sum(1).numpy()
        ours = np.exp(interpolated_log(logs, gamma))
        assert np.abs(ours / exact - 1).max() < 0.01
        totals = ours.reshape(5, 300).sum(1) / exact.reshape(5, 300).sum(1)
        assert np.abs(totals - 1).max() < 0.005


def test_where_a_packed_node_is_0_so_is_the_sum():
    quiet = column_sums(torch.full((1, 91), -40.0), GAMMA_NODES)[0]
    logs = unpacked_logs(packed_sums(quiet))
    assert np.isneginf(logs[0, -1])
    assert np.isneginf(interpolated_log(logs, 4.5)[0])
    assert np.exp(interpolated_log(logs, 0.1))[0] < 1e-10


def test_foreground_terms_by_the_naive_way(outputs, match):
    terms = foreground_terms(outputs, match)
    logits = torch.cat(outputs.cls_logits).double()
    foreground = torch.where(match.matched_idxs >= 0)[0]
    assert terms.anchors.tolist() == foreground.tolist()
    assert len(set(terms.labels.tolist())) > 1
    for row, anchor in enumerate(foreground[::7]):
        row *= 7
        label = int(LABELS[match.matched_idxs[anchor]])
        assert terms.labels[row] == label
        assert terms.p[row] == pytest.approx(float(torch.sigmoid(logits[anchor, label])))
        rest = torch.cat([logits[anchor, :label], logits[anchor, label + 1 :]]).requires_grad_()
        for node, gamma in enumerate(GAMMA_NODES):
            loss = sigmoid_focal_loss(rest, torch.zeros_like(rest), alpha=-1, gamma=gamma).sum()
            (gradient,) = torch.autograd.grad(loss, rest)
            assert terms.others[row, node] == pytest.approx(loss.item(), rel=2e-5)
            total = float(gradient.abs().sum())
            assert terms.other_gradients[row, node] == pytest.approx(total, rel=2e-5)


def test_cells_hold_the_whole_loss(outputs, match):
    loss = compute_loss(outputs, match)
    cells = cell_losses(outputs, loss)
    assert [len(level) for level in cells] == [h * w for h, w in outputs.grid_sizes]
    assert float(torch.cat(cells).sum()) == pytest.approx(float(loss.classification), rel=1e-5)
    per_level = loss.per_level
    for level, name in zip(cells, per_level, strict=True):
        assert float(level.sum()) == pytest.approx(per_level[name]["classification"], rel=1e-5)
    # The first cell of P4 is its first nine anchors.
    start = outputs.anchors_per_level[0]
    torch.testing.assert_close(cells[1][0], loss.per_anchor[start : start + 9].sum())


@pytest.mark.parametrize("config", CONFIGS)
def test_holders_total_is_compute_loss(outputs, match, config):
    loss = compute_loss(outputs, match, config)
    found = holders(outputs, match, config)
    assert found.totals["focal"] == pytest.approx(float(loss.classification), rel=1e-5)
    assert found.num_foreground == loss.num_foreground


def test_holders_total_is_torchvisions(outputs, match):
    head = torchvision_model("v1").head.classification_head
    theirs = head.compute_loss(
        [{"labels": LABELS}],
        {"cls_logits": torch.cat(outputs.cls_logits)[None]},
        [match.matched_idxs],
    )
    assert holders(outputs, match).totals["focal"] == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_each_groups_counts_and_shares_by_the_naive_way(outputs, match, config):
    logits, targets = pairs(outputs, match)
    truth = p_t(logits, targets)
    positive = targets == 1
    masks = (~positive & (truth > 0.5), ~positive & (truth <= 0.5), positive)
    found = holders(outputs, match, config)
    assert found.num_pairs == logits.numel()
    settings = {"cross_entropy": (-1, 0), "balanced": (config.alpha, 0)}
    settings["focal"] = (config.alpha, config.gamma)
    for name in WEIGHTINGS:
        alpha, gamma = settings[name]
        leaf = logits.clone().requires_grad_()
        loss = sigmoid_focal_loss(leaf, targets, alpha=alpha, gamma=gamma)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        loss, gradient = loss.detach(), gradient.abs()
        for group, mask in zip(found.groups, masks, strict=True):
            assert group.pairs == int(mask.sum())
            assert group.pair_share == pytest.approx(float(mask.double().mean()))
            assert group.loss[name] == pytest.approx(float(loss[mask].sum()), rel=1e-4)
            share = float(loss[mask].sum() / loss.sum())
            assert group.loss_share[name] == pytest.approx(share, rel=1e-4)
            share = float(gradient[mask].sum() / gradient.sum())
            assert group.gradient_share[name] == pytest.approx(share, rel=1e-4)
    assert [group.name for group in found.groups] == list(GROUPS)
    assert all(group.pairs > 0 for group in found.groups)


@pytest.mark.parametrize("gammas", [None, (0.0, 0.35, 2.0)])
def test_shares_over_gamma_agree_with_holders(outputs, match, gammas):
    rows = shares_over_gamma(outputs, match, (0.25, 0.9), gammas)
    expected = [step / 2 for step in range(11)] if gammas is None else list(gammas)
    assert [row["gamma"] for row in rows] == expected * 2
    for row in rows:
        foreground = holders(outputs, match, LossConfig(row["alpha"], row["gamma"])).groups[2]
        assert row["foreground_loss_share"] == pytest.approx(foreground.loss_share["focal"])
        assert row["foreground_gradient_share"] == pytest.approx(foreground.gradient_share["focal"])


def test_shares_by_the_naive_way(outputs, match):
    logits, targets = pairs(outputs, match)
    for row in shares_over_gamma(outputs, match, (0.4,), (1.5,)):
        loss = sigmoid_focal_loss(logits, targets, alpha=0.4, gamma=1.5)
        share = float(loss[targets == 1].sum() / loss.sum())
        assert row["foreground_loss_share"] == pytest.approx(share, rel=1e-5)


def test_hardest_share_by_hand():
    losses = np.array([1.0, 1.0, 1.0, 1.0, 6.0])
    assert hardest_share(losses) == pytest.approx(0.6)
    assert hardest_share(losses, 0.3) == pytest.approx(0.65)  # the 6 and half of a 1
    assert hardest_share(losses, 1.0) == pytest.approx(1.0)
    assert hardest_share(np.zeros(0)) == hardest_share(np.zeros(3)) == 0.0


def test_cdfs_lie_on_the_exact_curves(outputs, match):
    cdfs = normalised_cdfs(outputs, match)
    logits = torch.cat(outputs.cls_logits).double()
    background = logits[match.matched_idxs == -1]
    _, targets = pairs(outputs, match)
    positives = pairs(outputs, match)[0][targets == 1]
    for gamma in (0.0, 0.5, 1.0, 2.0, 5.0):
        losses = {
            "negatives": sigmoid_focal_loss(
                background, torch.zeros_like(background), alpha=-1, gamma=gamma
            ).sum(1),
            "positives": sigmoid_focal_loss(
                positives, torch.ones_like(positives), alpha=-1, gamma=gamma
            ),
        }
        for side, values in losses.items():
            ordered = np.sort(values.numpy())
            x, y = cdfs[side][gamma]
            assert 2 <= len(x) <= 400
            assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
            assert (np.diff(x) > 0).all()
            assert (np.diff(y) >= 0).all()
            exact = np.append(0, ordered.cumsum()) / ordered.sum()
            np.testing.assert_allclose(y, exact[np.rint(x * len(ordered)).astype(int)], atol=1e-5)
            drawn = np.interp(np.linspace(0, 1, len(exact)), x, y)
            np.testing.assert_allclose(drawn, exact, atol=0.01)
            top = ordered[-int(0.2 * len(ordered)) :].sum() / ordered.sum()
            share = hardest_shares(outputs, match, (gamma,))[side][gamma]
            assert share == pytest.approx(top, abs=0.01)


def test_focusing_piles_the_negatives_loss_on_few_of_them(outputs, match):
    shares = hardest_shares(outputs, match)["negatives"]
    assert list(shares.values()) == sorted(shares.values())
    assert shares[2.0] > shares[0.0] + 0.05


def test_rugs_by_the_naive_way(outputs, match):
    found = rugs(outputs, match)
    logits, targets = pairs(outputs, match)
    truth = p_t(logits, targets)
    assert sorted(found.positives) == pytest.approx(sorted(truth[targets == 1].tolist()))
    assert int(found.negatives.sum()) == int((targets == 0).sum())
    counts, edges = np.histogram(truth[targets == 0].numpy(), bins=50, range=(0, 1))
    np.testing.assert_allclose(found.edges, edges, atol=1e-12)
    assert np.abs(found.negatives - counts).max() <= 1  # a logit may round over an edge
    assert (rugs(outputs, match).negatives == found.negatives).all()  # the kept one is not spent


NO_OBJECT = torch.zeros(0, 4)
FAR_AWAY = torch.tensor([[5000.0, 5000.0, 5100.0, 5100.0]])


@pytest.mark.parametrize(
    ("boxes", "matcher"),
    [
        (NO_OBJECT, MatcherConfig()),
        (BOXES, MatcherConfig(1.0, 0.0, allow_low_quality_matches=False)),  # all ignored
        (FAR_AWAY, MatcherConfig()),  # all foreground
    ],
)
def test_a_side_may_be_empty(outputs, boxes, matcher):
    match = assign(outputs, boxes, torch.ones(len(boxes)), matcher)
    loss = compute_loss(outputs, match)
    found = holders(outputs, match)
    assert found.totals["focal"] == pytest.approx(float(loss.classification), rel=1e-5, abs=1e-9)
    valid = outputs.num_anchors - match.counts["ignored"]
    assert sum(group.pairs for group in found.groups) == valid * outputs.num_classes
    rows = shares_over_gamma(outputs, match, gammas=(0.0, 2.0))
    assert all(0 <= row["foreground_loss_share"] <= 1 for row in rows)
    counts = rugs(outputs, match)
    assert counts.negatives.sum() + len(counts.positives) == valid * outputs.num_classes
    cdfs = normalised_cdfs(outputs, match)
    assert (len(cdfs["positives"][2.0][0]) == 0) == (match.counts["foreground"] == 0)
    assert (len(cdfs["negatives"][2.0][0]) == 0) == (match.counts["background"] == 0)


def test_a_match_of_other_anchors_is_refused(outputs, match):
    other = replace(match, matched_idxs=match.matched_idxs[:-1])
    for function in (holders, shares_over_gamma, rugs, foreground_terms, normalised_cdfs):
        with pytest.raises(ValueError, match="match the anchors of these outputs"):
            function(outputs, other)
    with pytest.raises(ValueError, match="match the anchors of these outputs"):
        sample_losses(outputs, other, "negatives", 2.0)


def test_settings_that_cannot_work_are_refused(outputs, match):
    with pytest.raises(ConfigError, match="alpha"):
        shares_over_gamma(outputs, match, alphas=(1.5,))
    with pytest.raises(ConfigError, match="gamma"):
        shares_over_gamma(outputs, match, gammas=(-1.0,))
    with pytest.raises(ValueError, match="positives or negatives"):
        sample_losses(outputs, match, "both", 2.0)
