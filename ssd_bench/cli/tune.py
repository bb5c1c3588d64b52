"""The command `ssd-bench-tune`: search a method's settings on requests that are never reported."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from ssd_bench.cli import beside
from ssd_bench.cli.beside import composed
from ssd_bench.core.build import build
from ssd_bench.core.console import clock, log_handler, quiet
from ssd_bench.core.errors import ConfigError, check_installed
from ssd_bench.run import plan as planning
from ssd_bench.run.plugins import nodes

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    """Entry point; exit code 0, 2 (input) or 130 (interrupted; the same command goes on)."""
    parser = argparse.ArgumentParser(prog="ssd-bench-tune", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as of ssd-bench, and budget.trials=30, study.seed=1, ...")
    parser.add_argument("--config-dir", help="a folder with method/, search/, ... of your own")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, handlers=[log_handler()], force=True)
    try:
        tune(args)
    except KeyboardInterrupt:
        print("ssd-bench-tune: interrupted; the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except ConfigError as e:
        print(f"ssd-bench: {e}", file=sys.stderr)
        sys.exit(2)


def tune(args: argparse.Namespace) -> None:
    """Carry out the study that the arguments describe. Raises ConfigError."""
    check_installed("optuna", "tune", "ssd-bench-tune")
    own, settings = beside.own_settings(args, "tune")
    plan = composed(args, [])
    if plan.settings.dry_run:
        print("\n".join(dry(args, plan, settings)))
        return
    from ssd_bench.tune.study import progress

    study = make_study(args, plan, settings)
    with quiet("ssd_bench.methods", logging.ERROR):  # trials may well be senseless
        ended = study.run(lambda found, trial: log.info("%s", progress(found, study.budget, trial)))
    command = f"ssd-bench-tune {shlex.join([*args.overrides, *own])}"
    for path in write_result(study, ended, plan, composed(args, ["fidelity=official"]), command):
        print(path)


def make_study(args: argparse.Namespace, plan: planning.Plan, settings: dict[str, dict[str, Any]]) -> Any:
    """The study, checked. Raises ConfigError."""
    from ssd_bench.tune.space import read_space
    from ssd_bench.tune.study import Budget, Objective, Study, Validation

    method, own = plan.names["method"], settings["study"]
    spaces = nodes("search", *([Path(args.config_dir)] if args.config_dir else []))
    if method not in spaces:
        have = ", ".join(sorted(spaces))
        raise ConfigError(f"method={method} has no search space: write search/{method}.yaml; there are those of {have}")
    name = own["name"] or "-".join(plan.names[group] for group in ("method", "data", "model", "scenario"))
    return Study(
        name=name,
        method=method,
        folder=Path(plan.settings.out) / "tuning" / name,
        space=read_space(method, type(plan.method), spaces[method]),
        plan_of=lambda more: composed(args, more),
        budget=build(settings["budget"], "budget", Budget),
        validation=build(settings["validation"], "validation", Validation),
        objective=build(settings["objective"], "objective", Objective),
        seed=own["seed"],
        startup=own["startup"],
    )


def dry(args: argparse.Namespace, plan: planning.Plan, settings: dict[str, dict[str, Any]]) -> list[str]:
    """What the study would cost: what its trials share, and a trial."""
    from ssd_bench.run import pipeline
    from ssd_bench.run.estimate import Grid

    study = make_study(args, plan, settings)
    shared, trial = Grid(), Grid()
    for task in study.tasks:
        for method in ("original", "retrain", study.method):
            bench = pipeline.prepare(composed(args, [*study.base, *task, f"method={method}"]))
            (trial if method == study.method else shared).add(bench)
    own = {path: work for path, work in trial.work.items() if path not in shared.work}
    each = sum(seconds for _, seconds in own.values())
    once = sum(seconds for _, seconds in shared.work.values())
    return [
        f"{len(study.tasks)} validation tasks: {'; '.join(' '.join(task) for task in study.tasks)}",
        f"made once: originals and retrained models, about {clock(once)} of forward and backward passes",
        f"a trial: at most about {clock(each)}; {study.budget.trials} of them: {clock(each * study.budget.trials)}",
    ]


def write_result(study: Any, ended: Any, plan: planning.Plan, official: planning.Plan, command: str) -> list[Path]:
    """Files beside the journal: the best settings in the form of conf/tuned/, what is known of them, and the trials."""
    from ssd_bench.run.environment import commit
    from ssd_bench.tune.study import choose

    best, second = choose(ended, study.objective.slack)
    first = next((t for t in ended.get_trials() if t.number == 0 and t.value is not None), None)
    about = {"command": command, "commit": commit(), "trials": len(ended.trials), "floors": ended.user_attrs["floors"]}
    about |= {"seed": study.seed, "tasks": study.tasks, "objective": best.value, "published": first and first.value}
    about |= {"settings": best.params, **{name: best.user_attrs[name] for name in ("passes", "cost_s")}}
    about |= {"runner_up": second and {"objective": second.value, "settings": second.params}}
    known = {f.name: getattr(official.method, f.name) for f in fields(official.method)}
    lines = ["# @package _global_", f"# {command}", f"# {len(ended.trials)} trials, commit {about['commit']}"]
    lines.append(f"# objective {best.value:.3g}" + (f"; without a study {first.value:.3g}" if first else ""))
    lines.append("method:")
    for name, value in best.params.items():
        lines.append(f"  {name}: ${{by_fidelity:{json.dumps(value)},{json.dumps(known[name])}}}")
    paths = [study.folder / name for name in ("tuned.yaml", "result.json", "trials.csv")]
    paths[0].write_text("\n".join(lines) + "\n")
    paths[1].write_text(json.dumps(about, indent=1) + "\n")
    ended.trials_dataframe(attrs=("number", "state", "value", "params", "user_attrs")).to_csv(paths[2], index=False)
    return paths
