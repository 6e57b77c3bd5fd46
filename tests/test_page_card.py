"""The card of the weights, and the line that says what the embedded model is."""

import pytest
from streamlit.testing.v1 import AppTest

from pages._shared import engine
from retinanet.checkpoints import OFFICIAL, official_ap
from tests.apptest import open_app, words

CARD = {
    "data": {"annotations": "held_out.json", "photos": 60, "objects": 501},
    "metrics": {
        "AP": {"value": 0.0712, "low": 0.051, "high": 0.093},
        "AP_small": {"value": 0.004},
    },
    "interval": "95%, 1,000 resamples",
    "classes": [
        {"category": "cat", "AP50": 0.91, "AP": 0.6, "objects": 3},
        {"category": "<b>spoon</b>", "AP50": 0.0, "AP": 0.0, "objects": 12, "found": 0},
    ],
}


def page_of_a_card(found):
    from pages._shared import card_measured

    card_measured.show(found)


def test_the_measured_part_has_its_numbers_its_classes_and_what_is_never_found():
    app = AppTest.from_function(page_of_a_card, args=(CARD,)).run()
    assert not app.exception
    table = app.dataframe[0].value
    assert table["metric"].tolist() == ["AP", "AP_small"]
    assert table["value"].tolist() == [0.0712, 0.004]
    assert table["interval"].tolist() == ["0.051 to 0.093", ""]
    said = words(app)
    assert "Measured on the 60 photos of held\\_out.json, with 501 objects" in said
    assert "**Never found on these photos:** \\<b\\>spoon" in said  # no Markdown of a stranger's
    assert "**The class that works best**" in said


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A first run waits for the model, which takes long while other tests run."""
    monkeypatch.setattr(engine, "FIRST_LOOK_SECONDS", 120)


def test_the_embedded_models_card_is_measured_and_offers_the_official_weights():
    app = open_app("pages/model.py")
    assert not app.exception
    said = words(app)
    assert "small demonstration model" in said
    assert "How good it is" in said
    assert "Measured on the 60 photos" in said
    assert {"use_coco-v1", "use_coco-v2"} <= {button.key for button in app.button}


@pytest.mark.parametrize("name", ["coco-v1", "coco-v2"])
def test_one_click_leads_to_the_official_weights(name):
    app = open_app()
    line = next(one.value for one in app.markdown if "Small demonstration model" in one.value)
    assert f"states {official_ap('coco-v2'):.3f} for coco-v2" in line
    app.button(key=f"use_{name}").click().run()
    assert app.session_state["weights"] == name


def test_the_line_is_not_there_for_another_model():
    app = open_app(weights="random", depth="18", min_size="64", max_size="96")
    assert not any("demonstration" in one.value for one in app.markdown)
    assert not any(button.key == "use_coco-v2" for button in app.button)


def test_the_official_ap_is_what_torchvision_states():
    assert official_ap("coco-v2") == pytest.approx(0.415)
    assert set(OFFICIAL) == {"coco-v1", "coco-v2"}
