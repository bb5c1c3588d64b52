"""Summaries to tables: on the terminal, in markdown and in LaTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rich import box
from rich.table import Table
from rich.text import Text

from ssd_bench.core import console
from ssd_bench.report.summary import ABOUT, FLOOR, ORIGINAL, Line, Summary, summarise
from ssd_bench.store.rows import METRICS, Row

MAIN = (  # key of the metric, heading, decimals
    ("retain_acc", "retain D'_r %", 2),
    ("forget_acc", "forget D'_f %", 2),
    ("test_acc", "test D' %", 2),
    ("retain_train_acc", "retain D_r %", 2),
    ("forget_train_acc", "forget D_f %", 2),
    ("mia", "MIA %", 2),
    ("zrf", "ZRF", 3),
    ("cost_s", "time s", 2),
    ("average_gap", "gap", 2),
)
AGAINST = (
    ("mia_auc", "MIA's AUC", 3),
    ("population_auc", "loss AUC", 3),
    ("population_tpr1", "TPR at 1 % FPR %", 1),
    ("js_forget", "JS D'_f", 3),
    ("js_retain", "JS D'_r", 3),
    ("agreement_forget", "agree D'_f %", 1),
    ("agreement_retain", "agree D'_r %", 1),
    ("distance_forget", "L2 D'_f", 3),
    ("layer_distance", "L2 of weights", 2),
    ("tow", "ToW", 3),
)
INTERVALS = ("population_auc", "population_tpr1")  # bootstrap intervals of one seed are `*_low` and `*_high`


@dataclass(frozen=True)
class Cell:
    """text: the number; best: 1 or 2 where it is among the two nearest to the ideal."""

    text: str
    best: int | None = None


@dataclass
class Sheet:
    """One table, ready to be written in any format."""

    title: str
    headings: list[str]
    lines: list[tuple[str, list[Cell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def show(rows: list[Row], derived: dict[str, dict[str, float | None]], whole: bool = False) -> None:
    """Print the main table of each task among these rows to stdout, and if `whole`, the table of distances."""
    out = console.stdout()
    for summary in summarise(rows, derived):
        for sheet in sheets(summary) if whole else [main_sheet(summary)]:
            table = Table(title=sheet.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
            table.add_column("method", no_wrap=True)
            for heading in sheet.headings:
                table.add_column(heading, justify="right")
            for label, cells in sheet.lines:
                table.add_row(label, *(Text(c.text, style={1: "bold", 2: "underline"}.get(c.best, "")) for c in cells))
            out.print(table)
            for note in sheet.notes:
                out.print(Text(f"  {note}", style="dim"))


def markdown(summaries: list[Summary]) -> str:
    """The tables in markdown; best in bold, second best in italics."""
    parts = []
    for sheet in (sheet for summary in summaries for sheet in sheets(summary)):
        lines = [["method", *sheet.headings], ["---", *["---:"] * len(sheet.headings)]]
        lines += [
            [label, *(f"{_STARS.get(c.best, '')}{c.text}{_STARS.get(c.best, '')}" for c in cells)]
            for label, cells in sheet.lines
        ]
        parts.append(f"**{sheet.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts.append("\n".join(f"- {note}" for note in sheet.notes))
    return "\n\n".join(parts) + "\n"


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
        for label, cells in sheet.lines:
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
    "|": r"$|$",
}  # fmt: skip


def tex(text: str) -> str:
    """Text with LaTeX's own characters escaped; sets such as D'_f become maths."""
    maths = re.split(r"(\bD'?(?:_[rf])?(?![\w]))", text)
    return "".join(f"${part}$" if i % 2 else "".join(_ESCAPES.get(c, c) for c in part) for i, part in enumerate(maths))


def sheets(summary: Summary) -> list[Sheet]:
    """The main table of a task, and where there is something to show, the attacks and distances."""
    main = main_sheet(summary)
    own = [(name, name, 3) for name in _own_metrics(summary)]
    columns = _columns(summary, (*AGAINST, *own))
    if not columns:
        return [main]
    against = _sheet(summary, f"{summary.title}: attacks, and distances to the retrained model", columns, floor=True)
    against.notes = [*_against_notes(summary), *_marks(summary, against)]
    return [main, against]


def main_sheet(summary: Summary) -> Sheet:
    """Accuracies, the paper's attack, ZRF, time and the gap to the retrained model."""
    main = _sheet(summary, summary.title, _columns(summary, MAIN))
    main.notes = [*_main_notes(summary), *_marks(summary, main), *_ended(summary)]
    return main


def _columns(summary: Summary, columns: tuple[tuple[str, str, int], ...]) -> list[tuple[str, str, int]]:
    return [column for column in columns if any(line.values.get(column[0]) for line in summary.lines)]


def _own_metrics(summary: Summary) -> list[str]:
    """Metrics that are not the package's."""
    known = {*METRICS, *ABOUT, *(f"{name}{end}" for name in INTERVALS for end in ("_low", "_high"))}
    return sorted({name for row in summary.rows for name in row["metrics"]} - known)


