"""The words under a table: what was measured on what, what the marks mean, what is missing and why."""

from __future__ import annotations

from ssd_bench.core.about import RETRAINED, About
from ssd_bench.metrics.residual import OF, RESIDUAL
from ssd_bench.report.corrective import corrective_notes, is_corrective
from ssd_bench.report.statistics import LEAST_FOR_EQUAL
from ssd_bench.report.summary import FLOOR, ORIGINAL, Summary

FEW, EQUAL, UNDECIDED, BESIDE_OTHERS = "°", "=", "≈", "‖"  # marks behind a number
SET_NAMES = {"retain": "D'_r", "forget": "D'_f", "test": "D'", "retain_train": "D_r", "forget_train": "D_f"}


def in_words(about: About) -> str:
    """What a reader must know to judge a number of this column."""
    ideal = {"": "", RETRAINED: "best: that of the retrained model"}.get(about.ideal, f"best: {about.ideal}")
    valid = f"valid: {about.valid}" if about.valid not in ("", "everywhere") else ""
    rests = ", ".join(SET_NAMES.get(name, name) for name in about.on)
    least = f" (at least {about.least} images)" if about.least > 1 else ""
    return "; ".join(filter(None, [about.unit, ideal, valid, rests and f"rests on {rests}{least}"]))


def main_notes(summary: Summary, names: list[str]) -> list[str]:
    """What the columns of the main table are measured on."""
    task, seeds = summary.task, len(summary.seeds)
    spread = f"mean ± standard deviation over {seeds} training seeds" if seeds > 1 else "one seed, so no error bar"
    notes = [summary.tuning] if summary.methods else []
    notes += [
        f"{task['n_train']} training images, {task['n_forget']} to forget, {task['n_test']} test images; {spread}. "
        "D': test images, D: training images; r: retained, f: to forget."
    ]
    if is_corrective(summary):
        notes += corrective_notes(summary)
    if "mia" in names:
        notes.append(f"MIA: share of D_f that the paper's attack calls members{_attack_worth(summary)}.")
    if "cost_s" in names:
        notes.append("time: of a first request; what later ones reuse is counted in full.")
    if RESIDUAL in names:
        notes.append(
            f"residual: how much of the class is left in the features, by {_read_by(summary)} on D'_f (0: as in the "
            "retrained model; 1: as in the original)."
        )
    return [*notes, *_sampled(summary), *_about_the_gap(summary), *_controls(summary)]


def _read_by(summary: Summary) -> str:
    """Which of probe and prototypes tell the original from the retrained model here, and so make the residual."""
    words = dict(zip(OF, ("a probe", "prototypes"), strict=True))
    used = [name for name in OF if any(line.values.get(f"{RESIDUAL}.{name}") for line in summary.lines)]
    if len(used) != 1:
        return " and by ".join(words.values())
    [other] = words.keys() - used
    return f"{words[used[0]]} alone ({words[other]} could not tell the original from the retrained model)"


def _attack_worth(summary: Summary) -> str:
    auc = summary.line(ORIGINAL) and summary.line(ORIGINAL).mean("mia_auc")
    if auc is None:
        return ""
    return f" (AUC of this attack on the original: {auc:.2f}; 0.5 is chance, and MIA is then uninformative)"


def _sampled(summary: Summary) -> list[str]:
    task, drawn = summary.task, summary.samples.get("retain_train")
    whole = task["n_train"] - (0 if task["placebo"] else task["n_forget"])
    if drawn is None or drawn >= whole:
        return []
    error = 50 * ((1 - drawn / whole) / drawn) ** 0.5
    return [f"D_r: {drawn} of {whole} images, drawn at random; standard error of its accuracy: {error:.1f} or less."]


def _about_the_gap(summary: Summary) -> list[str]:
    if not summary.retrained:
        unseen = "what was manipulated" if is_corrective(summary) else "D_f"
        asked = f"add method={summary.reference_method} to this table"
        return [f"The ideal is what a model that never saw {unseen} predicts: {asked}."]
    if not any(line.values.get("average_gap") for line in summary.lines):
        return []
    of = "D'_f, D'_r, D_f and D_r" if is_corrective(summary) else "D_f, D_r and unseen data and in MIA"
    return [
        f"gap: mean distance to the retrained model in accuracy on {of} (points; 0 is ideal).",
        _floor(summary, "gap"),
    ]


def _controls(summary: Summary) -> list[str]:
    """What does not compete, what methods do when there is nothing to forget, and when a sequence comes at once."""
    names = ", ".join(line.label for line in summary.controls)
    notes = [f"Controls, which do not compete: {names}."] if names else []
    if told := _gaps(summary.placebo):
        notes.append(f"Placebo, the same request for images that were never trained on: gap of {told}.")
    if told := _gaps(summary.joint):
        notes.append(f"All of it in one request, not one after the other: gap of {told}.")
    return notes


def _gaps(summary: Summary | None) -> str:
    """Of each method of another summary."""
    far = {line.label: line.mean("average_gap") for line in summary.methods} if summary else {}
    return ", ".join(f"{label} {gap:.2f}" for label, gap in far.items() if gap is not None)


def _floor(summary: Summary, what: str) -> str:
    if summary.line(FLOOR):
        others = ", each without a D_f of its own (what rests on D_f is never called equal)" if summary.draws else ""
        return (
            f"{FLOOR}: how far apart retrained models of different seeds are{others}; a smaller {what} may be chance."
        )
    method = summary.reference_method
    return f"No floor under the {what}: it takes method={method} of a second training seed (seed=0,1)."


