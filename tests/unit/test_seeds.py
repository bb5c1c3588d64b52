"""Global random numbers: seeded for a purpose, put back, and kept in a state that can be restored."""

import random

import numpy as np
import torch

from ssd_bench.core.seeds import derive_seed, global_state, seeded, set_global_state

CPU = torch.device("cpu")


def draws():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()


def test_the_same_purpose_draws_the_same_and_another_something_else():
    found = []
    for seed, name in ((1, "a"), (1, "a"), (2, "a"), (1, "b")):
        with seeded(seed, name):
            found.append(draws())
    assert found[0] == found[1]
    assert len({*found}) == 3
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))


def test_what_was_there_before_goes_on_as_if_nothing_had_been():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    alone = draws(), draws()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    first = draws()
    with seeded(0, "x"):
        draws()
    assert (first, draws()) == alone


def test_a_state_that_was_kept_goes_on_where_it_was():
    with seeded(0, "x"):
        np.random.randn(), random.gauss(0, 1)  # both keep a second number back for the next call
        state = {name: t.clone() for name, t in global_state(CPU).items()}
        after = draws()
        draws()
        set_global_state(state, CPU)
        assert draws() == after


def test_purposes_are_independent():
    assert derive_seed(0, "a", 1) != derive_seed(0, "a1") != derive_seed(0, "a", "1", "x")
