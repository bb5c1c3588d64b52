"""The agenda of a parallel sweep: all that its jobs have to make, in a folder that they share, and who makes what.

A job of the launcher is a ticket: it makes what can be made now (`schedule.choose`) until it has done one run. What it
makes it locks; the system lets go of the locks of a process that ends, however it ends, and another ticket takes up
its work. What is there is a file in `done`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssd_bench.core.console import clock
from ssd_bench.core.task import Cost
from ssd_bench.run import pipeline
from ssd_bench.run.estimate import Grid, Work, work_of
from ssd_bench.run.identity import row_path
from ssd_bench.run.plan import Plan
from ssd_bench.run.schedule import Schedule, Unit
from ssd_bench.store.files import write_atomically
from ssd_bench.store.locks import take
from ssd_bench.store.rows import finished

PASSES_OF_TRAINING = 3.0  # forward and backward pass of an image, in forward passes
WORTH_IT = 1.05  # twice as many workers help if they are faster by this factor


@dataclass(frozen=True)
class Wanted:
    """One run of a sweep, and what it has to make or to find made."""

    row: Path | None  # None: what it needs is not known
    label: str
    works: list[Work]  # what is missing


def wanted(plan: Plan, label: str) -> Wanted:
    """What this run needs and does not find. Raises ConfigError where the plan cannot be carried out."""
    bench = pipeline.prepare(plan, parallel=True, to_count=True)
    row = row_path(Path(plan.settings.out), plan, bench.identity)
    settled = (finished(row) and not plan.settings.force) or bench.skipped
    return Wanted(row, label, [] if settled else [work for work in work_of(bench) if work.missing])


def in_passes(cost: Cost) -> float:
    """The cost in forward passes: enough to say what is dear."""
    return cost.forward + PASSES_OF_TRAINING * cost.backward


def schedule(runs: list[Wanted], weigh: Callable[[Work], float]) -> tuple[Schedule, dict[str, Path]]:
    """Units and parts of these runs, and where the parts will lie.

    What has a way to be made by itself is a unit; what two runs or more make on their way is a part.
    """
    uses = Counter(work.path for run in runs for work in run.works)
    units: dict[str, Unit] = {}
    parts: dict[str, float] = {}
    paths: dict[str, Path] = {}
    names: dict[Path, str] = {}
    rows: dict[Path, str] = {}
    for i, run in enumerate(runs):
        unit = Unit(f"run-{i}", 0.0, run=i, label=run.label)
        for work in run.works:
            name = names.setdefault(work.path, f"{work.alone or work.kind}-{work.path.stem}")
            if work.alone or name in units:  # a retrained model may be the original: a placebo takes nothing from D
                before = [need for need in unit.needs if units[need].alone == "original" and work.alone == "outputs"]
                made = Unit(name, weigh(work), tuple(before), (), work.alone, i, f"{work.kind} for {run.label}")
                units.setdefault(name, made)
                unit = replace(unit, needs=tuple(dict.fromkeys((*unit.needs, name))))
            elif uses[work.path] > 1 and not work.anew:
                parts[name], paths[name] = weigh(work), work.path
                unit = replace(unit, parts=(*unit.parts, name))
            else:
                unit = replace(unit, cost=unit.cost + weigh(work))
        if run.row and rows.setdefault(run.row, unit.name) != unit.name:  # the same row under other settings
            unit = Unit(unit.name, 0.0, (rows[run.row],), run=i, label=run.label)
        units[unit.name] = unit
    return Schedule(units, parts), paths


def makespans(grid: Grid, workers: int | None = None) -> list[str]:
    """A line for people: how long the grid takes with 1, 2, 4, ... workers until more do not help, and with `workers`.

    By the same choices that tickets make, at the throughput that the grid measured.
    """
    runs = [Wanted(row, row.parent.name, works) for row, works in grid.wants.items()]
    planned, _ = schedule(runs, lambda work: grid.work[work.path][1])
    seconds = {1: planned.makespan(1)}
    for n in (2**power for power in range(1, 11)):
        if seconds[n // 2] <= WORTH_IT * planned.makespan(n):
            break
        seconds[n] = planned.makespan(n)
    if workers and seconds[1]:
        seconds[workers] = planned.makespan(workers)
    listed = ", ".join(f"{clock(seconds[n])} with {n}" for n in sorted(seconds))
    return [f"parallel workers, each with a core or a GPU of its own: {listed}"] if len(seconds) > 1 else []


class Agenda:
    """The agenda in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: set[str] = set()

    @classmethod
    def write(cls, folder: Path, jobs: list[dict[str, Any]], runs: list[Wanted], modules: list[str]) -> Agenda:
        """A new one. jobs: `config`, `device`, `names` and `label` of each run; modules: the user's folders of them."""
        planned, paths = schedule(runs, lambda work: in_passes(work.cost))
        for job in jobs:
            if json.loads(json.dumps(job["config"])) != job["config"]:  # keys that are no texts
                job["config"] = OmegaConf.to_yaml(job["config"])
        content = {"jobs": jobs, "units": [asdict(unit) for unit in planned.units.values()], "modules": modules}
        content |= {"parts": planned.parts, "paths": {name: str(path) for name, path in paths.items()}}
        text = json.dumps(content)
        write_atomically(folder / "agenda.json", lambda part: part.write_text(text))
        return cls(folder)

    @cached_property
    def content(self) -> dict[str, Any]:
        return json.loads((self.folder / "agenda.json").read_text())

    @cached_property
    def schedule(self) -> Schedule:
        listed = (
            Unit(**{**unit, "needs": tuple(unit["needs"]), "parts": tuple(unit["parts"])})
            for unit in self.content["units"]
        )
        return Schedule({unit.name: unit for unit in listed}, self.content["parts"])

    def done(self) -> set[str]:
        """Names of what is there. A part is there as soon as it lies in the store, long before its run ends."""
        with suppress(FileNotFoundError):
            self._done.update(os.listdir(self.folder / "done"))
        missing = (item for item in self.content["paths"].items() if item[0] not in self._done)
        self._done.update(name for name, path in missing if Path(path).with_suffix(".json").exists())
        return self._done

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.schedule.units.keys() <= self.done()

    @contextmanager
    def claim(self) -> Iterator[Unit | None]:
        """What this process makes next, which nobody else makes meanwhile; None if there is nothing just now."""
        taken: set[str] = set()
        while unit := self.schedule.choose(self.done(), taken):
            with ExitStack() as held:
                wanted = (unit.name, *self.schedule.missing(unit, self._done))
                lost = next((name for name in wanted if not self._take(held, name)), None)
                if lost:
                    taken.add(lost)
                elif unit.name not in self.done():  # nobody was faster
                    yield unit
                    return
        yield None

    def _take(self, held: ExitStack, name: str) -> bool:
        if lock := take(self.folder / "locks" / name):
            held.callback(lock.release)
        return lock is not None

    def finish(self, unit: Unit, parts: bool = True) -> None:
        """Note that the unit has been made, or that nobody needs to try again. For the one who claimed it."""
        for name in (unit.name, *(unit.parts if parts else ())):
            (self.folder / "done").mkdir(exist_ok=True)
            (self.folder / "done" / name).touch()

    def note(self, **event: Any) -> None:
        """Tell whoever watches the sweep. Each process writes to a file of its own."""
        path = self.folder / f"journal-{socket.gethostname()}-{os.getpid()}"
        with suppress(OSError), path.open("a") as file:
            file.write(json.dumps({"at": time.time(), **event}) + "\n")

    def journals(self) -> dict[str, list[dict[str, Any]]]:
        """By process, what it noted so far."""
        return {path.name: list(_events(path.read_text())) for path in self.folder.glob("journal-*")}


def _events(text: str) -> Iterator[dict[str, Any]]:
    """What the lines say that were written whole; a full disk or a kill leaves others."""
    for line in text.splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)
