"""`python -m retinanet card`: measure a checkpoint, and write it again with its card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from retinanet.card_reading import ENTRY
from retinanet.checkpoints import load_model, save_checkpoint
from retinanet.cli.errors import UsageError
from retinanet.cli.evaluate import check_categories, show_stored
from retinanet.cli.files import check_target, shown
from retinanet.cli.options import say, table
from retinanet.cli.train import read_card
from retinanet.coco import load_coco
from retinanet.evaluation import METRICS
from retinanet.model_card import RESAMPLES, measure_card
from retinanet.sweeps import check_bootstrap

SUMMARY = "measure a checkpoint on held-out photos; write its card and thresholds into it"

BEST = 20
"""How many classes are printed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("weights", help="a name or a file")
    parser.add_argument("annotations", type=Path, help="COCO instances JSON of held-out photos")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "--card", type=Path, help="JSON file whose entries replace the card's of the same name"
    )
    parser.add_argument("--out", type=Path, help="checkpoint to write, .safetensors, float16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals (%(default)s)")
    parser.add_argument(
        "--work-folder",
        type=Path,
        default=Path("runs/evaluate"),
        help="what the network said is kept here and used again (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print and save.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    _check_out(args)
    words = read_card(args.card)
    model = load_model(args.weights, device=args.device)
    dataset = load_coco(args.annotations, args.images)
    check_categories(model.category_ids, dataset.category_ids)
    found = measure_card(
        model,
        dataset,
        args.work_folder,
        resamples=args.resamples,
        seed=args.seed,
        progress=show_stored,
    )
    _print(found.card)
    if args.out:
        # In this order the card is read: what people say of the weights comes first. What was
        # measured in training would be a second AP beside this one.
        kept = {n: own for n, own in model.card.items() if n not in (*words, "validation")}
        card = words | kept | {ENTRY: found.card}
        save_checkpoint(model, args.out, card=card, recommended=found.recommended)
        print(f"\n{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


def _check_out(args: argparse.Namespace) -> None:
    """Refuse before the work what would be lost after it."""
    check_bootstrap(args.resamples, args.seed)
    if args.out is not None and args.out.suffix != ".safetensors":
        raise UsageError(f"--out must end in .safetensors, which {args.out} does not.")
    check_target(args.out, [args.annotations, Path(args.weights), *filter(None, [args.card])])


def _print(card: dict[str, Any]) -> None:
    data, metrics = card["data"], card["metrics"]
    print(f"{data['annotations']}: {data['photos']:,} photos, {data['objects']:,} objects")
    for image_id, sentence in data["left_out"]:
        say(f"left out image {image_id}: {shown(sentence)}")
    names = [*METRICS, *(name for name in metrics if name not in METRICS)]
    rows = [{"metric": name} | metrics[name] for name in names]
    columns = ["metric", "value", "low", "high"]
    print("\n".join(table([{c: row.get(c) for c in columns} for row in rows], columns)))
    print(f"interval: {card['interval']}\n")
    print("\n".join(table(card["classes"][:BEST], ["category", "AP50", "AP", "objects"])))
    never = [row["category"] for row in card["classes"] if not row["found"]]
    print(f"never found: {', '.join(never) or 'none'}\n")
    for name in ("thresholds", "size", "speed"):
        print(f"{name}: {json.dumps(card[name])}")
