"""That the embedded model is a small demonstration model, and the way to the official ones."""

from __future__ import annotations

import streamlit as st

from pages._shared import engine
from retinanet.card_reading import measured, metric_rows
from retinanet.checkpoints import list_weights, official_ap
from retinanet.engine import ModelSpec

WORDS = (
    "The embedded model is a small demonstration model. It finds large, common objects in everyday "
    "photos, so that everything here can be tried without a network. For real detections use "
    "torchvision's official COCO weights."
)
BRIEF = "**Small demonstration model**, good for large, common objects"


def buttons() -> None:
    """One click to each of the official weights."""
    asked = st.session_state.get("weights")
    official = [info for info in list_weights() if info.name.startswith("coco-")]
    for info in official:
        st.button(
            f"Use {info.name}",
            key=f"use_{info.name}",
            help=info.summary,
            disabled=info.name == asked,  # it could not be had, and the embedded model answers
            on_click=_use,
            args=(info.name,),
        )


def beside_detections(spec: ModelSpec, progress: engine.Progress) -> None:
    """The line below a picture's boxes; nothing for any other model.

    Args:
        spec: the model whose boxes are shown.
        progress: of its answer to the picture.
    """
    with st.container(key="demonstration", horizontal=True, vertical_alignment="center"):
        if spec.weights == "embedded":
            st.markdown(f"{BRIEF}{_measured(spec, progress)}.")
            buttons()


def _measured(spec: ModelSpec, progress: engine.Progress) -> str:
    """What its card measured, once the model is there."""
    if progress.state != "ready":
        return ""
    found = measured(engine.get_engine().model(spec).card)
    values = {row.metric: row.value for row in metric_rows(found or {})}
    if "AP" not in values:
        return ""
    return (
        f": AP {values['AP']:.3f} on held-out photos. torchvision states "
        f"{official_ap('coco-v2'):.3f} for coco-v2 on COCO's"
    )


def _use(weights: str) -> None:
    st.session_state["weights"] = weights
