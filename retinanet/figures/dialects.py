"""The four dialects side by side."""

from __future__ import annotations

from typing import Any

from retinanet.config import MatcherConfig
from retinanet.dialects import DIALECTS, dialect_differences, match_dialect
from retinanet.layout import AnchorLayout


def dialect_rows(layout: AnchorLayout, boxes: Any, config: MatcherConfig) -> list[dict[str, Any]]:
    """One row per dialect: what its anchors are, and how many differ from torchvision's.

    Args:
        layout: of the picture.
        boxes: [G, 4] xyxy in ORIGINAL pixels.
        config: the two bounds.
    """
    rows = []
    for dialect in DIALECTS:
        match = match_dialect(dialect.name, layout, boxes, config)
        difference = dialect_differences("torchvision", dialect.name, layout, boxes, config)
        rows.append(
            {
                "dialect": dialect.title,
                **match.counts,
                "forced": int(match.is_low_quality.sum()),
                "anchors that differ from torchvision": len(difference.indices),
                **{f"why: {reason}": count for reason, count in difference.counts.items()},
            }
        )
    return rows
