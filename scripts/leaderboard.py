"""Make results/leaderboard.csv and results/leaderboard.md from the rows that results/leaderboard.yaml names.

    python scripts/leaderboard.py              # write both
    python scripts/leaderboard.py --check      # exit code 1: they are not what the rows give, 2: rows are refused

How to enter a method, how it is ranked and what makes rows be refused: docs/leaderboard.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, groupby
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

import yaml

from ssd_bench import list_methods
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.metrics.against import accuracy_gap, average_gap
from ssd_bench.metrics.residual import RESIDUAL
from ssd_bench.report.rows import REFERENCES
from ssd_bench.report.statistics import difference_p, holm
from ssd_bench.report.summary import ORIGINAL, Line, Run
from ssd_bench.report.verdict import GAP, NEAR_CHANCE
from ssd_bench.run.cases import cases
from ssd_bench.run.plan import CONF_DIR

FOLDER = CONF_DIR.parent / "results"
SOURCES, TABLE, PAGE = "leaderboard.yaml", "leaderboard.csv", "leaderboard.md"
LEAST_SEEDS = 3
TASK = ("data", "model", "scenario", "target", "fidelity")
SAME = ("recipe", "evaluation", "n_train", "n_forget", "precision")  # of all rows of a task, where they say it
ACCURACIES = ("retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc")
SEEDS = ("seed", "seed_unlearn", "seed_forget")
ACCURACY_GAP = "accuracy_gap"
TITLES = {GAP: "gap", ACCURACY_GAP: "accuracies alone"}
NUMBERS = (GAP, *ACCURACIES, "mia", "mia_auc", RESIDUAL, "cost_s")
NEEDED = (*TASK, "recipe", "seed", "method", "status", "git", GAP, "mia", "cost_s")  # columns of rows
INTRODUCTION = """# Leaderboard

Made by `python scripts/leaderboard.py` from the rows that [leaderboard.yaml](leaderboard.yaml) names; all numbers,
settings, commits and checksums are in [leaderboard.csv](leaderboard.csv). How to enter a method of your own:
[docs/leaderboard.md](../docs/leaderboard.md).

