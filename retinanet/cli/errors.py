"""Which errors are the input's fault, and how they read on the command line."""

from __future__ import annotations

from retinanet.coco import DatasetError
from retinanet.config import ConfigError
from retinanet.devices import DeviceError
from retinanet.engine import EngineError
from retinanet.images import ImageError
from retinanet.keymaps import CheckpointError
from retinanet.training import TrainingError


class UsageError(ValueError):
    """Options that do not go together, or a place that cannot be written; a sentence."""


BAD_INPUT_ERRORS: tuple[type[Exception], ...] = (
    CheckpointError,
    ConfigError,
    DatasetError,
    DeviceError,
    EngineError,
    ImageError,
    TrainingError,
    UsageError,
)


def one_line(error: BaseException) -> str:
    """The message on a single line."""
    return " ".join(str(error).split())
