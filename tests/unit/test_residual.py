"""Residual shares: numbers by hand, what tables show of them, and the verdict."""

import pytest
from made_rows import row, summary_of

from ssd_bench.core.about import describe
from ssd_bench.core.errors import ConfigError
from ssd_bench.metrics.features import Features
from ssd_bench.metrics.residual import readings, residual_shares, telling
from ssd_bench.report.derive import derived_metrics, reevaluate
from ssd_bench.report.sheet import main_sheet
from ssd_bench.report.summary import FLOOR
from ssd_bench.report.verdict import verdict


def test_readings_tell_where_they_differ_by_two_standard_errors():
    far, near = ({"probe_recall": 0.9}, {"probe_recall": 0.5}), ({"probe_recall": 0.6}, {"probe_recall": 0.5})
    assert telling([far], 100) == {"probe_recall"}  # 0.4 against 2 x 0.058
    assert telling([near], 100) == set()  # 0.1 against 2 x 0.070
    assert telling([near], 1000) == {"probe_recall"}
    turned = ({"probe_recall": 0.2}, {"probe_recall": 0.5})
    assert telling([far, turned], 100_000) == set()  # 0.05, and seeds that disagree
    assert telling([({"probe_recall": 1.0}, {})], 100) == telling([], 0) == set()
    alike = [({"cka_forget_last": 1.0, "relearn": 2.0}, {"cka_forget_last": cka, "relearn": 3.0}) for cka in (0.6, 0.7)]
    assert telling(alike[:1], 100) == set()  # what one seed differs by has no error to be judged by
    assert telling(alike, 100) == {"cka_forget_last", "relearn"}


def test_residual_shares_by_hand():
    steps = {"relearn_all_1": 0, "relearn_all_100": 3}  # the mean logarithm is ln 2
    original = {"probe_recall": 90.0, "prototype_recall": 80.0, "probe_auc": 1.0, **steps}
    retrained = {"probe_recall": 50.0, "prototype_recall": 20.0, "probe_auc": 0.8, "relearn_all_1": 7}
    ours = {"probe_recall": 60.0, "prototype_recall": 65.0, "probe_auc": 0.7, "relearn_all_1": 1}
    names = {"probe_recall", "prototype_recall", "probe_auc", "relearn"}
    found = residual_shares(ours, retrained, original, names)
    assert found == pytest.approx(
        {
            "residual.probe_recall": 0.25,
            "residual.prototype_recall": 0.75,
            "residual.probe_auc": -0.5,
            "residual.relearn": 1.0,
            "residual": 0.5,
            "relearn_log_ratio": -2 * readings(steps)["relearn"],
        }
    )
    assert residual_shares(retrained, retrained, original, names)["residual"] == 0
    assert residual_shares(original, retrained, original, names)["residual"] == 1
    assert residual_shares(ours, retrained, original, {"prototype_recall"})["residual"] == pytest.approx(0.75)
    assert "residual" not in residual_shares(ours, retrained, original, set())
    assert residual_shares({"test_acc": 1.0}, {"test_acc": 1.0}, {}, set()) == {}


ABOUT = describe({"features": Features()})


def made(method, seed, level, recall):
    before = {"probe_recall": 90.0, "prototype_recall": 80.0}
    values = {"probe_recall": recall, "prototype_recall": recall}
    return row(method, seed, level, metrics=values, original_metrics=before, about=ABOUT)


def test_a_table_shows_the_residual_and_the_verdict_names_what_is_unsayable():
    rows = [made("retrain", seed, 50 + seed, 20 + 2 * seed) for seed in range(3)]
    rows += [made("hides", seed, 50 + seed, 80) for seed in range(3)]
    rows += [made("forgets", seed, 50 + seed, 30) for seed in range(3)]
    rows += [made("unsure", seed, 50 + seed, 30 + 30 * seed) for seed in range(3)]
    rows += [made("loud", seed, 80 + seed, 80) for seed in range(3)]
    summary = summary_of(rows)
    assert main_sheet(summary).headings[-1] == "residual"
    assert summary.line("original").mean("residual") == 1
    assert summary.line("retrain").mean("residual") == 0
    assert summary.line(FLOOR).mean("residual") > 0
    said = verdict(summary)
    assert "Unsayable, not forgotten: hides (residual share of the features 0.93, 95 % 0.92 to 0.93)" in said
    for others in ("forgets (", "unsure (", "loud ("):
        assert others not in said.partition("Unsayable")[2]


def test_the_note_says_what_the_residual_is_read_by():
    found = {"retrain": 20, "hides": 80}
    rows = [made(method, seed, 50 + seed, left + seed) for method, left in found.items() for seed in (0, 1)]
    assert "in the features, by a probe and by prototypes on D'_f" in " ".join(main_sheet(summary_of(rows)).notes)
    for each in rows:
        each["metrics"]["probe_recall"] = each["original_metrics"]["probe_recall"] = 50
    assert "in the features, by prototypes alone (a probe could not tell" in " ".join(
        main_sheet(summary_of(rows)).notes
    )


def test_with_one_seed_the_value_decides():
    rows = [made("retrain", 0, 50, 20), made("hides", 0, 50, 80)]
    assert "Unsayable, not forgotten: hides (residual share of the features 0.93)." in verdict(summary_of(rows))


def test_tables_without_the_metric_are_as_they_were():
    rows = [row("retrain", 0, 50), row("mine", 0, 55)]
    assert not [name for values in derived_metrics(rows).values() for name in values if name.startswith("resid")]
    assert "residual" not in main_sheet(summary_of(rows)).headings


def test_a_report_cannot_look_into_models(tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_bench.report.derive.outputs_of", lambda *_: object())
    node = {"features": {"_target_": "ssd_bench.metrics.features.Features"}}
    with pytest.raises(ConfigError, match="metric features needs the model"):
        reevaluate([row("mine", 0, 50)], tmp_path, node)
