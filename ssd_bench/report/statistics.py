"""What a handful of seeds supports: intervals, and whether a method is told apart from the retrained model or equal."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from itertools import combinations
from statistics import mean, stdev

LEVEL = 0.05
LEAST_FOR_EQUAL = 5  # seeds: with fewer, a small spread is too often luck


class State(Enum):
    """What the seeds say of a method and the retrained model."""

    APART = "told apart"
    EQUAL = "equal within the floor"
    UNDECIDED = "not told apart"


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean of these values; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def difference_p(differences: Sequence[float]) -> float | None:
    """p of the paired t-test (two-sided) that the mean of these differences is 0; None for fewer than two.

    Where all are the same number, 1 if that is 0, else 0.
    """
    if len(differences) < 2:
        return None
    if not any(differences):
        return 1.0
    return min(1.0, 2 * min(_tail(differences, 0.0), _tail([-d for d in differences], 0.0)))


def equivalence_p(differences: Sequence[float], margin: float) -> float | None:
    """p of two one-sided t-tests (Schuirmann 1987) that the mean of these differences lies outside +-margin.

    The larger of the two, so that a small p says: within the margin. None for fewer than two. Where all are the same
    number, 0 if that is within the margin (the margin itself included), else 1.
    """
    if len(differences) < 2:
        return None
    return max(_tail(differences, -margin), _tail([-d for d in differences], -margin))


def _tail(values: Sequence[float], bound: float) -> float:
    """p of the one-sided t-test that the mean of these values is at most `bound`; small where it lies above."""
    from scipy.special import stdtr

    error = stdev(values) / math.sqrt(len(values))
    if error == 0:
        return float(mean(values) < bound)
    return float(stdtr(len(values) - 1, (bound - mean(values)) / error))


def holm(p_values: Mapping[Hashable, float], level: float = LEVEL) -> set[Hashable]:
    """The keys whose hypotheses Holm's step-down rule (1979) rejects: none wrongly, with probability 1 - level."""
    rejected: set[Hashable] = set()
    for place, (key, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        if p > level / (len(p_values) - place):
            break
        rejected.add(key)
    return rejected


def mean_apart(values: Sequence[float]) -> float | None:
    """How far two of these values are apart, on average over all pairs; None for fewer than two."""
    far = [abs(one - other) for one, other in combinations(values, 2)]
    return mean(far) if far else None


def states(
    differences: Mapping[Hashable, Sequence[float]], margins: Mapping[Hashable, float | None]
) -> dict[Hashable, State]:
    """What the seeds say of each cell of a table; cells with fewer than two differences are left out.

    differences: by cell, signed, to the retrained model, one a seed. margins: by cell, what two retrained models differ
    by (the floor). APART: the paired t-test rejects at 5 %, corrected over all cells (Holm). EQUAL: at least
    `LEAST_FOR_EQUAL` seeds, and two one-sided tests put the mean difference within the margin at 5 %; this wins where
    both hold, for then a difference is there and smaller than the floor. Everything else is UNDECIDED.
    """
    p_values = {cell: p for cell, values in differences.items() if (p := difference_p(values)) is not None}
    apart = holm(p_values)
    return {cell: _state(differences[cell], margins.get(cell), cell in apart) for cell in p_values}


def _state(differences: Sequence[float], margin: float | None, apart: bool) -> State:
    if margin is not None and len(differences) >= LEAST_FOR_EQUAL and equivalence_p(differences, margin) <= LEVEL:
        return State.EQUAL
    return State.APART if apart else State.UNDECIDED
