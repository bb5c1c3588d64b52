"""Which rows belong into one table, how a row is called, and the rows as a data frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_bench.store.rows import Row, read_rows

TASK_KEYS = (
    "data", "model", "original", "scenario", "target", "placebo", "forget_sha256",
    "seed", "seed_forget", "seed_unlearn", "fidelity", "evaluation",
)  # fmt: skip  # "original" is a hash of the data, the recipe and the training seed


OF_SEEDS = ("original", "seed", "seed_forget", "seed_unlearn")  # what differs between the seeds of one task


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
