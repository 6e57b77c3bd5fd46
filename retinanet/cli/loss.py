"""`python -m retinanet loss`: the loss of a picture with its objects, and who holds it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retinanet.assignment import AssignmentTrace, assign
from retinanet.cli.errors import UsageError
from retinanet.cli.files import shown
from retinanet.cli.options import (
    add_matcher_options,
    add_model_options,
    add_output_options,
    add_settings,
    check_outputs,
    given,
    matcher_config,
    model_spec,
    say,
    table,
    write_outputs,
)
from retinanet.cli.truth_options import (
    add_truth_options,
    check_truth,
    read_objects,
    truth_inputs,
)
from retinanet.config import LossConfig, MatcherConfig
from retinanet.devices import device_title
from retinanet.engine import Engine
from retinanet.figures.focal import holders_rows, percent, prior_rows, shares_rows
from retinanet.figures.focal_words import (
    cdf_sentence,
    holders_sentence,
    prior_sentence,
    shares_sentence,
)
from retinanet.images import load_image
from retinanet.loss_shares import (
    CDF_GAMMAS,
    Holders,
    hardest_shares,
    holders,
    shares_over_gamma,
)
from retinanet.losses import LossTrace, compute_loss
from retinanet.loudest import Loud, loudest
from retinanet.prior import FirstLoss, compare_priors
from retinanet.truth import Labelled, labelled
from retinanet.types import Image, Outputs

SUMMARY = "the loss of a picture with its objects, and who holds it"

LOSS_OPTIONS: dict[str, str] = {
    "alpha": "weight of the foreground's term; 1 - alpha is the background's",
    "gamma": "focusing: how far the easy pairs are silenced; 0 is cross entropy",
}

KINDS: dict[str, str] = {"foreground": "positive", "background": "negative"}
"""What an anchor trains on, and what `loudest` calls it."""

FATES: tuple[str, ...] = ("foreground", "ignored", "background")

EDGES: tuple[str, ...] = ("x1", "y1", "x2", "y2")

CSV_COLUMNS: tuple[str, ...] = (
    *("file", "fate", "anchor", "level", "loss", "share", "category", "score", "best_iou"),
    *EDGES,
    *(f"predicted_{edge}" for edge in EDGES),
    "sentence",
)


@dataclass(frozen=True, eq=False)
class Losses:
    """A picture's loss and what is said of it.

    Args:
        outputs: of the picture.
        known: the objects of the model's classes, in its terms.
        match: of its anchors to them.
        loss: the loss.
        holders: who holds it.
        hardest: {side: {gamma: what the hardest 20% hold}}.
        shares: what the foreground holds, by alpha and gamma.
        priors: the first loss of a fresh head, by prior.
        loudest: {fate: the anchors with most of the loss}.
    """

    outputs: Outputs
    known: Labelled
    match: AssignmentTrace
    loss: LossTrace
    holders: Holders
    hardest: dict[str, dict[float, float]]
    shares: list[dict[str, float]]
    priors: list[FirstLoss]
    loudest: dict[str, list[Loud]]

    @property
    def sentences(self) -> dict[str, str]:
        """{what it is about: the sentence}."""
        return {
            "holders": holders_sentence(self.holders),
            **{side: cdf_sentence(side, shares) for side, shares in self.hardest.items()},
            "alpha_and_gamma": shares_sentence(self.shares, self.loss.config.gamma),
            "prior": prior_sentence(self.priors),
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; those of the settings have the settings' names."""
    parser.add_argument("image", metavar="IMAGE", help="the picture")
    parser.add_argument(
        "--loudest",
        type=int,
        default=5,
        metavar="N",
        help="so many foreground and so many background anchors with most loss (%(default)s)",
    )
    add_truth_options(parser)
    add_settings(parser.add_argument_group("focal loss"), LOSS_OPTIONS, LossConfig())
    add_matcher_options(parser)
    add_output_options(parser, "all of it as plain data", "of the loudest anchors")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compute the loss, print and write.

    Returns:
        The exit code, 0. Bad input raises the error of the room that found it.
    """
    spec = model_spec(args)
    check_truth(args, needs_category=True)
    if args.loudest < 0:
        raise UsageError(f"--loudest must be 0 or more, not {args.loudest}.")
    matcher, config = matcher_config(args), LossConfig(**given(args, LOSS_OPTIONS))
    check_outputs(args, truth_inputs(args))
    image = load_image(args.image)
    objects = read_objects(args, image)

    engine = Engine(args.device, args.precision, cache_bytes=0)
    model = engine.model(spec)
    known = labelled(objects, model.categories, model.config.num_classes)
    if known.unknown:
        names = ", ".join(map(shown, known.unknown))
        say(f"Left out, as {shown(model.name)} has no such class: {names}.")
    say(f"{model.name} on {device_title(engine.device)}, {args.precision}")
    outputs = engine.outputs(image, spec)
    losses = losses_of(outputs, known, matcher, config, args.loudest)
    print(describe(image, losses))
    plain = {"file": shown(image.name), "size": list(image.size), "model": model.name}
    write_outputs(args, plain | to_plain(losses), csv_rows(image, losses), CSV_COLUMNS)
    return 0


def losses_of(
    outputs: Outputs, known: Labelled, matcher: MatcherConfig, config: LossConfig, count: int
) -> Losses:
    """The loss and what is said of it, with `count` of the loudest anchors of either fate."""
    match = assign(outputs, known.boxes, known.labels, matcher)
    loss = compute_loss(outputs, match, config)
    gammas = sorted({*CDF_GAMMAS, config.gamma})
    return Losses(
        outputs=outputs,
        known=known,
        match=match,
        loss=loss,
        holders=holders(outputs, match, config),
        hardest=hardest_shares(outputs, match, gammas),
        shares=shares_over_gamma(outputs, match),
        priors=compare_priors(outputs, match, config),
        loudest={fate: loudest(outputs, match, loss, kind, count) for fate, kind in KINDS.items()},
    )


def describe(image: Image, losses: Losses) -> str:
    """The totals, each level's part, who holds the loss, and the loudest anchors."""
    width, height = image.size
    loss, config = losses.loss, losses.loss.config
    shares = ("cross_entropy_loss_share", "focal_loss_share")
    groups = [
        row | {name: percent(row[name]) for name in shares} for row in holders_rows(losses.holders)
    ]
    lines = [
        f"{shown(image.name)}, {width} x {height} pixels",
        f"Classification loss {float(loss.classification):.4f}, box loss "
        f"{float(loss.bbox_regression):.4f} (alpha {config.alpha:g}, gamma {config.gamma:g}; "
        f"{loss.num_foreground:,} foreground anchors)",
        *table(level_rows(losses), ("level", "classification", "bbox_regression", *FATES)),
        losses.sentences["holders"],
        *table(groups, ("group", "pairs", *shares)),
        *(text for about, text in losses.sentences.items() if about != "holders"),
    ]
    for fate, found in losses.loudest.items():
        if found:
            lines += [f"Loudest {fate} anchors:", *map(_loud_line, found)]
    return "\n".join(lines)


