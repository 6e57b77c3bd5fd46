"""What the training-only knobs of the Detect page would do, on this very picture."""

from __future__ import annotations

from pages._shared.gallery import Picture
from pages._shared.view import View
from retinanet.assignment import assign
from retinanet.config import LossConfig, MatcherConfig
from retinanet.detection import DetectionTrace
from retinanet.losses import compute_loss
from retinanet.samples import SAMPLES

AT_REST = (
    "These decide how a model trains. Move one and read here what it would change; the boxes of a "
    "trained model stay as they are."
)


def training_words(picture: Picture, trace: DetectionTrace, view: View) -> str:
    """A sentence with the anchors and the losses that these settings give on known objects."""
    if (view.matcher, view.loss) == (MatcherConfig(), LossConfig()):
        return AT_REST
    boxes, labels, source = _objects(picture, trace)
    if not len(boxes):
        return "This changes training only. There is no object here to train on, drawn or detected."
    match = assign(trace.outputs, boxes, labels, view.matcher)
    loss = compute_loss(trace.outputs, match, view.loss)
    counts = match.counts
    return (
        f"This changes training only, and none of the boxes above. On {source}, training with "
        f"these settings would take {counts['foreground']:,} anchors as foreground, ignore "
        f"{counts['ignored']:,} and take {counts['background']:,} as background; the focal loss of "
        f"this picture would be {float(loss.classification):.4f} and its box loss "
        f"{float(loss.bbox_regression):.4f}."
    )


def _objects(picture: Picture, trace: DetectionTrace) -> tuple[list, list[int], str]:
    """Boxes and labels to train on: those drawn for the sample, or the detections."""
    sample = next((one for one in SAMPLES if picture.is_sample and one.key == picture.key), None)
    known = {name: label for label, name in enumerate(trace.categories)}
    drawn = [box for box in (sample.boxes if sample else ()) if box.category in known]
    if drawn:
        count = "the one object" if len(drawn) == 1 else f"the {len(drawn)} objects"
        return (
            [list(box[1:]) for box in drawn],
            [known[box.category] for box in drawn],
            f"{count} drawn by hand for this sample",
        )
    boxes = trace.boxes.tolist()
    return boxes, trace.labels.tolist(), f"the {len(boxes)} boxes detected now, taken as objects"
