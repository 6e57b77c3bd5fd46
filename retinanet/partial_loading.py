"""Start from a detector of another shape: take the layers that fit, leave the others fresh.

For transfer to other classes (the logits layer stays fresh, as in torchvision's fine-tuning
tutorial), to more or fewer subnet convolutions, or to another depth of the ResNet. Convolutions
beyond the detector's own begin as the identity: see `deepening`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from retinanet.checkpoints import Checkpoint
from retinanet.deepening import SUBNETS, set_identity
from retinanet.keymaps import CheckpointError
from retinanet.model import RetinaNet
from retinanet.parameter_groups import PARAMETER_STAGES, stage_of

CLS_LAYER = "classification_head.cls_logits"
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class PartialLoad:
    """What was taken from a detector.

    Args:
        source: its name.
        taken, fresh: the layers, from the picture upwards: "stem", "layer1", ..., then each block
            of the pyramid and of the subnets ("fpn.inner_blocks.0", "regression_head.conv.1").
        identity: convolutions of the subnets behind the detector's last, which hand on what they
            get; neither taken nor fresh.
    """

    source: str
    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    identity: tuple[str, ...] = ()

    @property
    def fresh_logits(self) -> bool:
        """Whether the classification layer knows nothing yet, so that the prior applies to it."""
        return CLS_LAYER in self.fresh

    @property
    def sentence(self) -> str:
        """One line on what was taken and what stays fresh."""
        taken, fresh = (_summary(part, self) for part in (self.taken, self.fresh))
        identity = f"; as the identity: {', '.join(self.identity)}" if self.identity else ""
        return f"{self.source}: took {taken}{identity}; fresh: {fresh}."


def load_what_fits(model: RetinaNet, checkpoint: Checkpoint) -> PartialLoad:
    """Copy the layers that fit into a model, in place.

    A layer is taken whole or not at all: each ResNet stage with all its blocks (so none of another
    depth's stage that has more), each convolution of the pyramid and of the subnets with its norm.
    The logits layer is taken only from a detector of the same classes, by their ids, or of as many
    classes where it does not say which. A subnet that is to have more convolutions than the
    detector's gets identities for them; with "v2", `deepening.fit_group_norms` has still to be
    called with pictures.

    Args:
        model: with the data set's classes; what is not taken stays as it is.
        checkpoint: of `open_checkpoint`.

    Raises:
        CheckpointError: the checkpoint is "random", or nothing of it fits.
    """
    if checkpoint.state_dict is None:
        raise CheckpointError("There is nothing to take from random weights; name a detector.")
    given, wanted = _by_layer(checkpoint.state_dict), _by_layer(model.state_dict())
    fits = {
        layer: layer in given
        and _shapes(given[layer]) == _shapes(own)
        and (layer != CLS_LAYER or _same_classes(model, checkpoint))
        for layer, own in wanted.items()
    }
    taken = tuple(layer for layer, fit in fits.items() if fit)
    if not taken:
        raise CheckpointError(f"Nothing in {checkpoint.name} fits this model; start from others.")
    tensors: dict[str, Tensor] = {}
    for layer in taken:
        tensors |= {name: given[layer][name] for name in wanted[layer] if name in given[layer]}
    model.load_state_dict(tensors, strict=False)  # compared above, layer by layer
    identity = _added(taken, given, wanted)
    for layer in identity:
        set_identity(model.get_submodule(f"head.{layer}"))
    fresh = tuple(layer for layer, fit in fits.items() if not fit and layer not in identity)
    return PartialLoad(checkpoint.name, taken, fresh, identity)


def _added(
    taken: tuple[str, ...], given: Mapping[str, object], wanted: Mapping[str, object]
) -> tuple[str, ...]:
    """The convolutions behind the last one of a subnet that was taken as far as it goes."""
    return tuple(
        layer
        for subnet in SUBNETS
        for layer in wanted
        if f"{subnet}.conv.0" in taken
        and layer.startswith(f"{subnet}.conv.")
        and layer not in given
    )


def _by_layer(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{layer: {name: tensor}} in the order of the stages."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name in sorted(state, key=lambda name: PARAMETER_STAGES.index(stage_of(name))):
        layers.setdefault(_layer_of(name), {})[name] = state[name]
    return layers


def _layer_of(name: str) -> str:
    stage = stage_of(name)
    if name.startswith("backbone.body."):
        return stage
    parts = name.split(".")
    inner = parts[parts.index(stage) + 1 :]
    return ".".join([stage, *inner[: 2 if inner[1].isdigit() or inner[0] == "extra_blocks" else 1]])


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Without the counters, which a frozen norm has not and a trained one begins anew."""
    return {k: tuple(v.shape) for k, v in tensors.items() if not k.endswith(_COUNTER)}


def _same_classes(model: RetinaNet, checkpoint: Checkpoint) -> bool:
    return not checkpoint.category_ids or checkpoint.category_ids == model.category_ids


def _summary(layers: tuple[str, ...], load: PartialLoad) -> str:
    """The layers with those that make up a whole stage named by it."""
    every = (*load.taken, *load.fresh)
    words: list[str] = []
    for stage in PARAMETER_STAGES:
        whole = [layer for layer in every if layer.split(".")[0] == stage]
        own = [layer for layer in whole if layer in layers]
        words += [stage] if own and len(own) == len(whole) else own
    return ", ".join(words) or "nothing"
