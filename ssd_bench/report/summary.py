"""Rows to the numbers of a table: a line a method, a value a training seed, and what the seeds support."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from ssd_bench.metrics import About
from ssd_bench.metrics.accuracy import Accuracy
from ssd_bench.metrics.against import ABOUT as AGAINST
from ssd_bench.metrics.against import metrics_against
from ssd_bench.metrics.membership import EntropyAttack, PopulationAttack
from ssd_bench.metrics.zrf import ZRF
from ssd_bench.report.rows import across_seeds, by_task, cost_s, label, reference, varying_settings
from ssd_bench.report.statistics import t_interval
from ssd_bench.store.rows import Row

ABOUT = {**Accuracy.about, **EntropyAttack.about, **PopulationAttack.about, **ZRF.about, **AGAINST}
ABOUT["cost_s"] = About("seconds", "0", "between methods on one machine")
ORIGINAL, FLOOR = "original", "retrain, other seeds"


@dataclass
class Line:
    """One line of a table. values: by name of the metric, then by training seed."""

    label: str
    method: str
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    ended: dict[str, list[int]] = field(default_factory=dict)  # "skipped" or "diverged" -> seeds
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def over_seeds(self, name: str) -> list[float]:
        return list(self.values.get(name, {}).values())

    def mean(self, name: str) -> float | None:
        values = self.over_seeds(name)
        return mean(values) if values else None

    def std(self, name: str) -> float | None:
        """Standard deviation over training seeds (n - 1); None for fewer than two."""
        values = self.over_seeds(name)
        return stdev(values) if len(values) > 1 else None


@dataclass
class Summary:
    """All methods on one task, over its training seeds."""

    rows: list[Row]
    seeds: list[int]
    lines: list[Line]  # the original, the retrained model, the methods by name
    outdated: int = 0  # rows left out: a newer one has the same method, settings and seeds
    apart: str = ""  # what tells it from another task with the same title

    @property
    def task(self) -> dict[str, Any]:
        return self.rows[0]["task"]

    @property
    def samples(self) -> dict[str, int]:
        """Images in each set."""
        return self.rows[0].get("samples") or {}

    def line(self, wanted: str) -> Line | None:
        return next((line for line in self.lines if line.label == wanted), None)

    @property
    def retrained(self) -> Line | None:
        """The line that the others are measured against."""
        known = [line for line in self.lines if line.method == "retrain" and line.values]
        return min(known, key=lambda line: line.settings.get("mode") != "from_scratch", default=None)

    @property
    def methods(self) -> list[Line]:
        """What competes: every line with numbers but the original, the retrained models and their floor."""
        return [line for line in self.lines if line.values and line.method not in (ORIGINAL, FLOOR, "retrain")]

    @property
    def title(self) -> str:
        task = self.task
        what = f"forget {task['target']}" if task["target"] is not None else f"forget {task['n_forget']} images"
        placebo = " (placebo: never trained on)" if task["placebo"] else ""
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        precision = self.rows[0]["config"].get("precision", "float32")
        return (
            f"{task['data']}, {task['model']}, {task['scenario']}: {what}{placebo}, {seeds}, "
            f"fidelity {task['fidelity']}{'' if precision == 'float32' else f', precision {precision}'}{self.apart}"
        )

    def few(self, name: str) -> bool:
        """Whether the metric rests on a set too small for it."""
        about = ABOUT.get(name, About("", "", ""))
        return any(self.samples.get(each, about.least) < about.least for each in about.on)

    def distance(self, line: Line, name: str) -> float | None:
        """How far a line is from the ideal: the mean over seeds of |difference to the retrained model|, or, of a
        metric whose ideal is a number, of |difference to that|."""
        ideal = ABOUT[name].ideal
        if ideal == "retrained":
            apart = self.differences(line, name)
        else:
            apart = [value - float(ideal) for value in line.over_seeds(name)]
        return mean(map(abs, apart)) if apart else None

    def differences(self, line: Line, name: str) -> list[float]:
        """Signed difference to the retrained model of the same seed, seed by seed."""
        theirs = self.retrained.values.get(name, {}) if self.retrained else {}
        return [value - theirs[seed] for seed, value in line.values.get(name, {}).items() if seed in theirs]

    def ranks(self, name: str, decimals: int) -> dict[str, int]:
        """By label: 1 for the methods nearest to the ideal as far as the table shows it, 2 for the next."""
        far = {line.label: self.distance(line, name) for line in self.methods if name in ABOUT}
        far = {each: round(distance, decimals) for each, distance in far.items() if distance is not None}
        if len(far) < 2:
            return {}
        places = sorted(far.values())
        return {each: 1 if d == places[0] else 2 for each, d in far.items() if d == places[0] or d == places[1]}

    def told_apart(self, line: Line, name: str) -> bool | None:
        """Whether the 95 % t-interval of the paired differences to the retrained model leaves out 0.

        None with fewer than two seeds, where the ideal is not the retrained model, and for that itself.
        """
        about = ABOUT.get(name)
        if line is self.retrained or about is None or about.ideal != "retrained":
            return None
        interval = t_interval(self.differences(line, name))
        return interval and not interval[0] <= 0 <= interval[1]


def summarise(rows: list[Row], derived: dict[str, dict[str, float | None]]) -> list[Summary]:
    """One summary for each task; derived: see `report.derive`."""
    summaries = [_summarise(group, derived) for group in across_seeds(rows)]
    namesakes: dict[str, list[Summary]] = {}
    for summary in summaries:
        namesakes.setdefault(summary.title, []).append(summary)
    for alike in (group for group in namesakes.values() if len(group) > 1):
        settings = [_recipe(summary.rows[0]["config"]) for summary in alike]
        differ = [key for key in settings[0] if len({json.dumps(each.get(key)) for each in settings}) > 1]
        for summary, each in zip(alike, settings, strict=True):
            summary.apart = "".join(f", {key}={each.get(key)}" for key in differ) or f", {summary.task['original']}"
    return summaries


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that make another original of it, or measure it otherwise."""
    groups = ("train", "model", "data", "evaluate")
    flat = {f"{group}.{key}": value for group in groups for key, value in (config.get(group) or {}).items()}
    return {key: value for key, value in flat.items() if key not in ("data.root", "data.download")}


