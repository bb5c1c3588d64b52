"""How well methods have forgotten a target, for the command line: the tables."""

from __future__ import annotations

from typing import Any

from ssd_bench.cli.judge import verdict
from ssd_bench.report.sheet import Cell, Sheet

TABLES = {  # what follows the title -> columns: heading, decimals, ideal ("": a floor or ceiling that was measured)
    "can it be told who was trained on them?": {
        "auc": ("U-LiRA, AUC", 3, "0.5"),
        "tpr_1": ("U-LiRA, true positives at 1 % false ones (%)", 1, "1"),
        "tpr_01": ("U-LiRA, true positives at 0.1 % false ones (%)", 1, "0.1"),
        "ruli_privacy_auc": ("RULI privacy, AUC", 3, "0.5"),
        "ruli_privacy_tpr_1": ("RULI privacy, true positives at 1 % false ones (%)", 1, "1"),
        "ruli_efficacy_auc": ("RULI efficacy, AUC", 3, "0.5"),
        "ruli_efficacy_tpr_1": ("RULI efficacy, true positives at 1 % false ones (%)", 1, "1"),
    },
    "image by image, and accuracies": {
        "leaking": ("samples that leak (%)", 1, "0"),
        "worse": ("samples that leak more than before (%)", 1, "0"),
        "worst_auc": ("the worst 5 %, AUC", 3, "0.5"),
        "accuracy_forgotten": ("accuracy, forgotten (%)", 2, "retrained"),
        "accuracy_never": ("accuracy, never held (%)", 2, "original"),
        "accuracy_test": ("accuracy, test images (%)", 2, "original"),
        "seconds": ("seconds a request", 2, ""),
    },
    "distances to models that never held them": {
        "klom": ("KLoM, forgotten (nats)", 3, ""),
        "klom_p95": ("KLoM, forgotten, 95th percentile (nats)", 3, ""),
        "klom_test": ("KLoM, test images (nats)", 3, ""),
        "klom_test_p95": ("KLoM, test images, 95th percentile (nats)", 3, ""),
        "klom_others": ("KLoM, not to be forgotten (nats)", 3, ""),
        "klom_others_p95": ("KLoM, not to be forgotten, 95th percentile (nats)", 3, ""),
        "gaussian_kl": ("Gaussian KL, forgotten (nats)", 3, ""),
        "gaussian_kl_test": ("Gaussian KL, test images (nats)", 3, ""),
        "gaussian_kl_others": ("Gaussian KL, not to be forgotten (nats)", 3, ""),
        "quality": ("forgetting quality", 3, ""),
    },
    "the single samples that were not to be forgotten": {
        "others_auc": ("U-LiRA, AUC", 3, "original"),
        "others_tpr_1": ("U-LiRA, true positives at 1 % false ones (%)", 1, "original"),
        "others_leaking": ("samples that leak (%)", 1, "original"),
        "others_worse": ("samples that leak more than before (%)", 1, "0"),
        "others_worst_auc": ("the worst 5 %, AUC", 3, "original"),
    },
}


def sheets_of(pool: Any, name: str, report: dict[str, Any], gate: dict[str, Any]) -> list[Sheet]:
    """The tables of a target: a line a method, a last one with the ideals."""
    numbers, names = report["numbers"], pool.bench.plan.names
    warned = "" if gate["passed"] else "NOT TO BE RELIED ON, the originals do not leak enough: "
    title = (
        f"{warned}{names['data']}, {names['model']}: {report['samples']:,} images ({name}), {pool.asked.size} models"
    )
    brought = {
        name: (about.heading or name, about.decimals, about.ideal)
        for metric in pool.metrics.values()
        for name, about in metric.about.items()
    }
    found = []
    for what, columns in {**TABLES, "metrics that were brought along": brought}.items():
        part = {column: about for column, about in columns.items() if _said(report, column)}  # notes say why not
        if not part:
            continue
        sheet = Sheet(f"{title}: {what}", [heading for heading, _, _ in part.values()])
        for label in numbers:
            cells = [_cell(report, label, column, decimals) for column, (_, decimals, _) in part.items()]
            sheet.lines.append((label, [Cell(text) for text in cells]))
        ideals = [_ideal(report, column, decimals, ideal) for column, (_, decimals, ideal) in part.items()]
        sheet.lines.append(("ideal", [Cell(text) for text in ideals]))
        found.append(sheet)
    found = found or [Sheet(title, [])]
    why = {of["reason"]: None for line in numbers.values() for of in line.values() if "reason" in of}
    found[0].notes = [
        "[95 % interval over pairs of models and samples]; attacks: each model by all others of its set but its twin",
        "retrained: models that never held an image against others of them, half of the pairs each",
        *(f"-: {reason}" for reason in why),
        *(f"not in the table: {reason}" for reason in report["missing"]),
        *([] if gate["passed"] else [verdict(gate)]),
    ]
    return found


def _said(report: dict[str, Any], column: str) -> bool:
    """Whether any line has this number."""
    if column == "seconds":
        return bool(report["seconds"])
    return any(of[column]["value"] is not None for of in report["numbers"].values() if column in of)


def _cell(report: dict[str, Any], label: str, column: str, decimals: int) -> str:
    if column == "seconds":
        return f"{report['seconds'][label]:.{decimals}f}" if label in report["seconds"] else ""
    return shown(report["numbers"][label].get(column), decimals)


def _ideal(report: dict[str, Any], column: str, decimals: int, ideal: str) -> str:
    of_line = (of.get(column) for of in report["numbers"].values())
    floors = {shown_floor(of, decimals) for of in of_line if of and "ideal" in of}
    return ideal or " ".join(floors)


def shown_floor(number: dict[str, Any], decimals: int) -> str:
    """What retrained models reach, in groups of the same size."""
    return f"{number['ideal']:.{decimals}f} ({number['a_side']} a side)"


def shown(number: dict[str, Any] | None, decimals: int) -> str:
    """A number with its interval."""
    if number is None:
        return ""
    if number["value"] is None:
        return "-"
    value, low, high = (f"{number[key]:.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
