"""What a pool says of its originals: on simulated margins, where the truth is known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from ssd_bench.metrics.roc import auc, tpr_at
from ssd_bench.run.originals import Originals, _rate, gate
from ssd_bench.train.recipe import Recipe


def originals(models, samples, shift, seed=0, test=50, hard=0.05):
    """A pool whose margins rise by `shift` (n, or one number) where the sample was trained on."""
    rng = np.random.default_rng(seed)
    first = rng.random((models // 2, samples)) < 0.5
    member = np.stack([first, ~first], axis=1).reshape(models, samples)
    margin = rng.normal(2, 1, size=samples) + rng.normal(size=(models, samples)) + shift * member
    base = SimpleNamespace(recipe=Recipe(epochs=20), model=SimpleNamespace(width=16))
    asked = SimpleNamespace(draws=200, seed=0, hard=hard)
    pool = SimpleNamespace(design=SimpleNamespace(single=range(samples)), asked=asked, base=base)
    return Originals(pool, margin, margin > 0, member, rng.random((models, test)) < 0.7, np.zeros((models, test)))


def test_members_and_others_are_told_apart_by_pair():
    found = originals(8, 30, 0.0)
    inside, outside = found.split(found.margin)
    for pair in range(4):
        for x in range(30):
            with_it = 2 * pair + int(not found.member[2 * pair, x])
            assert inside[pair, x] == found.margin[with_it, x]
            assert outside[pair, x] == found.margin[with_it ^ 1, x]


def test_the_numbers_of_the_single_samples_are_those_of_the_pure_functions():
    found = originals(32, 400, 1.0)
    report = found.report()["numbers"]
    single = report["single"]
    assert single["auc"]["value"] == pytest.approx(auc(*found.scores))
    assert single["tpr_1"]["value"] == pytest.approx(100 * tpr_at(*found.scores, 0.01))
    assert single["tpr_01"]["value"] == pytest.approx(100 * tpr_at(*found.scores, 0.001))
    right = found.correct[found.member]
    assert single["accuracy_in"]["value"] == pytest.approx(100 * right.mean())
    assert report["test"]["accuracy_out"]["value"] == pytest.approx(100 * found.test_correct.mean())
    assert single["memorisation_margin"]["value"] == pytest.approx(1.0, abs=0.1)
    assert single["memorisation_correct"] == {
        "value": None,
        "reason": "memorisation by answers needs 128 models, there are 32",
    }


@pytest.mark.parametrize(("models", "shift", "there"), [(16, 0.0, 1), (32, 0.0, 2), (128, 1.0, 3)])
def test_numbers_are_there_from_their_least_number_of_models_on(models, shift, there):
    single = originals(models, 60, shift).report()["numbers"]["single"]
    names = ("auc", "memorisation_margin", "memorisation_correct")
    assert [single[name]["value"] is not None for name in names] == [i < there for i in range(3)]


def test_where_nothing_leaks_the_most_memorised_do_not_seem_to():
    """Chosen and judged on the same models, they would: an AUC of about 0.63 here."""
    honest, naive = [], []
    for seed in range(12):
        found = originals(16, 400, 0.0, seed)
        numbers = found.attack(found.hard)
        honest.append(numbers["auc"]["value"])
        inside, outside = found.split(found.margin)
        most = np.argsort(-(inside - outside).mean(axis=0))[:20]
        naive.append(auc(*(scores[:, most] for scores in found.scores)))
    assert np.mean(honest) == pytest.approx(0.5, abs=0.03)
    assert np.mean(naive) > 0.55


def test_the_interval_holds_a_half_where_nothing_leaks():
    held = 0
    for seed in range(30):
        found = originals(16, 100, 0.0, seed)
        number = found.attack(np.ones(found.hard.shape, dtype=bool))["auc"]
        held += number["low"] <= 0.5 <= number["high"]
    assert held >= 26


def test_the_order_of_pairs_twins_and_samples_changes_no_number():
    found, rng = originals(64, 40, 1.0), np.random.default_rng(1)
    pairs, samples = rng.permutation(32), rng.permutation(40)
    twins = np.stack([2 * pairs + 1, 2 * pairs], axis=1).ravel()
    other = replace(
        found,
        **{name: getattr(found, name)[twins][:, samples] for name in ("margin", "correct", "member")},
        test_correct=found.test_correct[twins],
    )
    values = [
        {
            (of, name): number["value"]
            for of, numbers in each.report()["numbers"].items()
            for name, number in numbers.items()
        }
        for each in (found, other)
    ]
    assert values[0] == pytest.approx(values[1])


def test_the_most_memorised_are_found_and_judged_on_the_other_half():
    shift = np.where(np.arange(400) < 20, 4.0, 0.0)
    found = originals(32, 400, shift)
    chosen = np.flatnonzero(found.hard.any(axis=0))
    assert np.mean(chosen < 20) > 0.8
    assert (found.hard[0::2] == found.hard[0]).all()
    assert (found.hard.sum(axis=1) == 20).all()
    assert found.attack(found.hard)["auc"]["value"] > 0.9
    of_many = originals(64, 400, shift)
    assert (of_many.hard == of_many.hard[0]).all()  # enough models: all of them choose


def test_a_rate_wants_enough_negatives_and_few_hits_have_an_exact_interval():
    number = {"value": 0.01, "low": 0.0, "high": 0.5, "models": 16}
    few = _rate(number, 0.05, 200)  # two hits
    assert (few["low"], few["high"]) == pytest.approx((0.121, 3.565), abs=0.01)
    assert few["value"] == 1.0
    many = _rate(number, 0.01, 5000)
    assert (many["low"], many["high"]) == (0.0, 50.0)
    most = _rate({"value": 0.995, "low": 1.0, "high": 1.0}, 0.05, 200)  # one miss
    low, high = binomtest(199, 200).proportion_ci(method="exact")
    assert (most["low"], most["high"]) == (100 * low, 100 * high)
    assert "needs 5,000 cases" in _rate(number, 0.001, 4999)["reason"]


@pytest.mark.parametrize(
    ("auc_", "tpr", "hard", "passed"),
    [(0.61, 1.0, 0.81, True), (0.55, 5.1, 0.81, True), (0.55, 4.9, 0.81, False), (0.7, 9.0, 0.79, False),
     (0.59, None, 0.9, False), (None, None, None, None)],
)  # fmt: skip
def test_the_gate(auc_, tpr, hard, passed):
    pool = originals(4, 4, 0.0).pool
    single = {"auc": {"value": auc_, "reason": "too few"}, "tpr_1": {"value": tpr}}
    said = gate(single, {"auc": {"value": hard}}, pool)
    assert said["passed"] is passed
    assert bool(said["lacking"]) is not bool(passed)
    assert said["change"] == ["train.augment=false", "train.epochs=40", "model.width=32"]
