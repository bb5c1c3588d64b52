"""What a grid of runs would cost (`dry_run=true`): what is there, what is shared, the rest at measured throughput."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ssd_bench.core.console import clock, size
from ssd_bench.core.task import Cost, ask, looks_inside, read_by
from ssd_bench.methods.original import Original
from ssd_bench.run.bench import Bench
from ssd_bench.run.evaluate import (
    LAST_LAYER,
    VALUES,
    head_width,
    is_original,
    made_of,
    needed_rows,
    outputs_key,
    passed_bytes,
    values_key,
)
from ssd_bench.run.identity import row_path
from ssd_bench.run.trained import KIND
from ssd_bench.store.address import address, digest
from ssd_bench.store.rows import finished
from ssd_bench.train import devices
from ssd_bench.train.passes import pass_clock, predict

MEASURED_S = 1.0  # how long each throughput is measured
BATCH = 32


@dataclass(frozen=True)
class Work:
    """Something that is made once, whoever needs it."""

    kind: str
    path: Path
    cost: Cost
    bytes: int
    anew: bool = False  # although it is there
    alone: str = ""  # how `pipeline.ahead` makes it by itself; empty for what only a run makes, on its way

    @property
    def missing(self) -> bool:
        return self.anew or not self.path.with_suffix(".json").exists()


@dataclass
class Grid:
    """The runs of a sweep, and what they have to make: every artefact counted once."""

    runs: dict[Path, bool] = field(default_factory=dict)  # row -> whether it is there
    needs: Counter = field(default_factory=Counter)  # artefact -> in how many runs
    work: dict[Path, tuple[Work, float]] = field(default_factory=dict)  # what is missing, and its seconds
    wants: dict[Path, list[Work]] = field(default_factory=dict)  # row that is to be made -> what is missing for it
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)  # per model: images/s forward, with backward
    unknown: set[str] = field(default_factory=set)  # methods and metrics that do not say what they cost

    def add(self, bench: Bench) -> Path:
        """Count one run; returns where its row lies or would lie."""
        path = row_path(Path(bench.plan.settings.out), bench.plan, bench.identity)
        self.runs[path] = finished(path) and not bench.plan.settings.force
        if self.runs[path] or bench.skipped:
            return path
        if not isinstance(bench.plan.method, Original) and _cost(bench) is None:
            self.unknown.add(bench.plan.names["method"])
        said = ("cost", "reads")
        self.unknown.update(name for name, m in _looking(bench).items() if not any(hasattr(m, each) for each in said))
        works = list(work_of(bench))
        self.wants[path] = [work for work in works if work.missing]
        for work in works:
            self.needs[work.path] += 1
            if work.path not in self.work and work.missing:
                forward, backward = self._rates(bench)
                self.work[work.path] = work, work.cost.forward / forward + work.cost.backward / backward
        return path

    def _rates(self, bench: Bench) -> tuple[float, float]:
        key = digest([asdict(bench.plan.model), str(bench.device), torch.get_num_threads()])
        if key not in self.rates:
            self.rates[key] = throughput(bench)
        return self.rates[key]

    def summary(self) -> list[str]:
        """Lines for people: runs, what is to be made for them, seconds and bytes."""
        done = sum(self.runs.values())
        lines = [
            f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}: {done} finished already, {len(self.runs) - done} to do"
        ]
        kinds = Counter(work.kind for work, _ in self.work.values())
        uses = Counter()
        for work, _ in self.work.values():
            uses[work.kind] += self.needs[work.path]
        if kinds:
            shared = {kind: f" (for {uses[kind]} runs)" if uses[kind] > n else "" for kind, n in kinds.items()}
            lines.append(
                f"to be made, each once: {', '.join(f'{n} {kind}{shared[kind]}' for kind, n in kinds.items())}"
            )
            seconds = clock(sum(s for _, s in self.work.values()))
            disk = size(sum(work.bytes for work, _ in self.work.values()))
            lines.append(f"about {seconds} of forward and backward passes, one run after the other; {disk} on disk")
        for forward, backward in self.rates.values():
            lines.append(f"measured just now: {forward:,.0f} images/s forward, {backward:,.0f} forward and backward")
        if self.unknown:
            lines.append(f"not in the time: {', '.join(sorted(self.unknown))} (no method.cost, or no cost of a metric)")
        return lines


def work_of(bench: Bench) -> Iterator[Work]:
    """What a run needs, whether it is there or not."""
    for step in bench.steps:
        yield from _work_of(step, bench)


def _work_of(bench: Bench, last: Bench) -> Iterator[Work]:
    """The same of one request; last: the last of its sequence, or itself."""
    plan, store, identity = bench.plan, bench.store, bench.identity
    weights = _weights(bench)
    rows = needed_rows(bench)
    n_outputs = sum(map(len, rows.values()))
    of_outputs = Cost(forward=n_outputs), 4 * n_outputs * len(bench.request.classes)
    anew = plan.settings.force
    for name, trained in (("original", identity.trained), ("retrained", bench.retrained)):
        if trained:
            training = Cost(backward=trained.recipe.epochs * len(trained.rows))
            again = anew and name == "retrained"
            alone = "" if again or (last.earlier and name == "retrained") else name
            yield Work(name, store.path(KIND, trained.key), training, weights, again, alone)
    if bench is last:
        original = store.path("outputs", outputs_key(bench.steps[0].identity.original, rows, plan))
        yield Work("outputs", original, *of_outputs, alone="outputs")
        yield from _of_metrics(bench, bench.steps[0].identity.original)
    if isinstance(plan.method, Original):
        return
    key = bench.retrained.key if bench.retrained else identity.unlearned
    if not bench.retrained:
        cost = _cost(bench) or Cost()
        for kind, (own, shared) in cost.shared.items():
            yield Work(kind, store.path(kind, identity.kept(own)), shared, weights * shared.networks)
        made = store.path("unlearned", key)
        yield Work(plan.names["method"], made, cost, weights * cost.networks * plan.settings.save_model, anew)
    yield Work("outputs", store.path("outputs", outputs_key(key, rows, plan)), *of_outputs, anew)
    yield from _of_metrics(bench, key, anew)


def _of_metrics(bench: Bench, model: Any, anew: bool = False) -> Iterator[Work]:
    """The values of the metrics that look into a model, and what they read together; those of outputs take no passes.

    model: its key.
    """
    looking, store, rows = _looking(bench), bench.store, needed_rows(bench)
    made = made_of(bench, model) if looking else {}
    held = passed_bytes(bench.plan, rows, _built(bench)[1])
    reading = False
    for name, metric in looking.items():
        reads = read_by(metric, bench.request)
        passed = rows if held else {}
        alone = sum(int((~torch.isin(asked, passed.get(part, asked[:0]))).sum()) for part, asked in reads.items())
        cost = metric.cost(bench.request) if hasattr(metric, "cost") else Cost()
        work = Work(name, store.path(VALUES, values_key(bench, made, metric)), _more(cost, alone), 0, anew)
        reading |= bool(reads) and work.missing
        yield work
    if reading and held:
        key = outputs_key(model, rows, bench.plan)
        again = not anew and store.path("outputs", key).with_suffix(".json").exists()  # without what comes with them
        kept = is_original(bench, model)
        if kept or again:
            cost = Cost(forward=again * sum(map(len, rows.values())))
            yield Work(LAST_LAYER, store.path(LAST_LAYER, key), cost, held * kept, anew)


def _more(cost: Cost, forward: int) -> Cost:
    return replace(cost, forward=cost.forward + forward)


def _looking(bench: Bench) -> dict[str, Any]:
    return {name: metric for name, metric in bench.plan.metrics.items() if looks_inside(metric)}


_models: dict[str, tuple[int, int]] = {}  # by what they are built from


def _weights(bench: Bench) -> int:
    """Bytes of a state dict of the run's model."""
    return _built(bench)[0]


