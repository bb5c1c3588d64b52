"""Differences between methods: the same resamples of both, on simulated margins."""

from dataclasses import replace

import numpy as np
import pytest
from test_judged import Made

from ssd_bench.cli import compared
from ssd_bench.metrics.bootstrap import crossed, ends, mean_of, resampled
from ssd_bench.metrics.per_sample_privacy import leaking, leaking_resampled, p_values
from ssd_bench.metrics.roc import auc, tpr_at
from ssd_bench.run.differences import Compared
from ssd_bench.run.judged import scores_of


def comparison(made, judge, **said):
    """Of the controls and these methods."""
    lines = {"original": judge.original(), "retrained": judge.retrained()}
    lines |= {label: judge.method([of]) for label, of in said.items()}
    return Compared(judge, lines, {label: judge.numbers(line) for label, line in lines.items()})


def found(compared_):
    return {(row["number"], row["method"], row["less"]): row for row in compared_.rows()}


def test_the_same_draws_of_both_by_hand():
    """Two pairs of models, two samples: a resample's means are of what was drawn, of both statistics alike."""
    pair, sample = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    ours, theirs = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 2.0, 4.0])  # apart by one on sample 0 alone
    drawn = [resampled(mean_of(of), pair, sample, draws=50, seed=3)[:, 0] for of in (ours, theirs)]
    ((_, of_samples),) = crossed(2, 2, 50, 3, 50)
    assert drawn[0] - drawn[1] == pytest.approx(of_samples[:, 0] / 2)


@pytest.mark.parametrize(("models", "sets"), [(16, 1), (16, 2), (32, 1)])
def test_a_method_does_not_differ_from_itself(models, sets):
    made = Made(models)
    judge, said = made.judge(sets=sets), made.said(0.5)
    rows = found(comparison(made, judge, one=said, other=said))
    same = [row for key, row in rows.items() if key[1:] == ("other", "one")]
    assert {row["number"] for row in same} >= {"auc", "ruli_privacy_auc", "ruli_efficacy_auc"}
    assert {(row["value"], row["low"], row["high"], row["excludes_0"]) for row in same} == {(0.0, 0.0, 0.0, False)}
    assert (models == 32) == (("leaking", "other", "one") in rows)


def test_a_difference_is_that_of_the_values_and_is_seen():
    made = Made(32)
    judge = made.judge()
    of = comparison(made, judge, ssd=made.said(0.0), finetune=made.said(2.0))
    rows = found(of)
    for name in ("auc", "tpr_1", "ruli_privacy_auc", "leaking"):
        row = rows[name, "finetune", "ssd"]
        assert row["value"] == of.numbers["finetune"][name]["value"] - of.numbers["ssd"][name]["value"]
        assert 0 < row["low"] <= row["value"] <= row["high"]
        assert row["excludes_0"]
    scores = scores_of((of.lines["finetune"].inside, of.lines["finetune"].outside), judge.places)
    others = scores_of((of.lines["ssd"].inside, of.lines["ssd"].outside), judge.places)
    assert rows["auc", "finetune", "ssd"]["value"] == pytest.approx(auc(*scores) - auc(*others))
    assert rows["tpr_1", "finetune", "ssd"]["value"] == pytest.approx(100 * (tpr_at(*scores) - tpr_at(*others)))
    assert not rows["auc", "ssd", "retrained"]["excludes_0"]  # both have forgotten
    assert rows["auc", "finetune", "retrained"]["excludes_0"]
    assert rows["auc", "ssd", "retrained"]["models"] == 16  # of which the retrained are made


def test_the_same_draws_make_the_interval_narrower_where_methods_are_alike():
    """Both go on from the same originals: their margins have most of the noise in common."""
    made = Made(32)
    judge, said = made.judge(), made.said(0.8)
    near = replace(said, margin=said.margin + 0.2 * made.rng.normal(size=said.margin.shape))
    of = comparison(made, judge, one=said, other=near)
    row = found(of)["auc", "other", "one"]
    one, other = (of.resamples(label, 16)["auc"] for label in ("one", "other"))
    apart = np.quantile(np.random.default_rng(0).permutation(other) - one, ends())
    assert row["high"] - row["low"] < 0.5 * (apart[1] - apart[0])


