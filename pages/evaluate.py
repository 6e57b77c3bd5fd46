"""Evaluate: average precision, and why it is no higher."""

from __future__ import annotations

from pages._shared.setup import prepare

prepare()

from pages._shared import evaluate_room  # noqa: E402 - after the page settings

evaluate_room.show()
