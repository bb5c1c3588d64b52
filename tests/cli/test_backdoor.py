"""A backdoor in a small network, from the command line to the table."""

import json

import pytest
from conftest import SHORT

from ssd_bench.report.rows import to_frame
from ssd_bench.store.rows import read_rows

POISON = (
    "data.train_per_class=60", "data.test_per_class=20", "model.width=4", "train.epochs=15", "threads=1",
    "scenario=poison", "scenario.trigger_size=2", "scenario.share=0.1",
)  # fmt: skip


def test_a_backdoor_is_there_stays_where_half_is_discovered_and_goes_where_all_is(command, tmp_path):
    half = command("-m", *POISON, "scenario.discovered=0.5", "method=original,clean,retrain,ssd", f"out={tmp_path}")
    assert half.code == 0, half.err
    known = command(*POISON, "method=retrain", f"out={tmp_path}").row
    rows = read_rows(tmp_path)
    of = {row["method"]: row for row in rows if row["task"]["n_forget"] == 27}
    assert of["original"]["metrics"]["asr"] > 90
    assert of["original"]["metrics"]["undiscovered_acc"] < 20  # by the true labels
    assert of["retrain"]["metrics"]["asr"] > 50
    assert of["clean"]["metrics"]["asr"] < 10
    assert 0 <= of["ssd"]["metrics"]["asr"] <= 100
    for row in rows:
        values = row["metrics"]
        assert values["corrected_acc"] == pytest.approx(values["forget_acc"]) == values["triggered_acc"]
        assert values["kept_acc"] == pytest.approx(values["retain_acc"]) == values["clean_acc"]
        assert values["ic_err"] is values["fgt"] is values["taught_as"] is None
    assert known["cached"]["unlearned"]  # all discovered: the clean model, which is there
    assert known["artefacts"]["unlearned"] == of["clean"]["artefacts"]["unlearned"]
    assert known["artefacts"]["original"] == of["original"]["artefacts"]["original"]
    assert "undiscovered_acc" not in known["metrics"]
    table = half.out
    assert "27 of 54 manipulated images discovered (0)" in table
    assert "method=clean" in table
    assert "Not to be read" not in table
    line = next(line.split() for line in table.splitlines() if line.strip().startswith("clean"))
    assert line[-1] == "0.00"  # the gap: that is what the others are compared with
    assert json.loads(to_frame(rows, {})["n_manipulated"].to_json(orient="values")) == [54] * 5


@pytest.mark.parametrize(
    ("scenario", "own"),
    [("confusion", ["ic_err", "fgt"]), ("label_noise", ["taught_as"])],
    ids=["confusion", "label_noise"],
)
def test_each_scenario_has_metrics_of_its_own(command, runs, scenario, own):
    chosen = (*SHORT, f"scenario={scenario}", "scenario.share=0.2", "scenario.discovered=0.5", "method=original")
    values = command(*chosen, "metric=[accuracy]", f"out={runs}").row["metrics"]
    assert {name for name in ("asr", "ic_err", "fgt", "taught_as") if values[name] is not None} == set(own)
    assert values["corrected_acc"] == pytest.approx(values["forget_acc"])
    assert values["undiscovered_acc"] is not None
