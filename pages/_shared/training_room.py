"""The Training page's controls: a plan, what it costs, and the buttons that begin it."""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from dataclasses import replace

import streamlit as st

from pages._shared import data_panel, plan, runs, state, tasks, view
from pages._shared.data_panel import DataSets
from pages._shared.plan import Plan
from pages._shared.reading import figure_panel, table
from retinanet.config import (
    DEPTHS,
    FROZEN_STAGES_RANGE,
    NUM_CONVS_RANGE,
    VARIANTS,
    ConfigError,
    LossConfig,
    MatcherConfig,
)
from retinanet.devices import pick_device
from retinanet.figures.training import parameter_figure, parameter_rows
from retinanet.parameter_groups import parameters_of
from retinanet.runs import EXPERIMENTS, RunError, RunRequest
from retinanet.training_cost import Cost, probe
from retinanet.training_start import start_model

TRAINING_ONLY = state.BADGES["training only"]
FROZEN_HELP = (
    "-1 trains everything, 0 freezes the stem, n freezes the stem and layer1 to layer n. Frozen "
    "stages have no gradient and their batch norms stand still, so a step is cheaper."
)


def controls(data: DataSets) -> RunRequest | None:
    """The plan's controls; None where it cannot work, with the reason on the page."""
    now = plan.current()
    model, training, matching = st.columns(3, gap="large", wrap=True)
    with model:
        now = _model(now)
    with training:
        now = _training(now)
    with matching:
        now = _matching(now)
    plan.keep(now)
    try:
        return plan.request(now, data)
    except ConfigError as fault:
        st.error(state.plain(str(fault)))
        return None


def checked(data: DataSets) -> None:
    """What opening and checking the data set found; open where training would stop at it."""
    stops = [
        kind
        for report in data.reports.values()
        for kind in ("unreadable", "size_differs")
        if report.counts[kind]
    ]
    with st.expander("What checking the data set found", expanded=bool(stops), key="data_checked"):
        for part, words in (("train", "To train on"), ("val", "To measure on")):
            sentences = " ".join(map(state.plain, data.reports[part].sentences()))
            st.markdown(f"**{words}.** {sentences}")
        for note in data.notes:
            st.caption(state.plain(note))


def _model(now: Plan) -> Plan:
    st.markdown(f"**Model** {TRAINING_ONLY}")
    start = st.selectbox(
        "start from",
        list(plan.STARTS),
        index=list(plan.STARTS).index(now.start),
        format_func=lambda name: plan.STARTS[name][1],
        key="plan_start",
        help="What fits is taken over, convolutions beyond the start's begin as the identity, the "
        "rest with random numbers; the run's log says which is which.",
    )
    if start != now.start:
        now = plan.with_start(now, start)
        for name in ("depth", "variant", "num_convs"):  # drawn below with what suits it
            st.session_state[f"plan_{name}"] = getattr(now, name)
    left, right = st.columns(2, gap="small")
    depth = left.selectbox("depth", DEPTHS, DEPTHS.index(now.depth), key="plan_depth")
    variant = right.selectbox("variant", VARIANTS, VARIANTS.index(now.variant), key="plan_variant")
    num_convs = left.number_input(
        "num_convs", *NUM_CONVS_RANGE, now.num_convs, key="plan_num_convs"
    )
    added = plan.added_convs(replace(now, variant=variant, num_convs=num_convs))
    if added:
        left.caption(f"{added} more than the start has: added convolutions begin as the identity.")
    size = right.number_input(
        "min_size, px",
        64,
        1024,
        now.size,
        32,
        key="plan_size",
        help="The shorter side; the cost grows with its square.",
    )
    frozen = st.slider(
        "frozen_stages",
        *FROZEN_STAGES_RANGE,
        now.frozen_stages,
        key="plan_frozen",
        help=FROZEN_HELP,
    )
    return replace(
        now,
        start=start,
        depth=depth,
        variant=variant,
        num_convs=num_convs,
        size=size,
        frozen_stages=frozen,
    )