def test_models_that_share_a_cell_of_the_retrained_are_drawn_together():
    made = Made(32)
    judge, said = made.judge(), made.said(0.5)
    of = comparison(made, judge, one=said)
    line, of_pair = of.lines["one"], 4.0 * (np.arange(16) % 8 < 4)[:, None]  # pairs p and p + 8 are alike
    alike = replace(line, inside=line.inside + of_pair)
    both = Compared(judge, {"one": alike}, {"one": judge.numbers(alike)})
    assert both.resamples("one", 8)["auc"].std() > 1.2 * both.resamples("one", 16)["auc"].std()


def test_a_placebo_is_taken_from_its_method():
    made = Made(16)
    judge, said, asked = made.judge(), made.said(1.0), made.said(0.0)
    of = comparison(made, judge, ssd=said)
    of.lines["ssd, placebo"] = judge.placebo(asked, said)
    of.numbers["ssd, placebo"] = judge.numbers(of.lines["ssd, placebo"])
    row = found(of)["auc", "ssd", "ssd, placebo"]
    assert row["value"] == of.numbers["ssd"]["auc"]["value"] - of.numbers["ssd, placebo"]["auc"]["value"]


def test_blocks_have_differences_of_what_they_are_attacked_by():
    made = Made(16)
    judge = made.blocks()
    lines = {name: judge.method([made.said(shift)] * 2) for name, shift in (("one", 0.0), ("other", 2.0))}
    rows = found(Compared(judge, lines, {label: judge.numbers(line) for label, line in lines.items()}))
    assert {name for name, *_ in rows} <= {"auc", "tpr_1", "tpr_01", "ruli_efficacy_auc", "ruli_efficacy_tpr_1"}
    assert rows["auc", "other", "one"]["excludes_0"]


def test_there_is_no_difference_without_enough_models_and_none_of_a_few_hits():
    made = Made(8)
    assert not comparison(made, made.judge(), one=made.said(0.0)).rows()
    made = Made(16)
    of = comparison(made, made.judge(n=100), one=made.said(0.0), other=made.said(2.0))
    assert ("tpr_1", "other", "one") in found(of)
    for label in ("one", "other"):
        of.numbers[label]["tpr_1"] |= {"hits": 9}
    assert ("tpr_1", "other", "one") not in found(of)


def test_how_much_a_share_that_leaks_varies():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=40)
    inside, outside = (mean + rng.normal(size=(16, 40)) + shift for shift in (1.5, 0.0))
    drawn = leaking_resampled(inside, outside, 16, draws=200)
    share = leaking(p_values(inside, outside)).mean()
    assert drawn.shape == (200,)
    assert np.quantile(drawn, 0.01) < share < np.quantile(drawn, 0.99)
    assert (leaking_resampled(inside, inside, 16, draws=20) <= 0.1).all()
    assert (leaking_resampled(inside + 100, outside, 16, draws=20) == 1).all()


def test_the_table_has_a_line_for_what_a_method_is_compared_with():
    row = {"number": "auc", "method": "b", "less": "a", "value": 0.1, "low": 0.05, "high": 0.2, "excludes_0": True}
    rows = [row, row | {"less": "b, placebo", "low": -0.05, "excludes_0": False}, row | {"method": "c"}]
    sheet = compared.sheet_of("random", rows, ["original", "retrained", "a", "a, placebo", "b", "b, placebo", "c"])
    assert sheet.headings == ["U-LiRA, AUC"]
    assert [(label, cell.text) for label, [cell] in sheet.lines] == [
        ("b, less a", "+0.100 [+0.050, +0.200]*"),
        ("b, less its placebo", "+0.100 [-0.050, +0.200]"),
        ("c, less a", "+0.100 [+0.050, +0.200]*"),
    ]
    assert compared.sheet_of("random", [], ["original", "retrained", "a"]) is None
