"""Methods applied to the models of a pool: of each unlearned model what it says is kept, its weights are not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssd_bench.core.console import LINE_EVERY_S, clock, size
from ssd_bench.core.errors import Diverged
from ssd_bench.core.task import Cost, ask
from ssd_bench.run import requests
from ssd_bench.run.bench import Bench
from ssd_bench.run.estimate import throughput
from ssd_bench.run.evaluate import outputs_key
from ssd_bench.run.identity import identify
from ssd_bench.run.plan import Plan
from ssd_bench.run.pool import KEPT_BYTES, MARGINS, VERSION, Pool
from ssd_bench.run.requests import Target
from ssd_bench.run.unlearn import unlearn
from ssd_bench.store.artefacts import Artefact
from ssd_bench.store.resume import discard


@dataclass(frozen=True)
class Run:
    """One method asked to make one model forget."""

    m: int
    method: str
    target: Target
    placebo: bool = False

    @property
    def label(self) -> str:
        """For people: the method, on what."""
        return f"{self.method} on {self.target.name}{' (placebo)' if self.placebo else ''}"


@dataclass(frozen=True)
class Said:
    """What models say. margin, correct: models x audit samples; test_margin, test_correct: models x test images. NaN
    and False where a model was not asked to forget; its test_argmax is -1."""

    margin: np.ndarray
    correct: np.ndarray
    test_margin: np.ndarray
    test_correct: np.ndarray
    seconds: float  # median of a request
    test_argmax: np.ndarray | None = None  # models x test images


@dataclass(frozen=True)
class Forgetting:
    """Methods, by the plans that they have their settings from, on targets of a pool whose originals are there."""

    pool: Pool
    plans: Mapping[tuple[str, str], Plan]  # by method and scenario
    targets: list[Target]
    placebo: bool = False
    _places: dict[Run, Path] = field(default_factory=dict)
    _there: set[Path] = field(default_factory=set)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, _ in self.plans))

    def methods_on(self, target: Target) -> list[str]:
        """Those that have settings for what the target is."""
        scenario = requests.scenario_of(self.pool, target)
        return [method for method in self.methods if (method, scenario) in self.plans]

    def has_placebo(self, method: str, target: Target) -> bool:
        """Whether the method runs on its twin's request, too. A block's twins have nothing to be asked for."""
        return target.single and (self.placebo or method in self.pool.asked.placebo)

    @cached_property
    def skipped(self) -> dict[tuple[str, str], str]:
        """By method and target, why the method makes no sense for it."""
        asked = [(method, target) for target in self.targets for method in self.methods_on(target)]
        runs = (Run(self.holders[target.name][0], method, target) for method, target in asked)
        reasons = {(run.method, run.target.name): self.bench(run).skipped for run in runs}
        return {what: reason for what, reason in reasons.items() if reason}

    @cached_property
    def holders(self) -> dict[str, list[int]]:
        """By target, the models that are asked to forget it."""
        return {target.name: requests.holders(self.pool, target) for target in self.targets}

    def runs(self, m: int) -> Iterator[Run]:
        """What model m is asked for."""
        for target in self.targets:
            for method in self.methods_on(target):
                if (method, target.name) in self.skipped or m not in self.holders[target.name]:
                    continue
                for placebo in (False, True) if self.has_placebo(method, target) else (False,):
                    yield Run(m, method, target, placebo)

    def bench(self, run: Run) -> Bench:
        """What the stages of a run share, for this one: the model's own rows and seed, the plan's method."""
        pool, member = self.pool, self.pool.members[run.m]
        plan = self.plans[run.method, requests.scenario_of(pool, run.target)]
        settings = replace(pool.bench.plan.settings, seed=member.seed, save_model=False)
        plan = replace(plan, train=pool.base.recipe, settings=settings)
        asked = requests.request(pool, run.m, run.target, run.placebo)
        images, device = pool.bench.images["train"], pool.bench.device
        identity = identify(plan, pool.dataset, asked, images, device, torch.get_num_threads())
        return replace(pool.bench, plan=plan, request=asked, identity=identity)

    def key(self, bench: Bench) -> dict[str, Any]:
        """Of what is kept of the unlearned model."""
        identity, pool = bench.identity, self.pool
        trains = ask(bench.plan.method, "trains_on", bench.request) is not None
        key = identity.retrained.key if trains else identity.unlearned
        return {**outputs_key(key, pool.rows, pool.bench.plan), "version": VERSION}

    def place(self, run: Run) -> Path:
        """Where that lies, or would."""
        if run not in self._places:
            self._places[run] = self.pool.bench.store.path(MARGINS, self.key(self.bench(run)))
        return self._places[run]

    def there(self, run: Run) -> bool:
        """Whether what a run makes lies in the store."""
        path = self.place(run)
        if path not in self._there and path.with_suffix(".json").exists():
            self._there.add(path)
        return path in self._there

    def missing(self) -> list[Run]:
        return [run for m in range(self.pool.asked.size) for run in self.runs(m) if not self.there(run)]

    def make(self, told: Callable[[Run], None] = lambda run: None) -> None:
        """Make what is missing, the runs of a model by one process; others that are at work make the others.

        told: called with each run made here. Raises CannotWrite.
        """
        self.pool.needs(self.place(run) for m in range(self.pool.asked.size) for run in self.runs(m))

        def of_model(m: int) -> None:
            left = [run for run in self.runs(m) if not self.there(run)]
            original = cache(lambda: self.pool.model(m))  # once for its many requests
            for run in left:
                self._artefact(run, original)
                told(run)

        self.pool.share(lambda: sorted({run.m for run in self.missing()}), of_model)

    def _artefact(self, run: Run, original: Callable[[], nn.Module]) -> Artefact:
        """What is kept of the unlearned model, found or made now."""
        bench = self.bench(run)

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            about = {"model": run.m, "method": run.method, "target": run.target.name, "placebo": run.placebo}
            try:
                made = unlearn(bench, original())
                said = self.pool.said(self.pool.logits_of(made.model, run.label))
            except Diverged as e:
                return {}, {**about, "diverged": str(e)}
            times = made.sections["times"]  # without what depends on the original alone; of retrain, its training
            return said, {**about, "seconds": times["online_s"] or sum(times["shared_s"].values())}

        artefact = bench.store.get_or_make(MARGINS, self.key(bench), make)
        discard(bench.store, "unlearned", bench.identity.unlearned)  # what it went on from has served
        return artefact

    def said(self, method: str, target: Target, placebo: bool = False) -> Said | str:
        """What the unlearned models say; or that some of them diverged."""
        of_model = {
            m: self._artefact(Run(m, method, target, placebo), partial(self.pool.model, m))
            for m in self.holders[target.name]
        }
        if diverged := [m for m, artefact in of_model.items() if "diverged" in artefact.about]:
            return f"{method} diverged on {len(diverged)} of {len(of_model)} models"
        seconds = statistics.median(artefact.about.get("seconds", 0.0) for artefact in of_model.values())
        return said_of(self.pool, {m: artefact.tensors for m, artefact in of_model.items()}, seconds)

    def costs(self, workers: int = 1) -> list[str]:
        """Lines for people: how many unlearning runs are missing, how long they take so many workers, the disk."""
        missing = self.missing()
        asked = sum(map(len, self.pool.rows.values()))
        forward, backward = throughput(self.pool.bench)
        seconds, shared, unknown = len(missing) * asked / forward, {}, set()
        examples = {(run.method, run.target.name): self._cost(run) for run in reversed(missing)}
        for run in missing:
            cost = examples[run.method, run.target.name]
            if cost is None:
                unknown.add(run.method)
                continue
            seconds += cost.forward / forward + cost.backward / backward
            for kind, (_, made) in cost.shared.items():
                shared[run.m, run.method, kind] = made.forward / forward + made.backward / backward
        seconds += sum(shared.values())
        on = ", ".join(target.name for target in self.targets)
        lines = [
            f"{len(missing)} unlearning runs, of {', '.join(self.methods)} on {on}",
            f"about {clock(seconds)} in one process, {clock(seconds / workers)} with {workers} workers; "
            f"{size(len(missing) * asked * KEPT_BYTES)} on disk",
        ]
        lines += [f"not in the time: {', '.join(sorted(unknown))} (no method.cost)"] if unknown else []
        return lines + [f"not run: {reason}" for reason in dict.fromkeys(self.skipped.values())]

    def _cost(self, run: Run) -> Cost | None:
        bench = self.bench(run)
        return ask(bench.plan.method, "cost", bench.split(), bench.plan.train)


def said_of(pool: Pool, tensors: Mapping[int, Mapping[str, Tensor]], seconds: float = 0.0) -> Said:
    """What these models of the pool say, by their number."""
    parts = {}
    for part, rows in pool.rows.items():
        labels = pool.labels(part)
        parts[part] = np.full((pool.asked.size, len(rows)), np.nan), np.zeros((pool.asked.size, len(rows)), dtype=bool)
        for m, of_model in tensors.items():
            parts[part][0][m] = of_model[f"{part}.margin"].double().numpy()
            parts[part][1][m] = (of_model[f"{part}.argmax"] == labels).numpy()
    argmax = np.full((pool.asked.size, len(pool.rows["test"])), -1)
    for m, of_model in tensors.items():
        argmax[m] = of_model["test.argmax"].numpy()
    return Said(*parts["train"], *parts["test"], seconds, argmax)


def reporter(forgetting: Forgetting, say: Callable[..., None]) -> Callable[[Run], None]:
    """What `make` tells, as a line now and then: how far all processes together have come, and the time left."""
    start, begun = time.monotonic(), len(forgetting.missing())
    last = start

    def told(run: Run) -> None:
        nonlocal last
        if (now := time.monotonic()) - last < LINE_EVERY_S:
            return
        last, missing = now, len(forgetting.missing())
        left = clock((now - start) / max(1, begun - missing) * missing)
        say("model %d: %s; %d of %d runs done; about %s left", run.m, run.label, begun - missing, begun, left)

    return told
