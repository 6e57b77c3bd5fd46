"""The Feature pyramid page: what each level holds of the open picture, and what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pages._shared import engine, pyramid_tabs, truth_panel
from pages._shared.inside import Columns, Scene
from retinanet.cells import map_extent
from retinanet.figures.palette import LEVEL_COLORS
from retinanet.figures.pyramid import (
    level_rows,
    point_numbers,
    point_sentence,
    stage_sentence,
    top_down_sentence,
)
from retinanet.map_view import (
    as_bytes,
    channels_of,
    grid_facts,
    maps_of,
    ranges_of,
)
from retinanet.pyramid import (
    best_scores,
    lateral_strength,
    object_levels,
    top_down_share,
    values_at,
)
from retinanet.receptive import field_box
from retinanet.types import LEVELS, STAGES

TITLES = {
    "strength": "strength",
    "score": "best class score",
    "pca": "main directions",
    "channel": "channel",
}
MAP_WORDS = {
    "strength": "Root mean square over the channels: how much is going on at a place.",
    "score": "The best score of any class at any of the nine anchors of a place.",
    "pca": "The three main directions of the features as red, green and blue; one basis for P3 to "
    "P7, one of its own for each of C3 to C5.",
    "channel": "One channel of the chosen map; below, the sixteen first of the ranking.",
}
STAGE_DASH = [6, 4]
HOW = (
    "Choose a map below the picture. Click the picture for the cell of every map at that place and "
    "what each of them says there."
)
SHOW_ME: list[dict[str, Any]] = [
    {
        "words": "What comes down: P3 with and without",
        "changes": {"map": "strength", "feature": "P3", "lateral": True, "scale": "level"},
    },
    {"words": "One basis, five levels", "changes": {"map": "pca", "feature": "P4"}},
    {
        "words": "Where a level scores",
        "changes": {"map": "score", "feature": "P5", "scale": "all"},
    },
    {"words": "Single channels", "changes": {"map": "channel", "feature": "C3", "channel": -1}},
]
"""What each of these views shows is said by the words beside the map."""

NO_LATERAL = "Only P3, P4 and P5 have a lateral path, and it is compared by strength."


class PyramidPart:
    """The Feature pyramid page's part of the frame."""

    name = "pyramid"
    names = ("point", "object", "map", "feature", "scale", "channel", "rank", "lateral", "frozen")

    def __init__(self) -> None:
        self.tabs: dict[str, Callable[[Scene], None]] = {
            **pyramid_tabs.TABS,
            "Ground truth": truth_panel.show,
        }

    def send_tables(self, scene: Scene) -> None:
        """Nothing: the maps that are shown are small."""

    def answer(self, scene: Scene) -> tuple[dict[str, Any], Columns]:
        """The chosen map, all of its kind as small pictures, and what the panel says."""
        header, columns = _maps(scene)
        header |= {
            "names": list(scene.outputs.categories),
            "feature": shown_feature(scene),
            "objects": _object_words(scene),
            "channels": scene.outputs.features[shown_feature(scene)].shape[0],
            "feature_words": stage_sentence(_row(scene)),
            "place": _place(scene),
            **_story(scene),
        }
        return header, columns


def shown_feature(scene: Scene) -> str:
    """The map over the photo; the finest level where the chosen one has no scores."""
    feature = scene.lens.feature
    return "P3" if scene.lens.map == "score" and feature in STAGES else feature


def _model(scene: Scene) -> Any:
    return engine.get_engine().model(scene.spec)


def _row(scene: Scene) -> dict[str, Any]:
    rows = level_rows(scene.outputs, _model(scene))
    return next(row for row in rows if row["map"] == shown_feature(scene))


