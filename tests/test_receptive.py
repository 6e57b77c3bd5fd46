"""Receptive fields against what a gradient says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retinanet.cells import level_stride
from retinanet.checkpoints import load_model
from retinanet.images import resized_size
from retinanet.receptive import field_box, pixel_span, receptive_fields
from retinanet.types import LEVELS, STAGES, Outputs


@pytest.fixture(scope="module")
def model():
    return load_model("random", {"depth": 18, "min_size": 64, "max_size": 128}, "cpu")


@pytest.fixture(scope="module")
def real(model) -> Outputs:
    return model(torch.rand(3, 60, 110))


def influence(network, level: str, cell: int, width: int, subnet: str | None, top_down: bool):
    """First and last column of a strip of pixels that the gradient of one cell reaches."""
    strip = torch.rand(1, 3, 32, width, dtype=torch.float64) + 0.5
    strip.requires_grad_()
    stages = network.backbone.stages(strip)
    if not top_down:
        fpn = network.backbone.fpn
        block = STAGES.index(f"C{level[1]}")
        features = fpn.layer_blocks[block](fpn.inner_blocks[block](stages[f"C{level[1]}"]))
    else:
        features = network.backbone.pyramid(stages)[level]
    if subnet:
        head = getattr(network.head, f"{subnet}_head")
        out = getattr(head, "cls_logits" if subnet == "classification" else "bbox_reg")
        features = out(head.conv(features))
    features[0, :, 0, cell].sum().backward()
    reached = strip.grad[0].abs().amax(dim=(0, 1)).nonzero().flatten()
    return int(reached.min()), int(reached.max())


STRIP = 1024
CASES = [
    *((stage, 14, None, True) for stage in STAGES),
    ("P3", 60, None, False),
    ("P4", 33, None, False),
    *(("P3", cell, None, True) for cell in (64, 65, 66, 67)),
    *(("P4", cell, None, True) for cell in (32, 33)),
    ("P5", 16, None, True),
    ("P6", 8, None, True),
    ("P7", 4, None, True),
    ("P3", 63, "classification", True),
    ("P5", 15, "regression", True),
]


@pytest.fixture(scope="module", params=[(18, "v1", False), (50, "v1", True), (18, "v2", False)])
def positive(request):
    depth, variant, stride_in_1x1 = request.param
    settings = {
        "depth": depth,
        "variant": variant,
        "stride_in_1x1": stride_in_1x1,
        "num_convs": 2,
        "num_classes": 1,
    }
    network = load_model("random", settings, "cpu").double()
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            weight = torch.rand(layer.weight.shape, generator=generator, dtype=torch.float64) + 0.5
            layer.weight.data.copy_(weight / weight[0].numel())
            if layer.bias is not None:
                layer.bias.data.zero_()
    return network.requires_grad_(False)


def test_with_positive_weights_every_pixel_of_the_field_counts(positive):
    # The gradient of a maximum is one pixel's: an average of the same window reaches them all.
    pool, positive.backbone.body.maxpool = positive.backbone.body.maxpool, nn.AvgPool2d(3, 2, 1)
    assert (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1)
    try:
        # The other models differ from the first in the ResNet's blocks and in where P6 comes from;
        # the group norm of v2's subnets sees the whole map.
        first = (positive.config.depth, positive.config.variant) == (18, "v1")
        for level, cell, subnet, top_down in CASES if first else CASES[1:-2:4]:
            span = pixel_span(positive, level, cell, subnet, top_down)
            reached = influence(positive, level, cell, STRIP, subnet, top_down)
            clipped = max(span[0], 0), min(span[1], STRIP - 1)
            assert reached == clipped, (level, cell, subnet, top_down)
    finally:
        positive.backbone.body.maxpool = pool


def test_a_random_network_sees_nothing_beyond_its_field(model):
    probe = load_model("random", {"depth": 18}, "cpu").double().requires_grad_(False)
    for level, cell, subnet, top_down in CASES[:8:2]:
        low, high = pixel_span(probe, level, cell, subnet, top_down)
        first, last = influence(probe, level, cell, STRIP, subnet, top_down)
        assert low <= first <= last <= high


def test_fields_by_hand(model):
    fields = receptive_fields(model)
    # Stem 7 then 11 with the pool; layer1: four 3x3 at stride 4, 32 more; layer2: 3x3 s2, then
    # three at stride 8: 43 + 8 + 48; the pyramid's 3x3 on P3: 16 more.
    assert fields["C3"].lateral == fields["C3"].top_down == 99
    assert fields["P3"].lateral == 99 + 16
    assert fields["C5"].lateral == 435  # the field of a ResNet-18's last layer
    assert fields["P3"].top_down == 435 + 32
    assert fields["P5"].top_down == fields["P5"].lateral == 435 + 64
    assert fields["P6"].top_down == 499 + 64
    assert fields["P7"].top_down == 499 + 64 + 128
    # Four convolutions and the prediction: ten cells more.
    for level in LEVELS:
        stride = level_stride(level)
        if level in ("P5", "P6", "P7"):
            assert fields[level].classification == fields[level].top_down + 10 * stride
        assert fields[level].classification == fields[level].regression
    assert fields["C3"].classification is None


def test_the_field_box_surrounds_the_cell(model, real: Outputs):
    size = resized_size((60, 110), 64, 128)
    assert real.image_size == size
    x1, y1, x2, y2 = field_box(model, real, "C3", 2, 3)
    scale_x, scale_y = 110 / size[1], 60 / size[0]
    assert (x1, x2) == pytest.approx(((24 - 49) * scale_x, (24 + 50) * scale_x))
    assert (y1, y2) == pytest.approx(((16 - 49) * scale_y, (16 + 50) * scale_y))
    with pytest.raises(ValueError, match="P3, P4"):
        pixel_span(model, "C3", 0, "classification")
