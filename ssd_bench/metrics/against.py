"""Distances to the retrained model, in outputs and in weights: derived from what is stored when a table is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssd_bench.core.task import Outputs
from ssd_bench.metrics import About
from ssd_bench.metrics.distance import activation_distance
from ssd_bench.metrics.zrf import js_divergence

SETS = ("forget", "retain", "test")  # D'_f, D'_r, D'
ABOUT = {
    **{f"js_{name}": About("bits", "0", "beside the floor", (name,), 20) for name in SETS},
    **{f"distance_{name}": About("L2", "0", "beside the floor", (name,), 20) for name in SETS},
    **{f"agreement_{name}": About("percent", "100", "beside the floor", (name,), 20) for name in SETS},
    "layer_distance": About("L2", "0", "beside the floor alone: two retrained models are far apart"),
    "average_gap": About("points", "0", "everywhere", ("forget_train", "retain_train", "retain"), 20),
    "tow": About("fraction", "1", "everywhere", ("forget_train", "retain_train", "test"), 20),
}


def outputs_against(ours: Outputs, theirs: Outputs) -> dict[str, float]:
    """JS divergence (bits), activation distance, and completeness (percent of equal predictions), set by set."""
    values = {}
    for name in (name for name in SETS if ours.has(name) and theirs.has(name)):
        p, q = ours.probs(name), theirs.probs(name)
        values[f"js_{name}"] = js_divergence(p, q)
        values[f"distance_{name}"] = activation_distance(p, q)
        values[f"agreement_{name}"] = 100 * (p.argmax(1) == q.argmax(1)).double().mean().item()
    return values


def layer_distances(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """L2 distance of each floating-point tensor of two state dicts, by name."""
    names = [name for name, t in ours.items() if t.is_floating_point()]
    return {name: torch.linalg.vector_norm(ours[name].double() - theirs[name].double()).item() for name in names}


def layer_distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The same over all tensors: the square root of the sum of squares."""
    return sum(d**2 for d in layer_distances(ours, theirs).values()) ** 0.5


def average_gap(metrics: Mapping[str, Any], retrained: Mapping[str, Any], scenario: str) -> float | None:
    """Mean |difference to the retrained model| of the accuracies on D_f, D_r and unseen data and of the paper's MIA.

    Percentage points; 0 is ideal. Unseen data is D'_r in the class scenarios, D' in the random one (Fan et al. 2024,
    arXiv 2310.12508, with the paper's attack in place of theirs). None where one of them was not evaluated.
    """
    names = ("forget_train_acc", "retain_train_acc", "test_acc" if scenario == "random" else "retain_acc", "mia")
    pairs = [(metrics.get(name), retrained.get(name)) for name in names]
    if any(value is None for pair in pairs for value in pair):
        return None
    return sum(abs(value - other) for value, other in pairs) / len(pairs)


SIGNED = ("retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc", "mia", "zrf")


def metrics_against(metrics: Mapping[str, Any], retrained: Mapping[str, Any], scenario: str) -> dict[str, float | None]:
    """`average_gap`, `tow`, and `delta.*`: the signed difference of each metric that both models have."""
    known = [name for name in SIGNED if metrics.get(name) is not None and retrained.get(name) is not None]
    return {
        "average_gap": average_gap(metrics, retrained, scenario),
        "tow": tow(metrics, retrained),
        **{f"delta.{name}": metrics[name] - retrained[name] for name in known},
    }


def tow(metrics: Mapping[str, Any], retrained: Mapping[str, Any]) -> float | None:
    """Product over D_f, D_r and D' of 1 - |difference in accuracy to the retrained model|; 1 is ideal.

    Zhao et al. 2024 (arXiv 2406.01257). None where one of the accuracies was not evaluated.
    """
    value = 1.0
    for name in ("forget_train_acc", "retain_train_acc", "test_acc"):
        if metrics.get(name) is None or retrained.get(name) is None:
            return None
        value *= 1 - abs(metrics[name] - retrained[name]) / 100
    return value
