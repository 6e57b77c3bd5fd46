"""The Anchors page: which anchors would train on which object, and why not more of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import streamlit as st

from pages._shared import reading, state, truth_panel, view
from pages._shared.canvas.lens_kit import FATE_NUMBERS
from pages._shared.inside import Columns, Scene
from pages._shared.laid_out import laid_out, layout_for_browser
from pages._shared.trained import kept_match
from retinanet.anchor_cell import anchor_cell
from retinanet.anchors import DEFAULT_SHAPE, AnchorShape
from retinanet.assignment import AssignmentTrace, assign_anchors
from retinanet.config import MatcherConfig
from retinanet.coverage import ObjectCoverage, Remedies, object_coverage, remedies, scaled_max_size
from retinanet.dialects import (
    DIALECTS,
    REASONS,
    Difference,
    dialect_differences,
    dialect_sentence,
    find_dialect,
)
from retinanet.figures.anchor_cell import cell_numbers, cell_sentence, iou_formula
from retinanet.figures.anchors import (
    bounds_sentence,
    coverage_rows,
    coverage_sentence,
    imbalance_figure,
    imbalance_rows,
    imbalance_sentence,
    iou_histogram,
    iou_histogram_rows,
)
from retinanet.figures.dialects import dialect_rows
from retinanet.figures.palette import OKABE_ITO
from retinanet.layout import AnchorLayout
from retinanet.types import LEVELS

REASON_STYLES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (OKABE_ITO[0], ()),
    (OKABE_ITO[1], (6, 4)),
    (OKABE_ITO[5], (2, 3)),
    (OKABE_ITO[6], (9, 3, 2, 3)),
    (OKABE_ITO[3], (1, 4)),
)
"""Colour and dash of each of `REASONS`."""

TOLD = 6
"""Objects whose remedies are searched for the tab: each takes a moment."""

SHAPE_WARNING = (
    "Other anchors than the paper's: trained weights do not fit them, as every box was learned "
    "relative to the old ones. What you see is what training anew would start from."
)
SHAPE_REST = (
    "These anchors are what the weights were trained with. Others can be tried here, and need "
    "training anew."
)
COST_WORDS = (
    "The bounds decide which anchors train on what. They change no box of a trained model: its "
    "weights already are what they are."
)


class AnchorsPart:
    """The Anchors page's part of the frame."""

    name = "anchors"
    names = (
        *("level", "point", "object", "show", "range", "dialect"),
        *("base_size", "scales", "aspect_ratios"),
    )

    def __init__(self) -> None:
        self.tabs: Mapping[str, Callable[[Scene], None]] = {
            "Objects": _objects_tab,
            "Class imbalance": _imbalance_tab,
            "Best IoU": _iou_tab,
            "Dialects": _dialects_tab,
            "Ground truth": truth_panel.show,
            "In Python": _python_tab,
        }

    def send_tables(self, scene: Scene) -> None:
        """Nothing: the browser lays the anchors out itself."""

    def answer(self, scene: Scene) -> tuple[dict[str, Any], Columns]:
        """The layout, what each anchor is, and what the panel says."""
        layout, match = matched(scene)
        coverages = object_coverage(match, layout)
        header: dict[str, Any] = {
            "layout": layout_for_browser(layout),
            "counts": _counts(match),
            "objects": [
                {
                    "iou": one.best_iou,
                    "foreground": one.num_foreground,
                    "forced": one.num_foreground - one.num_natural,
                }
                for one in coverages
            ],
            "shape_words": SHAPE_REST if layout.shape == DEFAULT_SHAPE else SHAPE_WARNING,
            "cell": None,
        }
        header |= _story(scene, layout, match, coverages)
        columns: Columns = {"states": _states(match)}
        if scene.lens.show == "dialect":
            difference = difference_of(scene, layout, match)
            header["dialect"] = _dialect_for_browser(difference)
            columns["different"] = difference.indices.numpy()
            columns["reasons"] = np.array(
                [REASONS.index(reason) for reason in difference.reasons], np.uint8
            )
        return header, columns


def _boxes(scene: Scene) -> list[list[float]]:
    return [list(one.box) for one in scene.truth.objects]