def second_notes(summary: Summary, names: list[str]) -> list[str]:
    """What the attacks and distances mean."""
    notes = []
    if "mia_auc" in names:
        notes.append(
            "MIA's AUC: how well the paper's attack tells D_r from D', on halves that it was not fitted to (0.5 is "
            "chance, and MIA is then uninformative)."
        )
    if "population_auc" in names:
        brackets = "" if len(summary.seeds) > 1 else "; brackets: 95 % bootstrap interval"
        notes.append(f"loss AUC, TPR: an attack on the loss, D_f against unseen images of the same classes{brackets}.")
    notes += [text for name, text in _OF_FEATURES.items() if name in names]
    if not summary.retrained:
        return notes
    return [
        *notes,
        "JS (bits), agreement of predictions, L2 of probabilities, of parameters and of BatchNorm's running "
        "statistics, ToW: against the retrained model of the same seed.",
        _floor(summary, "distance"),
    ]


_OF_FEATURES = {  # by the column whose presence calls for it
    "probe_recall": "probe, prototype: how well the class is read off what the last layer sees, on D'_f.",
    "relearn_head_100": "relearn: steps until half of the original's accuracy on D'_f, by the last layer or by all "
    "weights; ln ratio: against the retrained model, below 0 is faster.",
    "cka_forget_last": "CKA: how like the original's what the last layer sees is; 1 is the same up to a rotation.",
    "cka_retrained_forget_last": "CKA to retrained: the same with the retrained model of the same seed in place of the "
    "original.",
    "perturbed_acc": "D_f ± noise: share of slightly changed images of D_f told right; and told right by one alone of "
    "the model and the retrained model.",
    "moved_head": "moved: share of the squared distance to the original's parameters in the class's row, in the head.",
}


def meaning_of_marks(summary: Summary, names: list[str], marks: set[str], ranked: bool) -> list[str]:
    """What the marks in a table with these columns mean, if they are in it."""
    sizes = ", ".join(f"{SET_NAMES.get(name, name)} {n}" for name, n in summary.samples.items())
    meanings = {
        EQUAL: "equal within the floor: the mean difference to the retrained model is smaller than retrained models of "
        f"different seeds differ by (two one-sided t-tests of the paired differences, 95 %, {LEAST_FOR_EQUAL} seeds or "
        "more).",
        UNDECIDED: "not told apart from the retrained model by these seeds (paired t-test, 95 %, corrected by Holm's "
        f"rule over methods and columns of this table){_too_few(summary)}. This does not mean equal.",
        FEW: f"rests on too few images to mean much ({sizes}).",
        BESIDE_OTHERS: "timed, at least in part, while other jobs ran on the machine; do not compare it with other "
        "times.",
    }
    return [
        *([_best(summary, names)] if ranked else []),
        *(f"{mark}: {text}" for mark, text in meanings.items() if mark in marks),
    ]


def _best(summary: Summary, names: list[str]) -> str:
    ideals: dict[str, list[str]] = {}
    for about, name in ((summary.columns[name], name) for name in names):
        ideals.setdefault(about.ideal, []).append(about.heading or name)
    listed = [f"{', '.join(headings)}: {ideal}" for ideal, headings in ideals.items() if ideal not in ("", RETRAINED)]
    other = f" ({'; '.join(listed)})" if listed else ""
    return (
        "Bold, then underlined or in italics: the two methods nearest to the ideal, which is the retrained model's "
        f"value where a column names no other{other}."
    )


def _too_few(summary: Summary) -> str:
    few = len(summary.seeds) < LEAST_FOR_EQUAL
    return f"; it takes {LEAST_FOR_EQUAL} seeds to call two equal" if few else ""


def what_is_missing(summary: Summary) -> list[str]:
    """Rows and runs that are not in the table, and why; and which of them a repeat may not give again."""
    notes = []
    varies = [
        line.label for line in summary.lines if any(row["env"].get("deterministic") is False for row in line.rows)
    ]
    if varies:
        notes.append(f"Not deterministic on this device, so that a repeat may give other numbers: {', '.join(varies)}.")
    if summary.hidden:
        notes.append(f"Not shown, but ranked and compared with the others: {', '.join(sorted(summary.hidden))}.")
    if summary.outdated:
        rows = "1 older row" if summary.outdated == 1 else f"{summary.outdated} older rows"
        notes.append(f"Left out: {rows} with the same method, settings and seeds as a newer one.")
    for line in summary.lines:
        for status in line.ended:
            reasons = sorted({row["reason"] for row in line.rows if row["status"] == status})
            seeds = f" (seeds {', '.join(map(str, sorted(line.ended[status])))})" if len(summary.seeds) > 1 else ""
            notes.append(f"{line.label}: {status}{seeds}, {'; '.join(reasons)}")
        missing = [s for s in summary.seeds if not any(row["task"]["seed"] == s for row in line.rows)]
        if missing and line.label not in (ORIGINAL, FLOOR):
            notes.append(f"{line.label}: not run for seed {', '.join(map(str, missing))}.")
    alone = sum(not run.retrained for line in summary.methods for run in line.runs)
    if summary.retrained and alone:
        runs = "1 run has" if alone == 1 else f"{alone} runs have"
        notes.append(f"{runs} no retrained model of the same data and seed: gap and distances leave that out.")
    return notes
