"""The quick trace is `compute_loss`'s."""

import pytest
import torch

from retinanet.assignment import assign
from retinanet.config import LossConfig, MatcherConfig
from retinanet.focal_trace import loss_from_sums
from retinanet.losses import compute_loss
from tests.oracle import our_model

BOXES = torch.tensor([[10.0, 12.0, 70.0, 90.0], [60.0, 20.0, 150.0, 110.0], [5.0, 5.0, 9.0, 9.0]])


@pytest.fixture(scope="module", params=["v1", "v2"])
def outputs(request):
    torch.manual_seed(5)
    return our_model(request.param)(torch.rand(3, 120, 160))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.75, 0.0), (0.5, 1.3), (1.0, 5.0)])
@pytest.mark.parametrize("bounds", [(0.5, 0.4), (0.9, 0.1)])
def test_it_is_compute_loss(outputs, alpha, gamma, bounds):
    match = assign(outputs, BOXES, [3, 7, 90], MatcherConfig(*bounds))
    config = LossConfig(alpha, gamma)
    ours, exact = loss_from_sums(outputs, match, config), compute_loss(outputs, match, config)
    torch.testing.assert_close(ours.per_anchor, exact.per_anchor, rtol=2e-5, atol=1e-9)
    torch.testing.assert_close(ours.per_anchor_bbox, exact.per_anchor_bbox)
    torch.testing.assert_close(ours.classification, exact.classification, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(ours.bbox_regression, exact.bbox_regression)
    assert ours.num_foreground == exact.num_foreground > 0
    for level, losses in exact.per_level.items():
        for name, value in losses.items():
            assert ours.per_level[level][name] == pytest.approx(value, rel=2e-5, abs=1e-9)


def test_without_objects_all_is_background(outputs):
    match = assign(outputs, torch.zeros(0, 4), [])
    ours, exact = loss_from_sums(outputs, match), compute_loss(outputs, match)
    torch.testing.assert_close(ours.per_anchor, exact.per_anchor, rtol=2e-5, atol=1e-9)
    assert float(ours.bbox_regression) == 0.0
