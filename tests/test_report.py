"""The printed report: its numbers are the trace's, it adds up, and nothing in it can do harm."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser

import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from retinanet.candidates import FATES
from retinanet.config import PostprocessConfig
from retinanet.detection import detect
from retinanet.figures.overlay import DRAWN, TAGGED
from retinanet.figures.palette import label_color
from retinanet.presets import find_preset
from retinanet.report import CLOSEST, EXPLAINED, html_report
from retinanet.types import LEVELS, Image

from .test_detection import make_outputs

HOSTILE = """<script>alert(1)</script>"'&</title></style>--><img src=x onerror=alert(1)>"""
VOID = {"meta", "img", "image", "rect", "path", "br"}


class Page(HTMLParser):
    """A page as a browser reads it: elements with their attributes, tables as text."""

    def __init__(self, text):
        super().__init__()
        self.text, self.open, self.elements, self.tables, self.words = text, [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, "an element is never closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append((self.open[-1] if self.open else "", data))
        if "table" in self.open and self.open[-1] not in ("table", "tr", "tbody", "thead"):
            self.tables[-1][-1][-1] += data

    def of(self, tag, kind=None):
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (kind is None or kind in attributes.get("class", "").split())
        ]

    def words_in(self, *tags):
        return "".join(data for tag, data in self.words if tag in tags)

    def table(self, *headings):
        """The table whose heading row starts so, without that row."""
        return next((t[1:] for t in self.tables if t[0][: len(headings)] == list(headings)), None)


def picture(outputs, name="street.jpg", **kwargs):
    height, width = outputs.original_size
    return Image(PIL.Image.new("RGB", (width, height), "#446688"), "0" * 64, name, **kwargs)


def report(outputs, config, **kwargs):
    trace = detect(outputs, config)
    words = {"title": "street", "command": "python -m retinanet", "model_name": "tiny", **kwargs}
    return trace, Page(html_report(picture(outputs), trace, **words))


def numbers(cells):
    return [int(cell.replace(",", "")) for cell in cells]


@pytest.fixture(scope="module")
def outputs():
    return make_outputs(seed=1)


@pytest.fixture(scope="module")
def busy(outputs):
    """Every fate occurs."""
    return report(outputs, PostprocessConfig(0.05, 0.5, 100, 60))


# --- numbers -------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    score_thresh=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    nms_thresh=st.sampled_from([0.0, 0.5, 1.0]),
    topk_candidates=st.sampled_from([1, 50, 1000]),
    detections_per_img=st.sampled_from([1, 30, 300]),
)
def test_the_ledger_adds_up_in_the_page(outputs, **knobs):
    config = PostprocessConfig(**knobs)
    trace, page = report(outputs, config)
    rows = page.table("fate", *LEVELS, "all")
    cells = [numbers(row[1:]) for row in rows]
    assert rows[-1][0] == "sum"
    assert [sum(column) for column in zip(*cells[:-1], strict=True)] == cells[-1]
    for row in cells:
        assert sum(row[:-1]) == row[-1]
    assert cells[-1][-1] == outputs.num_anchors * outputs.num_classes
    for fate, row in zip(FATES, cells[:-1], strict=True):
        assert row[:-1] == [counts[fate] for counts in trace.counts_per_level.values()]
    sentence = page.words_in("p")
    assert f"{cells[-1][-1]:,} pairs" in sentence
    assert f"{trace.counts['kept']:,} kept" in sentence


def test_the_table_of_detections_is_the_trace(outputs, busy):
    trace, page = busy
    rows = page.table("#", "category", "score")
    assert len(rows) == len(trace) == 60
    for i, row in enumerate(rows):
        number, category, score, level, *edges, anchor, rank = row[:10]
        assert number == str(i + 1)
        assert category == trace.categories[int(trace.labels[i])]
        assert score == f"{float(trace.scores[i]):.3f}"
        assert edges == [f"{edge:.1f}" for edge in trace.boxes[i].tolist()]
        place = LEVELS.index(level)
        scores = outputs.cls_logits[place].sigmoid()
        assert int(rank.replace(",", "")) == int((scores > trace.scores[i]).sum()) + 1
        at = (scores == trace.scores[i]).nonzero()[0][0]
        x1, y1, x2, y2 = outputs.anchors[place][at].tolist()
        assert anchor == f"{x2 - x1:.0f} × {y2 - y1:.0f}"


