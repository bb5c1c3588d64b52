"""What is drawn of a summary, as data.

Colours are Okabe and Ito's, which colour-blind readers can tell apart too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssd_bench.report.rows import REFERENCES
from ssd_bench.report.summary import FLOOR, ORIGINAL, Line, Summary

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#A6761D")
SYMBOLS = ("s", "D", "^", "v", "P", "X", "<", ">")  # as matplotlib names them
PLOTS = {  # title, x, y
    "trade_off": ("Forget and retain", "forget_acc", "retain_acc"),
    "attack": ("Attack", "mia", "retain_acc"),
    "times": ("Time", "cost_s", ""),
}


@dataclass(frozen=True)
class Plot:
    """Lines of a table as points over two metrics, or where y is empty, as bars along a logarithmic axis."""

    name: str
    title: str
    x: str  # names of metrics
    y: str
    lines: list[Line]


FAR = 1.0  # of the width of a picture: how far outside a control may lie and still be drawn


def plots(summary: Summary) -> Iterator[Plot]:
    """The trade-off, the paper's attack and the times, as far as there are two lines with the numbers."""
    for name, (title, x, y) in PLOTS.items():
        lines = [line for line in shown(summary) if line.mean(x) is not None and (not y or line.mean(y) is not None)]
        if not y:  # a logarithmic axis has no place for 0
            lines = sorted((line for line in lines if line.mean(x)), key=lambda line: line.mean(x))
        lines = [line for line in lines if not (y and line.control and _far(line, lines, (x, y)))]
        if len(lines) > 1:
            yield Plot(name, title, x, y, lines)


def _far(control: Line, lines: list[Line], axes: tuple[str, str]) -> bool:
    """Whether a control, such as random weights, lies so far out that it would hide how the others differ."""
    for name in axes:
        others = [line.mean(name) for line in lines if not line.control]
        low, high, value = min(others, default=0), max(others, default=0), control.mean(name)
        if max(low - value, value - high) > FAR * (high - low):
            return True
    return False


def heading(summary: Summary, name: str) -> str:
    """What an axis is called: as the column of the table; nothing where there is no metric."""
    return summary.columns[name].heading or name if name else ""


def style(summary: Summary, line: Line) -> tuple[str, str]:
    """Colour and symbol of a line in every picture: black for the retrained model, grey for other controls."""
    if line.label in (ORIGINAL, FLOOR):
        return "#777777", "o"
    if line is summary.retrained:
        return "#000000", "*"
    if line.method in REFERENCES:  # retrained, but not what the others are compared with
        return "#777777", "*"
    if line.control:
        place = [other.label for other in summary.controls].index(line.label)
        return "#777777", SYMBOLS[place % len(SYMBOLS)]
    place = [other.label for other in shown(summary) if other in summary.methods].index(line.label)
    return COLOURS[place % len(COLOURS)], SYMBOLS[(place + place // len(COLOURS)) % len(SYMBOLS)]


def shown(summary: Summary) -> list[Line]:
    """The lines that a picture has room for: where a setting was swept, one of each method."""
    methods = summary.methods
    if len(methods) > len(COLOURS):
        first: dict[str, Line] = {}
        for line in methods:
            first.setdefault(line.method, line)
        methods = list(first.values()) if len(first) > 1 else []
    return [
        line
        for line in (summary.line(ORIGINAL), summary.retrained, *summary.controls, *methods)
        if line and line.values
    ]
