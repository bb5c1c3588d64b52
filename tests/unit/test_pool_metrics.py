"""Attacks and distances on pools of models: numbers worked out by hand, and properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from ssd_bench.metrics.forgetting_quality import epsilons, forgetting_quality
from ssd_bench.metrics.klom import gaussian_kl, klom
from ssd_bench.metrics.lira import likelihood_ratio
from ssd_bench.metrics.margin import margins
from ssd_bench.metrics.memorisation import memorisation, standard_error
from ssd_bench.metrics.roc import auc, tpr_at

RNG = np.random.default_rng(0)


def column(*values):
    return np.array(values, dtype=float)[:, None]


def test_the_margin_by_hand_and_of_logits_whose_probabilities_round():
    assert margins([[2, 0, 0]], [0]) == pytest.approx([2 - math.log(2)])
    assert margins([[800.0, 0.0]], [0]) == pytest.approx([800])
    assert margins([[800.0, 0.0]], [1]) == pytest.approx([-800])


def test_the_margin_is_the_log_odds_and_leaves_the_logits_alone():
    logits, labels = RNG.normal(size=(50, 4)).astype(np.float32), RNG.integers(4, size=50)
    before = logits.copy()
    p = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    p_y = p[np.arange(50), labels]
    assert margins(logits, labels) == pytest.approx(np.log(p_y / (1 - p_y)), abs=1e-9)
    assert (logits == before).all()
    with pytest.raises(ValueError, match="labels must be from 0 to 3"):
        margins(logits, labels + 4)


def test_roc_by_hand():
    assert auc([3, 1], [2, 0]) == 0.75
    assert tpr_at([3, 1], [2, 0], 0.0) == 0.5
    assert tpr_at([3, 1], [2, 0], 0.5) == 1.0
    assert auc([1, 1], [1, 1]) == 0.5
    assert tpr_at([1, 1], [1, 1], 0.01) == 0.0
    assert tpr_at([0], [1], 1.0) == 1.0


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=30),
    st.lists(st.integers(0, 6), min_size=1, max_size=30),
    st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_roc_against_every_threshold(high, low, fpr):
    wins = sum((h > n) + 0.5 * (h == n) for h in high for n in low)
    assert auc(high, low) == pytest.approx(wins / len(high) / len(low))
    allowed = [t for t in range(-1, 8) if sum(n > t for n in low) <= fpr * len(low) + 1e-9]
    assert tpr_at(high, low, fpr) == max(np.mean([h > t for h in high]) for t in allowed)


def test_the_likelihood_ratio_by_hand():
    """Means 2 and 0 and one variance v: ((3 - 0)^2 - (3 - 2)^2) / 2 v = 4 / v."""
    inside, outside = column(1, 3), column(-1, 1)
    v = 2 * (1 + 1 / 2)  # of two values 2 apart, and of a mean of two
    for variance in ("own", "shrunk", "pooled"):  # of one sample, all the same
        assert likelihood_ratio([3.0], inside, outside, variance) == pytest.approx([4 / v])


def test_shrunk_variances_lie_between_own_and_pooled_ones():
    inside = RNG.normal(size=(8, 2)) * [1.0, 3.0]
    outside = inside - 1.0
    own = inside.var(axis=0, ddof=1)
    shrunk = (7 * own + 4 * own.mean()) / 11 * (1 + 1 / 8)
    phi, mu = np.array([0.5, 0.5]), inside.mean(axis=0)
    expected = ((phi - mu + 1) ** 2 - (phi - mu) ** 2) / (2 * shrunk)
    assert likelihood_ratio(phi, inside, outside) == pytest.approx(expected)
    with pytest.raises(ValueError, match="k at least 2"):
        likelihood_ratio(phi, inside[:1], outside)


def test_the_released_likelihood_ratio_by_hand():
    """Medians beside deviations about the mean; fixed: one deviation of all members, of all samples at once."""
    inside, outside, phi = column(0, 0, 3), column(-1, 1, 6), np.array([1.0])
    s, t = math.sqrt(2), math.sqrt((9 + 1 + 16) / 3)  # means 1 and 2
    expected = norm.logpdf(1, 0, s) - norm.logpdf(1, 1, t)
    assert likelihood_ratio(phi, inside, outside, "official") == pytest.approx([expected])
    two = [np.hstack([group, group + 10]) for group in (inside, outside)]
    of_all = math.sqrt(2 + 25)  # within and between the samples
    fixed = norm.logpdf(1, 0, of_all) - norm.logpdf(1, 1, of_all)
    assert likelihood_ratio([1.0, 11.0], *two, "official_fixed") == pytest.approx([fixed] * 2)


def test_models_and_samples_in_another_order_change_nothing():
    inside, outside, phi = RNG.normal(size=(6, 5)), RNG.normal(size=(7, 5)), RNG.normal(size=5)
    ratio, order = likelihood_ratio(phi, inside, outside), RNG.permutation(5)
    assert likelihood_ratio(phi, inside[::-1], outside[::-1]) == pytest.approx(ratio)
    assert likelihood_ratio(phi[order], inside[:, order], outside[:, order]) == pytest.approx(ratio[order])
    assert likelihood_ratio(phi, outside, inside) == pytest.approx(-ratio)


def test_klom_by_hand():
    ours, theirs = column(0, 0, 3, 4), column(0, 3, 3, 4)
    corrected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    released = 2 / 3 * math.log(2) + 1 / 3 * math.log(1 / 2)  # without the values at the upper edge
    assert klom(ours, theirs, bins=2) == pytest.approx([corrected])
    for variant in ("easydub", "data_unlearning_bench"):
        assert klom(ours, theirs, bins=2, variant=variant) == pytest.approx([released])


def test_klom_of_constants():
    low, high = column(0, 0, 0), column(1, 1, 1)
    assert klom(low, high) == pytest.approx([math.log(1e5)])
    assert klom(high, low) == pytest.approx([math.log(1e5)])
    assert klom(low, low) == pytest.approx([0])
    assert klom(low, high, variant="easydub") == pytest.approx([math.log(1e5)])
    assert klom(high, low, variant="easydub") == pytest.approx([0])  # its margins all lie at the upper edge
    assert np.isnan(klom(high, low, variant="data_unlearning_bench")).all()


def test_klom_clips_and_needs_the_same_samples():
    assert klom(column(-500, 0), column(-500, 0)) == pytest.approx([0])
    assert klom(column(-500, 500), column(-100, 100)) == pytest.approx([0])
    with pytest.raises(ValueError, match="of the same samples"):
        klom(np.zeros((3, 2)), np.zeros((3, 1)))


def test_the_floor_of_klom_falls_with_the_number_of_models():
    floors = [klom(RNG.normal(size=(n, 200)), RNG.normal(size=(n, 200))).mean() for n in (16, 64, 256)]
    assert floors == pytest.approx([3.8, 0.6, 0.11], rel=0.25)


def test_the_gaussian_divergence_by_hand():
    ours, theirs = column(0, 2), column(2, 4)  # spreads sqrt(2), means 2 apart
    assert gaussian_kl(ours, theirs) == pytest.approx([4 / (2 * 2)])
    assert gaussian_kl(column(1, 1), column(1, 1)) == pytest.approx([0])  # the least spread
    wide, narrow = column(-2, 2), column(-1, 1)
    assert gaussian_kl(wide, narrow) == pytest.approx([math.log(1 / 2) + 4 / 2 - 0.5])


def test_forgetting_quality_by_hand():
    assert np.isinf(epsilons(column(0, 1, 2), column(5, 6, 7)))
    assert forgetting_quality(epsilons(column(0, 1, 2, 3), column(5, 6, 7, 8)), 4) == 0
    same = column(1, 1, 1, 1)
    assert epsilons(same, same) == pytest.approx([0])
    assert forgetting_quality([0.0, 0.0], 16) == 1
    assert forgetting_quality([0.5, 0.49, 3.0], 16) == pytest.approx((1 / 2 + 1 + 0) / 3)  # ceil(ln 15) is 3


def test_an_epsilon_against_every_attack():
    ours, theirs = RNG.integers(0, 6, size=(7, 20)).astype(float), RNG.integers(0, 6, size=(7, 20)).astype(float)
    expected = []
    for u, r in zip(ours.T, theirs.T, strict=True):
        found = [0.0]
        cuts = np.arange(-1, 7) + 0.5
        for low in cuts:
            for high in cuts[cuts > low]:
                fnr, fpr = 1 - np.mean((u > low) & (u < high)), np.mean((r > low) & (r < high))
                if fnr == fpr == 0:
                    found.append(np.inf)
                if fnr > 1e-12 and fpr > 1e-12:
                    ratios = (1 - 1e-5 - fpr) / fnr, (1 - 1e-5 - fnr) / fpr
                    found += [math.log(ratio) for ratio in ratios if ratio > 0]
        expected.append(max(found))
    assert epsilons(ours, theirs) == pytest.approx(expected)


def test_memorisation_by_hand():
    correct = column(1, 1, 1, 0, 0, 0, 1, 0)
    member = column(1, 1, 1, 1, 0, 0, 0, 0)
    assert memorisation(correct, member) == pytest.approx([0.5])
    assert standard_error(correct, member) == pytest.approx([0.306], abs=1e-3)
    assert np.isnan(memorisation(correct, np.ones_like(member))).all()
    assert np.isnan(memorisation(correct, np.zeros_like(member))).all()