*gap*: distance to the retrained model in points, mean ± standard deviation over the training seeds. *accuracies
alone*: the same without MIA, which is a quarter of it. The first number of a line is the one that methods are ordered
by: the gap where the attack tells members of the original apart, accuracies alone where its AUC is within 0.05 of
chance (0.5), for there MIA says nothing. *floors*: that number in units of what retrained models of two training seeds
differ by; in bold up to 1, for then it may be chance. *rank*: 1–3 is shared by three methods, which the seeds do not
tell from the first of them. It says *not told apart*, never *as good*: one that varies much shares a better rank than
its mean deserves, and with three seeds even one that wrecks networks may. *AUC*: of the attack on what the method left.
*cost*: mean time in percent of the mean time of retraining in the same rows; ‖ while other jobs ran. A tuned method
competes with those that had as many trials, and never with one that was not tuned. *Together*: the methods that were
run on several targets, by the mean of each seed over them.
"""

Rows = list[dict[str, str]]
T = TypeVar("T")


@dataclass
class Entry:
    """One line of the leaderboard: a method on a task, tuned or not, over the training seeds of one file of rows."""

    benchmark: str
    source: str  # the file of rows, below results/
    sha256: str  # of that file
    rows: Rows
    control: bool
    retrained: Line
    floors_of: dict[str, float | None]  # of each gap: what retrained models of two seeds differ by
    ruler: str  # which of the gaps methods are ordered by on this task
    line: Line = field(init=False)
    rank: int | None = None

    def __post_init__(self) -> None:
        self.line = _line(self.rows)

    @property
    def task(self) -> tuple[str, ...]:
        return (self.benchmark, *(_short(self.rows[0][name]) for name in TASK))

    @property
    def target(self) -> str:
        """What its rows forget, as the task names it; empty for random images."""
        return self.task[1 + TASK.index("target")]

    @property
    def setting(self) -> tuple[str, ...]:
        """Its task without the target."""
        return (self.benchmark, *(_short(self.rows[0][name]) for name in TASK if name != "target"))

    @property
    def budget(self) -> str:
        """Of the study that found its settings; empty where there was none."""
        return _study(self.rows[0])[1]

    @property
    def ranking(self) -> tuple[Any, ...]:
        return *self.task, self.control, self.budget

    @property
    def n_seeds(self) -> int:
        return len(self.line.over_seeds(self.ruler))

    @property
    def diverged(self) -> int:
        return sum(row["status"] == "diverged" for row in self.rows)

    @property
    def floor(self) -> float | None:
        return self.floors_of[self.ruler]

    @property
    def floors(self) -> float | None:
        return self.line.mean(self.ruler) / self.floor if self.floor and self.n_seeds else None

    @property
    def cost(self) -> float | None:
        """Percent of the time of retraining."""
        ours, theirs = self.line.mean("cost_s"), self.retrained.mean("cost_s")
        return None if ours is None or not theirs else 100 * ours / theirs

    @property
    def beside_others(self) -> bool:
        return any(row.get("parallel") == "True" for row in self.rows)

    def cells(self) -> dict[str, Any]:
        """Its line of the csv."""
        first, line = self.rows[0], self.line
        return {
            **dict(zip(("benchmark", *TASK), self.task, strict=True)),
            "tuned": self.budget,
            "rank": self.rank,
            "method": line.method,
            "control": "yes" if self.control else "",
            "seeds": self.n_seeds,
            "diverged": self.diverged,
            "ordered_by": "gap" if self.ruler == GAP else ACCURACY_GAP,
            "gap": line.mean(GAP),
            "gap_std": line.std(GAP),
            ACCURACY_GAP: line.mean(ACCURACY_GAP),
            f"{ACCURACY_GAP}_std": line.std(ACCURACY_GAP),
            "floor": self.floor,
            "floors": self.floors,
            **{name: line.mean(name) for name in (*ACCURACIES, "mia", "mia_auc", RESIDUAL)},
            "cost_pct": self.cost,
            "beside_others": "yes" if self.beside_others else "",
            "settings": " ".join(f"{name}={_short(value)}" for name, value in _settings(first)),
            "study": _study(first)[0],
            "recipe": first["recipe"],
            "rows": self.source,
            "sha256": self.sha256,
            "commit": " ".join(sorted({row["git"] for row in self.rows})),
        }


@dataclass
class Together:
    """A method over all targets of a benchmark's scenario: of each training seed that every target has, their mean."""

    of: list[Entry]  # one a target
    line: Line = field(init=False)
    rank: int | None = None

    def __post_init__(self) -> None:
        values = [each.line.values for each in self.of]
        runs: dict[int, dict[str, float | None]] = {}
        for name in (GAP, ACCURACY_GAP, RESIDUAL):
            seeds = set.intersection(*(set(each.get(name, {})) for each in values))
            for seed in sorted(seeds):
                runs.setdefault(seed, {})[name] = mean(each[name][seed] for each in values)
        method = self.of[0].line.method
        self.line = Line(method, method, runs=[Run(seed, numbers) for seed, numbers in runs.items()])

    @property
    def control(self) -> bool:
        return self.of[0].control

    @property
    def budget(self) -> str:
        return self.of[0].budget

    @property
    def ruler(self) -> str:
        return GAP if all(each.ruler == GAP for each in self.of) else ACCURACY_GAP

    @property
    def n_seeds(self) -> int:
        return len(self.line.over_seeds(self.ruler))

    @property
    def diverged(self) -> int:
        return sum(each.diverged for each in self.of)


R = TypeVar("R", Entry, Together)


def _short(text: str) -> str:
    """A number as people write it: 7 for 7.0, six digits at most."""
    return f"{float(text):g}" if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text) else text


def _settings(row: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.removeprefix("method."), v) for name, v in row.items() if name.startswith("method.") and v]


def _study(row: dict[str, str]) -> tuple[str, str]:
    """Name and budget of the study that found a row's settings; empty where there was none."""
    name, _, budget = (row.get("tuned") or "").partition(", ")
    return name, budget


