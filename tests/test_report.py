"""Rows to tables: what is derived, what is left out, and the command that writes them."""

import io
import json

import pandas as pd
import pytest
import torch
from conftest import SHORT

from ssd_bench.metrics.against import average_gap, layer_distance, tow
from ssd_bench.report import cli as report
from ssd_bench.report.derive import derived
from ssd_bench.results import by_task, read_rows, reference, to_frame


@pytest.fixture
def say(capfd):
    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            report.main(list(map(str, arguments)))
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    return run


@pytest.fixture
def swept(command, tmp_path):
    out = tmp_path / "runs"
    assert command("-m", *SHORT, f"out={out}", "method=original,retrain,ssd", "seed=0,1").code == 0
    return out


def test_average_gap_by_hand():
    ours = {"forget_train_acc": 10.0, "retain_train_acc": 90.0, "retain_acc": 80.0, "test_acc": 70.0, "mia": 5.0}
    theirs = {"forget_train_acc": 0.0, "retain_train_acc": 94.0, "retain_acc": 82.0, "test_acc": 78.0, "mia": 9.0}
    assert average_gap(ours, theirs, "full_class") == (10 + 4 + 2 + 4) / 4
    assert average_gap(ours, theirs, "random") == (10 + 4 + 8 + 4) / 4
    assert average_gap(ours | {"mia": None}, theirs, "random") is None


def test_one_line_a_run(swept, say):
    code, out, _ = say(swept, "--format", "csv")
    assert code == 0
    frame = pd.read_csv(io.StringIO(out))
    assert sorted(frame.method) == sorted(["original", "retrain", "ssd"] * 2)
    assert set(frame.seed) == {0, 1}
    assert (frame[frame.method == "retrain"].average_gap == 0).all()
    assert (frame[frame.method != "retrain"].average_gap > 0).all()
    ssd = frame[(frame.method == "ssd") & (frame.seed == 0)].iloc[0]
    row = next(r for r in read_rows(swept) if r["method"] == "ssd" and r["task"]["seed"] == 0)
    assert ssd.retain_acc == pytest.approx(row["metrics"]["retain_acc"])
    assert ssd.cost_s == pytest.approx(row["times"]["online_s"] + row["times"]["importance_full_cost_s"])


def test_one_table_a_task(swept, say):
    code, out, _ = say(swept)
    assert code == 0
    assert out.count("digits, resnet18_slim, full_class: forget 8") == 2
    firsts = [
        line.split()[0]
        for line in out.splitlines()
        if line.split() and line.split()[0] in ("original", "retrain", "ssd")
    ]
    assert firsts == ["original", "retrain", "ssd"] * 2


def test_markdown_into_a_file(swept, say, tmp_path):
    code, out, _ = say(swept, "-o", tmp_path / "page.md")
    assert (code, out) == (0, "")
    text = (tmp_path / "page.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert sum(line.startswith("| ssd |") for line in lines) == 2


def test_what_is_no_row_is_left_out_and_named(swept, say, caplog):
    rows = sorted(swept.rglob("metrics.json"))
    rows[0].write_text(rows[0].read_text()[:100])
    broken = json.loads(rows[1].read_text())
    broken["schema"] = 99
    rows[1].write_text(json.dumps(broken))
    assert len(read_rows(swept)) == 4
    assert str(rows[0]) in caplog.text  # by its full path
    assert str(rows[1]) in caplog.text


def test_a_head_reset_is_not_the_reference_where_there_is_a_real_retrain(swept, command):
    command(*SHORT, f"out={swept}", "method=retrain", "method.mode=head_reset", "seed=0")
    rows = next(rows for rows in by_task(read_rows(swept)) if rows[0]["task"]["seed"] == 0)
    assert len([r for r in rows if r["method"] == "retrain"]) == 2
    assert reference(rows)["settings"]["mode"] == "from_scratch"
    assert to_frame(rows, derived(rows, swept)).average_gap.min() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "is not a folder"),
        (["."], "holds no finished run"),
        ([".", "--format", "cvs"], "did you mean 'csv'"),
        ([".", "--fromat", "csv"], "unrecognized arguments"),
        ([], "folder"),
    ],
)
def test_wrong_input(say, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = say(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("ssd-bench: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_tow_and_layer_distance_by_hand():
    ours = {"forget_train_acc": 10.0, "retain_train_acc": 90.0, "test_acc": 70.0}
    theirs = {"forget_train_acc": 0.0, "retain_train_acc": 95.0, "test_acc": 78.0}
    assert tow(ours, theirs) == pytest.approx(0.9 * 0.95 * 0.92)
    assert tow(ours, theirs | {"test_acc": None}) is None
    one = {"a": torch.tensor([3.0, 0.0]), "n": torch.tensor(5)}
    other = {"a": torch.tensor([0.0, 4.0]), "n": torch.tensor(9)}
    assert layer_distance(one, other) == 5  # counters are not weights


def test_distances_to_the_retrained_model_and_the_floor_under_them(swept):
    from safetensors.torch import load_file

    rows = read_rows(swept)
    values = derived(rows, swept)
    assert values.keys() == {row["path"] for row in rows}
    by = {(row["method"], row["task"]["seed"]): row for row in rows}
    ssd, retrain, other = (by[key] for key in (("ssd", 0), ("retrain", 0), ("retrain", 1)))
    itself = values[retrain["path"]]
    assert itself["js_forget"] == itself["distance_test"] == itself["layer_distance"] == itself["average_gap"] == 0
    assert itself["agreement_test"] == 100
    assert itself["tow"] == 1
    ours, theirs = (load_file(row["artefacts"]["outputs"])["test"].double().softmax(1) for row in (ssd, retrain))
    assert values[ssd["path"]]["distance_test"] == pytest.approx((ours - theirs).norm(dim=1).mean().item())
    agreement = 100 * (ours.argmax(1) == theirs.argmax(1)).double().mean().item()
    assert values[ssd["path"]]["agreement_test"] == pytest.approx(agreement)
    delta = ssd["metrics"]["mia"] - retrain["metrics"]["mia"]
    assert values[ssd["path"]]["delta.mia"] == pytest.approx(delta)
    apart = (load_file(row["artefacts"]["outputs"])["test"].double().softmax(1) for row in (retrain, other))
    floor = torch.linalg.vector_norm(next(apart) - next(apart), dim=1).mean().item()
    assert values[ssd["path"]]["floor.distance_test"] == pytest.approx(floor)
    assert values[ssd["path"]]["floor.layer_distance"] > 0


def test_one_seed_has_no_floor_and_a_moved_folder_keeps_its_distances(command, tmp_path):
    out = tmp_path / "runs"
    command("-m", *SHORT, f"out={out}", "method=retrain,ssd")
    out.rename(tmp_path / "moved")
    rows = read_rows(tmp_path / "moved")
    values = derived(rows, tmp_path / "moved")
    assert not [name for told in values.values() for name in told if name.startswith("floor")]
    assert all("js_forget" in told for told in values.values())


def test_no_retrained_model_no_distances(command, tmp_path):
    command(*SHORT, f"out={tmp_path}")
    assert derived(read_rows(tmp_path), tmp_path) == {}
