"""What a run will cost: counts against torchvision's model, bytes by hand, nothing changed."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from torchvision.models import resnet50
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet.coco import load_coco
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet
from retinanet.single_flight import Cancelled
from retinanet.training import PARAMETER_STAGES, Progress, TrainConfig
from retinanet.training_cost import _mean_seconds, probe, trainable_parameters
from tests.shapes import write_shapes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return load_coco(write_shapes(folder / "shapes", photos=4), folder / "shapes" / "images")


def new_model(dataset, **settings):
    torch.manual_seed(0)
    shape = {"depth": 18, "num_classes": 2, "num_convs": 1, "min_size": 64, "max_size": 96}
    return RetinaNet(ModelConfig(**shape | settings), dataset.categories, dataset.category_ids)


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2, 3, 4])
def test_the_counts_are_torchvisions(frozen_stages):
    with torch.device("meta"):
        ours = trainable_parameters(RetinaNet(ModelConfig(frozen_stages=frozen_stages)))
        body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        backbone = _resnet_fpn_extractor(
            body,
            4 - frozen_stages,
            [2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        theirs = TorchvisionRetinaNet(backbone, 91)
    assert tuple(ours) == PARAMETER_STAGES
    assert sum(total for _, total in ours.values()) == 34_014_999  # torchvision's own count
    trainable = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert sum(trainable for trainable, _ in ours.values()) == trainable
    head = sum(p.numel() for p in theirs.head.classification_head.parameters())
    assert ours["classification_head"] == (head, head)
    assert ours["stem"][1] == 64 * 3 * 7 * 7


@pytest.fixture(scope="module")
def costs(dataset):
    """Of a whole and of a frozen ResNet."""
    config = TrainConfig(steps=50, batch_size=2, ema_decay=0.5, cache_views=0)
    return {n: probe(new_model(dataset, frozen_stages=n), dataset, config) for n in (-1, 4)}


def test_bytes_follow_from_what_trains(dataset, costs):
    for frozen, cost in costs.items():
        counts = trainable_parameters(new_model(dataset, frozen_stages=frozen))
        trainable = sum(count for count, _ in counts.values())
        total = sum(count for _, count in counts.values())
        assert (cost.trainable, cost.total) == (trainable, total)
        assert cost.parameter_bytes == cost.average_bytes == 4 * total
        assert cost.gradient_bytes == cost.optimizer_bytes == 4 * trainable  # momentum
    assert costs[4].total == costs[-1].total
    assert costs[4].trainable < costs[-1].trainable


def test_adamw_keeps_two_moments_and_a_count(dataset):
    model = new_model(dataset, frozen_stages=4)
    cost = probe(model, dataset, TrainConfig(batch_size=1, optimizer="adamw"))
    tensors = sum(1 for p in model.parameters() if p.requires_grad)
    assert cost.optimizer_bytes == 2 * cost.gradient_bytes + 4 * tensors


def test_seconds_add_up_and_a_frozen_resnet_has_a_cheaper_backward_pass(costs):
    for cost in costs.values():
        parts = (cost.seconds_data, cost.seconds_forward, cost.seconds_backward)
        assert all(part > 0 for part in parts)
        assert cost.seconds_step == pytest.approx(sum(parts) + cost.seconds_optimizer)
        assert cost.seconds_run == pytest.approx(50 * cost.seconds_step)
        assert cost.peak_memory_bytes > cost.parameter_bytes
    assert costs[4].seconds_backward < costs[-1].seconds_backward


def test_the_cost_is_plain_data_and_sentences(costs):
    plain = json.loads(json.dumps(costs[4].to_dict()))
    assert plain["parameters"]["stem"] == {"trainable": 0, "total": 64 * 3 * 7 * 7}
    assert plain["trainable"] == costs[4].trainable
    words = costs[4].sentences()
    assert f"{costs[4].trainable:,} of {costs[4].total:,} parameters train" in words[0]
    assert "frozen: stem, layer1, layer2, layer3, layer4" in words[0]
    assert "nothing is frozen" in costs[-1].sentences()[0]
    assert words[3].startswith("50 steps take about ")


def test_nothing_is_changed_and_nothing_written(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = new_model(dataset, frozen_stages=4).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    probe(model, dataset, TrainConfig(batch_size=2, cache_views=3))
    assert list(tmp_path.iterdir()) == []
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_probe_can_be_cancelled(dataset):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        probe(new_model(dataset), dataset, TrainConfig(), cancel=stop)


def test_steps_without_p3_count_as_often_as_they_come():
    step = Progress(1, 9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    made = [replace(step, step=n, seconds_forward=s) for n, s in ((1, 9.0), (2, 1.0), (5, 5.0))]
    assert _mean_seconds(made, "seconds_forward", 4) == (5 + 3 * 1) / 4  # the 5th is the last of P3
    assert _mean_seconds(made[:2], "seconds_forward", 1) == 1.0  # the first one warms up
    assert _mean_seconds(made[:1], "seconds_forward", 4) == 9.0
