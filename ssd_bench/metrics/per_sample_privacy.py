"""Whose membership still shows after unlearning: a test of each sample, over models."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control, mannwhitneyu, norm, rankdata

from ssd_bench.metrics.bootstrap import crossed, ends
from ssd_bench.metrics.klom import two_groups

LEVEL = 0.05
STEP = 2**22  # wins of resamples that are looked at together


def aucs(unlearned: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """How often a model that has forgotten the sample has a higher margin than one that never held it: n, 0 to 1.

    unlearned: a x n, others: b x n margins. Ties count half. Above 0.5 the sample is still known; below, it is
    recognised by having been forgotten too well.
    """
    ours, theirs = two_groups(unlearned, others)
    a, b = len(ours), len(theirs)
    ranks = rankdata(np.concatenate([ours, theirs]), axis=0)[:a].sum(axis=0)
    return (ranks - a * (a + 1) / 2) / (a * b)


def p_values(unlearned: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Of the two-sided test of Mann and Whitney, from the exact distribution: n. As `aucs` takes them.

    The smallest it can be is 2 / binomial(a + b, a): 8 models against 8 say nothing once hundreds are tested.
    """
    ours, theirs = two_groups(unlearned, others)
    return mannwhitneyu(ours, theirs, method="exact", axis=0).pvalue


def leaking(p: ArrayLike, level: float = LEVEL) -> NDArray[np.bool_]:
    """Which samples leak: of those named, an expected share of at most `level` does not (Benjamini and Hochberg)."""
    values = np.asarray(p, dtype=np.float64)
    return false_discovery_control(values) <= level if len(values) else np.zeros(0, dtype=bool)


def leaking_resampled(
    inside: ArrayLike, outside: ArrayLike, groups: int, draws: int = 1000, seed: int = 0, level: float = LEVEL
) -> NDArray[np.float64]:
    """The share of the samples that leak in each resample of pairs and samples: draws, 0 to 1.

    inside, outside: pairs x n margins. groups: pairs p, p + groups, p + 2 groups, ... are drawn together. There is no
    exact test of models that were drawn twice, which look more alike than others do: p is the normal approximation's,
    and the shares are too large. They say how much the share varies, not where it is.
    """
    ours, theirs = two_groups(inside, outside)
    wins = (ours[:, None] > theirs[None]) + 0.5 * (ours[:, None] == theirs[None])
    n, which = len(ours), np.arange(len(ours)) % groups
    shares = []
    for of_pairs, of_samples in crossed(groups, ours.shape[1], draws, seed, max(1, STEP // wins.size)):
        pairs = of_pairs[:, which]
        auc = np.einsum("bp,pqc,bq->bc", pairs, wins, pairs, optimize=True) / n**2
        p = 2 * norm.sf(np.abs(auc - 0.5) / np.sqrt((2 * n + 1) / (12 * n**2)))
        leaks = false_discovery_control(p, axis=1) <= level
        shares.append((leaks * of_samples).sum(axis=1) / of_samples.sum(axis=1))
    return np.concatenate(shares)


def worse(before: ArrayLike, after: ArrayLike, leaks: ArrayLike) -> NDArray[np.bool_]:
    """Which samples leak after unlearning, and more than before: n. before, after: their `aucs`; leaks: after it."""
    was, now = (np.abs(np.asarray(auc, dtype=np.float64) - 0.5) for auc in (before, after))
    return np.asarray(leaks, dtype=bool) & (now > was)


def worst(inside: ArrayLike, outside: ArrayLike, share: float = 0.05) -> float:
    """Mean AUC of the share of the samples that leak most, found on half of the pairs and measured on the other half.

    inside, outside: pairs x n margins (at least 4 pairs), of the model that has forgotten the sample and of its twin.
    A sample that is known by too low margins counts with 1 - AUC. Where nothing leaks it is 0.5; the largest AUCs on
    all pairs would not be. Raises ValueError.
    """
    (value,) = _worst(*_halves(inside, outside, share), *(np.ones((1, n)) for n in np.shape(inside)))
    return float(value)


def worst_interval(
    inside: ArrayLike, outside: ArrayLike, share: float = 0.05, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of `worst` from resampled pairs and samples, the choice as it was."""
    wins, chosen, signs = _halves(inside, outside, share)
    resamples = crossed(*np.shape(inside), draws, seed, max(1, STEP // max(of[0].size for of in wins)))
    values = np.concatenate([_worst(wins, chosen, signs, *weights) for weights in resamples])
    return tuple(np.nanquantile(values, ends(level)).tolist())


def _halves(inside: ArrayLike, outside: ArrayLike, share: float) -> tuple[list, list, list]:
    """Of each half of the pairs the wins on the samples that the other half chose (pairs x pairs x c), which samples
    these are, and 1 for too high margins, -1 for too low ones."""
    ours, theirs = two_groups(inside, outside)
    if ours.shape != theirs.shape or len(ours) < 4:
        raise ValueError(f"inside and outside must both be pairs x n, of at least 4 pairs: {ours.shape}")
    n = max(1, round(share * ours.shape[1]))
    wins, chosen, signs = [], [], []
    for judge in (0, 1):
        found = aucs(ours[1 - judge :: 2], theirs[1 - judge :: 2]) - 0.5
        which = np.argsort(-np.abs(found), kind="stable")[:n]
        high, low = ours[judge::2, None, which], theirs[None, judge::2, which]
        wins.append((high > low) + 0.5 * (high == low))
        chosen.append(which)
        signs.append(np.where(found[which] >= 0, 1.0, -1.0))
    return wins, chosen, signs


def _worst(wins: list, chosen: list, signs: list, of_pairs: np.ndarray, of_samples: np.ndarray) -> np.ndarray:
    """The value of each resample."""
    values = []
    for judge in (0, 1):
        pairs, samples = of_pairs[:, judge::2], of_samples[:, chosen[judge]]
        with np.errstate(invalid="ignore", divide="ignore"):
            won = np.einsum("bp,pqc,bq->bc", pairs, wins[judge], pairs, optimize=True)
            auc = won / pairs.sum(axis=1, keepdims=True) ** 2
            leak = 0.5 + signs[judge] * (auc - 0.5)
            values.append((leak * samples).sum(axis=1) / samples.sum(axis=1))
    return np.mean(values, axis=0)
