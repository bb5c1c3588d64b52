"""Which rows belong into one table, which retrained model a row is compared with, and the rows as a data frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_bench.store.rows import Row, read_rows

TASK_KEYS = (
    "data", "model", "original", "scenario", "target", "placebo", "forget_sha256", "seed", "seed_forget", "fidelity",
    "evaluation", "asked",
)  # fmt: skip  # "original" is a hash of the data, the recipe and the training seed

TUNED = "tuned"  # stands for the settings of a method, where the only ones that differ were found by a study
REFERENCES = ("retrain", "clean")  # methods whose model may be what the others are compared with
ADDRESSES = ("recipe", "original", "reference", "evaluation")  # hashes of all that determines each
OF_SEEDS = (  # what differs between a task's seeds
    "original", "reference", "retrained", "seed", "seed_forget", "seed_unlearn",
)  # fmt: skip


def by_task(rows: list[Row]) -> list[list[Row]]:
    """The rows of each task: they agree in everything but the method, its settings and its own draws."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(json.dumps([row["task"].get(key) for key in TASK_KEYS]), []).append(row)
    return list(tasks.values())


def across_seeds(rows: list[Row]) -> list[list[Row]]:
    """The rows of each table over seeds: those that agree in all but the method, its settings and the seeds.

    Threads, versions and commits may differ between seeds; the network, the kind of device and the precision may not.
    Another seed draws other images to forget where `seed_forget` decides on them.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        task = row["task"]
        any_drawn = task["target"] is None or task.get("seed_forget") is not None
        drawn = ("forget_sha256",) if any_drawn or task["placebo"] else ()
        key = {name: value for name, value in task.items() if name not in (*OF_SEEDS, *drawn)} | made_on(row)
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(row)
    return list(groups.values())


def made_on(row: Row) -> dict[str, Any]:
    """What a row's numbers hang on beside its task: the arithmetic, the network, and how images look to it."""
    compiled = bool(row["config"].get("compile"))
    return {
        "arithmetic": [row["env"]["device"].split(":")[0].split()[0], row["config"].get("precision"), compiled],
        "network": {name: v for name, v in (row["config"].get("model") or {}).items() if name != "checkpoint"},
        "images": _as_seen(row["config"]),
    }


def _as_seen(config: dict[str, Any]) -> dict[str, Any]:
    """What decides on how images look to a model, beside the data set: they are other originals."""
    scenario = config.get("scenario") or {}
    triggers = {name: value for name, value in scenario.items() if name.startswith("trigger_")}
    return {"norm": (config.get("data") or {}).get("norm"), **triggers}


def rows_beside(path: Path) -> list[Row]:
    """The rows of the same task as the row at `path`, which lie in the folder around it.

    Of methods that draw, those of the same draws: a row without draws of its own is beside all of them.
    """
    folder = path.parents[1]
    name = path.relative_to(folder).as_posix()
    rows = next(rows for rows in by_task(read_rows(folder)) if name in {row["path"] for row in rows})
    seed = next(row["task"].get("seed_unlearn") for row in rows if row["path"] == name)
    return [row for row in rows if seed is None or row["task"].get("seed_unlearn") in (None, seed)]


def rows_around(paths: list[Path]) -> Iterator[list[Row]]:
    """For each task among the rows at `paths`: its rows over all seeds."""
    for folder in dict.fromkeys(path.parents[1] for path in paths):
        names = {path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder)}
        for rows in across_seeds(read_rows(folder)):
            if names & {row["path"] for row in rows}:
                yield rows


def newest(rows: list[Row]) -> list[Row]:
    """Of rows with one method, settings and seeds (made by other code, versions or threads), the last that was made.

    Settings that a study found are others than the same ones without it: a method whose study found the published ones
    was tuned.
    """
    last: dict[str, Row] = {}
    for row in _by_age(rows):
        seeds = [row["task"].get(name) for name in ("seed", "seed_unlearn", "seed_forget")]
        last[json.dumps([row["method"], row["settings"], bool(row.get("tuned")), seeds], sort_keys=True)] = row
    kept = {id(row) for row in last.values()}
    return [row for row in rows if id(row) in kept]


def _by_age(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["env"]["finished"])


def references(rows: list[Row]) -> dict[str, Row]:
    """By path of the row: the retrained model that it is compared with, where there is one.

    rows: of one table (`across_seeds`). It is the newest that was trained on the same D_r with the same seed, threads
    and versions, whatever the row's own draws. All come from one line of the table: one trained from scratch, and one
    whose head was reset only where nothing was trained from scratch. Where data were manipulated, it is the one trained
    on clean data, not one whose D_r still holds what was not discovered.
    """
    retrained = [row for row in _by_age(rows) if row["status"] == "done" and _may_be_reference(row)]
    known: dict[str, Row] = {}
    if retrained:
        settings = min((row["settings"] for row in retrained), key=_farther_from_scratch)
        known = {_trained_on(row): row for row in retrained if row["settings"] == settings}
    return {row["path"]: known[which] for row in rows if (which := _trained_on(row)) in known}


def _may_be_reference(row: Row) -> bool:
    task = row["task"]
    if row["method"] == "retrain":
        return task.get("retrained", task["reference"]) == task["reference"]
    return row["method"] == "clean" and "n_manipulated" in task


