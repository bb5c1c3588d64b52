"""The margin of a prediction: what attacks and distances on pools of models are computed of."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def margins(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """z_y - logsumexp of the other logits, which is log p_y / (1 - p_y): n, float64.

    logits: n x classes (at least 2); labels: n whole numbers. Never by way of probabilities, which round to 0 and 1.
    Raises ValueError for shapes that do not fit and labels out of range.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if z.ndim != 2 or y.shape != z.shape[:1] or z.shape[1] < 2:
        raise ValueError(f"logits must be n x classes and labels n, got shapes {z.shape} and {y.shape}")
    if len(y) and not (y.min() >= 0 and y.max() < z.shape[1]):
        raise ValueError(f"labels must be from 0 to {z.shape[1] - 1}, got {y.min()} to {y.max()}")
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    most = others.max(axis=1, keepdims=True)
    return z[rows, y] - most[:, 0] - np.log(np.exp(others - most).sum(axis=1))
