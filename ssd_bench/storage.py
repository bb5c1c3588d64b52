"""The command `ssd-bench-store`: what lies under a folder of runs, whether it is whole, and what no run needs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
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
        args = parser.parse_args(arguments)
        check_choice("action", args.action, ACTIONS)
        if not args.folder.is_dir():
            raise ConfigError(f"{args.folder} is not a folder; give the one that runs were written to")
        code = ACTIONS[args.action](args.folder, args.yes)
    except ConfigError as e:
        print(f"ssd-bench: {e}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # `ssd-bench-store runs | head`
        sys.stderr.close()
    sys.exit(code)


def artefacts(folder: Path) -> list[Path]:
    """The tensor files of every artefact under a folder, checkpoints of unfinished trainings included."""
    return sorted(folder.rglob("artefacts/*/*.safetensors"))


def uses(folder: Path) -> Counter[tuple[str, ...]]:
    """How many rows name an artefact, by its kind and file name: the folder may have been moved."""
    named = (path for row in read_rows(folder) for path in set(row["artefacts"].values()) if path)
    return Counter(Path(path).parts[-2:] for path in named)


def show(folder: Path, yes: bool) -> int:
    """Print every artefact with its size and the number of runs that use it, and the sums for each kind."""
    used, sums = uses(folder), Counter()
    for path in artefacts(folder):
        there = sum(p.stat().st_size for p in (path, path.with_suffix(".json")) if p.exists())
        kind = path.parent.name
        runs = "unfinished" if kind == TRAINING else f"{used[path.parts[-2:]]} runs"
        stdout().print(f"{size(there):>9}  {runs:>10}  {path.relative_to(folder)}")
        sums[kind] += there
    rest = sum(p.stat().st_size for p in leftovers(folder))
    for kind, total in sums.items():
        stdout().print(f"{size(total):>9}  {kind}, {sum(p.parent.name == kind for p in artefacts(folder))} in all")
    stdout().print(f"{size(rest):>9}  left behind by killed processes, or damaged")
    return 0


def verify(folder: Path, yes: bool) -> int:
    """Read every artefact and every row; print those that are not what was written. 1 if there are any."""
    damaged = [(path, why) for path in artefacts(folder) if (why := _damage(path))]
    sound = {folder / row["path"] for row in read_rows(folder)}
    damaged += [(path, "no sound row") for path in sorted(folder.rglob("metrics.json")) if path not in sound]
    for path, why in damaged:
        stdout().print(f"{path}: {why}")
    stdout().print(f"{len(artefacts(folder))} artefacts and {len(sound)} rows read: {len(damaged) or 'none'} damaged")
    return 1 if damaged else 0


def _damage(path: Path) -> str | None:
    try:
        if path.parent.name == TRAINING:
            Checkpoint(path).read()
        else:
            read_artefact(path)
    except Damaged as e:
        return str(e)
    return None


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of killed processes, and what was set aside because it was damaged."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and (p.name.startswith(PART) or p.suffix == ".damaged"))


def prune(folder: Path, yes: bool) -> int:
    """Remove (with `yes`) what no run needs: artefacts that no row names, and what was left behind.

    What an unfinished training needs to go on is kept. Raises ConfigError while a run is going on.
    """
    for path in folder.rglob("metrics.lock"):
        try:
            FileLock(path).acquire(timeout=0).lock.release()
        except Timeout as e:
            raise ConfigError(f"a run is going on in {path.parent}; try again when it is finished") from e
    used = uses(folder)
    unused = [p for p in artefacts(folder) if p.parent.name != TRAINING and not used[p.parts[-2:]]]
    gone = leftovers(folder) + [p for path in unused for p in (path, path.with_suffix(".json")) if p.exists()]
    total = sum(path.stat().st_size for path in gone)
    for path in gone:
        stdout().print(f"{size(path.stat().st_size):>9}  {path.relative_to(folder)}")
        if yes:
            path.unlink()
    stdout().print(f"{len(gone)} files, {size(total)}: {'removed' if yes else 'would be removed; --yes removes them'}")
    return 0


ACTIONS: dict[str, Callable[[Path, bool], int]] = {"list": show, "verify": verify, "prune": prune}