def _loud_line(one: Loud) -> str:
    box = ", ".join(f"{edge:.0f}" for edge in one.box)
    return f"  {percent(one.share)} of the loss, {one.level} [{box}]: {one.sentence}"


def level_rows(losses: Losses) -> list[dict[str, Any]]:
    """One row per level and one for all of them: the losses and the number of anchors by fate."""
    counts = losses.match.counts_per_level
    rows = [
        {"level": level, **parts, **counts[level]} for level, parts in losses.loss.per_level.items()
    ]
    totals = {
        "classification": float(losses.loss.classification),
        "bbox_regression": float(losses.loss.bbox_regression),
    }
    return [*rows, {"level": "all", **totals, **losses.match.counts}]


def to_plain(losses: Losses) -> dict[str, Any]:
    """All of it as plain data: boxes in pixels of the picture, losses over the foreground."""
    known, loss = losses.known, losses.loss
    return {
        "config": losses.outputs.config.to_dict(),
        "loss": loss.config.to_dict(),
        "matcher": losses.match.config.to_dict(),
        "objects": [
            {"category": losses.outputs.category_name(label), "label": label, "box": box}
            for label, box in zip(known.labels, known.boxes, strict=True)
        ],
        "left_out": list(known.unknown),
        "classification": float(loss.classification),
        "bbox_regression": float(loss.bbox_regression),
        "num_foreground": loss.num_foreground,
        "levels": level_rows(losses),
        "sentences": losses.sentences,
        "holders": holders_rows(losses.holders),
        "hardest_20_percent": [
            {"side": side, "gamma": gamma, "share_of_loss": share}
            for side, shares in losses.hardest.items()
            for gamma, share in shares.items()
        ],
        "alpha_and_gamma": shares_rows(losses.shares),
        "prior": prior_rows(losses.priors),
        "loudest": {fate: list(map(asdict, found)) for fate, found in losses.loudest.items()},
    }


def csv_rows(image: Image, losses: Losses) -> list[dict[str, Any]]:
    """A row for each of the loudest anchors: `CSV_COLUMNS` -> value."""
    return [
        {
            "file": shown(image.name),
            "fate": fate,
            "anchor": one.anchor,
            "level": one.level,
            "loss": one.loss,
            "share": one.share,
            "category": one.category,
            "score": one.score,
            "best_iou": one.max_iou,
            **_edges("", one.box),
            **_edges("predicted_", one.predicted_box),
            "sentence": one.sentence,
        }
        for fate, found in losses.loudest.items()
        for one in found
    ]


def _edges(lead: str, box: Sequence[float]) -> dict[str, float]:
    return {f"{lead}{edge}": round(value, 2) for edge, value in zip(EDGES, box, strict=True)}
