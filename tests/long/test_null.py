"""A method that forgets as retraining does is not said to leak: calibration on simulated pools."""

import math

import numpy as np
from made_margins import retrained

from ssd_bench.metrics.bootstrap import crossed_interval, roc_of
from ssd_bench.metrics.lira import pair_left_out
from ssd_bench.metrics.per_sample_privacy import leaking, p_values


def null(pairs, samples, seed, draws=200):
    """Whether the interval of U-LiRA's AUC holds 0.5 where the method is retraining, and the p of each sample."""
    ours, theirs = retrained(pairs, samples, np.random.default_rng(seed))
    pair, sample = np.repeat(np.arange(pairs), samples), np.tile(np.arange(samples), pairs)
    scores = (of.ravel() for of in pair_left_out(ours, theirs))
    low, high = crossed_interval(roc_of(*scores), pair, sample, draws, seed)[:, 0]
    return low <= 0.5 <= high, p_values(ours, theirs)


def test_retraining_does_not_leak(trials):
    """In the suite 30 small pools; 200 of them with --long."""
    n = trials(30, 200)
    held, ps = zip(*(null(8, 60, seed) for seed in range(n)), strict=True)
    assert np.mean(held) >= 0.9
    assert np.mean(held) <= 0.99 or n < 100
    p = np.sort(np.concatenate(ps))
    attained, upto = np.unique(p, return_index=True)  # of so few models p takes steps, and is uniform at each of them
    shares = np.append(upto[1:], len(p)) / len(p)
    assert np.abs(shares - attained).max() < 2 / math.sqrt(len(p))
    assert np.mean([leaking(each).any() for each in ps]) <= 0.15
