"""What the experiments vary, and what is said of runs whose numbers are known."""

import csv
import json
import random
import sys
from functools import partial
from pathlib import Path
from statistics import median

import pytest

import retinanet.cli.experiment as experiment_command
from retinanet.__main__ import main
from retinanet.config import LossConfig, ModelConfig
from retinanet.run_record import RunRecord
from retinanet.runs import (
    EXPERIMENTS,
    RunQueue,
    RunRequest,
    RunState,
    compare,
    diverged_in,
    freezing,
    imbalance,
    verdict,
)
from retinanet.runs.comparison import settings
from retinanet.train_config import TrainConfig, TrainingError
from tests.shapes import write_shapes


def base(**changes):
    values = {
        "train": TrainConfig(steps=10, seed=3),
        "start": "imagenet",
        "start_kind": "backbone",
        **changes,
    }
    return RunRequest("shapes R18", Path("a.json"), Path("images"), **values)


def differing(requests):
    found = [settings(request) for request in requests]
    names = {name for name in found[0] if len({repr(one[name]) for one in found}) > 1}
    return names - {"name"}


def test_freezing_varies_the_frozen_stages_and_nothing_else():
    requests = freezing(base())
    assert [request.model.frozen_stages for request in requests] == [0, 1, 2, 3, 4, 4]
    assert differing(requests[:5]) == {"frozen_stages"}
    assert differing(requests[4:]) == {"start", "start_kind"}
    assert requests[5].start == "random"
    assert {request.experiment for request in requests} == {"freezing"}
    assert len({request.name for request in requests}) == 6
    assert EXPERIMENTS["freezing"].note(base()) == ""


def test_freezing_random_numbers_says_that_there_is_nothing_to_freeze():
    fresh = base(start="random", start_kind="fresh")
    assert [request.model.frozen_stages for request in freezing(fresh)] == [0, 1, 2, 3, 4]
    assert "nothing worth freezing" in EXPERIMENTS["freezing"].note(fresh)


def test_imbalance_is_the_papers_rows_and_a_head_without_its_prior():
    requests = imbalance(base(experiment="mine"))
    rows = [(r.train.loss.alpha, r.train.loss.gamma, r.train.prior) for r in requests]
    assert rows == [(0.5, 0, 0.01), (0.75, 0, 0.01), (0.25, 2, 0.01), (0.5, 0, 0.5)]
    assert differing(requests) == {"alpha", "gamma", "prior"}
    assert {request.experiment for request in requests} == {"mine"}
    whole = base(start="embedded", start_kind="weights")
    assert [request.train.prior for request in imbalance(whole)] == [0.01] * 3
    assert "left out" in EXPERIMENTS["imbalance"].note(whole)


def test_long_names_stay_apart():
    for key, experiment in EXPERIMENTS.items():
        requests = experiment.make(base().__class__("n" * 80, Path("a"), Path("b")))
        assert len({request.name for request in requests}) == len(requests), key


# ------------------------------------------------------------------ comparing


def a_curve(seconds, first=2.0, last=1.0, memory=1_000_000):
    """The first two steps take ten times as long."""
    losses = [first] + [1.5] * (len(seconds) - 2) + [last]
    return [
        {
            "step": step,
            "steps": len(seconds),
            "classification": loss,
            "seconds": (10 if step <= 2 else 1) * took,
            "seconds_data": 0.1 * took,
            "seconds_forward": 0.3 * took,
            "seconds_backward": 0.5 * took,
            "seconds_optimizer": 0.1 * took,
            "memory_bytes": memory + step,
        }
        for step, (took, loss) in enumerate(zip(seconds, losses, strict=True), start=1)
    ]


def a_state(number, request, curve=(), aps=(), state="done", sentence="", cost=None):
    record = RunRecord(
        state="done",
        step=len(curve),
        steps=len(curve),
        curve=list(curve),
        validations=[{"step": s, "AP": ap, "AP50": 2 * ap} for s, ap in aps],
        cost=cost,
    )
    run_id = f"{number:06x}{0:010x}"
    folder = Path("runs") / run_id
    return RunState(run_id, request, state, -1, sentence, folder, None, record, float(number))


