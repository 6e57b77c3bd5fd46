"""The error of this package."""

from __future__ import annotations

from retinanet.train_config import TrainingError


class RunError(TrainingError):
    """A run cannot be submitted, found or moved; the message is a sentence that says what to do."""
