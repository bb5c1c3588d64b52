"""Forgetting quality (NeurIPS 2023 machine unlearning competition; Triantafillou et al. 2024, arXiv 2406.09073)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP = 2**23  # pairs of thresholds, of all samples, that are looked at together


def epsilons(unlearned: ArrayLike, retrained: ArrayLike, delta: float = 1e-5) -> NDArray[np.float64]:
    """How well the best attack on one number tells unlearned models from retrained ones, as an epsilon: n, from 0 on.

    unlearned, retrained: a x n margins of as many models. An attack says "unlearned" above a threshold, below one, or
    between two of them, all at the data; its epsilon is the larger of ln((1 - delta - FPR) / FNR) and
    ln((1 - delta - FNR) / FPR). One that makes errors of one kind alone is left out, one that makes none is infinite.
    Raises ValueError for groups that are not of one shape.
    """
    ours, theirs = (np.asarray(group, dtype=np.float64) for group in (unlearned, retrained))
    if ours.ndim != 2 or ours.shape != theirs.shape or not len(ours):
        raise ValueError(f"both groups must be models x samples of one shape, got {ours.shape} and {theirs.shape}")
    pairs = (2 * len(ours) + 1) * len(ours)
    step = max(1, STEP // pairs)
    parts = range(0, ours.shape[1], step)
    found = [_epsilons(ours[:, i : i + step], theirs[:, i : i + step], delta) for i in parts]
    return np.concatenate(found) if found else np.zeros(0)


def _epsilons(ours: np.ndarray, theirs: np.ndarray, delta: float) -> np.ndarray:
    below_ours, below_theirs = _shares_below(ours, theirs)
    low, high = np.triu_indices(len(below_ours), 1)
    fnr = 1 - (below_ours[high] - below_ours[low])
    fpr = below_theirs[high] - below_theirs[low]
    none = 0.5 / len(ours)  # shares are multiples of twice that
    both, neither = (fpr > none) & (fnr > none), (fpr < none) & (fnr < none)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_attack = np.fmax(np.log((1 - delta - fpr) / fnr), np.log((1 - delta - fnr) / fpr))
    best = np.where(both & ~np.isnan(of_attack), of_attack, 0.0).max(axis=0)
    return np.where(neither.any(axis=0), np.inf, np.maximum(best, 0.0))


def _shares_below(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of each group at or below nothing, and each value of either: 2 a + 1 x n. Equal values go together."""
    values = np.concatenate([ours, theirs])
    order = values.argsort(axis=0, kind="stable")
    values = np.take_along_axis(values, order, axis=0)
    last = np.ones(values.shape, dtype=bool)
    last[:-1] = values[:-1] != values[1:]
    shares = []
    for group in (order < len(ours), order >= len(ours)):
        count = np.where(last, group.cumsum(axis=0), len(values))
        count = np.minimum.accumulate(count[::-1], axis=0)[::-1]
        shares.append(np.concatenate([np.zeros((1, values.shape[1])), count / len(ours)]))
    return shares[0], shares[1]


def points(epsilon: ArrayLike, models: int) -> NDArray[np.float64]:
    """2^-floor(2 epsilon) of each sample, and 0 where epsilon is at least ceil(ln(models - 1)): n, 0 to 1.

    models: in each group. Raises ValueError for fewer than 3.
    """
    e = np.asarray(epsilon, dtype=np.float64)
    if models < 3:
        raise ValueError(f"at least 3 models in each group are needed, got {models}")
    most = math.ceil(math.log(models - 1))
    return np.where(e < most, 2.0 ** -np.floor(2 * np.minimum(e, most)), 0.0)


def forgetting_quality(epsilon: ArrayLike, models: int) -> float:
    """The mean of `points`: 0 to 1.

    What exact retraining reaches (0.05 to 0.2) is its ceiling: read it as a share of that.
    """
    return float(points(epsilon, models).mean())
