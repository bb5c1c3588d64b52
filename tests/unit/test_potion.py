"""Potion's search: the released tries, thresholds and weights, and how it ends."""

import logging

import numpy as np
import pytest
import torch
from golden_data import FOLDER, Golden

from ssd_bench.methods.assd import ASSD
from ssd_bench.methods.potion import Potion, between

BATCHES = {"order": "request", "batch_size": 8}


@pytest.fixture
def golden():
    return Golden(FOLDER / "ssd_family")


def searched(golden, **settings):
    context = golden.context()
    return Potion(**BATCHES, **settings)(golden.model, golden.data, context), context.details


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("ALFSSD/cut=0.5", {"sensitivity": "output_sq", "cut": 0.5}),
        ("XALFSSD/cut=0.5", {"sensitivity": "output", "cut": 0.5}),
        ("ALFSSD/cut=0", {"sensitivity": "output_sq", "cut": 0.0}),
    ],
)
def test_released_search(golden, case, settings):
    expected = golden.expected["ptn"][case]
    made, details = searched(golden, reference="retain", **settings)
    assert details["tries"] == expected["tries"]
    assert details["percentile"] == pytest.approx(expected["last"]["percentile"])
    assert details["alpha"] == pytest.approx(expected["last"]["alpha"], rel=1e-3)
    assert abs(details["selected"] - expected["last"]["changed"]) <= 1
    assert details["forget_train_acc"] == 0
    for name, t in golden.under(case, golden.numbers("ptn")).items():
        torch.testing.assert_close(made.get_parameter(name).detach(), t, rtol=1e-3, atol=1e-6)
    _, first = searched(golden, reference="retain", max_tries=1, **settings)
    assert first["alpha"] == pytest.approx(expected["first"]["alpha"], rel=1e-3)
    assert first["forget_train_acc"] == pytest.approx(100 * expected["first"]["forget"])


def test_with_one_try_and_no_divisor_it_is_adaptive_ssd(golden):
    ours, _ = searched(golden, sensitivity="loss", max_tries=1, start_divisor=1.0)
    theirs = ASSD(**BATCHES)(golden.model, golden.data, golden.context())
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in ours.state_dict().items())


def test_shares_by_hand(golden):
    tries = list(Potion(max_tries=3, start_divisor=4.0).shares(golden.data))  # 6 of 30
    assert [share for _, share, _ in tries] == pytest.approx([0.05, 0.055, 0.0605])
    assert 100 - tries[0][2] == pytest.approx(1.791759)  # ln 6


@pytest.mark.parametrize("percentile", [0, 12.5, 90, 98.2, 100])
def test_percentiles_of_ordered_numbers(percentile):
    numbers = np.sort(np.random.default_rng(0).normal(size=37))
    assert between(numbers, percentile) == pytest.approx(np.percentile(numbers, percentile))


def test_a_search_that_finds_nothing_says_so_and_keeps_the_last_try(golden, caplog):
    caplog.set_level(logging.WARNING)
    _, details = searched(golden, max_tries=2)
    assert "none of 2 tries" in caplog.text
    assert (details["tries"], details["forget_train_acc"] > 0) == (2, True)


@pytest.mark.parametrize("setting", [{"cut": 1.0}, {"factor": 1.0}, {"start_divisor": 0.0}, {"max_tries": 0}])
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Potion(**setting)