def test_the_stretches_of_nms_thresh_are_those_of_the_best_boxes(busy):
    trace, page = busy
    rows = page.table("#", "category", "score")
    assert [bool(row[10]) for row in rows] == [i < EXPLAINED for i in range(len(rows))]
    html = re.findall(r'<div class="strip">(.*?)</div>', page.text)
    assert len(html) == EXPLAINED
    for i, strip in enumerate(html):
        kept = trace.explain(i)["changes_at"]["nms_thresh"]["kept"]
        bars = re.findall(r'<rect x="([\d.]+)" width="([\d.]+)"', strip)
        assert len(bars) == len(kept) == rows[i][10].count("[")
        for (x, width), part in zip(bars, kept, strict=True):
            assert float(x) == pytest.approx(100 * part["from"], abs=0.01)
            assert float(x) + float(width) == pytest.approx(100 * part["to"], abs=0.02)
            assert f"[{part['from']:.4f},\xa0{part['to']:.4f}" in rows[i][10]
        assert 'class="now" d="M50.00 0V10"' in strip


def test_the_dropped_are_those_that_came_closest(busy):
    trace, page = busy
    table = trace.candidates
    suppressed, cut, over = (
        next(t[1:] for t in page.tables if t[0][-1] == heading)
        for heading in ("IoU", "rank in level", "number after NMS")
    )
    assert len(suppressed) == len(cut) == len(over) == CLOSEST
    ious = sorted(trace.suppressed_iou[table.fate == FATES.index("suppressed")].tolist())
    assert [row[-1] for row in suppressed] == [f"{iou:.4f}" for iou in ious[:CLOSEST]]
    assert all(float(row[-1]) >= 0.5 for row in suppressed)
    for row in suppressed:
        known = re.fullmatch(r"(?:number (\d+)|one over the limit), ([\d.]+)", row[-2])
        if known[1]:
            detection = int(known[1]) - 1
            assert known[2] == f"{float(trace.scores[detection]):.3f}"
            assert row[0] == trace.categories[int(trace.labels[detection])]
    # Three levels have more than 100 pairs above the threshold: 101 of each, then 102, ...
    assert numbers(row[-1] for row in cut) == sorted(numbers(row[-1] for row in cut))
    assert set(numbers(row[-1] for row in cut)) == {101, 102, 103, 104}
    assert numbers(row[-1] for row in over) == list(range(61, 71))
    headings = page.words_in("h3")
    for fate in ("suppressed", "cut_by_topk", "over_limit"):
        assert f": {trace.counts[fate]:,}" in headings


def test_settings_and_facts(outputs):
    _, page = report(outputs, PostprocessConfig(0.3, 0.5, 1000, 100, {0: 0.4, 3: 0.6, 77: 0.9}))
    terms = dict(
        zip(
            (data for tag, data in page.words if tag == "dt"),
            (data for tag, data in page.words if tag == "dd"),
            strict=True,
        )
    )
    assert (terms["score_thresh"], terms["nms_thresh"]) == ("0.3", "0.5")
    assert (terms["topk_candidates"], terms["detections_per_img"]) == ("1,000", "100")
    assert terms["class_score_thresh"] == "ant 0.4, bee 0.6, class 77 0.9"
    assert "preset" not in terms
    assert terms["picture"] == "384 × 193 px"
    assert terms["network saw"] == "123 × 93 px"
    assert terms["anchors"] == f"{outputs.num_anchors:,}"
    assert terms["classes"] == "5"
    assert terms["model"] == "tiny"
    assert torch.__version__ in terms["made with"]
    assert terms["picture SHA-256"] == "0" * 64
    _, page = report(outputs, find_preset("explorer").config)
    assert "explorer" in page.words_in("dd")


