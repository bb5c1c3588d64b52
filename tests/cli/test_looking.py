"""Metrics that look into models, through the command line: what is kept, and what the tables say."""

import json

import pytest
from conftest import Ended

from ssd_bench.cli import report

METRICS = "metric=[accuracy,mia,features,relearn,cka,where]"
FEW = ("data.train_per_class=60", "data.test_per_class=20", "train.epochs=6", "model.width=4", "threads=1")


def reported(capfd, *arguments):
    """`ssd-bench-report` with these arguments."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        report.main([*arguments])
    return Ended(ended.value.code or 0, *capfd.readouterr())


def test_a_masked_class_is_unsayable_and_not_forgotten(command, tmp_path, capfd):
    out = tmp_path / "runs"
    rows = {}
    for method in ("original", "retrain", "mask_head", "ssd"):
        ended = command(f"method={method}", METRICS, "metric.relearn.max_steps=15", *FEW, f"out={out}")
        assert ended.code == 0, ended.err
        rows[method] = ended.row
    before, masked = rows["mask_head"]["original_metrics"], rows["mask_head"]["metrics"]
    assert masked["forget_acc"] == 0 < before["forget_acc"]
    looked = [name for name in masked if name.startswith(("probe", "prototype", "relearn"))]
    assert len(looked) == 13
    assert {name: masked[name] for name in looked} == {name: before[name] for name in looked}
    assert all(masked[name] == 1 for name in masked if name.startswith("cka"))
    assert masked["moved_row"] == 100
    values = [json.loads(path.read_text()) for path in (out / "artefacts/values").glob("*.json")]
    made_by = [each["key"]["metric"]["class"].rpartition(".")[2] for each in values]
    assert {name: made_by.count(name) for name in ("Features", "Relearn")} == {
        "Features": 4,
        "Relearn": 4,
    }  # each model

    said = reported(capfd, str(out)).out
    assert "Unsayable, not forgotten: mask_head (residual share of the features 1.00)" in " ".join(said.split())
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert said.splitlines()[2].split()[-1] == "residual"
    assert lines["mask_head"][-1] == lines["original"][-1]  # in the second table: the logarithm of relearning


def test_another_request_to_the_same_original_is_looked_into_anew(command, tmp_path):
    options = ("method=original", "metric=[accuracy,features]", "evaluate.sets=[test]", *FEW, f"out={tmp_path}")
    one, other = (command(*options, f"scenario.target={target}").row for target in (8, 3))
    assert one["artefacts"]["values.features"] != other["artefacts"]["values.features"]
    assert one["metrics"]["prototype_recall_1"] != other["metrics"]["prototype_recall_1"]
    for shared in ("outputs", "sets", "values.accuracy"):
        assert one["artefacts"][shared] == other["artefacts"][shared]


def test_random_requests_have_no_class_to_look_for(command, tmp_path):
    ended = command("scenario=random", "method=original", METRICS, *FEW, f"out={tmp_path}")
    assert ended.row["metrics"]["probe_recall"] is ended.row["metrics"]["cka_forget_last"] is None
    assert "features: no value, for no class is to be forgotten" in ended.err


def test_a_report_says_in_one_line_that_it_has_no_models(command, tmp_path, capfd):
    command("method=original", "metric=[accuracy]", *FEW, "train.epochs=1", f"out={tmp_path}")
    ended = reported(capfd, str(tmp_path), "--metrics", "features")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == (
        "ssd-bench: metric features needs the model, not its outputs alone; run ssd-bench with it in metric="
    )
