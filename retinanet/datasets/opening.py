"""From a folder or a zip of the usual layouts to a data set in COCO form."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from retinanet.coco import CocoDataset, DatasetError, load_coco
from retinanet.datasets.archives import ArchiveLimits, extract_zip
from retinanet.datasets.converting import convert
from retinanet.datasets.folders import made_whole
from retinanet.datasets.layouts import Layout, find_layout
from retinanet.datasets.listing import (
    Listing,
    folder_listing,
    is_folder,
    join,
    opened_listing,
    parent,
    stem,
)
from retinanet.single_flight import Cancelled

_SAMPLE = 200  # file names of a COCO JSON that are looked for in each folder
# Bounded, as each sign of an endless name would cost the search a hundred bytes of memory.
_FILE_NAME = re.compile(rb'"file_name"\s{0,64}:\s{0,64}("(?:[^"\\]|\\.){0,4096}")')


@dataclass(frozen=True, eq=False)
class OpenedDataset:
    """A data set that was opened.

    Args:
        coco: the photos and boxes of the split.
        layout: "coco", "voc" or "yolo": how it lay.
        split: the split that was opened.
        splits: all there are, train, val and test first; ("all",) where there is one only.
        folder: that the image names are relative to: `load_coco(coco.annotation_file, folder)`
            reads the same again.
        notes: sentences about what was converted or left out.
    """

    coco: CocoDataset
    layout: str
    split: str
    splits: tuple[str, ...]
    folder: Path
    notes: tuple[str, ...]


def find_splits(source: Path) -> tuple[str, ...]:
    """The splits of a folder or zip, train, val and test first; a zip is not unpacked.

    Raises:
        DatasetError: it is no data set of a known layout, or a zip that is not to be unpacked.
    """
    with opened_listing(Path(source)) as listing:
        return tuple(find_layout(listing).splits)


def open_dataset(
    source: Path,
    work_folder: Path,
    *,
    split: str | None = None,
    class_names: Sequence[str] = (),
    limits: ArchiveLimits = ArchiveLimits(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> OpenedDataset:
    """Open a folder or a zip in COCO's, Pascal VOC's or YOLO's layout.

    - COCO: one or several instances JSONs, read where they lie; their images are looked for in
      all folders of the data set.
    - Pascal VOC: Annotations/*.xml with JPEGImages, images or the images beside them, and
      ImageSets/Main/*.txt for the splits.
    - YOLO: images/<split> and labels/<split>, <split>/images and <split>/labels, or side by side;
      class names from data.yaml, classes.txt or *.names. A photo without a label file is one in
      which nothing is.

    Args:
        source: the folder, which is only read, or the zip.
        work_folder: one for each source: a zip is unpacked into it, once, and converted
            annotations are written to it as `instances_<split>.json`. Made when missing.
        split: as `find_splits` names it; "valid" for "val" and the like will do. The first by
            default.
        class_names: for YOLO the names by class number, for VOC the classes that are wanted.
        limits: of what is unpacked from a zip.
        progress: called with (done, in all): megabytes of a zip, then photos.
        cancel: when set, the work ends; nothing half-done is left.

    Raises:
        DatasetError: it cannot be used; one sentence says why and what to do.
        Cancelled: `cancel` was set.
    """
    source, work_folder = Path(source), Path(work_folder)
    folder = source
    if is_folder(source):
        _check_apart(source, work_folder)
    else:
        folder = _unpacked(source, work_folder, limits, progress, cancel)
    listing = folder_listing(folder, cancel)
    layout = find_layout(listing)
    chosen = layout.chosen(split)
    if layout.kind == "coco":
        return _open_coco(layout, chosen, listing, folder)
    options = {"class_names": class_names, "progress": progress, "cancel": cancel}
    files, notes = convert(layout, listing, folder, work_folder, **options)
    if chosen not in files:
        raise DatasetError(
            f"No photo of the split {chosen!r} can be used; there is {', '.join(files)}. "
            f"{' '.join(notes)}"
        )
    coco = load_coco(files[chosen], folder)
    return OpenedDataset(coco, layout.kind, chosen, tuple(files), folder, tuple(notes))


def save_dataset(
    opened: OpenedDataset,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> CocoDataset:
    """Copy a data set that was opened: `instances.json` and `images/`, whole or not at all.

    Args:
        opened: its photos are copied as they are; images that its annotations name and that are
            not there are left out.
        folder: must not exist, or be empty.
        progress: called with (photos done, photos in all).
        cancel: when set, nothing is left behind.

    Returns:
        The copy.

    Raises:
        DatasetError: the folder is not empty or cannot be written.
        Cancelled: `cancel` was set.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DatasetError(f"{folder} is already there; name a folder that is not.")
    top = opened.folder.resolve()
    with made_whole(folder) as unfinished:
        names: dict[int, str] = {}
        for done, photo in enumerate(opened.coco.photos, start=1):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            names[photo.image_id] = photo.path.relative_to(top).as_posix()
            target = unfinished / "images" / names[photo.image_id]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photo.path, target)
            if progress is not None:
                progress(done, len(opened.coco.photos))
        data = json.loads(opened.coco.annotation_file.read_text(encoding="utf-8"))
        # A name may lead there by a link or from the root; in the copy it is the file's own.
        data["images"] = [
            image | {"file_name": names[image["id"]]}
            for image in data["images"]
            if image["id"] in names
        ]
        (unfinished / "instances.json").write_text(json.dumps(data), encoding="utf-8")
    return load_coco(folder / "instances.json", folder / "images")


def _check_apart(source: Path, work_folder: Path) -> None:
    """Refuse a work folder whose files would be taken for the data set's own the next time."""
    if work_folder.resolve().is_relative_to(source.resolve()):
        raise DatasetError(
            f"The work folder {work_folder} lies in the data set; name one outside it."
        )


def _unpacked(
    archive: Path,
    work_folder: Path,
    limits: ArchiveLimits,
    progress: Callable[[int, int], None] | None,
    cancel: threading.Event | None,
) -> Path:
    """The folder with a zip's content, named after its bytes: unpacked once."""
    folder = work_folder / f"unpacked-{_sha256(archive, cancel)[:16]}"
    if folder.is_dir():
        return folder
    return extract_zip(archive, folder, limits=limits, progress=progress, cancel=cancel)


def _sha256(path: Path, cancel: threading.Event | None) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                if cancel is not None and cancel.is_set():
                    raise Cancelled
                digest.update(chunk)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _open_coco(layout: Layout, split: str, listing: Listing, folder: Path) -> OpenedDataset:
    name = layout.splits[split]
    images = folder / _image_folder(listing, folder, name, split)
    coco = load_coco(folder / name, images)
    notes = [*layout.notes]
    found = coco.report
    for key, words in (
        ("missing_files", "images are in its annotations and not among its files"),
        ("degenerate_boxes", "boxes have no area in their photo and were left out"),
        ("unknown_categories", "boxes are of no category that it names and were left out"),
    ):
        if found[key]:
            notes.append(f"{found[key]:,} {words}.")
    return OpenedDataset(coco, "coco", split, tuple(layout.splits), images, tuple(notes))


def _image_folder(listing: Listing, folder: Path, name: str, split: str) -> str:
    """The folder that holds most of the images that a COCO JSON names; the usual ones first."""
    wanted = list(islice(_file_names(folder / name), _SAMPLE))
    there = set(listing.names)
    own, above = parent(name), parent(parent(name))
    # "train2017" for instances_train2017.json and the like.
    called = dict.fromkeys((stem(name).removeprefix("instances_"), split, stem(name)))
    usual = [
        *(
            join(above, *path)
            for one in called
            for path in ((one,), ("images", one), (one, "images"))
        ),
        *(
            join(own, *path)
            for one in called
            for path in ((one,), ("images", one), (one, "images"))
        ),
        *(own, join(own, "images"), above, join(above, "images"), ""),
    ]
    others = sorted({parent(image) for image in listing.images()})
    hits = {
        place: sum(join(place, one) in there for one in wanted)
        for place in dict.fromkeys([*usual, *others])
    }
    return max(hits, key=hits.__getitem__)


def _file_names(path: Path) -> Iterator[str]:
    """The `file_name`s of a JSON file in order, without reading all of it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            for found in _FILE_NAME.finditer(view):
                try:
                    yield json.loads(found[1])
                except ValueError:  # broken JSON, which `load_coco` refuses in words
                    return
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path.name} cannot be read; check the file.") from error
