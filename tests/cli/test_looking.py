"""Metrics that look into models, through the command line: what is kept, and what the tables say."""

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import Ended

import ssd_bench.run.evaluate
import ssd_bench.train.features
from ssd_bench.cli import report
from ssd_bench.report.derive import derived
from ssd_bench.store.rows import read_rows

METRICS = "metric=[accuracy,mia,features,relearn,cka,where,perturbed]"
SHORT = ("train.epochs=4", "model.width=4", "threads=1", "method.importance=batch_mean")
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
    assert masked["moved_row"] == pytest.approx(100)  # a sum over tensors
    values = [json.loads(path.read_text()) for path in (out / "artefacts/values").glob("*.json")]
    made_by = [each["key"]["metric"]["class"].rpartition(".")[2] for each in values]
    assert {name: made_by.count(name) for name in ("Features", "Relearn")} == {
        "Features": 4,
        "Relearn": 4,
    }  # each model

    made = {row["method"]: derived(read_rows(out), out)[row["path"]] for row in read_rows(out)}
    to_retrained = {name: made["mask_head"][name] for name in made["ssd"] if name.startswith("cka_retrained_")}
    assert len(to_retrained) == 10
    assert all(0 < value < 1 for value in to_retrained.values())
    assert to_retrained == {name: made["original"][name] for name in to_retrained}
    assert {made["retrain"][name] for name in to_retrained} == {1.0}
    assert made["retrain"]["perturbed_here_alone"] == made["retrain"]["perturbed_retrained_alone"] == 0
    assert made["mask_head"]["perturbed_here_alone"] == 0 < made["original"]["perturbed_here_alone"]

    said = reported(capfd, str(out)).out
    assert "Unsayable, not forgotten: mask_head (residual share of the features 1.00)" in " ".join(said.split())
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert said.splitlines()[2].split()[-1] == "residual"
    assert lines["mask_head"][-1] == lines["original"][-1]  # in the second table: the logarithm of relearning


def test_retrained_models_of_other_seeds_are_beside_what_is_compared_with_one(command, tmp_path):
    options = (
        "metric=[accuracy,cka,perturbed]",
        "method=retrain",
        "train.epochs=2",
        "model.width=4",
        f"out={tmp_path}",
    )
    rows = [command(*options, f"seed={seed}").row for seed in (0, 1)]
    assert rows[0]["metrics"]["cka_forget_1"] is not None
    floors = list(derived(read_rows(tmp_path), tmp_path).values())
    assert 0 < floors[0]["floor.cka_retrained_retain_1"] == floors[1]["floor.cka_retrained_retain_1"] < 1
    names = ("floor.perturbed_here_alone", "floor.perturbed_retrained_alone")
    assert [floors[0][name] for name in names] == [floors[1][name] for name in names[::-1]]


SILENT = """
from dataclasses import dataclass
from ssd_bench.metrics.features import Features
@dataclass(frozen=True)
class Silent:
    needs = ("model",)
    def __call__(self, seen, probed):
        return {"silent": 1.0}

class Reader(Silent):
    def reads(self, request):
        return Features().reads(request)
"""


def test_a_dry_run_counts_what_looking_into_models_takes(command, tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_bench.run.estimate.throughput", lambda bench: (1.0, 1.0))
    monkeypatch.setattr("ssd_bench.run.estimate.clock", str)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "conf/metric").mkdir(parents=True)
    (tmp_path / "conf/metric/silent.yaml").write_text("silent: {_target_: silent_metric.Silent}")
    (tmp_path / "conf/metric/reader.yaml").write_text("reader: {_target_: silent_metric.Reader}")
    (tmp_path / "silent_metric.py").write_text(SILENT)
    own = ("--config-dir", str(tmp_path / "conf"), *SHORT[:-1], f"out={tmp_path / 'runs'}")

    def dry(*options):
        ended = command("-m", *own, *options, "method=ssd", SHORT[-1], "dry_run=true")
        assert ended.code == 0, ended.err
        return ended.out

    def seconds(said):
        return float(re.search(r"about ([\d.]+) of", said)[1])

    plain, looking = dry("metric=[accuracy]"), dry("metric=[accuracy,features,cka,where,silent]")
    for wanted in ("2 features", "2 cka", "2 where", "2 silent", "not in the time: silent ("):
        assert wanted in looking
    assert "features" not in plain
    ended = command(*own, "metric=[accuracy,features]", "method=original")
    n_train, n_test = ended.row["task"]["n_train"], ended.row["task"]["n_test"]
    of_cka = 2 * n_train  # all images of D in the model and in the original; features come with the outputs
    assert seconds(looking) - seconds(plain) == pytest.approx(2 * of_cka)
    assert "1 features" in dry("metric=[accuracy,features]")  # those of the original are there
    few = "evaluate.sets=[forget]"
    fewer = [seconds(dry(few, f"metric=[{names}]")) for names in ("accuracy", "accuracy,features")]
    n_forget = ended.row["samples"]["forget"]
    assert fewer[1] - fewer[0] == pytest.approx(2 * (n_train + n_test - n_forget))  # what is not evaluated

    ended = command(*own[:-1], f"out={tmp_path / 'before'}", "metric=[accuracy]", "method=original")
    added = dry(f"out={tmp_path / 'before'}", "metric=[accuracy,features,reader]")
    assert "1 last_layer" in added
    both = seconds(added) - seconds(dry(f"out={tmp_path / 'before'}", "metric=[accuracy]"))
    assert both == pytest.approx(n_train + n_test)  # the original again, once for both; the model is to come