def _line(rows: Rows) -> Line:
    done = [row for row in rows if row["status"] == "done"]
    values = [{name: float(row[name]) for name in NUMBERS if row.get(name)} | _accuracy_gap(row) for row in done]
    runs = [Run(int(row["seed"]), each) for row, each in zip(done, values, strict=True)]
    return Line(rows[0]["method"], rows[0]["method"], runs=runs)


def _accuracy_gap(row: dict[str, str]) -> dict[str, float | None]:
    """From the row's differences to its retrained model."""
    apart = {name: float(row[f"delta.{name}"]) for name in ACCURACIES if row.get(f"delta.{name}")}
    return {ACCURACY_GAP: accuracy_gap(apart, dict.fromkeys(apart, 0.0), row["scenario"])}


def sources(folder: Path) -> dict[str, Any]:
    """leaderboard.yaml: by benchmark what is said `about` it, and its `rows`: file -> the command that made it.

    Raises ConfigError where a benchmark is not told so, or a file has no command.
    """
    told = yaml.safe_load((folder / SOURCES).read_text())
    for name, benchmark in told.items():
        if not isinstance(benchmark, dict) or not isinstance(benchmark.get("rows"), dict) or not benchmark.get("about"):
            raise ConfigError(f"{SOURCES}: {name} needs about: TEXT and rows: {{FILE: COMMAND, ...}}, got {benchmark}")
        for file, command in benchmark["rows"].items():
            if not str(command or "").strip():
                raise ConfigError(f"{SOURCES}: {file} has no command: write what made its rows behind its name")
    return told


def read(folder: Path, benchmark: str, source: str) -> list[Entry]:
    """The lines that a file of rows gives, references and controls included. Raises ConfigError for what is refused."""
    path = folder / source
    if not path.is_file():
        raise ConfigError(f"{SOURCES}: {path} does not exist")
    data = path.read_bytes()
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    if missing := [name for name in NEEDED if not rows or name not in rows[0]]:
        raise ConfigError(f"{source}: no column {', '.join(missing)}; ssd-bench-report RUNS --format csv writes rows")
    rows = [row for row in rows if row.get("placebo") != "True" and row["status"] != "skipped"]
    known, found = list_methods(), []
    for of_task in _grouped(rows, lambda row: tuple(_short(row[name]) for name in TASK)):
        reference = next((n for n in reversed(REFERENCES) if any(row["method"] == n for row in of_task)), None)
        if reference is None:
            raise ConfigError(f"{source}: no retrained model to compare with; add method=retrain")
        for name in SAME:
            values = sorted({row[name] for row in of_task if row.get(name)})
            if len(values) > 1:
                raise ConfigError(f"{source}: {name} {' and '.join(values)} in one task; a file of its own for each")
        retrained = [row for row in of_task if row["method"] == reference]
        ruler = _ruler([row for row in of_task if row["method"] == ORIGINAL])
        for of_method in _grouped(of_task, lambda row: (row["method"], _study(row)[1])):
            _refuse(source, of_method, known)
            name = of_method[0]["method"]
            control = name in (ORIGINAL, *REFERENCES) or bool(getattr(known[name], "control", False))
            sha256 = hashlib.sha256(data).hexdigest()
            about = control, _line(retrained), _floors(retrained), ruler
            found.append(Entry(benchmark, source, sha256, of_method, *about))
    return found


def _grouped(items: list[T], key: Callable[[T], Any]) -> list[list[T]]:
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _refuse(source: str, rows: Rows, known: dict[str, type]) -> None:
    """Raise ConfigError for rows of a method, of one task and budget, that the leaderboard does not take."""
    name, (study, budget) = rows[0]["method"], _study(rows[0])
    check_choice("method", name, known, f"{source}: ")
    about = f"{source}: {name}" + (f" ({budget})" if budget else "")
    if not all(re.fullmatch(r"[0-9a-f]{7,40}", row["git"]) for row in rows):
        raise ConfigError(f"{about}: rows without a commit in the column git; run them in a clone, with all committed")
    if len(_grouped(rows, lambda row: str((_settings(row), _study(row))))) > 1:
        raise ConfigError(
            f"{about}: rows of several settings; the leaderboard takes one, chosen without the test images"
        )
    seeds = [tuple(row.get(name) for name in SEEDS) for row in rows]
    if twice := sorted({each[0] for each in seeds if seeds.count(each) > 1}):
        raise ConfigError(f"{about}: several rows for seed {', '.join(twice)}; the runs of one folder, each made once")
    if missing := sorted({row["seed"] for row in rows if row["status"] == "done" and not row[GAP]}):
        raise ConfigError(f"{about}: no gap for seed {', '.join(missing)}; add method=retrain and metric accuracy, mia")
    studies = [case["study"] for case in cases([CONF_DIR], name) if "study" in case]
    if study and not any((each["name"], each["budget"]) == (study, budget) for each in studies):
        raise ConfigError(f"{about}: conf/tuned/{name}.yaml has no study {study}; ssd-bench-tune writes the case")