def _maps(scene: Scene) -> tuple[dict[str, Any], Columns]:
    outputs, asked = scene.outputs, scene.lens
    feature = shown_feature(scene)
    maps = maps_of(outputs, asked.map)
    columns: Columns = {}
    is_colour = asked.map == "pca"
    ranges = {} if is_colour else ranges_of(outputs, maps, asked.scale, asked.map)
    for name, own in maps.items():
        columns[f"thumb_{name}"] = own if is_colour else as_bytes(own, ranges[name])
    header: dict[str, Any] = {
        "colour": is_colour,
        "thumbs": [
            {"name": name, "words": _range_words(ranges.get(name)), **grid_facts(outputs, name)}
            for name in maps
        ],
        "map": {
            **grid_facts(outputs, feature),
            "extent": map_extent(outputs, feature),
            "title": TITLES[asked.map],
            "words": MAP_WORDS[asked.map],
            "range": ranges.get(feature, (0.0, 1.0)),
        },
        "lateral_words": NO_LATERAL,
    }
    if is_colour:
        columns["rgb"] = maps[feature]
    elif asked.map == "channel":
        _add_channels(scene, feature, header, columns)
    else:
        columns["values"] = maps[feature]
    if asked.map == "score":
        columns["labels"] = best_scores(outputs, feature).label
    if asked.lateral and asked.map == "strength" and feature in LEVELS[:3]:
        columns["lateral"] = lateral_strength(_model(scene), outputs)[feature]
        header["lateral_words"] = top_down_sentence(top_down_share(_model(scene), outputs))
    return header, columns


def _range_words(low_high: tuple[float, float] | None) -> str:
    if low_high is None:
        return ""
    return f"{low_high[0]:.2g} to {low_high[1]:.2g}"


def _add_channels(scene: Scene, feature: str, header: dict[str, Any], columns: Columns) -> None:
    own = channels_of(scene.outputs, feature, scene.lens.rank, scene.lens.channel, scene.lens.scale)
    columns["values"] = own.values
    columns["grid"] = own.grid
    header["map"] |= {"range": own.value_range, "title": f"channel {own.shown}"}
    header["channel"] = own.shown
    header["grid"] = [
        {"channel": number, "words": f"{number}: {_range_words(low_high)}"}
        for number, low_high in zip(own.numbers, own.ranges, strict=True)
    ]


def _object_words(scene: Scene) -> list[str]:
    """Which level an object belongs to by its best anchor."""
    rows = object_levels(scene.outputs, [list(one.box) for one in scene.truth.objects])
    return [
        f"{row['level']}, IoU {row['iou']:.2f}" if row["level"] else "no anchor" for row in rows
    ]


def _place(scene: Scene) -> dict[str, Any] | None:
    """The clicked point's cell on every map, and what the shown map can see from there."""
    if scene.lens.point is None:
        return None
    values = values_at(scene.outputs, *scene.lens.point)
    feature = shown_feature(scene)
    own = next(value for value in values if value["map"] == feature)
    shown = [value for value in values if value["map"] in LEVELS or value["map"] == feature]
    return {
        "cells": [
            {
                "name": value["map"],
                "box": value["cell_box"],
                "color": LEVEL_COLORS.get(value["map"], LEVEL_COLORS.get(f"P{value['map'][1]}")),
                "dash": [] if value["map"] in LEVELS else STAGE_DASH,
            }
            for value in reversed(shown)
        ],
        "field": field_box(_model(scene), scene.outputs, feature, own["row"], own["column"]),
    }


def _story(scene: Scene) -> dict[str, Any]:
    if scene.lens.point is not None:
        values = values_at(scene.outputs, *scene.lens.point)
        return {
            "story": {
                "sentences": [point_sentence(values)],
                "numbers": point_numbers(values),
                "formula": cell_formula(scene),
                "source": "pyramid",
            }
        }
    if scene.lens.hurried:
        return {"story": {"sentences": [stage_sentence(_row(scene)), HOW]}, "more": True}
    shares = top_down_share(_model(scene), scene.outputs)
    sentences = [stage_sentence(_row(scene)), top_down_sentence(shares), HOW]
    return {"story": {"sentences": sentences, "actions": SHOW_ME}}


def cell_formula(scene: Scene) -> str:
    """Where the clicked point's cell of the shown map lies, with its numbers."""
    feature = shown_feature(scene)
    values = values_at(scene.outputs, *scene.lens.point)
    own = next(value for value in values if value["map"] == feature)
    stride = _row(scene)["stride"]
    image_height, image_width = scene.outputs.image_size
    height, width = scene.outputs.original_size
    x, y = scene.lens.point
    return "\n".join(
        [
            "column = round((x image_width / width - 1/2) / stride)",
            f"       = round(({x:g} x {image_width} / {width} - 0.5) / {stride}) = {own['column']}",
            "row    = round((y image_height / height - 1/2) / stride)",
            f"       = round(({y:g} x {image_height} / {height} - 0.5) / {stride}) = {own['row']}",
            "strength = sqrt(mean over the channels of the squares)",
            f"         = {own['strength']:.4g}; {own['percentile']:.0f}% of the map is no stronger",
        ]
    )