def layout_for(scene: Scene) -> AnchorLayout:
    """The anchors of the open picture with the shape that is set."""
    return laid_out(
        scene.outputs.original_size, scene.config.min_size, scene.config.max_size, scene.lens.shape
    )


def matched(scene: Scene) -> tuple[AnchorLayout, AssignmentTrace]:
    """The anchors of the open picture and what they would train on."""
    layout = layout_for(scene)
    boxes = _boxes(scene)
    # The labels do not matter here, so that objects of unknown classes are matched too.
    asked = (layout.original_size, layout.image_size, layout.shape, boxes)
    return layout, kept_match(asked, lambda matcher: assign_anchors(layout, boxes, config=matcher))


def _states(match: AssignmentTrace) -> np.ndarray:
    """What each anchor is, as `match.js` numbers it."""
    matched_idxs = match.matched_idxs.cpu().numpy()
    states = np.full(len(matched_idxs), FATE_NUMBERS["foreground"], np.uint8)
    states[matched_idxs == -1] = FATE_NUMBERS["background"]
    states[matched_idxs == -2] = FATE_NUMBERS["ignored"]
    states[match.is_low_quality.cpu().numpy()] = FATE_NUMBERS["forced"]
    return states


def _counts(match: AssignmentTrace) -> list[list[int]]:
    """Per level background, ignored, foreground, and of these forced."""
    forced = match.is_low_quality.split(match.anchors_per_level)
    return [
        [counts["background"], counts["ignored"], counts["foreground"], int(low.sum())]
        for counts, low in zip(match.counts_per_level.values(), forced, strict=True)
    ]


def difference_of(scene: Scene, layout: AnchorLayout, match: AssignmentTrace) -> Difference:
    """What the chosen dialect trains otherwise than torchvision."""
    return dialect_differences(
        "torchvision", scene.lens.dialect, layout, _boxes(scene), match.config
    )


def _dialect_for_browser(difference: Difference) -> dict[str, Any]:
    counts = difference.counts
    return {
        "title": find_dialect(difference.other).title,
        "reasons": [
            {"words": reason, "count": counts[reason], "color": color, "dash": dash}
            for reason, (color, dash) in zip(REASONS, REASON_STYLES, strict=True)
        ],
    }


# ------------------------------------------------------------------ the panel


def _story(
    scene: Scene,
    layout: AnchorLayout,
    match: AssignmentTrace,
    coverages: list[ObjectCoverage],
) -> dict[str, Any]:
    if scene.lens.point is not None:
        return _cell_story(scene, layout, match)
    if 0 <= scene.lens.object < len(coverages):
        return _object_story(scene, layout, coverages[scene.lens.object])
    lost = [one for one in coverages if one.status != "natural"]
    sentences = [bounds_sentence(match.config), COST_WORDS]
    if lost:
        names = ", ".join(scene.truth.objects[one.gt].category for one in lost[:6])
        sentences.insert(0, f"Without an anchor of its own: {names}. Select it to be told why.")
    sentences.append("Click the picture for the anchors of a place; drag an object to see it live.")
    return {"story": {"sentences": sentences}}


