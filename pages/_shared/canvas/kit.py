"""What the workbench knows before any picture: names, colours, limits, presets, help, sources."""

from __future__ import annotations

import inspect
import json
from typing import Any

from pages._shared import view
from retinanet.box_coder import decode
from retinanet.candidates import FATES
from retinanet.config import PostprocessConfig
from retinanet.figures.ledger import FATE_WORDS
from retinanet.figures.palette import (
    CHANGE_STYLES,
    FATE_COLORS,
    FATE_DASHES,
    GROUND_TRUTH,
    LEVEL_COLORS,
    OKABE_ITO,
)
from retinanet.nms import survivors
from retinanet.presets import PRESETS
from retinanet.types import LEVELS
from retinanet.whynot import why_not

TOPK_CHOICES: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
"""Where a key press takes topk_candidates; a drag or a typed number takes it anywhere."""

STAGE_WORDS: dict[str, str] = {
    "all": "all pairs",
    "above": "above score_thresh",
    "topk": "within topk_candidates",
    "nms": "after NMS",
    "kept": "kept",
}

MODE_WORDS: dict[str, str] = {
    "box": "This box",
    "whynot": "Why not?",
    "nms": "NMS steps",
    "compare": "Compare",
}

KNOB_HELP: dict[str, str] = {
    "score_thresh": "An (anchor, class) pair goes on when its score is above this. "
    "torchvision: 0.05.",
    "nms_thresh": "A box goes when a better one of its class overlaps it by more than this IoU "
    "(intersection over union). torchvision: 0.5.",
    "topk_candidates": "The best pairs that each pyramid level may send to NMS. torchvision: 1000.",
    "detections_per_img": "The best boxes kept after NMS. COCO's AP counts 100; torchvision: 300.",
}

TRAINING_HELP: dict[str, str] = {
    "fg_iou_thresh": "In training, an anchor that overlaps an object by at least this IoU is "
    "foreground. Paper and torchvision: 0.5.",
    "bg_iou_thresh": "In training, an anchor that overlaps no object by this IoU is background; "
    "between the two bounds it is ignored. Paper and torchvision: 0.4.",
    "alpha": "In training, the weight of the foreground term of the focal loss. Paper: 0.25.",
    "gamma": "In training, how strongly easy examples are played down. Paper: 2.",
}

ROUND_LEGEND = (
    "Thick: the best box that is left, it stays. Dashed: overlaps it too much and goes. Dotted "
    "blue: compared and stays in. Grey: not looked at yet. Thin green: kept in an earlier round."
)

DOORS: dict[str, tuple[str, str]] = {
    "to_anchors": ("See which anchors train", "pages/anchors.py"),
    "to_loss": ("See who holds the loss", "pages/focal_loss.py"),
}
"""Commands of the workbench that open another page: words and the page."""

COMPARED = "#56B4E9"
WAITING = "#B8BFC6"


def kit() -> str:
    """One JavaScript constant, KIT."""
    facts = {
        "levels": LEVELS,
        "level_colors": [LEVEL_COLORS[level] for level in LEVELS],
        "colors": OKABE_ITO,
        "fates": [
            {"words": FATE_WORDS[fate], "color": FATE_COLORS[fate], "dash": FATE_DASHES[fate]}
            for fate in FATES
        ],
        "stages": [{"name": name, "words": STAGE_WORDS[name]} for name in view.STAGES],
        "modes": [[name, MODE_WORDS[name]] for name in view.MODES],
        "changes": CHANGE_STYLES,
        "ground_truth": GROUND_TRUTH,
        "compared": COMPARED,
        "waiting": WAITING,
        "round_legend": ROUND_LEGEND,
        "presets": [
            {
                "name": preset.name,
                "title": preset.title,
                "purpose": preset.purpose,
                "knobs": knobs_of(preset.config),
            }
            for preset in PRESETS
        ],
        "knobs": [{"name": name, "help": words} for name, words in KNOB_HELP.items()],
        "training": [{"name": name, "help": words} for name, words in TRAINING_HELP.items()],
        "doors": [[command, words] for command, (words, _) in DOORS.items()],
        "topk_choices": TOPK_CHOICES,
        "max_topk": view.MAX_TOPK,
        "max_detections": view.MAX_DETECTIONS,
        "sources": {
            "life": inspect.getsource(decode),
            "inquest": inspect.getsource(why_not),
            "nms": inspect.getsource(survivors),
        },
    }
    return f"const KIT = {json.dumps(facts)};\n"


def knobs_of(config: PostprocessConfig) -> dict[str, Any]:
    """The settings as the workbench holds them."""
    return {
        **{name: getattr(config, name) for name in KNOB_HELP},
        "class_score_thresh": {str(k): v for k, v in config.class_score_thresh},
    }
