"""A sequence of requests from the command line: one row, what it shares with single requests, what a kill leaves."""

import pytest
from conftest import SHORT

from ssd_bench.run import pipeline
from ssd_bench.run import unlearn as of_method

SEQUENCE = ("scenario=sequence", "scenario.requests=[8,6]")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("sequence")


def run(command, out, *more):
    ended = command(*SHORT, *SEQUENCE, f"out={out}", *more)
    assert ended.code == 0, ended.err
    return ended.row


def test_each_request_is_forgotten_by_what_forgot_those_before(command, out):
    row = run(command, out, "method=finetune", "method.epochs=1")
    alone = command(
        *SHORT, "scenario=sub_class", "scenario.target=8", "method=finetune", "method.epochs=1", f"out={out}"
    )
    first, last = row["metrics_by_request"]
    assert (first["target"], last["target"], row["task"]["target"]) == ("8", "6", "8>6")
    assert row["artefacts"]["unlearned_1"] == alone.row["artefacts"]["unlearned"]  # shared with the single request
    assert row["artefacts"]["unlearned"] != row["artefacts"]["unlearned_1"]
    for name, value in alone.row["metrics"].items():
        if not name.startswith(("zrf", "population")):
            assert first["metrics"][name] == pytest.approx(value), name
    assert row["metrics"]["forget_acc"] == last["metrics"]["forget_acc"]
    assert not [name for name in row["metrics"] if name.startswith("request_")]
    matrix = [[step["metrics"][f"request_{j}_acc"] for j in (1, 2)] for step in row["metrics_by_request"]]
    assert row["metrics"]["reversal"] == max(0.0, matrix[1][0] - matrix[0][0])
    assert row["metrics"]["erosion"] == row["original_metrics"]["kept_acc"] - last["metrics"]["kept_acc"]
    assert row["times"]["method_s"] == pytest.approx(sum(s["times"]["method_s"] for s in (first, last)))


def test_retrained_models_are_trained_on_what_stays(command, out):
    row = run(command, out, "method=retrain")
    alone = command(*SHORT, "scenario=sub_class", "scenario.target=[8,6]", "method=retrain", f"out={out}").row
    assert row["artefacts"]["unlearned"] == alone["artefacts"]["unlearned"]  # the same images stay
    assert row["times"]["shared_s"].keys() == {"trained"}
    original = run(command, out, "method=original")
    assert original["metrics"]["kept_acc"] == original["original_metrics"]["kept_acc"]
    assert original["metrics"]["erosion"] == original["metrics"]["reversal"] == 0


def test_importances_are_made_anew_unless_the_first_ones_are_asked_for(command, out):
    ssd = ("method=ssd", "method.alpha=3", "method.importance=per_sample")
    anew, stale = (run(command, out, *ssd, f"scenario.refresh={refresh}") for refresh in ("true", "false"))
    kept = "importance_full"
    assert anew["artefacts"][f"{kept}_1"] == stale["artefacts"][f"{kept}_1"] == stale["artefacts"][kept]
    assert anew["artefacts"][kept] != anew["artefacts"][f"{kept}_1"]
    assert anew["artefacts"]["unlearned_1"] == stale["artefacts"]["unlearned_1"]
    assert anew["artefacts"]["unlearned"] != stale["artefacts"]["unlearned"]
    assert stale["metrics_by_request"][1]["times"]["shared_s"] == {}
    assert anew["metrics_by_request"][1]["times"]["shared_s"][kept] > 0
    assert 0 < stale["times"][f"{kept}_cost_s"] < anew["times"][f"{kept}_cost_s"]


def test_a_killed_sequence_goes_on_at_the_request_that_was_running(command, tmp_path, monkeypatch):
    asked = ("method=finetune", "method.epochs=1", "save_model=true")
    unlearn, called = pipeline.unlearn, []

    def killed(bench, model):
        called.append(len(bench.request.earlier))
        if bench.request.earlier and len(called) == 2:
            raise KeyboardInterrupt
        return unlearn(bench, model)

    call, calls = of_method.call, []
    monkeypatch.setattr(pipeline, "unlearn", killed)
    monkeypatch.setattr(of_method, "call", lambda *how: calls.append(len(called)) or call(*how))
    assert command(*SHORT, *SEQUENCE, f"out={tmp_path}", *asked).code == 130
    row = run(command, tmp_path, *asked)
    assert called == [0, 1, 0, 1]
    assert calls == [1, 4]  # the first request before the kill, the second after it: nothing twice
    assert row["metrics_by_request"][0]["times"]["method_s"] > 0


def test_what_a_sequence_costs_is_known_before(command, tmp_path):
    told = command(*SHORT, *SEQUENCE, "method=retrain", "dry_run=true", f"out={tmp_path}").out
    assert "2 retrained" in told
    assert "1 original" in told


def test_a_method_that_cannot_forget_one_of_them_is_skipped(command, tmp_path):
    row = run(command, tmp_path, "method=mask_head")
    assert row["status"] == "skipped"
    assert "forgotten whole" in row["reason"]


def test_a_parallel_sweep_over_a_sequence(command, tmp_path):
    ended = command(
        "--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *SHORT, *SEQUENCE, "method=original,retrain",
        f"out={tmp_path}", "metric=[accuracy]", "evaluate.sets=[retain,forget]",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "sequence: forget 8>6" in ended.out


def test_a_metric_of_corrective_scenarios_has_no_value_and_is_no_error(command, tmp_path):
    asked = ("metric=[accuracy,corrective]", "method=original", f"out={tmp_path}")
    ended = command(*SHORT, "scenario=sequence", "scenario.of=full_class", "scenario.requests=[7,8]", *asked)
    assert ended.code == 0, ended.err
