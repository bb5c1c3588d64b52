"""The command `ssd-bench-tune`: search a method's settings on requests that are never reported."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssd_bench.cli import beside
from ssd_bench.cli.arguments import Parser
from ssd_bench.cli.beside import composed, of_method
from ssd_bench.core.build import build
from ssd_bench.core.console import clock, quiet
from ssd_bench.core.errors import ConfigError, check_installed
from ssd_bench.run import plan as planning
from ssd_bench.run.cases import CHOICES
from ssd_bench.run.plugins import nodes
from ssd_bench.store.files import writable, write_atomically
from ssd_bench.store.rows import STUDIES

log = logging.getLogger(__name__)

HERE = ("out=", "data.root=")  # where things lie on this machine, which is no part of the command that is kept
APART = ("data.root", "data.download", "data.test_per_class", "scenario.target")  # what settings do not hang on
NOT_HERE = {  # what no trial could be run with as the table will be
    "experiment": "a study is of one method on one request: name data=, model=, scenario=, train=",
    "fidelity": "studies are for fidelity=corrected; the released settings are what fidelity=official takes",
    "model.checkpoint": "it may have seen the images that stand in for test images; studies train their own models",
}


def main(argv: list[str] | None = None) -> None:
    """Entry point; exit code 0, 1 (one of several studies failed), 2 (input) or 130 (interrupted; it goes on)."""
    parser = Parser(prog="ssd-bench-tune", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as of ssd-bench; method=a,b; budget.trials=30, study.seed=1, ...")
    parser.add_argument("--config-dir", help="a folder with method/, search/, ... of your own")
    beside.carry_out(parser, all_of, argv)


def all_of(args: argparse.Namespace) -> int:
    """One study after the other; the exit code. Raises ConfigError before the first of them."""
    studies, failed = of_each_method(args.overrides), False
    for overrides in studies:
        check(argparse.Namespace(**vars(args) | {"overrides": overrides}))
    for args.overrides in studies:
        try:
            tune(args)
        except ConfigError as e:
            if len(studies) == 1:
                raise
            print(f"ssd-bench: {e}", file=sys.stderr)
            failed = True
    return int(failed)


def of_each_method(given: list[str]) -> list[list[str]]:
    """The overrides of one study for each method that `method=a,b` names."""
    [*_, asked] = [None, *(o for o in given if o.startswith("method="))]
    names = asked.removeprefix("method=").split(",") if asked else []
    return [[f"method={name}" if o == asked else o for o in given] for name in names] or [given]


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for what no study could be made of, before the first of several begins."""
    check_installed("optuna", "tune", "ssd-bench-tune")
    for key, value in (o.lstrip("+").split("=", 1) for o in args.overrides if "=" in o):
        if key in NOT_HERE:
            raise ConfigError(f"{key}={value} cannot be tuned with: {NOT_HERE[key]}")
    _, settings = beside.own_settings(args, "tune")
    from ssd_bench.tune.study import Budget, Objective, Validation

    for group, kind in (("budget", Budget), ("validation", Validation), ("objective", Objective)):
        build(settings[group], group, kind)
    out = composed(args, []).settings.out
    if not writable(Path(out)):
        raise ConfigError(f"out={out} cannot be written; choose a folder that can")


def tune(args: argparse.Namespace) -> None:
    """Carry out the study that the arguments describe. Raises ConfigError."""
    own, settings = beside.own_settings(args, "tune")
    plan = composed(args, [])
    if not given(args, "method"):  # the default one: named, so that trials keep what is set of it
        args.overrides.insert(0, f"method={plan.names['method']}")
    if plan.settings.dry_run:
        print("\n".join(dry(args, plan, settings)))
        return
    from ssd_bench.tune.study import progress

    study = make_study(args, plan, settings)
    with quiet("ssd_bench.methods", logging.ERROR):  # trials may well be senseless
        ended = study.run(lambda found, trial: log.info("%s", progress(found, study.budget, trial)))
    here = HERE if downloaded(plan) else HERE[:1]
    said = [f"--config-dir={args.config_dir}"] * bool(args.config_dir)
    said += [o for o in [*args.overrides, *own] if not o.startswith(here)]
    paths = leave(args, study, ended, f"ssd-bench-tune {shlex.join(said)}")
    use = f"settings from this study: ssd-bench --config-dir {paths[0].parents[1]} ..."
    if args.config_dir:  # a run takes one folder
        use = f"settings from this study: put what {paths[0]} holds into {args.config_dir}/tuned/{paths[0].name}"
    print(*paths, use, sep="\n")


