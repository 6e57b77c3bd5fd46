"""The Focal loss page: who holds the loss of this picture, and what alpha and gamma do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pages._shared import loss_tabs, truth_panel, view
from pages._shared.canvas import send_sums
from pages._shared.inside import Columns, Scene
from pages._shared.laid_out import layout_for_browser
from pages._shared.trained import Trained, asked_anchor, standard_layout, trained
from retinanet.figures.columns import pack_columns, unpack_columns
from retinanet.figures.focal_words import (
    anchor_numbers,
    anchor_sentence,
    anchor_text,
    holders_sentence,
)
from retinanet.focal import foreground_terms, packed_nodes, packed_sums
from retinanet.loss_map import (
    cell_map,
    ignored_anchors,
    level_sides,
    object_losses,
)
from retinanet.loss_shares import holders, rugs
from retinanet.loudest import anchor_loss
from retinanet.target import original_anchors, original_boxes
from retinanet.types import Outputs

RUG_MARKS = 400
"""Strokes drawn for the foreground in the small plot."""

HOW = (
    "Click the picture for the formula with one anchor's own numbers. Drag alpha and gamma: the "
    "map, the curves and the table follow."
)
NO_CHANGE = (
    "Alpha and gamma decide what training listens to. They change no box of a trained model."
)


def sums_table(outputs: Outputs) -> bytes:
    """What the browser redraws the loss from; made once for these outputs."""
    return outputs.derived("sums_table", lambda own: pack_columns({}, {"nodes": packed_nodes(own)}))


def sums_key(outputs: Outputs) -> str:
    """The stamp of that table."""
    packed = sums_table(outputs)
    return outputs.derived("sums_key", lambda _: unpack_columns(packed)[0]["stamp"])


class LossPart:
    """The Focal loss page's part of the frame."""

    name = "loss"
    names = ("level", "point", "object", "range", "kind")

    def __init__(self) -> None:
        told: Mapping[str, Callable[[Scene, Trained], None]] = loss_tabs.TABS
        self.tabs: dict[str, Callable[[Scene], None]] = {
            title: self._with_loss(content) for title, content in told.items()
        }
        self.tabs["Ground truth"] = truth_panel.show

    @staticmethod
    def _with_loss(content: Callable[[Scene, Trained], None]) -> Callable[[Scene], None]:
        return lambda scene: content(scene, trained(scene))

    def send_tables(self, scene: Scene) -> None:
        """The sums of each anchor's columns."""
        send_sums(sums_table(scene.outputs))

    def answer(self, scene: Scene) -> tuple[dict[str, Any], Columns]:
        """The loss of every cell, what the browser redraws it from, and what the panel says."""
        told = trained(scene)
        header = {
            "layout": layout_for_browser(standard_layout(scene)),
            "table": sums_key(scene.outputs),
            "classification": float(told.loss.classification),
            "sides": level_sides(told.loss, told.match),
            "objects": _objects(scene, told),
            "loss_words": f"Box loss {float(told.loss.bbox_regression):.4f}.",
            "rug": _rug(scene, told),
            "anchor": None,
        }
        header |= _story(scene, told)
        return header, _columns(scene, told)


def _columns(scene: Scene, told: Trained) -> Columns:
    terms = foreground_terms(scene.outputs, told.match)
    return {
        "cells": cell_map(told.loss, told.match, scene.lens.kind),
        "foreground": terms.anchors.numpy(),
        "foreground_p": terms.p.numpy(),
        "foreground_others": packed_sums(terms.others),
        "ignored": ignored_anchors(told.match).numpy(),
    }


def _objects(scene: Scene, told: Trained) -> list[dict[str, Any]]:
    """What each object's anchors hold of the loss."""
    total = float(told.loss.classification)
    found = [{"known": False, "words": "not a class of this model"} for _ in scene.truth.objects]
    losses = object_losses(told.loss, told.match)
    for row, own in zip(told.known.rows, losses, strict=True):
        share = f"{own / total:.1%} of the loss" if total else "no loss"
        found[row] = {"known": True, "words": share}
    return found


def _rug(scene: Scene, told: Trained) -> dict[str, list[float]]:
    own = rugs(scene.outputs, told.match)
    step = max(1, len(own.positives) // RUG_MARKS)
    return {
        "positives": [round(float(p), 4) for p in own.positives[::step]],
        "negatives": [int(count) for count in own.negatives],
    }


# ------------------------------------------------------------------ the panel


def _story(scene: Scene, told: Trained) -> dict[str, Any]:
    anchor = asked_anchor(scene, told)
    if anchor is not None:
        own = anchor_loss(scene.outputs, told.match, anchor, view.current().loss)
        return {
            "anchor": {
                "box": original_anchors(scene.outputs)[anchor].tolist(),
                "predicted": original_boxes(scene.outputs)[anchor].tolist(),
            },
            "story": {
                "sentences": [anchor_sentence(own)],
                "numbers": anchor_numbers(own),
                "formula": anchor_text(own),
                "source": "loss",
            },
        }
    if scene.lens.hurried:
        return {"story": {"sentences": [HOW, NO_CHANGE]}, "more": True}
    sentences = [holders_sentence(holders(scene.outputs, told.match, view.current().loss))]
    if told.known.unknown:
        names = ", ".join(told.known.unknown[:8])
        sentences.append(f"Left out, as the model has no such class: {names[:120]}.")
    return {"story": {"sentences": [*sentences, HOW, NO_CHANGE]}}
