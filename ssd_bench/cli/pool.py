"""The command `ssd-bench-pool`: train a pool of models, say whether they leak, and judge methods on them."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssd_bench.cli import beside, judge, overrides
from ssd_bench.cli.arguments import Parser
from ssd_bench.core import console
from ssd_bench.core.about import check_names
from ssd_bench.core.build import build
from ssd_bench.core.console import clock
from ssd_bench.core.errors import ConfigError
from ssd_bench.run.plan import Plan

log = logging.getLogger(__name__)

NOT_OURS = ("scenario", "experiment", "seed", "seed_unlearn", "seed_forget", "force", "save_model")
TASK = ["scenario=random", "scenario.n_forget=1", "method=original"]  # whose original a pool's models are like
LINES = {  # of the table: heading, decimals
    "auc": ("LiRA, AUC", 3),
    "tpr_1": ("LiRA, true positives at 1 % false ones (%)", 1),
    "tpr_01": ("LiRA, true positives at 0.1 % false ones (%)", 1),
    "rmia_auc": ("RMIA, AUC", 3),
    "rmia_tpr_1": ("RMIA, true positives at 1 % false ones (%)", 1),
    "rmia_tpr_01": ("RMIA, true positives at 0.1 % false ones (%)", 1),
    "memorisation_margin": ("memorisation by margin (spreads)", 2),
    "memorisation_correct": ("memorisation by answers (points)", 1),
    "accuracy_in": ("accuracy where trained on (%)", 2),
    "accuracy_out": ("accuracy where not (%)", 2),
}


def main(argv: list[str] | None = None) -> None:
    """Entry point; exit code 0, 2 (input), 3 (diverged) or 130 (interrupted; the same command goes on)."""
    parser = Parser(prog="ssd-bench-pool", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as of ssd-bench; method=a,b; pool.size=32, pool.seed=1, ...")
    parser.add_argument("--config-dir", help="a folder with model/, train/, ... of your own")
    beside.carry_out(parser, pool, argv)


def pool(args: argparse.Namespace) -> None:
    """Train what is missing of the pool that the arguments describe, and print what it says of its originals and of
    methods. Raises ConfigError."""
    where = [f"--config-dir={args.config_dir}"] * bool(args.config_dir)
    command = f"ssd-bench-pool {shlex.join([*where, *args.overrides])}"
    for override in args.overrides:
        key = override.lstrip("+~").partition("=")[0].partition(".")[0]
        if key in NOT_OURS:
            hint = "pool.targets says what is forgotten, and the pool what is measured"
            hint = "pool.seed decides on all that is drawn" if "seed" in key else hint
            raise ConfigError(f"{override}: a pool has no {key} of its own; leave it out ({hint})")
    chosen = judge.Chosen.taken_from(args)
    _, own = beside.own_settings(args, "pool")
    chosen.check(args)
    plan = beside.composed(args, TASK)
    check_metrics(plan, args.overrides)
    from ssd_bench.run.pool import PoolSettings  # here, so that a typo does not wait for torch

    asked = build(own["pool"], "pool", PoolSettings)
    parallel, workers = overrides.take_launcher(argparse.Namespace(overrides=list(args.overrides)))
    workers = (workers or os.cpu_count() or 1) if parallel else 1
    plans, missing = what_there_is_to_do(args, plan, asked, chosen, workers)
    if plan.settings.dry_run:
        return
    if parallel and missing:
        beside.launch(args, TASK, min(missing, workers), partial(worker, asked=asked, modules=sys.path))
    passed, table = measure(plan, asked, command)
    if not plans:
        return
    judge.check_gate(passed, asked)
    if parallel and (missing := models_to_ask(plan, asked, plans, chosen.placebo)):
        job = partial(forgetter, asked=asked, plans=pickle.dumps(plans), placebo=chosen.placebo, modules=sys.path)
        beside.launch(args, TASK, min(missing, workers), job)
    with at_work(plan, asked) as made:
        write_tables(made, [table, *judge.methods(made, plans, chosen.placebo, command, passed)])


def check_metrics(plan: Plan, given: list[str]) -> None:
    """Raise ConfigError for metrics that cannot judge methods on a pool, where some are asked for."""
    from ssd_bench.cli.target_table import TABLES  # here, for it imports torch

    owner = {name: "of a pool" for columns in TABLES.values() for name in columns}
    for name, metric in plan.metrics.items():
        if "pool" in getattr(metric, "needs", ()):
            check_names(name, metric.about, owner)
        elif any(override.lstrip("+~").startswith("metric") for override in given):
            raise ConfigError(
                f"metric={name}: a pool measures by itself; allowed: metrics of your own whose class says "
                'needs = ("pool",) (docs/extending.md)'
            )


def what_there_is_to_do(
    args: argparse.Namespace, plan: Plan, asked: Any, chosen: judge.Chosen, workers: int
) -> tuple[judge.Plans, int]:
    """The plans of the methods, and how many models are not there; what cannot be made says so now. With dry_run=true
    it is printed what it would cost."""
    from ssd_bench.run.pool import prepare
    from ssd_bench.train import devices

    with devices.threads_kept():
        made = prepare(plan, asked, to_count=not plan.settings.dry_run)
        plans = chosen.plans(args, made) if chosen.methods else {}
        if plans:
            judge.check_size(asked)
        if plan.settings.dry_run:
            print("\n".join(made.costs(workers) + (judge.costs(made, plans, chosen.placebo, workers) if plans else [])))
        return plans, len(made.missing())


def models_to_ask(plan: Plan, asked: Any, plans: judge.Plans, placebo: bool) -> int:
    """How many models have something to forget."""
    from ssd_bench.run.pool import prepare
    from ssd_bench.train import devices

    with devices.threads_kept():
        return judge.missing(prepare(plan, asked, to_count=True), plans, placebo)


def worker(cfg: DictConfig, asked: Any, modules: list[str]) -> None:
    """A job of a launcher: train until nothing is missing."""
    with at_work_in_job(cfg, asked, modules) as made:
        train(made)


def forgetter(cfg: DictConfig, asked: Any, plans: bytes, placebo: bool, modules: list[str]) -> None:
    """A job of a launcher: unlearn until nothing is missing. plans: pickled, as classes may lie in `modules`."""
    with at_work_in_job(cfg, asked, modules) as made:
        judge.unlearn(made, pickle.loads(plans), placebo)


@contextmanager
def at_work_in_job(cfg: DictConfig, asked: Any, modules: list[str]) -> Iterator[Any]:
    """The same as `at_work`, of the config that a launcher gives a job."""
    sys.path += [path for path in modules if path not in sys.path]
    console.bars_allowed = False
    with at_work(beside.plan_of(cfg, HydraConfig.get().runtime.choices), asked) as made:
        yield made


@contextmanager
def at_work(plan: Plan, asked: Any) -> Iterator[Any]:
    """The pool on a device of this process's, in the arithmetic that it is trained with."""
    from ssd_bench.run import cards
    from ssd_bench.run.pool import prepare
    from ssd_bench.train import devices

    with devices.threads_kept(), cards.leased(plan.settings.device) as device:
        made, settings = prepare(plan.on(device), asked), plan.settings
        with devices.arithmetic(made.bench.device, settings.precision, settings.compile):
            yield made


