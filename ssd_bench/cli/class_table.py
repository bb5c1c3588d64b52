"""A class that models of a pool have forgotten, for the command line: its table."""

from __future__ import annotations

from typing import Any

from ssd_bench.cli.target_table import shown
from ssd_bench.report.sheet import Cell, Sheet

LINES = {  # heading, decimals, ideal
    "accuracy_forget_train": ("accuracy, D_f that was audited (%)", 2, ""),
    "accuracy_retain_train": ("accuracy, D_r that was audited (%)", 2, ""),
    "accuracy_forget": ("accuracy, test images of the class (%)", 2, ""),
    "accuracy_retain": ("accuracy, other test images (%)", 2, ""),
    "gap_forget_train": ("D_f, less the twin (points)", 2, "0"),
    "gap_retain_train": ("D_r, less the twin (points)", 2, "0"),
    "gap_forget": ("test images of the class, less the twin (points)", 2, "0"),
    "gap_retain": ("other test images, less the twin (points)", 2, "0"),
    "tow": ("ToW of mean gaps", 3, "1"),
    "tow_mean": ("mean ToW", 3, "another retrained"),
    "agreement_forget": ("agreement with the twin, test images of the class (%)", 1, "another retrained"),
    "agreement_retain": ("agreement with the twin, other test images (%)", 1, "another retrained"),
    "beyond_floor_forget": ("the same beyond the floor, the class", 3, "0"),
    "beyond_floor_retain": ("the same beyond the floor, others", 3, "0"),
}


def sheet_of(title: str, report: dict[str, Any]) -> Sheet:
    """The table of a class."""
    numbers = report["numbers"]
    sheet = Sheet(f"{title}: a class, {report['models']} models", [*numbers, "ideal"], first="")
    for name, (heading, decimals, ideal) in LINES.items():
        of_line = [of.get(name) for of in numbers.values()]
        if any(of and of["value"] is not None for of in of_line):
            cells = [*(shown(of, decimals) for of in of_line), ideal]
            sheet.lines.append((heading, [Cell(text) for text in cells]))
    seconds = [report["seconds"].get(label) for label in numbers]
    sheet.lines.append(("seconds a request", [Cell("" if s is None else f"{s:.2f}") for s in [*seconds, None]]))
    why = {of["reason"]: None for line in numbers.values() for of in line.values() if "reason" in of}
    sheet.notes = [
        "[95 % interval over pairs of models]; twin: the same model trained without the class",
        "another retrained: half of the twins beside the other half, what seeds and other images alone do",
        *(f"-: {reason}" for reason in why),
        *(f"not in the table: {reason}" for reason in report["missing"]),
    ]
    return sheet
