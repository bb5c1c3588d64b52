"""The command `ssd-bench-store`: what lies under a folder of runs, whether it is whole, and what no run needs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ssd_bench.cli.arguments import Parser
from ssd_bench.core.console import size, stdout
from ssd_bench.core.errors import ConfigError, check_choice
from ssd_bench.store.files import find
from ssd_bench.store.prune import (
    TRAINING,
    artefacts,
    at_rest,
    damage,
    leftovers,
    not_needed,
    size_of,
    unfinished,
    unsound,
    uses,
)
from ssd_bench.store.rows import ROW


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
    except OSError as e:
        print(f"ssd-bench: {e}", file=sys.stderr)
        code = 2
    sys.exit(code)


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
    damaged = [(path, why) for path in read if (why := damage(path))]
    rows = find(args.folder, ROW)
    damaged += [(path, "no sound row") for path in unsound(args.folder)]
    for path, why in damaged:
        stdout().print(f"{path}: {why}")
    stdout().print(f"{len(read)} artefacts and {len(rows)} rows read: {len(damaged) or 'none'} damaged")
    return 1 if damaged else 0


def prune(args: argparse.Namespace) -> int:
    """Remove (with `--yes`) what no run needs: artefacts that no row names, and what was left behind.

    While there are unfinished runs, no artefact is removed unless they are given up: what they have made is named by no
    row yet. Raises ConfigError while a run is going on, and where a row is damaged: what it names would make it anew.
    """
    folder = args.folder
    with at_rest(folder):
        waiting = unfinished(folder)
        if waiting and not args.unfinished:
            some = f"{len(waiting)} unfinished runs, such as {waiting[0].relative_to(folder)}"
            stdout().print(f"all artefacts are kept, for {some}; --unfinished gives up what such have made")
        gone = not_needed(folder, artefacts_too=args.unfinished or not waiting)
        total = sum(map(size_of, gone))
        for path in gone:
            stdout().print(f"{size(size_of(path)):>9}  {path.relative_to(folder)}")
            if args.yes:
                path.unlink(missing_ok=True)
    verdict = "removed" if args.yes else "would be removed; --yes removes them"
    stdout().print(f"{len(gone)} files, {size(total)}: {verdict}")
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {"list": show, "verify": verify, "prune": prune}
