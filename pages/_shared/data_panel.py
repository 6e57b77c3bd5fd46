"""The choice of a data set, and the set itself: made, unpacked, converted and checked."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import streamlit as st

from pages._shared import runs, state, tasks, workroom
from pages._shared.data_choice import KINDS, Choice, current, keep
from retinanet.coco import CocoDataset, DatasetError
from retinanet.datasets import ArchiveLimits, DatasetReport, check_dataset, open_dataset
from retinanet.hold_out import hold_out
from retinanet.sample_dataset import make_sample_dataset
from retinanet.shapes import make_shapes

WHERE_DATA_GOES = (
    "A data set is unpacked into a folder of this server, as it may not fit into memory, and stays "
    "there until you remove it. It goes nowhere else."
)
VAL_SHARE = 0.25
"""Photos to measure on for each photo of shapes to train on."""

LEAST_VAL = 8
"""Photos of shapes to measure on, at least."""

UPLOAD_LIMITS = ArchiveLimits(total_bytes=5_000_000_000, file_bytes=100_000_000)
"""Of a stranger's zip: an annotation file takes a multiple of its size in memory."""


@dataclass(frozen=True, eq=False)
class DataSets:
    """What a model learns from and what it is measured on.

    Args:
        key: a short name that is the same for the same data.
        title: for people.
        train, val: the two parts.
        train_images, val_images: the folders that their file names are relative to.
        report: what checking both found, the first of the training part.
        notes: sentences about what was converted, left out or put aside.
    """

    key: str
    title: str
    train: CocoDataset
    val: CocoDataset
    train_images: Path
    val_images: Path
    reports: dict[str, DatasetReport]
    notes: tuple[str, ...] = ()


# ------------------------------------------------------------------ the controls


def choose(default: str) -> DataSets | None:
    """Draw the choice and what is known of it; None until the data set is there.

    Args:
        default: of `KINDS`, until something is chosen. Where it is "samples" they can be chosen:
            they are enough to look at and too few to learn from.
    """
    kinds = [kind for kind in KINDS if kind != "folder" or workroom.is_local()]
    if default != "samples":
        kinds.remove("samples")
    choice = current()
    if choice.kind not in kinds:
        choice = replace(choice, kind=default)
    left, right = st.columns([2, 5], gap="medium", vertical_alignment="bottom", wrap=True)
    with left:
        kind = st.selectbox(
            "Data set",
            kinds,
            index=kinds.index(choice.kind),
            format_func=KINDS.get,
            key="data_kind",
        )
    if kind != choice.kind:
        choice = replace(choice, kind=kind)
        keep(choice)
    with right:
        choice = {"samples": _samples, "shapes": _shapes, "upload": _upload, "folder": _folder}[
            kind
        ](choice)
    return _opened(choice, default)


def settle(kind: str) -> None:
    """Other pages begin with this kind too: something has been made with it."""
    if not current().kind:
        keep(replace(current(), kind=kind))


def _samples(choice: Choice) -> Choice:
    st.caption(
        "They come with the app and have boxes drawn by hand: enough to see how this page works, "
        "far too few to judge a model."
    )
    return choice


def _kept(choice: Choice, **changes: Any) -> Choice:
    """The choice with a change; a page's beginning that nobody chose stays unsaid."""
    keep(replace(current(), **changes))
    return replace(choice, **changes)


def _shapes(choice: Choice) -> Choice:
    images, imbalance, seed = st.columns(3, gap="small")
    shapes = replace(
        choice.shapes,
        images=images.number_input(
            "photos",
            8,
            5000,
            choice.shapes.images,
            8,
            key="data_images",
            help="To train on; a quarter as many more, 8 at least and with another seed, are there "
            "to measure on.",
        ),
        imbalance=float(
            imbalance.number_input(
                "imbalance, 1 : N",
                1.0,
                100.0,
                choice.shapes.imbalance,
                1.0,
                key="data_imbalance",
                help="Objects of the most frequent class for each one of the rarest.",
            )
        ),
        seed=seed.number_input("seed", 0, 10**6, choice.shapes.seed, key="data_seed_input"),
    )
    return _kept(choice, shapes=shapes)


