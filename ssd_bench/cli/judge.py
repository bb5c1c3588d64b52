"""Methods on a pool of models, for the command line: which, whether they can be judged, the tables and files."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssd_bench.cli import beside, overrides
from ssd_bench.core.errors import ConfigError, check_choice

log = logging.getLogger(__name__)

Plans = dict[tuple[str, str], Any]  # by method and scenario
TASKS = {
    "sub_class": ["scenario=sub_class"],
    "full_class": ["scenario=full_class"],
}


@dataclass(frozen=True)
class Chosen:
    """The methods that the command line names, and settings of the one."""

    methods: tuple[str, ...]
    settings: tuple[str, ...]
    placebo: bool

    @classmethod
    def taken_from(cls, args: argparse.Namespace) -> Chosen:
        """They are taken out of `args.overrides`. Raises ConfigError."""
        asked = [o for o in args.overrides if o.startswith("method=")]
        settings = [o for o in args.overrides if beside.of_method(o)]
        args.overrides = [o for o in args.overrides if o not in (*asked, *settings)]
        names = asked[-1].removeprefix("method=").strip("[]").split(",") if asked else []
        names = list(dict.fromkeys(name.strip() for name in names))
        methods = tuple(name for name in names if name not in ("placebo", "original"))
        if settings and len(methods) != 1:
            raise ConfigError(
                f"{settings[0]}: settings on the command line are for one method; {len(methods)} are named"
            )
        if "placebo" in names and not methods:
            raise ConfigError("method=placebo is a control of other methods; name one, too: method=ssd,placebo")
        return cls(methods, tuple(settings), "placebo" in names)

    def check(self, args: argparse.Namespace) -> None:
        """Raise ConfigError for a method or setting that does not exist."""
        for name in self.methods:
            given = [*args.overrides, f"method={name}", *self.settings]
            overrides.check(argparse.Namespace(overrides=given, config_dir=args.config_dir, multirun=False))

    def plans(self, args: argparse.Namespace, pool: Any) -> Plans:
        """Of each method, its settings in the scenarios of the pool's targets. Raises ConfigError."""
        from ssd_bench.run import requests

        for name in pool.asked.placebo:
            check_choice("pool.placebo", name, self.methods)
        scenarios = {requests.scenario_of(pool, target) for target in requests.targets(pool, None)}
        tasks = TASKS | {"random": ["scenario=random", f"scenario.n_forget={requests.k_of(pool)}"]}
        found = {}
        for name in self.methods:
            given = self._given(args, name, self.settings)
            found |= {(name, scenario): beside.composed(given, tasks[scenario]) for scenario in sorted(scenarios)}
        if "full_class" in scenarios and ("retrain", "full_class") not in found:  # what the others are held against
            found["retrain", "full_class"] = beside.composed(self._given(args, "retrain", ()), TASKS["full_class"])
        return found

    def _given(self, args: argparse.Namespace, name: str, settings: tuple[str, ...]) -> argparse.Namespace:
        """The command line of a run of this method."""
        overrides_ = [*args.overrides, f"method={name}", *settings]
        return argparse.Namespace(overrides=overrides_, config_dir=args.config_dir)


def check_size(asked: Any) -> None:
    """Raise ConfigError where the gate could never say whether the originals leak, however they turn out."""
    from ssd_bench.run.originals import LEAST

    if asked.gate and asked.size < LEAST["attack"]:
        raise ConfigError(
            f"pool.size={asked.size}: fewer than {LEAST['attack']} models cannot show whether originals leak, and no "
            "method would be judged; pool.gate=false judges them all the same, for what it is worth"
        )


def check_gate(gate: dict[str, Any], asked: Any) -> None:
    """Raise ConfigError where methods cannot be judged on the pool."""
    if asked.gate and not gate["passed"]:
        raise ConfigError(
            f"no method is judged: {verdict(gate)}. pool.gate=false judges them all the same, for what it is worth"
        )


def costs(pool: Any, plans: Plans, placebo: bool, workers: int) -> list[str]:
    """What the unlearning would cost."""
    from ssd_bench.run import requests
    from ssd_bench.run.forgetting import Forgetting
    from ssd_bench.run.originals import Originals

    originals = None if pool.missing() else Originals.read(pool)
    return Forgetting(pool, plans, requests.targets(pool, originals), placebo).costs(workers)


def missing(pool: Any, plans: Plans, placebo: bool) -> int:
    """How many models have not forgotten all that they are asked to. The originals are there."""
    from ssd_bench.run import requests
    from ssd_bench.run.forgetting import Forgetting
    from ssd_bench.run.originals import Originals

    runs = Forgetting(pool, plans, requests.targets(pool, Originals.read(pool)), placebo).missing()
    return len({run.m for run in runs})


def unlearn(pool: Any, plans: Plans, placebo: bool) -> tuple[Any, Any]:
    """Make what is missing: the unlearned models of the pool, and its originals' words."""
    from ssd_bench.run import requests
    from ssd_bench.run.forgetting import Forgetting, reporter
    from ssd_bench.run.originals import Originals

    originals = Originals.read(pool)
    forgetting = Forgetting(pool, plans, requests.targets(pool, originals), placebo)
    forgetting.make(reporter(forgetting, log.info))
    return forgetting, originals


