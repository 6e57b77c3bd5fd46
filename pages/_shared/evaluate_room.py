"""The Evaluate page: a data set, the network once over its photos, a setting, its mistakes."""

from __future__ import annotations

import streamlit as st

from pages._shared import (
    behind,
    data_panel,
    engine,
    evaluate_knobs,
    evaluate_state,
    evaluate_tabs,
    runs,
    sidebar,
    state,
    tasks,
)
from pages._shared import evaluate_work as work
from pages._shared.answering import POLL_SECONDS
from pages._shared.data_panel import DataSets
from pages._shared.evaluate_state import MAX_PHOTOS, OPENS, PARTS
from pages._shared.evaluate_work import Subject
from pages._shared.open_photo import open_in
from pages._shared.takehome import counted
from retinanet.cli.evaluate import check_categories
from retinanet.coco import CocoDataset, DatasetError
from retinanet.engine import ModelSpec
from retinanet.model import RetinaNet
from retinanet.sweeps import CandidateStore

WHAT = (
    "Run the network once over a data set. Then turn every knob of post-processing, and see what "
    "it costs, what goes wrong, and on which photos."
)


def show() -> None:
    """The whole page."""
    state.check_url()
    evaluate_state.follow_history()
    evaluate_state.read_link()
    evaluate_state.write_link()  # whole and first, so that Back finds no half of it
    spec = sidebar.model_controls()
    with st.container():  # always there, so that a sentence moves no control
        state.show_notices()
    st.title("Evaluate")
    st.markdown(WHAT)
    data = data_panel.choose("samples")
    if data is not None:
        _evaluate(data, spec)
    evaluate_state.write_link()


def _evaluate(data: DataSets, spec: ModelSpec) -> None:
    for note in data.notes:
        st.caption(state.plain(note))
    _which_photos(data)
    subject = _subject(data, spec)
    if subject is None:
        return
    image_id = behind.photo_to_open()
    if image_id is not None:
        desk = evaluate_state.current()
        open_in(OPENS[desk.opens], subject.whole, image_id)
        st.rerun()  # it could not be opened: say why
    store = _network(subject)
    told = None
    if store is not None:
        told = evaluate_knobs.show(evaluate_knobs.setting_of(subject, store))
    evaluate_tabs.show(subject, told)


# ------------------------------------------------------------------ which photos


def _which_photos(data: DataSets) -> None:
    desk = evaluate_state.current()
    total = len(work.part_of(data, desk.part).photos)
    keys = {name: f"desk_{name}" for name in ("part", "photos", "sample_seed")}
    for name, key in keys.items():
        st.session_state[key] = getattr(desk, name)

    def changed(name: str) -> None:
        value = st.session_state[keys[name]]
        # A click on the chosen part lets go of it; a field may be left empty.
        evaluate_state.change(
            **{name: getattr(evaluate_state.Desk(), name) if value is None else value}
        )

    with st.container(horizontal=True, vertical_alignment="bottom"):
        if data.train is not data.val:
            st.segmented_control(
                "part",
                list(PARTS),
                format_func=lambda one: f"{PARTS[one]} ({len(work.part_of(data, one).photos):,})",
                key=keys["part"],
                on_change=changed,
                args=("part",),
                help="What a model was trained on says little of what it does with new photos.",
            )
        st.number_input(
            "photos, at most",
            0,
            MAX_PHOTOS,
            step=50,
            key=keys["photos"],
            on_change=changed,
            args=("photos",),
            width=150,
            help=f"0 for all {total:,}; fewer are drawn by the seed.",
        )
        st.number_input(
            "seed of the draw",
            0,
            10**6,
            key=keys["sample_seed"],
            on_change=changed,
            args=("sample_seed",),
            width=150,
            disabled=not 0 < desk.photos < total,
        )


def _subject(data: DataSets, spec: ModelSpec) -> Subject | None:
    """What is evaluated; None while the model loads or where it does not know the classes."""
    progress = engine.ask_model(spec)
    if progress.state == "failed":
        st.error(state.plain(progress.sentence))
        st.button("Try again", on_click=engine.try_again, args=(spec, ""))
        return None
    if progress.state == "working":
        st.info(f"{progress.sentence}.")
        _look_again(spec)
        return None
    desk = evaluate_state.current()
    dataset = evaluate_state.chosen(work.part_of(data, desk.part), desk)
    model = engine.get_engine().model(spec)
    try:
        check_categories(model.category_ids, dataset.category_ids)
        _check_names(model, dataset)
    except DatasetError as fault:
        _another_model(str(fault))
        return None
    name = work.weights_name(spec, work.stamp_of(spec))
    return Subject(data, dataset, desk, spec, model.config, name)


