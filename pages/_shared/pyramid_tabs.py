"""What is read on the Feature pyramid page: the levels, who takes what, the architecture."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import streamlit as st

from pages._shared import engine, lens, reading, state
from pages._shared.answering import POLL_SECONDS
from pages._shared.inside import Scene, knobs_trace
from pages._shared.state import BADGES
from retinanet.architecture import frozen_view
from retinanet.backbone import Backbone
from retinanet.checkpoints import NAMED
from retinanet.config import FROZEN_STAGES_RANGE
from retinanet.figures.architecture import (
    architecture_figure,
    architecture_rows,
    architecture_sentence,
    fits_rows,
)
from retinanet.figures.maps import overlay_figure
from retinanet.figures.pyramid import (
    level_rows,
    levels_figure,
    levels_sentence,
    map_rows,
    point_rows,
    point_sentence,
    top_down_rows,
    top_down_sentence,
)
from retinanet.fitting import weights_that_fit
from retinanet.map_view import channels_of, maps_of, ranges_of
from retinanet.pyramid import detection_levels, object_levels, top_down_share, values_at
from retinanet.types import STAGES

PREDICTION = (
    r"k_0 + \log_2(\sqrt{wh}/224) \text{ hands regions to levels in FPN; RetinaNet uses } "
    r"\arg\max_l \max_{a \in A_l} \mathrm{IoU}(a, \text{object})"
)


def _model(scene: Scene) -> Any:
    return engine.get_engine().model(scene.spec)


def _levels(scene: Scene) -> None:
    rows = level_rows(scene.outputs, _model(scene))
    reading.figure_panel(
        "levels",
        levels_figure(rows),
        rows,
        levels_sentence(rows),
        "**What you see.** For each map its stride, the sizes of its anchors, and how much of the "
        "picture one cell can see.\n\n"
        "**Why it matters.** A level can only find what fits its anchors, and only judge what its "
        "receptive field takes in. Group norm (variant v2) lets a subnet see statistics of the "
        "whole map besides.\n\n"
        "**Try this.** Choose random weights at depth 18 and watch the receptive fields shrink.",
    )
    reading.table("levels_table", rows)


def _who_takes_what(scene: Scene) -> None:
    rows = object_levels(scene.outputs, [list(one.box) for one in scene.truth.objects])
    for row, one in zip(rows, scene.truth.objects, strict=True):
        row["object"] = one.category
    left, right = st.columns([5, 3], gap="large", wrap=True)
    with left:
        st.markdown("**Ground truth: IoU with the best anchor of each level**")
        reading.table("object_levels", rows)
        st.markdown("**Detections: the level that each came from**")
        found = detection_levels(knobs_trace(scene))
        shown = [{k: v for k, v in row.items() if k not in ("label", "box")} for row in found]
        reading.table("detection_levels", shown)
    with right:
        st.markdown(
            "**What you see.** An object belongs to the level whose anchors fit it best; a "
            "detection comes from the level whose anchor it was decoded from.\n\n"
            "**Why it matters.** When the two differ, the detector found the object with anchors "
            "that were never trained on it.\n\n"
            "**Try this.** Make an object twice as large with the handles: it moves up one level."
        )
        reading.formula("How an object finds its level", PREDICTION)


def _top_down(scene: Scene) -> None:
    shares = top_down_share(_model(scene), scene.outputs)
    left, right = st.columns([5, 3], gap="large", wrap=True)
    with left:
        st.markdown(f"**{state.plain(top_down_sentence(shares))}**")
        rows = top_down_rows(shares)
        reading.table("top_down", rows)
    with right:
        st.markdown(
            "**What you see.** How much of each merged map the coarser levels brought, as the "
            "root mean square of the difference to the lateral path alone.\n\n"
            "**Why it matters.** C3 sees detail and little meaning; what comes down says *this is "
            "part of a person* to cells that see only cloth.\n\n"
            "**Try this.** Tick *lateral path alone beside the merged map* next to the picture and "
            "drag the line."
        )
        reading.formula(
            "The merge",
            r"P_l = \mathrm{conv}_{3\times3}\bigl(\mathrm{conv}_{1\times1}(C_l) + "
            r"\mathrm{up}_{2\times}(M_{l+1})\bigr)",
            "M is the merged map before the 3x3 convolution; up copies the nearest neighbour, "
            "which shifts what comes down by up to a cell and a half on P3.",
        )


def _this_map(scene: Scene) -> None:
    asked = scene.lens
    if asked.map == "pca":
        st.caption("The main directions are a picture already; choose another map to export it.")
        return
    feature = "P3" if asked.map == "score" and asked.feature in STAGES else asked.feature
    if asked.map == "channel":
        own = channels_of(scene.outputs, feature, asked.rank, asked.channel, asked.scale)
        values, (low, high) = own.values, own.value_range
        title = f"{feature}, channel {own.shown}"
    else:
        maps = maps_of(scene.outputs, asked.map)
        values = maps[feature]
        low, high = ranges_of(scene.outputs, maps, asked.scale, asked.map)[feature]
        title = f"{feature}, {asked.map}"
    reading.figure_panel(
        "map",
        overlay_figure(scene.picture.image, scene.outputs, values, feature, low, high, title),
        map_rows(scene.outputs, feature, values),
        f"{title}: colours from {low:.3g} to {high:.3g}.",
        "**What you see.** The map of the picture above as a figure that can be saved, and its "
        "values cell by cell.\n\n"
        "**Why it is aligned.** All strided convolutions here are centred, so a cell belongs to "
        "the pixel at its index times the stride. Stretching the map over the photo would shift it "
        "by up to half a cell, and by the padding.",
    )


def _point(scene: Scene) -> None:
    if scene.lens.point is None:
        st.caption("Click the picture: what every map says at that place is listed here.")
        return
    values = values_at(scene.outputs, *scene.lens.point)
    rows = point_rows(values)
    st.markdown(f"**{state.plain(point_sentence(values))}**")
    reading.table("point", rows)


def _architecture(scene: Scene) -> None:
    progress = engine.ask_profile(scene.spec, scene.picture.image)
    if progress.state == "failed":
        st.error(state.plain(progress.sentence))
        return
    if progress.state == "working":
        st.info(f"{progress.sentence}.")
        _look_again(scene)
        return
    own = engine.get_engine().profile(scene.picture.image, scene.spec)
    st.markdown(f"**Frozen stages** {BADGES['training only']}")
    st.session_state["frozen_choice"] = scene.lens.frozen  # also after Back and Forward
    st.select_slider(
        "frozen_stages",
        range(FROZEN_STAGES_RANGE[0], FROZEN_STAGES_RANGE[1] + 1),
        key="frozen_choice",
        on_change=lambda: lens.change(frozen=st.session_state["frozen_choice"]),
        label_visibility="collapsed",
        help="-1 trains everything; 0 freezes the stem; n freezes the stem and layer1 to layer n.",
    )
    view = frozen_view(_model(scene), scene.lens.frozen)
    st.caption(
        f"frozen_stages {view.frozen_stages}: training would change {view.trainable:,} of "
        f"{view.parameters:,} parameters ({view.trainable / view.parameters:.0%}). A model that is "
        "not being trained stays as it is."
    )
    reading.figure_panel(
        "architecture",
        architecture_figure(own, view),
        architecture_rows(own),
        architecture_sentence(own),
        "**What you see.** The network that answers, drawn from the live model: the shape after "
        "each block for this picture, parameters, multiply-accumulates, and its share of the time "
        "of one pass just measured.\n\n"
        "**Why it matters.** The two subnets run on every level with the same weights; at a large "
        "input they, not the ResNet, are most of the work.\n\n"
        "**Try this.** Choose random weights in the sidebar and change depth or num_convs: this "
        "rebuilds the model, and the table below says which weights still fit.",
    )
    reading.source("The function that freezes", inspect.getsource(Backbone.freeze))
    st.markdown("**Which weights fit this shape**")
    reading.table("weights_that_fit", fits_rows(weights_that_fit(scene.config)))


@st.fragment(run_every=POLL_SECONDS)
def _look_again(scene: Scene) -> None:
    if engine.ask_profile(scene.spec, scene.picture.image).state != "working":
        st.rerun()


def _python(scene: Scene) -> None:
    own = scene.picture
    load = f"load_sample({own.key!r})" if own.is_sample else f"rn.load_image({own.image.name!r})"
    weights = scene.spec.weights if scene.spec.weights in NAMED else "your_checkpoint.pth"
    feature = scene.lens.feature
    lines = [
        "import retinanet as rn",
        "from retinanet.figures.maps import overlay_figure",
        "from retinanet.pyramid import strength, values_at",
        *(["from retinanet.samples import load_sample"] if own.is_sample else []),
        "",
        f"image = {load}",
        f"outputs = rn.load_model({weights!r}, {scene.spec.overrides()!r})(image)",
        f"values = strength(outputs, {feature!r})",
        f"overlay_figure(image, outputs, values, {feature!r}, 0, values.max(), {feature!r}).show()",
        *([f"print(values_at(outputs, *{scene.lens.point}))"] if scene.lens.point else []),
    ]
    st.caption("This gives the same maps in Jupyter.")
    st.code("\n".join(lines), language="python", wrap_lines=True)


TABS: dict[str, Callable[[Scene], None]] = {
    "Levels": _levels,
    "Architecture": _architecture,
    "Which level takes what": _who_takes_what,
    "Top-down path": _top_down,
    "This point": _point,
    "This map": _this_map,
    "In Python": _python,
}
"""In the order in which they are offered."""
