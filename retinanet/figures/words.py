"""Words that several sentences share."""

from __future__ import annotations


def better_box(score: float, than: float, category: str = "") -> str:
    """How to call the box that suppressed another: of equal scores the first one stays.

    Args:
        score: of the box that stayed.
        than: of the one that went.
        category: of both; "" leaves it out.
    """
    box = f"{category} box" if category else "box"
    return f"a better {box}" if score > than else f"an equal {box} that comes first"
