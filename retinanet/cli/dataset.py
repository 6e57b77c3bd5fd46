"""`python -m retinanet dataset`: open a data set, say what is wrong with it, convert it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from retinanet.cli.errors import UsageError
from retinanet.cli.files import shown
from retinanet.cli.options import (
    add_output_options,
    check_outputs,
    say,
    table,
    write_outputs,
)
from retinanet.datasets import OpenedDataset, check_dataset, open_dataset, save_dataset
from retinanet.figures.dataset import class_count_rows

SUMMARY = "check a COCO, Pascal VOC or YOLO data set, and convert it to COCO"

COLUMNS: tuple[str, ...] = ("kind", "file", "detail", "image_id")
"""Of the CSV file: `DatasetReport.rows`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("source", type=Path, help="folder or zip of the data set")
    parser.add_argument("--split", help="train, val, ... (the first there is)")
    parser.add_argument(
        "--class-names",
        nargs="+",
        default=(),
        metavar="NAME",
        help="YOLO's names by class number, or the Pascal VOC classes that are wanted",
    )
    parser.add_argument(
        "--work-folder",
        type=Path,
        help="keep here what is unpacked and converted (a temporary folder)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="new folder that gets each split in COCO form: SPLIT/instances.json, SPLIT/images",
    )
    add_output_options(parser, "the report and the notes", "finding")


def run(args: argparse.Namespace) -> int:
    """Open, check and print; write what was asked for.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    check_outputs(args, [args.source])
    if args.out is not None and args.out.exists():
        raise UsageError(f"{shown(str(args.out))} is already there; name a new folder.")
    if args.work_folder is not None:
        _run(args, args.work_folder)
        return 0
    with tempfile.TemporaryDirectory(prefix="retinanet-") as folder:
        _run(args, Path(folder))
    return 0


def _run(args: argparse.Namespace, work_folder: Path) -> None:
    opened = _open(args, work_folder, args.split)
    report = check_dataset(opened.coco, progress=progress_line("photos checked"))
    _print(opened)
    for sentence in report.sentences():
        print(shown(sentence))
    rows = class_count_rows(report.objects_per_class, report.photos_per_class)
    print(*map(shown, table(rows, ("class", "objects", "photos"))), sep="\n")
    plain = {
        "source": str(args.source),
        "layout": opened.layout,
        "split": opened.split,
        "splits": list(opened.splits),
        "notes": list(opened.notes),
        "report": report.to_dict(),
    }
    write_outputs(args, plain, report.rows(), COLUMNS)
    if args.out is not None:
        for split in opened.splits:
            whole = opened if split == opened.split else _open(args, work_folder, split)
            saved = save_dataset(whole, args.out / split)
            say(f"written: {shown(str(saved.annotation_file))}")


def _open(args: argparse.Namespace, work_folder: Path, split: str | None) -> OpenedDataset:
    return open_dataset(
        args.source,
        work_folder,
        split=split,
        class_names=args.class_names,
        progress=progress_line("opened"),
    )


def _print(opened: OpenedDataset) -> None:
    others = [split for split in opened.splits if split != opened.split]
    more = f" (there is also {', '.join(others)})" if others else ""
    print(shown(f"{opened.layout}, split {opened.split}{more}"))
    for note in opened.notes:
        print(shown(note))


def progress_line(what: str) -> Callable[[int, int], None]:
    """A callback that keeps one line on a terminal, and none elsewhere."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{done:,}/{total:,} {what}", end=end, file=sys.stderr, flush=True)

    return show