def _sheet(summary: Summary, title: str, columns: list[tuple[str, str, int]], floor: bool = False) -> Sheet:
    ranks = {name: summary.ranks(name, decimals) for name, _, decimals in columns}
    lines = []
    for line in summary.lines:
        if line.label == FLOOR and not floor:
            continue
        if not line.values:
            ended = ", ".join(line.ended)
            lines.append((line.label, [Cell(ended), *[Cell("")] * (len(columns) - 1)]))
            continue
        cells = [Cell(_text(summary, line, name, d), ranks[name].get(line.label)) for name, _, d in columns]
        lines.append((line.label, cells))
    return Sheet(title, [heading for _, heading, _ in columns], lines)


def _text(summary: Summary, line: Line, name: str, decimals: int) -> str:
    value, std = line.mean(name), line.std(name)
    if value is None:
        return "-"
    text = f"{value:.{decimals}f}"
    if std is not None:
        text += f" ± {std:.{decimals}f}"
    elif name in INTERVALS and (low := line.mean(f"{name}_low")) is not None:
        text += f" [{low:.{decimals}f}, {line.mean(f'{name}_high'):.{decimals}f}]"
    if summary.few(name) and line.label != FLOOR:
        text += " °"
    if summary.told_apart(line, name) is False and line.label != ORIGINAL:
        text += " ≈"
    return text


def _main_notes(summary: Summary) -> list[str]:
    task, seeds = summary.task, len(summary.seeds)
    spread = f"mean ± standard deviation over {seeds} training seeds" if seeds > 1 else "one seed, so no error bar"
    notes = [
        f"{task['n_train']} training images, {task['n_forget']} to forget, {task['n_test']} test images; {spread}. "
        "D': test images, D: training images; r: retained, f: to forget.",
        f"MIA: share of D_f that the paper's attack calls a member{_attack_worth(summary)}. time: the method, with the "
        "importance of D where it needs one.",
    ]
    drawn, whole = summary.samples.get("retain_train"), task["n_train"] - (0 if task["placebo"] else task["n_forget"])
    if drawn is not None and drawn < whole:
        error = 50 * ((1 - drawn / whole) / drawn) ** 0.5
        notes.append(
            f"D_r: {drawn} of {whole} images, drawn at random; standard error of its accuracy: {error:.1f} or less."
        )
    if not summary.retrained:
        notes.append("What is ideal is what a model says that never saw D_f: add method=retrain to this table.")
    elif any(line.values.get("average_gap") for line in summary.lines):
        notes.append(
            "gap: mean distance to the retrained model in accuracy on D_f, D_r and unseen data and in MIA (points; 0 "
            "is ideal)."
        )
    return notes


def _attack_worth(summary: Summary) -> str:
    auc = summary.line(ORIGINAL) and summary.line(ORIGINAL).mean("mia_auc")
    return f" (its own AUC on the original: {auc:.2f}; at 0.5 it attacks nothing)" if auc is not None else ""


def _against_notes(summary: Summary) -> list[str]:
    notes = [
        "MIA's AUC: how well the paper's attack tells D_r from D' on halves it was not fitted to (0.5: not at all, and "
        "MIA says nothing). loss AUC, TPR: an attack on the loss, D_f against unseen images of the same classes"
        + ("." if len(summary.seeds) > 1 else "; brackets: 95 % bootstrap interval.")
    ]
    if summary.retrained:
        notes.append(
            "JS (bits), agreement of predictions, L2 of probabilities and of weights, ToW: against the retrained model "
            "of the same seed."
        )
        if summary.line(FLOOR):
            notes.append(f"{FLOOR}: how far retrained models are apart; below that nothing can be told from chance.")
        else:
            notes.append("No floor under the distances: it takes retrained models of two seeds.")
    return notes


def _marks(summary: Summary, sheet: Sheet) -> list[str]:
    """What the marks in a sheet mean, if they are in it."""
    cells = [cell for _, cells in sheet.lines for cell in cells]
    notes = []
    if any(cell.best for cell in cells):
        notes.append(
            "Bold, then underlined or in italics: the two methods nearest to the ideal, which is the retrained model's "
            "value; of distances and times 0, of agreement 100, of ToW 1."
        )
    if any("≈" in cell.text for cell in cells):
        notes.append(
            "≈: these seeds do not tell it from the retrained model (95 % t-interval of the paired differences)."
        )
    if any("°" in cell.text for cell in cells):
        sizes = ", ".join(f"{_SET_NAMES[name]} {n}" for name, n in summary.samples.items())
        notes.append(f"°: rests on fewer images than it takes to mean something ({sizes}).")
    return notes


_SET_NAMES = {"retain": "D'_r", "forget": "D'_f", "test": "D'", "retain_train": "D_r", "forget_train": "D_f"}


def _ended(summary: Summary) -> list[str]:
    """What is missing, and why."""
    notes = []
    if summary.outdated:
        notes.append(
            f"Left out: {summary.outdated} older rows with the same method, settings and seeds as a newer one."
        )
    for line in summary.lines:
        for status in line.ended:
            reasons = sorted({row["reason"] for row in line.rows if row["status"] == status})
            seeds = f" (seeds {', '.join(map(str, sorted(line.ended[status])))})" if len(summary.seeds) > 1 else ""
            notes.append(f"{line.label}: {status}{seeds}, {'; '.join(reasons)}")
        missing = [s for s in summary.seeds if not any(row["task"]["seed"] == s for row in line.rows)]
        if missing and line.label not in (ORIGINAL, FLOOR):
            so = "; gap and distances are over the other seeds alone" if line is summary.retrained else ""
            notes.append(f"{line.label}: not run for seed {', '.join(map(str, missing))}{so}.")
    return notes