@st.fragment(run_every=POLL_SECONDS)
def _look_again(spec: ModelSpec) -> None:
    if engine.ask_model(spec).state != "working":
        st.rerun()


def _check_names(model: RetinaNet, dataset: CocoDataset) -> None:
    """Refuse a model that has the data set's ids for other things.

    A model without names, such as one of random numbers, is taken by its ids.

    Raises:
        DatasetError: no class of the data set has the name that the model has for its id.
    """
    own = dict(zip(model.category_ids, model.categories, strict=True))
    pairs = [
        (own[number] or "", name)
        for number, name in zip(dataset.category_ids, dataset.categories, strict=True)
    ]
    if any(known for known, _ in pairs) and not any(
        known.casefold() == name.casefold() for known, name in pairs
    ):
        known, name = pairs[0]
        raise DatasetError(
            f"The model means other things by the data set's category ids (the first is {name} "
            f"here and {known or 'nothing'} there); evaluate a model that was trained on these "
            "categories."
        )


def _another_model(fault: str) -> None:
    """Why this model cannot be evaluated here, and the ones trained here, each a click away."""
    st.warning(state.plain(fault))
    trained = list(runs.trained())[:8]
    if not trained:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption("None has been trained here yet.")
            st.page_link("pages/training.py", label="Train one", icon=":material/model_training:")
        return

    def use(name: str) -> None:
        st.session_state["weights"] = name
        for size in ("min_size", "max_size"):  # empty: as trained
            st.session_state.pop(size, None)

    with st.container(horizontal=True):
        for name in trained:
            st.button(f"Use {name}", key=f"use_{name}", on_click=use, args=(name,))


# ------------------------------------------------------------------ the network pass


def _network(subject: Subject) -> CandidateStore | None:
    """The stored candidates; None until the network has seen the photos."""
    key = work.pass_key(subject)
    task = tasks.get_tasks().get(key)
    if task is not None and task.state == "cancelled":
        # What is on disk stays, and the button says how many are left.
        tasks.get_tasks().forget(key)
        st.session_state["stopped_pass"] = key
        task = None
    left = 0
    if task is None:
        left = work.missing(subject)
        # The few samples need no question: the page has something to show from the first look.
        is_quick = subject.data.key == "samples" and st.session_state.get("stopped_pass") != key
        if not left or is_quick:
            work.begin_pass(subject)
            left = 0
    with st.container(key="network_pass"):
        if left:
            _offer(subject, left)
            return None
        task = tasks.show(key)
    if task is None or task.state != "ready":
        return None
    store: CandidateStore = task.result
    for image_id, sentence in store.skipped[:3]:
        st.caption(state.plain(f"Left out, image {image_id}: {sentence}"))
    if len(store.skipped) > 3:
        st.caption(f"{len(store.skipped) - 3:,} more photos are left out.")
    if not len(store):
        st.error("None of the photos could be read, so there is nothing to evaluate.")
        return None
    return store


def _offer(subject: Subject, left: int) -> None:
    """What the network pass costs, and the button that begins it."""
    total = len(subject.dataset.photos)
    # The progress of the timing comes and goes below the button, which stays where a hand aims.
    row = st.container(horizontal=True, vertical_alignment="center")
    seconds = work.timed(subject)
    if seconds is not None:
        left = work.missing(subject)  # those that told the cost are on disk now
    cost = "" if seconds is None else f", about {seconds:.2g} s each: {_time(seconds * left)}"
    there = f" {total - left:,} of {total:,} are on disk." if left < total else ""
    with row:
        st.button(
            f"Run the network on {counted(left, 'photo')}",
            key="run_network",
            type="primary",
            on_click=work.begin_pass,
            args=(subject,),
        )
        st.caption(
            f"{counted(left, 'photo')}{cost}.{there} It goes on when you leave the page; stopped, "
            "it goes on from where it was."
        )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
