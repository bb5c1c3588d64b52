"""What a reader must know to judge a number, declared by the metric or the method that makes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ssd_bench.core.errors import ConfigError

RETRAINED = "retrained"
TABLES = ("main", "second", "none")


@dataclass(frozen=True)
class About:
    """What a reader must know to judge a number, and how a table shows it. Every field may be left out.

    A metric names these in its class attribute `about`, by name of the value; a method that has something to show names
    them in `columns`, by name in `context.details`. Raises ValueError for an ideal or a table that does not exist.
    """

    unit: str = ""  # "percent", "nats", "fraction" (0 to 1), "seconds", ...
    ideal: str = ""  # "retrained" (the retrained model's value), a number, or "": no value is better than another
    valid: str = ""  # where it means something
    on: tuple[str, ...] = ()  # of task.SETS: the sets that it rests on
    least: int = 1  # smallest number of samples in the smallest of them that it means anything for
    heading: str = ""  # of its column; "": its name
    decimals: int = 3
    table: str = "second"  # "main" (accuracies, time, gap), "second" (attacks and distances), "none": in the csv alone

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, got {self.table!r}")
        if self.ideal not in ("", RETRAINED):
            float(self.ideal)


def describe_sets(scenario: Any) -> dict[str, dict[str, Any]]:
    """The accuracies on the sets of the scenario's own, where it gives them headings (`sets` maps name to heading)."""
    sets = getattr(scenario, "sets", ())
    headings = sets if isinstance(sets, Mapping) else {}
    return {
        f"{name}_acc": asdict(About("percent", RETRAINED, "everywhere", (name,), 20, heading, 2, "main"))
        for name, heading in headings.items()
    }


def describe(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How these metrics (by name in the configuration) describe their values: the package's first, then the others.

    By name of the value, as JSON can hold it. A metric without `about` adds nothing: its values have the default About.
    """
    ours_first = sorted(metrics.values(), key=lambda metric: not type(metric).__module__.startswith("ssd_bench."))
    abouts = (getattr(metric, "about", {}) for metric in ours_first)
    return {name: asdict(about) for each in abouts for name, about in each.items()}


def check_names(metric: str, values: Iterable[str], owner: dict[str, str]) -> None:
    """Note which metric claims which names. Raises ConfigError where another one did."""
    for name in values:
        if owner.setdefault(name, metric) != metric:
            raise ConfigError(f"metric {metric} and metric {owner[name]} both return {name}; rename it in one of them")
