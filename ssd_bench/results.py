"""Rows in, tables out: reading `metrics.json` files and deriving what refers to the retrained model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from ssd_bench.artefacts import Damaged, set_aside, to_json, write_atomically

log = logging.getLogger(__name__)

Row = dict[str, Any]
SCHEMA = 1
METRICS = (
    "retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc",
    "retain_loss", "forget_loss", "test_loss", "mia", "zrf", "zrf_official",
)  # fmt: skip  # every row has these; null where a set or a metric was left out
TIMES = (
    "method_s",
    "online_s",
    "importance_full_s",
    "importance_full_cost_s",
    "train_original_s",
    "evaluate_s",
)
TASK_KEYS = (
    "data", "model", "original", "scenario", "target", "placebo", "forget_sha256",
    "seed", "seed_forget", "seed_unlearn", "fidelity", "evaluation",
)  # fmt: skip  # "original" is a hash of the data, the recipe and the training seed


OF_SEEDS = ("original", "seed", "seed_forget", "seed_unlearn")  # what differs between the seeds of one task


def read_rows(folder: Path) -> list[Row]:
    """Every sound row under `folder`, in the order of their paths; what is not one is named in the log and left out.

    `path` is added to each: where it lies below `folder`.
    """
    rows = []
    for path in sorted(Path(folder).rglob("metrics.json")):
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise Damaged(f"{type(e).__name__}: {e}") from e
    return row


def finished(path: Path, locked: bool = False) -> bool:
    """Whether there is a sound row. locked: the caller holds its lock, and a damaged one is set aside."""
    try:
        return path.exists() and bool(read_row(path))
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


def by_task(rows: list[Row]) -> list[list[Row]]:
    """The rows of each table: those of one task agree in everything but the method and its settings."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(json.dumps([row["task"].get(key) for key in TASK_KEYS]), []).append(row)
    return list(tasks.values())


def across_seeds(rows: list[Row]) -> list[list[Row]]:
    """The rows of each table over seeds: those that agree in all but the method, its settings and the seeds.

    Threads, versions and commits may differ between seeds; the kind of device and the precision may not.
    Another seed draws other images to forget in the random scenario and for a placebo.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        task = row["task"]
        drawn = ("forget_sha256",) if task["target"] is None or task["placebo"] else ()
        key = {name: value for name, value in task.items() if name not in (*OF_SEEDS, *drawn)}
        key["arithmetic"] = [row["env"]["device"].split(":")[0].split()[0], row["config"].get("precision")]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(row)
    return list(groups.values())


def rows_beside(path: Path) -> list[Row]:
    """The rows of the same task as the row at `path`: they lie in the folder around it."""
    folder = path.parents[1]
    name = path.relative_to(folder).as_posix()
    return next(rows for rows in by_task(read_rows(folder)) if name in {row["path"] for row in rows})


def rows_around(paths: list[Path]) -> Iterator[list[Row]]:
    """For each task among the rows at `paths`: its rows over all seeds."""
    for folder in dict.fromkeys(path.parents[1] for path in paths):
        names = {path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder)}
        for rows in across_seeds(read_rows(folder)):
            if names & {row["path"] for row in rows}:
                yield rows


def reference(rows: list[Row]) -> Row | None:
    """The retrained model among the rows of one task: one trained from scratch before one whose head was reset."""
    retrained = [row for row in rows if row["method"] == "retrain" and row["status"] == "done"]
    return min(retrained, key=lambda row: row["settings"].get("mode") != "from_scratch", default=None)


def varying_settings(rows: list[Row]) -> dict[str, set[str]]:
    """Per method: the settings in which its rows differ."""
    seen: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for key, value in row["settings"].items():
            seen.setdefault(row["method"], {}).setdefault(key, set()).add(json.dumps(value))
    return {m: {k for k, values in settings.items() if len(values) > 1} for m, settings in seen.items()}


def label(row: Row, varying: dict[str, set[str]]) -> str:
    """The method, and those of its settings that tell its rows apart."""
    chosen = [f"{key}={row['settings'].get(key)}" for key in sorted(varying.get(row["method"], ()))]
    return f"{row['method']} {' '.join(chosen)}".strip()


def cost_s(row: Row) -> float | None:
    """What forgetting costs: the call without I_D, and what I_D cost when it was made."""
    times = row["times"]
    if times["online_s"] is None:
        return None
    return times["online_s"] + (times["importance_full_cost_s"] or 0)


def to_frame(rows: list[Row], derived: dict[str, dict[str, float | None]]) -> Any:
    """One line a run: the task, the method and its settings, the metrics, what is derived from them, the times.

    derived: more columns by path of the row, see `report.derive`. Settings are columns named `method.*` and `train.*`,
    the original's metrics `original.*`. Percentages are 0-100, `*_s` are seconds, `*_bytes` bytes; `path` lies below
    the folder that was read.
    """
    import pandas as pd

    return pd.DataFrame(
        [
            {
                **{key: row["task"][key] for key in ("data", "model", "scenario", "target", "placebo", "seed")},
                **{key: row["task"][key] for key in ("seed_unlearn", "seed_forget", "fidelity", "recipe", "original")},
                "method": row["method"],
                "status": row["status"],
                "reason": row["reason"],
                **row["metrics"],
                **derived.get(row["path"], {}),
                "cost_s": cost_s(row),
                **row["times"],
                "peak_memory_bytes": (row["memory"] or {}).get("peak_bytes"),
                "selected": row["details"].get("selected"),
                "selected_pct": row["details"].get("selected_pct"),
                **{f"method.{key}": value for key, value in row["settings"].items()},
                **{f"train.{key}": value for key, value in row["config"]["train"].items() if key != "_target_"},
                **{f"original.{key}": value for key, value in (row["original_metrics"] or {}).items()},
                **{key: row["env"][key] for key in ("device", "threads", "torch", "git", "started")},
                "path": row["path"],
            }
            for of_task in by_task(rows)
            for row in of_task
        ]
    )
