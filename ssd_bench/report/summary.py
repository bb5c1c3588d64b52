"""Rows to the numbers of a table: a line a method, a value a training seed, and what the seeds support."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean, stdev
from typing import Any

from ssd_bench.core.about import RETRAINED, About
from ssd_bench.report.columns import columns_of
from ssd_bench.report.derive import gaps, residuals, told_apart
from ssd_bench.report.rows import (
    REFERENCES,
    across_seeds,
    by_task,
    cost_s,
    label,
    made_on,
    newest,
    references,
    varying_settings,
)
from ssd_bench.report.statistics import State, mean_apart, states
from ssd_bench.store.rows import TRIED_HERE, Row

ORIGINAL, FLOOR = "original", "retrain, other seeds"
FIXED = frozenset({"retain", "test", "retain_train"})  # sets that are the same, but for D_f, whatever a seed forgets
Values = dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """The numbers of one run, and those of the retrained model that it is compared with (empty where there is none)."""

    seed: int  # of training
    values: Values
    retrained: Values = field(default_factory=dict)


@dataclass
class Line:
    """One line of a table: every run of a method with the same settings.

    Of several runs of a training seed (`seed_unlearn`, `seed_forget`) the mean counts, so that each seed counts once.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    ended: dict[str, list[int]] = field(default_factory=dict)  # "skipped" or "diverged" -> seeds

    @cached_property
    def values(self) -> dict[str, dict[int, float]]:
        """By name of the metric, then by training seed."""
        found: dict[str, dict[int, list[float]]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            for name, value in run.values.items():
                if value is not None:
                    found.setdefault(name, {}).setdefault(run.seed, []).append(value)
        return {name: {seed: mean(each) for seed, each in of_seeds.items()} for name, of_seeds in found.items()}

    def over_seeds(self, name: str) -> list[float]:
        """The value of each training seed that has it."""
        return list(self.values.get(name, {}).values())

    def mean(self, name: str) -> float | None:
        """Over training seeds; None where no seed has it."""
        values = self.over_seeds(name)
        return mean(values) if values else None

    def std(self, name: str) -> float | None:
        """Standard deviation over training seeds (n - 1); None for fewer than two."""
        values = self.over_seeds(name)
        return stdev(values) if len(values) > 1 else None

    def differences(self, name: str) -> dict[int, list[float]]:
        """By training seed: of each run the signed difference to the retrained model that it is compared with."""
        found: dict[int, list[float]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            ours, theirs = run.values.get(name), run.retrained.get(name)
            if ours is not None and theirs is not None:
                found.setdefault(run.seed, []).append(ours - theirs)
        return found

    @property
    def budget(self) -> str | None:
        """Of the study that found its settings; None where there was none."""
        found = {row["tuned"]["budget"] if row.get("tuned") else None for row in self.rows}
        return None if None in found else ", ".join(sorted(found))

    @property
    def control(self) -> bool:
        """Whether it is there to be compared with, and does not compete."""
        return any(row.get("control") for row in self.rows)

    @property
    def diverged(self) -> list[int]:
        """The seeds for which it did."""
        return self.ended.get("diverged", [])

    @property
    def beside_others(self) -> bool:
        """Whether one of its times was measured while other jobs ran."""
        return any(row["env"].get("parallel") for row in self.rows)


@dataclass
class Summary:
    """All methods on one task, over its training seeds."""

    rows: list[Row]
    seeds: list[int]
    lines: list[Line]  # the original, the retrained model, the methods by name, the floor, other controls
    columns: dict[str, About]
    retrained: Line | None = None  # the line that the others are compared with
    outdated: int = 0  # rows left out: a newer one has the same method, settings and seeds
    apart: str = ""  # how it differs from another task with the same title
    placebo: Summary | None = None  # of the same request for images that were never trained on
    joint: Summary | None = None  # of a sequence: all that it asks for in one request
    hidden: frozenset[str] = frozenset()  # methods that tables leave out, though they are ranked and compared

    @property
    def task(self) -> dict[str, Any]:
        return self.rows[0]["task"]

    @property
    def samples(self) -> dict[str, int]:
        """Images in each set."""
        return self.rows[0].get("samples") or {}

    def line(self, wanted: str) -> Line | None:
        """The line of this label, if there is one."""
        return next((line for line in self.lines if line.label == wanted), None)

    @property
    def methods(self) -> list[Line]:
        """What competes: lines with numbers but those of the original, retrained models, their floor and controls."""
        return [line for line in self._beside_the_references if not line.control]

    @property
    def controls(self) -> list[Line]:
        """The lines with numbers of methods that are there to be compared with, such as random weights."""
        return [line for line in self._beside_the_references if line.control]

    @property
    def _beside_the_references(self) -> list[Line]:
        return [line for line in self.lines if line.values and line.method not in (ORIGINAL, FLOOR, *REFERENCES)]

    @property
    def tuning(self) -> str:
        """Who was tuned with what; and where that differs, that the lines are no ranking."""
        budgets: dict[str | None, list[str]] = {}
        diverged = [line for line in self.lines if line.ended.get("diverged") and not line.values and not line.control]
        for line in [*self.methods, *diverged]:
            budgets.setdefault(line.budget, []).append(line.label)
        untuned = budgets.pop(None, [])
        if not budgets:
            return (
                "No method was tuned: settings are published ones, or where there are none defaults, or chosen by hand "
                "as the method's page says."
            )
        told = "; ".join(f"tuned ({budget}): {', '.join(labels)}" for budget, labels in sorted(budgets.items()))
        if not untuned and len(budgets) == 1:
            elsewhere = "" if any(TRIED_HERE in each for each in budgets) else "on other requests and seeds and "
            where = f"{elsewhere}without the test images"
            return f"Every method was tuned alike ({next(iter(budgets))} each, {where})."
        rest = f"; not tuned: {', '.join(untuned)}" if untuned else ""
        return f"No ranking, for methods were not tuned alike: {told}{rest}."

    @property
    def title(self) -> str:
        task = self.task
        what = f"forget {task['target']}" if task["target"] is not None else f"forget {task['n_forget']} images"
        if "n_manipulated" in task:
            of = f" ({task['target']})" if task["target"] is not None else ""
            what = f"{task['n_forget']} of {task['n_manipulated']} manipulated images discovered{of}"
        placebo = " (placebo: never trained on)" if task["placebo"] else ""
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        precision = self.rows[0]["config"].get("precision", "float32")
        return (
            f"{task['data']}, {task['model']}, {task['scenario']}: {what}{placebo}, {seeds}, "
            f"fidelity {task['fidelity']}{'' if precision == 'float32' else f', precision {precision}'}"
            f"{', compiled' if self.rows[0]['config'].get('compile') else ''}{self.apart}"
        )

    @property
    def reference_method(self) -> str:
        """Which method trains what the others are compared with."""
        return self.retrained.method if self.retrained else "clean" if "n_manipulated" in self.task else "retrain"

    def few(self, name: str) -> bool:
        """Whether the metric rests on a set too small for it."""
        about = self.columns[name]
        return any(self.samples.get(each, about.least) < about.least for each in about.on)

    def distance(self, line: Line, name: str) -> float | None:
        """How far a line is from the ideal: the mean over seeds of |difference to the retrained model|, or, of a
        metric whose ideal is a number, of |difference to that|. None where it has no ideal."""
        ideal = self.columns[name].ideal
        if ideal == RETRAINED:
            far = [mean(map(abs, of_seed)) for of_seed in line.differences(name).values()]
        else:
            far = [abs(value - float(ideal)) for value in line.over_seeds(name)] if ideal else []
        return mean(far) if far else None

    def ranks(self, name: str) -> dict[str, int]:
        """By label: 1 for the methods nearest to the ideal as far as the table shows it, 2 for the next.

        Only of `comparable` ones: the mean of others is over the seeds that suit them.
        """
        far = {line.label: self.distance(line, name) for line in self.comparable(name)}
        shown = {each: round(d, self.columns[name].decimals) for each, d in far.items() if d is not None}
        if len(shown) < 2:
            return {}
        places = sorted(shown.values())
        return {each: 1 if d == places[0] else 2 for each, d in shown.items() if d in places[:2]}

    def comparable(self, name: str) -> list[Line]:
        """The methods that did not diverge and have a value for each seed that at least half of these have."""
        known = [line for line in self.methods if line.values.get(name) and not line.diverged]
        seeds = self.usual_seeds(name)
        return [line for line in known if line.values[name].keys() >= seeds]

    def usual_seeds(self, name: str) -> set[int]:
        """Those for which at least half of the methods that did not diverge have a value."""
        having = Counter(seed for line in self.methods if not line.diverged for seed in line.values.get(name, ()))
        known = sum(bool(line.values.get(name)) and not line.diverged for line in self.methods)
        return {seed for seed, n in having.items() if 2 * n >= known}

    def margin(self, name: str) -> float | None:
        """What retrained models of different seeds differ by in a metric, on average; None with one seed.

        None, too, for what rests on D_f where each of them forgets images of its own: that other images are easier is
        nothing that the paired differences of a method have.
        """
        drawn = self.draws and not FIXED.issuperset(self.columns[name].on)
        return mean_apart(self.retrained.over_seeds(name)) if self.retrained and not drawn else None

    @property
    def draws(self) -> bool:
        """Whether the retrained models of this table forget other images, each of its own seed."""
        return self.retrained is not None and len({row["task"]["forget_sha256"] for row in self.retrained.rows}) > 1

    def states(self, names: Iterable[str]) -> dict[tuple[str, str], State]:
        """By label and name, for the columns of one table whose ideal is the retrained model: what the seeds say.

        Nothing for the original and the retrained model, nothing with fewer than two seeds. See `statistics.states`.
        """
        columns: dict[str, dict[str, list[float]]] = {
            name: {
                line.label: [mean(of_seed) for of_seed in line.differences(name).values()]
                for line in self.lines
                if line is not self.retrained and line.method not in (ORIGINAL, FLOOR)
            }
            for name in names
            if self.columns[name].ideal == RETRAINED
        }
        first = {repr(column): name for name, column in reversed(columns.items())}
        same = {name: first[repr(column)] for name, column in columns.items()}  # of random images D'_r is D', D'_f D_f
        cells = {(label, name): far for name in first.values() for label, far in columns[name].items()}
        found = states(cells, {cell: self.margin(cell[1]) for cell in cells})
        return {
            (label, name): found[label, of]
            for name, of in same.items()
            for label in columns[name]
            if (label, of) in found
        }


def summarise(rows: list[Row], derived: dict[str, Values]) -> list[Summary]:
    """One summary for each task; derived: see `report.derive`."""
    summaries = [_summary(group, derived) for group in across_seeds(rows)]
    namesakes: dict[str, list[Summary]] = {}
    for summary in summaries:
        namesakes.setdefault(summary.title, []).append(summary)
    for alike in (group for group in namesakes.values() if len(group) > 1):
        settings = [_recipe(summary.rows[0]["config"]) for summary in alike]
        keys = dict.fromkeys(key for each in settings for key in each)
        differ = [key for key in keys if len({json.dumps(each.get(key)) for each in settings}) > 1]
        for summary, each in zip(alike, settings, strict=True):
            summary.apart = "".join(f", {key}={each.get(key)}" for key in differ) or f", {_apart(summary.task, alike)}"
    placebos = {_request(summary): summary for summary in summaries if summary.task["placebo"]}
    for summary in (summary for summary in summaries if not summary.task["placebo"]):
        summary.placebo = placebos.get(_request(summary))
    asked_once = [each for each in summaries if not (each.task.get("requests") or each.task["placebo"])]
    at_once = {_targets(summary, "+"): summary for summary in asked_once}
    for summary in (summary for summary in summaries if summary.task.get("requests")):
        summary.joint = at_once.get(_targets(summary, ">"))
    return summaries


def _apart(task: dict[str, Any], alike: list[Summary]) -> str:
    """What else differs between tasks of one title: their originals, or the images that they forget."""
    key = "original" if len({each.task["original"] for each in alike}) > 1 else "forget_sha256"
    return str(task[key])[:12]


def _request(summary: Summary) -> tuple[Any, ...]:
    """What a request and its placebo have in common."""
    names = ("data", "data_sha256", "model", "recipe", "scenario", "target", "fidelity", "evaluation")
    what = summary.task["target"] or summary.task["n_forget"]
    return *(summary.task.get(name) for name in names), what, _made_on(summary)


def _targets(summary: Summary, between: str) -> tuple[Any, ...]:
    """What a sequence and the one request for all of it have in common. between: the names of the targets."""
    names, task = ("data", "data_sha256", "model", "recipe", "fidelity", "evaluation", "n_forget"), summary.task
    asked = summary.rows[0]["config"].get("scenario", {})
    kind = asked.get("of") if task.get("requests") else task["scenario"]
    targets = frozenset((task["target"] or "").split(between))
    return *(task.get(name) for name in names), kind, targets, _made_on(summary)


def _made_on(summary: Summary) -> str:
    return json.dumps(made_on(summary.rows[0]), sort_keys=True)


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that make another original of it, or measure it otherwise."""
    groups = ("train", "model", "data", "scenario", "evaluate")
    flat = {f"{group}.{key}": value for group in groups for key, value in (config.get(group) or {}).items()}
    return {key: value for key, value in flat.items() if key not in ("data.root", "data.download")}


def _summary(every: list[Row], derived: dict[str, Values]) -> Summary:
    """One table's numbers. every: its rows, those that a newer one has replaced included."""
    rows, pairs = newest(every), references(every)
    lines = _lines_of_methods([row for row in rows if row["method"] != ORIGINAL], pairs, derived)
    compared_with = {row["path"] for row in pairs.values()}
    retrained = next((line for line in lines if compared_with & {row["path"] for row in line.rows}), None)
    floor, controls = _line_of_floor(pairs, derived), [line for line in lines if line.control]
    competing = [line for line in lines if not line.control]
    lines = [_line_of_original(rows, pairs, derived), *competing, floor, *controls]
    return Summary(
        rows=rows,
        seeds=sorted({row["task"]["seed"] for row in rows}),
        lines=[line for line in lines if line.values or line.ended],
        columns=columns_of(rows),
        retrained=retrained,
        outdated=len(every) - len(rows),
    )


def _lines_of_methods(rows: list[Row], pairs: dict[str, Row], derived: dict[str, Values]) -> list[Line]:
    """The retrained models first, then the methods by name."""
    varying, lines = varying_settings(rows), {}
    for row in rows:
        name = label(row, varying)
        line = lines.setdefault(name, Line(name, row["method"], row["settings"]))
        line.rows.append(row)
        if row["status"] == "done":
            line.runs.append(_run(row, pairs, derived))
        else:
            line.ended.setdefault(row["status"], []).append(row["task"]["seed"])
    return sorted(lines.values(), key=lambda line: (line.method not in REFERENCES, _in_order(line.label)))


def _in_order(text: str) -> list[str | float]:
    """A key that puts 4 before 20: text and numbers in turn."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def _run(row: Row, pairs: dict[str, Row], derived: dict[str, Values]) -> Run:
    retrained = pairs[row["path"]]["metrics"] if row["path"] in pairs else {}
    shown = {name: row["details"].get(name) for name in row.get("columns", ())}
    shown = {name: value for name, value in shown.items() if isinstance(value, int | float)}
    values = shown | row["metrics"] | _distances(row, derived) | {"cost_s": cost_s(row)}
    return Run(row["task"]["seed"], values, retrained)


def _line_of_original(rows: list[Row], pairs: dict[str, Row], derived: dict[str, Values]) -> Line:
    """Every run evaluates the original; what needs its artefacts is in the row of method=original alone."""
    line = Line(ORIGINAL, ORIGINAL, rows=[row for row in rows if row["method"] == ORIGINAL])
    for of_task in by_task(rows):
        evaluated = [row for row in of_task if row["original_metrics"]]
        for row in sorted(evaluated, key=lambda row: row["method"] != ORIGINAL)[:1]:
            retrained = pairs.get(row["path"])
            values = row["original_metrics"]
            if retrained:
                as_run = row | {"metrics": values}
                if row["method"] != ORIGINAL:  # then its metrics after each request are another method's
                    as_run.pop("metrics_by_request", None)
                values = values | gaps(as_run, retrained) | residuals(as_run, retrained, told_apart(pairs))
            own = _distances(row, derived) if row["method"] == ORIGINAL else {}
            line.runs.append(Run(row["task"]["seed"], values | own, retrained["metrics"] if retrained else {}))
    return line


def _line_of_floor(pairs: dict[str, Row], derived: dict[str, Values]) -> Line:
    """How far the retrained models are from those of other seeds."""
    line = Line(FLOOR, FLOOR)
    for row in {row["path"]: row for row in pairs.values()}.values():
        values = derived.get(row["path"], {})
        floor = {name.removeprefix("floor."): value for name, value in values.items() if name.startswith("floor.")}
        line.runs.append(Run(row["task"]["seed"], floor))
    return line


def _distances(row: Row, derived: dict[str, Values]) -> Values:
    values = derived.get(row["path"], {})
    return {name: value for name, value in values.items() if not name.startswith("floor.")}
