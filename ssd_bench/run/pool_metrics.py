"""What metrics with `needs = ("pool",)` find on the models of a pool, each value with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import t

from ssd_bench.core.about import check_names
from ssd_bench.core.task import Pooled
from ssd_bench.metrics.compute import Values, judge
from ssd_bench.run.originals import Number

EIGHTHS = 8  # parts of the pairs that an interval leaves out, one after the other


def numbers_of(metrics: Mapping[str, Any], pooled: Pooled, sets: int) -> dict[str, Number]:
    """Each value with its 95 % interval: Student's, of what leaving out an eighth of the pairs after the other changes.

    sets: of samples; pairs p, p + sets, ... forgot the same one. Raises ConfigError for what is no number, and for two
    metrics that return one name.
    """
    pairs = len(pooled.inside)
    if pairs < EIGHTHS * sets:
        reason = {"value": None, "reason": f"an interval needs {2 * EIGHTHS * sets} models, there are {2 * pairs}"}
        return {name: reason for metric in metrics.values() for name in metric.about}
    values = _values(metrics, pooled.of(np.arange(pairs)))
    group = np.arange(pairs) // sets % EIGHTHS
    without = [_values(metrics, pooled.of(group != left_out)) for left_out in range(EIGHTHS)]
    return {name: _number(value, [of.get(name) for of in without], 2 * pairs) for name, value in values.items()}


def half_width(without: list[float], of_samples: float = 0.0) -> float:
    """Of a 95 % interval. without: the value without each eighth of the pairs; of_samples: a variance to be added."""
    return float(t.ppf(0.975, EIGHTHS - 1) * ((EIGHTHS - 1) * np.var(without) + of_samples) ** 0.5)


def _values(metrics: Mapping[str, Any], pooled: Pooled) -> Values:
    values: Values = {}
    owner: dict[str, str] = {}
    for name, metric in metrics.items():
        found = judge(name, metric, pooled)
        check_names(name, found, owner)
        values |= found
    return values


def _number(value: float | None, without: list[float | None], models: int) -> Number:
    if value is None or None in without:
        return {"value": None, "reason": "the metric has no value for these models, or for seven eighths of them"}
    half = half_width(without)
    return {"value": value, "low": value - half, "high": value + half, "models": models}
