"""The command `ssd-bench-pool`: train a pool of models, and say whether they leak and what they memorise."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssd_bench.cli import beside, overrides
from ssd_bench.core import console
from ssd_bench.core.build import build
from ssd_bench.core.console import clock, log_handler
from ssd_bench.core.errors import ConfigError, Diverged
from ssd_bench.run.plan import Plan

log = logging.getLogger(__name__)

NOT_OURS = ("scenario", "method", "metric", "experiment", "seed", "seed_unlearn", "seed_forget", "force", "save_model")
TASK = ["scenario=random", "scenario.n_forget=1", "method=original"]  # whose original a pool's models are like
LINES = {  # of the table: heading, decimals
    "auc": ("LiRA, AUC", 3),
    "tpr_1": ("LiRA, true positives at 1 % false ones (%)", 1),
    "tpr_01": ("LiRA, true positives at 0.1 % false ones (%)", 1),
    "memorisation_margin": ("memorisation by margin (spreads)", 2),
    "memorisation_correct": ("memorisation by answers (points)", 1),
    "accuracy_in": ("accuracy where trained on (%)", 2),
    "accuracy_out": ("accuracy where not (%)", 2),
}


def main(argv: list[str] | None = None) -> None:
    """Entry point; exit code 0, 2 (input), 3 (diverged) or 130 (interrupted; the same command goes on)."""
    parser = argparse.ArgumentParser(prog="ssd-bench-pool", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as of ssd-bench, and pool.size=32, pool.seed=1, ...")
    parser.add_argument("--config-dir", help="a folder with model/, train/, ... of your own")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, handlers=[log_handler()], force=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code, said = 0, ""
    try:
        pool(args)
    except KeyboardInterrupt:
        code, said = 130, "interrupted; what is finished is kept, and the same command goes on from there"
    except ConfigError as e:
        code, said = 2, str(e)
    except Diverged as e:
        code, said = 3, f"{e}; lower train.lr"
    if code:
        print(f"ssd-bench: {said}", file=sys.stderr)
        sys.exit(code)


def pool(args: argparse.Namespace) -> None:
    """Train what is missing of the pool that the arguments describe, and print what it says. Raises ConfigError."""
    command = f"ssd-bench-pool {shlex.join(args.overrides)}"
    for override in args.overrides:
        key = override.lstrip("+~").partition("=")[0].partition(".")[0]
        if key in NOT_OURS:
            hint = "pool.seed decides on all that is drawn" if "seed" in key else "all of its models are originals"
            raise ConfigError(f"{override}: a pool has no {key} of its own; leave it out ({hint})")
    _, own = beside.own_settings(args, "pool")
    plan = beside.composed(args, TASK)
    from ssd_bench.run.pool import PoolSettings  # here, so that a typo does not wait for torch

    asked = build(own["pool"], "pool", PoolSettings)
    parallel, workers = overrides.take_launcher(argparse.Namespace(overrides=list(args.overrides)))
    if plan.settings.dry_run:
        dry(plan, asked, (workers or os.cpu_count() or 1) if parallel else 1)
        return
    if parallel and (missing := missing_of(plan, asked)):
        job = partial(worker, asked=asked, modules=sys.path)
        beside.launch(args, TASK, min(missing, workers or os.cpu_count() or 1), job)
    measure(plan, asked, command)


def dry(plan: Plan, asked: Any, workers: int) -> None:
    """Print what is missing and what it would cost."""
    from ssd_bench.run.pool import prepare
    from ssd_bench.train import devices

    with devices.threads_kept():
        print("\n".join(prepare(plan, asked).costs(workers)))


def missing_of(plan: Plan, asked: Any) -> int:
    """How many models are not there; what cannot be trained says so now."""
    from ssd_bench.run.pool import prepare
    from ssd_bench.train import devices

    with devices.threads_kept():
        return len(prepare(plan, asked).missing())


def worker(cfg: DictConfig, asked: Any, modules: list[str]) -> None:
    """A job of a launcher: train until nothing is missing."""
    sys.path += [path for path in modules if path not in sys.path]
    console.bars_allowed = False
    with at_work(beside.plan_of(cfg, HydraConfig.get().runtime.choices), asked) as made:
        train(made)


@contextmanager
def at_work(plan: Plan, asked: Any) -> Iterator[Any]:
    """The pool on a device of this process's, in the arithmetic that it is trained with."""
    from ssd_bench.run import cards
    from ssd_bench.run.pool import prepare
    from ssd_bench.train import devices

    with devices.threads_kept(), cards.leased() as device:
        made = prepare(plan.on(device), asked)
        with devices.arithmetic(made.bench.device, plan.settings.precision):
            yield made


def measure(plan: Plan, asked: Any, command: str) -> None:
    """Train what is missing, then keep and print what the pool says of its originals."""
    from ssd_bench.run.originals import Originals

    with at_work(plan, asked) as made:
        train(made)
        found = Originals.read(made)
        report = found.report()
    paths = write(made, found, report, command)
    show(made, report)
    for path in paths:
        print(path)


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


def show(made: Any, report: dict[str, Any]) -> None:
    """Print the table of the originals."""
    from ssd_bench.report.sheet import Cell, Sheet
    from ssd_bench.report.table import print_sheet

    names, samples = made.bench.plan.names, report["samples"]
    title = f"{names['data']}, {names['model']}: {made.asked.size} originals (pool.seed={made.asked.seed})"
    headings = [f"{n:,} {what}" for n, what in zip(samples.values(), HEADINGS, strict=True)]
    sheet = Sheet(title, headings, first="")
    for name, (heading, decimals) in LINES.items():
        of_set = [numbers.get(name) for numbers in report["numbers"].values()]
        sheet.lines.append((heading, [Cell(shown(number, decimals)) for number in of_set]))
    why = {number["reason"]: None for of in report["numbers"].values() for number in of.values() if "reason" in number}
    sheet.notes = [
        "[95 % interval over pairs of models and samples]; LiRA: each model attacked by all others but its twin",
        *(f"-: {reason}" for reason in why),
        verdict(report["gate"]),
    ]
    print_sheet(sheet)


HEADINGS = ("single samples", "most memorised", "test images")


def shown(number: dict[str, Any] | None, decimals: int) -> str:
    """A number with its interval."""
    if number is None:
        return ""
    if number["value"] is None:
        return "-"
    value, low, high = (f"{number[key]:.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


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
