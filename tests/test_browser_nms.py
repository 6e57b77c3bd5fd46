"""The browser's copy of threshold, top-K, NMS and cap against the core, in a browser.

1,000 random candidate sets and settings: the same pairs kept in the same order, the same fates, the
same suppressors, the same counts.
"""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from pages._shared.canvas import script
from retinanet.box_table import table_from_trace
from retinanet.candidates import BELOW, CUT_SHOWN, FATES
from retinanet.config import ModelConfig, PostprocessConfig
from retinanet.detection import detect
from retinanet.figures.candidate_table import ROWS_PER_LEVEL, candidate_table
from retinanet.figures.columns import unpack_columns
from retinanet.figures.ghosts import candidate_pairs
from retinanet.types import LEVELS, Outputs

pytestmark = pytest.mark.browser

SETTLE = """([packed, settings]) => {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const table = readyTable(unpackColumns(bytes));
    return settings.map((knobs) => {
        const { fates, suppressor, counts, counted, covered, kept } = settle(table, knobs);
        return {
            fates: [...fates],
            by: [...suppressor].map((row) => (row < 0 ? -1 : table.pairs[row])),
            counts, counted, covered, kept: kept.map((row) => table.pairs[row]),
        };
    });
}"""


@pytest.fixture(scope="module")
def page(context):
    opened = context.new_page()
    opened.add_script_tag(content=script("columns", "nms"))
    yield opened
    opened.close()


def random_outputs(seed: int) -> Outputs:
    """Crowded boxes of a few classes on small grids; no two scores are equal."""
    draw = torch.Generator().manual_seed(seed)
    classes = int(torch.randint(1, 5, (), generator=draw))
    side = 2 ** int(torch.randint(2, 5, (), generator=draw))
    grids = [(max(1, side >> level), max(1, side >> level)) for level in range(5)]
    size = (8 * side, 8 * side + 3)
    rows = [height * width * 9 for height, width in grids]
    spread = torch.linspace(-6, 3, sum(rows) * classes)[
        torch.randperm(sum(rows) * classes, generator=draw)
    ]
    logits = list(spread.reshape(-1, classes).split(rows))
    anchors, deltas = [], []
    for level, (height, width) in enumerate(grids):
        count = height * width * 9
        centers = torch.rand(count, 2, generator=draw) * torch.tensor([size[1], size[0]])
        half = (torch.rand(count, 2, generator=draw) + 0.3) * 8 * 2 ** (level / 2)
        anchors.append(torch.cat([centers - half, centers + half], dim=1))
        deltas.append(torch.randn(count, 4, generator=draw) * 0.3)
    return Outputs(
        features={},
        cls_logits=logits,
        bbox_regression=deltas,
        anchors=anchors,
        grid_sizes=grids,
        image_size=size,
        padded_size=size,
        original_size=(2 * size[0], 3 * size[1]),
        config=ModelConfig(num_classes=classes),
    )


def random_settings(seed: int, classes: int, count: int) -> list[PostprocessConfig]:
    draw = np.random.default_rng(seed)
    settings = []
    for _ in range(count):
        score, nms = draw.choice([0.0, 1.0, *draw.random(6)], 2)
        floors = {k: float(draw.random()) for k in range(classes) if draw.random() < 0.25}
        settings.append(
            PostprocessConfig(
                score_thresh=float(np.round(score, draw.integers(2, 9))),
                nms_thresh=float(np.round(nms, draw.integers(2, 9))),
                topk_candidates=int(draw.choice([1, 3, 10, 50, 300, 1000, 10_000])),
                detections_per_img=int(draw.choice([1, 5, 20, 100, 500])),
                class_score_thresh=floors,
            )
        )
    return settings


def as_knobs(config: PostprocessConfig) -> dict:
    floors = {str(label): floor for label, floor in config.class_score_thresh}
    return {**config.to_dict(), "class_score_thresh": floors}


