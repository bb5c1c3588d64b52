"""How far models that have forgotten a block are from those that never held it, each distance beside its floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ssd_bench.metrics.forgetting_quality import epsilons, points
from ssd_bench.metrics.halves import Summary, across, across_interval
from ssd_bench.metrics.klom import gaussian_kl, klom
from ssd_bench.run.originals import Number, Originals, too_few

DRAWS = 200  # resamples behind the interval of a distance, which is computed anew for each
Pairs = tuple[np.ndarray, np.ndarray]  # pairs x n each: of the model that has forgotten, and of the one it is held to


def distances(apart: Mapping[str, Pairs], originals: Originals) -> dict[str, Number]:
    """KLoM and Gaussian KL on each set of images, by the end of their names; of the blocks (""), forgetting quality."""
    found: dict[str, Number] = {}
    for where, pairs in apart.items():
        names = f"klom{where}", f"klom{where}_p95"
        found |= dict(zip(names, distance("klom", klom, pairs, originals, _mean_and_p95), strict=True))
        (found[f"gaussian_kl{where}"],) = distance("gaussian_kl", gaussian_kl, pairs, originals)
    (found["quality"],) = distance("quality", _points, apart[""], originals)
    return found


def _mean(values: np.ndarray) -> list[float]:
    return [values.mean()]


def _mean_and_p95(values: np.ndarray) -> list[float]:
    return [values.mean(), np.quantile(values, 0.95)]


def distance(
    kind: str, measure: Callable, pairs: Pairs, originals: Originals, summary: Summary = _mean
) -> list[Number]:
    """Half of the pairs against the other half, beside the same of models that never held the block: a number for each
    that `summary` gives."""
    models = len(originals.margin)
    if reason := too_few(kind, models):
        return [reason] * len(summary(np.zeros(1)))
    asked = originals.pool.asked
    ends = across_interval(*pairs, measure, summary, min(asked.draws, DRAWS), asked.seed)
    values = (summary(across(of, pairs[1], measure)) for of in pairs)
    return [
        {"value": float(value), "low": float(low), "high": float(high), "models": models, "a_side": models // 4,
         "ideal": float(floor)}
        for value, floor, low, high in zip(*values, *ends, strict=True)
    ]  # fmt: skip


def _points(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    return points(epsilons(unlearned, retrained), len(unlearned))