def _object_story(scene: Scene, layout: AnchorLayout, own: ObjectCoverage) -> dict[str, Any]:
    config = view.current().matcher
    name = scene.truth.objects[own.gt].category
    if scene.lens.hurried:
        return {
            "story": {"sentences": [coverage_sentence(own, name, config)]},
            "more": True,
        }
    ways = remedies_of(scene, layout, own.gt, config)
    sentence = coverage_sentence(own, name, config, ways)
    row = coverage_rows([own], [name])[0]
    return {
        "story": {
            "sentences": [sentence],
            "actions": _actions(scene, own, ways),
            "numbers": [[key, _shown(value)] for key, value in row.items()],
            "formula": iou_formula(layout, own.best_anchor, _boxes(scene)[own.gt]),
            "source": "anchors",
        }
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _actions(scene: Scene, own: ObjectCoverage, ways: Remedies) -> list[dict[str, Any]]:
    """What gives the object an anchor of its own, as buttons."""
    if own.status == "natural":
        return []
    actions = []
    matcher = view.current().matcher
    if ways.fg_iou_thresh is not None:
        low = min(matcher.bg_iou_thresh, ways.fg_iou_thresh)
        changes = {"training": {"fg_iou_thresh": ways.fg_iou_thresh, "bg_iou_thresh": low}}
        actions.append({"words": f"fg_iou_thresh {ways.fg_iou_thresh:g}", "changes": changes})
    if ways.min_size is not None:
        actions.append({"words": f"min_size {ways.min_size} px", "command": _sized(scene, ways)})
    shape = scene.lens.shape
    if ways.scale is not None:
        changes = {"scales": sorted([*shape.scales, ways.scale])}
        actions.append({"words": f"One more scale, {ways.scale:g}", "changes": changes})
    if ways.aspect_ratio is not None:
        changes = {"aspect_ratios": sorted([*shape.aspect_ratios, ways.aspect_ratio])}
        actions.append({"words": f"One more ratio, {ways.aspect_ratio:g}", "changes": changes})
    return actions


def _sized(scene: Scene, ways: Remedies) -> str:
    config = scene.config
    largest = scaled_max_size(config.min_size, config.max_size, ways.min_size)
    return f"size {ways.min_size} {largest}"


def remedies_of(scene: Scene, layout: AnchorLayout, index: int, config: MatcherConfig) -> Remedies:
    """What would give an object an anchor of its own; searched once for the same question."""
    boxes = tuple(one.box for one in scene.truth.objects)
    sizes = (scene.config.min_size, scene.config.max_size)
    return _searched(layout.original_size, layout.shape, boxes, index, config, sizes)


@st.cache_data(max_entries=512, show_spinner=False)
def _searched(
    original_size: tuple[int, int],
    shape: AnchorShape,
    boxes: tuple[tuple[float, ...], ...],
    index: int,
    config: MatcherConfig,
    sizes: tuple[int, int],
) -> Remedies:
    layout = laid_out(original_size, *sizes, shape)
    return remedies(
        layout, [list(b) for b in boxes], index, config, min_size=sizes[0], max_size=sizes[1]
    )


def _cell_story(scene: Scene, layout: AnchorLayout, match: AssignmentTrace) -> dict[str, Any]:
    level = scene.lens.level if scene.lens.level in LEVELS else None
    cell = anchor_cell(layout, match, scene.lens.point, level)
    names = [one.category for one in scene.truth.objects]
    states = _states(match)
    anchors = [
        {"box": one["box_original"], "state": int(states[one["index"]])} for one in cell["anchors"]
    ]
    best = cell["anchors"][cell["best"]]
    story = {
        "sentences": [cell_sentence(cell, names)],
        "numbers": cell_numbers(cell, names),
        "formula": "No object is there to compare with.",
        "source": "anchors",
    }
    if best["best_gt"] is not None:
        story["formula"] = iou_formula(layout, best["index"], _boxes(scene)[best["best_gt"]])
    return {"cell": {"anchors": anchors}, "story": story}


# ------------------------------------------------------------------ what is read


def _objects_tab(scene: Scene) -> None:
    layout, match = matched(scene)
    names = [one.category for one in scene.truth.objects]
    coverages = object_coverage(match, layout)
    rows = coverage_rows(coverages, names)
    if not rows:
        st.caption(
            "There is no object: every anchor is background. Draw one on the picture, or bring "
            "annotations in the tab Ground truth."
        )
        return
    left, right = st.columns([5, 3], gap="large", wrap=True)
    with left:
        reading.table("objects", rows)
        lost = [own for own in coverages if own.status != "natural"]
        for own in lost[:TOLD]:
            ways = remedies_of(scene, layout, own.gt, match.config)
            sentence = coverage_sentence(own, names[own.gt], match.config, ways)
            st.markdown(f"- {state.plain(sentence)}")
        if len(lost) > TOLD:
            st.caption(f"And {len(lost) - TOLD} more: select one on the picture to be told why.")
    with right:
        st.markdown(
            "**What you see.** For each object the anchors that train on it, on which levels, and "
            "the best IoU that any anchor has with it.\n\n"
            "**Why it matters.** The detector learns an object only through these anchors. An "
            "object with none is treated as background; one with a forced match alone gives a "
            "weak, badly placed signal. Small, very long and very wide objects suffer first.\n\n"
            "**Try this.** Drag a box until its anchors jump from one level to the next: between "
            "two anchor sizes lies a gap in which the best IoU drops."
        )
        reading.formula(
            "The rule (paper, section 4, Anchors)",
            r"\text{anchor } a \mapsto \begin{cases}\text{foreground of } "
            r"\arg\max_g \mathrm{IoU}(a,g) & \max_g \mathrm{IoU}(a,g) \ge "
            rf"{match.config.fg_iou_thresh:g}\\ \text{{background}} & \max_g \mathrm{{IoU}}(a,g)"
            rf" < {match.config.bg_iou_thresh:g}\\ \text{{ignored}} & \text{{else}}\end{{cases}}",
            "With allow_low_quality_matches an anchor that has some object's best IoU is "
            "foreground too.",
        )
        reading.source("The function that matches", inspect.getsource(assign_anchors))


def _imbalance_tab(scene: Scene) -> None:
    _, match = matched(scene)
    reading.figure_panel(
        "imbalance",
        imbalance_figure(match.counts_per_level),
        imbalance_rows(match.counts_per_level),
        imbalance_sentence(match.counts),
        "**What you see.** How many anchors of each level are foreground, ignored and background, "
        "on a logarithmic axis.\n\n"
        "**Why it matters.** This is the class imbalance that the paper is about: with plain cross "
        "entropy the many easy background anchors outweigh the few foreground ones. The page "
        "*Focal loss* shows what each group then weighs.\n\n"
        "**Try this.** Set the preset *Extreme*: nearly nothing is left that trains as foreground "
        "by its IoU, and the boxes on *Detect* stay as they are.",
    )


def _iou_tab(scene: Scene) -> None:
    _, match = matched(scene)
    reading.figure_panel(
        "best_iou",
        iou_histogram(match),
        iou_histogram_rows(match),
        bounds_sentence(match.config),
        "**What you see.** The anchors by their best IoU with any object, and where the two "
        "bounds cut.\n\n"
        "**Why it matters.** Between the bounds lie anchors that are neither good nor bad; "
        "training on them as either would teach a contradiction, so they are left out.\n\n"
        "**Try this.** Pull the bounds together: the ignored anchors vanish, and anchors that "
        "differ by a pixel become opposites.",
    )


def _dialects_tab(scene: Scene) -> None:
    layout, match = matched(scene)
    st.caption("Choose *dialects* below the picture to see which anchors differ.")
    difference = difference_of(scene, layout, match)
    st.markdown(f"**{state.plain(dialect_sentence(difference))}**")
    rows = dialect_rows(layout, _boxes(scene), match.config)
    reading.table("dialects", rows)
    columns = st.columns(len(DIALECTS), gap="medium", wrap=True)
    for column, dialect in zip(columns, DIALECTS, strict=True):
        with column:
            rules = "\n".join(f"- {rule}" for rule in dialect.rules)
            st.markdown(f"**{dialect.title}**\n\n{rules}")


def _python_tab(scene: Scene) -> None:
    matcher = view.current().matcher
    boxes = [[round(edge, 2) for edge in one.box] for one in scene.truth.objects]
    name = scene.picture.key if scene.picture.is_sample else scene.picture.image.name
    load = f"load_sample({name!r})" if scene.picture.is_sample else f"rn.load_image({name!r})"
    lines = [
        "import retinanet as rn",
        "from retinanet.anchors import AnchorShape",
        "from retinanet.assignment import assign_anchors",
        "from retinanet.coverage import object_coverage",
        "from retinanet.layout import layout_of",
        *(["from retinanet.samples import load_sample"] if scene.picture.is_sample else []),
        "",
        f"image = {load}",
        f"shape = {scene.lens.shape!r}",
        f"layout = layout_of(image.size[::-1], {scene.config.min_size}, {scene.config.max_size}, "
        "shape)",
        f"boxes = {boxes}",
        f"match = assign_anchors(layout, boxes, config={_code(matcher)})",
        "print(match.counts, match.counts_per_level)",
        "for own in object_coverage(match, layout):",
        "    print(own)",
    ]
    st.caption("This gives the same numbers, without the app and without a network.")
    st.code("\n".join(lines), language="python", wrap_lines=True)


def _code(config: MatcherConfig) -> str:
    values = ", ".join(f"{name}={value!r}" for name, value in config.to_dict().items())
    return f"rn.MatcherConfig({values})"
