"""The command `ssd-bench`: compose with Hydra, hand over to the pipeline, and turn what goes wrong into one line."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import signal
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ssd_bench.cli import overrides
from ssd_bench.core import console
from ssd_bench.core.errors import CannotWrite, ConfigError
from ssd_bench.run import plan as planning

log = logging.getLogger(__name__)

finished: list[Path] = []  # rows of this process's jobs
failures: list[int] = []  # exit codes of this process's jobs that did not end well
started: list[bool] = []  # one for each job of this process
errors: list[ConfigError] = []  # of a single run: Hydra adds lines of its own to what a job raises
REPORTED = "ssd_bench_reported"  # mark of an exception whose job has said all about it; it survives pickling
JOURNAL = "SSD_BENCH_JOURNAL"  # names the file in which parallel workers tell the process that started them
grids: list[Any] = []  # the `estimate.Grid` of dry_run=true, once there is a job


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def main() -> NoReturn:
    """Entry point; ends with exit code 0 (done or skipped), 1 (in a sweep), 2 (input), 3 (diverged) or 130."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand us the exceptions instead of printing them
    finished.clear(), failures.clear(), errors.clear(), grids.clear(), started.clear()
    sweep = checked = dry = False
    start = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's way to say Ctrl-C
    try:
        args = _arguments()
        sweep = args.multirun
        _find_modules(args.config_dir)
        if not (args.help or args.hydra_help or args.info or args.shell_completion):
            if stands_for := overrides.sweep_of_experiment(args):
                args.overrides += stands_for
                sys.argv += [*stands_for, "hydra.sweeper.params=null"]
            overrides.check(args)
            checked, dry = True, overrides.is_dry(args)
        with tempfile.TemporaryDirectory() if sweep or dry else nullcontext() as aside:
            os.environ[JOURNAL] = f"{aside}/journal" if sweep else os.devnull
            if dry:  # one process counts, and what Hydra writes about a sweep is no part of the answer
                sys.argv += ["hydra/launcher=basic", f"hydra.sweep.dir={aside}"]
            try:
                hydra.main(version_base="1.3", config_path=str(planning.CONF_DIR), config_name="config")(_job)()
            finally:
                _read_journal()
        if errors:
            raise errors[0]
    except KeyboardInterrupt:
        _end(130, "interrupted; what is finished is kept, and the same command goes on from there")
    except (ConfigError, CompactHydraException, HydraException, OmegaConfBaseException) as e:
        if not hasattr(e, REPORTED):
            _end(1 if sweep and checked else 2, " ".join(str(e).split()))
    except Exception as e:
        if isinstance(e, OSError) and e.errno in NO_ROOM:
            _end(1 if sweep and checked else 2, str(CannotWrite.at(e.filename or "a file", e)))
        if not hasattr(e, REPORTED):
            if started or not checked:
                raise
            # Hydra's own settings are wrong, or a worker of a parallel sweep was killed
            what = "the sweep was cut short" if sweep else "Hydra cannot start the run"
            _end(1 if sweep else 2, f"{what} ({type(e).__name__}: {' '.join(str(e).split())})")
    if grids:
        print("\n".join(["", *grids[0].summary()]))
    if sweep and finished:
        _after_sweep(time.monotonic() - start)
    sys.exit(1 if sweep and failures else max(failures, default=0))


def _job(cfg: DictConfig) -> None:
    """One run, as Hydra calls it."""
    started.append(True)
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    parallel = sweep and not hydra_config.launcher._target_.endswith("BasicLauncher")
    console.bars_allowed = not parallel
    try:
        plan = planning.plan(cfg, {group: str(hydra_config.runtime.choices[group]) for group in planning.GROUPS})
        from ssd_bench.report.derive import derived_metrics
        from ssd_bench.report.rows import rows_beside
        from ssd_bench.report.table import show
        from ssd_bench.run import pipeline  # here, so that a typo or --help does not wait for torch

        if plan.settings.dry_run:
            _count(pipeline.prepare(plan, parallel))
            return
        path = pipeline.run(plan, parallel)
    except ConfigError as e:
        if not sweep:
            errors.append(e)
            return
        _note(failures, 2)
        print(f"ssd-bench: {e}", file=sys.stderr)
        setattr(e, REPORTED, True)
        raise
    except Exception as e:
        if sweep:
            _note(failures, 1)
            setattr(e, REPORTED, True)
            log.exception("this job failed; the others go on")
        raise
    row = json.loads(path.read_text())
    _note(finished, path)
    if row["status"] == "diverged":
        _note(failures, 3)
    if row["reason"]:
        log.warning("%s: %s", row["status"], row["reason"])
    if not sweep:
        rows = rows_beside(path)
        show(rows, derived_metrics(rows))
    print(f"metrics: {path}", flush=True)


def _note(to: list[Any], value: Path | int) -> None:
    """How a job ended: for this process, and for the one that started it where that is another.

    That one prints tables; where it cannot be told, on another node of a cluster, ssd-bench-report does.
    """
    to.append(value)
    line = json.dumps([os.getpid(), str(value) if to is finished else None, value if to is failures else None])
    with suppress(OSError), open(os.environ.get(JOURNAL, os.devnull), "a") as file:
        file.write(f"{line}\n")  # short: appended whole


def _read_journal() -> None:
    """What workers noted."""
    path = Path(os.environ.pop(JOURNAL))
    for pid, row, code in map(json.loads, path.read_text().splitlines() if path.exists() else ()):
        if pid != os.getpid():
            finished.extend([Path(row)] if row else [])
            failures.extend([code] if code else [])


def _count(bench: Any) -> None:
    """One line about a run of `dry_run=true`, and its part of the sums at the end."""
    from ssd_bench.run.estimate import Grid

    if not grids:
        grids.append(Grid())
    path = grids[0].add(bench)
    print(f"{path}: {'finished already' if grids[0].runs[path] else 'would be run'}", flush=True)


def _after_sweep(seconds: float) -> None:
    """The tables of each task that the sweep touched, over all its seeds, and where the time went."""
    from ssd_bench.report.derive import derived_metrics
    from ssd_bench.report.rows import rows_around
    from ssd_bench.report.table import show
    from ssd_bench.train.passes import in_model

    for rows in rows_around(finished):
        show(rows, derived_metrics(rows))
    out = finished[0].parents[3]
    log.info("attacks, distances to the retrained model, other formats and pictures: ssd-bench-report %s", out)
    share = f"; {100 * in_model.seconds / seconds:.1f} % of that inside forward and backward passes"
    log.info("%d runs in %s%s", len(finished), console.clock(seconds), share if in_model.seconds else "")
    if failures:
        log.warning("%d jobs failed: what they said stands above", len(failures))


def _arguments() -> argparse.Namespace:
    """The command line as Hydra parses it; what it cannot parse is a ConfigError instead of a page of usage."""
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message} (ssd-bench --help)")

    parser.error = fail
    args = parser.parse_intermixed_args()
    flags = [argument for argument in sys.argv[1:] if argument not in args.overrides]
    sys.argv[1:] = flags + args.overrides  # Hydra parses them again, and cannot have a flag between two overrides
    return args


def _find_modules(config_dir: str | None) -> None:
    """Let a `_target_` name a module of the user's: in the working directory, in --config-dir or beside it."""
    folders = [
        Path.cwd(),
        *([Path(config_dir).absolute(), Path(config_dir).absolute().parent] if config_dir else []),
    ]
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _end(code: int, message: str) -> NoReturn:
    sys.stdout.flush()
    print(f"ssd-bench: {message}", file=sys.stderr)
    sys.exit(code)
