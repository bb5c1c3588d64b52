"""How much a prediction owes to the sample's having been trained on (Feldman and Zhang 2020, arXiv 2008.03703)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_SPREAD = 1e-3  # of margins


def memorisation(correct: ArrayLike, member: ArrayLike) -> NDArray[np.float64]:
    """P(correct | trained on) - P(correct | not) of each sample, over models: n, -1 to 1.

    correct, member: models x n, true where the model is right about the sample, and where it was trained on it. NaN for
    a sample that all models were trained on, or none. Raises ValueError for shapes that differ.
    """
    right, inside = (np.asarray(a, dtype=bool) for a in (correct, member))
    if right.ndim != 2 or right.shape != inside.shape:
        raise ValueError(f"correct and member must both be models x samples, got {right.shape} and {inside.shape}")
    with np.errstate(invalid="ignore", divide="ignore"):
        return (right & inside).sum(0) / inside.sum(0) - (right & ~inside).sum(0) / (~inside).sum(0)


def standard_error(correct: ArrayLike, member: ArrayLike) -> NDArray[np.float64]:
    """Of `memorisation`: sqrt(p1 q1 / n1 + p0 q0 / n0), n; NaN as there."""
    right, inside = (np.asarray(a, dtype=bool) for a in (correct, member))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (((right & of).sum(0) / of.sum(0), of.sum(0)) for of in (inside, ~inside))
        return np.sqrt(sum(p * (1 - p) / n for p, n in shares))


def by_margin(margin: ArrayLike, member: ArrayLike) -> NDArray[np.float64]:
    """Mean margin of the models that were trained on the sample minus that of the others, in pooled spreads: n.

    margin, member: models x n. The spread is at least 0.001; NaN where a group has fewer than two models.
    """
    phi, inside = np.asarray(margin, dtype=np.float64), np.asarray(member, dtype=bool)
    if phi.ndim != 2 or phi.shape != inside.shape:
        raise ValueError(f"margin and member must both be models x samples, got {phi.shape} and {inside.shape}")
    means, squares, counts = [], [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for of in (inside, ~inside):
            counts.append(of.sum(0))
            means.append(np.where(of, phi, 0).sum(0) / counts[-1])
            squares.append(np.where(of, (phi - means[-1]) ** 2, 0).sum(0))
        spread = np.sqrt(sum(squares) / (sum(counts) - 2))
        value = (means[0] - means[1]) / np.maximum(spread, LEAST_SPREAD)
    return np.where(np.minimum(*counts) < 2, np.nan, value)