# --- the picture ---------------------------------------------------------------------------


def test_the_boxes_lie_over_the_picture_in_its_own_pixels(busy):
    trace, page = busy
    height, width = trace.outputs.original_size
    svg = page.of("svg")[0]
    assert svg["viewbox"] == f"0 0 {width} {height}"
    (image,) = page.of("image")
    assert (image["width"], image["height"]) == (str(width), str(height))
    edges = page.of("rect", "edge")
    after = [page.elements[i + 1][1] for i, (_, a) in enumerate(page.elements) if a in edges]
    assert len(edges) == len(after) == len(trace)
    for i, rect in enumerate(reversed(after)):  # the best are drawn last
        x1, y1, x2, y2 = trace.boxes[i].tolist()
        found = [float(rect[name]) for name in ("x", "y", "width", "height")]
        assert found == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.06)
        assert rect["stroke"] == label_color(int(trace.labels[i]))
    assert len(page.of("a", "tag")) == TAGGED < len(trace)
    assert f"The best {TAGGED} have one" in page.words_in("figcaption")


def test_tags_stay_inside_the_picture_and_hardly_hide_each_other():
    outputs = make_outputs(seed=7, centre=-5.0, spread=1.2)
    trace, page = report(outputs, PostprocessConfig(0.3, 0.3))
    assert 2 < len(trace) < 12
    height, width = outputs.original_size
    for scale in (1.0, 1.6):  # a large screen, a phone
        areas = []
        for (x, y), tag in tags_of(page):
            top, across, high = (scale * float(tag[name]) for name in ("y", "width", "height"))
            areas.append([x, y + top, x + across, y + top + high])
        areas = torch.tensor(areas)
        assert areas.min() >= -0.1
        assert (areas[:, 2:] <= torch.tensor([width + 0.1, height + 0.1])).all()
        assert box_iou(areas, areas).fill_diagonal_(0).max() < 0.05


def tags_of(page):
    for i, (tag, attributes) in enumerate(page.elements):
        if tag == "a" and attributes.get("class") == "tag":
            place = re.fullmatch(r"--x:([\d.]+)px;--y:([\d.]+)px", attributes["style"])
            yield tuple(map(float, place.groups())), page.elements[i + 1][1]


def test_the_picture_is_made_small_enough_and_keeps_its_shape():
    outputs = dataclasses.replace(make_outputs(seed=1), original_size=(1000, 4000))
    _, page = report(outputs, PostprocessConfig(0.5))
    (image,) = page.of("image")
    assert image["href"].startswith("data:image/jpeg;base64,")
    with PIL.Image.open(io.BytesIO(base64.b64decode(image["href"].split(",")[1]))) as jpeg:
        assert (jpeg.format, jpeg.size) == ("JPEG", (1600, 400))
    assert page.of("svg")[0]["viewbox"] == "0 0 4000 1000"


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000)])
def test_odd_pictures(size):
    outputs = dataclasses.replace(make_outputs(seed=1), original_size=size)
    _, page = report(outputs, PostprocessConfig(0.5))
    assert page.of("svg")[0]["viewbox"] == f"0 0 {size[1]} {size[0]}"


# --- alone and harmless --------------------------------------------------------------------