def _upload(choice: Choice) -> Choice:
    turn = st.session_state.setdefault("zip_turn", 0)
    key = f"zip_{turn}"

    def arrived() -> None:
        given = st.session_state[key]
        if given is None:
            return
        try:
            keep(replace(current(), upload=keep_zip(given.getvalue())))
        except DatasetError as fault:
            state.say(str(fault))
        st.session_state["zip_turn"] = turn + 1

    st.file_uploader(
        "A zip with COCO JSON, Pascal VOC or YOLO annotations and their images",
        type=["zip"],
        key=key,
        on_change=arrived,
        help=WHERE_DATA_GOES,
    )
    if choice.upload:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"The open one begins with {choice.upload[:8]}. {WHERE_DATA_GOES}")
            st.button(
                "Remove it from the server", key="remove_zip", on_click=_remove, args=(choice,)
            )
    return choice


def keep_zip(data: bytes) -> str:
    """Write an uploaded zip under its hash, which it returns; its name is not used.

    Raises:
        DatasetError: there is no room for it.
    """
    name = hashlib.sha256(data).hexdigest()
    path = workroom.folder("data", name) / "upload.zip"
    unfinished = path.with_suffix(".part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise DatasetError(
            f"The zip cannot be kept on this server: {error.strerror}; remove what is not needed."
        ) from error
    return name


def _remove(choice: Choice) -> None:
    folder = workroom.place("data", choice.upload)
    if runs.is_needed(folder):
        state.say("A run that waits or is at work learns from this zip; cancel the run first.")
        return
    tasks.get_tasks().forget(choice.key)
    shutil.rmtree(folder, ignore_errors=True)  # gone is gone
    keep(replace(choice, upload=""))


def _folder(choice: Choice) -> Choice:
    path = st.text_input(
        "folder or zip on this machine",
        choice.folder,
        key="data_folder",
        placeholder="/data/my-set",
        help="COCO, Pascal VOC or YOLO layout; it is read where it lies and never written to.",
    )
    choice = _kept(choice, folder=path.strip())
    task = tasks.get_tasks().get(choice.key)
    if task is not None and task.state == "ready":
        st.button(
            "Read it again",
            key="read_again",
            on_click=tasks.get_tasks().forget,
            args=(choice.key,),
            help="It is read once; press this when its files have changed.",
        )
    return choice


# ------------------------------------------------------------------ opening it


def _opened(choice: Choice, page: str) -> DataSets | None:
    """The data set of a choice; None until it is there. `page`: what the page begins with."""
    ways = {
        "samples": _make_samples,
        "shapes": _make_shapes,
        "upload": _open_upload,
        "folder": _open_folder,
    }
    missing = {
        "upload": choice.kind == "upload" and not choice.upload,
        "folder": choice.kind == "folder" and not choice.folder,
    }
    if missing.get(choice.kind):
        st.caption("Until a data set is here, there is nothing to do below.")
        return None
    known = tasks.get_tasks()
    before = st.session_state.get(f"data_task_{page}")
    if before not in (None, choice.key):
        known.leave(before, tasks.session())
    st.session_state[f"data_task_{page}"] = choice.key
    task = known.get(choice.key)
    if task is not None and task.state == "ready" and not _is_there(task.result):
        known.forget(choice.key)
        task = None
    # One that failed or was stopped stands until its button is pressed.
    if task is None:
        what = {"shapes": "Composing shapes"}.get(choice.kind, "Opening the data set")
        known.start(choice.key, what, lambda task: ways[choice.kind](choice, task))
    task = tasks.show(choice.key)
    return task.result if task is not None and task.state == "ready" else None


def _is_there(data: DataSets) -> bool:
    """Whether its files are: a person may clear the workroom."""
    files = (data.train.annotation_file, data.val.annotation_file)
    return all(map(Path.is_file, files)) and data.train_images.is_dir()


