"""The teaching notebook, run as a reader runs it: its figures are drawn, its numbers are right."""

from __future__ import annotations

import ast
import base64
import json
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from retinanet import checkpoints
from retinanet.checkpoints import load_model
from retinanet.samples import load_sample, sample_ground_truth
from retinanet.types import LEVELS, Outputs

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "retinanet" / "notebooks" / "see_inside.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"
SAMPLE = "motorcycle"
SECONDS_FOR_A_CELL = 300  # only so that a kernel that hangs ends the test at last

FIGURES = {
    "levels": "levels_figure",
    "overlay": "overlay_figure",
    "architecture": "architecture_figure",
    "imbalance": "imbalance_figure",
    "iou": "iou_histogram",
    "curves": "loss_curves",
    "holders": "holders_figure",
    "shares": "shares_figure",
    "cdf": "cdf_figure",
    "prior": "prior_figure",
}
"""The cells that end in a figure, and the function that draws it."""

needs_weights = pytest.mark.skipif(
    not checkpoints.EMBEDDED_PATH.is_file(), reason="the embedded weights are not built yet"
)


def kernel_of_this_python(folder: Path) -> None:
    """A kernel named python3 that is this interpreter, whatever else is installed."""
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    (kernel / "kernel.json").write_text(json.dumps(spec))


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> dict[str, nbformat.NotebookNode]:
    """The code cells by their id, with outputs."""
    folder = tmp_path_factory.mktemp("jupyter")
    kernel_of_this_python(folder)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
        client = NotebookClient(
            notebook, timeout=SECONDS_FOR_A_CELL, kernel_name="python3", resources=resources
        )
        client.execute()
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


@pytest.fixture(scope="module")
def outputs() -> Outputs:
    return load_model("embedded", device="cpu")(load_sample(SAMPLE))


@pytest.fixture(scope="module")
def truth(outputs) -> tuple[list[str], Tensor, Tensor]:
    """Names, boxes in pixels of the resized photo, and labels of what the model has a class for."""
    known = [one for one in sample_ground_truth(SAMPLE) if one.category in outputs.categories]
    ratios = [new / old for new, old in zip(outputs.image_size, outputs.original_size, strict=True)]
    scale = torch.tensor([ratios[1], ratios[0]] * 2)
    boxes = torch.tensor([one.xyxy for one in known], dtype=torch.float32) * scale
    labels = torch.tensor([outputs.categories.index(one.category) for one in known])
    return [one.category for one in known], boxes, labels


@pytest.fixture(scope="module")
def matched(outputs, truth) -> Tensor:
    """torchvision's own matching: [R], -1 background, -2 between the bounds."""
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    return matcher(box_iou(truth[1], torch.cat(outputs.anchors)))


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(one.text for one in cell.outputs if one.output_type == "stream")


def shown(cell: nbformat.NotebookNode) -> dict:
    """What the cell's last line gave, by its kind; plotly displays a figure by itself."""
    kinds = ("execute_result", "display_data")
    (result,) = [one for one in cell.outputs if one.output_type in kinds]
    return result.data


def figure(cell: nbformat.NotebookNode) -> dict:
    return shown(cell)[PLOTLY]


def values(coordinates) -> list:
    """A trace's coordinates, packed by plotly or not."""
    if isinstance(coordinates, dict):
        packed = base64.b64decode(coordinates["bdata"])
        return np.frombuffer(packed, dtype=coordinates["dtype"]).tolist()
    return list(coordinates)


# ------------------------------------------------------------------ the file