def _training(now: Plan) -> Plan:
    st.markdown(f"**Training** {TRAINING_ONLY}")
    left, right = st.columns(2, gap="small")
    steps = left.number_input("steps", 1, 100_000, now.steps, 20, key="plan_steps")
    batch_size = right.number_input("batch_size", 1, 256, now.batch_size, key="plan_batch_size")
    optimizer = left.selectbox(
        "optimizer",
        plan.OPTIMIZERS,
        plan.OPTIMIZERS.index(now.optimizer),
        key="plan_optimizer",
        help="The paper has sgd with lr 0.01 for 16 images a step; adamw suits short schedules.",
    )
    lr = right.number_input(
        "lr", 1e-6, 10.0, now.lr, format="%.2g", key="plan_lr", help="At its peak."
    )
    ema = left.number_input(
        "ema_decay",
        0.0,
        0.9999,
        now.ema_decay,
        0.01,
        format="%.4f",
        key="plan_ema",
        help="Of the average of the weights that is measured and kept; 0 for none.",
    )
    checks = right.number_input(
        "AP measured, times",
        1,
        50,
        now.checks,
        key="plan_checks",
        help="At each, a checkpoint is written and pictures of predictions are made.",
    )
    seed = left.number_input("seed", 0, 10**6, now.seed, key="plan_seed")
    name = right.text_input("name", now.name, 80, key="plan_name", placeholder="of the plan")
    return replace(
        _more(now),
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=float(lr),
        ema_decay=float(ema),
        checks=checks,
        seed=seed,
        name=name.strip(),
    )


def _more(now: Plan) -> Plan:
    """What most plans leave as it is; open where a link has set some of it."""
    is_open = st.session_state.setdefault("plan_more_open", plan.differs(now))
    with st.expander("More", expanded=is_open, key="plan_more"):
        left, right = st.columns(2, gap="small")
    body_lr = left.number_input(
        "body_lr",
        0.0,
        1.0,
        now.body_lr,
        0.1,
        format="%.4g",
        key="plan_body_lr",
        disabled=now.frozen_stages == 4,
        help="The ResNet's learning rate as a part of lr, in the stages that train. A trained "
        "ResNet under fresh layers wants smaller steps: DETR takes a tenth.",
    )
    repeat_thresh = right.number_input(
        "repeat_thresh",
        0.0,
        1.0,
        now.repeat_thresh,
        0.05,
        format="%.4g",
        key="plan_repeat_thresh",
        help="A photo with a class that only a share f of the photos show, less than this, comes "
        "sqrt(repeat_thresh / f) times an epoch; its rarest class decides. 0 for no repeats. LVIS, "
        "appendix B.2, takes 0.001 for its many classes; a few classes want more.",
    )
    precision = left.selectbox(
        "precision",
        state.PRECISIONS,
        state.PRECISIONS.index(now.precision),
        key="plan_precision",
        help="bf16 computes the network in 16 bits, and the losses and the weights' steps in 32: "
        "faster and with less memory on a GPU, often slower on a CPU.",
    )
    freeze_norms = right.checkbox(
        "freeze_norms",
        now.freeze_norms,
        key="plan_freeze_norms",
        disabled=now.variant == "v1" or now.frozen_stages == 4,
        help="The ResNet's batch norms stay as they are, also in stages that train: a small batch "
        "says little about a mean and a deviation. Only for a ResNet that has been trained. Of v1 "
        "they always stay.",
    )
    return replace(
        now,
        body_lr=float(body_lr),
        repeat_thresh=float(repeat_thresh),
        precision=precision,
        freeze_norms=freeze_norms,
    )


def _matching(now: Plan) -> Plan:
    st.markdown(f"**Anchors and loss** {TRAINING_ONLY}")
    session = view.current()
    matcher, loss = session.matcher, session.loss
    low, high = st.slider(
        "bg_iou_thresh and fg_iou_thresh",
        0.0,
        1.0,
        (matcher.bg_iou_thresh, matcher.fg_iou_thresh),
        0.05,
        key="plan_bounds",
        help="Below the first an anchor is background, from the second on foreground, between the "
        "two it is ignored. They are the Anchors page's.",
    )
    left, right = st.columns(2, gap="small")
    alpha = left.number_input("alpha", 0.0, 1.0, loss.alpha, 0.05, key="plan_alpha")
    gamma = right.number_input("gamma", 0.0, 5.0, float(loss.gamma), 0.5, key="plan_gamma")
    prior = left.number_input(
        "prior pi",
        1e-4,
        0.9,
        now.prior,
        format="%.4g",
        key="plan_prior",
        help="What a fresh head says of every anchor at first: the bias of its last layer is "
        "-log((1 - pi) / pi). Paper, section 3.3.",
    )
    forced = right.checkbox(
        "low-quality matches",
        matcher.allow_low_quality_matches,
        key="plan_forced",
        help="allow_low_quality_matches: each object also keeps the anchors that fit it best.",
    )
    changed = (MatcherConfig(high, low, forced), LossConfig(float(alpha), float(gamma)))
    if changed != (matcher, loss):
        view.change(matcher=changed[0], loss=changed[1])
    return replace(now, prior=float(prior))