def test_a_row_holds_the_numbers_of_its_run():
    draw = random.Random(1)
    seconds = [[draw.uniform(0.5, 1.5) for _ in range(11)] for _ in range(2)]
    cost = {"trainable": 25, "total": 100, "gradient_bytes": 8, "optimizer_bytes": 4}
    runs = [
        a_state(1, request, a_curve(took, memory=memory), [(5, 0.3), (11, 0.2)], cost=cost)
        for request, took, memory in zip(freezing(base()), seconds, (10**6, 10**5), strict=False)
    ]
    first, second = compare(runs)
    for row, took in ((first, seconds[0]), (second, seconds[1])):
        assert row["seconds"] == median(took[2:])
        assert row["seconds_backward"] == pytest.approx(0.5 * median(took[2:]))
        assert row["seconds_low"] <= row["seconds"] <= row["seconds_high"]
    assert first["seconds_ratio"] == first["memory_ratio"] == 1
    assert second["seconds_ratio"] == median(seconds[1][2:]) / median(seconds[0][2:])
    assert second["memory_ratio"] == (10**5 + 11) / (10**6 + 11)
    assert (first["first_classification"], first["last_classification"]) == (2.0, 1.0)
    assert (first["AP"], first["AP_best"], first["AP50"], first["AP50_best"]) == (
        0.2,
        0.3,
        0.4,
        0.6,
    )
    assert (first["trainable_share"], first["training_bytes"]) == (0.25, 12)
    assert (first["differs"], second["differs"]) == ("frozen_stages 0", "frozen_stages 1")
    assert first["label"] == "frozen_stages 0"


def test_groups_stay_together_and_begin_with_the_run_submitted_first():
    one, two = freezing(base())[:2], imbalance(base())[:2]
    runs = [a_state(4, one[1]), a_state(3, two[1]), a_state(2, one[0]), a_state(1, two[0])]
    rows = compare(runs)
    assert [row["id"][5] for row in rows] == ["2", "4", "1", "3"]
    assert [row["differs"] for row in rows[2:]] == ["alpha 0.5", "alpha 0.75"]
    assert compare([]) == []
    again = compare([a_state(1, one[0]), a_state(2, one[0])])
    assert len({row["label"] for row in again}) == 2


def test_a_run_that_has_only_begun_has_no_numbers_yet():
    (row,) = compare([a_state(1, base(), a_curve([1.0, 1.0]), state="running")])
    assert row["seconds"] is row["seconds_ratio"] is row["AP"] is row["AP_best"] is None
    assert row["trainable_share"] is None
    assert row["first_classification"] == 2.0
    assert verdict([row]) == ["One run alone has nothing to be compared with."]


def test_the_verdict_on_freezing_has_the_ratios_and_where_ap_fell():
    times = (1.0, 0.9, 0.8, 0.7, 0.5, 0.5)
    aps = (0.30, 0.304, 0.31, 0.25, 0.10, 0.02)
    shares = (99, 98, 94, 75, 40, 40)
    runs = [
        a_state(
            number,
            request,
            a_curve([took] * 8),
            [(8, ap)],
            cost={"trainable": share, "total": 100, "gradient_bytes": share, "optimizer_bytes": 0},
        )
        for number, (request, took, ap, share) in enumerate(
            zip(freezing(base()), times, aps, shares, strict=True)
        )
    ]
    said = verdict(compare(runs[::-1]))
    assert any("frozen_stages 4: a step takes 500 ms, 0.50 times" in line for line in said)
    assert any("40% of the parameters" in line and "0.40 times the memory" in line for line in said)
    assert "AP falls by 0.200 to 0.100 with frozen_stages 4." in said
    assert "AP rises by 0.010 to 0.310 with frozen_stages 2." in said
    assert any("frozen_stages 1 (0.304)" in line and "one seed" in line for line in said)
    assert any("AP 0.100 from imagenet and 0.020 from random numbers" in line for line in said)
    assert not any("do not show" in line or "busy" in line for line in said)


