"""Sheets to text: on the terminal, in markdown and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ssd_bench.core import console
from ssd_bench.report.sheet import Sheet, main_sheet, sheets
from ssd_bench.report.summary import Summary
from ssd_bench.report.verdict import verdict

BETWEEN = 3  # characters from a column to the next


def show(summaries: list[Summary], whole: bool = False) -> None:
    """Print the main table of each of these tasks to stdout, and if `whole`, the table of distances.

    With a retrained model among them, one line says what follows.
    """
    out = console.stdout()
    for summary in summaries:
        for sheet in sheets(summary) if whole else [main_sheet(summary)]:
            print_sheet(sheet)
        if summary.retrained and (summary.methods or summary.controls):
            out.print(Text(f"  {verdict(summary)}"), soft_wrap=True)


def print_sheet(sheet: Sheet) -> None:
    """Print one table with its notes to stdout."""
    out = console.stdout()
    out.print(Text(sheet.title, style="bold"), soft_wrap=True)  # as Text, brackets in a class's name are no markup
    for part in in_parts(sheet, out.width):
        out.print(_for_terminal(part, out.width))
    for note in sheet.notes:
        out.print(Text(f"  {note}", style="dim"))


def in_parts(sheet: Sheet, width: int) -> list[Sheet]:
    """The same table as parts of at most this many characters a line, each with the lines' labels: no number is cut."""
    room = width - _labels(sheet)
    parts: list[list[int]] = [[]]
    left = room
    for i, needed in enumerate(_widths(sheet)):
        if parts[-1] and needed > left:
            parts.append([])
            left = room
        parts[-1].append(i)
        left -= needed
    return [
        replace(
            sheet,
            headings=[sheet.headings[i] for i in part],
            lines=[(label, [cells[i] for i in part]) for label, cells in sheet.lines],
        )
        for part in parts
    ]


def _labels(sheet: Sheet) -> int:
    """What the column of labels takes, and the frame."""
    return max(map(cell_len, [sheet.first, *(label for label, _ in sheet.lines)])) + 2 * BETWEEN


def _widths(sheet: Sheet) -> list[int]:
    """What each column takes at least: its widest number, or the longest word of its heading."""
    columns = zip(*(cells for _, cells in sheet.lines), strict=True) if sheet.lines else ([] for _ in sheet.headings)
    return [
        BETWEEN + max(map(cell_len, [*heading.split(), *(cell.text for cell in cells)]))
        for heading, cells in zip(sheet.headings, columns, strict=True)
    ]


def _for_terminal(sheet: Sheet, width: int) -> Table:
    """Every column as wide as its numbers; what is left of this width keeps headings on one line, from the left."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(sheet.first, no_wrap=True)
    widths = _widths(sheet)
    spare = max(0, width - _labels(sheet) - sum(widths))
    for heading, needed in zip(sheet.headings, widths, strict=True):
        wider = min(spare, max(0, cell_len(heading) + BETWEEN - needed))
        spare -= wider
        table.add_column(Text(heading), justify="right", width=needed + wider - BETWEEN)
    for i, (label, cells) in enumerate(sheet.lines):
        if i == sheet.rule:
            table.add_section()
        table.add_row(Text(label), *(Text(c.text, style={1: "bold", 2: "underline"}.get(c.best, "")) for c in cells))
    return table


def markdown(summaries: list[Summary]) -> str:
    """The tables of these tasks in markdown."""
    return in_markdown(sheet for summary in summaries for sheet in sheets(summary))


def in_markdown(tables: Iterable[Sheet]) -> str:
    """Sheets in markdown; best in bold, second best in italics."""
    parts = []
    for sheet in tables:
        lines = [[sheet.first, *sheet.headings], ["---", *["---:"] * len(sheet.headings)]]
        lines += [
            [label, *(f"{_STARS.get(c.best, '')}{c.text}{_STARS.get(c.best, '')}" for c in cells)]
            for label, cells in sheet.lines
        ]
        parts.append(f"**{sheet.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts.append("\n".join(f"- {note}" for note in sheet.notes))
    return "\n\n".join(filter(None, parts)) + "\n"


_STARS = {1: "**", 2: "*"}


def latex(summaries: list[Summary]) -> str:
    """A document that compiles as it is; each table between its `begin` and `end` can be taken out of it."""
    parts = [
        "% Needs booktabs and graphicx. Best in bold, second best underlined.",
        r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\usepackage[margin=2cm]{geometry}",
        r"\begin{document}",
    ]  # fmt: skip
    for sheet in (sheet for summary in summaries for sheet in sheets(summary)):
        body = [" & ".join(map(tex, ["method", *sheet.headings])) + r" \\", r"\midrule"]
        for i, (label, cells) in enumerate(sheet.lines):
            body += [r"\midrule"] if i == sheet.rule else []
            shown = [_TEX.get(c.best, "{}").replace("{}", tex(c.text), 1) for c in cells]
            body.append(" & ".join([tex(label), *shown]) + r" \\")
        parts += [
            "", r"\begin{table}", r"\centering", rf"\caption{{{tex(sheet.title)}. {tex(' '.join(sheet.notes))}}}",
            r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{l{'r' * len(sheet.headings)}}}", r"\toprule",
            *body, r"\bottomrule", r"\end{tabular}}", r"\end{table}",
        ]  # fmt: skip
    return "\n".join([*parts, "", r"\end{document}"]) + "\n"


_TEX = {1: r"\textbf{{}}", 2: r"\underline{{}}"}
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "≈": r"$\approx$", "°": r"$^\circ$",
    "|": r"$|$", "‖": r"$\parallel$",
}  # fmt: skip


def tex(text: str) -> str:
    """Text with LaTeX's own characters escaped; sets such as D'_f become maths."""
    maths = re.split(r"(\bD'?(?:_[rf])?(?![\w]))", text)
    return "".join(f"${part}$" if i % 2 else "".join(_ESCAPES.get(c, c) for c in part) for i, part in enumerate(maths))
