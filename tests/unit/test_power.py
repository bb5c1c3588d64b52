"""How small a difference a pool can show: on simulated margins."""

from dataclasses import replace

import numpy as np
import pytest
from test_differences import comparison
from test_judged import Made

from ssd_bench.cli import compared
from ssd_bench.metrics.roc import auc
from ssd_bench.run.judged import Judge, scores_of
from ssd_bench.run.power import DETECTABLE, Power, power
from ssd_bench.store.files import to_json


def lines_of(made, judge, noise=1.0, shift=0.5):
    """The original, and two methods that go on from it, apart by noise of their own."""
    said = made.said(shift)
    near = replace(said, margin=said.margin + noise * made.rng.normal(size=said.margin.shape))
    return {"original": judge.original(), "retrained": judge.retrained()} | {
        label: judge.method([of]) for label, of in (("one", said), ("other", near))
    }


@pytest.fixture(scope="module")
def found():
    made = Made(64)
    judge = made.judge(n=100)
    return power(judge, lines_of(made, judge, noise=0.5))


def test_more_models_show_smaller_differences_but_not_on_one_target(found):
    rows = found["rows"]
    assert [row["models"] for row in rows] == [8, 16, 32, 64]
    assert [row["draws"] for row in rows] == [8, 8, 8, 1]
    seen, alone = ([row[name] for row in rows] for name in ("detectable_auc", "detectable_auc_one_target"))
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.6 * seen[0]
    assert alone[-1] / alone[0] > 1.3 * seen[-1] / seen[0]
    assert min(alone) > max(seen)
    auc_ = [row["original_auc"] for row in rows]
    assert auc_ == sorted(auc_)  # the attack grows with the number of models


def test_rates_want_enough_cases(found):
    assert [row["detectable_tpr_1"] is None for row in found["rows"]] == [True, False, False, False]
    assert all(row["original_tpr_01"] is None for row in found["rows"])
    assert all(row["detectable_tpr_1_one_target"] is None for row in found["rows"])


@pytest.mark.parametrize("sets", [1, 2])
def test_of_all_pairs_it_is_what_the_table_says(sets):
    made = Made(16)
    judge = made.judge(sets=sets)
    said, other = made.said(0.5), made.said(1.0)
    of = comparison(made, judge, one=said, other=other)
    row = power(judge, of.lines)["rows"][-1]
    assert row["models"] == 16
    assert row["original_auc"] == pytest.approx(of.numbers["original"]["auc"]["value"])
    one, other = (of.resamples(label, 8)["auc"] for label in ("one", "other"))
    assert row["sd_auc_one"] == pytest.approx(one.std(ddof=1))
    assert row["detectable_auc"] == pytest.approx(DETECTABLE * (one - other).std(ddof=1))


def test_what_does_not_differ_is_seen_at_once_and_one_method_is_held_against_doing_nothing():
    made = Made(8)
    judge, said = made.judge(), made.said(0.5)
    lines = {"original": judge.original(), "one": judge.method([said]), "other": judge.method([said])}
    (row,) = power(judge, lines)["rows"]
    assert row["detectable_auc"] == row["detectable_auc_one_target"] == 0
    assert power(judge, {"original": lines["original"], "ssd": lines["one"]})["other"] == "original"
    assert power(judge, {"original": lines["original"]}) is None


def test_a_model_alone_by_hand():
    """Its positives are what it holds, its negatives what its twin holds."""
    made = Made(16)
    judge = made.judge(sets=2)
    line = judge.original()
    scores, pairs = scores_of((line.inside, line.outside), judge.places), np.arange(8)
    values = Power(judge, line, line, line)._by_model(scores, pairs)
    m, places = 7, judge.places[1]  # of pair 3, which is judged on the second set
    start = 4 * len(judge.places[0]) + 1 * len(places)  # after the first set's four pairs, and pair 1
    mine = made.member[m, places]
    inside, outside = (of[start : start + len(places)] for of in scores)
    assert values[m, 0] == pytest.approx(auc(inside[mine], outside[~mine]))


def test_the_table(found):
    sheet = compared.power_sheet("random", found)
    assert "what so many models can show, one less other, 100 images" in sheet.title
    assert f"{found['rows'][-1]['detectable_auc']:.3f}" in [cell.text for cell in sheet.lines[-1][1]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_a_block_no_model_holds_a_part_and_one_target_shows_nothing(seed):
    made = Made(16, seed=seed)
    judge = Judge(made.originals, made.blocks().targets[:1])
    found = power(judge, lines_of(made, judge))
    to_json(found)  # no number that is none
    assert all(row["detectable_auc_one_target"] is None for row in found["rows"])
    assert all(row["detectable_auc"] is not None for row in found["rows"])
    assert compared.power_sheet("block", found)
