"""A photo of a data set, opened on another page with what the data set says is in it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages._shared import gallery, state, truth, view
from pages._shared.gallery import MAX_UPLOAD_BYTES, MAX_UPLOADS, Picture
from pages._shared.setup import go_to
from retinanet.coco import CocoDataset, DatasetError, Photo, open_photo
from retinanet.images import ImageError


def photo_of(dataset: CocoDataset, image_id: int) -> Photo:
    """The photo with this id.

    Raises:
        DatasetError: the data set has none.
    """
    found = next((photo for photo in dataset.photos if photo.image_id == image_id), None)
    if found is None:
        raise DatasetError(f"The data set has no photo with the id {image_id}.")
    return found


def objects_of(dataset: CocoDataset, photo: Photo) -> list[truth.TruthBox]:
    """What the data set says is in a photo; a name that no link could hold is left out."""
    target = photo.target
    found = []
    for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
        try:
            found.append(truth.TruthBox(dataset.categories[label], tuple(box)))
        except truth.TruthError as fault:
            state.say(str(fault))
    return found[: truth.MAX_OBJECTS]


def open_in(page: str, dataset: CocoDataset, image_id: int) -> None:
    """Open a photo of a data set on another page of the app, with its ground truth.

    Its bytes join the session's uploads, whose limits hold: the oldest photo that was opened from
    a data set gives way. A photo that cannot be opened leaves a sentence and this page open.

    Args:
        page: the script, such as "pages/detect.py".
        dataset: that the photo is of.
        image_id: its id there.
    """
    try:
        photo = photo_of(dataset, image_id)
        open_photo(photo)  # one of another size than its boxes say is refused
        upload = state.Upload(photo.path.name, _bytes_of(photo.path))
        if not _take_in(upload):
            return
        picture = Picture(upload.id, gallery.image_of(upload), upload.name, is_sample=False)
    except (DatasetError, ImageError) as fault:
        state.say(str(fault))
        return
    _tell_truth(picture, dataset, photo)
    view.open_photo(upload.id)
    go_to(page, photo=upload.id)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}.") from error


def _take_in(upload: state.Upload) -> bool:
    """Put it among the session's photos, where there is room or a photo that can give way."""
    kept = state.uploads()
    opened: list[str] = st.session_state.setdefault("opened_from_data", [])
    if upload.id in kept:
        return True

    def is_full() -> bool:
        total = sum(len(one.data) for one in kept.values()) + len(upload.data)
        return len(kept) >= MAX_UPLOADS or total > MAX_UPLOAD_BYTES

    while is_full() and opened:
        kept.pop(opened.pop(0), None)
    if is_full():
        state.say(
            f"{upload.name} was not opened: a session holds {MAX_UPLOADS} pictures and "
            f"{MAX_UPLOAD_BYTES // 1_000_000} MB; remove some of yours on Detect first."
        )
        return False
    kept[upload.id] = upload
    opened.append(upload.id)
    return True


def _tell_truth(picture: Picture, dataset: CocoDataset, photo: Photo) -> None:
    """The data set's boxes, unless a hand has changed them since."""
    objects = truth.clip_truth(objects_of(dataset, photo), picture.image.size)
    now = truth.of(picture, None)
    if now.source in ("none", "file") and now.objects != objects:
        truth.put(picture.key, objects, "file")
