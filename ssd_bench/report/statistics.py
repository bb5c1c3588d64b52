"""What a handful of seeds supports."""

from __future__ import annotations

import math
from statistics import mean, stdev


def t_interval(values: list[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean of these values; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = t.ppf((1 + level) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half
