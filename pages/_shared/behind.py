"""The photos behind a number: a table whose rows open a sheet of them, and what happened there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from pages._shared import evaluate_state, state
from pages._shared.canvas import draw_sheet
from pages._shared.evaluate_state import KNOBS, OPENS
from pages._shared.evaluate_work import Measured
from pages._shared.open_photo import photo_of
from pages._shared.takehome import counted
from retinanet.analysis import image_fates
from retinanet.box_table import BoxTable
from retinanet.coco import CocoDataset, DatasetError, Photo, open_photo
from retinanet.export import to_csv
from retinanet.figures.palette import GROUND_TRUTH, OKABE_ITO
from retinanet.figures.pictures import SheetItem, pack_sheet, thumb_jpeg
from retinanet.images import ImageError

SHEET_PHOTOS = 24
"""Photos of a sheet; "more" adds as many."""

MOST_DRAWN = 40
"""Boxes drawn on a thumbnail, the best scores first: more would hide the photo."""

MOST_WORDS = 12
"""Detections that a thumbnail's title names."""

MOST_ROWS = 10
TABLE_HEIGHT = 360
"""A table with more rows has this height, px, and scrolls."""

Rows = Sequence[Mapping[str, Any]]


def table(key: str, rows: Rows, formats: Mapping[str, str], *, alt: str) -> int | None:
    """Rows of which one can be chosen; the number of the chosen one.

    Args:
        key: names the table on the page and in the file's name; a new key has nothing chosen.
        rows: what it shows; a column that `formats` does not name is not shown.
        formats: {column: its number's format, "" for text}.
        alt: says in a sentence what the table is.
    """
    frame = pd.DataFrame([{name: row[name] for name in formats} for row in rows])
    columns = {name: _column(name, form) for name, form in formats.items()}
    event = st.dataframe(
        frame,
        hide_index=True,
        column_config=columns,
        key=key,
        on_select="rerun",
        selection_mode="single-row",
        height="content" if len(rows) <= MOST_ROWS else TABLE_HEIGHT,
        alt=alt,
        placeholder="–",
    )
    st.download_button(
        "Table (CSV)",
        lambda: csv_of(rows),
        f"{key}.csv",
        "text/csv",
        key=f"{key}_csv",
        on_click="ignore",
        disabled=not rows,
    )
    chosen = [row for row in event["selection"]["rows"] if row < len(rows)]
    return chosen[0] if chosen else None


TITLES: dict[str, tuple[str, str]] = {
    "gts": ("objects", "Those that count: crowds are left out."),
    "tp": ("tp", "True positives: detections that found their object."),
    "fp": ("fp", "False positives: detections that found none."),
    "fn": ("fn", "False negatives: objects that no detection found."),
    "f1": ("F1", "The harmonic mean of precision and recall."),
    "f1_before": ("F1 before", "With the one score_thresh of the setting."),
    "macro_f1": ("macro F1", "The mean of the classes' F1."),
    "dAP50": ("AP50 it costs", "By how much AP50 would rise if this kind alone were put right."),
    "floor": ("threshold", "Scores of this class must be above it."),
    "post_processing_ms": ("post-processing, ms", "The median of one photo, without the network."),
}
"""Columns whose names want another word, or words of explanation."""


def _column(name: str, form: str) -> Any:
    title, words = TITLES.get(name, (name, None))
    if name not in KNOBS:
        title = title.replace("_", " ")
    if not form:
        return st.column_config.TextColumn(title, help=words)
    return st.column_config.NumberColumn(title, format=form, help=words)


def csv_of(rows: Rows) -> str:
    """Rows as CSV, without their lists of photos."""
    names = [name for name in rows[0] if not name.endswith("image_ids")] if rows else []
    return to_csv(({name: row.get(name) for name in names} for row in rows), names)


