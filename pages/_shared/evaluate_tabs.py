"""The tabs of the Evaluate page; only the open one is worked out."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from pages._shared import evaluate_data, evaluate_errors, evaluate_home, evaluate_sweep
from pages._shared.evaluate_work import Measured, Subject

OF_THE_SETTING: dict[str, Callable[[Measured], None]] = {
    "Sweep": evaluate_sweep.sweep_tab,
    "Curves": evaluate_sweep.curves,
    "Classes": evaluate_sweep.classes,
    "Confusion": evaluate_errors.confusions,
    "Errors": evaluate_errors.errors,
    "Scores": evaluate_errors.scores,
    "Worst photos": evaluate_errors.worst,
    "Take home": evaluate_home.show,
}
"""What needs the detections."""

OF_THE_DATA: dict[str, Callable[[Subject, Measured | None], None]] = {
    "Coverage": evaluate_data.coverage,
    "Data": evaluate_data.report,
}
"""What the data set says by itself."""

TABS: tuple[str, ...] = (
    *("Sweep", "Curves", "Classes", "Confusion", "Errors", "Scores"),
    *("Coverage", "Worst photos", "Data", "Take home"),
)
"""In the order in which they are offered."""


def show(subject: Subject, told: Measured | None) -> None:
    """The tabs.

    Args:
        subject: what is evaluated.
        told: what the setting gives; None until the network has run and the boxes are matched.
    """
    tabs = st.tabs(list(TABS), key="evaluate_tab", on_change="rerun", bind="query-params")
    for tab, name in zip(tabs, TABS, strict=True):
        if not tab.open:
            continue
        with tab:
            if name in OF_THE_DATA:
                OF_THE_DATA[name](subject, told)
            elif told is not None:
                OF_THE_SETTING[name](told)
            else:
                st.caption(
                    "This needs the detections: run the network above. Coverage and Data need none."
                )