def _make_samples(choice: Choice, task: tasks.Task) -> DataSets:
    folder = workroom.folder("samples")
    made = make_sample_dataset(folder)
    images = folder / "images"
    reports = _checked({"train": made, "val": made}, task)
    return DataSets("samples", "the sample photos", made, made, images, images, reports)


def _make_shapes(choice: Choice, task: tasks.Task) -> DataSets:
    config = choice.shapes
    parts = {
        "train": config,
        # Another seed, so that no photo is in both; the same classes and sizes.
        "val": replace(
            config,
            images=max(LEAST_VAL, round(config.images * VAL_SHARE)),
            seed=config.seed + 1_000_003,
        ),
    }
    made, folders = {}, {}
    for name, part in parts.items():
        digest = hashlib.sha256(repr(part).encode()).hexdigest()[:16]
        folders[name] = workroom.folder("shapes") / digest
        made[name] = make_shapes(folders[name], part, progress=task.tell, cancel=task.cancel)
    return DataSets(
        key=f"shapes-{hashlib.sha256(repr(config).encode()).hexdigest()[:12]}",
        title=f"{config.images:,} photos of shapes, imbalance 1 : {config.imbalance:g}",
        train=made["train"],
        val=made["val"],
        train_images=folders["train"] / "images",
        val_images=folders["val"] / "images",
        reports=_checked(made, task),
    )


def _open_upload(choice: Choice, task: tasks.Task) -> DataSets:
    folder = workroom.folder("data") / choice.upload
    if not (folder / "upload.zip").is_file():
        raise DatasetError("The link's zip is not on this server; upload the same file again.")
    archive = folder / "upload.zip"
    return _open(archive, folder, choice.upload[:12], "Your zip", task, UPLOAD_LIMITS)


def _open_folder(choice: Choice, task: tasks.Task) -> DataSets:
    try:
        source = Path(choice.folder).expanduser()
    except RuntimeError as error:
        raise DatasetError("There is no such home folder; give the whole path.") from error
    key = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:12]
    return _open(source, workroom.folder("data", key), key, source.name, task)


def _open(
    source: Path,
    work: Path,
    key: str,
    title: str,
    task: tasks.Task,
    limits: ArchiveLimits = ArchiveLimits(),  # noqa: B008 - frozen
) -> DataSets:
    options = {"limits": limits, "progress": task.tell, "cancel": task.cancel}
    first = open_dataset(source, work, **options)
    train, val = parts_of(first.splits)
    opened = {
        part: first if split == first.split else open_dataset(source, work, split=split, **options)
        for part, split in (("train", train), ("val", val or train))
    }
    made = {part: one.coco for part, one in opened.items()}
    notes = tuple(dict.fromkeys(note for one in opened.values() for note in one.notes))
    if val is None:
        made["train"], made["val"] = hold_out(made["train"], opened["train"].folder, work)
        only = "There is one part only" if len(first.splits) == 1 else f"Only {train} is used"
        notes += (
            f"{only}, and {len(made['val'].photos):,} of its photos are put aside to measure on.",
        )
    else:
        notes += (f"Of its parts, {train} is to train on and {val} to measure on.",)
    return DataSets(
        key,
        title,
        made["train"],
        made["val"],
        opened["train"].folder,
        opened["val"].folder,
        _checked(made, task),
        notes,
    )


def parts_of(splits: Sequence[str]) -> tuple[str, str | None]:
    """The split to train on, and the one to measure on: None where none is called so.

    A "trainval" is never measured on, as it holds what "train" holds.
    """
    train = next((one for one in splits if "train" in one.lower()), splits[0])
    rest = [one for one in splits if one != train and "train" not in one.lower()]
    called = (one for word in ("val", "test") for one in rest if word in one.lower())
    return train, next(called, None)


def _checked(made: dict[str, CocoDataset], task: tasks.Task) -> dict[str, DatasetReport]:
    task.what = "Checking the photos and their boxes"
    return {
        part: check_dataset(one, progress=task.tell, cancel=task.cancel)
        for part, one in made.items()
    }