def _farther_from_scratch(settings: dict[str, Any]) -> tuple[bool, str]:
    return settings.get("mode", "from_scratch") != "from_scratch", json.dumps(settings, sort_keys=True)


def _trained_on(row: Row) -> str:
    """What names the model that a row is compared with: the hash of all that it is trained on."""
    return row["task"]["reference"]


def current(rows: list[Row]) -> list[Row]:
    """The rows without those that a newer one has replaced, unless one that is left is compared with them."""
    kept = []
    for of_table in across_seeds(rows):
        left, pairs = newest(of_table), references(of_table)
        paths = {path for row in left for path in (row["path"], pairs.get(row["path"], row)["path"])}
        kept += [row for row in of_table if row["path"] in paths]
    return kept


def varying_settings(rows: list[Row]) -> dict[str, set[str]]:
    """Per method: the settings in which its rows differ; "tuned", if that alone tells them apart, and beside them, if
    the same settings are there with a study and without one."""
    seen: dict[str, dict[str, set[str]]] = {}
    whole: dict[str, set[tuple[bool, str]]] = {}
    keys: dict[str, dict[str, None]] = {}  # of a method: a setting may have come later
    for row in rows:
        keys.setdefault(row["method"], {}).update(dict.fromkeys(row["settings"]))
    for row in rows:
        whole.setdefault(row["method"], set()).add((bool(row.get("tuned")), json.dumps(row["settings"])))
        for key in keys[row["method"]]:
            seen.setdefault(row["method"], {}).setdefault(key, set()).add(json.dumps(row["settings"].get(key)))
    varying = {m: {k for k, values in settings.items() if len(values) > 1} for m, settings in seen.items()}
    twice = {m for m, found in whole.items() if len(found) == 2 and len(dict(found)) == 2}
    both = {m for m, found in whole.items() if len({settings for _, settings in found}) < len(found)}
    return varying | {m: varying.get(m, set()) | {TUNED} for m in both} | {m: {TUNED} for m in twice}


def label(row: Row, varying: dict[str, set[str]]) -> str:
    """The method, and those of its settings in which its rows differ."""
    differ = varying.get(row["method"], set())
    chosen = [f"{key}={row['settings'].get(key)}" for key in sorted(differ - {TUNED})]
    word = [f"({'tuned' if row.get('tuned') else 'untuned'})"] if TUNED in differ else []
    return " ".join([row["method"], *chosen, *word])


def cost_s(row: Row) -> float | None:
    """What forgetting costs: the call, and all that it shares with other calls, at what that cost when it was made.

    None where the row does not say what it shared.
    """
    times = row["times"]
    if times["online_s"] is None or "shared_s" not in times:
        return None
    return times["online_s"] + sum((times["shared_s"] or {}).values())


def to_frame(rows: list[Row], derived: dict[str, dict[str, float | None]]) -> Any:
    """One line a run: the task, the method and its settings, the metrics, what is derived from them, the times.

    derived: more columns by path of the row, see `report.derive`. `n_train` and `n_forget` are the images of D and of
    D_f; settings are columns named `method.*` and `train.*`, the original's metrics `original.*`, the seconds of what
    was shared `shared_s.*`. `git` ends in + where the source tree had been changed since. Percentages are 0-100, `*_s`
    are seconds, `*_bytes` bytes; `path` lies below the folder that was read.
    """
    import pandas as pd

    return pd.DataFrame([_flat(row, derived) for of_task in by_task(rows) for row in of_task])


def _flat(row: Row, derived: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    task, times = row["task"], row["times"]
    return {
        **{key: task[key] for key in ("data", "model", "scenario", "target", "placebo", "seed")},
        **{key: task[key] for key in ("n_train", "n_manipulated", "n_forget") if key in task},
        **{key: task.get(key) for key in ("seed_unlearn", "seed_forget", "fidelity", *ADDRESSES)},
        "precision": row["config"].get("precision", "float32"),
        **({"compile": True} if row["config"].get("compile") else {}),
        "method": row["method"],
        "tuned": row.get("tuned") and f"{row['tuned']['study']}, {row['tuned']['budget']}",
        "status": row["status"],
        "reason": row["reason"],
        **row["metrics"],
        **derived.get(row["path"], {}),
        "cost_s": cost_s(row),
        **{key: seconds for key, seconds in times.items() if key != "shared_s"},
        **{f"shared_s.{kind}": seconds for kind, seconds in (times.get("shared_s") or {}).items()},
        "peak_memory_bytes": (row["memory"] or {}).get("peak_bytes"),
        **{name: row["details"].get(name) for name in row.get("columns", ())},
        **{f"method.{key}": value for key, value in row["settings"].items()},
        **{f"train.{key}": value for key, value in row["config"]["train"].items() if key != "_target_"},
        **{f"original.{key}": value for key, value in (row["original_metrics"] or {}).items()},
        **{
            key: row["env"].get(key)
            for key in ("device", "threads", "parallel", "deterministic", "torch", "git", "started")
        },
        **({"git": f"{row['env']['git']}+"} if row["env"].get("git_dirty") else {}),
        "path": row["path"],
    }
