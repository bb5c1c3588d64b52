"""Requests one after the other: which images each forgets and keeps, and what is made of their metrics."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scenarios import TARGETS, dataset, rows

from ssd_bench.core.errors import ConfigError
from ssd_bench.metrics.against import kept_up
from ssd_bench.metrics.sequence import erosion, reversal
from ssd_bench.scenarios.full_class import FullClass
from ssd_bench.scenarios.random import Random
from ssd_bench.scenarios.sequence import Sequence
from ssd_bench.scenarios.sub_class import SubClass

EVERY = set(range(500))


def steps(asked, data=None, seed=0):
    last = asked(data or dataset(), {"sub_class": ["rocket", "lamp"]}, seed)
    return [*last.earlier, last]


def assert_each_follows_the_last(requests):
    left = EVERY
    for request in requests:
        assert set(request.train.tolist()) == left
        forget, retain = set(request.forget.tolist()), set(request.retain.tolist())
        assert forget
        assert not forget & retain
        left = left - forget
        assert retain == rows(request, "retain_train") == left
        assert rows(request, "forget_train") == forget
    for k, request in enumerate(requests, 1):
        assert request.earlier == tuple(requests[: k - 1])
        assert rows(request, "forgotten") == set().union(*(rows(r, "forget") for r in requests[:k]))
        assert rows(request, "kept") == rows(requests[-1], "retain") <= rows(request, "retain")
        assert [rows(request, f"request_{j}") for j in range(1, k + 1)] == [rows(r, "forget") for r in requests[:k]]


def test_sub_classes_one_after_the_other():
    requests = steps(Sequence(requests=["rocket", ["lamp", "sea"]]))
    assert_each_follows_the_last(requests)
    assert [request.target for request in requests] == ["rocket", "lamp+sea"]
    assert [request.scenario for request in requests] == ["sub_class", "sub_class"]
    assert len(rows(requests[1], "retain")) == 200 - 6


def test_by_default_those_that_the_data_names():
    assert [request.target for request in steps(Sequence())] == ["rocket", "lamp"]


def test_the_first_request_is_what_it_would_be_alone():
    for asked, alone in (
        (Sequence(requests=["rocket", "lamp"]), SubClass(target="rocket")),
        (Sequence(requests=["vehicle2", "veg"], of="full_class"), FullClass(target="vehicle2")),
        (Sequence(requests=3, n_forget=20, of="random"), Random(n_forget=20)),
    ):
        first, single = steps(asked)[0], alone(dataset(), TARGETS, 0)
        assert first.forget.tolist() == single.forget.tolist()
        assert first.retain.tolist() == single.retain.tolist()
        assert (first.scenario, first.forget_label) == (single.scenario, single.forget_label)
        assert rows(first, "retain") == rows(single, "retain")


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 30))
def test_batches_of_random_images_part_the_data(count, n_forget, seed):
    requests = steps(Sequence(requests=count, n_forget=n_forget, of="random"), seed=seed)
    assert_each_follows_the_last(requests)
    assert [len(request.forget) for request in requests] == [n_forget] * count
    assert requests[-1].drawn


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 19), min_size=2, max_size=8, unique=True))
def test_full_classes_part_the_data(classes):
    assert_each_follows_the_last(steps(Sequence(requests=list(map(str, classes)), of="full_class")))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"requests": ["rocket", "lamp", "69"]}, "rocket is forgotten twice"),
        ({"requests": ["rocket", "rockett"]}, "did you mean 'rocket'"),
        ({"requests": ["veg", "vehicle2", "19"], "of": "full_class"}, "vehicle2 is forgotten twice"),
        ({"requests": ["lawn_mower", "rocket", "streetcar", "tank", "tractor"]}, "no training image of vehicle2"),
        ({"requests": list(map(str, range(20))), "of": "full_class"}, "D'_r would be empty"),
        ({"requests": list(map(str, range(19))), "of": "full_class"}, "leave a single class"),
        ({"requests": 5, "n_forget": 100, "of": "random"}, "1 to 499"),
        ({"of": "full_class"}, "scenario.requests must be given"),
    ],
)
def test_what_cannot_be_forgotten_in_turn_is_said(asked, message):
    with pytest.raises(ConfigError, match=message):
        steps(Sequence(**asked))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"requests": ["rocket"]}, "scenario=sub_class"),
        ({"requests": 1, "of": "random"}, "scenario=random"),
        ({"requests": 5}, "does not go with"),
        ({"of": "random"}, "does not go with"),
        ({"requests": []}, "two or more"),
        ({"requests": "rocket"}, "neither a list of targets nor a number"),
        ({"requests": -2}, "neither a list of targets nor a number"),
        ({"of": "subclass"}, "did you mean 'sub_class'"),
        ({"n_forget": 0}, "n_forget"),
    ],
)
def test_settings_out_of_range_are_said(asked, message):
    with pytest.raises(ValueError, match=message):
        Sequence(**asked)


def test_erosion_and_reversal_by_hand():
    assert erosion(70.0, 64.5) == 5.5
    # request 1: 10, then 30, then 20 (came back by 20 at most); request 2: 40, then 35 (never came back)
    assert reversal([[10, 80, 90], [30, 40, 85], [20, 35, 5]]) == 10.0


def test_a_method_keeps_up_until_it_is_beyond_the_floor_for_the_first_time():
    assert kept_up([0.5, 1.0, 3.0, 0.5], [1.0, 1.0, 1.0, 1.0]) == 2
    assert kept_up([0.5, 1.0], [1.0, 1.0]) == 2
    assert kept_up([1.5, 1.0], [1.0, 1.0]) == 0
    assert kept_up([0.5, None], [1.0, 1.0]) is None
    assert kept_up([0.5], [None]) is None
