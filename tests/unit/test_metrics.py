"""Metrics against scipy and scikit-learn, and at the points where their values are known."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from scipy.stats import entropy as scipy_entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve

from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Outputs
from ssd_bench.metrics import membership
from ssd_bench.metrics.accuracy import Accuracy
from ssd_bench.metrics.calibration import Calibration, brier, calibration_error
from ssd_bench.metrics.distance import activation_distance
from ssd_bench.metrics.membership import (
    EntropyAttack,
    PopulationAttack,
    entropy,
    entropy_attack,
    entropy_attack_auc,
    population_attack,
)
from ssd_bench.metrics.zrf import ZRF, zrf


def probs(n, classes, seed, sharpness=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(n, classes, generator=generator, dtype=torch.float64)).softmax(1)


def test_zrf_is_one_minus_the_js_divergence_in_bits():
    p, q = probs(50, 7, 0, 3), probs(50, 7, 1)
    expected = 1 - np.mean(jensenshannon(p.numpy(), q.numpy(), axis=1, base=2) ** 2)
    assert zrf(p, q) == pytest.approx(expected, abs=1e-12)


def test_zrf_at_its_ends():
    one, other = torch.eye(3)[[0, 1]], torch.eye(3)[[1, 2]]
    assert zrf(one, other) == 0
    assert zrf(one, one) == 1
    assert zrf(one, other, variant="official") == -math.inf
    assert zrf(one, one, variant="official") == 1


def test_official_zrf_swaps_the_arguments_and_divides_by_the_classes():
    p, q = probs(20, 5, 2), probs(20, 5, 3)
    m = (p + q) / 2
    swapped = (rel_entr(m, p) + rel_entr(m, q)).numpy() / 2
    assert zrf(p, q, variant="official") == pytest.approx(1 - swapped.mean(), abs=1e-12)
    torch_says = [torch.nn.functional.kl_div(r.log(), m, reduction="mean") for r in (p, q)]
    assert zrf(p, q, variant="official") == pytest.approx(1 - float(sum(torch_says)) / 2, abs=1e-12)


def test_zrf_refuses_another_variant():
    with pytest.raises(ConfigError, match="did you mean 'official'"):
        zrf(probs(2, 3, 0), probs(2, 3, 1), variant="offical")


def test_a_value_that_is_not_finite_becomes_null():
    sharp = torch.eye(3) * 2000
    seen = Outputs({"forget": sharp}, {"forget": torch.arange(3)}, sharp.roll(1, 0))
    assert ZRF()(seen) == {"zrf": 0.0, "zrf_official": None}


def test_entropy_against_scipy():
    p = probs(40, 6, 4, 5)
    np.testing.assert_allclose(entropy(p).numpy(), scipy_entropy(p.numpy(), axis=1), atol=1e-12)
    assert entropy(torch.eye(2)).tolist() == [0, 0]


def test_entropy_attack_is_a_balanced_logistic_regression_on_the_entropy():
    member, other, forget = probs(300, 5, 5, 6), probs(100, 5, 6, 2), probs(60, 5, 7, 4)
    features = [scipy_entropy(p.numpy(), axis=1)[:, None] for p in (member, other, forget)]
    model = LogisticRegression(class_weight="balanced").fit(
        np.concatenate(features[:2]), np.array([1] * 300 + [0] * 100)
    )
    expected = 100 * model.predict(features[2]).mean()
    assert 5 < expected < 95
    assert entropy_attack(member, other, forget) == pytest.approx(expected)


def test_entropy_attack_tells_the_confident_from_the_others():
    confident, unsure = probs(200, 5, 8, 12), probs(200, 5, 9, 0.3)
    assert entropy_attack(confident, unsure, confident) > 95
    assert entropy_attack(confident, unsure, unsure) < 5


def test_entropy_attack_refuses_what_it_cannot_judge():
    p = probs(5, 3, 0)
    with pytest.raises(ValueError, match="at least one row"):
        entropy_attack(p, p, p[:0])
    with pytest.raises(ValueError, match="finite"):
        entropy_attack(p, p, p * float("nan"))


def test_activation_distance_is_the_mean_of_row_distances():
    p, q = probs(30, 4, 10), probs(30, 4, 11)
    assert activation_distance(p, q) == pytest.approx(np.linalg.norm((p - q).numpy(), axis=1).mean())
    assert activation_distance(p, p) == 0
    assert activation_distance(torch.eye(2), torch.eye(2).flip(0)) == pytest.approx(math.sqrt(2))


def outputs():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    return Outputs(
        {"test": logits, "forget": logits[:1]}, {"test": torch.tensor([0, 0, 0]), "forget": torch.tensor([0])}, None
    )


def test_accuracy_counts_samples_or_as_the_released_code_batches():
    per_sample = Accuracy()(outputs())
    assert per_sample["test_acc"] == pytest.approx(100 * 2 / 3)
    assert per_sample["forget_acc"] == 100
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert per_sample["test_loss"] == pytest.approx((2 * right + wrong) / 3)
    per_batch = Accuracy(average="batch", batch_size=2)(outputs())
    assert per_batch["test_acc"] == pytest.approx((100 + 0) / 2)  # the short last batch counts as much as the first
    assert per_batch["test_loss"] == pytest.approx((right + wrong) / 2)


def test_accuracy_names_its_own_setting_when_it_refuses_it():
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, got 0$"):
        Accuracy(batch_size=0)


def test_metrics_leave_out_what_was_not_evaluated():
    seen = outputs()
    assert EntropyAttack()(seen) == {}
    assert ZRF()(seen) == {}
    assert "retain_acc" not in Accuracy()(seen)


def test_the_attacks_own_auc_is_a_half_where_there_is_nothing_to_tell():
    one, other = probs(2000, 5, 20, 3), probs(2000, 5, 21, 3)
    assert entropy_attack_auc(one, other) == pytest.approx(0.5, abs=0.03)
    assert entropy_attack_auc(probs(500, 5, 22, 12), probs(500, 5, 23, 0.3)) > 0.95


def test_population_attack_against_scikit_learn():
    draws = np.random.default_rng(0)
    members, others = draws.normal(0.7, 1, 300).round(1), draws.normal(0, 1, 200).round(1)  # rounded: with ties
    auc, low, high, tpr, tpr_low, tpr_high = population_attack(members, others, 500, 0)
    truth, score = np.repeat([1, 0], [300, 200]), np.concatenate([members, others])
    assert auc == pytest.approx(roc_auc_score(truth, score))
    fpr, tprs, _ = roc_curve(truth, score, drop_intermediate=False)
    assert tpr == pytest.approx(100 * tprs[fpr <= 0.01].max())
    assert low < auc < high
    assert tpr_low <= tpr <= tpr_high
    assert population_attack(members, others, 500, 0) == population_attack(members, others, 500, 0)


def quadratic(members, others, n_bootstrap, seed):
    """Every member against every other."""
    draws = np.random.default_rng(seed)
    above = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    picks = [draws.integers(n, size=(n_bootstrap, n)) for n in above.shape]
    aucs = [above[np.ix_(*rows)].mean() for rows in zip(*picks, strict=True)]
    lowest = len(others) - 1 - len(others) // 100

    def rate(some_members, some_others):
        return 100 * (some_members > np.sort(some_others)[lowest]).mean()

    rates = [rate(members[of_members], others[of_others]) for of_members, of_others in zip(*picks, strict=True)]
    intervals = [np.quantile(each, [0.025, 0.975]) for each in (aucs, rates)]
    return [above.mean(), *intervals[0], rate(members, others), *intervals[1]]


@pytest.mark.parametrize("step", [1, 1000, 2**20])
def test_population_attack_is_every_member_against_every_other(step, monkeypatch):
    monkeypatch.setattr(membership, "STEP", step)
    for seed in range(20):
        draws = np.random.default_rng(seed)
        m, n, digits = *draws.integers(1, 250, 2), draws.integers(0, 4)  # few digits: many ties
        members, others = draws.normal(0.5, 1, m).round(digits), draws.normal(0, 1, n).round(digits)
        expected = quadratic(members, others, 40, seed)
        np.testing.assert_allclose(population_attack(members, others, 40, seed), expected, rtol=0, atol=1e-12)


def test_population_attack_at_its_ends_and_with_ties():
    two = population_attack(np.array([3.0, 2.0]), np.array([1.0, 0.0]), 5, 0)
    assert two == (1, 1, 1, 100, 100, 100)
    assert population_attack(np.array([1.0, 2.0]), np.array([2.0, 0.0]), 5, 0).auc == (1 + 0 + 1 + 0.5) / 4
    assert population_attack(np.zeros(3), np.zeros(4), 5, 0) == (0.5, 0.5, 0.5, 0, 0, 0)


def test_population_attack_grows_with_the_sets_and_not_with_their_product():
    draws = np.random.default_rng(0)
    members, others = draws.normal(size=(2, 20_000))
    tracemalloc.start()
    population_attack(members, others, 1000, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8  # all pairs: 400 million; all resamples at once: 40 million numbers of 8 bytes


def test_population_attack_refuses_what_it_cannot_judge():
    for members, others in (([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.nan])):
        with pytest.raises(ValueError, match="at least one score"):
            population_attack(np.array(members), np.array(others), 5, 0)


def test_the_interval_of_the_auc_covers_what_it_should():
    covered = 0
    for seed in range(60):
        draws = np.random.default_rng(seed)
        _, low, high, *_ = population_attack(draws.normal(size=120), draws.normal(size=120), 300, 0)
        covered += low <= 0.5 <= high
    assert covered >= 51  # of 60 at a nominal 95 %


def test_population_attack_compares_the_same_classes():
    labels = torch.tensor([0] * 30 + [1] * 10)
    test_labels = torch.tensor([0, 1, 2] * 100)
    rows = PopulationAttack()._matched(labels, test_labels)
    counts = torch.bincount(test_labels[rows], minlength=3).tolist()
    assert counts == [90, 30, 0]


def test_population_attack_needs_a_hundred_others_for_one_percent():
    def seen(n):
        logits = torch.randn(50 + n, 3, generator=torch.Generator().manual_seed(0))
        labels = torch.zeros(50 + n, dtype=torch.int64)
        parts = {"forget_train": slice(0, 50), "forget": slice(50, None), "test": slice(50, None)}
        return Outputs({k: logits[s] for k, s in parts.items()}, {k: labels[s] for k, s in parts.items()}, None)

    assert PopulationAttack()(seen(99))["population_tpr1"] is None
    assert PopulationAttack()(seen(99))["population_auc"] is not None
    assert 0 <= PopulationAttack()(seen(100))["population_tpr1"] <= 100


def test_random_images_beside_a_class_are_held_against_others_of_their_own_classes():
    """A class that is hard to tell and images that are easy: unseen ones of both, or members seem to be told apart."""
    draws = torch.Generator().manual_seed(0)

    def of(n_class, n_drawn):
        labels = torch.cat([torch.zeros(n_class, dtype=torch.int64), 1 + torch.arange(n_drawn) % 3])
        logits = torch.randn(len(labels), 4, generator=draws)
        logits[labels > 0] += 6 * torch.eye(4)[labels[labels > 0]]
        return logits, labels

    parts = {"forget_train": of(400, 200), "forget": of(300, 0), "retain": of(0, 900)}
    parts["test"] = tuple(torch.cat(both) for both in zip(parts["forget"], parts["retain"], strict=True))
    seen = Outputs({k: part[0] for k, part in parts.items()}, {k: part[1] for k, part in parts.items()}, None)
    attack = PopulationAttack(n_bootstrap=10)
    beside = attack._beside(seen)
    assert len(beside) == len(set(beside.tolist())) == 150  # as large a share of 300 as 200 are of 400
    assert attack(seen)["population_auc"] == pytest.approx(0.5, abs=0.05)
    alone = replace(seen, labels=seen.labels | {"forget_train": torch.zeros(600, dtype=torch.int64)})
    assert not len(attack._beside(alone))
    assert attack(alone)["population_auc"] != attack(seen)["population_auc"]


def test_every_metric_says_what_it_means():
    for metric in (Accuracy(), EntropyAttack(), PopulationAttack(), ZRF()):
        for about in metric.about.values():
            assert about.unit in ("percent", "nats", "fraction")
            assert about.ideal == "retrained" or float(about.ideal) >= 0
            assert about.least >= 1


def test_who_is_right_as_often_as_sure_is_calibrated():
    confidence, right = torch.full((10,), 0.8, dtype=torch.float64), torch.tensor([True] * 8 + [False] * 2)
    assert calibration_error(confidence, right) == pytest.approx(0)
    assert calibration_error(confidence, ~right) == pytest.approx(0.6)
    halves = torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64)
    assert calibration_error(halves, torch.tensor([False, False, True, True]), bins=2) == pytest.approx(0.25)
    assert calibration_error(halves, torch.tensor([False, False, True, True]), bins=1) == pytest.approx(0.25)


def test_bins_of_equal_mass_do_not_depend_on_the_order_of_samples():
    draws = torch.Generator().manual_seed(0)
    confidence = torch.rand(1000, generator=draws, dtype=torch.float64)
    right = torch.rand(1000, generator=draws, dtype=torch.float64) < confidence**2  # too sure
    order = torch.randperm(1000, generator=draws)
    value = calibration_error(confidence, right)
    assert value == pytest.approx(calibration_error(confidence[order], right[order]), abs=1e-12)
    in_order = confidence.argsort()
    bins = np.array_split(in_order.numpy(), 15)
    by_hand = sum(abs(float((right[b].double() - confidence[b]).sum())) for b in map(torch.from_numpy, bins)) / 1000
    assert value == pytest.approx(by_hand, abs=0.005)  # a sample more or less in a bin
    assert value > calibration_error(confidence, right, bins=1) - 1e-12


def test_brier_is_scikit_learn_s_for_two_classes():
    from sklearn.metrics import brier_score_loss

    said, labels = probs(200, 2, 5), torch.randint(2, (200,), generator=torch.Generator().manual_seed(6))
    assert brier(said, labels) == pytest.approx(2 * brier_score_loss(labels.numpy(), said[:, 1].numpy()))
    assert brier(torch.eye(3), torch.tensor([0, 1, 2])) == 0
    assert brier(torch.eye(3), torch.tensor([1, 2, 0])) == 2


def test_calibration_has_values_for_the_sets_that_are_there():
    seen = Outputs({"forget": torch.tensor([[2.0, 0.0], [0.0, 0.0]])}, {"forget": torch.tensor([0, 1])}, None)
    values = Calibration()(seen)
    sure = 1 / (1 + math.exp(-2))
    assert values["confidence_forget"] == pytest.approx((sure + 0.5) / 2)
    assert values["brier_forget"] == pytest.approx((2 * (1 - sure) ** 2 + 0.5) / 2)
    assert values.keys() == Calibration.about.keys()
    assert {value for name, value in values.items() if not name.endswith("forget")} == {None}