def _ruler(originals: Rows) -> str:
    """Accuracies alone where the attack hardly tells members of the original from others; the gap where it does, or
    where nobody knows."""
    auc = _line(originals).mean("mia_auc") if originals else None
    return ACCURACY_GAP if auc is not None and abs(auc - 0.5) <= NEAR_CHANCE else GAP


def _floors(retrained: Rows) -> dict[str, float | None]:
    """The mean of each gap between the retrained models of two training seeds; None with one seed."""
    numbers = [
        (row["seed"], {name: float(row[name]) for name in (*ACCURACIES, "mia") if row.get(name)}) for row in retrained
    ]
    scenario, floors = retrained[0]["scenario"], {}
    gap = partial(average_gap, corrective=bool(retrained[0].get("n_manipulated")))
    for name, gap_of in ((GAP, gap), (ACCURACY_GAP, accuracy_gap)):
        apart = [gap_of(one, other, scenario) for (a, one), (b, other) in combinations(numbers, 2) if a != b]
        floors[name] = mean(apart) if apart and None not in apart else None
    return floors


def entries(folder: Path) -> list[Entry]:
    """Every line in the order of the leaderboard, ranked. Raises ConfigError for what is refused.

    Of references and controls, which every file of rows may bring, the first file's count.
    """
    kept: dict[tuple[Any, ...], Entry] = {}
    firsts: dict[tuple[str, ...], Entry] = {}
    for benchmark, about in sources(folder).items():
        for entry in (entry for source in about["rows"] for entry in read(folder, benchmark, source)):
            first = firsts.setdefault(entry.task, entry)
            entry.ruler = first.ruler
            for name in SAME:
                ours, theirs = first.rows[0].get(name), entry.rows[0].get(name)
                if ours and theirs and ours != theirs:
                    raise ConfigError(f"{entry.source}: another {name} than {first.source}; give it its own benchmark")
            key = (*entry.ranking, entry.line.method)
            if key in kept and not entry.control:
                raise ConfigError(f"{entry.source}: {entry.line.method} is in {kept[key].source} already; take one out")
            kept.setdefault(key, entry)
    seeds = {task: max(entry.n_seeds for entry in kept.values() if entry.task == task) for task in firsts}
    # in the order of the sources, what nobody has enough seeds in last; of each what was tuned, what was not, controls
    benchmarks = list(dict.fromkeys(benchmark for benchmark, *_ in firsts))
    tasks = sorted(firsts, key=lambda task: (benchmarks.index(task[0]), seeds[task] < LEAST_SEEDS))
    placed = sorted(kept.values(), key=lambda e: (tasks.index(e.task), e.control, not e.budget, e.budget))
    return [entry for _, group in groupby(placed, lambda e: e.ranking) for entry in ranked(list(group))]


def together(of_benchmark: list[Entry]) -> dict[str, list[Together]]:
    """By title, of each scenario with several targets the methods that stand under all of them, ranked as a task is."""
    found = {}
    for of_setting in _grouped(of_benchmark, lambda entry: entry.setting):
        targets = list(dict.fromkeys(entry.target for entry in of_setting))
        of_methods = _grouped(of_setting, lambda entry: (entry.control, entry.budget, entry.line.method))
        complete = [Together(of) for of in of_methods if len(of) == len(targets)]
        if len(targets) > 1:
            rankings = _grouped(complete, lambda each: (each.control, each.budget))
            found[_title(of_setting[0], " and ".join(targets) + " together")] = [
                each for ranking in rankings for each in ranked(ranking)
            ]
    return found


