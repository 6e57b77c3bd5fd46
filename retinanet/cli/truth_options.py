"""Ground truth on the command line: a file of annotations, or boxes given one by one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinanet.cli.errors import UsageError
from retinanet.cli.files import shown
from retinanet.cli.options import say
from retinanet.truth import MAX_OBJECTS, TruthBox, TruthError, clip_truth
from retinanet.truth_class_names import MAX_BYTES as MAX_NAME_BYTES
from retinanet.truth_class_names import read_class_names
from retinanet.truth_files import MAX_BYTES, TruthFileError, read_truth
from retinanet.types import Image

NAMELESS = "object"
"""The category of a box that is given without one."""


class _CategoryOfBox(argparse.Action):
    """{index of the box: name}: each name is that of the `--box` before it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        names = dict(getattr(namespace, self.dest) or {})
        last = len(namespace.box or []) - 1
        if last < 0:
            raise argparse.ArgumentError(self, "it names the --box before it, and there is none")
        if last in names:
            raise argparse.ArgumentError(self, f"box {last + 1} has one already")
        setattr(namespace, self.dest, names | {last: values})


def add_truth_options(parser: argparse.ArgumentParser) -> None:
    """`--truth` or `--box`, and what belongs to them."""
    truth = parser.add_argument_group("ground truth", "One of --truth and --box is needed.")
    one_of = truth.add_mutually_exclusive_group()
    one_of.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="annotations of the picture: COCO JSON, Pascal VOC XML or YOLO txt",
    )
    one_of.add_argument(
        "--box",
        nargs=4,
        type=float,
        action="append",
        metavar=("X1", "Y1", "X2", "Y2"),
        help="around an object, in pixels of the picture; again for each further object",
    )
    truth.add_argument(
        "--category",
        action=_CategoryOfBox,
        metavar="NAME",
        help='class of the --box before it; "class 2" is label 2 of a model without names',
    )
    truth.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="what the numbers of a YOLO txt mean: classes.txt or data.yaml (COCO's 80 classes)",
    )


def check_truth(args: argparse.Namespace, *, needs_category: bool) -> None:
    """Refuse before the work what is missing.

    Args:
        args: of the command.
        needs_category: a box without a category is of no use.

    Raises:
        UsageError: there is no ground truth, or a category is missing.
    """
    if args.truth is None and not args.box:
        raise UsageError(
            "The objects in the picture are missing: give --truth FILE, or --box X1 Y1 X2 Y2 "
            "--category NAME for each of them."
        )
    if args.class_names is not None and args.truth is None:
        raise UsageError("--class-names says what the numbers of --truth mean; give that, too.")
    names = args.category or {}
    bare = [number for number in range(len(args.box or [])) if number not in names]
    if needs_category and bare:
        raise UsageError(
            f"Box {bare[0] + 1} has no category: follow each --box with its --category NAME."
        )


def truth_inputs(args: argparse.Namespace) -> list[Path]:
    """The person's own files that no result may replace."""
    return [path for path in (Path(args.image), args.truth, args.class_names) if path is not None]


def read_objects(args: argparse.Namespace, image: Image) -> tuple[TruthBox, ...]:
    """The objects in the picture, inside it; what was assumed or cut off is said on stderr.

    Raises:
        UsageError: the file cannot be used, or a box has no area in the picture.
    """
    return _from_boxes(args, image) if args.box else _from_file(args, image)


def _from_file(args: argparse.Namespace, image: Image) -> tuple[TruthBox, ...]:
    try:
        names: tuple[str, ...] = ()
        if args.class_names is not None:
            names = read_class_names(_bytes(args.class_names, MAX_NAME_BYTES))
        data = _bytes(args.truth, MAX_BYTES)
        found = read_truth(
            data, args.truth.name, image_names=[(image.name, image.size)], class_names=names
        )
    except TruthFileError as error:
        raise UsageError(str(error)) from error
    for note in found.notes:
        say(f"{shown(args.truth.name)}: {note}")
    return found.objects_by_image[image.name]


def _bytes(path: Path, limit: int) -> bytes:
    """The file's content, at most a byte more than the limit, so that the reader sees it is so."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        reason = error.strerror or "it is no file"
        raise UsageError(f"{shown(str(path))} cannot be read: {reason}.") from error


def _from_boxes(args: argparse.Namespace, image: Image) -> tuple[TruthBox, ...]:
    if len(args.box) > MAX_OBJECTS:
        raise UsageError(f"There are {len(args.box)} boxes; at most {MAX_OBJECTS} can be used.")
    names = args.category or {}
    return tuple(
        _from_box(number, edges, names.get(number, NAMELESS), image.size)
        for number, edges in enumerate(args.box)
    )


def _from_box(number: int, edges: list[float], category: str, size: tuple[int, int]) -> TruthBox:
    try:
        drawn = TruthBox(category, tuple(edges))
    except TruthError as error:
        raise UsageError(f"Box {number + 1}: {error}") from error
    inside = clip_truth([drawn], size)
    if not inside:
        raise UsageError(
            f"Box {number + 1} has less than 1 px a side inside the picture of {size[0]} x "
            f"{size[1]} pixels."
        )
    if inside[0] != drawn:
        kept = ", ".join(f"{edge:g}" for edge in inside[0].box)
        say(f"Box {number + 1} reaches beyond the picture; {kept} is left of it.")
    return inside[0]
