"""The Training page's lower half: the queue, the open run, live, and experiments compared."""

from __future__ import annotations

import streamlit as st

from pages._shared import runs, state, tasks
from pages._shared.reading import figure_panel, table
from pages._shared.setup import go_to
from pages._shared.takehome import file_stem
from retinanet.figures import experiments as compared
from retinanet.figures import training as drawn
from retinanet.runs import EXPERIMENTS, RunError, RunState, compare, diverged_in, verdict

POLL_SECONDS = 1.0
LISTED = 12
"""Runs that have come to their end and are listed before the older ones are folded away."""

AT_WORK = ("queued", "running", "pausing", "cancelling")
MARKS: dict[str, str] = {
    "queued": ":gray-badge[waits]",
    "running": ":blue-badge[at work]",
    "pausing": ":orange-badge[pausing]",
    "paused": ":orange-badge[paused]",
    "cancelling": ":red-badge[stopping]",
    "cancelled": ":gray-badge[cancelled]",
    "done": ":green-badge[done]",
    "failed": ":red-badge[failed]",
}


def show() -> None:
    """All that is known of the runs that this session may see."""
    st.session_state.pop("runs_acted", None)  # the whole page is being drawn
    if any(run.state in AT_WORK for run in runs.visible()):
        _live()
    else:
        _still()


@st.fragment(run_every=POLL_SECONDS)
def _live() -> None:
    """While something is at work this is drawn anew each second; a full run follows its end."""
    before = st.session_state.setdefault("run_states", {})
    now = {run.id: run.state for run in runs.visible()}
    ended = any(now.get(one) not in AT_WORK for one, was in before.items() if was in AT_WORK)
    st.session_state["run_states"] = now
    _still()
    # A model that has just been trained is now among the weights; what a button here did is in
    # the link, the notices and the sidebar, which only a full run draws.
    if st.session_state.pop("runs_acted", False) or ended:
        st.rerun()


def _still() -> None:
    seen = runs.visible()
    if runs.opened() and all(run.id != runs.opened() for run in seen):
        st.warning("The link's run is not on this server; it was removed, or the link is wrong.")
    if not seen:
        st.caption(
            "No run yet. A run goes on when you leave this page or close the browser; its link "
            "brings you back to it."
        )
        return
    st.markdown("#### Runs")
    _list(seen)
    chosen = next((run for run in seen if run.id == runs.opened()), None)
    if chosen is None:
        return
    _run(chosen)
    _experiment(chosen, seen)


def _list(seen: list[RunState]) -> None:
    others = runs.others_waiting()
    if others:
        st.caption(f"{others:,} of other people's runs are at work or wait on this device.")
    # Whoever looks at an old run, or has many, still finds those that need attention.
    first = [run for run in seen if run.state in AT_WORK or run.id == runs.opened()]
    ended = [run for run in seen if run not in first]
    shown = first + ended[:LISTED]
    for run in seen:
        if run in shown:
            _row(run)
    older = ended[LISTED:]
    if older:
        with st.expander(f"{len(older):,} older", key="older_runs"):
            for run in older:
                _row(run)


def _row(run: RunState) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key=f"run_{run.id}"):
        st.markdown(MARKS[run.state])
        is_open = run.id == runs.opened()
        st.button(
            state.plain(run.request.name),
            key=f"open_{run.id}",
            type="primary" if is_open else "tertiary",
            on_click=_open,
            args=("" if is_open else run.id,),
        )
        st.caption(state.plain(_where(run)))
        _buttons(run)


def _open(run_id: str) -> None:
    st.session_state["runs_acted"] = True
    runs.open_run(run_id)


def _where(run: RunState) -> str:
    record = run.record
    if run.state in ("running", "pausing") and record.steps:
        eta = record.eta_seconds
        left = "" if eta is None else f", {tasks.duration(eta)} left"
        return f"step {record.step:,} of {record.steps:,}{left}"
    return run.sentence or (f"{record.step:,} steps" if record.step else "")


_ACTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "queued": (("cancel", "Cancel"),),
    "running": (("pause", "Pause"), ("cancel", "Cancel")),
    "pausing": (("cancel", "Cancel"),),
    "paused": (("resume", "Resume"), ("cancel", "Cancel"), ("remove", "Remove")),
    "cancelled": (("remove", "Remove"),),
    "failed": (("resume", "Resume"), ("remove", "Remove")),
    "done": (("remove", "Remove"),),
}


def _buttons(run: RunState) -> None:
    for action, words in _ACTIONS.get(run.state, ()):
        place, label = st, words
        if action == "remove" and run.out is not None:
            place, label = st.popover(words), "Remove the run and the model it trained"
        place.button(label, key=f"{action}_{run.id}", on_click=_do, args=(action, run.id))


def _do(action: str, run_id: str) -> None:
    st.session_state["runs_acted"] = True
    try:
        getattr(runs.get_queue(), action)(run_id)
        if action == "remove" and runs.opened() == run_id:
            runs.open_run("")
    except RunError as fault:
        state.say(str(fault))


# ------------------------------------------------------------------ one run


def _run(run: RunState) -> None:
    record = run.record
    st.markdown(f"#### {state.plain(run.request.name)}")
    if record.steps:
        st.progress(min(1.0, record.step / record.steps), state.plain(_where(run)))
    if run.state == "failed":
        st.error(state.plain(run.sentence))
    if run.out is not None:
        _finished(run)
    if not record.curve:
        st.caption(state.plain(record.sentence or "Nothing has been measured yet."))
        return
    tab_names = ("Losses", "AP and pictures", "Gradients", "Step time", "Numbers", "Command")
    contents = (_losses, _progress_in_ap, _gradients, _step_time, _numbers, _command)
    tabs = st.tabs(list(tab_names), key="run_tab", on_change="rerun")
    for tab, content in zip(tabs, contents, strict=True):
        if tab.open:
            with tab:
                content(run)


def _finished(run: RunState) -> None:
    option = runs.option_of(run.id, run.request.name)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Use it on every page", key="use_trained", type="primary", on_click=_use, args=(option,)
        )
        st.download_button(
            "Checkpoint with its card (safetensors)",
            lambda: run.out.read_bytes(),
            f"{file_stem(run.request.name)}.safetensors",
            "application/octet-stream",
            key="save_trained",
            on_click="ignore",
        )
        if st.button("Evaluate it", key="evaluate_trained", on_click=_use, args=(option,)):
            go_to("pages/evaluate.py")
        if st.session_state.get("weights") == option:
            st.caption("It is the model of all pages now.")


def _use(option: str) -> None:
    st.session_state["runs_acted"] = True
    st.session_state["weights"] = option
    # Empty sizes mean: as trained.
    for name in ("min_size", "max_size"):
        st.session_state.pop(name, None)


def _losses(run: RunState) -> None:
    curve = run.record.curve
    last = curve[-1]
    figure_panel(
        "losses",
        drawn.loss_figure(
            curve, diverged_in=diverged_in(run.sentence) if run.state == "failed" else None
        ),
        drawn.loss_rows(curve),
        f"Step {last['step']:,}: classification {last['classification']:.4f}, "
        f"box {last['bbox_regression']:.4f}, {last['num_foreground']:.0f} foreground anchors "
        "an image.",
        "The focal loss starts low when the prior is low: a fresh head says pi of every anchor. "
        "Both are sums over anchors, divided by the foreground anchors.",
    )
    figure_panel(
        "foreground",
        drawn.foreground_figure(curve),
        drawn.foreground_rows(curve),
        f"{last['num_foreground']:.0f} foreground anchors an image in the last step.",
        "All that the boxes and the positive half of the focal loss learn from. Few of them make "
        "the losses jump.",
    )


