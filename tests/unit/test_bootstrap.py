"""Intervals over pairs and samples, the attack that leaves the pair out, memorisation by margin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_bench.metrics.bootstrap import crossed_interval, mean_of, roc_of
from ssd_bench.metrics.lira import likelihood_ratio, pair_left_out
from ssd_bench.metrics.memorisation import by_margin
from ssd_bench.metrics.roc import auc, tpr_at

RNG = np.random.default_rng(0)
SCORES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40)


@given(SCORES.filter(lambda cells: any(w for *_, w in cells)), st.sampled_from([0.0, 0.01, 0.3, 0.9]))
@settings(max_examples=150, deadline=None)
def test_a_cell_that_counts_twice_is_there_twice(cells, rate):
    high, low, weights = (np.array(column) for column in zip(*cells, strict=True))
    values = roc_of(high, low, (rate,))(weights[None].astype(float))[0]
    assert values[0] == pytest.approx(auc(high.repeat(weights), low.repeat(weights)))
    assert values[1] == pytest.approx(tpr_at(high.repeat(weights), low.repeat(weights), rate))


def test_scores_without_ties():
    high, low, weights = RNG.normal(1, 1, 60), RNG.normal(size=60), RNG.integers(0, 3, 60)
    values = roc_of(high, low, (0.1,))(weights[None].astype(float))[0]
    assert values[0] == pytest.approx(auc(high.repeat(weights), low.repeat(weights)))
    assert values[1] == pytest.approx(tpr_at(high.repeat(weights), low.repeat(weights), 0.1))


def test_the_mean_by_hand():
    assert mean_of([1.0, 5.0])(np.array([[1.0, 1.0], [3.0, 1.0]])).ravel().tolist() == [3.0, 2.0]


def grid(pairs, samples):
    return np.repeat(np.arange(pairs), samples), np.tile(np.arange(samples), pairs)


def test_an_interval_repeats_itself_and_follows_the_seed_and_does_not_depend_on_how_much_is_looked_at(monkeypatch):
    values = RNG.normal(size=8 * 20)

    def interval(**how):
        return crossed_interval(mean_of(values), *grid(8, 20), draws=50, **how).ravel().tolist()

    first = interval()
    assert first == interval()
    assert first != interval(seed=1)
    monkeypatch.setattr("ssd_bench.metrics.bootstrap.CELLS", 1000)
    assert interval() == pytest.approx(first)


def test_what_a_pair_shares_is_resampled_as_a_whole():
    """All samples of a pair alike: the interval is that of 8 numbers, however many samples there are."""
    pair, sample = grid(8, 500)
    low, high = crossed_interval(mean_of(np.array([0, 1])[pair % 2]), pair, sample, draws=2000).ravel()
    assert low == pytest.approx(1 / 8, abs=1e-9)  # binomial(8, 1/2) / 8
    assert high == pytest.approx(7 / 8, abs=1e-9)
    constant = crossed_interval(mean_of(np.ones(len(pair))), pair, sample, draws=20)
    assert constant == pytest.approx(np.ones((2, 1)))


def test_intervals_cover_where_pairs_and_samples_have_effects_of_their_own():
    pairs, samples, trials, covered, narrow = 16, 40, 120, 0, 0
    pair, sample = grid(pairs, samples)
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        cells = rng.normal(size=pairs)[pair] + rng.normal(size=samples)[sample] + rng.normal(size=len(pair))
        low, high = crossed_interval(mean_of(cells), pair, sample, draws=200, seed=trial).ravel()
        covered += low <= 0 <= high
        low, high = crossed_interval(mean_of(cells), np.arange(len(pair)), np.arange(len(pair)), 200, trial).ravel()
        narrow += low <= 0 <= high
    assert 0.88 * trials <= covered
    assert narrow < 0.6 * trials  # cells alone


def pool(pairs, samples, shift, rng):
    """Margins in and out of pairs x samples."""
    mean = rng.normal(3, 2, size=samples)
    out = mean + rng.normal(size=(pairs, samples))
    return mean + shift + rng.normal(size=(pairs, samples)), out


def test_the_attack_leaves_out_the_target_and_its_twin():
    inside, outside = pool(5, 7, 1.0, RNG)
    positives, negatives = pair_left_out(inside, outside)
    others = [0, 1, 3, 4]
    assert positives[2] == pytest.approx(likelihood_ratio(inside[2], inside[others], outside[others]))
    assert negatives[2] == pytest.approx(likelihood_ratio(outside[2], inside[others], outside[others]))
    swapped = pair_left_out(outside, inside)  # swapping the twins swaps members and others
    assert swapped[0] == pytest.approx(-negatives)
    with pytest.raises(ValueError, match="at least 4 pairs"):
        pair_left_out(inside[:3], outside[:3])


def test_the_attack_knows_nothing_where_nothing_is_to_be_known_and_much_where_much_is():
    null = [auc(*pair_left_out(*pool(4, 200, 0.0, np.random.default_rng(seed)))) for seed in range(20)]
    assert np.mean(null) == pytest.approx(0.5, abs=0.01)
    assert auc(*pair_left_out(*pool(16, 200, 2.0, RNG))) > 0.85


def test_memorisation_by_margin_by_hand():
    margin = np.array([[3.0, 1.0], [1.0, 1.0], [0.0, 1.0], [-2.0, 1.0]])
    member = np.array([[True, True], [True, False], [False, False], [False, False]])
    value = by_margin(margin, member)
    assert value[0] == pytest.approx((2 - -1) / np.sqrt((2 + 2) / 2))
    assert np.isnan(value[1])  # one model alone was trained on it
    with pytest.raises(ValueError, match="models x samples"):
        by_margin(margin, member[:2])
