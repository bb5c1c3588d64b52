"""Intervals for what is measured on many models and many samples at once: the crossed bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

CELLS = 2**17  # of all resamples that are looked at together: what fits a cache takes half of the time
FEW_HITS = 10  # below this a bootstrap knows too few of them

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # weights, b x cells -> b x values


def crossed_interval(
    statistic: Statistic, pairs: ArrayLike, samples: ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> NDArray[np.float64]:
    """Percentile interval of each value of `statistic`: 2 x values, the low ends first. As `resampled` takes them."""
    return np.nanquantile(resampled(statistic, pairs, samples, draws, seed), ends(level), axis=0)


def resampled(
    statistic: Statistic, pairs: ArrayLike, samples: ArrayLike, draws: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Each value of `statistic` in each resample: draws x values.

    pairs, samples: of each cell (what one pair of models says of one sample), which it is of, from 0 on. A resample
    draws pairs and samples, both with replacement; a cell then counts as often as its pair times its sample was drawn.
    Resampling cells alone takes what all samples of a pair share, and all pairs of a sample, for independent. Of two
    statistics of as many pairs and samples, the same seed draws the same: their difference is that of pairs of values.
    """
    pair, sample = np.asarray(pairs), np.asarray(samples)
    if not len(pair) or pair.shape != sample.shape:
        raise ValueError(f"pairs and samples must be of one length, and not empty: {pair.shape}, {sample.shape}")
    pair, sample = (np.unique(which, return_inverse=True)[1] for which in (pair, sample))
    sizes = int(pair.max()) + 1, int(sample.max()) + 1
    resamples = crossed(*sizes, draws, seed, max(1, CELLS // len(pair)))
    values = [statistic(of_pairs.take(pair, 1) * of_samples.take(sample, 1)) for of_pairs, of_samples in resamples]
    return np.concatenate(values)


def ends(level: float = 0.95) -> list[float]:
    """The quantiles between which this share lies."""
    return [(1 - level) / 2, (1 + level) / 2]


def crossed(
    pairs: int, samples: int, draws: int, seed: int, step: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """How often each pair and each sample is drawn, `step` resamples at a time: b x pairs and b x samples."""
    of_pairs, of_samples = (np.random.default_rng([seed, part]) for part in (0, 1))
    for start in range(0, draws, step):
        b = min(step, draws - start)
        yield _counts(of_pairs, b, pairs), _counts(of_samples, b, samples)


def _counts(rng: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    """How often each of n is drawn: resamples x n, float64."""
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def mean_of(values: ArrayLike) -> Statistic:
    """The weighted mean of the cells' values, as a statistic of one value."""
    of_cell = np.asarray(values, dtype=np.float64)

    def mean(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (weights @ of_cell / weights.sum(axis=1))[:, None]

    return mean


def roc_of(positives: ArrayLike, negatives: ArrayLike, rates: tuple[float, ...] = (0.01, 0.001)) -> Statistic:
    """`roc.auc` and, at each of the rates (from 0 to below 1), `roc.tpr_at`, as a statistic of 1 + len(rates) values.

    positives, negatives: a score of each cell under both; a cell that counts twice is two positives and two negatives.
    """
    high, low = (np.asarray(scores, dtype=np.float64) for scores in (positives, negatives))
    scores = np.concatenate([high, low])
    order = scores.argsort(kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # equal scores go together
    cell, positive = order % len(high), order < len(high)

    def roc(weights: np.ndarray) -> np.ndarray:
        of_score = weights.take(cell, axis=1)
        p, n = (of_score * which for which in (positive, ~positive))
        if len(starts) < len(scores):
            p, n = (np.add.reduceat(of, starts, axis=1) for of in (p, n))
        upto_p, upto_n = p.cumsum(axis=1), n.cumsum(axis=1)
        all_p, all_n = upto_p[:, -1], upto_n[:, -1]
        rows = np.arange(len(weights))
        with np.errstate(invalid="ignore"):
            values = [(p * (upto_n - n / 2)).sum(axis=1) / (all_p * all_n)]
            for rate in rates:
                may = np.floor(rate * all_n + 1e-9)
                lowest = (all_n[:, None] - upto_n <= may[:, None]).argmax(axis=1)
                values.append(1 - upto_p[rows, lowest] / all_p)
        return np.stack(values, axis=1)

    return roc
