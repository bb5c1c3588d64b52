"""What is drawn of a sequence of requests: how each method fares after each of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, stdev

from ssd_bench.metrics.against import gap_after
from ssd_bench.report.figures import shown
from ssd_bench.report.summary import FLOOR, Line, Summary

PANELS = {  # value after a request -> title
    "gap": "gap, points",
    "forgotten_acc": "forgotten so far, %",
    "kept_acc": "kept, %",
}


@dataclass(frozen=True)
class Curve:
    """A line of the table after one request after the other: means over training seeds, and their spread."""

    line: Line
    means: list[float]
    spreads: list[float]


def curves(summary: Summary) -> dict[str, list[Curve]]:
    """By panel (see PANELS): the curves of all lines that have the numbers; empty where nothing came in sequence."""
    count = summary.task.get("requests", 0)
    lines = [*shown(summary), *([floor] if (floor := summary.line(FLOOR)) else [])]
    found = {name: [_curve(line, name, count) for line in lines] for name in PANELS} if count else {}
    return {name: [curve for curve in of if curve] for name, of in found.items() if any(of)}


def _curve(line: Line, name: str, count: int) -> Curve | None:
    """Of several runs of a training seed the mean counts, as in the table."""
    if name == "gap":
        runs = [(run.seed, [run.values.get(gap_after(k)) for k in range(1, count + 1)]) for run in line.runs]
    else:
        rows = [row for row in line.rows if row.get("metrics_by_request")]
        runs = [(r["task"]["seed"], [step["metrics"].get(name) for step in r["metrics_by_request"]]) for r in rows]
    if not runs or any(value is None for _, values in runs for value in values):
        return None
    of_seed: dict[int, list[list[float]]] = {}
    for seed, values in runs:
        of_seed.setdefault(seed, []).append(values)
    after = list(zip(*([mean(each) for each in zip(*of, strict=True)] for of in of_seed.values()), strict=True))
    return Curve(line, [mean(v) for v in after], [stdev(v) if len(v) > 1 else 0.0 for v in after])
