"""The steps are those of a plain loop over torchvision's losses with torch.optim."""

import copy

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from retinanet.coco import load_coco
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet
from retinanet.training import TrainConfig, learning_rate, train
from retinanet.types import LEVELS
from retinanet.views import Views
from tests.shapes import write_shapes

STEPS = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return load_coco(write_shapes(folder / "shapes", photos=3), folder / "shapes" / "images")


def torchvision_losses(model, raw, targets):
    """Of torchvision's own heads, which need only anchors, answers and targets."""
    head = RetinaNetHead(256, 9, model.config.num_classes)
    head.regression_head._loss_type = "giou" if model.config.variant == "v2" else "l1"
    answers = {
        "cls_logits": torch.cat(raw.cls_logits, 1).float(),
        "bbox_regression": torch.cat(raw.bbox_regression, 1).float(),
    }
    anchors = torch.cat(raw.anchors)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    matched = [
        matcher(box_iou(target.boxes, anchors))
        if len(target.boxes)
        else torch.full((len(anchors),), -1)
        for target in targets
    ]
    skipped = len(anchors) - answers["cls_logits"].shape[1]
    truth = [{"boxes": target.boxes, "labels": target.labels} for target in targets]
    own = [anchors[skipped:]] * len(targets)
    losses = head.compute_loss(truth, answers, own, [m[skipped:] for m in matched])
    return losses["classification"], losses["bbox_regression"]


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ({"variant": "v1", "frozen_stages": -1}, {}),
        ({"variant": "v2", "frozen_stages": 0}, {"ema_decay": 0.6}),
        ({"variant": "v1", "frozen_stages": 1}, {"optimizer": "adamw", "lr": 1e-3}),
        ({"variant": "v2", "frozen_stages": 2}, {"finest_every": 2, "schedule": "step"}),
        ({"variant": "v2", "frozen_stages": 3}, {"precision": "bf16"}),
        ({"variant": "v1", "frozen_stages": 4}, {"cache_views": 2, "finest_every": 3}),
    ],
)
def test_steps_are_those_of_a_plain_loop(dataset, tmp_path, monkeypatch, shape, settings):
    monkeypatch.setattr("retinanet.training_state.save_state", lambda path, stepper, step: None)
    torch.manual_seed(0)
    small = {"depth": 18, "num_classes": 2, "num_convs": 1, "min_size": 64, "max_size": 96}
    model = RetinaNet(ModelConfig(**small | shape), dataset.categories, dataset.category_ids)
    plain = copy.deepcopy(model)
    quick = {"steps": STEPS, "batch_size": 2, "warmup_steps": 2, "clip_grad_norm": 1.0}
    config = TrainConfig(**quick | settings)
    seen = []
    trained = train(model, dataset, config, run_folder=tmp_path, on_progress=seen.append)

    views = Views(dataset, plain, config, tmp_path / "features")  # as the run left them
    weights = [p for p in plain.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = (
        torch.optim.AdamW(groups)
        if config.optimizer == "adamw"
        else torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    )
    average = None
    plain.train()
    for step, keys in zip(range(STEPS), views.batches(), strict=False):
        batch = views.load(keys)
        levels = LEVELS[1:] if step % config.finest_every else LEVELS
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            if config.cache_views:
                raw = plain.forward_stages(batch.stages, batch.padded_size, levels)
            else:
                raw = plain.forward_batch(batch.images, levels)
        losses = torchvision_losses(plain, raw, batch.targets)
        optimizer.zero_grad()
        sum(losses).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), config.clip_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.step()
        now = [p.detach().clone() for p in plain.parameters()]
        decay = config.ema_decay if average else 0.0
        average = [decay * a + (1 - decay) * p for a, p in zip(average or now, now, strict=True)]
        assert seen[step].classification == pytest.approx(losses[0].item(), rel=1e-5)
        assert seen[step].bbox_regression == pytest.approx(losses[1].item(), rel=1e-5)
        assert seen[step].grad_norm == pytest.approx(norm.item(), rel=1e-4)
    kept = average if config.ema_decay else list(plain.parameters())
    for one, other in zip(trained.parameters(), kept, strict=True):
        close = torch.isclose(one, other, rtol=1e-4, atol=1e-6).float().mean()
        # AdamW makes of a gradient that is all rounding, 1e-9, a step of the learning rate.
        assert close > 0.98 if config.optimizer == "adamw" else close == 1
    for one, other in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-5)
