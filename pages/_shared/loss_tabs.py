"""What is read on the Focal loss page: the paper's figures from the open picture."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import PIL.Image
import PIL.ImageOps
import streamlit as st

from pages._shared import engine, reading, state, view
from pages._shared.answering import POLL_SECONDS
from pages._shared.inside import Scene
from pages._shared.trained import Trained, asked_anchor
from retinanet.assignment import assign
from retinanet.checkpoints import NAMED, is_at_hand
from retinanet.engine import ModelSpec
from retinanet.figures.focal import (
    cdf_figure,
    cdf_rows,
    curves_rows,
    holders_figure,
    holders_rows,
    loss_curves,
    percent,
    prior_figure,
    prior_rows,
    shares_figure,
    shares_rows,
)
from retinanet.figures.focal_words import (
    anchor_formula,
    anchor_sentence,
    cdf_sentence,
    holders_sentence,
    prior_sentence,
    shares_sentence,
)
from retinanet.focal import focal_curve
from retinanet.focal_trace import loss_from_sums
from retinanet.loss_shares import (
    hardest_shares,
    holders,
    normalised_cdfs,
    rugs,
    shares_over_gamma,
)
from retinanet.losses import sigmoid_focal_loss
from retinanet.loudest import Loud, anchor_loss, loudest
from retinanet.prior import compare_priors
from retinanet.truth import labelled

FOCAL = r"\mathrm{FL}(p_t) = -\alpha_t\,(1 - p_t)^{\gamma}\,\log p_t \qquad (5)"
CROSS_ENTROPY = (
    r"\mathrm{CE}(p_t) = -\log p_t \quad (1), \qquad \mathrm{CE}_\alpha(p_t) = -\alpha_t \log p_t "
    r"\quad (3), \qquad p_t = \begin{cases} p & y = 1 \\ 1 - p & \text{else}\end{cases} \quad (2)"
)
SIDES = {"positives": "Foreground", "negatives": "Background"}


def _curves(scene: Scene, told: Trained) -> None:
    loss = view.current().loss
    own = rugs(scene.outputs, told.match)
    reading.figure_panel(
        "figure_1",
        loss_curves(loss.alpha, loss.gamma, own.positives, own.negatives),
        curves_rows(loss.alpha, loss.gamma, own.positives, own.negatives),
        f"Alpha {loss.alpha:g}, gamma {loss.gamma:g}: a pair with p_t 0.9 costs "
        f"{float(focal_curve(0.9, 1.0, loss.gamma) / focal_curve(0.9, 1.0, 0.0)):.3g} of its "
        "cross entropy.",
        "**What you see.** The loss of one pair over p_t, how far the model is right about it "
        "(the paper's Figure 1), and beneath it where this picture's own pairs stand.\n\n"
        "**Why it matters.** Nearly all negatives crowd at the right end. Each costs next to "
        "nothing, but there are a million of them; gamma presses exactly that end down.\n\n"
        "**Try this.** Set gamma to 0 and watch the right end of the curve lift off the axis.",
    )
    reading.formula("Equations 1 to 3", CROSS_ENTROPY)
    reading.formula(
        "Equation 5, the focal loss", FOCAL, "alpha_t is alpha for y = 1, else 1 - alpha."
    )
    reading.source("The function of the curve", inspect.getsource(focal_curve))


def _one_anchor(scene: Scene, told: Trained) -> None:
    if scene.lens.point is None:
        st.caption("Click the picture: the anchor with most loss at that place is worked out here.")
        return
    own = anchor_loss(scene.outputs, told.match, asked_anchor(scene, told), view.current().loss)
    st.markdown(f"**{state.plain(anchor_sentence(own))}**")
    st.latex(anchor_formula(own))
    reading.source("torchvision's function", inspect.getsource(sigmoid_focal_loss))


def _holders(scene: Scene, told: Trained) -> None:
    own = holders(scene.outputs, told.match, view.current().loss)
    reading.figure_panel(
        "who_holds_the_loss",
        holders_figure(own),
        holders_rows(own),
        holders_sentence(own),
        "**What you see.** The (anchor, class) pairs of this picture in three groups: how many "
        "they are, and what share of the loss each holds with cross entropy, alpha-balanced cross "
        "entropy and the focal loss.\n\n"
        "**Why it matters.** This is class imbalance. With cross entropy the easy negatives "
        "(p_t above 0.5) drown the few foreground pairs; the focal loss turns that round.\n\n"
        "**Try this.** Choose the preset *Cross entropy*, then *Paper*.",
    )


def _alpha_and_gamma(scene: Scene, told: Trained) -> None:
    loss = view.current().loss
    rows = shares_over_gamma(scene.outputs, told.match)
    reading.figure_panel(
        "alpha_and_gamma",
        shares_figure(rows, loss.alpha, loss.gamma),
        shares_rows(rows),
        shares_sentence(rows, loss.gamma),
        "**What you see.** The share of the loss and of its gradient that the foreground holds, "
        "over gamma, for three alphas. The paper's cells of tables 1a and 1b are marked with the "
        "AP they reached.\n\n"
        "**Why it matters.** One expects a large alpha for the rare foreground. But gamma has "
        "silenced the negatives already; then the foreground needs less weight, not more.\n\n"
        "**Try this.** Compare alpha 0.25 and 0.75 at gamma 0 and at gamma 2.",
    )


def _figure_4(scene: Scene, told: Trained) -> None:
    cdfs = normalised_cdfs(scene.outputs, told.match)
    shares = hardest_shares(scene.outputs, told.match)
    for side, title in SIDES.items():
        st.markdown(f"#### {title}")
        if not cdfs[side]:
            st.caption("There are none in this picture.")
            continue
        reading.figure_panel(
            f"figure_4_{side}",
            cdf_figure(cdfs, side),
            cdf_rows({side: cdfs[side]}),
            cdf_sentence(side, shares[side]),
            "**What you see.** The samples sorted from the easiest to the hardest, and what share "
            "of the loss they hold together (the paper's Figure 4). "
            + (
                "A sample is the matched class of a foreground anchor."
                if side == "positives"
                else "A sample is a background anchor with all its classes."
            )
            + "\n\n**Why it matters.** The later a curve rises, the more the loss listens to the "
            "hardest alone. Gamma changes the foreground little and the background greatly.",
        )


def _loudest(scene: Scene, told: Trained) -> None:
    st.markdown(
        "The anchors that hold most of the loss, one for each place. A loud background anchor is "
        "a false alarm, or an object that nobody has labelled: look at the crop and decide."
    )
    for kind, title in (("negative", "Background"), ("positive", "Foreground")):
        found = loudest(scene.outputs, told.match, told.loss, kind=kind)
        st.markdown(f"#### {title}")
        if not found:
            st.caption("There are none in this picture.")
            continue
        with st.container(horizontal=True, gap="medium"):
            for one in found:
                _crop(scene, one)
        rows = [_loud_row(one) for one in found]
        reading.table_file(f"loudest_{kind}", rows)


def _loud_row(one: Loud) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(edge, 1) for edge in one.box)
    return {
        "level": one.level,
        "loss": one.loss,
        "share": one.share,
        "category": one.category,
        "score": one.score,
        "best IoU": one.max_iou,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "what": one.sentence,
    }


def _crop(scene: Scene, one: Loud) -> None:
    with st.container(width=180):
        st.image(crop_of(scene.picture.image.pil, one.predicted_box), width=160)
        st.caption(state.plain(f"{percent(one.share)} of the loss, {one.level}: {one.sentence}."))


def crop_of(picture: PIL.Image.Image, box: tuple[float, ...]) -> PIL.Image.Image:
    """What lies in a box and a little around it, 160 by 120 pixels."""
    x1, y1, x2, y2 = box
    margin = 0.15 * max(x2 - x1, y2 - y1, 8)
    edges = (x1 - margin, y1 - margin, x2 + margin, y2 + margin)
    limits = (*picture.size, *picture.size)
    left, top, right, bottom = (
        min(max(round(edge), 0), limit) for edge, limit in zip(edges, limits, strict=True)
    )
    crop = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    return PIL.ImageOps.contain(crop, (160, 120))


def _prior(scene: Scene, told: Trained) -> None:
    losses = compare_priors(scene.outputs, told.match, view.current().loss)
    reading.figure_panel(
        "prior",
        prior_figure(losses),
        prior_rows(losses),
        prior_sentence(losses),
        "**What you see.** The first loss of an untrained head on this picture's anchors and "
        "objects, when its bias makes it say pi of every pair.\n\n"
        "**Why it matters.** With pi 0.5 a million negatives shout at once and training diverges "
        "in its first steps; with pi 0.01 they begin quiet (section 3.3, *Class Imbalance and "
        "Model Initialization*).\n\n"
        "**Try this.** Set gamma to 0: the prior alone already tames the start.",
    )
    reading.formula("The bias that does it", r"b = -\log\frac{1 - \pi}{\pi}", "Section 4.1.")


# ------------------------------------------------------------------ models side by side


def _models(scene: Scene, told: Trained) -> None:
    """The same picture and objects through every model that is at hand."""
    rows, waiting, working = [], [], False
    for title, spec in _at_hand(scene):
        progress = engine.ask_outputs(spec, scene.picture.image)
        if progress.state == "ready":
            rows.append(_model_row(title, spec, scene))
        else:
            working |= progress.state == "working"
            waiting.append(f"{title}: {progress.sentence or progress.state}")
    if rows:
        reading.table("models", rows)
    for words in waiting:
        st.caption(state.plain(words))
    missing = [name for name in NAMED if not is_at_hand(name)]
    if missing:
        st.caption(
            f"Not at hand: {', '.join(missing)}. Choose one in the sidebar and it is downloaded "
            "once."
        )
    st.markdown(
        "**What you see.** The same objects, anchors and settings; only the weights differ.\n\n"
        "**Why it matters.** At random weights the prior 0.01 makes every negative easy from the "
        "start, and every foreground pair hard: the focal loss listens to the foreground alone. A "
        "trained model has learned that; what is left are its misses and its false alarms."
    )
    if working:
        _look_again(scene)


def _at_hand(scene: Scene) -> list[tuple[str, ModelSpec]]:
    config = scene.config
    sizes = {"min_size": config.min_size, "max_size": config.max_size}
    shape = {"depth": config.depth, "num_convs": config.num_convs, "variant": config.variant}
    specs = [("random weights, this shape", ModelSpec("random", **shape, **sizes))]
    specs += [(name, ModelSpec(name, **sizes)) for name in NAMED if name != "random"]
    precision = scene.spec.precision
    found = [
        (title, ModelSpec(spec.weights, **spec.overrides(), precision=precision))
        for title, spec in specs
        if is_at_hand(spec.weights)
    ]
    if scene.spec.weights not in NAMED:
        found.append((f"{engine.spec_name(scene.spec)} (open)", scene.spec))
    return found


def _model_row(title: str, spec: ModelSpec, scene: Scene) -> dict[str, Any]:
    outputs = engine.get_engine().outputs(scene.picture.image, spec)
    known = labelled(scene.truth.objects, outputs.categories, outputs.num_classes)
    now = view.current()
    match = assign(outputs, known.boxes, known.labels, now.matcher)
    loss = loss_from_sums(outputs, match, now.loss)
    own = holders(outputs, match, now.loss)
    easy, hard, foreground = own.groups
    return {
        "model": title,
        "objects it knows": len(known.boxes),
        "foreground anchors": loss.num_foreground,
        "focal loss": round(float(loss.classification), 4),
        "box loss": round(float(loss.bbox_regression), 4),
        "foreground holds": percent(foreground.loss_share["focal"]),
        "hard negatives hold": percent(hard.loss_share["focal"]),
        "easy negatives hold": percent(easy.loss_share["focal"]),
        "with cross entropy the easy ones would": percent(easy.loss_share["cross_entropy"]),
    }


@st.fragment(run_every=POLL_SECONDS)
def _look_again(scene: Scene) -> None:
    states = [engine.ask_outputs(spec, scene.picture.image).state for _, spec in _at_hand(scene)]
    if "working" not in states:
        st.rerun()


def _python(scene: Scene, told: Trained) -> None:
    now = view.current()
    own = scene.picture
    load = f"load_sample({own.key!r})" if own.is_sample else f"rn.load_image({own.image.name!r})"
    boxes = [[round(float(edge), 2) for edge in box] for box in told.known.boxes]
    weights = scene.spec.weights if scene.spec.weights in NAMED else "your_checkpoint.pth"
    lines = [
        "import retinanet as rn",
        "from retinanet.loss_shares import holders",
        *(["from retinanet.samples import load_sample"] if own.is_sample else []),
        "",
        f"image = {load}",
        f"outputs = rn.load_model({weights!r}, {scene.spec.overrides()!r})(image)",
        f"match = rn.assign(outputs, {boxes}, {told.known.labels},",
        f"    rn.MatcherConfig({_arguments(now.matcher)}))",
        f"config = rn.LossConfig({_arguments(now.loss)})",
        "loss = rn.compute_loss(outputs, match, config)",
        "print(float(loss.classification), float(loss.bbox_regression), loss.per_level)",
        "print(holders(outputs, match, config))",
    ]
    st.caption("This gives the same numbers without the app.")
    st.code("\n".join(lines), language="python", wrap_lines=True)


def _arguments(config: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in config.to_dict().items())


TABS: dict[str, Callable[[Scene, Trained], None]] = {
    "Who holds the loss": _holders,
    "Figure 1": _curves,
    "This anchor": _one_anchor,
    "Alpha and gamma": _alpha_and_gamma,
    "Figure 4": _figure_4,
    "Loudest anchors": _loudest,
    "The prior": _prior,
    "Models": _models,
    "In Python": _python,
}
"""In the order in which they are offered."""
