"""Anchors: which of them would train on which object of the picture."""

from __future__ import annotations

from pages._shared.setup import prepare

prepare()

from pages._shared import anchors_room, inside  # noqa: E402 - after the page settings

inside.show(anchors_room.AnchorsPart())
