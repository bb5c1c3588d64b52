"""The command `ssd-bench-store`: what lies under a folder of runs, whether it is whole, and what no run needs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout

from ssd_bench.artefacts import PART, Damaged, read_artefact
from ssd_bench.console import size, stdout
from ssd_bench.errors import ConfigError, check_choice
from ssd_bench.report.cli import Parser
from ssd_bench.results import read_rows
from ssd_bench.resume import Checkpoint

TRAINING = "training"  # the checkpoints of trainings that have not come to their end


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point; exit code 0, 1 if something is damaged, 2 with one line when the input is wrong."""
    code = 0
    try:
        parser = Parser(prog="ssd-bench-store", description=__doc__.split(": ", 1)[1])
        parser.add_argument("folder", type=Path, help="a folder of runs (out=..., default runs)")
        parser.add_argument("action", nargs="?", default="list", help=f"one of {', '.join(ACTIONS)} (default: list)")
        parser.add_argument("--yes", action="store_true", help="prune: remove, instead of saying what would be removed")
        parser.add_argument("--unfinished", action="store_true", help="prune: give up unfinished runs, too")
        args = parser.parse_args(arguments)
        check_choice("action", args.action, ACTIONS)
        if not args.folder.is_dir():
            raise ConfigError(f"{args.folder} is not a folder; give the one that runs were written to")
        code = ACTIONS[args.action](args)
    except ConfigError as e:
        print(f"ssd-bench: {e}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # `ssd-bench-store runs | head`
        sys.stderr.close()
    sys.exit(code)


def artefacts(folder: Path) -> list[Path]:
    """Where the tensors of every artefact under a folder lie, or should lie; checkpoints included."""
    files = (path for path in folder.rglob("artefacts/*/*") if path.suffix in (".safetensors", ".json"))
    return sorted({path.with_suffix(".safetensors") for path in files if not path.name.startswith(PART)})


def size_of(path: Path) -> int:
    """Bytes; 0 for what is not there (any more)."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def uses(folder: Path) -> Counter[tuple[str, ...]]:
    """How many rows name an artefact, by its kind and file name: the folder may have been moved."""
    named = (path for row in read_rows(folder) for path in set(row["artefacts"].values()) if path)
    return Counter(Path(path).parts[-2:] for path in named)


def show(args: argparse.Namespace) -> int:
    """Print every artefact with its size and the number of runs that use it, and the sums for each kind."""
    used, sums, counts = uses(args.folder), Counter(), Counter()
    for path in artefacts(args.folder):
        there = size_of(path) + size_of(path.with_suffix(".json"))
        kind = path.parent.name
        runs = "unfinished" if kind == TRAINING else f"{used[path.parts[-2:]]} runs"
        stdout().print(f"{size(there):>9}  {runs:>10}  {path.relative_to(args.folder)}")
        sums[kind] += there
        counts[kind] += 1
    for kind, total in sums.items():
        stdout().print(f"{size(total):>9}  {kind}, {counts[kind]} in all")
    stdout().print(f"{size(sum(map(size_of, leftovers(args.folder)))):>9}  left behind by killed processes, or damaged")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Read every artefact and every row; print those that are not what was written. 1 if there are any."""
    read = artefacts(args.folder)
    damaged = [(path, why) for path in read if (why := _damage(path))]
    rows = sorted(args.folder.rglob("metrics.json"))
    damaged += [(path, "no sound row") for path in unsound(args.folder)]
    for path, why in damaged:
        stdout().print(f"{path}: {why}")
    stdout().print(f"{len(read)} artefacts and {len(rows)} rows read: {len(damaged) or 'none'} damaged")
    return 1 if damaged else 0


def unsound(folder: Path) -> list[Path]:
    """The rows under a folder that cannot be read."""
    sound = {folder / row["path"] for row in read_rows(folder)}
    return [path for path in sorted(folder.rglob("metrics.json")) if path not in sound]


def _damage(path: Path) -> str | None:
    try:
        if path.parent.name == TRAINING:
            Checkpoint(path).read()
        else:
            read_artefact(path)
    except (Damaged, FileNotFoundError) as e:
        return str(e)
    return None


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of killed processes, and what was set aside because it was damaged."""
    return sorted(p for p in folder.rglob("*") if p.name.startswith(PART) or p.suffix == ".damaged")


def prune(args: argparse.Namespace) -> int:
    """Remove (with `--yes`) what no run needs: artefacts that no row names, and what was left behind.

    While there are unfinished runs, no artefact is removed unless they are given up: what they have made is named by no
    row yet. Raises ConfigError while a run is going on, and where a row is damaged: what it names would make it anew.
    """
    folder = args.folder
    with ExitStack() as locks:
        for lock in sorted(folder.rglob("metrics.lock")):
            try:
                locks.enter_context(FileLock(lock).acquire(timeout=0))
            except Timeout as e:
                raise ConfigError(f"a run is going on in {lock.parent}; try again when it is finished") from e
        if bad := unsound(folder):
            raise ConfigError(f"{bad[0]} is damaged; run it again, or remove the row, before its artefacts are pruned")
        used = uses(folder)
        unfinished = [lock.parent for lock in folder.rglob("metrics.lock") if not lock.with_suffix(".json").exists()]
        if unfinished and not args.unfinished:
            some = f"{len(unfinished)} unfinished runs, such as {unfinished[0].relative_to(folder)}"
            stdout().print(f"all artefacts are kept, for {some}; --unfinished gives up what such have made")
        unused = [p for p in artefacts(folder) if not used[p.parts[-2:]] and (args.unfinished or not unfinished)]
        gone = leftovers(folder) + [p for path in unused for p in (path, path.with_suffix(".json")) if p.exists()]
        total = sum(map(size_of, gone))
        for path in gone:
            stdout().print(f"{size(size_of(path)):>9}  {path.relative_to(folder)}")
            if args.yes:
                path.unlink(missing_ok=True)
    verdict = "removed" if args.yes else "would be removed; --yes removes them"
    stdout().print(f"{len(gone)} files, {size(total)}: {verdict}")
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {"list": show, "verify": verify, "prune": prune}
