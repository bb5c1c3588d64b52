"""Metrics: pure functions of what models say. Each file holds one family and its `(Outputs) -> {name: value}`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """What a reader must know to judge a number."""

    unit: str  # "percent", "nats", "fraction" (0 to 1), ...
    ideal: str  # "retrained" (the retrained model's value), or a number
    valid: str  # where it means something
    on: tuple[str, ...] = ()  # of task.SETS: the sets that it rests on
    least: int = 1  # smallest number of samples in the smallest of them that it means anything for