# ------------------------------------------------------------------ what it costs


def cost(request: RunRequest, data: DataSets) -> None:
    """The parameters that train, at once; memory and seconds a step, measured on two steps."""
    rows = parameter_rows(parameters_of(request.model, request.train.freeze_norms))
    key = _cost_key(request, data)
    told = sum(row["trainable"] for row in rows), sum(row["total"] for row in rows)
    share = f"{told[0]:,} of {told[1]:,} parameters train ({100 * told[0] / told[1]:.0f}%)."
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{share}**")
        if tasks.get_tasks().get(key) is None:
            st.button(
                "Measure what a step costs",
                key="measure_cost",
                on_click=_measure,
                args=(key, request, data),
                help="Two steps are done on a copy of the model; nothing is kept of them.",
            )
            if any(run.state == "running" for run in runs.visible()) or runs.others_waiting():
                st.caption("A run is at work on this device: what is measured now is slower.")
    task = tasks.show(key)
    if task is not None and task.state == "ready":
        measured: Cost = task.result
        st.markdown(" ".join(state.plain(one) for one in measured.sentences()[1:]))
    with st.expander("Parameters by stage"):
        figure_panel(
            "parameters",
            parameter_figure(rows),
            rows,
            share,
            "A frozen stage keeps its weights: no gradient is worked out for it, none is kept, and "
            "the backward pass ends where the last trainable stage begins.",
        )
        table("parameters_table", rows)


def _cost_key(request: RunRequest, data: DataSets) -> Hashable:
    train = request.train
    settings = (train.batch_size, train.optimizer, train.ema_decay, train.steps)
    # Learning rates and the choice of photos are left out: a step takes as long with any.
    return ("cost", data.key, request.model, *settings, train.precision, train.freeze_norms)


def _measure(key: Hashable, request: RunRequest, data: DataSets) -> None:
    def work(task: tasks.Task) -> Cost:
        # Which numbers the weights are costs nothing; their shapes do.
        model, _ = start_model(request.model, data.train)
        device = pick_device(request.device)
        return probe(model.to(device), data.train, request.train, cancel=task.cancel)

    tasks.get_tasks().start(key, "Measuring two steps", work)


# ------------------------------------------------------------------ beginning


def begin(request: RunRequest) -> None:
    """The buttons that put a run, or an experiment's runs, into the queue."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Start training", type="primary", key="start_run", on_click=_begin_run, args=(request,)
        )
        for key, experiment in EXPERIMENTS.items():
            st.button(
                f"{experiment.title} experiment",
                key=f"start_{key}",
                help=experiment.sentence,
                on_click=_begin_experiment,
                args=(key, request),
            )
        for experiment in EXPERIMENTS.values():
            if note := experiment.note(request):
                st.caption(f"{experiment.title}: {note}")
    with st.expander("The same from the command line"):
        st.code(runs.command(request), language="bash", wrap_lines=True)


def _begin_run(request: RunRequest) -> None:
    data_panel.settle("shapes")
    try:
        runs.submit(request)
    except RunError as fault:
        state.say(str(fault))


def _begin_experiment(key: str, request: RunRequest) -> None:
    data_panel.settle("shapes")
    # Its own name: another experiment of the same kind is another table.
    request = replace(request, experiment=f"{key}:{secrets.token_hex(3)}")
    ids: list[str] = []
    try:
        for one in EXPERIMENTS[key].make(request):
            ids.append(runs.submit(one))
    except RunError as fault:
        state.say(f"{len(ids)} of the experiment's runs were begun. {fault}")
    if ids:
        runs.open_run(ids[0])