def test_the_verdict_does_not_claim_what_the_runs_do_not_show():
    draw = random.Random(5)
    runs = [
        a_state(number, request, a_curve([draw.uniform(0.5, 1.5) for _ in range(12)]))
        for number, request in enumerate(freezing(base())[:2])
    ]
    said = verdict(compare(runs))
    assert any("within the spread" in line for line in said)
    assert "These runs do not show that freezing makes a step cheaper." in said
    assert any("nothing is said of AP" in line for line in said)
    slower = [
        a_state(number, request, a_curve([took] * 8))
        for number, (request, took) in enumerate(zip(freezing(base()), (1.0, 2.0), strict=False))
    ]
    said = verdict(compare(slower))
    assert "These runs do not show that freezing makes a step cheaper." in said
    assert any("frozen_stages 1 does less work than frozen_stages 0" in line for line in said)


def test_the_verdict_on_imbalance_compares_first_losses_and_names_what_diverged():
    sentence = str(
        TrainingError("The loss is no longer a finite number in step 3. Lower the rate.")
    )
    requests = imbalance(base())
    firsts = (2.0, 3.0, 1.0, 500.0)
    runs = [
        a_state(number, request, a_curve([1.0] * 4, first), [(4, 0.1)])
        for number, (request, first) in enumerate(zip(requests[:3], firsts, strict=False))
    ]
    runs.append(a_state(3, requests[3], a_curve([1.0, 1.0], 500.0), (), "failed", sentence))
    rows = compare(runs)
    assert [row["diverged_in"] for row in rows] == [None, None, None, 3]
    said = verdict(rows)
    assert "cross entropy, pi 0.5 diverged in step 3: its loss was no finite number." in said
    assert any("is 500, 250 times the 2 with pi 0.01" in line for line in said)
    assert any("not compared; AP is" in line for line in said)


def test_the_step_is_read_from_what_training_says(tmp_path):
    from retinanet.coco import load_coco
    from retinanet.model import RetinaNet
    from retinanet.training import train

    annotations = write_shapes(tmp_path / "data")
    dataset = load_coco(annotations, annotations.parent / "images")
    shape = ModelConfig(depth=18, num_classes=2, num_convs=1, min_size=64, max_size=96)
    config = TrainConfig(steps=9, batch_size=2, lr=1e30, clip_grad_norm=1e30, warmup_steps=0)
    done = []
    with pytest.raises(TrainingError) as raised:
        train(RetinaNet(shape), dataset, config, run_folder=tmp_path, on_progress=done.append)
    assert diverged_in(str(raised.value)) == len(done) + 1
    assert diverged_in("There is no folder nowhere.") is None


# ------------------------------------------------------------------ the command line

