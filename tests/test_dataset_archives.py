"""Zips of strangers: opened like folders, or refused whole."""

import io
import random
import shutil
import stat
import threading
import zipfile
from pathlib import Path

import pytest

from retinanet.coco import DatasetError, load_coco
from retinanet.datasets import (
    ArchiveLimits,
    check_dataset,
    extract_zip,
    find_splits,
    open_dataset,
    save_dataset,
)
from retinanet.datasets.archives import MIN_FREE_BYTES
from retinanet.single_flight import Cancelled
from tests.test_datasets import expected, objects_of, photo, random_truth, write_voc, write_yolo


def zipped(folder: Path, target: Path, top="") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{top}{path.relative_to(folder)}")
    return target


@pytest.mark.parametrize("top", ["", "wrapped/"])
def test_a_zip_opens_as_its_folder_does_and_is_unpacked_once(tmp_path, top):
    truth = random_truth()
    source = write_yolo(tmp_path / "yolo", truth)
    photo(source / "__MACOSX" / "images" / "train" / "._p0.png")
    archive = zipped(source, tmp_path / "a.zip", top)
    assert find_splits(archive) == ("train", "val")
    assert not (tmp_path / "work").exists()
    seen = []
    opened = open_dataset(archive, tmp_path / "work", progress=lambda *d: seen.append(d))
    assert objects_of(opened) == expected(truth, ["p0", "p2", "p4"])
    assert opened.folder.is_relative_to(tmp_path / "work")
    assert seen[-1] == (6, 6)
    stamps = {p: p.stat().st_mtime_ns for p in opened.folder.rglob("*")}
    open_dataset(archive, tmp_path / "work", split="val")
    assert {p: p.stat().st_mtime_ns for p in opened.folder.rglob("*")} == stamps


def entry(name, mode=0, **attributes):
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name  # what `ZipInfo` itself would tidy up
    info.external_attr = mode << 16
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def hostile(*entries, content=b"12345"):
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("first.txt", "kept only with the rest")
            for info in entries:
                archive.writestr(info, content)

    return write


def patched(offset_of, replacement: bytes, offset: int):
    """A plain zip with bytes overwritten at an offset from the last `offset_of`."""

    def write(path: Path) -> None:
        hostile(entry("b.txt"), content=b"x" * 100)(path)
        data = bytearray(path.read_bytes())
        at = data.rindex(offset_of) + offset
        data[at : at + len(replacement)] = replacement
        path.write_bytes(data)

    return write


