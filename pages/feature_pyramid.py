"""Feature pyramid: what each level holds of the picture, and what it is for."""

from __future__ import annotations

from pages._shared.setup import prepare

prepare()

from pages._shared import inside, pyramid_room  # noqa: E402 - after the page settings

inside.show(pyramid_room.PyramidPart())