CHILD = """
import json, pathlib, sys
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
folder, out = pathlib.Path(value("--run-folder")), pathlib.Path(value("--out"))
begun = folder / "begun"
begun.write_text(begun.read_text() + "x" if begun.exists() else "x")
diverges = value("--prior") == "0.5"
sleeps = value("--seed") == "14" and value("--alpha") == "0.5" and not diverges
with (folder / "steps.jsonl").open("a") as log:
    for step in range(1, 3 if diverges else 5):
        point = {"step": step, "steps": 4, "classification": 1 + float(value("--prior")),
                 "seconds": 0.5, "seconds_backward": 0.2, "memory_bytes": 10**8}
        log.write(json.dumps(point) + chr(10))
with (folder / "validations.jsonl").open("a") as log:
    log.write(json.dumps({"step": 4, "AP": 0.25, "AP50": 0.5}) + chr(10))
if diverges:
    sys.exit("retinanet train: The loss is no longer a finite number in step 3. Lower it.")
if sleeps and begun.read_text() == "x":
    import time
    time.sleep(60)
if value("--seed") == "13":
    sys.exit("retinanet train: The device is out of luck; choose another.")
out.write_text("weights")
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    (tmp_path / "child.py").write_text(CHILD)
    child = (sys.executable, "-S", str(tmp_path / "child.py"))
    quick = partial(RunQueue, command=child, poll_seconds=0.02)
    monkeypatch.setattr(experiment_command, "RunQueue", quick)
    annotations = write_shapes(tmp_path / "data")
    options = ["--images", str(annotations.parent / "images"), "--run-folder", str(tmp_path / "r")]
    return ["experiment", "imbalance", str(annotations), *options]


def test_the_command_compares_and_keeps_finished_runs(command, tmp_path, capsys):
    outputs = [f"--{kind}={tmp_path / f'out.{kind}'}" for kind in ("json", "csv", "html")]
    assert main([*command, *outputs]) == 0
    printed = capsys.readouterr()
    assert "diverged in step 3" in printed.out
    assert "cross entropy, pi 0.5: instances" in printed.err
    plain = json.loads((tmp_path / "out.json").read_text())
    assert [row["state"] for row in plain["rows"]] == ["done"] * 3 + ["failed"]
    assert [row["AP"] for row in plain["rows"]] == [0.25] * 4
    assert len(plain["curves"]["focal loss"]) == 4
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["label"] for row in rows] == [row["label"] for row in plain["rows"]]
    page = (tmp_path / "out.html").read_text()
    assert "diverged in step 3" in page
    assert page.count("Plotly.newPlot") >= 3
    assert main(command) == 0
    assert "kept" in capsys.readouterr().err
    begun = [path.read_text() for path in (tmp_path / "r").glob("*/begun")]
    assert begun == ["x"] * 4  # a run that diverged would only diverge again


def test_a_failed_run_ends_the_experiment_in_one_line(command, tmp_path, capsys):
    assert main([*command, "--seed", "13"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "The device is out of luck; choose another." in line
    assert len(list((tmp_path / "r").glob("*/begun"))) == 1


def test_an_interrupted_experiment_goes_on_with_the_same_command(
    command, tmp_path, capsys, monkeypatch
):
    def interrupted(queue, run_id, seconds=None):
        while queue.get(run_id).record.step < 4:
            pass
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunQueue, "wait", interrupted)
        assert main([*command, "--seed", "14"]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    (folder,) = (path.parent for path in (tmp_path / "r").glob("*/begun"))
    assert json.loads((folder / "state.json").read_text())["state"] == "paused"
    assert main([*command, "--seed", "14"]) == 0
    begun = {path.parent: path.read_text() for path in (tmp_path / "r").glob("*/begun")}
    assert begun.pop(folder) == "xx"
    assert list(begun.values()) == ["x"] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--depth", "49"], "depth"),
        (["--images", "nowhere"], "There is no folder"),
        (["--weights", "-x"], "expected one argument"),
        (["--csv", "no/such/file.csv"], "does not exist"),
        (["--html", "."], "is a folder"),
        (["--out", "x.safetensors"], "unrecognized"),
    ],
)
def test_bad_options_end_before_the_work(command, tmp_path, capsys, options, words):
    try:
        code = main([*command, *options])
    except SystemExit as left:
        code = left.code
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
    assert not list((tmp_path / "r").glob("*/begun"))


def test_every_setting_of_train_reaches_the_runs(command, tmp_path):
    assert main([*command, "--lr", "0.5", "--depth", "34", "--num-convs", "2", "--seed", "4"]) == 0
    for path in (tmp_path / "r").glob("*/request.json"):
        request = RunRequest.from_dict(json.loads(path.read_text()))
        assert (request.train.lr, request.train.seed) == (0.5, 4)
        assert (request.model.depth, request.model.num_convs) == (34, 2)
        assert request.train.loss in [LossConfig(0.5, 0), LossConfig(0.75, 0), LossConfig()]