def methods(pool: Any, plans: Plans, placebo: bool, command: str, gate: dict[str, Any]) -> list[Any]:
    """Unlearn what is missing; keep what there is to say of each method and target, print it and return its tables."""
    from ssd_bench.cli import class_table, compared, target_table
    from ssd_bench.report.table import print_sheet
    from ssd_bench.run.class_arm import ClassArm
    from ssd_bench.run.differences import Compared
    from ssd_bench.run.environment import commit
    from ssd_bench.run.judged import Judge, groups
    from ssd_bench.run.power import power
    from ssd_bench.store.files import to_json, write_atomically

    forgetting, originals = unlearn(pool, plans, placebo)
    report, paths, figures, sheets = {}, [], {}, []
    tables: dict[str, list[dict[str, Any]]] = {"differences": [], "power": []}
    for name, targets in groups(pool, forgetting.targets).items():
        judge = Judge(originals, targets)
        lines, missing = judge.lines(forgetting)
        numbers = {label: judge.numbers(line) for label, line in lines.items()}
        report[name] = {"samples": judge.samples, "numbers": numbers, "missing": missing}
        report[name]["seconds"] = {label: line.seconds for label, line in lines.items() if line.seconds is not None}
        report[name]["differences"] = Compared(judge, lines, numbers).rows()
        tables["differences"] += [{"target": name, **row} for row in report[name]["differences"]]
        for label, line in lines.items():
            paths.append(pool.results / f"{label.replace(', ', '-')}-{name}.csv")
            _write_table(paths[-1], judge.table(line))
        sheets += target_table.sheets_of(pool, name, report[name], gate)
        sheets += filter(None, [compared.sheet_of(name, report[name]["differences"], list(lines))])
        if pool.asked.power and (found := power(judge, lines)):
            report[name]["power"] = found
            compared_with = {"target": name, "one": found["one"], "other": found["other"]}
            tables["power"] += [compared_with | row for row in found["rows"]]
            sheets.append(compared.power_sheet(name, found))
        figures |= pictures(judge, lines, name)
    for target in (target for target in forgetting.targets if target.label is not None):
        report[target.name] = ClassArm(originals, forgetting, target).report()
        sheets.append(class_table.sheet_of(target.name, report[target.name]))
    for table, rows in tables.items():
        if rows:
            paths.append(pool.results / f"{table}.csv")
            _write_table(paths[-1], rows)
    paths.append(pool.results / "methods.json")
    chosen = settings_of(plans)
    said = {"gate": gate, "targets": report, "methods": chosen, "command": command, "commit": commit()}
    if pool.metrics:
        said["metrics"] = {name: pool.bench.plan.config["metric"][name] for name in pool.metrics}
    text = to_json(said)
    write_atomically(paths[-1], lambda part: part.write_text(text))
    if figures:
        paths += draw(pool, figures, [command, verdict(gate), who_was_tuned(chosen)])
    for sheet in sheets:
        print_sheet(sheet)
    print(who_was_tuned(chosen))
    print(*paths, sep="\n")
    return sheets


def settings_of(plans: Plans) -> dict[str, dict[str, Any]]:
    """By method and scenario: the settings, and the study that found them (None: there was none)."""
    from ssd_bench.run.cases import tuned_by

    return {
        f"{name}, {scenario}": {"settings": asdict(plan.method), "tuned": tuned_by(plan.config, None)}
        for (name, scenario), plan in plans.items()
    }


def who_was_tuned(chosen: dict[str, dict[str, Any]]) -> str:
    """In a line. chosen: see `settings_of`."""
    said = (f"{name}: {each['tuned']['budget'] if each['tuned'] else 'no'}" for name, each in chosen.items())
    return f"Tuned? {'; '.join(said)}. Settings: methods.json."


def pictures(judge: Any, lines: dict[str, Any], name: str) -> dict[str, tuple[str, Any]]:
    """How well attacks on a target do, whom they know, and the margins of an image: titles and figures, by the names of
    their files; none without matplotlib."""
    if not find_spec("matplotlib"):
        return {}
    import matplotlib

    from ssd_bench.report import attacks
    from ssd_bench.report.svg import STYLE

    scores, margins, row = judge.pictured(lines)
    image = f"{name}: training image {row}, the most memorised of them, model by model"
    found = {}
    with matplotlib.rc_context(STYLE):
        if scores:
            found[f"{name}-roc"] = f"{name}: U-LiRA", attacks.roc(scores)
            if len(judge.places) == 1 and not judge.block:
                known = attacks.by_memorisation(*judge.by_memorisation(lines))
                found[f"{name}-memorised"] = f"{name}: what was memorised, and what is still known", known
        return found | {f"{name}-image": (image, attacks.one_image(margins))}


def draw(pool: Any, figures: dict[str, tuple[str, Any]], lines: list[str]) -> list[Path]:
    """`methods.html`, and each figure as a PNG file."""
    from ssd_bench.report.page import page_of_figures
    from ssd_bench.report.pictures import save
    from ssd_bench.store.files import write_atomically

    path, title = pool.results / "methods.html", f"Methods on {pool.asked.size} models of {pool.name}"
    page = page_of_figures(title, lines, dict(figures.values()))
    write_atomically(path, lambda part: part.write_text(page))
    return [path, *(save(figure, title, pool.results / f"{name}.png") for name, (title, figure) in figures.items())]


def _write_table(path: Path, columns: dict[str, Any] | list[dict[str, Any]]) -> None:
    import pandas as pd

    from ssd_bench.store.files import write_atomically

    write_atomically(path, lambda part: pd.DataFrame(columns).to_csv(part, index=False))


def verdict(gate: dict[str, Any]) -> str:
    """Whether methods can be judged on this pool, in a line."""
    if gate["passed"] is None:
        return f"whether the originals leak cannot be said: {'; '.join(gate['lacking'])}"
    if gate["passed"]:
        return "the originals leak: what a method does about it can be measured on this pool"
    lacking = "; ".join(gate["lacking"])
    return (
        f"the originals do not leak enough for methods to be judged on this pool ({lacking}). What makes models "
        f"memorise more: {', '.join(gate['change'])}"
    )
