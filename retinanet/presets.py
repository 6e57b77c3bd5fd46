"""Post-processing settings that have a name, each with what it is for and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from retinanet.config import ConfigError, PostprocessConfig


@dataclass(frozen=True, slots=True)
class Preset:
    """Named settings.

    Args:
        name: what `find_preset` and `detect --preset` take.
        title: a few words for a list.
        config: the settings.
        purpose: what they are for, a sentence.
        source: where the numbers come from, a sentence.
    """

    name: str
    title: str
    config: PostprocessConfig
    purpose: str
    source: str


PRESETS: tuple[Preset, ...] = (
    Preset(
        name="explorer",
        title="Explorer",
        config=PostprocessConfig(0.44, 0.3, 1000, 100),
        purpose="A first look: few boxes, nearly all of them worth looking at.",
        source=(
            "Where the knobs of this app start: the embedded model's best F1 on held-out photos "
            "among the settings with three boxes in four right."
        ),
    ),
    Preset(
        name="paper",
        title="Paper",
        config=PostprocessConfig(0.05, 0.5, 1000, 100),
        purpose="The results of the paper: every box that can still count in COCO's AP.",
        source=(
            "Focal Loss for Dense Object Detection (section 4.1) gives score_thresh, nms_thresh "
            "and topk_candidates; detections_per_img is what COCO's AP counts of an image."
        ),
    ),
    Preset(
        name="torchvision",
        title="torchvision",
        config=PostprocessConfig(0.05, 0.5, 1000, 300),
        purpose="The same boxes as torchvision's RetinaNet gives when nothing is set.",
        source="The defaults of torchvision.models.detection.RetinaNet.",
    ),
    Preset(
        name="detectron2",
        title="Detectron2",
        config=PostprocessConfig(0.05, 0.5, 1000, 100),
        purpose="The settings under which Detectron2's model zoo reports RetinaNet's AP.",
        source=(
            "Detectron2's config defaults: MODEL.RETINANET.SCORE_THRESH_TEST, NMS_THRESH_TEST and "
            "TOPK_CANDIDATES_TEST, and TEST.DETECTIONS_PER_IMAGE."
        ),
    ),
    Preset(
        name="deepforest",
        title="DeepForest",
        config=PostprocessConfig(0.1, 0.05, 1000, 300),
        purpose="Tree crowns from the air: many, and rarely one over another.",
        source="DeepForest's config.yaml, which runs torchvision's RetinaNet with them.",
    ),
    Preset(
        name="everything",
        title="Everything",
        config=PostprocessConfig(0.0, 0.5, 1000, 500),
        purpose="All that the network says, however unsure: for a model that seems to see nothing.",
        source="score_thresh at its lowest, and room for five hundred boxes.",
    ),
)
"""In the order in which they are offered. "paper" and "detectron2" are the same settings."""


def preset_of(config: PostprocessConfig) -> Preset | None:
    """The first preset with exactly these settings, None where there is none."""
    return next((preset for preset in PRESETS if preset.config == config), None)


def find_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ConfigError: there is none; the message names those there are.
    """
    for preset in PRESETS:
        if preset.name == name:
            return preset
    known = ", ".join(preset.name for preset in PRESETS)
    raise ConfigError(f"There is no preset {name!r}; there are {known}.")
