"""Differences between methods on a pool, and how small ones it can show: the tables."""

from __future__ import annotations

from typing import Any

from ssd_bench.report.sheet import Cell, Sheet

LINES = {  # of the table: heading, decimals
    "auc": ("U-LiRA, AUC", 3),
    "tpr_1": ("U-LiRA, true positives at 1 % (points)", 1),
    "ruli_privacy_auc": ("RULI privacy, AUC", 3),
    "ruli_efficacy_auc": ("RULI efficacy, AUC", 3),
    "leaking": ("samples that leak (points)", 1),
}
POWER = {  # heading, decimals
    "original_auc": ("original: AUC", 3),
    "original_tpr_1": ("at 1 %", 1),
    "original_tpr_01": ("at 0.1 %", 1),
    "sd_auc_one": ("sd of AUC", 4),
    "detectable_auc": ("seen: AUC", 3),
    "detectable_tpr_1": ("at 1 %", 1),
    "detectable_tpr_01": ("at 0.1 %", 1),
    "detectable_auc_one_target": ("one target: AUC", 3),
    "detectable_tpr_1_one_target": ("at 1 %", 1),
}
MARK = "*"


def sheet_of(title: str, rows: list[dict[str, Any]], labels: list[str]) -> Sheet | None:
    """Each method less retrained models, the first method and its own placebo; None where there is no difference.

    labels: of the lines, in order.
    """
    methods = [label for label in labels if label not in ("original", "retrained") and ", placebo" not in label]
    known = {(row["number"], row["method"], row["less"]): row for row in rows}
    numbers = [number for number in LINES if any(row["number"] == number for row in rows)]
    sheet = Sheet(f"{title}: differences", [LINES[number][0] for number in numbers], first="")
    for method in methods:
        others = {less: less for less in ("retrained", *methods[:1])} | {"its placebo": f"{method}, placebo"}
        for less, label in others.items():
            found = [known.get((number, method, label)) for number in numbers]
            if any(found):
                cells = [Cell(shown(row, LINES[number][1])) for number, row in zip(numbers, found, strict=True)]
                sheet.lines.append((f"{method}, less {less}", cells))
    sheet.notes = [
        f"[95 % interval from the same resamples of both]; {MARK}: it excludes 0; all pairs: differences.csv"
    ]
    return sheet if sheet.lines else None


def shown(row: dict[str, Any] | None, decimals: int) -> str:
    """A difference with its interval."""
    if row is None:
        return ""
    value, low, high = (f"{row[key]:+.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]{MARK if row['excludes_0'] else ''}"


def power_sheet(title: str, found: dict[str, Any]) -> Sheet:
    """What so many models can show."""
    heading = (
        f"{title}: what so many models can show, {found['one']} less {found['other']}, {found['samples']:,} images"
    )
    sheet = Sheet(heading, [of for of, _ in POWER.values()], first="models")
    for row in found["rows"]:
        cells = ["-" if row[name] is None else f"{row[name]:.{decimals}f}" for name, (_, decimals) in POWER.items()]
        sheet.lines.append((str(row["models"]), [Cell(text) for text in cells]))
    sheet.notes = [
        f"seen: a difference that is told from none in 80 % of cases (2.8 standard errors); sd: {found['one']}'s",
        "one target: by the attack on one model alone; -: too few cases; U-LiRA, pairs drawn from this pool's own",
    ]
    return sheet
