"""What is to be trained, as the Training page's controls say it; all of it in the link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import streamlit as st

from pages._shared import data_choice, runs, state, view
from pages._shared.data_panel import DataSets
from pages._shared.lens import TRAINING
from pages._shared.parsing import number, one_of, whole
from retinanet.checkpoints import stated_config
from retinanet.config import (
    DEPTHS,
    FROZEN_STAGES_RANGE,
    NUM_CONVS_RANGE,
    VARIANTS,
    ConfigError,
    ModelConfig,
)
from retinanet.runs import RunRequest
from retinanet.training import TrainConfig

STARTS: dict[str, tuple[str, str]] = {
    "embedded": ("init-from", "the embedded model, as far as it fits"),
    "coco-v1": ("init-from", "torchvision's COCO v1, as far as it fits (downloaded)"),
    "coco-v2": ("init-from", "torchvision's COCO v2, as far as it fits (downloaded)"),
    "imagenet": ("backbone", "an ImageNet ResNet (downloaded)"),
    "random": ("fresh", "random numbers"),
}
"""{name: (how it is used, words)}."""

OPTIMIZERS = ("adamw", "sgd")
MORE = ("body_lr", "repeat_thresh", "precision", "freeze_norms")
"""What most plans leave as it is."""
PREFIX = "train_"
"""Of the plan's names in the link: the sidebar has a depth of its own."""


@dataclass(frozen=True)
class Plan:
    """A run of the training loop; the IoU bounds, alpha and gamma are the session's (`view.View`).

    Args:
        name: what people call it; "" for one made of the plan.
        start: of `STARTS`.
        depth, variant, num_convs, frozen_stages: of `ModelConfig`.
        size: min_size, px; max_size follows in the proportion of 800 to 1333.
        steps, batch_size, optimizer, lr, body_lr, repeat_thresh, precision, freeze_norms, seed,
            prior, ema_decay: of `TrainConfig`.
        checks: how often AP is measured on the way.
    """

    name: str = ""
    start: str = "embedded"
    depth: int = 50
    variant: str = "v2"
    num_convs: int = 4
    frozen_stages: int = 2
    size: int = 160
    steps: int = 120
    batch_size: int = 4
    optimizer: str = "adamw"
    lr: float = 5e-4
    body_lr: float = 1.0
    repeat_thresh: float = 0.0
    precision: str = "fp32"
    freeze_norms: bool = False
    prior: float = 0.01
    ema_decay: float = 0.0
    checks: int = 4
    seed: int = 0


_PARSERS: dict[str, Callable[[str], Any]] = {
    "name": lambda text: text[:80],
    "start": one_of(tuple(STARTS)),
    "depth": lambda text: int(one_of(tuple(map(str, DEPTHS)))(text)),
    "variant": one_of(VARIANTS),
    "num_convs": whole(*NUM_CONVS_RANGE),
    "frozen_stages": whole(*FROZEN_STAGES_RANGE),
    "size": whole(64, 1024),
    "steps": whole(1, 100_000),
    "batch_size": whole(1, 256),
    "optimizer": one_of(OPTIMIZERS),
    "lr": number(1e-6, 10),
    "body_lr": number(0, 1),
    "repeat_thresh": number(0, 1),
    "precision": one_of(state.PRECISIONS),
    "freeze_norms": lambda text: one_of(("True", "False"))(text) == "True",
    "prior": number(1e-4, 0.9),
    "ema_decay": number(0, 0.9999),
    "checks": whole(1, 50),
    "seed": whole(0, 10**6),
}
QUERY_NAMES = tuple(f"{PREFIX}{name}" for name in _PARSERS)


def current() -> Plan:
    """The session's plan; a new session takes it from the link."""
    if "plan" not in st.session_state:
        parsers = {f"{PREFIX}{name}": parse for name, parse in _PARSERS.items()}
        found = state.parsed(st.query_params.to_dict(), parsers)
        st.session_state["plan"] = Plan(
            **{name.removeprefix(PREFIX): value for name, value in found.items()}
        )
    return st.session_state["plan"]


def keep(plan: Plan) -> None:
    """Make this the session's plan."""
    st.session_state["plan"] = plan


