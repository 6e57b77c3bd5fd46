"""Which picture is open: a sample, an upload or a camera shot."""

from __future__ import annotations

from dataclasses import dataclass, replace

import streamlit as st

from pages._shared import lens, state, truth, view
from pages._shared.canvas import draw_sheet
from pages._shared.lens import Lens
from pages._shared.view import View
from retinanet.figures.pictures import SheetItem, pack_sheet, thumb_jpeg
from retinanet.images import ImageError, load_image
from retinanet.samples import SAMPLES, load_sample
from retinanet.types import Image

FILE_TYPES = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "heic", "heif", "gif", "avif"]
MAX_UPLOADS = 60
MAX_UPLOAD_BYTES = 300_000_000
WHERE_DATA_GOES = (
    "Your photos stay in this server's memory while the page is open, and nowhere else."
)


@dataclass(frozen=True, eq=False)
class Picture:
    """The picture on the canvas.

    Args:
        key: what the URL calls it: a sample's key or an upload's SHA-256.
        image: its pixels.
        title: its name.
        is_sample: whether it comes with the app.
    """

    key: str
    image: Image
    title: str
    is_sample: bool


@dataclass(frozen=True)
class Awaited:
    """What a link asks about a picture that is not here yet.

    Args:
        key: of the picture.
        view, lens: how its pages stand.
        truth: the link's text of what is in it.
    """

    key: str
    view: View
    lens: Lens
    truth: str | None


def _welcome(awaited: Awaited, image: Image) -> None:
    """Open the picture that a link asked about, as the link has it."""
    view.open_photo(awaited.key)
    # The browser counts on: an answer with an older number would look like an old answer.
    view.keep(replace(awaited.view, serial=view.current().serial))
    lens.keep(replace(awaited.lens, serial=lens.current().serial))
    st.session_state["lens_photo"] = awaited.key
    truth.take_link(awaited.key, awaited.truth, image.size)


@st.cache_resource(max_entries=24, show_spinner=False)
def decode(image_id: str, _data: bytes, name: str) -> Image:
    """An upload's pixels, decoded once; the SHA-256 of its bytes names them."""
    return load_image(_data, name)


@st.cache_data(max_entries=256, show_spinner=False)
def thumbnail(image_id: str, _image: Image) -> bytes:
    """A picture's thumbnail as JPEG."""
    return thumb_jpeg(_image)


def image_of(upload: state.Upload) -> Image:
    """An upload's pixels.

    Raises:
        ImageError: they cannot be read; uploads are checked on arrival, so not in practice.
    """
    return decode(upload.id, upload.data, upload.name)


def controls(selected: str) -> None:
    """The samples, the uploader and the camera, in one row."""
    strip, uploader, camera = st.columns([10, 5, 4], gap="medium", vertical_alignment="top")
    with strip:
        sample_strip(selected)
    with uploader:
        upload_control()
    with camera:
        camera_switch()
    with st.container():
        camera_control()


def take_in(files: list) -> None:
    """Add uploaded files to the session; one that cannot be used leaves a sentence."""
    kept = state.uploads()
    fresh = ""
    for file in files:
        upload = state.Upload(file.name, file.getvalue())
        total = sum(len(one.data) for one in kept.values()) + len(upload.data)
        if len(kept) >= MAX_UPLOADS or total > MAX_UPLOAD_BYTES:
            state.say(
                f"{file.name} was not taken: a session holds {MAX_UPLOADS} pictures and "
                f"{MAX_UPLOAD_BYTES // 1_000_000} MB; remove some first."
            )
            continue
        try:
            image_of(upload)
        except ImageError as fault:
            state.say(str(fault))
            continue
        kept[upload.id] = upload
        fresh = fresh or upload.id
    awaited: Awaited | None = st.session_state.get("awaited")
    if awaited is not None and awaited.key in kept:
        del st.session_state["awaited"]
        _welcome(awaited, image_of(kept[awaited.key]))
    elif fresh:
        view.open_photo(fresh)


def upload_control() -> None:
    """The uploader; what arrives moves to the session and leaves it empty again."""
    turn = st.session_state.setdefault("uploader_turn", 0)
    key = f"uploader_{turn}"

    def arrived() -> None:
        take_in(st.session_state[key])
        st.session_state["uploader_turn"] = turn + 1

    with st.container(key="upload"):
        st.file_uploader(
            "Your photos",
            type=FILE_TYPES,
            accept_multiple_files=True,
            key=key,
            on_change=arrived,
            label_visibility="collapsed",
            max_upload_size=64,
            help=WHERE_DATA_GOES,
        )


def camera_switch() -> None:
    """The camera's switch, and where the data goes."""
    st.toggle("Camera", key="camera_on")
    st.caption(WHERE_DATA_GOES)


def camera_control() -> None:
    """The camera, where it is switched on."""
    if not st.session_state["camera_on"]:
        return
    shot = st.camera_input("Take a photo", key="camera", label_visibility="collapsed")
    if shot is not None and shot.file_id != st.session_state.get("last_shot"):
        st.session_state["last_shot"] = shot.file_id
        take_in([shot])
        st.rerun()


def sample_strip(selected: str) -> None:
    """The samples, one row; a click opens one."""
    items = []
    for sample in SAMPLES:
        image = load_sample(sample.key)
        jpeg = thumbnail(image.id, image)
        title = f"{sample.title}. {sample.credit}"
        items.append(SheetItem(sample.key, title, sample.title, jpeg, image.size))
    packed = pack_sheet(items, label="Sample photos", layout="strip", selected=selected)
    draw_sheet(packed, "samples", view.open_photo)


def open_picture() -> Picture:
    """The picture that the session or the link names; the first sample when it names none."""
    key = state.photo() or SAMPLES[0].key
    upload = state.uploads().get(key)
    if upload is not None:
        return Picture(key, image_of(upload), upload.name, is_sample=False)
    known = {sample.key: sample for sample in SAMPLES}
    if key not in known:
        state.say(
            f"The link's photo={key[:12]} is not here: an uploaded picture lives in the session "
            "that brought it. A sample is shown instead; upload the same file and the link's view "
            "of it opens."
        )
        st.session_state["awaited"] = Awaited(
            key, view.current(), lens.current(), truth.unread_link()
        )
        lens.change(point=None, object=-1)  # they are asked about the picture that is not here
        key = SAMPLES[0].key
        view.open_photo(key)
    return Picture(key, load_sample(key), known[key].title, is_sample=True)
