"""Distances to the retrained model, in outputs and in weights: derived from what is stored when a table is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ssd_bench.core.task import Outputs
from ssd_bench.metrics import About, cka, perturbed
from ssd_bench.metrics.distance import activation_distance
from ssd_bench.metrics.zrf import js_divergence

SETS = ("forget", "retain", "test")  # D'_f, D'_r, D'
STATISTICS = ("running_mean", "running_var")  # floating-point buffers of PyTorch's normalisation layers
_APART = "beside the floor"
ABOUT = {
    "average_gap": About("points", "0", "everywhere", ("forget_train", "retain_train", "retain"), 20, "gap", 2, "main"),
    "accuracy_gap": About(
        "points",
        "0",
        "beside the gap, where the attack's AUC is near 0.5",
        ("forget_train", "retain_train", "retain"),
        20,
        "gap of accuracies",
        2,
        "none",
    ),
    "js_forget": About("bits", "0", _APART, ("forget",), 20, "JS D'_f"),
    "js_retain": About("bits", "0", _APART, ("retain",), 20, "JS D'_r"),
    "js_test": About("bits", "0", _APART, ("test",), 20, "JS D'", table="none"),
    "agreement_forget": About("percent", "100", _APART, ("forget",), 20, "agree D'_f %", 1),
    "agreement_retain": About("percent", "100", _APART, ("retain",), 20, "agree D'_r %", 1),
    "agreement_test": About("percent", "100", _APART, ("test",), 20, "agree D' %", 1, "none"),
    "distance_forget": About("L2", "0", _APART, ("forget",), 20, "L2 D'_f"),
    "distance_retain": About("L2", "0", _APART, ("retain",), 20, "L2 D'_r", table="none"),
    "distance_test": About("L2", "0", _APART, ("test",), 20, "L2 D'", table="none"),
    "layer_distance": About(
        "L2", "0", "beside the floor alone: two retrained models are far apart", heading="L2 of parameters", decimals=2
    ),
    "statistics_distance": About(
        "L2",
        "0",
        "beside the floor; a method that never trains keeps the original's",
        heading="L2 of statistics",
        decimals=2,
    ),
    "kept_up": About("requests", "", "in a sequence", heading="kept up, requests", decimals=1),
    "tow": About("fraction", "1", "everywhere", ("forget_train", "retain_train", "test"), 20, "ToW"),
    **cka.ABOUT,
    **perturbed.ABOUT,
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


def weights_against(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """`layer_distance` of the parameters and `statistics_distance` of the running statistics of two state dicts.

    Each is the L2 norm over all its tensors; the second is missing where a model keeps no statistics. Names decide
    which is which (`STATISTICS`): a state dict does not say what is a parameter. Other buffers of PyTorch's modules are
    constants, equal in both models; a buffer of a user's own that training changes counts as a parameter. Nothing of
    two networks that are not built alike.
    """
    if {name: t.shape for name, t in ours.items()} != {name: t.shape for name, t in theirs.items()}:
        return {}
    apart = layer_distances(ours, theirs)
    statistics = [name for name in apart if name.rpartition(".")[2] in STATISTICS]
    values = {"layer_distance": math.hypot(*(d for name, d in apart.items() if name not in statistics))}
    if statistics:
        values["statistics_distance"] = math.hypot(*(apart[name] for name in statistics))
    return values


def kept_against(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """What follows from the tensors that metrics kept of two models: CKA, and images that one of them alone tells."""
    return cka.alike(ours, theirs) | perturbed.alone(ours, theirs)


def layer_distances(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """L2 distance of each floating-point tensor of two state dicts, by name."""
    names = [name for name, t in ours.items() if t.is_floating_point()]
    pairs = {name: (ours[name].cpu().double(), theirs[name].cpu().double()) for name in names}  # MPS has no float64
    return {name: torch.linalg.vector_norm(one - other).item() for name, (one, other) in pairs.items()}


def average_gap(
    metrics: Mapping[str, Any], retrained: Mapping[str, Any], scenario: str, corrective: bool = False
) -> float | None:
    """Mean |difference to the retrained model| of the accuracies on D_f, D_r and unseen data and of the paper's MIA.

    Percentage points; 0 is ideal. Unseen data is D'_r in the class scenarios, D' in the random one (Fan et al. 2024,
    arXiv 2310.12508, with the paper's attack in place of theirs). corrective: where manipulated data are corrected, the
    accuracy on D'_f takes the attack's place: that D_f was seen is no harm there. None where one was not evaluated.
    """
    last = "forget_acc" if corrective else "mia"
    return _mean_apart(metrics, retrained, (*_accuracies(scenario), last))


def accuracy_gap(metrics: Mapping[str, Any], retrained: Mapping[str, Any], scenario: str) -> float | None:
    """`average_gap` without the attack, which says nothing where it cannot tell members even of the original: the mean
    over the accuracies on D_f, D_r and unseen data alone. Percentage points; 0 is ideal."""
    return _mean_apart(metrics, retrained, _accuracies(scenario))


def _accuracies(scenario: str) -> tuple[str, ...]:
    return "forget_train_acc", "retain_train_acc", "test_acc" if scenario == "random" else "retain_acc"


def _mean_apart(metrics: Mapping[str, Any], retrained: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """Mean |difference| of these; None where one of them was not evaluated."""
    pairs = [(metrics.get(name), retrained.get(name)) for name in names]
    if any(value is None for pair in pairs for value in pair):
        return None
    return sum(abs(value - other) for value, other in pairs) / len(pairs)


def gap_after(k: int) -> str:
    """The name of the average gap after request k of a sequence."""
    return f"gap_after_{k}"


def kept_up(gaps: list[float | None], floors: list[float | None]) -> float | None:
    """After how many requests in a row from the first on a method was within the floor; None where one is not known."""
    if not gaps or None in gaps or None in floors:
        return None
    return float(next((k for k, (gap, floor) in enumerate(zip(gaps, floors, strict=True)) if gap > floor), len(gaps)))


def metrics_against(
    metrics: Mapping[str, Any],
    retrained: Mapping[str, Any],
    scenario: str,
    signed: Iterable[str] = (),
    corrective: bool = False,
) -> dict[str, float | None]:
    """`average_gap`, `accuracy_gap`, `tow`, and `delta.*` for each of `signed` that both have: ours minus theirs."""
    known = [name for name in signed if metrics.get(name) is not None and retrained.get(name) is not None]
    return {
        "average_gap": average_gap(metrics, retrained, scenario, corrective),
        "accuracy_gap": accuracy_gap(metrics, retrained, scenario),
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
