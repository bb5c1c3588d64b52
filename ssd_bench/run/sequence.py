"""The sections of a row whose requests came one after the other: those of each, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ssd_bench.metrics.sequence import ABOUT, erosion, reversal
from ssd_bench.run.bench import Bench
from ssd_bench.run.evaluate import Values

Sections = dict[str, Any]
OWN = "request_"  # sets of a sequence that metrics_by_request alone shows


def together(bench: Bench, steps: list[Sections], original: Values) -> Sections:
    """One row's sections: the last request's models, metrics and details, what all of them took, and each by itself.

    original: the metrics of the original on the last request's sets.
    """
    *earlier, last = steps
    sections = {**last, "original_metrics": shown(original), "metrics": shown(last["metrics"])}
    accuracies = [[step["metrics"].get(f"{OWN}{j}_acc") for j in range(1, len(steps) + 1)] for step in steps]
    if original.get("kept_acc") is not None:
        sections["metrics"] |= {
            "erosion": erosion(original["kept_acc"], last["metrics"]["kept_acc"]),
            "reversal": reversal(accuracies),
        }
        sections["about"] = {name: asdict(about) for name, about in ABOUT.items()}
    sections["times"] = _sum([step["times"] for step in steps])
    sections["memory"] = max((step["memory"] for step in steps if "memory" in step), key=_bytes, default={})
    sections["cached"] = {kind: all(s["cached"].get(kind, True) for s in steps) for s in steps for kind in s["cached"]}
    for k, step in enumerate(earlier, 1):
        sections["artefacts"] |= {f"{name}_{k}": path for name, path in step["artefacts"].items()}
    if any("parallel" in step for step in steps):
        sections["parallel"] = any(step.get("parallel") for step in steps)
    sections["metrics_by_request"] = [
        {
            "request": k,
            "target": each.request.target,
            "n_forget": len(each.request.forget),
            "metrics": step["metrics"],
            "times": step["times"],
            "details": step.get("details", {}),
        }
        for k, (each, step) in enumerate(zip(bench.steps, steps, strict=True), 1)
    ]
    return sections


def shown(values: Values) -> Values:
    """What a row shows of the values of one request."""
    return {name: value for name, value in values.items() if not name.startswith(OWN)}


def _bytes(memory: Mapping[str, Any]) -> int:
    return memory.get("peak_bytes") or 0


def _sum(times: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Key by key; of what is shared, kind by kind. Steps that did without something have None there."""
    total: dict[str, Any] = {}
    for each in times:
        for key, value in each.items():
            if isinstance(value, Mapping):
                total[key] = _sum([total.get(key) or {}, value])
            else:
                total[key] = total.get(key) if value is None else (total.get(key) or 0.0) + value
    return total
