"""What the pyramid's top-down path adds to P3..P5: the maps with and without it."""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from retinanet.cells import inside
from retinanet.feature_maps import Map, rms
from retinanet.types import LEVELS, STAGES, Outputs

if TYPE_CHECKING:
    from retinanet.model import RetinaNet


@dataclass(frozen=True, eq=False)
class _TopDown:
    """What the laterals alone give. `fpn` is a weak reference to the pyramid that was asked."""

    fpn: weakref.ref
    strength: dict[str, Map]
    share: dict[str, float]

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self.strength.values())

    @classmethod
    def of(cls, model: RetinaNet, outputs: Outputs) -> _TopDown:
        share = {}
        alone = lateral_only(model, outputs)
        for name, lateral in alone.items():
            mask = torch.from_numpy(inside(outputs, name)).to(lateral.device)
            merged = outputs.features[name].detach().to(lateral.device)[:, mask]
            whole = float(merged.square().mean().sqrt())
            added = float((merged - lateral[:, mask]).square().mean().sqrt())
            share[name] = added / whole if whole else 0.0
        strengths = {name: rms(lateral) for name, lateral in alone.items()}
        return cls(weakref.ref(model.backbone.fpn), strengths, share)


def run_exactly(block: nn.Module, features: Tensor, double: bool) -> Tensor:
    """A block's answer, with `double` from a copy in float64, else as it is.

    cuDNN would round float32 to TF32, and the switch against that is the whole process's, in which
    a forward may be running.
    """
    if double:
        return copy.deepcopy(block).double()(features.double()).float()
    return block(features)


@torch.no_grad()
def lateral_only(model: RetinaNet, outputs: Outputs) -> dict[str, Tensor]:
    """P3..P5 as they would be without the top-down path: the lateral connections alone.

    The paper's feature pyramid (arXiv 1612.03144, section 3) adds the upsampled coarser map to the
    1x1 lateral before the 3x3 output convolution; here that sum is left out. P5 has nothing above
    it, so it is what it was. Computed by the live model at each call, to float32.

    Args:
        model: the one that made the outputs.
        outputs: of the picture.

    Returns:
        {"P3", "P4", "P5"} -> [C, H, W] on the model's device.

    Raises:
        ValueError: the outputs are another architecture's.
    """
    fpn = model.backbone.fpn
    alone = {}
    for name, stage, inner, layer in zip(
        LEVELS, STAGES, fpn.inner_blocks, fpn.layer_blocks, strict=False
    ):
        features = outputs.features[stage].detach().to(model.device)
        wanted = inner[0].in_channels
        if len(features) != wanted:
            raise ValueError(
                f"The outputs have {len(features)} channels on {stage} where this model has "
                f"{wanted}; give the model that made them."
            )
        alone[name] = run_exactly(
            layer, run_exactly(inner, features[None], features.is_cuda), features.is_cuda
        )[0]
    return alone


def _top_down(model: RetinaNet, outputs: Outputs) -> _TopDown:
    fpn = model.backbone.fpn
    kept = outputs.derived(f"top_down_{id(fpn)}", lambda own: _TopDown.of(model, own))
    # A pyramid that has gone may have left its id to another.
    return kept if kept.fpn() is fpn else _TopDown.of(model, outputs)


def lateral_strength(model: RetinaNet, outputs: Outputs) -> dict[str, Map]:
    """`strength` of `lateral_only`'s maps, worked out once: {"P3", "P4", "P5"} -> [H, W]."""
    return dict(_top_down(model, outputs).strength)


def top_down_share(model: RetinaNet, outputs: Outputs) -> dict[str, float]:
    """How much of P3..P5 comes down from coarser levels: RMS(merged - lateral) / RMS(merged).

    Over the cells inside the picture and all channels. 0 on P5, where nothing comes down; above 1
    where what comes down and the lateral cancel in part. Errors as `lateral_only`.
    """
    return dict(_top_down(model, outputs).share)
