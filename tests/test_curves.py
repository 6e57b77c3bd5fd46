"""The training curves of a model card."""

from retinanet.figures.curves import points_of, training_curves

CURVE = [{"step": s, "classification": 1.0 / s, "bbox_regression": 0.5} for s in (1, 20, 40)]
VALIDATIONS = [{"step": 40, "AP50": 0.2, "AP": 0.1}]


def test_every_point_is_drawn_once_in_its_own_series():
    figure = training_curves(CURVE, VALIDATIONS)
    series = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert series["focal loss"] == ([1, 20, 40], [1.0, 0.05, 0.025])
    assert series["box loss"] == ([1, 20, 40], [0.5] * 3)
    assert series["AP50 on the validation photos"] == ([40], [0.2])
    assert len({(trace.line.color, trace.line.dash) for trace in figure.data}) == 3


def test_only_points_that_can_be_drawn_are_taken_from_a_card():
    card = {"curve": [*CURVE, {"step": 3}, "no point", {"step": "4"}], "validations": "none"}
    assert points_of(card, "curve") == CURVE
    assert points_of(card, "validations") == []
    assert points_of({}, "curve") == []
