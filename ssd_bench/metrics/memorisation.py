"""How much a prediction owes to the sample's having been trained on (Feldman and Zhang 2020, arXiv 2008.03703)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