def newest(rows: list[Row]) -> list[Row]:
    """Of rows with one method, settings and seeds (made by other code, versions or threads), the last that was made."""
    last: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row["env"]["finished"]):
        seeds = [row["task"][name] for name in ("seed", "seed_unlearn", "seed_forget")]
        last[json.dumps([row["method"], row["settings"], seeds], sort_keys=True)] = row
    return [row for row in rows if any(row is kept for kept in last.values())]


def _summarise(every: list[Row], derived: dict[str, dict[str, float | None]]) -> Summary:
    rows = newest(every)
    varying = varying_settings(rows)
    before, floor = Line(ORIGINAL, ORIGINAL), Line(FLOOR, FLOOR)
    lines: dict[str, Line] = {}
    found: dict[str, dict[str, dict[int, list[float]]]] = {}  # label -> metric -> training seed -> values

    def collect(line: Line, row: Row, values: dict[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None:
                of_line = found.setdefault(line.label, {})
                of_line.setdefault(name, {}).setdefault(row["task"]["seed"], []).append(value)

    for of_task in by_task(rows):
        retrained = reference(of_task)
        for row in of_task:
            told = derived.get(row["path"], {})
            own = {name: value for name, value in told.items() if not name.startswith("floor.")}
            if row["original_metrics"]:
                theirs = retrained["metrics"] if retrained else {}
                against = metrics_against(row["original_metrics"], theirs, row["task"]["scenario"])
                collect(before, row, row["original_metrics"] | against)
            if row["method"] == ORIGINAL:
                before.rows.append(row)
                collect(before, row, own)
                continue
            name = label(row, varying)
            line = lines.setdefault(name, Line(name, row["method"], settings=row["settings"]))
            line.rows.append(row)
            if row["status"] != "done":
                line.ended.setdefault(row["status"], []).append(row["task"]["seed"])
                continue
            selected = row["details"].get("selected_pct")
            collect(line, row, row["metrics"] | own | {"cost_s": cost_s(row), "selected_pct": selected})
            if row is retrained:
                collect(floor, row, {k.removeprefix("floor."): v for k, v in told.items() if k.startswith("floor.")})
    ordered = sorted(lines.values(), key=lambda line: (line.method != "retrain", line.label))
    for line in (
        before,
        *ordered,
        floor,
    ):  # of several `seed_unlearn` the mean, so that every training seed counts once
        of_line = found.get(line.label, {})
        line.values = {name: {seed: mean(of_line[name][seed]) for seed in sorted(of_line[name])} for name in of_line}
    shown = [line for line in (before, *ordered, floor) if line.values or line.ended]
    return Summary(rows, sorted({row["task"]["seed"] for row in rows}), shown, len(every) - len(rows))


COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C6D31",
    "#A6761D",
)  # Okabe and Ito's first
SYMBOLS = ("square", "diamond", "triangle-up", "triangle-down", "cross", "x", "triangle-left", "triangle-right")


def style(summary: Summary, line: Line) -> tuple[str, str]:
    """Colour and symbol of a line in every picture: grey and black for the original and the retrained model."""
    if line.label == ORIGINAL:
        return "#777777", "circle"
    if line is summary.retrained:
        return "#000000", "star"
    place = [other.label for other in summary.methods].index(line.label) % len(COLOURS)
    return COLOURS[place], SYMBOLS[place]


def shown(summary: Summary) -> list[Line]:
    """The lines that a picture has room for: where a setting was swept, one of each method."""
    methods = summary.methods
    if len(methods) > len(COLOURS):
        first: dict[str, Line] = {}
        for line in methods:
            first.setdefault(line.method, line)
        methods = list(first.values()) if len(first) > 1 else []
    return [line for line in (summary.line(ORIGINAL), summary.retrained, *methods) if line and line.values]
