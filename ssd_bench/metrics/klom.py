"""How far the outputs of unlearned models are from those of retrained ones, sample by sample, in nats."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

VARIANTS = ("corrected", "easydub", "data_unlearning_bench")
LEAST = 1e-5  # of a bin's share among the retrained: the divergence ends at 11.51
LEAST_SPREAD = 0.05  # of margins, in `gaussian_kl`


def klom(
    unlearned: ArrayLike, retrained: ArrayLike, bins: int = 20, clip: float = 100.0, variant: str = "corrected"
) -> NDArray[np.float64]:
    """KLoM (Georgiev et al. 2025, arXiv 2410.23232): KL(unlearned || retrained) of histograms of margins: n, nats.

    unlearned: a x n, retrained: b x n margins of as many models. Each sample has `bins` equal bins over both groups'
    margins, clipped to +-clip; a bin of the retrained counts at least 1e-5. It depends on a and b: read it beside the
    value between two groups of retrained models. easydub and data_unlearning_bench: as those repositories compute it
    of these two arguments; both leave out margins at the upper edge, and the latter divides by the sums again, so that
    a group that lies all there gives 0 in the one and NaN in the other. A margin that is NaN makes its sample's NaN.
    Raises ValueError.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant}")
    if bins < 1 or not clip > 0:
        raise ValueError(f"bins must be at least 1 and clip positive, got bins={bins} and clip={clip}")
    ours, theirs = (np.clip(group, -clip, clip) for group in two_groups(unlearned, retrained))
    low = np.minimum(ours.min(axis=0), theirs.min(axis=0))
    high = np.maximum(ours.max(axis=0), theirs.max(axis=0))
    edges = np.linspace(low, np.where(high > low, high, low + 1), bins + 1)  # bins + 1 x n
    closed = variant == "corrected"
    p, q = _shares(ours, edges, closed), _shares(theirs, edges, closed)
    q = np.where(p > 0, np.maximum(q, LEAST), q)
    with np.errstate(invalid="ignore", divide="ignore"):
        if variant == "data_unlearning_bench":
            p, q = p / p.sum(axis=0), q / q.sum(axis=0)
        terms = np.where(p > 0, p * np.log(p / q), p)  # where p is 0 so is its term, and NaN stays NaN
    unknown = np.isnan(ours).any(axis=0) | np.isnan(theirs).any(axis=0)  # which no bin holds
    return np.where(unknown, np.nan, terms.sum(axis=0))


def _shares(group: np.ndarray, edges: np.ndarray, closed: bool) -> np.ndarray:
    """What share of the group lies in each bin of its sample: bins x n. closed: the last bin holds its upper edge."""
    bins = len(edges) - 1
    place = (group[:, None] >= edges[None]).sum(axis=1) - 1  # models x n
    if closed:
        place = np.minimum(place, bins - 1)
    counts = (place[:, None] == np.arange(bins)[None, :, None]).sum(axis=0)
    return counts / np.maximum(counts.sum(axis=0), 1)


def gaussian_kl(unlearned: ArrayLike, retrained: ArrayLike) -> NDArray[np.float64]:
    """KL(unlearned || retrained) of normal distributions with the groups' means and spreads (at least 0.05): n, nats.

    unlearned: a x n, retrained: b x n margins, at least 2 models each. It is the less biased companion of `klom`, where
    few models are. Raises ValueError.
    """
    ours, theirs = two_groups(unlearned, retrained)
    if min(len(ours), len(theirs)) < 2:
        raise ValueError(f"at least 2 models in each group are needed, got {len(ours)} and {len(theirs)}")
    s, t = (np.maximum(group.std(axis=0, ddof=1), LEAST_SPREAD) for group in (ours, theirs))
    return np.log(t / s) + (s**2 + (ours.mean(axis=0) - theirs.mean(axis=0)) ** 2) / (2 * t**2) - 0.5


def two_groups(unlearned: ArrayLike, retrained: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as a x n and b x n, float64. Raises ValueError unless they are of the same samples and neither is empty."""
    ours, theirs = (np.asarray(group, dtype=np.float64) for group in (unlearned, retrained))
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1:] != theirs.shape[1:] or not len(ours) or not len(theirs):
        raise ValueError(f"both groups must be models x samples, of the same samples: got {ours.shape}, {theirs.shape}")
    return ours, theirs
