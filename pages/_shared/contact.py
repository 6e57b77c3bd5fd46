"""The contact sheet: a batch's progress, its small pictures with boxes, its files."""

from __future__ import annotations

import streamlit as st

from pages._shared import engine, gallery, state, takehome, view
from pages._shared.batch import Batch
from pages._shared.canvas import draw_sheet
from retinanet.engine import ModelSpec
from retinanet.figures.pictures import SheetItem, pack_sheet

POLL_SECONDS = 0.5


def show(spec: ModelSpec) -> None:
    """The sheet under the open picture; nothing while there are fewer than two uploads."""
    uploads = state.uploads()
    if len(uploads) < 2:
        st.session_state.pop("batch", None)
        if uploads:
            _remove_buttons()
        return
    batch: Batch | None = st.session_state.get("batch")
    arrived = batch is None or {image.id for image in batch.images} != set(uploads)
    if arrived:
        if batch is not None:
            batch.cancel()
        batch = _begin(spec)
    st.markdown(f"#### Your {len(uploads)} photos")
    if batch.running:
        _watch(spec)
    else:
        _sheet(spec)


def _begin(spec: ModelSpec) -> Batch:
    images = [gallery.image_of(upload) for upload in state.uploads().values()]
    batch = Batch(images, spec, view.current().knobs)
    batch.start()
    st.session_state["batch"] = batch
    return batch


@st.fragment(run_every=POLL_SECONDS)
def _watch(spec: ModelSpec) -> None:
    """The sheet while it fills; a full run follows once it has ended, which stops the clock."""
    batch: Batch = st.session_state["batch"]
    _sheet(spec)
    if not batch.running:
        st.rerun()


def _sheet(spec: ModelSpec) -> None:
    batch: Batch = st.session_state["batch"]
    uploads = state.uploads()
    _progress(batch, spec)
    items = []
    for upload in uploads.values():
        image = gallery.image_of(upload)
        table = batch.tables.get(image.id)
        caption = "waiting" if table is None else takehome.counted(len(table), "detection")
        if image.id in batch.faults:
            caption = "failed"
        jpeg = gallery.thumbnail(image.id, image)
        items.append(
            SheetItem(upload.id, upload.name, f"{caption} · {upload.name}", jpeg, image.size, table)
        )
    packed = pack_sheet(items, label="Your photos", layout="grid", selected=state.photo())
    draw_sheet(packed, "sheet", view.open_photo)
    for fault in dict.fromkeys(batch.faults.values()):
        st.caption(state.plain(fault))
    entries = [
        (upload.name, gallery.image_of(upload), batch.tables[upload.id])
        for upload in uploads.values()
        if upload.id in batch.tables
    ]
    if entries and not batch.running:
        takehome.batch_downloads(entries)
    _remove_buttons()


def _progress(batch: Batch, spec: ModelSpec) -> None:
    total = len(batch.images)
    config = batch.config
    at = (
        f"{engine.spec_name(batch.spec)} weights, "
        f"score_thresh {config.score_thresh:g}, nms_thresh {config.nms_thresh:g}, "
        f"topk_candidates {config.topk_candidates:,}, "
        f"detections_per_img {config.detections_per_img}"
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        if batch.running:
            st.progress(batch.done / total, f"{batch.done} of {total} done at {at}")
            st.button("Stop", key="batch_stop", on_click=batch.cancel)
            return
        stopped = " Stopped." if batch.cancelled else ""
        st.caption(f"{batch.done} of {total} done at {at}.{stopped}")
        same = (batch.spec, batch.config) == (spec, view.current().knobs)
        if not same or batch.done < total:
            st.button(
                "Run all at the current settings", key="batch_again", on_click=_begin, args=(spec,)
            )


def _remove_buttons() -> None:
    with st.container(horizontal=True):
        if state.photo() in state.uploads():
            st.button(
                "Remove the open photo", key="remove_one", on_click=_remove, args=(state.photo(),)
            )
        st.button("Remove all your photos", key="remove_all", on_click=_remove, args=("",))


def _remove(photo_id: str) -> None:
    """Forget one upload, or all of them when no id is given."""
    kept = state.uploads()
    for upload_id in [photo_id] if photo_id else list(kept):
        kept.pop(upload_id)
    view.open_photo(next(iter(kept), ""))