def test_another_request_to_the_same_original_is_looked_into_anew(command, tmp_path):
    options = ("method=original", "metric=[accuracy,features]", "evaluate.sets=[test]", *FEW, f"out={tmp_path}")
    one, other = (command(*options, f"scenario.target={target}").row for target in (8, 3))
    assert one["artefacts"]["values.features"] != other["artefacts"]["values.features"]
    assert one["metrics"]["prototype_recall_1"] != other["metrics"]["prototype_recall_1"]
    for shared in ("outputs", "sets", "values.accuracy"):
        assert one["artefacts"][shared] == other["artefacts"][shared]


def test_features_come_with_the_outputs_and_do_not_depend_on_what_was_there(command, tmp_path, monkeypatch):
    passed = []
    for module, sign in ((ssd_bench.run.evaluate, 1), (ssd_bench.train.features, -1)):

        def counted(model, images, rows, size, ask=module.predict, sign=sign):
            passed.append(sign * len(rows))
            return ask(model, images, rows, size)

        monkeypatch.setattr(module, "predict", counted)

    looking = ("metric=[accuracy,features]", "metric.features.samples=200")  # fewer than there are

    def run(out, *options, metrics=looking):
        passed.clear()
        ended = command(*metrics, *FEW, "train.epochs=2", "method=random", *options, f"out={tmp_path / out}")
        assert ended.code == 0, ended.err
        return ended.row

    at_once = run("once", "scenario.target=3")
    n = at_once["task"]["n_train"] + at_once["task"]["n_test"]
    n_forget = at_once["samples"]["forget"]
    assert sorted(passed) == sorted([-2, -2, *[at_once["task"]["n_train"], at_once["task"]["n_test"]] * 2, n_forget])
    assert at_once["metrics"]["prototype_recall"] != at_once["original_metrics"]["prototype_recall"]
    other = run("once")
    assert sum(each for each in passed if each > 0) == n + other["samples"]["forget"]  # the original's are kept
    [kept] = (tmp_path / "once/artefacts/last_layer").glob("*.safetensors")
    assert at_once["artefacts"]["original_last_layer"] == other["artefacts"]["original_last_layer"] == str(kept)
    again = run("once", "seed_unlearn=1")  # the values of the original are there
    assert again["artefacts"]["original_last_layer"] == str(kept)

    before = run("later", "scenario.target=3", metrics=["metric=[accuracy]"])
    assert "probe_recall" not in before["metrics"]
    later = run("later", "scenario.target=3")
    assert sum(each for each in passed if each > 0) == 2 * n  # the same passes once more
    for section in ("metrics", "original_metrics"):
        assert later[section] == at_once[section]
    assert Path(later["artefacts"]["original_last_layer"]).exists()


def test_random_requests_have_no_class_to_look_for(command, tmp_path):
    ended = command("scenario=random", "method=original", METRICS, *FEW, f"out={tmp_path}")
    assert ended.row["metrics"]["probe_recall"] is ended.row["metrics"]["cka_forget_last"] is None
    assert "cka: no value, for what is to be forgotten is not one class" in ended.err


def test_a_report_says_in_one_line_that_it_has_no_models(command, tmp_path, capfd):
    command("method=original", "metric=[accuracy]", *FEW, "train.epochs=1", f"out={tmp_path}")
    ended = reported(capfd, str(tmp_path), "--metrics", "features")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == (
        "ssd-bench: metric features needs the model, not its outputs alone; run ssd-bench with it in metric="
    )
