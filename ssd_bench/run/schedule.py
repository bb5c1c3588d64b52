"""Which of the things that a sweep has to make is made next: list scheduling, and how long it would take.

Whoever is free takes, of what can be made now, the thing that most hangs on: its own cost and that of the dearest
chain of things that wait for it (highest level first; Adam, Chandy and Dickson, CACM 17(12), 1974). Nobody is ever
idle while something could be made, which bounds the time by the ideal one for `n` workers and the dearest chain
together (Graham, 1966). Costs are in any one unit.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Unit:
    """What one worker makes in one piece: a run, or something that runs share and that can be made by itself."""

    name: str
    cost: float  # of what nobody else shares
    needs: tuple[str, ...] = ()  # names of the units that have to be there before
    parts: tuple[str, ...] = ()  # what it makes on its way, first of all, unless somebody has
    alone: str = ""  # how it is made by itself; empty for a run
    run: int = 0  # place in the grid: of itself, or of a run that says what it is
    label: str = ""  # for people


@dataclass(frozen=True)
class Schedule:
    """All that a sweep has to make. `units` in the order of the grid."""

    units: Mapping[str, Unit]
    parts: Mapping[str, float] = field(default_factory=dict)  # name -> cost, once

    @cached_property
    def waiting(self) -> dict[str, list[str]]:
        """Per unit and part, the names of what needs it."""
        waiting: dict[str, list[str]] = {name: [] for name in (*self.units, *self.parts)}
        before: dict[str, set[str]] = {}  # part -> the units that whoever makes it needs
        for unit in self.units.values():
            for name in (*unit.needs, *unit.parts):
                waiting[name].append(unit.name)
            for part in unit.parts:
                before[part] = before.get(part, set(unit.needs)) & set(unit.needs)
        for part, needs in before.items():
            for need in needs:
                waiting[need].append(part)
        return waiting

    @cached_property
    def levels(self) -> dict[str, float]:
        """Of each unit and part: its cost, and that of the dearest chain behind it."""
        levels: dict[str, float] = {}

        def level(name: str) -> float:
            if name not in levels:
                cost = self.units[name].cost if name in self.units else self.parts[name]
                levels[name] = cost + max(map(level, self.waiting[name]), default=0.0)
            return levels[name]

        return {name: level(name) for name in self.waiting}

    def missing(self, unit: Unit, done: Collection[str]) -> list[str]:
        """The parts that the unit would have to make, too."""
        return [part for part in unit.parts if part not in done]

    def choose(self, done: Collection[str], taken: Collection[str], left: Iterable[str] | None = None) -> Unit | None:
        """What to make next; None while everything that is left waits for what others are making.

        done: names of units and parts that are there. taken: of those that others are making. left: the units to choose
        from, if they are known (all).
        """
        ready = (self.units[name] for name in (self.units if left is None else left) if name not in done)
        free = [unit for unit in ready if unit.name not in taken and self._can_start(unit, done, taken)]
        return max(free, key=lambda unit: self._worth(unit, done), default=None)

    def _can_start(self, unit: Unit, done: Collection[str], taken: Collection[str]) -> bool:
        return all(need in done for need in unit.needs) and not any(p in taken for p in self.missing(unit, done))

    def _worth(self, unit: Unit, done: Collection[str]) -> tuple[float, int]:
        """Its level and, among equals, how much needs it."""
        missing = self.missing(unit, done)
        with_parts = self.levels[unit.name] + sum(self.parts[part] for part in missing)
        return max([with_parts, *(self.levels[part] for part in missing)]), len(self.waiting[unit.name])

    def cost(self, done: Collection[str] = ()) -> float:
        """Of everything that is not there."""
        units = sum(unit.cost for name, unit in self.units.items() if name not in done)
        return units + sum(cost for name, cost in self.parts.items() if name not in done)

    def ideal(self, workers: int, done: Collection[str] = ()) -> float:
        """No order of any kind is faster: all that is not done shared out evenly, or the dearest chain of it."""
        chain = max((level for name, level in self.levels.items() if name not in done), default=0.0)
        return max(self.cost(done) / workers, chain)

    def makespan(self, workers: int) -> float:
        """How long `workers` take, each choosing as `choose` says."""
        return max((end for _, end, _ in self.simulate(workers)), default=0.0)

    def simulate(self, workers: int) -> Iterator[tuple[float, float, Unit]]:
        """Start, end and unit of everything, in the order in which they are started."""
        done, taken, now, free = set(), set(), 0.0, workers
        left = dict.fromkeys(self.units)  # a set that keeps its order
        ends: list[tuple[float, str, bool]] = []  # when what is there, and whether a worker is free again
        while left or ends:
            while free and left and (unit := self.choose(done, taken, left)):
                del left[unit.name]
                end, free = now, free - 1
                for part in self.missing(unit, done):
                    taken.add(part)
                    end += self.parts[part]
                    heapq.heappush(ends, (end, part, False))
                yield now, end + unit.cost, unit
                taken.add(unit.name)
                heapq.heappush(ends, (end + unit.cost, unit.name, True))
            now = ends[0][0]
            while ends and ends[0][0] <= now:
                _, name, ended = heapq.heappop(ends)
                done.add(name)
                free += ended
