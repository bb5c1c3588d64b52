"""What a handful of seeds supports, against scipy, by hand, and in simulation."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from ssd_bench.report.statistics import (
    State,
    difference_p,
    equivalence_p,
    holm,
    mean_apart,
    states,
    t_interval,
)

VALUES = [1.2, -0.3, 0.8, 2.1, 0.4]


def test_intervals_and_tests_are_those_of_scipy():
    held = ttest_1samp(VALUES, 0)
    interval = held.confidence_interval(0.95)
    assert t_interval(VALUES) == pytest.approx((interval.low, interval.high))
    assert difference_p(VALUES) == pytest.approx(held.pvalue)
    above = ttest_1samp(VALUES, -2, alternative="greater").pvalue
    below = ttest_1samp(VALUES, 2, alternative="less").pvalue
    assert equivalence_p(VALUES, 2) == pytest.approx(max(above, below))


def test_one_value_supports_nothing_and_equal_values_no_spread():
    assert t_interval([1.0]) is difference_p([1.0]) is equivalence_p([1.0], 2) is None
    assert (difference_p([0.0] * 3), difference_p([0.5] * 3), difference_p([-0.5] * 3)) == (1, 0, 0)
    assert (equivalence_p([0.5] * 3, 0.6), equivalence_p([0.5] * 3, 0.4), equivalence_p([0.0] * 3, 0)) == (0, 1, 0)


def test_holm_by_hand():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}  # bounds in order: 0.0125, 0.0167, 0.025, 0.05
    assert holm(p) == {"d", "a"}  # c fails at 0.025, and b with it, although it is below 0.05
    assert holm({"a": 0.05}) == {"a"}
    assert holm({}) == set()


def test_the_floor_is_the_mean_over_pairs():
    assert mean_apart([1.0, 2.0, 4.0]) == (1 + 3 + 2) / 3
    assert mean_apart([1.0]) is None


def rate(n, shift, margin, state, trials=400):
    """In what share of experiments n differences of standard deviation 1 around `shift` are said to be `state`."""
    draws = np.random.default_rng(0).normal(shift, 1, size=(trials, n))
    said = [states({"cell": each.tolist()}, {"cell": margin})["cell"] for each in draws]
    return np.mean([each is state for each in said])


def test_too_few_seeds_are_never_called_equal():
    assert rate(3, 2, 1.0, State.EQUAL) == 0  # a difference of two standard deviations
    assert rate(4, 0, 100.0, State.EQUAL) == 0
    assert rate(3, 2, 1.0, State.UNDECIDED) > 0.3  # three seeds do not show it, which is not the same as equal


def test_equal_is_said_where_it_is_so_and_hardly_ever_where_it_is_not():
    assert rate(10, 0, 1.5, State.EQUAL) > 0.9
    assert rate(10, 1, 1.0, State.EQUAL) < 0.08  # at the very margin: 5 %
    assert rate(10, 2, 1.0, State.EQUAL) == 0
    assert rate(10, 2, 1.0, State.APART) > 0.95


def test_where_there_is_no_floor_nothing_is_equal():
    assert states({"cell": [0.0] * 9}, {"cell": None}) == {"cell": State.UNDECIDED}
    assert states({"cell": [0.0] * 9}, {"cell": 0.0}) == {"cell": State.EQUAL}


def test_a_difference_that_is_certain_but_smaller_than_the_floor_is_equal_within_it():
    differences = [0.50, 0.51, 0.49, 0.50, 0.52]
    assert states({"cell": differences}, {"cell": 2.0}) == {"cell": State.EQUAL}
    assert states({"cell": differences}, {"cell": 0.2}) == {"cell": State.APART}


def test_a_table_of_noise_is_told_apart_somewhere_in_at_most_one_of_twenty():
    draws = np.random.default_rng(1).normal(size=(150, 30, 5))  # tables x cells x seeds
    wrong = uncorrected = 0
    for table in draws.tolist():
        cells = dict(enumerate(table))
        wrong += State.APART in states(cells, {}).values()
        uncorrected += any(difference_p(values) < 0.05 for values in table)
    assert wrong / 150 < 0.1
    assert uncorrected / 150 > 0.6
