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
    if name == "gap":
        after = [[run.values.get(gap_after(k)) for run in line.runs] for k in range(1, count + 1)]
    else:
        steps = [row["metrics_by_request"] for row in line.rows if row.get("metrics_by_request")]
        after = [[of_row[k]["metrics"].get(name) for of_row in steps] for k in range(count)]
    if not all(after) or any(value is None for values in after for value in values):
        return None
    return Curve(line, [mean(v) for v in after], [stdev(v) if len(v) > 1 else 0.0 for v in after])
