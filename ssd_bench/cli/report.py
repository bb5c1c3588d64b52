"""The command `ssd-bench-report`: tables, pictures and a page of all rows under a folder."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, TextIO

from omegaconf import OmegaConf

from ssd_bench.cli.arguments import Parser
from ssd_bench.core.errors import NO_ROOM, ConfigError, check_choice, check_installed
from ssd_bench.report.derive import derived, reevaluate
from ssd_bench.report.rows import REFERENCES, current, to_frame
from ssd_bench.report.summary import FLOOR, ORIGINAL, Summary, summarise
from ssd_bench.report.table import latex, markdown, show
from ssd_bench.run.plan import CONF_DIR
from ssd_bench.run.plugins import config_folders
from ssd_bench.store.rows import Row, read_rows

log = logging.getLogger(__name__)

FORMATS = ("table", "csv", "markdown", "latex", "html")
CHOOSABLE = ("data", "method", "model", "scenario", "target")
SUFFIXES = {".csv": "csv", ".md": "markdown", ".tex": "latex", ".html": "html"}


def _page(summaries: list[Summary]) -> str:
    from ssd_bench.report.page import page  # here, so that a table does not wait for matplotlib

    return page(summaries)


WRITERS = {"markdown": markdown, "latex": latex, "html": _page}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point; exit code 0, or 2 with one line when the input is wrong."""
    try:
        _report(arguments)
        sys.stdout.flush()
    except ConfigError as e:
        print(f"ssd-bench: {e}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `ssd-bench-report runs | head`
        sys.stderr.close()
    except OSError as e:
        if e.errno not in NO_ROOM or e.filename:
            raise
        print(f"ssd-bench: the output cannot be written ({e.strerror})", file=sys.stderr)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  what waits to be written will not be
        sys.exit(2)
    sys.exit(0)


def _report(arguments: list[str] | None) -> None:
    args = _arguments(arguments)
    if args.config_dir:
        sys.path += [str(args.config_dir.absolute()), str(args.config_dir.absolute().parent), str(Path.cwd())]
    rows = read_rows(args.folder)
    if not rows:
        raise ConfigError(f"{args.folder} holds no finished run (no metrics.json); run ssd-bench first")
    if args.metrics is not None:
        rows = reevaluate(rows, args.folder, _metrics(args.metrics.split(","), args.config_dir))
    wanted = _wanted(args.only, rows)
    values = derived(rows, args.folder)
    summaries = [each for each in summarise(rows, values) if _is_of(each.task, wanted)]
    if not summaries:
        raise ConfigError(f"no row under {args.folder} is of all that --only asks for")
    if methods := wanted.get("method"):
        for each in summaries:
            each.hidden = frozenset(line.method for line in each.lines) - {*methods, ORIGINAL, FLOOR, *REFERENCES}
        rows = [row for row in rows if row["method"] in {*methods, ORIGINAL, *REFERENCES}]
    if args.pictures:
        told = sys.stdout if args.output or not args.format else sys.stderr  # stdout is the table's
        _draw(summaries, args.folder, args.pictures, told)
    if args.format == "table":
        show(summaries, whole=True)
    elif args.format == "csv":
        every = [row for row in rows if _is_of(row["task"], wanted)]
        rows = current(every)
        if older := len(every) - len(rows):
            log.warning("left out: %d older row%s of the same method, settings and seeds", older, "s" * (older > 1))
        _write(to_frame(rows, values).to_csv(index=False), args.output)
    elif args.format:
        _write(WRITERS[args.format](summaries), args.output)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The checked arguments; `format` is None where only pictures are wanted."""
    parser = Parser(prog="ssd-bench-report", description="Tables of all finished runs under a folder.")
    parser.add_argument("folder", type=Path, help="a folder of runs (searched recursively)")
    default = "table; into a file: as its name ends, else markdown"
    parser.add_argument("--format", help=f"one of {', '.join(FORMATS)} (default: {default})")
    parser.add_argument("-o", "--output", type=Path, help="write to this file instead of stdout")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw each task's pictures into this folder")
    parser.add_argument(
        "--metrics", metavar="A,B", help="recompute these metrics (conf/metric/A.yaml) from stored outputs"
    )
    parser.add_argument(
        "--only", metavar="KEY=A,B", action="append", default=[],
        help=f"show only these, such as method=ssd,delete; KEY: {', '.join(CHOOSABLE)}. Retrained models stay",
    )  # fmt: skip
    parser.add_argument("--config-dir", type=Path, help="a folder with your own metric/; its modules are found too")
    args = parser.parse_args(arguments)
    if not args.format and (args.output or not args.pictures):
        args.format = SUFFIXES.get(args.output.suffix.lower(), "markdown") if args.output else "table"
    if args.format:
        check_choice("--format", args.format, FORMATS)
    for asked, option in ((args.format == "html", "--format=html"), (args.pictures, "--pictures")):
        if asked:
            check_installed("matplotlib", "report", option)
    if any(asked.startswith("method=") for asked in args.only) and (args.pictures or args.format == "html"):
        raise ConfigError("--only=method is for tables and csv: pictures draw all, and a page filters by itself")
    if args.format == "table" and args.output:
        raise ConfigError(f"--format=table is for the terminal; allowed with --output: {', '.join(FORMATS[1:])}")
    if not args.folder.is_dir():
        raise ConfigError(
            f"{args.folder} is not a folder; give the one that runs were written to (out=..., default runs)"
        )
    return args


def _wanted(only: list[str], rows: list[Row]) -> dict[str, set[str]]:
    """What `--only` asks for, by key. Raises ConfigError for what no row has."""
    wanted: dict[str, set[str]] = {}
    for asked in only:
        key, _, names = asked.partition("=")
        check_choice("--only", key, CHOOSABLE)
        known = {row["method"] if key == "method" else row["task"].get(key) for row in rows} - {None}
        each = [names] if names in known else names.split(",")  # a target may have a comma in its name
        for name in each:
            check_choice(f"--only: {key}", name, known)
        wanted[key] = wanted.get(key, set()) | set(each)
    return wanted


def _is_of(task: dict[str, Any], wanted: dict[str, set[str]]) -> bool:
    return all(task.get(key) in names for key, names in wanted.items() if key != "method")


def _write(text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    try:
        path.write_text(text)
    except OSError as e:
        raise ConfigError(f"--output={path} cannot be written: {e.strerror}") from e


def _metrics(names: list[str], config_dir: Path | None) -> dict[str, Any]:
    """By name: the YAML of these metrics, the user's own before the package's and those of installed plug-ins."""
    folders = [*([config_dir] if config_dir else []), CONF_DIR, *config_folders().values()]
    known = {path.stem: path for folder in reversed(folders) for path in (folder / "metric").glob("*.yaml")}
    for name in names:
        check_choice("--metrics", name, known)
    return {key: node for name in names for key, node in OmegaConf.to_container(OmegaConf.load(known[name])).items()}


def _draw(summaries: list[Summary], folder: Path, into: Path, told: TextIO) -> None:
    from ssd_bench.report.pictures import draw  # here, so that a table does not wait for matplotlib

    try:
        for path in draw(summaries, folder, into):
            print(path, file=told)
    except OSError as e:
        raise ConfigError(f"--pictures={into} cannot be written: {e.strerror}") from e
