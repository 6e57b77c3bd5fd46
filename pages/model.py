"""About the model: the card of the weights in use, with what they are not good at."""

from __future__ import annotations

from pages._shared.setup import prepare

prepare()

from pages._shared import card, sidebar, state  # noqa: E402 - after the page settings

state.check_url()
spec = sidebar.model_controls()
state.show_notices()
card.show(spec)
