"""Search spaces: which settings of a method are searched, and where (conf/search/METHOD.yaml)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import optuna

from ssd_bench.core.errors import ConfigError, check_choice

IMAGES_EACH = "D / D_f"  # as `high`: the training images for each of those to forget


@dataclass(frozen=True)
class Parameter:
    """One setting: from `low` to `high` (whole numbers if both are), evenly or by logarithm, or one of `choices`."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value for this trial."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        suggest = trial.suggest_int if whole else trial.suggest_float
        return suggest(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether the value can be suggested."""
        return value in self.choices if self.choices else value is not None and self.low <= value <= self.high


def read_space(
    method: str, cls: type, given: Mapping[str, Any], images_each: Callable[[], float]
) -> dict[str, Parameter]:
    """The space that a YAML describes, by setting. Raises ConfigError for unknown settings and empty ranges.

    images_each: what `D / D_f` is of the request; asked for by a space that has it alone.
    """
    where = f"conf/search/{method}.yaml"
    space = {}
    for name, about in given.items():
        check_choice("", name, (f.name for f in fields(cls)), where=f"{where}: ")
        if not isinstance(about, Mapping) or not about.keys() <= {"low", "high", "log", "choices"}:
            raise ConfigError(f"{where}: {name} must be {{low, high, log}} or {{choices}}, got {about}")
        known = {**about, "choices": tuple(about.get("choices", ()))}
        if known.get("high") == IMAGES_EACH:
            known["high"] = images_each()
        parameter = Parameter(**known)
        if not parameter.choices and (parameter.low is None or parameter.high is None):
            raise ConfigError(f"{where}: {name} needs low and high, or choices")
        if not parameter.choices and (not parameter.low < parameter.high or (parameter.log and parameter.low <= 0)):
            raise ConfigError(f"{where}: {name} has an empty range, from {parameter.low} to {parameter.high}")
        space[name] = parameter
    if not space:
        raise ConfigError(f"{where} names no setting to search")
    return space
