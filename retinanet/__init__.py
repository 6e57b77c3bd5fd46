"""RetinaNet that explains itself: the core of RetinaNet Explorer.

    import retinanet as rn

    image = rn.load_image("street.jpg")
    model = rn.load_model("embedded")
    outputs = model(image)
    trace = rn.detect(outputs, rn.PostprocessConfig(score_thresh=0.3))
    trace.boxes, trace.scores, trace.labels, trace.counts

The names below are loaded when they are first used, so that what needs no network (settings,
stored results) does not wait for torch.
"""

from importlib import import_module
from typing import Any

_ROOMS = {
    "analysis": ("confusion", "dataset_coverage", "error_types", "worst_images"),
    "anchors": ("AnchorShape",),
    "architecture": ("profile",),
    "assignment": ("AssignmentTrace", "assign", "assign_anchors"),
    "checkpoints": ("CheckpointError", "load_model", "save_checkpoint"),
    "coco": ("DatasetError", "load_coco"),
    "coverage": ("object_coverage", "remedies"),
    "config": ("ConfigError", "LossConfig", "MatcherConfig", "ModelConfig", "PostprocessConfig"),
    "datasets": ("check_dataset", "open_dataset"),
    "dialects": ("dialect_differences", "match_dialect"),
    "detection": ("DetectionTrace", "detect"),
    "engine": ("Engine", "EngineError", "ModelSpec"),
    "evaluation": ("evaluate",),
    "images": ("ImageError", "load_image"),
    "layout": ("AnchorLayout", "layout_of"),
    "lessons": ("non_monotone",),
    "loss_shares": ("holders",),
    "losses": ("LossTrace", "compute_loss"),
    "model": ("RetinaNet",),
    "presets": ("Preset", "find_preset"),
    "report": ("html_report",),
    "rounds": ("nms_rounds",),
    "runs": ("RunQueue", "RunRequest"),
    "samples": ("load_sample",),
    "shapes": ("ShapesConfig", "make_shapes"),
    "sweeps": ("CandidateStore", "Grid", "sweep"),
    "training": ("TrainConfig", "train"),
    "training_cost": ("probe",),
    "training_start": ("start_model",),
    "truth": ("TruthBox",),
    "truth_files": ("read_truth",),
    "types": ("Image", "Outputs"),
    "whynot": ("Inquest", "why_not"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'retinanet' has no attribute {name!r}")
    value = getattr(import_module(f"retinanet.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOM_OF])