def measure(plan: Plan, asked: Any, command: str) -> tuple[dict[str, Any], Any]:
    """Train what is missing, then keep and print what the pool says of its originals; returns the gate's words and the
    table."""
    from ssd_bench.report.table import print_sheet
    from ssd_bench.run.originals import Originals

    with at_work(plan, asked) as made:
        train(made)
        found = Originals.read(made)
        report = found.report()
    paths, table = write(made, found, report, command), sheet_of(made, report)
    print_sheet(table)
    print(*paths, write_tables(made, [table]), sep="\n")
    return report["gate"], table


def train(made: Any) -> None:
    """Train what is missing, and say how far all the processes together have come."""
    start, begun = time.monotonic(), len(made.missing())
    if not begun:
        log.info("all %d models are there", made.asked.size)

    def told(m: int, missing: int) -> None:
        done = max(1, begun - missing)
        left = clock((time.monotonic() - start) / done * missing)
        log.info("model %d is there: %d of %d; about %s left", m, made.asked.size - missing, made.asked.size, left)

    made.train(told)


def write(made: Any, found: Any, report: dict[str, Any], command: str) -> list[Path]:
    """`pool.json` and `samples.csv`, for each size in a folder of its own."""
    import pandas as pd

    from ssd_bench.run.environment import commit
    from ssd_bench.run.pool import described
    from ssd_bench.store.files import to_json, write_atomically

    folder = made.results
    text = to_json(described(made) | report | {"command": command, "commit": commit()})
    write_atomically(folder / "samples.csv", lambda part: pd.DataFrame(found.samples()).to_csv(part, index=False))
    write_atomically(folder / "pool.json", lambda part: part.write_text(text))
    return [folder / "pool.json", folder / "samples.csv"]


def write_tables(made: Any, sheets: list[Any]) -> Path:
    """`tables.md`."""
    from ssd_bench.report.table import in_markdown
    from ssd_bench.store.files import write_atomically

    path = made.results / "tables.md"
    write_atomically(path, lambda part: part.write_text(in_markdown(sheets)))
    return path


def sheet_of(made: Any, report: dict[str, Any]) -> Any:
    """The table of the originals."""
    from ssd_bench.cli.target_table import shown
    from ssd_bench.report.sheet import Cell, Sheet

    names, samples = made.bench.plan.names, report["samples"]
    title = f"{names['data']}, {names['model']}: {made.asked.size} originals (pool.seed={made.asked.seed})"
    headings = [f"{n:,} {what}" for n, what in zip(samples.values(), HEADINGS, strict=True)]
    sheet = Sheet(title, headings, first="")
    for name, (heading, decimals) in LINES.items():
        of_set = [numbers.get(name) for numbers in report["numbers"].values()]
        sheet.lines.append((heading, [Cell(shown(number, decimals)) for number in of_set]))
    why = {number["reason"]: None for of in report["numbers"].values() for number in of.values() if "reason" in number}
    sheet.notes = [
        "[95 % interval over pairs of models and samples]; attacks: each model by all others but its twin",
        *(f"-: {reason}" for reason in why),
        judge.verdict(report["gate"]),
    ]
    return sheet


HEADINGS = ("single samples", "most memorised", "test images")
