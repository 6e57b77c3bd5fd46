"""The model's controls: which weights, which network, which input size, which arithmetic."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import streamlit as st

from pages._shared import engine, state
from retinanet.checkpoints import list_weights
from retinanet.config import DEPTHS, NUM_CONVS_RANGE, VARIANTS, ConfigError, ModelConfig
from retinanet.engine import ModelSpec

REBUILDS = state.BADGES["rebuilds the model"]
UPLOAD_SUMMARY = "A RetinaNet checkpoint of yours."
WHY_FIXED: dict[str, str] = {
    "embedded": "The embedded weights were trained for this shape, and only depth 50 has COCO "
    "weights. Choose random to build another.",
    "coco-v1": "Only depth 50 has COCO weights, and they fit this shape alone.",
    "coco-v2": "Only depth 50 has COCO weights, and they fit this shape alone.",
    "upload": "The checkpoint states its own shape. Choose random to build another.",
}


def model_controls() -> ModelSpec:
    """Draw the sidebar and return the model it asks for."""
    with st.sidebar:
        st.markdown("### RetinaNet Explorer")
        st.markdown(f"**Weights** {REBUILDS}")
        weights = st.selectbox(
            "weights",
            state.WEIGHTS,
            key="weights",
            bind="query-params",
            label_visibility="collapsed",
            help="Where the network's numbers come from. The two official ones are downloaded "
            "once (130 and 146 MB).",
        )
        st.caption(
            {info.name: info.summary for info in list_weights()}.get(weights, UPLOAD_SUMMARY)
        )
        source = _uploaded_checkpoint() if weights == "upload" else weights
        known = engine.known_config(source) or ModelConfig()
        st.markdown(f"**Network** {REBUILDS}")
        if weights == "random":
            st.caption("Untrained weights score everything near 0.01: lower score_thresh to see.")
        shape = _shape_controls() if weights == "random" else _fixed_shape(known, weights)
        st.markdown(f"**Input size** {REBUILDS}")
        sizes = _size_controls(known)
        st.markdown(f"**Arithmetic** {REBUILDS}")
        precision = _precision_control()
        st.caption(f"Device: {engine.get_engine().info()['device_name']}")
    return ModelSpec(weights=source, **shape, **sizes, precision=precision)


def _uploaded_checkpoint() -> str:
    """The path of the uploaded checkpoint on the server; "embedded" until there is one."""
    given = st.file_uploader(
        "Checkpoint file",
        type=["pth", "pt", "safetensors"],
        key="checkpoint",
        help="A RetinaNet state dict with torchvision's names, or a file that `python -m retinanet "
        "train` wrote. It is read without running any code in it.",
    )
    if given is not None:
        st.session_state["checkpoint_path"] = keep_checkpoint(given.name, given.getvalue())
    if "checkpoint_path" not in st.session_state:
        st.caption("Until a file is here the embedded model answers.")
        return "embedded"
    st.caption("The file stays on this server until it stops, and goes nowhere else.")
    return st.session_state["checkpoint_path"]


def keep_checkpoint(name: str, data: bytes) -> str:
    """Write an uploaded checkpoint under a name made of its hash; returns the path."""
    suffix = Path(name).suffix.lower()  # the uploader admits three; no other part of it is used
    path = engine.checkpoint_folder() / f"{hashlib.sha256(data).hexdigest()}{suffix}"
    if not path.exists():
        path.write_bytes(data)
    return str(path)


def _shape_controls() -> dict[str, Any]:
    columns = st.columns(2, gap="small")
    depth = columns[0].selectbox(
        "depth",
        DEPTHS,
        index=DEPTHS.index(50),
        key="depth",
        bind="query-params",
        help="Layers of the ResNet backbone. Only depth 50 has COCO weights.",
    )
    variant = columns[1].selectbox(
        "variant",
        VARIANTS,
        key="variant",
        bind="query-params",
        help="v1: FrozenBatchNorm, P6 from P5, L1 box loss. v2: BatchNorm, GroupNorm in the "
        "subnets, P6 from C5, GIoU box loss.",
    )
    num_convs = st.slider(
        "num_convs",
        *NUM_CONVS_RANGE,
        value=4,
        key="num_convs",
        bind="query-params",
        help="3x3 convolutions in each subnet before its prediction layer; the paper has 4.",
    )
    return {"depth": depth, "num_convs": num_convs, "variant": variant}


def _fixed_shape(config: ModelConfig, weights: str) -> dict[str, Any]:
    """The same three settings as the weights fix them: disabled, with the reason as help."""
    left, right = st.columns(2, gap="small")
    for place, name in ((left, "depth"), (right, "variant"), (st.container(), "num_convs")):
        value = str(getattr(config, name))
        place.text_input(
            name, value, key=f"fixed_{name}_{value}", disabled=True, help=WHY_FIXED[weights]
        )
    return {}


def _size_controls(known: ModelConfig) -> dict[str, int]:
    columns = st.columns(2, gap="small")
    words = {
        "min_size": "The shorter image side is scaled to this many pixels ...",
        "max_size": "... unless the longer side would then exceed this.",
    }
    chosen = {}
    for column, (name, text) in zip(columns, words.items(), strict=True):
        value = column.number_input(
            f"{name}, px",
            *state.SIZE_RANGE,
            value=None,
            step=32,
            placeholder=f"{getattr(known, name)}",
            key=name,
            bind="query-params",
            help=f"{text} Empty: as trained. A new size runs the network again.",
        )
        if value is not None:
            chosen[name] = int(value)
    try:
        ModelConfig.from_dict({**known.to_dict(), **chosen})
    except ConfigError as fault:
        st.warning(f"{fault} The trained size is used.")
        return {}
    return chosen


def _precision_control() -> str:
    has_bf16 = engine.get_engine().info()["bf16"]
    missing = "" if has_bf16 else " This machine's processor has no bf16, so fp32 is the only one."
    return st.selectbox(
        "precision",
        state.PRECISIONS if has_bf16 else state.PRECISIONS[:1],
        key="precision",
        bind="query-params",
        disabled=not has_bf16,
        label_visibility="visible",
        help="fp32 is exact; bf16 uses shorter numbers and is faster where the hardware has it."
        + missing,
    )