def _progress_in_ap(run: RunState) -> None:
    found = run.record.validations
    if not found:
        st.caption("AP has not been measured yet; it is at each checkpoint.")
    else:
        best = max(found, key=lambda one: one["AP"] or 0.0)
        figure_panel(
            "validations",
            drawn.precision_figure(found, steps=run.record.steps),
            drawn.precision_rows(found),
            f"AP {_ap(found[-1]['AP'])} and AP50 {_ap(found[-1]['AP50'])} at step "
            f"{found[-1]['step']:,}; the best AP is {_ap(best['AP'])}.",
            "Average precision on the photos that are not trained on, by pycocotools.",
        )
    previews = run.record.previews
    if previews:
        steps = [one["step"] for one in previews]
        step = st.select_slider("after step", steps, steps[-1], key=f"preview_{len(steps)}")
        files = next(one["files"] for one in previews if one["step"] == step)
        st.image([str(run.folder / one) for one in files], width=220)
        st.caption("Detections drawn solid with their scores, ground truth dashed.")


def _ap(value: float | None) -> str:
    """AP in three digits; a set without objects has none."""
    return "unknown" if value is None else f"{value:.3f}"


def _gradients(run: RunState) -> None:
    curve = run.record.curve
    norms = curve[-1]["grad_norms"]
    still = [name for name, value in norms.items() if value == 0]
    verb = "has" if len(still) == 1 else "have"
    words = f"{', '.join(still)} {verb} no gradient at all." if still else "Every stage trains."
    figure_panel(
        "gradients",
        drawn.gradient_figure(curve),
        drawn.gradient_rows(curve),
        words,
        "The norm of each stage's gradient before clipping. A frozen stage's is exactly zero: its "
        "gradient is not worked out.",
    )


def _step_time(run: RunState) -> None:
    curve = run.record.curve
    last = curve[-1]
    figure_panel(
        "step_time",
        drawn.step_time_figure(curve),
        drawn.step_time_rows(curve),
        f"The last step took {last['seconds']:.2f} s; the process holds "
        f"{last['memory_bytes'] / 1e6:,.0f} MB.",
        "Frozen stages cost a forward pass and no backward one, so it is the backward share that "
        "falls when more is frozen.",
    )


def _numbers(run: RunState) -> None:
    table("steps", [_flat(one) for one in run.record.curve[-200:]])


def _flat(point: dict) -> dict:
    norms = {f"grad_{name}": value for name, value in point["grad_norms"].items()}
    return {**{k: v for k, v in point.items() if k != "grad_norms"}, **norms}


def _command(run: RunState) -> None:
    st.caption("The same run from a terminal:")
    st.code(runs.command(run.request), language="bash", wrap_lines=True)
    if run.record.cost:
        st.json(run.record.cost, expanded=False)


# ------------------------------------------------------------------ experiments


def _experiment(chosen: RunState, seen: list[RunState]) -> None:
    group = chosen.request.experiment
    if not group:
        return
    members = [run for run in reversed(seen) if run.request.experiment == group]
    rows = compare(members)
    st.markdown("#### The experiment")
    for sentence in verdict(rows):
        st.markdown(state.plain(sentence))
    figure_panel(
        "experiment",
        compared.comparison_figure(rows),
        compared.comparison_rows(rows),
        f"{sum(run.state == 'done' for run in members)} of {len(members)} runs are done.",
        EXPERIMENTS[group.split(":")[0]].sentence,
    )
    curves = {row["label"]: run.record.curve for row, run in zip(rows, members, strict=True)}
    broken = {row["label"]: row["diverged_in"] for row in rows if row["diverged_in"]}
    figure_panel(
        "experiment_losses",
        compared.runs_loss_figure(curves, diverged=broken),
        compared.runs_loss_rows(curves),
        "The classification loss of each run.",
        "Losses of different alpha and gamma are not on one scale: compare their shape, and AP.",
    )
    found = {row["label"]: run.record.validations for row, run in zip(rows, members, strict=True)}
    figure_panel(
        "experiment_ap",
        compared.runs_precision_figure(found),
        compared.runs_precision_rows(found),
        "AP of each run on the photos that none of them trains on.",
        "The same seed and the same batches for all; with few photos a difference of a few "
        "hundredths is noise.",
    )
    table("experiment_table", rows)
