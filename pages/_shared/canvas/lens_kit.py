"""What the benches of the pages that look inside know before any picture."""

from __future__ import annotations

import inspect
import json
from typing import Any

from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

from pages._shared import lens
from pages._shared.canvas.kit import TRAINING_HELP
from retinanet.anchors import AnchorShape
from retinanet.assignment import match_anchors
from retinanet.dialects import find_dialect
from retinanet.feature_maps import rms
from retinanet.figures.palette import ASSIGNMENT_COLORS, GROUND_TRUTH, LEVEL_COLORS, OKABE_ITO
from retinanet.focal import GAMMA_NODES, LOG_HIGH, LOG_LOW, focal_curve
from retinanet.matcher_presets import MATCHER_PRESETS
from retinanet.types import LEVELS

LEFT_OUT = "#D55E00"
"""An object without an anchor of its own: the colour of what is lost on every page."""

FATE_NUMBERS = {"background": 0, "ignored": 1, "foreground": 2, "forced": 3}
"""How `match.js` numbers what an anchor is."""

STAGE_WORDS = (
    "Plus and minus zoom, 0 shows the whole picture, arrows move it. N and P step through the "
    "objects, A adds one (Enter then puts it in the middle), Delete removes the selected one, U "
    "undoes, Enter asks about the middle, Escape lets go."
)
SCALE_WORDS = {"unit": "0 to 1", "level": "each level", "all": "all levels"}
PAPER_WORDS = "The paper's images have about 100,000 anchors."
LOW_QUALITY_HELP = (
    "Every object keeps the anchors of its best IoU, however low (torchvision: on; the paper: off)."
)


def _common() -> dict[str, Any]:
    return {
        "levels": LEVELS,
        "level_colors": [LEVEL_COLORS[level] for level in LEVELS],
        "ramp": _ramp(),
        "assignment": ASSIGNMENT_COLORS,
        "ground_truth": GROUND_TRUTH,
        "left_out": LEFT_OUT,
        "stage_words": STAGE_WORDS,
        "training": [{"name": name, "help": words} for name, words in TRAINING_HELP.items()],
        "scales": [[name, SCALE_WORDS[name]] for name in lens.SCALES],
    }


def _ramp() -> list[str]:
    """Viridis in 256 steps."""
    steps = sample_colorscale(get_colorscale("Viridis"), [i / 255 for i in range(256)])
    return ["#" + "".join(f"{round(part):02x}" for part in unlabel_rgb(rgb)) for rgb in steps]


def _kit(facts: dict[str, Any]) -> str:
    """One JavaScript constant, KIT."""
    return f"const KIT = {json.dumps(_common() | facts)};\n"


def anchors() -> str:
    """Of the Anchors page."""
    shape = AnchorShape()
    return _kit(
        {
            "presets": [
                {
                    "name": name,
                    "title": title,
                    "purpose": purpose,
                    "training": {
                        "fg_iou_thresh": config.fg_iou_thresh,
                        "bg_iou_thresh": config.bg_iou_thresh,
                        "allow_low_quality_matches": config.allow_low_quality_matches,
                    },
                }
                for name, title, config, purpose in MATCHER_PRESETS
            ],
            "shown": [["fates", "what trains"], ["iou", "best IoU"], ["dialect", "dialects"]],
            "dialects": [[name, find_dialect(name).title] for name in lens.DIALECTS],
            "shape": {
                "base_size": shape.base_size,
                "scales": shape.scales,
                "aspect_ratios": shape.aspect_ratios,
            },
            "paper_words": PAPER_WORDS,
            "low_quality_help": LOW_QUALITY_HELP,
            "sources": {"anchors": inspect.getsource(match_anchors)},
        }
    )


LOSS_PRESETS: tuple[tuple[str, str, float, float, str], ...] = (
    ("paper", "Paper: focal loss", 0.25, 2.0, "What the paper trains with: AP 34.0 in its table."),
    (
        "cross_entropy",
        "Cross entropy",
        0.5,
        0.0,
        "Gamma 0 and both sides alike, up to a factor of one half: what fails (table 1a).",
    ),
    (
        "balanced",
        "Alpha-balanced cross entropy",
        0.75,
        0.0,
        "The best alpha without a gamma: AP 31.1 in table 1a.",
    ),
    (
        "strong",
        "Gamma 5",
        0.25,
        5.0,
        "Nearly all easy pairs fall silent: AP 32.2 in table 1b.",
    ),
)
"""(name, title, alpha, gamma, purpose)."""

KIND_WORDS = {"all": "all anchors", "foreground": "foreground", "background": "background"}
LOSS_SCALE_WORDS = {"unit": "1e-8 to 1", "level": "each level", "all": "all levels"}
PLOT_WORDS = (
    "Loss over p_t, equations 1, 3 and 5: dotted cross entropy, dashed alpha-balanced, solid focal "
    "loss of a foreground pair. Below: where this picture's foreground (strokes) and negative "
    "pairs (bars, log of their number) stand."
)


def loss() -> str:
    """Of the Focal loss page."""
    return _kit(
        {
            "presets": [
                {
                    "name": name,
                    "title": title,
                    "purpose": purpose,
                    "training": {"alpha": alpha, "gamma": gamma},
                }
                for name, title, alpha, gamma, purpose in LOSS_PRESETS
            ],
            "kinds": [[name, KIND_WORDS[name]] for name in lens.KINDS],
            "loss_scales": [[name, LOSS_SCALE_WORDS[name]] for name in lens.SCALES],
            "plot_words": PLOT_WORDS,
            "curve_colors": {"balanced": OKABE_ITO[0], "focal": OKABE_ITO[5]},
            "predicted": OKABE_ITO[6],
            "gamma_nodes": GAMMA_NODES,
            "log_low": LOG_LOW,
            "log_high": LOG_HIGH,
            "sources": {"loss": inspect.getsource(focal_curve)},
        }
    )


MAP_TITLES = {
    "strength": "strength",
    "score": "best score",
    "pca": "PCA colours",
    "channel": "one channel",
}
RANK_WORDS = {"active": "most active", "varied": "most varied"}
MAP_SCALE_WORDS = {"unit": "unit", "level": "each map", "all": "all maps"}


def pyramid() -> str:
    """Of the Feature pyramid page."""
    return _kit(
        {
            "maps": [[name, MAP_TITLES[name]] for name in lens.MAPS],
            "ranks": [[name, RANK_WORDS[name]] for name in lens.RANKS],
            "scales": [[name, MAP_SCALE_WORDS[name]] for name in lens.SCALES],
            "sources": {"pyramid": inspect.getsource(rms)},
        }
    )