def make_study(args: argparse.Namespace, plan: planning.Plan, settings: dict[str, dict[str, Any]]) -> Any:
    """The study, checked. Raises ConfigError."""
    from ssd_bench.tune.space import read_space
    from ssd_bench.tune.study import Budget, Objective, Sampling, Study, Validation, check_scenario

    check_scenario(plan)
    method, own = plan.names["method"], build(settings["study"], "study", Sampling)
    spaces = nodes("search", *([Path(args.config_dir)] if args.config_dir else []))
    if method not in spaces:
        have = ", ".join(sorted(spaces))
        raise ConfigError(f"method={method} has no search space: write search/{method}.yaml; there are those of {have}")
    recipe = [plan.names["train"]] if given(args, "train") else []
    name = own.name or "-".join([*(plan.names[group] for group in ("method", "data", "model", "scenario")), *recipe])
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ConfigError(f"study.name={name}: a name of letters, digits and . + - _ alone, for it names a folder")
    return Study(
        name=name,
        method=method,
        folder=Path(plan.settings.out) / STUDIES / name,
        space=read_space(method, type(plan.method), spaces[method], lambda: images_each(plan)),
        plan_of=lambda more: composed(args, more),
        budget=build(settings["budget"], "budget", Budget),
        validation=build(settings["validation"], "validation", Validation),
        objective=build(settings["objective"], "objective", Objective),
        seed=own.seed,
        startup=own.startup,
        own_space=spaces[method] != nodes("search").get(method, spaces[method]),
    )


def images_each(plan: planning.Plan) -> float:
    """Training images for each of those that the plan's request is to forget; those of validation ask for as many."""
    request = plan.scenario(plan.data.load(), plan.data.targets, plan.seed_forget)
    return len(request.train) / len(request.forget)


def dry(args: argparse.Namespace, plan: planning.Plan, settings: dict[str, dict[str, Any]]) -> list[str]:
    """What the study would cost: what its trials share, and a trial."""
    from ssd_bench.run import pipeline
    from ssd_bench.run.estimate import Grid

    study = make_study(args, plan, settings)
    shared, trial = Grid(), Grid()
    for task in study.tasks:
        for method in ("original", study.reference, study.method):
            bench = pipeline.prepare(composed(args, [*study.base, *task, f"method={method}"]))
            (trial if method == study.method else shared).add(bench)
    own = {path: work for path, work in trial.work.items() if path not in shared.work}
    each = sum(seconds for _, seconds in own.values())
    once = sum(seconds for _, seconds in shared.work.values())
    return [
        f"{len(study.tasks)} validation tasks: {'; '.join(' '.join(task) for task in study.tasks)}",
        f"made once: originals and {study.reference} models, about {clock(once)} of forward and backward passes",
        f"a trial: at most about {clock(each)}; {study.budget.trials} of them: {clock(each * study.budget.trials)}",
    ]


def leave(args: argparse.Namespace, study: Any, ended: Any, command: str) -> list[Path]:
    """Write what the study found; the paths. Raises ConfigError."""
    from ssd_bench.report.page import page_of_figures
    from ssd_bench.tune import result

    base = [*study.base, *study.tasks[0]]
    untold = argparse.Namespace(**vars(args) | {"overrides": [o for o in args.overrides if not searched(o, study)]})
    published, official = composed(untold, base), composed(untold, [*base, "fidelity=official"])
    about = result.describe(study, ended, command)
    found = result.case(about, conditions(args, study), published.method, official.method)
    paths = result.write(study, ended, about, found)
    said = [f"{name}: {about[name]}" for name in ("command", "commit", "budget", "objective", "untuned", "settings")]
    page = study.folder / "page.html"
    text = page_of_figures(f"Study {study.name}", said, result.pictures(ended))
    write_atomically(page, lambda path: path.write_text(text))
    return [*paths, page]


def searched(override: str, study: Any) -> bool:
    """Whether the setting is one that the study varies, so that the command line says but where it begins."""
    return of_method(override) and override.partition("=")[0].rpartition("method.")[2] in study.space


def downloaded(plan: planning.Plan) -> bool:
    """Whether the data are the same for everybody, so that where they lie is no part of what they are."""
    return hasattr(plan.data, "download")


def given(args: argparse.Namespace, key: str) -> bool:
    return any(o.startswith(f"{key}=") for o in args.overrides)


def conditions(args: argparse.Namespace, study: Any) -> dict[str, Any]:
    """When the result holds: for these options, on this data, recipe and precision, and with the settings of the method
    that were not searched, as far as the command line set them. `train=fast` sets all of a recipe."""
    plan = study.plan
    when: dict[str, Any] = {group: plan.names[group] for group in CHOICES[1:]}
    if given(args, "train"):
        when |= {f"train.{key}": value for key, value in plan.config["train"].items() if not key.startswith("_")}
    if given(args, "precision"):
        when["precision"] = plan.config["precision"]
    apart = APART if downloaded(plan) else [key for key in APART if key != "data.root"]
    keys = sorted(o.partition("=")[0].lstrip("+") for o in args.overrides if not searched(o, study))
    for key in keys:
        group, dot, _ = key.partition(".")
        if dot and group in ("data", "method", "model", "scenario", "train") and key not in apart:
            when[key] = OmegaConf.select(OmegaConf.create(plan.config), key)
    return when
