"""Focal loss: who holds the loss of the picture, and what alpha and gamma do about it."""

from __future__ import annotations

from pages._shared.setup import prepare

prepare()

from pages._shared import inside, loss_room  # noqa: E402 - after the page settings

inside.show(loss_room.LossPart())