def ranked(competing: list[R]) -> list[R]:
    """The lines of one ranking in their order, each with its rank; those that are not ranked come last.

    A new rank begins at the first method that the seeds show to be farther than the nearest of the rank before it:
    paired t-test over the training seeds that both have, 95 %, corrected by Holm's rule over all that are compared with
    that nearest one. Not ranked: controls, and what finished with fewer than `LEAST_SEEDS` seeds or diverged.
    """
    ruler = competing[0].ruler
    ordered = sorted(competing, key=lambda e: (e.line.mean(ruler) if e.n_seeds else float("inf"), e.line.method))
    left = [entry for entry in ordered if not entry.control and entry.n_seeds >= LEAST_SEEDS and not entry.diverged]
    first, rest = 1, [entry for entry in ordered if entry not in left]
    done: list[R] = []
    while left:
        nearest = left[0].line.values[ruler]
        p_values = {}
        for place, entry in enumerate(left[1:], 1):
            gaps = entry.line.values[ruler]
            farther = [gaps[seed] - nearest[seed] for seed in nearest if seed in gaps]
            p = difference_p(farther)
            if p is not None:
                p_values[place] = p if mean(farther) > 0 else 1.0
        share = min(holm(p_values), default=len(left))
        for entry in left[:share]:
            entry.rank = first
        done, left, first = done + left[:share], left[share:], first + share
    return done + rest


def table(found: list[Entry]) -> str:
    """leaderboard.csv: numbers to four decimals, empty where there is none."""
    out = io.StringIO()
    lines = [entry.cells() for entry in found]
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else "" if v is None else v for k, v in line.items()})
    return out.getvalue()


def page(found: list[Entry], told: dict[str, Any]) -> str:
    """leaderboard.md: of each task one table a ranking, and one of what it is compared with."""
    parts = [INTRODUCTION]
    for benchmark, about in told.items():
        of_benchmark = [entry for entry in found if entry.benchmark == benchmark]
        parts.append(f"## {benchmark}\n\n{about['about'].strip()}\n")
        for task in dict.fromkeys(entry.task for entry in of_benchmark):
            of_task = [entry for entry in of_benchmark if entry.task == task]
            parts.append(f"### {_title(of_task[0], of_task[0].target)}\n")
            parts += [f"{_heading(lines[0])}\n\n{_markdown(lines)}\n" for lines in _grouped(of_task, _heading)]
        for title, of_all in together(of_benchmark).items():
            parts.append(f"### {title}\n")
            parts += [f"{_heading(lines[0])}\n\n{_markdown_together(lines)}\n" for lines in _grouped(of_all, _heading)]
        parts.append("Rows, and what made them:\n")
        for source, command in about["rows"].items():
            of_source = [entry for entry in of_benchmark if entry.source == source]
            commits = sorted({row["git"][:7] for entry in of_source for row in entry.rows})
            code = "\n".join(f"      {line}" for line in command.strip().splitlines())
            parts.append(f"- [{source}]({source}), at {', '.join(commits)}\n\n{code}\n")
    return "\n".join(parts)


def _title(entry: Entry, target: str) -> str:
    _, data, model, scenario, fidelity = entry.setting
    title = f"{data}, {model}, {scenario}" + (f": forget {target}" if target else "")
    return title + ("" if fidelity == "corrected" else f", fidelity {fidelity}")


def _heading(entry: Entry | Together) -> str:
    if entry.control:
        return "References and controls, not ranked:"
    return f"Tuned, {entry.budget} each:" if entry.budget else "Not tuned:"


