"""Distances of unlearned from retrained models beside their floor: one half of the pairs against the other half.

A divergence of samples depends on how many models there are. Retrained models against retrained ones have the same
numbers only if each group is a half of what there is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_bench.metrics.bootstrap import ends

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]  # models x n, models x n -> n
Summary = Callable[[np.ndarray], ArrayLike]  # of n values one number, or several


def across(
    unlearned: ArrayLike, retrained: ArrayLike, measure: Measure, drawn: tuple[ArrayLike, ArrayLike] | None = None
) -> NDArray[np.float64]:
    """The mean of measure(unlearned, retrained) of the one half of the pairs against the other half, both ways: n.

    unlearned, retrained: pairs x n margins of the model of each pair that has forgotten and of the one that never held;
    an even number of pairs, from 4 on. With the retrained ones as both arguments it is the floor. drawn: places in the
    first half (pairs 0, 2, ...) and in the second one, in place of all of them. Raises ValueError.
    """
    ours, theirs = (np.asarray(group, dtype=np.float64) for group in (unlearned, retrained))
    if ours.shape != theirs.shape or ours.ndim != 2 or len(ours) < 4 or len(ours) % 2:
        raise ValueError(f"both must be pairs x n, of an even number of pairs from 4 on: {ours.shape}, {theirs.shape}")
    half = np.arange(len(ours) // 2)
    first, second = (2 * np.asarray(places) + i for i, places in enumerate(drawn or (half, half)))
    return (measure(ours[first], theirs[second]) + measure(ours[second], theirs[first])) / 2


def across_interval(
    unlearned: ArrayLike, retrained: ArrayLike, measure: Measure, summary: Summary = np.mean, draws: int = 200,
    seed: int = 0, level: float = 0.95,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Interval of each number of summary(across(...)), low and high ends: pairs are drawn inside each half, samples
    from all, both with replacement.

    A divergence of models that were drawn twice is larger than one of as many different models: resamples say how much
    the value varies, and are moved to where it is.
    """
    pairs, n = np.shape(unlearned)
    rng, values = np.random.default_rng([seed, 2]), []
    for _ in range(draws):
        drawn = tuple(rng.integers(pairs // 2, size=(2, pairs // 2)))
        values.append(summary(across(unlearned, retrained, measure, drawn)[rng.integers(n, size=n)]))
    middle = summary(across(unlearned, retrained, measure))
    low, high = np.quantile(values, ends(level), axis=0) - np.mean(values, axis=0) + middle
    return low, high
