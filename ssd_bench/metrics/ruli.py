"""RULI (Naderloui et al. 2025, arXiv 2506.13009): unlearned models told from others by the density of their margins."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logsumexp
from sklearn.metrics import roc_curve

from ssd_bench.metrics.lira import LEAST, attacked, likelihood_ratio, shared_variance

DENSITIES = ("gaussian", "kernel", "official")


def log_ratio(
    target: ArrayLike, unlearned: ArrayLike, others: ArrayLike, density: str = "kernel"
) -> NDArray[np.float64]:
    """ln p(phi; unlearned) - ln p(phi; others) of each sample, high for one that was forgotten: n, float64.

    target: margins phi of one model, n. unlearned, others: margins of k and k2 other models (at least 2 each) that have
    forgotten the sample and, privacy: that never held it and have forgotten others; efficacy: originals without it.
    kernel: a normal kernel on each margin, 1.06 s k^-1/5 wide, with the shrunk s of `likelihood_ratio`; gaussian: that
    ratio itself; official: kernels 1.0 wide whatever the spread. Raises ValueError.
    """
    if density not in DENSITIES:
        raise ValueError(f"density must be one of {', '.join(DENSITIES)}, got {density}")
    if density == "gaussian":
        return likelihood_ratio(target, unlearned, others)
    phi, ours, theirs = attacked(target, unlearned, others)
    return _log_kernels(phi, ours, density) - _log_kernels(phi, theirs, density)


def ratio(target: ArrayLike, unlearned: ArrayLike, others: ArrayLike, density: str = "kernel") -> NDArray[np.float64]:
    """p(phi; unlearned) / (p(phi; unlearned) + p(phi; others)), as `log_ratio` takes them: n, 0 to 1.

    official divides the densities themselves, as the released code does: NaN where both round to 0.
    """
    if density != "official":
        return expit(log_ratio(target, unlearned, others, density))
    phi, *groups = attacked(target, unlearned, others)
    ours, theirs = (np.exp(_log_kernels(phi, group, density)) for group in groups)
    with np.errstate(invalid="ignore"):
        return ours / (ours + theirs)


def _log_kernels(phi: np.ndarray, group: np.ndarray, density: str) -> np.ndarray:
    k, width = len(group), 1.0
    if density == "kernel":
        width = 1.06 * np.sqrt(np.maximum(shared_variance(group), LEAST)) * k**-0.2
    each = -0.5 * ((phi - group) / width) ** 2 - np.log(width) - 0.5 * math.log(2 * math.pi)
    return logsumexp(each, axis=0) - math.log(k)


def tpr_at_nearest(positives: ArrayLike, negatives: ArrayLike, fpr: float = 0.01) -> float:
    """The released code's true positive rate "at" `fpr`: at the first of the ROC's points that are nearest to it.

    It may lie above `fpr`, and of the points at one rate it takes the lowest; `roc.tpr_at` is the number to report.
    """
    high, low = (np.asarray(scores, dtype=np.float64).ravel() for scores in (positives, negatives))
    false, true, _ = roc_curve(np.repeat([1, 0], [len(high), len(low)]), np.concatenate([high, low]))
    return float(true[np.abs(false - fpr).argmin()])