def _markdown(lines: list[Entry]) -> str:
    with_residual = any(entry.line.mean(RESIDUAL) is not None for entry in lines)
    rulers = _rulers(lines[0])
    head = ["rank", "method", TITLES[rulers[0]], "floors", TITLES[rulers[1]]]
    head += ["retain D'_r %", "forget D'_f %", "MIA %", "AUC"]
    head += [*(["residual"] if with_residual else []), "cost %", "seeds", "rows"]
    cells = [head, ["---:", "---", *["---:"] * (len(head) - 3), "---"]]
    for entry in lines:
        line, floors = entry.line, _number(entry.floors)
        cost = _number(entry.cost, 1) + " ‖" * (entry.beside_others and entry.cost is not None)
        cells.append(
            [
                _rank(entry, lines),
                _linked(entry),
                _spread(line, rulers[0]),
                f"**{floors}**" if floors and entry.floors <= 1 else floors,
                *(_spread(line, each) for each in (rulers[1], "retain_acc", "forget_acc", "mia")),
                _number(line.mean("mia_auc")),
                *([_spread(line, RESIDUAL)] if with_residual else []),
                cost,
                _seeds(entry),
                f"[{Path(entry.source).stem}]({entry.source})",
            ]
        )
    first = lines[0]
    if first.control and first.floor is not None:
        apart = ["-", "*two retrained models*", _number(first.floor), "1.00", _number(first.floors_of[rulers[1]])]
        cells.append([*apart, *[""] * (len(head) - len(apart))])
    return _joined(cells)


def _markdown_together(lines: list[Together]) -> str:
    targets = [entry.target for entry in lines[0].of]
    first, second = _rulers(lines[0])
    head = ["rank", "method", TITLES[first], "floors", TITLES[second], "residual"]
    head += [*(f"{TITLES[first]}, {target}" for target in targets), "seeds"]
    cells = [head, ["---:", "---", *["---:"] * (len(head) - 2)]]
    for each in lines:
        floors = [entry.floors_of[first] for entry in each.of]
        known = None not in floors and bool(each.n_seeds) and mean(floors) > 0
        apart = each.line.mean(first) / mean(floors) if known else None
        cells.append(
            [
                _rank(each, lines),
                _linked(each),
                _spread(each.line, first),
                f"**{_number(apart)}**" if apart is not None and apart <= 1 else _number(apart),
                _spread(each.line, second),
                _spread(each.line, RESIDUAL),
                *(_number(entry.line.mean(first)) for entry in each.of),
                _seeds(each),
            ]
        )
    return _joined(cells)


def _rulers(entry: Entry | Together) -> tuple[str, str]:
    """The gap that methods are ordered by, and the other one."""
    return (GAP, ACCURACY_GAP) if entry.ruler == GAP else (ACCURACY_GAP, GAP)


def _joined(cells: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _rank(entry: R, lines: list[R]) -> str:
    return "-" if entry.rank is None else _span(entry.rank, sum(other.rank == entry.rank for other in lines))


def _linked(entry: Entry | Together) -> str:
    name = entry.line.method
    return f"[{name}](../docs/methods/{name}.md)" + f" ({entry.budget})" * bool(entry.control and entry.budget)


def _seeds(entry: Entry | Together) -> str:
    return f"{entry.n_seeds}" + (f", {entry.diverged} diverged" if entry.diverged else "")


def _span(rank: int, sharing: int) -> str:
    """1 for one method, 1–3 for three that share it."""
    return f"{rank}–{rank + sharing - 1}" if sharing > 1 else str(rank)


def _spread(line: Line, name: str) -> str:
    std = line.std(name)
    return _number(line.mean(name)) + ("" if std is None else f" ± {_number(std)}")


def _number(value: float | None, decimals: int = 2) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def made(folder: Path) -> dict[str, str]:
    """File name -> text. Raises ConfigError for what is refused."""
    found = entries(folder)
    return {TABLE: table(found), PAGE: page(found, sources(folder))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say whether both are what the rows give")
    check = parser.parse_args().check
    try:
        files = made(FOLDER)
    except ConfigError as e:
        print(f"leaderboard: {e}", file=sys.stderr)
        sys.exit(2)
    if not check:
        for name, text in files.items():
            (FOLDER / name).write_text(text)
        return
    stale = [n for n, text in files.items() if not (FOLDER / n).is_file() or (FOLDER / n).read_text() != text]
    if stale:
        print(f"leaderboard: {' and '.join(stale)}: not what the rows give; python scripts/leaderboard.py writes them")
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
