"""The model's controls: which weights, which network, which input size, which arithmetic."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages._shared import engine, runs, state
from retinanet.checkpoints import list_weights, stated_config
from retinanet.config import DEPTHS, NUM_CONVS_RANGE, VARIANTS, ConfigError, ModelConfig
from retinanet.engine import ModelSpec

REBUILDS = state.BADGES["rebuilds the model"]
UPLOAD_SUMMARY = "A RetinaNet checkpoint of yours."
AT_START: dict[str, Any] = {
    "weights": state.WEIGHTS[0],
    "depth": 50,
    "variant": VARIANTS[0],
    "num_convs": 4,
    "min_size": None,
    "max_size": None,
    "precision": state.PRECISIONS[0],
}
"""What of the model can be chosen, by its key and its name in the link, and how it begins."""

TRAINED_SUMMARY = "Trained here, on the Training page."
WHY_FIXED: dict[str, str] = {
    "embedded": "The embedded weights were trained for this shape, and only depth 50 has COCO "
    "weights. Choose random to build another.",
    "coco-v1": "Only depth 50 has COCO weights, and they fit this shape alone.",
    "coco-v2": "Only depth 50 has COCO weights, and they fit this shape alone.",
    "upload": "The checkpoint states its own shape. Choose random to build another.",
    "trained": "It was trained in this shape. Choose random to build another.",
}


def model_controls() -> ModelSpec:
    """Draw the sidebar and return the model it asks for."""
    _bring_along()
    with st.sidebar:
        st.markdown("### RetinaNet Explorer")
        st.markdown(f"**Weights** {REBUILDS}")
        trained = runs.trained()
        options = (*state.WEIGHTS, *trained)
        _let_go_of_a_lost_one(options)
        weights = st.selectbox(
            "weights",
            options,
            key="weights",
            bind="query-params",
            label_visibility="collapsed",
            help="Where the network's numbers come from. The two official ones are downloaded "
            "once (130 and 146 MB).",
        )
        st.caption(
            TRAINED_SUMMARY
            if weights in trained
            else {info.name: info.summary for info in list_weights()}.get(weights, UPLOAD_SUMMARY)
        )
        source = str(trained.get(weights, weights))
        if weights == "upload":
            source = _uploaded_checkpoint()
        known = engine.known_config(source) or stated_config(source) or ModelConfig()
        st.markdown(f"**Network** {REBUILDS}")
        if weights == "random":
            st.caption("Untrained weights score everything near 0.01: lower score_thresh to see.")
        shape = _shape_controls() if weights == "random" else _fixed_shape(known, weights)
        st.markdown(f"**Input size** {REBUILDS}")
        sizes = _size_controls(known)
        st.markdown(f"**Arithmetic** {REBUILDS}")
        precision = _precision_control()
        st.caption(f"Device: {engine.get_engine().info()['device_name']}")
    kept = {name: st.session_state[name] for name in AT_START if name in st.session_state}
    st.session_state.setdefault("model_choice", {}).update(kept)
    return ModelSpec(weights=source, **shape, **sizes, precision=precision)


def _bring_along() -> None:
    """What was chosen on another page holds here.

    A widget that is bound to the address begins anew where the address says nothing, as that of a
    page that has just been opened.
    """
    context = get_script_run_ctx()
    page = None if context is None else context.page_script_hash
    if page == st.session_state.setdefault("model_page", page):
        return
    st.session_state["model_page"] = page
    chosen = st.session_state.get("model_choice", {})
    missing = {n: v for n, v in chosen.items() if n not in st.query_params and v is not None}
    st.session_state.update(missing)
    with context.session_state.query_params() as address:
        # What the last page's widgets hold may not be set in the public way, and is not written
        # to the address for a value that comes from here: a reload would forget the model.
        for name, value in missing.items():
            if value != AT_START[name]:
                address.set_with_no_forward_msg(name, str(value))
        address._send_query_param_msg()


def _let_go_of_a_lost_one(options: tuple[str, ...]) -> None:
    """A model that was trained here and has been removed, or a link's that is not here."""
    asked = st.session_state.get("weights") or st.query_params.get("weights")
    if asked is None or asked in options:
        return
    if "weights" in st.session_state:
        state.say(f"{asked[:60]} is not on this server any more; the embedded model answers.")
    else:
        state.say(f"The link's weights={asked[:40]} is ignored: no such model is on this server.")
    st.session_state["weights"] = options[0]


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
    why = WHY_FIXED.get(weights, WHY_FIXED["trained"])
    for place, name in ((left, "depth"), (right, "variant"), (st.container(), "num_convs")):
        value = str(getattr(config, name))
        place.text_input(name, value, key=f"fixed_{name}_{value}", disabled=True, help=why)
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
