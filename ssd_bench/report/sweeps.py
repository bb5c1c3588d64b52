"""Pictures of a sweep: what a method keeps, forgets and shows of itself as one of its settings grows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ssd_bench.report.figures import COLOURS, heading
from ssd_bench.report.summary import ORIGINAL, Line, Summary

LEAST = 3  # values of a setting that make a curve
WIDE = 20  # ratio of the largest to the smallest value from which on an axis is logarithmic
MARKERS = "osD^v"
Curves = dict[str, list[Line]]  # by the other settings: the lines in the order of the swept one


def sweeps(summary: Summary) -> Iterator[tuple[str, Figure]]:
    """By name: a picture for each numeric setting of a method that was run with three values or more."""
    for method in dict.fromkeys(line.method for line in summary.methods):
        lines = [line for line in summary.methods if line.method == method]
        for setting in lines[0].settings:
            curves = _curves(lines, setting)
            if curves:
                yield f"{method}-sweep_{setting}", _sweep(summary, curves, setting)


def _curves(lines: list[Line], setting: str) -> Curves:
    """One for each combination of the other settings in which these lines differ, where it has values enough."""
    lines = [line for line in lines if _is_number(line.settings.get(setting))]
    others = [key for key in (lines[0].settings if lines else ()) if key != setting]
    varying = [key for key in others if len({str(line.settings.get(key)) for line in lines}) > 1]
    curves: Curves = {}
    for line in sorted(lines, key=lambda line: line.settings[setting]):
        curves.setdefault(", ".join(f"{key}={line.settings.get(key)}" for key in varying), []).append(line)
    return {name: each for name, each in sorted(curves.items()) if len(each) >= LEAST}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sweep(summary: Summary, curves: Curves, setting: str) -> Figure:
    """Accuracies above; below, each thing that the method shows of itself under a heading, and what is kept against it.

    Bands are one standard deviation over seeds.
    """
    lines = [line for each in curves.values() for line in each]
    shows = [name for name in lines[0].rows[0].get("columns", ()) if summary.columns[name].heading]
    panels = [(setting, "retain_acc"), (setting, "forget_acc")]
    panels += [panel for name in shows for panel in ((setting, name), (name, "retain_acc"))]
    panels = [panel for panel in panels if any(line.values.get(panel[1]) for line in lines)]
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(8, 0.6 + 2.5 * rows))
    grid = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, (x, y) in zip(grid, panels, strict=False):
        _panel(axes, summary, curves, (x, y), setting)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    named = {name: handle for axes in grid for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=min(4, len(named)), fontsize=8)
    return figure


def _panel(axes: Any, summary: Summary, curves: Curves, of: tuple[str, str], setting: str) -> None:
    x, y = of
    for (name, lines), colour, marker in zip(curves.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        lines = [line for line in lines if line.mean(y) is not None and _at(line, x, setting) is not None]
        along = [_at(line, x, setting) for line in lines]
        middle, spread = (np.array([getattr(line, part)(y) or 0.0 for line in lines]) for part in ("mean", "std"))
        axes.plot(along, middle, color=colour, marker=marker, ms=4, lw=1.2, label=name or lines[0].method)
        axes.fill_between(along, middle - spread, middle + spread, color=colour, alpha=0.15, lw=0)
    for line, dashes in ((summary.line(ORIGINAL), "--"), (summary.retrained, "-.")):
        if line and line.mean(y) is not None:
            axes.axhline(line.mean(y), color="black", lw=0.8, ls=dashes, label=line.label)
    drawn = [line for lines in curves.values() for line in lines]
    axes.set(xlabel=setting if x == setting else heading(summary, x), ylabel=heading(summary, y))
    _scale(axes, "x", [_at(line, x, setting) for line in drawn])
    if x == setting:
        ticks = sorted({_at(line, x, setting) for line in drawn})
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=7)
        axes.minorticks_off()
    if y not in ("retain_acc", "forget_acc"):
        _scale(axes, "y", [line.mean(y) for line in drawn])


def _at(line: Line, x: str, setting: str) -> float | None:
    return line.settings[setting] if x == setting else line.mean(x)


def _scale(axes: Any, axis: str, values: list[float | None]) -> None:
    """Logarithmic where the values span much; 0 has its place at the end of a linear stretch below the smallest."""
    above = [value for value in values if value]
    if not above or min(above) < 0 or max(above) < WIDE * min(above):
        return
    if len(above) == len(values):
        getattr(axes, f"set_{axis}scale")("log")
        return
    least = 10.0 ** math.floor(math.log10(min(above)))
    getattr(axes, f"set_{axis}scale")("symlog", linthresh=least)
    getattr(axes, f"set_{axis}lim")(-least / 5, 2 * max(above))