def to_query() -> dict[str, str]:
    """The query parameters of the plan; what stands at its start is left out."""
    plan, start = current(), Plan()
    return {
        f"{PREFIX}{field.name}": str(getattr(plan, field.name))
        for field in fields(plan)
        if getattr(plan, field.name) != getattr(start, field.name)
    }


def write_link() -> None:
    """Make the address say which data, which plan and which run the page shows."""
    training = view.to_query(view.current())
    wanted = data_choice.to_query() | to_query()
    wanted |= {name: training[name] for name in TRAINING if name in training}
    if runs.opened():
        wanted["run"] = runs.opened()
    state.write_query((*data_choice.QUERY_NAMES, *QUERY_NAMES, *TRAINING, "run"), wanted)


def model_config(plan: Plan, num_classes: int) -> ModelConfig:
    """The model that the plan builds.

    Raises:
        ConfigError: it cannot be built; the message is a sentence.
    """
    known = stated_config(plan.start)
    names = ("stride_in_1x1", "norm_eps")  # facts about weights that their shapes do not say
    facts = {} if known is None else {name: getattr(known, name) for name in names}
    return ModelConfig(
        depth=plan.depth,
        num_classes=num_classes,
        num_convs=plan.num_convs,
        variant=plan.variant,
        min_size=plan.size,
        max_size=round(plan.size * 1333 / 800),
        frozen_stages=plan.frozen_stages,
        **facts,
    )


def train_config(plan: Plan) -> TrainConfig:
    """How the plan trains; the bounds, alpha and gamma are the session's.

    Raises:
        ConfigError: it cannot work; the message is a sentence.
    """
    now = view.current()
    return TrainConfig(
        steps=plan.steps,
        batch_size=plan.batch_size,
        optimizer=plan.optimizer,
        lr=plan.lr,
        body_lr=plan.body_lr,
        repeat_thresh=plan.repeat_thresh,
        precision=plan.precision,
        freeze_norms=plan.freeze_norms,
        warmup_steps=min(20, plan.steps // 5),
        prior=plan.prior,
        ema_decay=plan.ema_decay,
        checkpoint_every=max(1, -(-plan.steps // plan.checks)),
        seed=plan.seed,
        matcher=now.matcher,
        loss=now.loss,
    )


def request(plan: Plan, data: DataSets) -> RunRequest:
    """The run that the plan asks for on a data set.

    Raises:
        ConfigError: it cannot work; the message is a sentence.
    """
    if plan.batch_size > len(data.train.photos):
        raise ConfigError(
            f"A batch of {plan.batch_size} needs as many photos; this set has "
            f"{len(data.train.photos)} to train on."
        )
    kind, _ = STARTS[plan.start]
    return RunRequest(
        name=plan.name or default_name(plan, data),
        annotations=data.train.annotation_file,
        images=data.train_images,
        val=data.val.annotation_file,
        val_images=data.val_images,
        model=model_config(plan, len(data.train.categories)),
        train=train_config(plan),
        start="random" if kind == "fresh" else plan.start,
        start_kind=kind,
    )


def default_name(plan: Plan, data: DataSets) -> str:
    """A name that tells runs apart."""
    kind = "shapes" if data.key.startswith("shapes") else data.title
    return f"{kind} R{plan.depth}, {plan.frozen_stages} frozen"[:80]


def added_convs(plan: Plan) -> int:
    """How many convolutions a subnet gets behind the start's, which then begin as the identity."""
    known = stated_config(plan.start)
    if known is None or known.variant != plan.variant:  # none of the start's fits: all are fresh
        return 0
    return max(0, plan.num_convs - known.num_convs)


def differs(plan: Plan) -> bool:
    """Whether one of the settings of `MORE` is not at its start."""
    start = Plan()
    return any(getattr(plan, name) != getattr(start, name) for name in MORE)


def with_start(plan: Plan, start: str) -> Plan:
    """The plan from another start, in the shape in which most of it fits."""
    config = stated_config(start)
    if config is None:
        return replace(plan, start=start)
    return replace(
        plan,
        start=start,
        depth=config.depth,
        variant=config.variant,
        num_convs=config.num_convs,
    )