def overlapping(path: Path) -> None:
    """Two entries of the directory that share one file's bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.bin", random.Random(0).randbytes(5000))
        twin = entry("b.bin")
        for key in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
            setattr(twin, key, getattr(archive.infolist()[0], key))
        archive.filelist.append(twin)
        archive._didModify = True
    path.write_bytes(packed.getvalue())


HOSTILE = {
    "absolute": (hostile(entry("/etc/passwd")), "root of a disk"),
    "drive": (hostile(entry("C:/x.txt")), "root of a disk"),
    "dots": (hostile(entry("a/../../x.txt")), "leads out"),
    "backslash": (hostile(entry("..\\x.txt")), "backslash"),
    "nul": (hostile(entry("a.txt\0.jpg")), "sign that no file name has"),
    "newline": (hostile(entry("a\n.txt")), "sign that no file name has"),
    "empty part": (hostile(entry("a//b.txt")), "empty part"),
    "link": (hostile(entry("l", stat.S_IFLNK | 0o777), content=b"/etc"), "is a link"),
    "device": (hostile(entry("d", stat.S_IFCHR | 0o666)), "no ordinary file"),
    "pipe": (hostile(entry("d", stat.S_IFIFO | 0o666)), "no ordinary file"),
    "twice": (hostile(entry("A/b.txt"), entry("a/B.TXT")), "there twice"),
    "twice by accent": (hostile(entry("\u00e9.txt"), entry("e\u0301.txt")), "there twice"),
    "file and folder": (hostile(entry("a"), entry("A/b.txt")), "file and a folder"),
    "long part": (hostile(entry("n" * 256)), "too long"),
    "long name": (hostile(entry("/".join(["n" * 200] * 6))), "too long"),
    "deep": (hostile(entry("a/" * 25 + "b")), "folders in folders"),
    "bzip2": (hostile(entry("b.txt", compress_type=zipfile.ZIP_BZIP2)), "the usual one"),
    # bytes 8 and 24 of an entry of the directory: its flags, its unpacked size
    "encrypted": (patched(b"PK\1\2", b"\1\0", 8), "encrypted"),
    "says more": (patched(b"PK\1\2", b"\xff\0\0\0", 24), "size that it claims|damaged"),
    "says less": (patched(b"PK\1\2", b"\x0a\0\0\0", 24), "size that it claims|damaged"),
    "too large": (patched(b"PK\1\2", b"\xff\xff\xff\xfe", 24), "above the limit of 1 GB"),
    "overlapping": (overlapping, "share their bytes"),
    "bomb": (hostile(entry("b.txt", compress_type=8), content=bytes(3_000_000)), "zip bombs"),
    "text": (lambda path: path.write_text("no zip at all"), "no zip file"),
    "nothing": (lambda path: path.write_bytes(b""), "no zip file"),
    "empty": (lambda path: zipfile.ZipFile(path, "w").close(), "is empty"),
    "cut short": (
        lambda path: (hostile()(path), path.write_bytes(path.read_bytes()[:-30]))[1],
        "no zip file|damaged",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_zip_is_refused_whole(tmp_path, name):
    write, words = HOSTILE[name]
    write(tmp_path / "a.zip")
    with pytest.raises(DatasetError, match=words):
        extract_zip(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    with pytest.raises(DatasetError):
        open_dataset(tmp_path / "a.zip", tmp_path / "work")
    assert not list(tmp_path.glob("work/*"))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"entries": 2}, "more than 2 files"),
        ({"total_bytes": 1000}, r"unpacks to 1.5 kB, above the limit of 1 kB"),
        ({"file_bytes": 499}, "limit of 499 bytes for a file"),
    ],
)
def test_limits_of_a_zip_hold(tmp_path, limits, words):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in "abc":
            archive.writestr(name, "x" * 500)
    with pytest.raises(DatasetError, match=words):
        extract_zip(tmp_path / "a.zip", tmp_path / "out", limits=ArchiveLimits(**limits))
    folder = extract_zip(tmp_path / "a.zip", tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c"]
    with pytest.raises(DatasetError, match="already there"):
        extract_zip(tmp_path / "a.zip", tmp_path / "out")


def test_a_directory_of_millions_of_entries_is_refused_before_it_is_read(tmp_path, monkeypatch):
    hostile()(tmp_path / "a.zip")
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("the directory was read"))
    with pytest.raises(DatasetError, match="more than 0 files"):
        extract_zip(tmp_path / "a.zip", tmp_path / "out", limits=ArchiveLimits(entries=0))


def test_a_zip_in_a_zip_stays_a_zip_and_random_zips_come_out_as_they_went_in(tmp_path):
    draw = random.Random(1)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("../x", "x")
    content = {f"d{i % 3}/{i}.bin": draw.randbytes(draw.randint(0, 3000)) for i in range(20)}
    content["inner.zip"] = inner.getvalue()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    folder = extract_zip(tmp_path / "a.zip", tmp_path / "out")
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
    assert found == content


def test_when_cancelled_nothing_of_a_zip_or_a_copy_is_left(tmp_path):
    source = write_yolo(tmp_path / "yolo", random_truth())
    archive = zipped(source, tmp_path / "a.zip")
    cancel = threading.Event()
    cancel.set()
    for work in (
        lambda: extract_zip(archive, tmp_path / "out", cancel=cancel),
        lambda: open_dataset(archive, tmp_path / "work", cancel=cancel),
        lambda: open_dataset(source, tmp_path / "work", cancel=cancel),
    ):
        with pytest.raises(Cancelled):
            work()
    opened = open_dataset(source, tmp_path / "fine")
    with pytest.raises(Cancelled):
        save_dataset(opened, tmp_path / "copy", cancel=cancel)
    with pytest.raises(Cancelled):
        check_dataset(opened.coco, cancel=cancel)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "fine", "yolo"]


def test_a_copy_stands_by_itself(tmp_path):
    opened = open_dataset(write_yolo(tmp_path / "yolo", random_truth()), tmp_path / "work")
    copy = save_dataset(opened, tmp_path / "copy")
    shutil.rmtree(tmp_path / "yolo")
    again = load_coco(copy.annotation_file, tmp_path / "copy" / "images")
    assert again.report == opened.coco.report
    assert check_dataset(again).counts["missing_file"] == 0
    with pytest.raises(DatasetError, match="already there"):
        save_dataset(opened, tmp_path / "copy")


def test_damaged_zips_and_folders_end_in_a_sentence_or_in_a_data_set(tmp_path):
    draw = random.Random(0)
    write_yolo(tmp_path / "yolo", random_truth())
    write_voc(tmp_path / "voc", random_truth())
    whole = {
        name: zipped(tmp_path / name, tmp_path / "a.zip").read_bytes() for name in ("yolo", "voc")
    }
    refused = 0
    for trial in range(40):
        data = bytearray(whole["yolo" if trial % 2 else "voc"])
        for _ in range(draw.randint(1, 3)):
            data[-1 - draw.randrange(1200)] = draw.choice([0, 255, draw.randrange(256), 46, 47])
        (tmp_path / "a.zip").write_bytes(data)
        try:
            check_dataset(open_dataset(tmp_path / "a.zip", tmp_path / "work").coco)
        except DatasetError as error:
            refused += 1
            assert str(error).endswith(".")
    assert refused > 10


def test_json_that_is_nested_without_end_is_refused_in_words(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("instances.json", '{"images": ' + "[" * 200_000)
    with pytest.raises(DatasetError, match="not a JSON file"):
        open_dataset(tmp_path / "a.zip", tmp_path / "work")


def test_a_disk_is_not_filled_by_unpacking(tmp_path, monkeypatch):
    archive = zipped(write_yolo(tmp_path / "yolo", random_truth()), tmp_path / "a.zip")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=MIN_FREE_BYTES))
    with pytest.raises(DatasetError, match="make room"):
        extract_zip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".unfinished-*"))
