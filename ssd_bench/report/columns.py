"""What the columns of a table are: read from the rows, which hold the descriptions of their metrics and methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ssd_bench.core.about import RETRAINED, About
from ssd_bench.metrics.against import ABOUT as AGAINST
from ssd_bench.metrics.residual import ABOUT as LEFT
from ssd_bench.store.rows import Row

COST = About("seconds", "0", "between methods on one machine", heading="time s", decimals=2, table="main")
BOUNDS = ("_low", "_high")  # how the names of an interval's bounds end
FIELDS = {field.name for field in fields(About)}


def columns_of(rows: Iterable[Row]) -> dict[str, About]:
    """By name, in the order of the columns: metrics, what methods show, time, what refers to the retrained model.

    The bounds of an interval are no columns: they stand beside the value that they belong to.
    """
    rows = list(rows)
    sources = [*map(of_metrics, rows), *map(_of_method, rows), {"cost_s": COST}, AGAINST, LEFT]
    found: dict[str, About] = {}
    for each in sources:
        found |= {name: about for name, about in each.items() if name not in found}
    return {name: about for name, about in found.items() if not _is_bound(name, found)}


def compared(row: Row) -> list[str]:
    """The row's metrics whose ideal is the retrained model's value."""
    return [name for name, about in of_metrics(row).items() if about.ideal == RETRAINED]


def of_metrics(row: Row) -> dict[str, About]:
    """How the row's metrics describe their values; those that none of them describes have the default About."""
    described = _read(row["about"])
    return described | {name: About() for name in row["metrics"] if name not in described}


def _of_method(row: Row) -> dict[str, About]:
    return _read(row.get("columns", {}))


def _read(stored: dict[str, dict[str, Any]]) -> dict[str, About]:
    return {name: About(**{k: _tuple(v) for k, v in each.items() if k in FIELDS}) for name, each in stored.items()}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _is_bound(name: str, among: Iterable[str]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in among for end in BOUNDS)
