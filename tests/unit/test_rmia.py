"""RMIA: by hand, and on simulated pools."""

import numpy as np
import pytest
from scipy.special import expit, logit
from test_originals import originals

from ssd_bench.metrics.rmia import OFFLINE, above, pair_left_out, ratio
from ssd_bench.metrics.roc import auc


def test_by_hand():
    """p = (1.5 x 0.4 + 0.5) / 2 = 0.55; of the population 0.9 / 0.925 < 0.8 / 0.55 < 0.6 / 0.325."""
    of_sample = ratio([0.8], [0.4], 0.5)
    assert of_sample == pytest.approx([0.8 / 0.55])
    population = ratio([0.9, 0.6], [0.9, 0.1], 0.5)
    assert population == pytest.approx([0.9 / 0.925, 0.6 / 0.325])
    assert above(of_sample, population) == pytest.approx([0.5])
    assert above(population, population) == pytest.approx([0, 0.5])  # strictly below
    assert np.isfinite(ratio([0.0, 1.0], [0.0, 0.0], 1.0)).all()


def test_wrong_input():
    with pytest.raises(ValueError, match="a from 0 to 1"):
        ratio([0.5], [0.5], 1.5)
    with pytest.raises(ValueError, match="at least one sample"):
        above([1.0], [])
    many = np.zeros((4, 3))
    with pytest.raises(ValueError, match="at least 4 pairs"):
        pair_left_out(many[:3], many[:3], many[:3], np.zeros((6, 2)))
    with pytest.raises(ValueError, match="of 8 models"):
        pair_left_out(many, many, many, np.zeros((4, 2)))


def pool(shift, seed, pairs=8, n=100, k=60):
    rng = np.random.default_rng(seed)
    mean = rng.normal(2, 2, n)
    inside, outside = (mean + up + rng.normal(size=(pairs, n)) for up in (shift, 0.0))
    return inside, outside, rng.random((pairs, n)) < 0.5, rng.normal(2, 2, k) + rng.normal(size=(2 * pairs, k))


def test_the_attack_leaves_out_the_target_and_its_twin_and_chooses_a_on_the_others():
    inside, outside, held, population = pool(1.5, 0, n=30)
    found = pair_left_out(inside, outside, held, population)
    others, m = [0, 1, 2, 4, 5, 6, 7], 2 * 3 + 1
    of_models = np.delete(population, [6, 7], axis=0)
    mine = ~held[3]  # what the second model of pair 3 holds
    ways = []
    for a in OFFLINE:
        theirs = ratio(expit(population[m]), expit(of_models).mean(axis=0), a)
        p_out = expit(outside[others]).mean(axis=0)
        of_in, of_out = (above(ratio(expit(of[3]), p_out, a), theirs) for of in (inside, outside))
        ways.append((of_in[mine], of_out[~mine]))
    expected = found[0][3][mine], found[1][3][~mine]
    assert any(all(map(np.allclose, way, expected)) for way in ways)
    changed = inside.copy()
    changed[3] += 100 * held[3]  # what its twin says does not reach it, not even by the choice of a
    again = pair_left_out(changed, outside, held, population)
    assert np.array_equal(again[0][3][mine], expected[0])


def test_it_finds_members_and_nothing_where_nothing_is_to_be_found():
    assert auc(*pair_left_out(*pool(2.0, 0))) > 0.8
    null = [auc(*pair_left_out(*pool(0.0, seed))) for seed in range(30)]
    assert np.mean(null) == pytest.approx(0.5, abs=0.01)


def test_swapping_the_twins_changes_nothing():
    inside, outside, held, population = pool(1.0, 1)
    twins = population.reshape(8, 2, -1)[:, ::-1].reshape(16, -1)
    both = (pair_left_out(inside, outside, *more) for more in ((held, population), (~held, twins)))
    for one, other in zip(*both, strict=True):
        assert one == pytest.approx(other)


def test_the_attack_on_originals_stands_beside_lira():
    found = originals(32, 200, 1.5)
    rng = np.random.default_rng(1)
    found.test_margin[:] = logit(0.6) + rng.normal(size=found.test_margin.shape)
    single = found.report()["numbers"]["single"]
    assert single["rmia_auc"]["value"] == pytest.approx(auc(*found.population_scores))
    assert single["rmia_auc"]["low"] > 0.6
    assert "an attack needs 16 models" in originals(8, 30, 1.0).report()["numbers"]["single"]["rmia_auc"]["reason"]
