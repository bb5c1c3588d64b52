"""The values of metrics, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from ssd_bench.core.about import check_names
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.seeds import seeded
from ssd_bench.core.task import Outputs, Pooled, Probed, looks_inside

Values = dict[str, float | None]
Kept = dict[str, Tensor]


def compute_all(metrics: Mapping[str, Any], seen: Outputs, probed: Callable[[], Probed] | None) -> tuple[Values, Kept]:
    """What `compute` gives for all of these. Raises ConfigError, also where two return one name."""
    values: Values = {}
    kept: Kept = {}
    owner: dict[str, str] = {}
    for name, metric in metrics.items():
        found, more = compute(name, metric, seen, probed)
        check_names(name, found, owner)
        values |= found
        kept |= more
    return values, kept


def compare(metrics: Mapping[str, Any], seen: Outputs, reference: Outputs) -> Values:
    """The values of metrics with `needs = ("reference",)`. Raises ConfigError as `compute_all`.

    reference: what a retrained model says about the same images.
    """
    values: Values = {}
    owner: dict[str, str] = {}
    for name, metric in metrics.items():
        found, _ = compute(name, metric, seen, None, reference)
        _check_described(name, metric, found)
        check_names(name, found, owner)
        values |= found
    return values


def compute(
    name: str, metric: Any, seen: Outputs, probed: Callable[[], Probed] | None, reference: Outputs | None = None
) -> tuple[Values, Kept]:
    """A metric's values, checked: named numbers that are finite, or None; and the tensors among them, which are kept
    for what compares two models. It gets outputs of its own. Raises ConfigError that names the metric.

    probed: what a metric that looks into the model is handed beside the outputs; None where there is none of those.
    """
    handed = [probed()] if looks_inside(metric) else []
    before = [_edits(each) for each in handed]
    compared_with = [] if reference is None else [reference.clone()]
    values = _called(name, metric, seen.clone(), *handed, *compared_with)
    if [_edits(each) for each in handed] != before:
        raise ConfigError(f"metric {name} changed the images in place; it has to work on a clone")
    return _checked(name, values)


def judge(name: str, metric: Any, pooled: Pooled) -> Values:
    """The values of a metric with `needs = ("pool",)`; None for what is not finite, as a share of what is nothing.

    Raises ConfigError as `compute`.
    """
    values = _called(name, metric, pooled)
    if isinstance(values, Mapping):
        values = {key: _one_number(value) for key, value in values.items()}
        wrong = {key for key, value in values.items() if isinstance(value, Real) and not math.isfinite(value)}
        values = {key: None if key in wrong else value for key, value in values.items()}
    found, _ = _checked(name, values)
    _check_described(name, metric, found)
    return found


def _check_described(name: str, metric: Any, found: Values) -> None:
    """Such values stand beside the benchmark's own: none of them may come under another name than the class says."""
    about = getattr(metric, "about", None)
    if about and (unknown := [key for key in found if key not in about]):
        raise ConfigError(f"metric {name} returned {unknown[0]}, which its about does not describe")


def _called(name: str, metric: Any, *handed: Any) -> Any:
    try:
        with seeded(0, "metric"):
            return metric(*handed)
    except Exception as e:
        e.add_note(f"in metric {name}")
        raise


def _checked(name: str, values: Any) -> tuple[Values, Kept]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"metric {name} returned {type(values).__name__}; allowed: a dict of named numbers")
    kept = {str(key): value for key, value in values.items() if isinstance(value, Tensor) and value.ndim}
    values = {str(key): _one_number(value) for key, value in values.items() if str(key) not in kept}
    for key, value in values.items():
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise ConfigError(f"metric {name} returned {key}={value}; allowed: a finite number, or None")
    return {key: value if value is None else float(value) for key, value in values.items()}, kept


def _edits(probed: Probed) -> int:
    """How often the images were changed in place, which others, and later runs, would see."""
    return sum(images.edits + images.labels._version for images in probed.images.values())


def _one_number(value: Any) -> Any:
    """A tensor or an array without a dimension as the number that it holds."""
    return value.item() if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0 else value
