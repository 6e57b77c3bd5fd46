"""How the text of a link is read: ValueError says what it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def number(low: float, high: float) -> Callable[[str], float]:
    """A number in [low, high]."""

    def parse(text: str) -> float:
        value = _as(float, text)
        if value is None or not low <= value <= high:  # also refuses nan
            raise ValueError(f"it takes {low:g} to {high:g}")
        return value

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number in [low, high]."""

    def parse(text: str) -> int:
        value = _as(int, text)
        if value is None or not low <= value <= high:
            raise ValueError(f"it takes {low:,} to {high:,}")
        return value

    return parse


def _as(kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


def one_of(options: tuple[str, ...]) -> Callable[[str], str]:
    """One of these words."""

    def parse(text: str) -> str:
        if text not in options:
            raise ValueError(f"it takes {', '.join(options)}")
        return text

    return parse


def corners(text: str) -> tuple[float, float, float, float]:
    """Four finite numbers, to a hundredth."""
    values = [_as(float, part) for part in text.split(",")]
    if len(values) != 4 or any(v is None or not math.isfinite(v) for v in values):
        raise ValueError("it takes four corners x1,y1,x2,y2 in pixels")
    return tuple(round(value, 2) for value in values)  # type: ignore[return-value]
