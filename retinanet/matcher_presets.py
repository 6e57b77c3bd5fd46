"""Matching bounds that have a name, from the paper's to an extreme, each with what it does."""

from __future__ import annotations

from typing import NamedTuple

from retinanet.config import MatcherConfig


class MatcherPreset(NamedTuple):
    """Named bounds.

    Args:
        name: short, for a link.
        title: a few words for a list.
        config: the settings.
        purpose: what they do, a sentence.
    """

    name: str
    title: str
    config: MatcherConfig
    purpose: str


MATCHER_PRESETS: tuple[MatcherPreset, ...] = (
    MatcherPreset(
        "torchvision",
        "torchvision, 0.4 / 0.5",
        MatcherConfig(0.5, 0.4, True),
        "The paper's bounds, and every object keeps the anchors that fit it best, however badly.",
    ),
    MatcherPreset(
        "paper",
        "Paper, 0.4 / 0.5",
        MatcherConfig(0.5, 0.4, False),
        "Section 4 of the paper: an object that no anchor reaches with IoU 0.5 trains nothing.",
    ),
    MatcherPreset(
        "rpn",
        "Faster R-CNN's RPN, 0.3 / 0.7",
        MatcherConfig(0.7, 0.3, True),
        "Fewer and tighter foreground anchors; more are ignored, and more objects are forced.",
    ),
    MatcherPreset(
        "extreme",
        "Extreme, 0.1 / 0.9",
        MatcherConfig(0.9, 0.1, True),
        "Nearly every anchor on an object is ignored: what trains on it is little but forced ones.",
    ),
)
"""In the order in which they are offered; the numbers are background / foreground."""
