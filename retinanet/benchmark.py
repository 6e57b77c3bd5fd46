"""Speed and memory against torchvision, measured side by side in one run.

Both run the same random weights on the same picture. What is compared is interleaved and repeated,
and medians are reported, so that a busy machine slows both alike.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet.assignment import assign
from retinanet.checkpoints import save_checkpoint
from retinanet.config import LossConfig, ModelConfig, PostprocessConfig
from retinanet.coverage import object_coverage
from retinanet.detection import detect
from retinanet.devices import device_title, supports_bf16
from retinanet.engine import Engine, ModelSpec
from retinanet.focal import negative_sums
from retinanet.focal_trace import loss_from_sums
from retinanet.images import to_tensor
from retinanet.losses import compute_loss
from retinanet.model import RetinaNet
from retinanet.types import Image, Outputs

SETTINGS: tuple[PostprocessConfig, ...] = tuple(
    PostprocessConfig(score_thresh, nms_thresh, topk_candidates)
    for score_thresh in (0.05, 0.06, 0.1, 0.3)
    for nms_thresh in (0.45, 0.5)
    for topk_candidates in (500, 1000)
)
"""What a hand that moves the knobs would ask for, one after the other."""

LOGIT_MEAN, LOGIT_STD, DELTA_STD = -6.6, 1.0, 0.3
"""Of the random model's outputs: about one pair in 10,000 scores above 0.05, as when trained."""

REFERENCE = "torchvision eager fp32"
THEIR_MATCHING, THEIR_LOSS = "torchvision matches", "torchvision's loss"
NODE_GAMMA, OTHER_GAMMA = 2.0, 1.3
"""At the first the sums of an anchor's columns are kept, at the second they are worked out anew."""

Detections = tuple[Tensor, Tensor, Tensor]
"""Boxes [N, 4] xyxy in pixels, scores [N], labels [N]."""


@dataclass(frozen=True)
class Size:
    """A picture size to measure at: `min_size` x `max_size`, where nothing needs resizing."""

    name: str
    min_size: int
    max_size: int


