"""Rows: reading and writing `metrics.json` files."""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

from ssd_bench.store.files import Damaged, find, set_aside, to_json, write_atomically

log = logging.getLogger(__name__)

Row = dict[str, Any]
ROW = "metrics.json"  # a row's file
SCHEMA = 1
STUDIES = "tuning"  # the folder beside runs that `ssd-bench-tune` puts its studies and their trials in
LAYOUT = 2  # of rows: raised when older ones can no longer stand in one table with newer ones
TRIED_HERE = "this request or seed among them"  # in the budget of `tuned`: what a row reports was tried on
METRICS = (
    "retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc",
    "retain_loss", "forget_loss", "test_loss", "mia", "zrf", "zrf_official",
)  # fmt: skip  # every row has these; null where a set or a metric was left out
TIMES = (
    "method_s",
    "online_s",
    "shared_s",
    "importance_full_s",
    "importance_full_cost_s",
    "train_original_s",
    "evaluate_s",
)


def read_rows(folder: Path) -> list[Row]:
    """Every sound row of this version under `folder`, in the order of their paths; the log names what is left out.

    Trials of studies count only where `folder` is theirs: they report other requests, on held-out training images.
    """
    every = every_row(folder)
    rows = [row for row in every if STUDIES not in Path(row["path"]).parts[:-1]]
    if trials := len(every) - len(rows):
        log.info("%d trials of studies under %s left out", trials, folder)
    other = [row for row in rows if row.get("layout", 1) != LAYOUT]
    if other:
        others = f"{len(other)} row{'s' * (len(other) > 1)} of another version of ssd-bench"
        log.warning("%s under %s left out, such as %s; run them again", others, folder, other[0]["path"])
    return [row for row in rows if row.get("layout", 1) == LAYOUT]


def every_row(folder: Path) -> list[Row]:
    """The same whatever the version, trials included. `path` is added to each: where it lies below `folder`."""
    rows = []
    for path in find(Path(folder), ROW):
        try:
            rows.append(read_row(path) | {"path": path.relative_to(folder).as_posix()})
        except Damaged as e:
            log.warning("%s is damaged, or no row of ssd-bench, and is left out (%s)", path, e)
    return rows


def read_row(path: Path) -> Row:
    """The row in this file. Raises Damaged if it is no row, or not the one that its .sha256 was written for."""
    try:
        text, beside = path.read_bytes(), path.with_suffix(".sha256")
        if beside.exists() and beside.read_bytes() != _checksum_line(path, text):
            raise ValueError("its checksum differs")
        row = json.loads(text)
        if row["schema"] != SCHEMA:
            raise ValueError(f"schema {row['schema']}, not {SCHEMA}")
        if missing := {"task", "method", "artefacts"} - row.keys():
            raise ValueError(f"it has no {min(missing)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise Damaged(f"{type(e).__name__}: {e}") from e
    return row


def finished(path: Path, locked: bool = False) -> bool:
    """Whether there is a sound row that tables take. locked: the caller holds its lock; a damaged one is set aside."""
    try:
        return path.exists() and read_row(path).get("layout", 1) == LAYOUT
    except Damaged as e:
        if locked:
            set_aside(path, e)
        return False


def write_row(path: Path, row: Row) -> None:
    """The row, atomically; its checksum beside it, as `sha256sum -c` reads it.

    At no moment does a row lie beside the checksum of another. Raises CannotWrite, and ValueError for what is not a
    finite number.
    """
    text = to_json(row).encode()
    path.with_suffix(".sha256").unlink(missing_ok=True)
    write_atomically(path, lambda part: part.write_bytes(text))
    write_atomically(path.with_suffix(".sha256"), lambda part: part.write_bytes(_checksum_line(path, text)))


def _checksum_line(path: Path, text: bytes) -> bytes:
    return f"{sha256(text).hexdigest()}  {path.name}\n".encode()
