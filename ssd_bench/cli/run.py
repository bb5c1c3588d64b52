"""The command `ssd-bench`: compose with Hydra, hand over to the pipeline, and turn what goes wrong into one line."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ssd_bench import __version__
from ssd_bench.cli import failure, overrides, progress, sweeper
from ssd_bench.cli.interrupt import interruptible
from ssd_bench.cli.sweeper import DIVERGED, REPORTED
from ssd_bench.core import console
from ssd_bench.core.errors import NO_ROOM, CannotWrite, ConfigError
from ssd_bench.run import plan as planning

log = logging.getLogger(__name__)

INPUT = (ConfigError, CompactHydraException, HydraException, OmegaConfBaseException)


@dataclass
class Command:
    """One call of the command: how its jobs ended."""

    sweep: bool = False
    checked: bool = False  # whether what can be checked without composing a job is right
    started: int = 0  # jobs of this process
    finished: list[Path] = field(default_factory=list)  # rows
    failures: list[int] = field(default_factory=list)  # exit codes of jobs that did not end well
    error: ConfigError | None = None  # of a single run: Hydra adds lines of its own to what a job raises
    grid: Any = None  # the `estimate.Grid` of dry_run=true, once there is a job
    counts_parallel: bool = False  # of dry_run=true: whether the launcher asked for is a parallel one
    workers: int | None = None  # and how many it would have
    json: bool = False  # whether rows are printed instead of tables
    begun: float = field(default_factory=time.monotonic)
    tell: Callable[..., None] | None = None  # of a parallel sweep: notes it for the process that started it


command = Command()  # Hydra calls `_job` with the config alone


@interruptible()
def main() -> NoReturn:
    """Entry point; exit code 0 (done, skipped), 1 (in a sweep, or a bug), 2 (input), 3 (diverged) or 130."""
    global command
    command, start = Command(), time.monotonic()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand us the exceptions instead of printing them
    try:
        _compose_and_run()
    except KeyboardInterrupt:
        _end(130, "interrupted; what is finished is kept, and the same command goes on from there")
    except Exception as e:
        if not hasattr(e, REPORTED):
            _end_badly(e)
        _keep(code=1)  # under a sweeper that is not ours, this process knows of no other
    if command.grid:
        from ssd_bench.run.agenda import makespans

        lines = makespans(command.grid, command.workers) if command.sweep else []
        print("\n".join(["", *command.grid.summary(), *lines]))
    if command.sweep and command.finished:
        _after_sweep(time.monotonic() - start)
    sys.exit(1 if command.sweep and command.failures else max(command.failures, default=0))


def _compose_and_run() -> None:
    """Check the command line, then let Hydra compose and start its jobs."""
    args = _arguments()
    command.sweep, dry = args.multirun, False
    find_modules(args.config_dir)
    if not (args.help or args.hydra_help or args.info or args.shell_completion):
        if stands_for := overrides.sweep_of_experiment(args):
            args.overrides += stands_for
            sys.argv += [*stands_for, "hydra.sweeper.params=null"]
        overrides.check(args)
        command.checked, dry, command.json = True, overrides.says(args, "dry_run"), overrides.says(args, "json")
    with tempfile.TemporaryDirectory() if dry else nullcontext() as aside:
        sweeper.told.clear()
        if dry:  # one process counts, and what Hydra writes about a sweep is no part of the answer
            flags = _flags(args)
            command.counts_parallel, command.workers = overrides.take_launcher(args)
            sys.argv[1:] = [*flags, *args.overrides, f"hydra.sweep.dir={aside}"]
        try:
            hydra.main(version_base="1.3", config_path=str(planning.CONF_DIR), config_name="config")(_job)()
        finally:
            for event in sweeper.told:
                _keep(event["row"], event["code"])
    if command.error:
        raise command.error


def _end_badly(e: Exception) -> None:
    """End with the one line that says what is wrong; raises what nobody foresaw."""
    wrong = 1 if command.sweep and command.checked else 2
    if isinstance(e, INPUT):
        _end(wrong, " ".join(str(e).split()))
    if isinstance(e, OSError) and e.errno in NO_ROOM:
        _end(wrong, str(CannotWrite.at(e.filename or "a file", e)))
    if command.started or not command.checked:
        raise e
    # Hydra's own settings are wrong, or a worker of a parallel sweep was killed
    what = "the sweep was cut short" if command.sweep else "Hydra cannot start the run"
    _end(1 if command.sweep else 2, f"{what} ({type(e).__name__}: {' '.join(str(e).split())})")


def _job(cfg: DictConfig) -> None:
    """One job, as Hydra calls it: a run, or a ticket of a parallel sweep."""
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    parallel = sweep and sweeper.is_parallel(hydra_config)
    console.bars_allowed = not parallel
    if folder := hydra_config.job.env_set.get(sweeper.AGENDA):
        from ssd_bench.cli import ticket

        ticket.serve(Path(folder), _ticket)
        return
    names = {group: str(hydra_config.runtime.choices[group]) for group in planning.GROUPS}
    if parallel:  # under a sweeper that is not ours
        from ssd_bench.run import cards

        with cards.leased(str(cfg.device)) as device:
            _run(lambda: planning.plan(cfg, names).on(device), sweep, parallel)
        return
    try:
        _run(lambda: planning.plan(cfg, names), sweep, parallel)
    finally:
        if sweep and not command.grid:
            progress.between_jobs(command.started, sweeper.runs, command.begun)


def _ticket(agenda: Any, unit: Any, device: str) -> None:
    """One run of a parallel sweep."""
    from ssd_bench.cli.ticket import plan_of

    command.tell = agenda.note
    _run(lambda: plan_of(agenda, unit, device), True, True, unit.label)


def _run(planned: Callable[[], Any], sweep: bool, parallel: bool, label: str = "this job") -> None:
    """One run, and how it ended."""
    command.started += 1
    try:
        plan = planned()
        from ssd_bench.run import pipeline  # here, so that a typo or --help does not wait for torch

        if plan.settings.dry_run:
            _count(pipeline.prepare(plan, command.counts_parallel))
            return
        path = pipeline.run(plan, parallel)
    except ConfigError as e:
        if not sweep:
            command.error = e
            return
        _note(code=2)
        print(f"ssd-bench: {e}" + (f" ({label})" if parallel else ""), file=sys.stderr)
        setattr(e, REPORTED, True)
        raise
    except Exception as e:
        if not sweep and isinstance(e, OSError) and e.errno in NO_ROOM:
            raise
        _note(code=1)
        setattr(e, REPORTED, True)
        print(failure.explain(e), file=sys.stderr)
        if sweep:
            log.error("%s failed; the others go on", label)
        raise
    _say(path, sweep, plan.settings.json)


def _say(path: Path, sweep: bool, as_json: bool) -> None:
    """Note how a run ended that left a row, and print what is printed run by run."""
    from ssd_bench.report.derive import derived_metrics
    from ssd_bench.report.rows import rows_beside
    from ssd_bench.report.summary import summarise
    from ssd_bench.report.table import show

    row = json.loads(path.read_text())
    _note(row=path)
    if row["status"] == "diverged":
        _note(code=DIVERGED)
    if row["reason"]:
        log.warning("%s: %s", row["status"], row["reason"])
    command.json |= as_json
    if not sweep and as_json:
        _print_rows([path])
    elif not sweep:
        rows = rows_beside(path)
        show(summarise(rows, derived_metrics(rows)))
    if not (sweep and as_json):
        print(f"metrics: {path}", flush=True)


def _print_rows(paths: list[Path]) -> None:
    """One JSON object a line: the row, and where it lies."""
    for path in paths:
        print(json.dumps(json.loads(path.read_text()) | {"path": str(path)}, allow_nan=False), flush=True)


def _note(row: Path | None = None, code: int | None = None) -> None:
    """How a run ended: for this process, or for the one that started the sweep, which reads what all of them told."""
    if command.tell:
        command.tell(row=row and str(row.absolute()), code=code)
    else:
        _keep(row, code)


def _keep(row: Path | str | None = None, code: int | None = None) -> None:
    if row:
        command.finished.append(Path(row))
    if code:
        command.failures.append(code)


def _count(bench: Any) -> None:
    """One line about a run of `dry_run=true`, and its part of the sums at the end."""
    from ssd_bench.run.estimate import Grid

    command.grid = command.grid or Grid()
    path = command.grid.add(bench)
    otherwise = f"would be skipped, {bench.skipped}" if bench.skipped else "would be run"
    print(f"{path}: {'finished already' if command.grid.runs[path] else otherwise}", flush=True)


def _after_sweep(seconds: float) -> None:
    """The tables of each task that the sweep touched, over all its seeds (or its rows), and where the time went."""
    from ssd_bench.report.derive import derived_metrics
    from ssd_bench.report.rows import rows_around
    from ssd_bench.report.summary import summarise
    from ssd_bench.report.table import show
    from ssd_bench.train.passes import pass_clock

    if command.json:
        _print_rows(list(dict.fromkeys(command.finished)))
    for rows in rows_around([] if command.json else command.finished):
        show(summarise(rows, derived_metrics(rows)))
    out = command.finished[0].parents[3]
    log.info(
        "attacks, distances to the retrained model, other formats and pictures: ssd-bench-report %s",
        shlex.quote(str(out)),
    )
    share = f"; {100 * pass_clock.seconds / seconds:.1f} % of that inside forward and backward passes"
    log.info("%d runs in %s%s", len(command.finished), console.clock(seconds), share if pass_clock.seconds else "")
    if command.failures:
        log.warning("%d jobs failed: what they said stands above", len(command.failures))


def _arguments() -> argparse.Namespace:
    """The command line as Hydra parses it; what it cannot parse is a ConfigError instead of a page of usage."""
    parser = get_args_parser()
    [hydras] = [action for action in parser._actions if "--version" in action.option_strings]
    hydras.version = f"ssd-bench {__version__} (Hydra {hydra.__version__})"

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message} (ssd-bench --help)")

    parser.error = fail
    args = parser.parse_intermixed_args()
    sys.argv[1:] = (
        _flags(args) + args.overrides
    )  # Hydra parses them again, and cannot have a flag between two overrides
    return args


def _flags(args: argparse.Namespace) -> list[str]:
    """What stands on the command line beside overrides."""
    return [argument for argument in sys.argv[1:] if argument not in args.overrides]


def find_modules(config_dir: str | None) -> None:
    """Let a `_target_` name a module of the user's: in the working directory, in --config-dir or beside it.

    And let the cases of its tuned/ count.
    """
    overrides.Cases.own = Path(config_dir).absolute() if config_dir else None
    folders = [
        Path.cwd(),
        *([Path(config_dir).absolute(), Path(config_dir).absolute().parent] if config_dir else []),
    ]
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _end(code: int, message: str) -> NoReturn:
    sys.stdout.flush()
    print(f"ssd-bench: {message}", file=sys.stderr)
    sys.exit(code)
