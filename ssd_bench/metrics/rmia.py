"""RMIA (Zarifzadeh et al. 2024, arXiv 2312.03262): a sample's likelihood ratio held against those of a population."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from ssd_bench.metrics.roc import auc

OFFLINE = tuple(i / 10 for i in range(11))  # values of a that are tried
LEAST = 1e-300  # of a probability


def ratio(target: ArrayLike, others: ArrayLike, a: float) -> NDArray[np.float64]:
    """r = p_m / p of each sample, with p = ((1 + a) p_out + 1 - a) / 2: n.

    target: the label's probability by the attacked model, n. others: its mean over models that were not trained on the
    sample, n; `a` (0 to 1) stands for what those that were would add to it. Raises ValueError.
    """
    of_target, of_others = (np.asarray(p, dtype=np.float64) for p in (target, others))
    if of_target.ndim != 1 or of_target.shape != of_others.shape or not 0 <= a <= 1:
        raise ValueError(f"both must be n and a from 0 to 1, got {of_target.shape}, {of_others.shape} and {a}")
    return of_target / np.maximum(((1 + a) * of_others + 1 - a) / 2, LEAST)


def above(ratios: ArrayLike, population: ArrayLike) -> NDArray[np.float64]:
    """The share of the population whose ratio is below the sample's: n, 0 to 1; high for a member. population: k."""
    of_population = np.sort(np.asarray(population, dtype=np.float64))
    if not len(of_population):
        raise ValueError("the population must hold at least one sample")
    return np.searchsorted(of_population, np.asarray(ratios, dtype=np.float64), side="left") / len(of_population)


def pair_left_out(
    inside: ArrayLike, outside: ArrayLike, held: ArrayLike, population: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every model of a pool of complementary pairs attacked with all others but its twin: scores in and out, pairs x n.

    inside, outside: margins, pairs x n, of that model of each pair which was trained on the sample, and of the other
    one. held: pairs x n, whether the former is the pair's first model. population: models x k margins of samples that
    none was trained on. The a of a pair is that of OFFLINE with the highest AUC on all other pairs: on the pair itself,
    where what one model holds is what its twin does not, an attack that knows nothing would have an AUC below 0.5.
    Raises ValueError for fewer than 4 pairs.
    """
    with_it, without, of_all = (expit(np.asarray(m, dtype=np.float64)) for m in (inside, outside, population))
    first = np.asarray(held, dtype=bool)
    pairs = len(with_it)
    if not (with_it.ndim == 2 and with_it.shape == without.shape == first.shape and pairs >= 4):
        raise ValueError(f"inside, outside and held must all be pairs x n, of at least 4 pairs: {with_it.shape}")
    if of_all.ndim != 2 or len(of_all) != 2 * pairs:
        raise ValueError(f"population must be models x k, of {2 * pairs} models, got {of_all.shape}")
    by_a = np.stack([_scores(with_it, without, first, of_all, a) for a in OFFLINE])  # a x 2 x pairs x n
    found = np.array([[_auc(*scores[:, pair], first[pair]) for pair in range(pairs)] for scores in by_a])
    best = (found.sum(axis=1, keepdims=True) - found).argmax(axis=0)
    chosen = by_a[best, :, np.arange(pairs)]  # pairs x 2 x n
    return chosen[:, 0], chosen[:, 1]


def _scores(inside: np.ndarray, outside: np.ndarray, first: np.ndarray, population: np.ndarray, a: float) -> np.ndarray:
    """With this a: 2 x pairs x n, in and out."""
    pairs = len(inside)
    others = (outside.sum(axis=0) - outside) / (pairs - 1)
    of_pair = population[0::2] + population[1::2]
    of_others = (of_pair.sum(axis=0) - of_pair) / (2 * pairs - 2)
    scores = np.empty((2, *inside.shape))
    for pair in range(pairs):
        twins = [ratio(population[2 * pair + twin], of_others[pair], a) for twin in (0, 1)]
        for i, group in enumerate((inside, outside)):
            each = [above(ratio(group[pair], others[pair], a), of_twin) for of_twin in twins]
            scores[i, pair] = np.where(first[pair] != bool(i), *each)
    return scores


def _auc(inside: np.ndarray, outside: np.ndarray, first: np.ndarray) -> float:
    """Mean AUC of the two models of a pair, each on what it holds and what it does not; 0.5 where it holds all."""
    models = ((inside[of], outside[~of]) for of in (first, ~first))
    return float(np.mean([auc(*both) if all(map(len, both)) else 0.5 for both in models]))
