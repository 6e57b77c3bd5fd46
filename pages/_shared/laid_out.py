"""Where a picture's anchors lie: worked out once, and told to the browser in a few numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import streamlit as st

from retinanet.anchors import AnchorShape, cell_anchors, level_strides
from retinanet.layout import AnchorLayout, layout_of


@st.cache_resource(max_entries=16, show_spinner=False)
def laid_out(
    original_size: tuple[int, int], min_size: int, max_size: int, shape: AnchorShape
) -> AnchorLayout:
    """The anchors of a picture of (height, width) at an input size."""
    return layout_of(original_size, min_size, max_size, shape)


def layout_for_browser(layout: AnchorLayout) -> dict[str, Any]:
    """What `match.js` lays the same anchors out from; "key" names them."""
    strides = level_strides(layout.padded_size, layout.grid_sizes)
    levels = [
        {
            "rows": rows,
            "columns": columns,
            "stride": stride,
            "cells": cell_anchors(sizes, layout.shape.aspect_ratios).tolist(),
        }
        for (rows, columns), stride, sizes in zip(
            layout.grid_sizes, strides, layout.shape.sizes(), strict=True
        )
    ]
    plain = {
        "levels": levels,
        "image_size": layout.image_size,
        "original_size": layout.original_size,
    }
    return {**plain, "key": hashlib.sha256(repr(plain).encode()).hexdigest()[:16]}
