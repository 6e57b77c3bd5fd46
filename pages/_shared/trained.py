"""What training would see of the open picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from pages._shared import view
from pages._shared.inside import Scene
from pages._shared.laid_out import laid_out
from retinanet.anchors import DEFAULT_SHAPE
from retinanet.assignment import AssignmentTrace, assign, rematch
from retinanet.config import MatcherConfig
from retinanet.focal_trace import loss_from_sums
from retinanet.layout import AnchorLayout
from retinanet.loss_map import loudest_at
from retinanet.losses import LossTrace
from retinanet.truth import Labelled, labelled
from retinanet.types import LEVELS


@dataclass(frozen=True, eq=False)
class Trained:
    """What training would see of the open picture.

    Args:
        known: the objects that are of the model's classes.
        match: of its anchors to them.
        loss: with the session's alpha and gamma.
    """

    known: Labelled
    match: AssignmentTrace
    loss: LossTrace


def trained(scene: Scene) -> Trained:
    """Match and loss of the open picture at the session's settings."""
    outputs = scene.outputs
    known = labelled(scene.truth.objects, outputs.categories, outputs.num_classes)
    match = _match(scene, known)
    return Trained(known, match, loss_from_sums(outputs, match, view.current().loss))


def _match(scene: Scene, known: Labelled) -> AssignmentTrace:
    """The session's last match is kept: alpha and gamma turn without matching anew."""
    asked = (scene.outputs.image_id, scene.spec, known)
    return kept_match(
        asked, lambda matcher: assign(scene.outputs, known.boxes, known.labels, matcher)
    )


def kept_match(asked: object, make: Callable[[MatcherConfig], AssignmentTrace]) -> AssignmentTrace:
    """The match at the session's bounds: the last one is kept, so that bounds turn quickly.

    Args:
        asked: what was matched, all but the settings.
        make: matches it.
    """
    matcher = view.current().matcher
    held = st.session_state.get("last_match")
    if held is None or held[0] != asked:
        match = make(matcher)
    elif held[1].config != matcher:
        match = rematch(held[1], matcher)
    else:
        return held[1]
    st.session_state["last_match"] = (asked, match)
    return match


def standard_layout(scene: Scene) -> AnchorLayout:
    """Where the anchors of the open picture's model lie."""
    config = scene.config
    size = scene.outputs.original_size
    return laid_out(size, config.min_size, config.max_size, DEFAULT_SHAPE)


def asked_anchor(scene: Scene, told: Trained) -> int | None:
    """The loudest anchor of the cell that was clicked; None where nothing was."""
    if scene.lens.point is None:
        return None
    level = scene.lens.level if scene.lens.level in LEVELS else None
    return loudest_at(standard_layout(scene), told.loss, scene.lens.point, level)
