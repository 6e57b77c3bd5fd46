"""`python -m retinanet benchmark`: speed and memory against torchvision, as ratios."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from retinanet.benchmark import Size, run_benchmark
from retinanet.checkpoints import open_checkpoint
from retinanet.cli.errors import UsageError
from retinanet.cli.files import check_target, write
from retinanet.config import ModelConfig
from retinanet.keymaps import CheckpointError

SUMMARY = "measure speed and memory against torchvision"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    defaults = ModelConfig()
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="medians of this many (%(default)s)")
    parser.add_argument("--min-size", type=int, default=defaults.min_size, help="(%(default)s)")
    parser.add_argument("--max-size", type=int, default=defaults.max_size, help="(%(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="the numbers, to a file")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    if args.repeats < 1:
        raise UsageError("--repeats must be 1 or more.")
    check_target(args.json)
    checked = ModelConfig(min_size=args.min_size, max_size=args.max_size)
    sizes = [Size(f"{checked.min_size}x{checked.max_size}", checked.min_size, checked.max_size)]
    try:
        embedded = open_checkpoint("embedded").config
        sizes.append(Size("embedded model's size", embedded.min_size, embedded.max_size))
    except CheckpointError as error:
        print(f"Not measured at the embedded model's size: {error}", file=sys.stderr)
    report = run_benchmark(
        sizes,
        args.device,
        args.repeats,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(describe(report))
    if args.json:
        write(args.json, json.dumps(report, indent=1).encode())
    return 0


def describe(report: dict[str, Any]) -> str:
    """The report of `run_benchmark` as text."""
    environment, change = report["environment"], report["settings_change"]
    lines = [
        f"{environment['device']}, torch {environment['torch']}, "
        f"torchvision {environment['torchvision']}, medians of {environment['repeats']}",
        "",
        f"New settings on a cached picture, {change['size']} "
        f"({change['entered_nms']:,} candidates, {change['detections']} detections)",
        f"  torchvision runs its model again  {change['torchvision_ms']:10.1f} ms",
        f"  ours, with the ledger of fates    {change['ours_ms']:10.2f} ms   "
        f"{change['times_faster']:,.0f} times faster",
        f"  ours, the first time              {change['first_ms']:10.1f} ms",
    ]
    lines += _inside(report["inside"])
    for part in report["forward"]:
        high, wide = part["image"]
        lines += ["", f"Picture to boxes, {part['size']} ({high} x {wide})"]
        for row in part["rows"]:
            text = f"  {row['name']:<32}  {row['ms']:10.1f} ms"
            if "difference" in row:
                off = row["difference"]
                text += (
                    f"   {row['times_faster']:.2f} times as fast; largest difference "
                    f"{off['box_px']:.2g} px, score {off['score']:.1g}, "
                    f"{off['unmatched']} of {off['detections']} boxes without a partner"
                )
            lines.append(text)
    memory = report["memory"]
    lines += ["", f"Memory ({memory['kind']}) that one call adds at its peak, {change['size']}"]
    for name, peak in memory["peak_of_a_call"].items():
        lines.append(f"  {name:<32}  {_megabytes(peak)}")
    lines.append(
        f"  {'a cached picture holds':<32}  {_megabytes(change['bytes_per_cached_picture'])}"
    )
    lines.append(
        f"  {'this whole process, at its peak':<32}  {_megabytes(memory['peak_of_this_process'])}"
    )
    return "\n".join(lines)


def _inside(part: dict[str, Any]) -> list[str]:
    same = "the same matches" if part["same_matches"] else "OTHER MATCHES"
    lines = [
        "",
        f"New training settings on a cached picture, {part['size']} ({part['anchors']:,} anchors, "
        f"{part['objects']} objects; {same}, loss off by {part['loss_difference']:.1g})",
    ]
    for row in part["rows"]:
        text = f"  {row['name']:<32}  {row['ms']:10.2f} ms"
        if row["name"] != row["against"]:
            text += f"   {row['times_faster']:.2f} times as fast as {row['against']}"
        lines.append(text)
    return lines


def _megabytes(count: int | None) -> str:
    return "not known here" if count is None else f"{count / 1e6:10.0f} MB"