def sheet(
    key: str,
    title: str,
    image_ids: Sequence[int],
    dataset: CocoDataset,
    told: Measured | None = None,
) -> None:
    """The photos behind a number, the worst first; a click opens one on another page.

    Args:
        key: names the sheet on the page.
        title: what they have in common, plain text.
        image_ids: of the photos.
        dataset: that they are of.
        told: what became of their objects; None before the network has run: the objects are shown.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.markdown(
            f"**{state.plain(title[:1].upper() + title[1:])}: {counted(len(image_ids), 'photo')}**"
        )
        opens_control(key)
    if not image_ids:
        st.caption("There are none.")
        return
    place = f"{key}_shown"
    shown = st.session_state.setdefault(place, SHEET_PHOTOS)
    items, faults = [], []
    for image_id in image_ids[:shown]:
        try:
            items.append(_item(image_id, dataset, told))
        except (DatasetError, ImageError, OSError) as fault:
            faults.append(str(fault))
    draw_sheet(pack_sheet(items, label=title, layout="grid", selected=""), key, ask_to_open)
    with st.container(horizontal=True, vertical_alignment="center"):
        left = len(image_ids) - shown
        if left > 0:
            words = f"{min(SHEET_PHOTOS, left)} more"
            st.button(words, key=f"{key}_more", on_click=_more, args=(place,))
        st.caption(OBJECT_WORDS if told is None else FATE_WORDS)
    for fault in faults[:5]:
        st.caption(state.plain(fault))


def _more(place: str) -> None:
    st.session_state[place] += SHEET_PHOTOS


def opens_control(key: str) -> None:
    """Where a click on a photo leads."""
    name = f"{key}_opens"
    st.session_state[name] = evaluate_state.current().opens

    def chosen() -> None:
        evaluate_state.change(opens=st.session_state[name] or evaluate_state.Desk().opens)

    st.segmented_control("A click opens it in", list(OPENS), key=name, on_change=chosen)


def ask_to_open(image_id: str) -> None:
    """Remember the photo that was clicked; the page opens it at the start of its next run."""
    st.session_state["photo_to_open"] = int(image_id)


def photo_to_open() -> int | None:
    """The photo that was clicked, once."""
    return st.session_state.pop("photo_to_open", None)


# ------------------------------------------------------------------ what a thumbnail shows

FATES: dict[str, tuple[str, str]] = {
    "true_positive": ("tp", OKABE_ITO[2]),
    "missed": ("fn", GROUND_TRUTH),
    "false": ("fp", OKABE_ITO[5]),
    "ignored": ("ignored", OKABE_ITO[1]),
    "object": ("objects", GROUND_TRUTH),
}
"""What happened: its short word below a thumbnail, and its colour on it."""

FATE_WORDS = (
    "Green: a detection that found its object (tp). Vermillion: a false one (fp). Yellow: an "
    "object that was not found (fn). Sky blue: in an area that costs nothing. A photo's name and "
    "what is on it come up when the pointer rests on it."
)
OBJECT_WORDS = "Yellow: the objects of the data set."


def _item(image_id: int, dataset: CocoDataset, told: Measured | None) -> SheetItem:
    """A photo with its boxes.

    Raises:
        DatasetError, ImageError, OSError: it can no longer be read.
    """
    photo = photo_of(dataset, image_id)
    jpeg = _thumbnail(str(photo.path), photo.path.stat().st_mtime, photo)
    marks = _objects(photo, dataset) if told is None else _happened(photo, dataset, told)
    counts = Counter(fate for fate, _, _ in marks)
    words = "; ".join(words for _, _, words in marks[:MOST_WORDS])
    return SheetItem(
        str(image_id),
        f"{photo.path.name}. {words}",
        ", ".join(f"{FATES[fate][0]} {counts[fate]}" for fate in FATES if counts[fate]) or "empty",
        jpeg,
        (photo.width, photo.height),
        _boxes(marks[:MOST_DRAWN]),
    )


@st.cache_data(max_entries=1024, show_spinner=False)
def _thumbnail(path: str, stamp: float, _photo: Photo) -> bytes:
    """A photo's thumbnail as JPEG, kept by its path and when it was last written."""
    return thumb_jpeg(open_photo(_photo))


Mark = tuple[str, list[float], str]
"""(of `FATES`, xyxy in pixels of the photo, in words)."""


def _objects(photo: Photo, dataset: CocoDataset) -> list[Mark]:
    target = photo.target
    pairs = zip(target.boxes.tolist(), target.labels.tolist(), strict=True)
    return [("object", box, dataset.categories[label]) for box, label in pairs]


def _happened(photo: Photo, dataset: CocoDataset, told: Measured) -> list[Mark]:
    """Every detection and every missed object; missed ones first, as they are the fewest."""
    fates = image_fates(dataset, told.errors, photo.image_id)
    marks = [
        ("missed", one["box"], f"{one['category']} missed")
        for one in fates["objects"]
        if one["fate"] in ("missed", "covered")
    ]
    for one in fates["detections"]:
        fate = one["fate"]
        if fate != "left_out":  # beyond what COCO counts
            kind = fate if fate in FATES else "false"
            word = {"true_positive": "found"}.get(fate, fate)
            marks.append((kind, one["box"], f"{one['category']} {one['score']:.2f} {word}"))
    return marks


def _boxes(marks: Sequence[Mark]) -> BoxTable:
    """Boxes whose colours say what happened: a sheet takes a label's colour from the palette."""
    order = [OKABE_ITO.index(FATES[fate][1]) for fate, _, _ in marks]
    none = [0] * len(marks)
    return BoxTable.from_plain(
        {
            "boxes": [box for _, box, _ in marks],
            "scores": none,
            "labels": order,
            "levels": none,
            "pairs": none,
            "names": {},
            "ids": {},
        }
    )
