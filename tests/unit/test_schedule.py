"""What is made next: by hand, on random graphs, and on a grid with measured costs."""

import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_bench.core.task import Cost
from ssd_bench.run.agenda import Wanted, schedule
from ssd_bench.run.estimate import Work
from ssd_bench.run.schedule import Schedule, Unit

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/simulate_sweep.py"))


def planned(*units, **parts):
    return Schedule({unit.name: unit for unit in units}, parts)


def test_what_most_hangs_on_comes_first():
    two = planned(
        Unit("small", 1),
        Unit("original", 5),
        Unit("other", 5),
        Unit("run", 2, needs=("original",)),
        Unit("long", 6),
    )
    order = [(start, unit.name) for start, _, unit in two.simulate(2)]
    assert order == [(0, "original"), (0, "long"), (5, "other"), (6, "run"), (8, "small")]
    assert two.levels == {"small": 1, "original": 7, "other": 5, "run": 2, "long": 6}
    assert two.makespan(2) == 10
    assert two.ideal(2) == 19 / 2
    assert two.ideal(100) == 7


def test_a_part_is_made_once_by_the_first_and_others_start_when_it_is_there():
    shares = planned(Unit("a", 4, parts=("p",)), Unit("b", 4, parts=("p",)), Unit("c", 1), p=3)
    assert [(s, e, u.name) for s, e, u in shares.simulate(2)] == [(0, 7, "a"), (0, 1, "c"), (3, 7, "b")]
    assert shares.cost() == 12
    assert shares.cost({"p", "a"}) == 5


def test_nothing_is_chosen_that_waits_for_others():
    chain = planned(Unit("original", 5), Unit("run", 1, needs=("original",)), Unit("shares", 1, parts=("p",)), p=2)
    assert chain.choose(set(), {"original", "p"}) is None
    assert chain.choose({"original"}, {"p"}).name == "run"
    assert chain.choose({"original"}, {"run"}).name == "shares"
    assert chain.choose({"original", "run", "shares"}, set()) is None


@st.composite
def graphs(draw):
    """Units that need some of those before them, and parts that some of them share."""
    cost = st.integers(0, 9).map(float)
    parts = draw(st.dictionaries(st.sampled_from("pqr"), cost))
    units = []
    for i in range(draw(st.integers(1, 12))):
        needs = draw(st.sets(st.sampled_from([u.name for u in units]), max_size=3)) if units else ()
        mine = draw(st.sets(st.sampled_from(sorted(parts)))) if parts else ()
        units.append(Unit(f"u{i}", draw(cost), tuple(sorted(needs)), tuple(sorted(mine))))
    used = {part for unit in units for part in unit.parts}
    return planned(*units, **{part: cost for part, cost in parts.items() if part in used})


@settings(max_examples=200, deadline=None)
@given(graphs(), st.integers(1, 5))
def test_no_worker_is_idle_while_something_could_be_made(graph, workers):
    made = list(graph.simulate(workers))
    assert sorted(unit.name for *_, unit in made) == sorted(graph.units)
    end_of = {unit.name: end for _, end, unit in made}
    part_of = {}  # part -> when it is begun and there
    for start, end, unit in made:
        at = start
        for part in unit.parts:
            if part not in part_of:
                part_of[part] = start, (at := at + graph.parts[part])
        assert end == at + unit.cost
    for start, _, unit in made:
        assert all(end_of[need] <= start for need in unit.needs)
        assert all(part_of[part][1] <= start or part_of[part][0] == start for part in unit.parts)
    moments = sorted({0.0, *end_of.values(), *(there for _, there in part_of.values())})
    for now in moments:
        busy = sum(start <= now < end for start, end, _ in made)
        assert busy <= workers
        if busy < workers:
            for start, _, unit in made:
                being_made = any(begun <= now < there for begun, there in map(part_of.get, unit.parts))
                assert start <= now or being_made or any(end_of[need] > now for need in unit.needs)


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(1, 5))
def test_it_takes_no_longer_than_all_the_work_shared_out_and_the_dearest_chain_together(graph, workers):
    makespan = graph.makespan(workers)
    chain = {}
    for unit in graph.units.values():
        chain[unit.name] = unit.cost + max((chain[need] for need in unit.needs), default=0.0)
    assert makespan >= max(graph.cost() / workers, *chain.values()) - 1e-9
    assert makespan <= graph.cost() / workers + max(chain.values()) + sum(graph.parts.values()) + 1e-9


@pytest.mark.parametrize(("seeds", "targets", "workers"), [(3, 4, 4), (4, 10, 16), (3, 1, 3)])
def test_a_grid_of_measured_costs_takes_at_most_a_sixth_longer_than_the_ideal(seeds, targets, workers):
    runs = SCRIPT["runs_of"](seeds, targets)
    grid, parts = schedule(runs, lambda work: work.cost.forward)
    assert len(parts) == (seeds if targets > 1 else 0)  # the importances of D, where runs share them
    assert grid.ideal(workers) / grid.makespan(workers) >= 0.85
    plain, waited = SCRIPT["in_grid_order"](runs, workers)
    assert waited > 0
    assert grid.makespan(workers) < plain


def test_a_retrained_model_that_is_the_original_is_one_thing_to_make():
    def work(kind, path, cost, alone=""):
        return Work(kind, Path(path), Cost(cost), 0, alone=alone)

    original, outputs = work("original", "x", 8, "original"), work("outputs", "y", 2, "outputs")
    placebo = Wanted(
        Path("row"), "", [original, work("retrained", "x", 8, "retrained"), outputs, work("outputs", "y", 2)]
    )
    grid, parts = schedule([placebo, Wanted(Path("other"), "", [original, outputs])], lambda work: work.cost.forward)
    assert grid.cost() == 10
    assert not parts
    assert grid.units["outputs-y"].needs == ("original-x",)
    retrained = Wanted(Path("row"), "", [work("retrained", "z", 8, "retrained"), outputs])
    assert schedule([retrained], lambda work: 1.0)[0].units["outputs-y"].needs == ()  # its original is there
    assert grid.units["run-0"].needs == grid.units["run-1"].needs == ("original-x", "outputs-y")


def test_the_same_row_twice_is_made_once_and_found():
    runs = SCRIPT["runs_of"](1, 1)
    twin = Wanted(runs[2].row, "the same", runs[2].works)
    grid, _ = schedule([*runs, twin, Wanted(None, "?", [])], lambda work: work.cost.forward)
    assert grid.units["run-5"].needs == ("run-2",)
    assert grid.units["run-5"].cost == 0
    assert grid.units["run-6"].needs == ()