def test_the_file_is_clean():
    raw = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    nbformat.validate(nbformat.from_dict(raw))
    assert set(raw["metadata"]) == {"kernelspec"}
    for cell in raw["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_the_command_it_gives_names_the_file_itself():
    (named,) = re.findall(r"`jupyter lab ([^`]+)`", NOTEBOOK.read_text(encoding="utf-8"))
    assert ROOT / named == NOTEBOOK


def test_each_figure_has_words_before_it():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kinds = {cell.id: cell for cell in notebook.cells}
    order = list(kinds)
    for name, function in FIGURES.items():
        words = kinds[order[order.index(name) - 1]]
        assert words.cell_type == "markdown", name
        assert len(words.source.split()) >= 20, name
        assert kinds[name].source.splitlines()[-1].startswith(f"{function}("), name


# ------------------------------------------------------------------ what it gives


@needs_weights
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_cell_gives_a_plotly_figure(cells, name):
    drawn = figure(cells[name])
    assert drawn["data"], name
    coordinates = [
        values(trace[axis])
        for trace in drawn["data"]
        for axis in ("x", "y", "z", "source", "r")
        if trace.get(axis) is not None and not isinstance(trace[axis], str)
    ]
    has_picture = any(trace["type"] == "image" for trace in drawn["data"])
    has_picture |= bool(drawn["layout"].get("images"))
    assert has_picture or any(coordinates), f"{name} has no points"


@needs_weights
def test_nothing_is_written_to_stderr(cells):
    for name, cell in cells.items():
        streams = {one.name for one in cell.outputs if one.output_type == "stream"}
        assert streams <= {"stdout"}, f"{name}: {printed(cell)}"


@needs_weights
def test_the_photo_is_shown(cells):
    assert "image/png" in shown(cells["outputs"])


@needs_weights
def test_the_anchors_are_counted(cells, outputs):
    cells_of_levels = sum(len(level) for level in outputs.anchors)
    assert f"{cells_of_levels:,} anchors, 80 classes" in printed(cells["outputs"])


@needs_weights
def test_the_counts_are_torchvisions(cells, matched):
    line = printed(cells["assign"]).splitlines()[-1]
    assert ast.literal_eval(line) == {
        "foreground": int((matched >= 0).sum()),
        "ignored": int((matched == -2).sum()),
        "background": int((matched == -1).sum()),
    }


@needs_weights
def test_the_imbalance_figure_shows_the_counts_by_level(cells, outputs, matched):
    drawn = figure(cells["imbalance"])
    bars = {trace["name"].split()[0].lower(): trace for trace in drawn["data"]}
    levels = matched.split([len(level) for level in outputs.anchors])
    for name, wanted in (("foreground", lambda m: m >= 0), ("background", lambda m: m == -1)):
        shown_counts = dict(zip(values(bars[name]["x"]), values(bars[name]["y"]), strict=True))
        for level, own in zip(LEVELS, levels, strict=True):
            count = int(wanted(own).sum())
            assert count == 0 or shown_counts[level] == count, (name, level)


@needs_weights
def test_the_histogram_holds_every_anchor_in_its_bin(cells, outputs, truth):
    best = box_iou(truth[1], torch.cat(outputs.anchors)).amax(dim=0)
    wanted = torch.bincount((best * 50).long().clamp(max=49), minlength=50).tolist()
    found = [0] * 50
    for trace in figure(cells["iou"])["data"]:
        for middle, count in zip(values(trace["x"]), values(trace["y"]), strict=True):
            found[int(50 * middle)] += count
    assert found == wanted


@needs_weights
def test_every_object_is_covered_as_torchvision_matches(cells, truth, matched):
    table = shown(cells["coverage"])["text/html"]
    for index, name in enumerate(truth[0]):
        row = re.search(rf"<th>{index}</th>(.*?)</tr>", table, re.S)[1]
        texts = re.findall(r"<td>(.*?)</td>", row)
        assert name in texts
        assert str(int((matched == index).sum())) in texts


@needs_weights
def test_the_dialects_start_from_the_same_counts(cells, outputs, matched):
    total = sum(len(level) for level in outputs.anchors)
    lines = printed(cells["dialects"]).splitlines()
    assert len(lines) == 3
    foreground = int((matched >= 0).sum())
    for line in lines:
        assert f"of {total:,} anchors change" in line or f"all {total:,} anchors" in line
        if "foreground goes from" in line:
            assert f"foreground goes from {foreground:,} to " in line


@needs_weights
def test_the_loss_is_torchvisions(cells, outputs, truth, matched):
    logits = torch.cat(outputs.cls_logits)
    targets = torch.zeros_like(logits)
    foreground = torch.where(matched >= 0)[0]
    targets[foreground, truth[2][matched[foreground]]] = 1
    valid = matched != -2
    total = sigmoid_focal_loss(logits[valid], targets[valid], 0.25, 2.0, reduction="sum")
    wanted = float(total) / max(1, len(foreground))
    found = float(re.search(r"classification ([0-9.]+)", printed(cells["loss"]))[1])
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4)


@needs_weights
def test_the_shares_of_each_bar_add_up_to_all(cells):
    drawn = figure(cells["holders"])
    bars: dict[str, float] = {}
    for trace in drawn["data"]:
        for name, share in zip(values(trace["y"]), values(trace["x"]), strict=True):
            bars[name] = bars.get(name, 0.0) + share
    assert len(bars) == 7
    totals = set(bars.values())
    assert all(total == pytest.approx(max(totals)) for total in totals)