def run_benchmark(
    sizes: list[Size],
    device: str = "auto",
    repeats: int = 5,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure everything.

    Args:
        sizes: where to measure the forward; the first is also where settings are changed.
        device: "auto", "cpu", "cuda" or "mps".
        repeats: measurements of each kind; the median counts.
        progress: told what begins.

    Returns:
        Plain data: "environment", "settings_change", "inside", "forward" (a list), "memory". Times
        are milliseconds, memory is bytes.
    """
    engine = Engine(device, cache_bytes=0)  # every call runs the network
    theirs = random_torchvision_model().to(engine.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        bench = _Bench(engine, theirs, path, sizes[0], repeats)
        bench.spread_outputs()
        save_checkpoint(ours_with_weights_of(theirs), path, dtype=torch.float32)
        progress(f"{sizes[0].name}: new settings on a cached picture")
        settings_change = bench.settings_change()
        progress(f"{sizes[0].name}: new training settings on a cached picture")
        inside = bench.inside()
        progress(f"{sizes[0].name}: memory")
        memory = bench.memory()
        forward = []
        for size in sizes:
            progress(f"{size.name}: forward")
            forward.append(_Bench(engine, theirs, path, size, repeats).forward())
    return {
        "environment": {
            "device": device_title(engine.device),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "repeats": repeats,
        },
        "settings_change": settings_change,
        "inside": inside,
        "forward": forward,
        "memory": memory,
    }


def random_torchvision_model() -> TorchvisionRetinaNet:
    """`retinanet_resnet50_fpn` with frozen batch norm, as when it has weights; random ones."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    for name, module in backbone.named_modules():
        if name.endswith("bn3"):  # keeps the residual sums from growing without end
            module.weight.fill_(0.2)
    return TorchvisionRetinaNet(backbone, 91).eval()


def ours_with_weights_of(theirs: TorchvisionRetinaNet) -> RetinaNet:
    """Our model with torchvision's weights, on the CPU."""
    ours = RetinaNet(ModelConfig(num_classes=91))
    ours.load_state_dict(theirs.state_dict())
    return ours.eval()


def compare_detections(ours: Detections, theirs: Detections) -> dict[str, float | int]:
    """The largest difference between two lists of detections.

    Each of theirs is compared with the nearest of ours that has its label. Where an edge of that
    is off by more than half the box's longer side, or there is none, it counts as unmatched.

    Returns:
        "box_px" and "score", the largest differences; "unmatched" of "detections".
    """
    (boxes, scores, labels), (their_boxes, their_scores, their_labels) = ours, theirs
    found = {"box_px": 0.0, "score": 0.0, "unmatched": 0, "detections": len(their_boxes)}
    if not len(boxes) or not len(their_boxes):
        return found | {"unmatched": len(their_boxes)}
    distance = torch.cdist(their_boxes, boxes, p=float("inf"))  # the edge that is off most
    distance[their_labels[:, None] != labels[None, :]] = float("inf")
    nearest, partner = distance.min(dim=1)
    longer_side = (their_boxes[:, 2:] - their_boxes[:, :2]).amax(dim=1)
    matched = nearest <= longer_side / 2
    found["unmatched"] = int((~matched).sum())
    if matched.any():
        mine = partner[matched]
        found["box_px"] = float(nearest[matched].max())
        found["score"] = float((scores[mine] - their_scores[matched]).abs().max())
    return found


@dataclass
class _Bench:
    """Both models at one picture size."""

    engine: Engine
    theirs: TorchvisionRetinaNet
    weights: Path
    size: Size
    repeats: int

    def __post_init__(self) -> None:
        self.spec = ModelSpec(
            str(self.weights), min_size=self.size.min_size, max_size=self.size.max_size
        )
        self.theirs.transform.min_size = (self.size.min_size,)
        self.theirs.transform.max_size = self.size.max_size
        self.image = _picture(self.size)
        self.tensor = to_tensor(self.image).to(self.engine.device)

    @torch.no_grad()
    def spread_outputs(self) -> None:
        """Scale the last layers so that what they say is spread as a trained model's is."""
        head = self.theirs.head
        images, _ = self.theirs.transform([self.tensor])
        said = head(list(self.theirs.backbone(images.tensors).values()))
        scale = LOGIT_STD / said["cls_logits"].std()
        layer = head.classification_head.cls_logits
        mean = (said["cls_logits"].mean() - layer.bias.mean()) * scale
        layer.weight.mul_(scale)
        layer.bias.fill_(LOGIT_MEAN - float(mean))
        head.regression_head.bbox_reg.weight.mul_(DELTA_STD / said["bbox_regression"].std())

    def forward(self) -> dict[str, Any]:
        """Our forward and boxes, in each precision, against torchvision's eager model."""
        precisions = ["fp32"] + (["bf16"] if supports_bf16(self.engine.device) else [])
        calls: dict[str, Callable[[], Any]] = {REFERENCE: lambda: self._torchvision(exact=True)}
        if self.engine.device.type == "cuda":
            calls["torchvision eager tf32, its default"] = self._torchvision
        for precision in precisions:
            calls[f"ours {precision}"] = lambda precision=precision: self._ours(precision)
        times, results = self._interleaved(calls)
        rows = []
        for name in calls:
            row = {"name": name, "ms": times[name]}
            if name != REFERENCE:
                row["times_faster"] = times[REFERENCE] / times[name]
                row["difference"] = compare_detections(results[name], results[REFERENCE])
            rows.append(row)
        return {
            "size": self.size.name,
            "image": [self.size.min_size, self.size.max_size],
            "rows": rows,
        }

    def settings_change(self) -> dict[str, Any]:
        """New settings on cached outputs, ledger included, against torchvision's model again."""
        outputs = self.engine.outputs(self.image, self.spec)
        started = time.perf_counter()
        detect(outputs)
        prepare_ms = 1000 * (time.perf_counter() - started)
        times: list[float] = []
        their_times: list[float] = []
        for _ in range(self.repeats):
            their_times.append(self._time(self._torchvision)[0])
            times += [
                self._time(lambda config=config: detect(outputs, config).counts)[0]
                for config in SETTINGS
            ]
        ours, theirs = statistics.median(times), statistics.median(their_times)
        trace = detect(outputs)
        return {
            "size": self.size.name,
            "torchvision_ms": theirs,
            "ours_ms": ours,
            "times_faster": theirs / ours,
            "first_ms": prepare_ms,
            "entered_nms": sum(trace.takes),
            "detections": len(trace),
            "bytes_per_cached_picture": outputs.nbytes,
        }

    @torch.no_grad()
    def inside(self) -> dict[str, Any]:
        """What the pages that look inside ask of cached outputs, against torchvision's own."""
        outputs = self.engine.outputs(self.image, self.spec)
        boxes, labels = _objects(self.size, outputs.num_classes)
        match = assign(outputs, boxes, labels)
        calls: dict[str, tuple[str, Callable[[], Any]]] = {
            **self._their_training(outputs, match.gt_boxes, match.gt_labels),
            "assign": (THEIR_MATCHING, lambda: assign(outputs, boxes, labels)),
            "object_coverage": (THEIR_MATCHING, lambda: object_coverage(match, outputs)),
            "compute_loss": (THEIR_LOSS, lambda: compute_loss(outputs, match)),
            # A copy has nothing of what is kept with the outputs.
            "negative_sums, once per picture": (
                THEIR_LOSS,
                lambda: negative_sums(replace(outputs)),
            ),
        }
        for gamma in (NODE_GAMMA, OTHER_GAMMA):
            calls[f"loss_from_sums, gamma {gamma:g}"] = (
                THEIR_LOSS,
                partial(loss_from_sums, outputs, match, LossConfig(gamma=gamma)),
            )
        times, results = self._interleaved({name: call for name, (_, call) in calls.items()})
        return {
            "size": self.size.name,
            "anchors": outputs.num_anchors,
            "objects": len(boxes),
            "same_matches": torch.equal(results["assign"].matched_idxs, results[THEIR_MATCHING]),
            "loss_difference": abs(
                float(results["compute_loss"].classification / results[THEIR_LOSS] - 1)
            ),
            "rows": [
                {
                    "name": name,
                    "ms": times[name],
                    "against": against,
                    "times_faster": times[against] / times[name],
                }
                for name, (against, _) in calls.items()
            ],
        }

    def _their_training(
        self, outputs: Outputs, boxes: Tensor, labels: Tensor
    ) -> dict[str, tuple[str, Callable[[], Any]]]:
        """What torchvision does: match, and work out both losses of these matches."""
        anchors = torch.cat(outputs.anchors)
        said = {
            "cls_logits": torch.cat(outputs.cls_logits)[None],
            "bbox_regression": torch.cat(outputs.bbox_regression)[None],
        }
        targets = [{"boxes": boxes, "labels": labels}]
        matcher = self.theirs.proposal_matcher
        matched = matcher(box_iou(boxes, anchors))

        def loss() -> Tensor:
            return self.theirs.head.compute_loss(targets, said, [anchors], [matched])[
                "classification"
            ]

        return {
            THEIR_MATCHING: (THEIR_MATCHING, lambda: matcher(box_iou(boxes, anchors))),
            THEIR_LOSS: (THEIR_LOSS, loss),
        }

    def memory(self) -> dict[str, Any]:
        """The peak that one call adds to what is held already, and what kind of memory that is."""
        kind = "device" if self.engine.device.type == "cuda" else "resident"
        peaks: dict[str, int | None] = {}
        for name, call in {
            REFERENCE: self._torchvision,
            "ours fp32": lambda: self._ours("fp32"),
        }.items():
            with _peak_memory(self.engine.device) as peak:
                call()
            peaks[name] = peak[0] if peak else None
        return {"kind": kind, "peak_of_a_call": peaks, "peak_of_this_process": _process_peak()}

    @torch.no_grad()
    def _torchvision(self, exact: bool = False) -> Detections:
        """Boxes, scores, labels; `exact` keeps cuDNN from rounding to TF32, as our fp32 does."""
        cudnn = torch.backends.cudnn
        with cudnn.flags(enabled=cudnn.enabled, allow_tf32=cudnn.allow_tf32 and not exact):
            found = self.theirs([self.tensor])[0]
        return found["boxes"], found["scores"], found["labels"]

    def _ours(self, precision: str) -> Detections:
        trace = self.engine.detect(self.image, replace(self.spec, precision=precision))
        return trace.boxes, trace.scores, trace.labels

    def _time(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """Milliseconds and the result; the device has finished at both ends."""
        self._wait()
        started = time.perf_counter()
        result = call()
        self._wait()
        return 1000 * (time.perf_counter() - started), result

    def _wait(self) -> None:
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        elif self.engine.device.type == "mps":
            torch.mps.synchronize()

    def _interleaved(
        self, calls: dict[str, Callable[[], Any]]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Median milliseconds of each call, and its result; the first round only warms up."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        results = {name: call() for name, call in calls.items()}
        for _ in range(self.repeats):
            for name, call in calls.items():
                times[name].append(self._time(call)[0])
        return {name: statistics.median(values) for name, values in times.items()}, results


def _picture(size: Size) -> Image:
    """Coloured noise at two scales, min_size high and max_size wide: nothing will be resized."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.min_size, size.max_size)
    coarse = torch.rand(1, 3, 12, 20, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, shape, mode="bilinear")[0]
    pixels = (0.7 * smooth + 0.3 * torch.rand(3, *shape, generator=generator)) * 255
    array = pixels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Image(PIL.Image.fromarray(array), id=f"benchmark {shape}", name="benchmark")


def _objects(size: Size, num_classes: int) -> tuple[Tensor, Tensor]:
    """Ground truth for the picture: 8 boxes of many sizes and shapes, xyxy, and their labels."""
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor([size.max_size, size.min_size], dtype=torch.float32)
    sides = extent * (0.05 + 0.6 * torch.rand(8, 2, generator=generator) ** 2)
    corners = (extent - sides) * torch.rand(8, 2, generator=generator)
    labels = torch.randint(num_classes, (8,), generator=generator)
    return torch.cat([corners, corners + sides], dim=1), labels


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Gives a list that in the end holds the peak within the block, above what was held before.

    Bytes of CUDA memory, or of resident memory on Linux; the list stays empty elsewhere.
    """
    peak: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.append(torch.cuda.max_memory_allocated(device) - before)
        return
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        reset.write_text("5")  # the peak starts anew from what is resident now
    except OSError:
        yield peak
        return
    before = _resident_peak(status)
    yield peak
    peak.append(_resident_peak(status) - before)


def _resident_peak(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _process_peak() -> int | None:
    """The most resident memory of this process so far, in bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