def test_it_asks_no_host_and_runs_nothing(busy):
    _, page = busy
    assert "://" not in page.text
    assert "url(" not in page.text
    assert "@import" not in page.text
    policy = page.of("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert_harmless(page)


def assert_harmless(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "img"}
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src"):
                assert value.startswith("data:image/jpeg;base64,") or value[1:] in ids


def test_hostile_names_are_shown_and_do_nothing():
    outputs = dataclasses.replace(make_outputs(seed=1), categories=(HOSTILE, HOSTILE, None))
    trace = detect(outputs, PostprocessConfig(0.05, 0.5, 100, 30, {0: 0.1}))
    page = Page(
        html_report(
            picture(outputs, HOSTILE, notes=(f"1 {HOSTILE}",)),
            trace,
            title=f"2 {HOSTILE}",
            command=f"3 {HOSTILE}",
            model_name=f"4 {HOSTILE}",
            notes=(f"5 {HOSTILE}",),
        )
    )
    assert_harmless(page)
    assert page.words_in("h1") == page.words_in("title").split("1 <")[0][: 2 + len(HOSTILE)]
    assert page.words_in("li") == f"1 {HOSTILE}5 {HOSTILE}"
    assert "".join(data for tag, data in page.words if tag in ("code", "span")).count(HOSTILE) == 1
    assert f"4 {HOSTILE}" in page.words_in("dd")
    assert page.of("svg")[0]["aria-label"].startswith(HOSTILE)
    rows = page.table("#", "category")
    assert {row[1] for row in rows} >= {HOSTILE}
    assert any(HOSTILE in data for tag, data in page.words if tag == "text")


def test_signs_that_are_no_text_are_replaced():
    outputs = make_outputs(seed=1)
    trace = detect(outputs, PostprocessConfig(0.5))
    name = "a\udcff\x00\x1b[2J\n\u202eb.jpg"
    text = html_report(picture(outputs, name), trace, title=name, command="", model_name=name)
    text.encode("utf-8")
    page = Page(text)
    assert page.words_in("h1") == "a\ufffd\ufffd\ufffd[2J\ufffd\ufffdb.jpg"
    assert not page.of("pre")


def test_the_command_can_be_copied_word_for_word(outputs):
    command = "python -m retinanet detect 'my photo.jpg' --weights embedded --nms-thresh 0.5"
    _, page = report(outputs, PostprocessConfig(0.5), command=command)
    assert re.sub(r"<[^>]+>", "", re.search(r"<pre>(.*?)</pre>", page.text)[1]) == command.replace(
        "'", "&#x27;"
    )


def test_nothing_found(outputs):
    trace, page = report(outputs, PostprocessConfig(score_thresh=1.0))
    assert len(trace) == 0
    assert "Nothing passes at these settings." in page.words_in("p")
    assert page.table("#", "category") is None
    assert len(page.tables) == 1
    assert_harmless(page)


def test_many_detections_are_cut_and_the_page_says_so():
    outputs = make_outputs(seed=1, centre=0.0)
    trace, page = report(outputs, PostprocessConfig(0.0, 1.0, 1000, 700))
    assert len(trace) == 700
    assert len(page.table("#", "category")) == DRAWN
    assert len(page.of("rect", "edge")) == DRAWN
    assert "The 200 after the best 500 are not listed." in page.words_in("p")
    assert_harmless(page)


def test_boxes_that_are_not_numbers():
    outputs = make_outputs(4)
    outputs.bbox_regression[0][::2] = math.nan
    trace, page = report(outputs, PostprocessConfig(0.3))
    assert trace.boxes.isnan().any()
    whole = int(trace.boxes[:DRAWN].isfinite().all(dim=1).sum())
    assert len(page.of("rect", "edge")) == whole


def test_the_same_arguments_give_the_same_page(outputs):
    config = PostprocessConfig(0.3)
    assert report(outputs, config)[1].text == report(make_outputs(seed=1), config)[1].text


def test_another_picture_is_refused(outputs):
    trace = detect(dataclasses.replace(outputs, image_id="f" * 64), PostprocessConfig(0.5))
    words = {"title": "", "command": "", "model_name": ""}
    with pytest.raises(ValueError, match="another picture"):
        html_report(picture(outputs), trace, **words)
    small = Image(PIL.Image.new("RGB", (9, 9)), "f" * 64)
    with pytest.raises(ValueError, match="another picture"):
        html_report(small, trace, **words)
