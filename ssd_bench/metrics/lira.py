"""The likelihood-ratio attack: LiRA (Carlini et al. 2022, arXiv 2112.03570), U-LiRA (Hayes et al. 2024, 2403.01218)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

VARIANCES = {"own": 0.0, "shrunk": 4.0, "pooled": np.inf}  # how many models the common variance counts as
RELEASED = ("official", "official_fixed")
LEAST = 1e-6  # of a variance


def likelihood_ratio(
    target: ArrayLike, members: ArrayLike, others: ArrayLike, variance: str = "shrunk"
) -> NDArray[np.float64]:
    """ln N(phi; mu_1, v_1) - ln N(phi; mu_0, v_0) of each sample, high for a member: n, float64.

    target: margins phi of one model, n. members, others: margins of k and k2 other models (at least 2 each), with and
    without the sample. v = ((k - 1) s^2 + w s_p^2) / (k - 1 + w) (1 + 1 / k), at least 1e-6, with s^2 the sample's own
    variance, s_p^2 the mean of all samples' and w = 0 (own), 4 (shrunk) or infinity (pooled); the last factor is that
    of a mean that is itself estimated. official: as the released code does, with medians beside standard deviations
    about the mean and no floor but 1e-30; official_fixed: its one deviation of all members' margins, which hold the
    spread between samples, too, for both groups. Raises ValueError for shapes that do not fit and an unknown variance.
    """
    if variance not in (*VARIANCES, *RELEASED):
        raise ValueError(f"variance must be one of {', '.join((*VARIANCES, *RELEASED))}, got {variance}")
    phi, with_it, without = attacked(target, members, others)
    if variance in RELEASED:
        spreads = [with_it.std()] * 2 if variance == "official_fixed" else [of.std(axis=0) for of in (with_it, without)]
        return _released(phi, with_it, spreads[0]) - _released(phi, without, spreads[1])
    return _log_density(phi, with_it, variance) - _log_density(phi, without, variance)


def attacked(target: ArrayLike, members: ArrayLike, others: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both groups and their target, float64. Raises ValueError for shapes that do not fit."""
    phi, with_it, without = (np.asarray(a, dtype=np.float64) for a in (target, members, others))
    for name, group in (("members", with_it), ("others", without)):
        if group.ndim != 2 or len(group) < 2 or group.shape[1:] != phi.shape:
            raise ValueError(
                f"{name} must be k x n with k at least 2 for a target of n, got {group.shape}, {phi.shape}"
            )
    return phi, with_it, without


def shared_variance(group: np.ndarray, variance: str = "shrunk") -> np.ndarray:
    """((k - 1) s^2 + w s_p^2) / (k - 1 + w) of each sample, of k x n margins: n."""
    weight, k, own = VARIANCES[variance], len(group), group.var(axis=0, ddof=1)
    common = own.mean()
    return np.full_like(own, common) if np.isinf(weight) else ((k - 1) * own + weight * common) / (k - 1 + weight)


def _log_density(phi: np.ndarray, group: np.ndarray, variance: str) -> np.ndarray:
    """Up to a constant that is the same for both groups."""
    v = np.maximum(shared_variance(group, variance) * (1 + 1 / len(group)), LEAST)
    return -0.5 * (np.log(v) + (phi - group.mean(axis=0)) ** 2 / v)


def _released(phi: np.ndarray, group: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Up to a constant that is the same for both groups."""
    spread = spread + 1e-30
    return -np.log(spread) - 0.5 * ((phi - np.median(group, axis=0)) / spread) ** 2


Score = Callable[[np.ndarray, np.ndarray, np.ndarray], NDArray[np.float64]]  # as `likelihood_ratio`


def pair_left_out(
    inside: ArrayLike, outside: ArrayLike, score: Score = likelihood_ratio
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every model of a pool of complementary pairs attacked by all others but its twin: scores in and out, pairs x n.

    inside, outside: margins, pairs x n, of that model of each pair which was trained on the sample, and of the other
    one; after unlearning (U-LiRA) of the one that has forgotten it, and of the one that never held it. score: as
    `likelihood_ratio`. With the twin among the shadows, a target's absence leaves them unbalanced, and an attack that
    knows nothing has an AUC below 0.5. Raises ValueError for fewer than 4 pairs.
    """
    with_it, without = (np.asarray(a, dtype=np.float64) for a in (inside, outside))
    if with_it.ndim != 2 or with_it.shape != without.shape or len(with_it) < 4:
        raise ValueError(
            f"inside and outside must both be pairs x n, of at least 4 pairs: {with_it.shape}, {without.shape}"
        )
    scores = np.empty((2, *with_it.shape))
    for pair in range(len(with_it)):
        shadows = [np.delete(group, pair, axis=0) for group in (with_it, without)]
        for i, group in enumerate((with_it, without)):
            scores[i, pair] = score(group[pair], *shadows)
    return scores[0], scores[1]
