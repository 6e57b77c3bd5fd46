"""What each colour means, on every page and in every exported picture.

Okabe and Ito's colours, which people with any colour vision tell apart, and an ordered ramp
(viridis without its darkest and lightest ends, so that it shows on light and on dark).
"""

from __future__ import annotations

from typing import Any

OKABE_ITO: tuple[str, ...] = (
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#009E73",  # bluish green
    "#F0E442",  # yellow
    "#0072B2",  # blue
    "#D55E00",  # vermillion
    "#CC79A7",  # reddish purple
)
"""Okabe and Ito's palette without its black, which a dark photo would swallow."""

LEVEL_COLORS: dict[str, str] = {
    "P3": "#45317C",
    "P4": "#306A8E",
    "P5": "#209A8A",
    "P6": "#5BC663",
    "P7": "#D6E228",
}
"""Pyramid levels: dark for fine, light for coarse."""

FATE_COLORS: dict[str, str] = {
    "kept": "#009E73",
    "suppressed": "#D55E00",
    "cut_by_topk": "#0072B2",
    "over_limit": "#CC79A7",
    "below_thresh": "#666666",
}
"""What became of a candidate: the keys of `DetectionTrace.counts`."""

FATE_DASHES: dict[str, tuple[int, ...]] = {
    "kept": (),
    "suppressed": (6, 4),
    "cut_by_topk": (2, 3),
    "over_limit": (9, 3, 2, 3),
    "below_thresh": (1, 4),
}
"""The same said without colour: the dash of the line, in pixels on and off."""

CHANGE_STYLES: dict[str, dict[str, Any]] = {
    "gained": {"words": "gained", "color": "#009E73", "dash": (), "mark": "+"},
    "lost": {"words": "lost", "color": "#D55E00", "dash": (6, 4), "mark": "−"},
    "moved": {"words": "moved", "color": "#56B4E9", "dash": (9, 3, 2, 3), "mark": "↔"},
    "relabelled": {"words": "relabelled", "color": "#CC79A7", "dash": (2, 3), "mark": "≠"},
    "unchanged": {"words": "unchanged", "color": "#B8BFC6", "dash": (), "mark": ""},
}
"""What a change of settings did to a detection: a colour, a dash and a mark for each."""

ASSIGNMENT_COLORS: dict[str, str] = {
    "foreground": "#56B4E9",
    "ignored": "#E69F00",
    "background": "#8C8C8C",
}
"""What matching made of an anchor."""

GROUND_TRUTH = "#F0E442"
"""Boxes that a person drew."""

DARK_TEXT = "#101418"
LIGHT_TEXT = "#FFFFFF"


def label_color(label: int) -> str:
    """The colour of a label index as "#RRGGBB"; the seven colours repeat, names tell them apart."""
    return OKABE_ITO[label % len(OKABE_ITO)]


def luminance(color: str) -> float:
    """Relative luminance of "#RRGGBB" in [0, 1], as WCAG 2 defines it."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two colours, 1 (none) to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def text_color(background: str) -> str:
    """Dark or light text, whichever reads better on this background."""
    return max((DARK_TEXT, LIGHT_TEXT), key=lambda text: contrast(text, background))
