"""The table of each task: the original, the retrained model, then every method that is finished."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ssd_bench import console
from ssd_bench.metrics.against import average_gap
from ssd_bench.results import Row, by_task, cost_s, label, reference, varying_settings

COLUMNS = (  # heading, key of the metric, decimals
    ("retain D'_r %", "retain_acc", 2),
    ("forget D'_f %", "forget_acc", 2),
    ("test D' %", "test_acc", 2),
    ("retain D_r %", "retain_train_acc", 2),
    ("forget D_f %", "forget_train_acc", 2),
    ("MIA %", "mia", 2),
    ("ZRF", "zrf", 3),
)


def show(rows: list[Row]) -> None:
    """Print the table of each task among these rows to stdout."""
    out = console.stdout()
    for of_task in by_task(rows):
        headings, lines = cells(of_task)
        table = Table(title=title(of_task), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for i, heading in enumerate(headings):
            table.add_column(heading, justify="right" if i else "left", no_wrap=not i)
        for line in lines:
            table.add_row(*line)
        out.print(table)
        for note in notes(of_task):
            out.print(Text(f"  {note}", style="dim"))


def markdown(rows: list[Row]) -> str:
    """The same tables in markdown."""
    parts = []
    for of_task in by_task(rows):
        headings, lines = cells(of_task)
        body = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
        parts.append(f"**{title(of_task)}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in body))
        parts.append("\n".join(f"- {note}" for note in notes(of_task)))
    return "\n\n".join(parts) + "\n"


def cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the table of one task: the original, the retrained model, then the methods by name."""
    retrained, varying, scenario = reference(rows), varying_settings(rows), rows[0]["task"]["scenario"]
    headings = ["method", *(heading for heading, _, _ in COLUMNS), "time s", *(["gap"] if retrained else [])]

    def line(name: str, metrics: dict[str, Any], seconds: float | None) -> list[str]:
        gap = [_number(average_gap(metrics, retrained["metrics"], scenario), 2)] if retrained else []
        return [name, *(_number(metrics.get(key), d) for _, key, d in COLUMNS), _number(seconds, 2), *gap]

    lines = [line("original", r["original_metrics"], None) for r in rows if r["original_metrics"]][:1]
    for row in sorted(rows, key=lambda r: (r["method"] != "retrain", label(r, varying))):
        if row["status"] != "done":
            lines.append([label(row, varying), row["status"], *[""] * (len(headings) - 2)])
        elif row["method"] != "original":
            lines.append(line(label(row, varying), row["metrics"], cost_s(row)))
    return headings, lines


def title(rows: list[Row]) -> str:
    """What the table of one task is about."""
    task = rows[0]["task"]
    what = f"forget {task['target']}" if task["target"] is not None else f"forget {task['n_forget']} images"
    placebo = " (placebo: never trained on)" if task["placebo"] else ""
    return (
        f"{task['data']}, {task['model']}, {task['scenario']}: {what}{placebo}, seed {task['seed']}, "
        f"fidelity {task['fidelity']}"
    )


def notes(rows: list[Row]) -> list[str]:
    """What a reader must know about the table of one task."""
    task = rows[0]["task"]
    said = [
        f"{task['n_train']} training images, {task['n_forget']} to forget, {task['n_test']} test images; one seed, so "
        "no error bar. D': test images, D: training images; r: retained, f: to forget.",
        "MIA: share of D_f that the paper's attack calls a member. time: the method, with the importance of D where it "
        "needs one.",
    ]
    if reference(rows):
        said.append(
            "gap: mean distance to the retrained model in accuracy on D_f, D_r and unseen data and in MIA (points; 0 "
            "is ideal)."
        )
    else:
        said.append("What is ideal is what a model says that never saw D_f: add method=retrain to this table.")
    said += [f"{row['method']}: {row['status']}, {row['reason']}" for row in rows if row["reason"]]
    return said


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