def _built(bench: Bench) -> tuple[int, int]:
    """The same, and how many numbers the last layer sees."""
    key = digest([address(bench.plan.model), len(bench.request.classes), list(bench.images["train"].pixels.shape[1:])])
    if key not in _models:
        model = bench.new_model(0, pretrained=False)
        size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        _models[key] = size, head_width(model, bench.plan.model.head)
    return _models[key]


def _cost(bench: Bench) -> Cost | None:
    return ask(bench.plan.method, "cost", bench.split(), bench.plan.train)


def passes(bench: Bench) -> int | None:
    """Images sent through the network by a call of the method, what it shares included; one with a backward pass counts
    as three. None: the method does not say."""

    def of(cost: Cost) -> int:
        return cost.forward + 3 * cost.backward + sum(of(shared) for _, shared in cost.shared.values())

    cost = _cost(bench)
    return cost and of(cost)


def throughput(bench: Bench) -> tuple[float, float]:
    """Images a second through the model on this device: forward alone, and forward and backward."""
    images, rows = bench.images["train"], bench.request.train[:BATCH]
    model = bench.new_model(0, pretrained=False).train()  # training is most of what there is to do
    inputs, labels = images.batch(rows.to(bench.device))

    def both() -> None:
        with pass_clock():
            loss = cross_entropy(model(inputs), labels)
        torch.autograd.grad(loss, list(model.parameters()))

    works = (lambda: predict(model, images, rows, BATCH), both)
    settings = bench.plan.settings
    with devices.arithmetic(bench.device, settings.precision, settings.compile):
        return tuple(_rate(work, len(rows), bench.device) for work in works)


def _rate(work: Callable[[], object], images: int, device: torch.device) -> float:
    work()
    devices.synchronise(device)
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < MEASURED_S:
        work()
        devices.synchronise(device)
        times += 1
    return images * times / (time.perf_counter() - start)