@pytest.mark.parametrize("seed", range(50))
def test_the_browser_keeps_what_the_core_keeps(page, seed):
    outputs = random_outputs(seed)
    packed = candidate_table(outputs)
    header, columns = unpack_columns(packed)
    settings = random_settings(seed, outputs.num_classes, 20)
    answers = page.evaluate(
        SETTLE, [base64.b64encode(packed).decode(), [as_knobs(config) for config in settings]]
    )
    complete = header["counts"] == header["totals"]
    for config, answer in zip(settings, answers, strict=True):
        trace = detect(outputs, config)
        if complete or config.topk_candidates <= ROWS_PER_LEVEL:
            assert answer["covered"] or config.class_score_thresh
        if not answer["covered"]:
            continue
        assert answer["kept"] == table_from_trace(trace).pairs.tolist(), config
        if complete:
            assert answer["counted"]
        if answer["counted"]:
            core = [[trace.counts_per_level[name][fate] for fate in FATES] for name in LEVELS]
            assert answer["counts"] == core, config
        assert_same_fates(trace, columns["pairs"], answer)


def assert_same_fates(trace, pairs, answer) -> None:
    """Of every row of the table: its fate and who suppressed it."""
    listed = {
        pair: (fate, by)
        for pair, fate, by in zip(
            candidate_pairs(trace).tolist(),
            trace.candidates.fate.tolist(),
            trace.suppressed_by.tolist(),
            strict=True,
        )
    }
    names = candidate_pairs(trace).tolist()
    for pair, fate, by in zip(pairs.tolist(), answer["fates"], answer["by"], strict=True):
        if pair not in listed:
            assert fate == BELOW or len(pairs) > CUT_SHOWN  # so far down that it is not listed
            continue
        core_fate, core_by = listed[pair]
        assert fate == core_fate
        assert by == (names[core_by] if core_by >= 0 else -1)


def test_boxes_without_area_suppress_nothing(page):
    outputs = random_outputs(3)
    outputs.bbox_regression[0][:40, 2:] = -200.0  # exp(-200) is 0 in float32
    packed = candidate_table(outputs)
    config = PostprocessConfig(0.0, 0.0, 1000, 500)
    (answer,) = page.evaluate(SETTLE, [base64.b64encode(packed).decode(), [as_knobs(config)]])
    assert answer["kept"] == table_from_trace(detect(outputs, config)).pairs.tolist()


def test_a_table_that_is_too_short_says_so(page):
    """Of a level with more pairs than are sent, the browser does not claim to know the rest."""
    draw = torch.Generator().manual_seed(1)
    outputs = random_outputs(7)
    outputs.cls_logits[0] = torch.randn(4 * ROWS_PER_LEVEL, 2, generator=draw)
    outputs.bbox_regression[0] = torch.zeros(4 * ROWS_PER_LEVEL, 4)
    start = torch.rand(4 * ROWS_PER_LEVEL, 2, generator=draw) * 30
    outputs.anchors[0] = torch.cat([start, start + 5], dim=1)
    for level in range(1, 5):
        outputs.cls_logits[level] = torch.randn(9, 2, generator=draw)
        outputs.bbox_regression[level] = torch.zeros(9, 4)
        outputs.anchors[level] = torch.rand(9, 4, generator=draw).sort(dim=1).values * 30
    packed = candidate_table(outputs)
    settings = [
        PostprocessConfig(0.1, 0.5, 10_000, 500),  # more of P3 pass than were sent
        PostprocessConfig(0.1, 0.5, 1000, 500),  # the first 1,000 of each level are enough
        PostprocessConfig(0.105, 0.5, 1000, 500),  # between two steps: not counted exactly
    ]
    answers = page.evaluate(
        SETTLE, [base64.b64encode(packed).decode(), [as_knobs(config) for config in settings]]
    )
    assert [answer["covered"] for answer in answers] == [False, True, True]
    assert [answer["counted"] for answer in answers] == [False, True, False]
    for config, answer in list(zip(settings, answers, strict=True))[1:]:
        trace = detect(outputs, config)
        assert answer["kept"] == table_from_trace(trace).pairs.tolist()
    core = detect(outputs, settings[1]).counts_per_level
    assert answers[1]["counts"] == [[core[name][fate] for fate in FATES] for name in LEVELS]
