"""Summaries to sheets: the cells of a table with their marks and ranks, ready to be written in any format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ssd_bench.core.about import About
from ssd_bench.report.columns import BOUNDS
from ssd_bench.report.notes import (
    BESIDE_OTHERS,
    EQUAL,
    FEW,
    UNDECIDED,
    main_notes,
    meaning_of_marks,
    second_notes,
    what_is_missing,
)
from ssd_bench.report.statistics import State
from ssd_bench.report.summary import FLOOR, Line, Summary

MARKS = {State.EQUAL: EQUAL, State.UNDECIDED: UNDECIDED}


@dataclass(frozen=True)
class Cell:
    """text: the number and its marks; best: 1 or 2 where it is among the two nearest to the ideal."""

    text: str
    best: int | None = None
    marks: str = ""


@dataclass
class Sheet:
    """One table, ready to be written in any format."""

    title: str
    headings: list[str]
    lines: list[tuple[str, list[Cell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first: str = "method"  # heading of the lines' labels
    rule: int | None = None  # the line before which one is drawn: what follows does not compete

    @property
    def marks(self) -> set[str]:
        """The marks that stand in it."""
        return {mark for _, cells in self.lines for cell in cells for mark in cell.marks}

    @property
    def ranked(self) -> bool:
        """Whether a best cell is marked."""
        return any(cell.best for _, cells in self.lines for cell in cells)


def sheets(summary: Summary) -> list[Sheet]:
    """The main table of a task, and where there is something to show, the attacks and distances."""
    main = main_sheet(summary)
    names = _shown(summary, "second")
    if not names:
        return [main]
    second = _sheet(summary, f"{summary.title}: attacks, and distances to the retrained model", names)
    second.notes = [*second_notes(summary, names), *meaning_of_marks(summary, names, second.marks, second.ranked)]
    return [main, second]


def main_sheet(summary: Summary) -> Sheet:
    """Accuracies, the paper's attack, ZRF, time and the gap to the retrained model; and metrics that ask for it."""
    names = _shown(summary, "main")
    main = _sheet(summary, summary.title, names)
    marks = meaning_of_marks(summary, names, main.marks, main.ranked)
    main.notes = [*main_notes(summary, names), *marks, *what_is_missing(summary)]
    return main


def shown_columns(summary: Summary) -> dict[str, About]:
    """The columns of its tables, by heading."""
    names = [name for table in ("main", "second") for name in _shown(summary, table)]
    return {summary.columns[name].heading or name: summary.columns[name] for name in names}


def _shown(summary: Summary, table: str) -> list[str]:
    """The columns of a table that have a number."""
    known = [name for name, about in summary.columns.items() if about.table == table]
    return [name for name in known if any(line.values.get(name) for line in summary.lines)]


def _sheet(summary: Summary, title: str, names: list[str]) -> Sheet:
    ranks, states = {name: summary.ranks(name) for name in names}, summary.states(names)
    sheet = Sheet(title, [summary.columns[name].heading or name for name in names] or ["ended"])
    for line in summary.lines:
        if line.method in summary.hidden:
            continue
        if line.control and sheet.rule is None:
            floor = bool(sheet.lines) and sheet.lines[-1][0] == FLOOR
            sheet.rule = len(sheet.lines) - floor
        if line.values:
            cells = [_cell(summary, line, name, ranks[name].get(line.label), states) for name in names] or [Cell("")]
            if line.label != FLOOR or any(line.values.get(name) for name in names):
                sheet.lines.append((line.label, cells))
        else:
            sheet.lines.append((line.label, [Cell(", ".join(line.ended)), *[Cell("")] * (len(names) - 1)]))
    return sheet


def _cell(summary: Summary, line: Line, name: str, best: int | None, states: Mapping[tuple[str, str], State]) -> Cell:
    if line.mean(name) is None:
        return Cell("" if line.label == FLOOR else "-")
    marks = [
        FEW if summary.few(name) and line.label != FLOOR else "",
        MARKS.get(states.get((line.label, name)), ""),
        BESIDE_OTHERS if summary.columns[name].unit == "seconds" and line.beside_others else "",
    ]
    return Cell(" ".join(filter(None, [_number(summary, line, name), *marks])), best, "".join(marks))


def _number(summary: Summary, line: Line, name: str) -> str:
    """The mean, and its standard deviation over seeds; of one seed the interval, where the metric has one."""
    decimals, std = summary.columns[name].decimals, line.std(name)
    text = f"{line.mean(name):.{decimals}f}"
    if std is not None:
        return f"{text} ± {std:.{decimals}f}"
    low, high = (line.mean(f"{name}{end}") for end in BOUNDS)
    return text if low is None or high is None else f"{text} [{low:.{decimals}f}, {high:.{decimals}f}]"
