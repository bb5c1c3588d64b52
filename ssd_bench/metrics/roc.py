"""How well a score tells positives from negatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """The share of pairs in which the positive scores higher, ties counted half: 0 to 1. Raises ValueError if empty."""
    high, low = _scores(positives, negatives)
    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))


def tpr_at(positives: ArrayLike, negatives: ArrayLike, fpr: float = 0.01) -> float:
    """The share of positives strictly above the lowest threshold that at most `fpr` of the negatives exceed: 0 to 1.

    Raises ValueError for an empty set, and for a rate outside 0 to 1.
    """
    high, low = _scores(positives, negatives)
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr must be between 0 and 1, got {fpr}")
    may = int(np.floor(fpr * len(low) + 1e-9))  # negatives that may lie above
    if may >= len(low):
        return 1.0
    return float((high > np.sort(low)[::-1][may]).mean())


def _scores(positives: ArrayLike, negatives: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    high, low = (np.asarray(scores, dtype=np.float64).ravel() for scores in (positives, negatives))
    if not len(high) or not len(low) or np.isnan(high).any() or np.isnan(low).any():
        raise ValueError("positives and negatives must each hold at least one number, and none that is undefined")
    return high, low
