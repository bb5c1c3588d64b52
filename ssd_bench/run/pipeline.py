"""One run from top to bottom: data, request, original, method, outputs, metrics, row."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssd_bench.core.about import describe, describe_sets
from ssd_bench.core.errors import ConfigError, Diverged
from ssd_bench.core.task import compares, judges, of_data
from ssd_bench.data.source import vouched
from ssd_bench.data.view import view, with_validation
from ssd_bench.methods.original import Original
from ssd_bench.models.checkpoint import fit_checkpoint
from ssd_bench.models.fresh import fresh
from ssd_bench.run.bench import Bench
from ssd_bench.run.call import plain
from ssd_bench.run.cases import tuned_by
from ssd_bench.run.environment import environment
from ssd_bench.run.evaluate import chosen_sets, evaluate
from ssd_bench.run.identity import identify, row_path
from ssd_bench.run.plan import Plan
from ssd_bench.run.sequence import shown, together
from ssd_bench.run.trained import KIND, initial, train_or_find
from ssd_bench.run.unlearn import Unlearned, unlearn
from ssd_bench.store.artefacts import Artefact, Store
from ssd_bench.store.files import clear_parts, writable
from ssd_bench.store.locks import hold
from ssd_bench.store.resume import discard
from ssd_bench.store.rows import LAYOUT, METRICS, SCHEMA, TIMES, finished, write_row
from ssd_bench.train import devices
from ssd_bench.train.passes import pass_clock

log = logging.getLogger(__name__)


def prepare(plan: Plan, parallel: bool = False, to_count: bool = False) -> Bench:
    """Data, request and identity of a run: all that can be known without computing. Nothing is written under `out`.

    to_count: only to say what there is to do; nothing is put on the device.
    """
    settings = plan.settings
    for name, metric in plan.metrics.items():
        if judges(metric):
            raise ConfigError(f"metric {name} needs a pool of models; take ssd-bench-pool metric=[{name}]")
    device = devices.choose_device(settings.device)
    devices.check_precision(settings.precision, device)
    threads = devices.use_threads(settings.threads, parallel)
    devices.keep_freed_memory()
    dataset = vouched(plan.data.load(), plan.data)
    request = plan.scenario(dataset, plan.data.targets, plan.seed_forget)
    if request.dataset is not None:
        dataset = vouched(replace(request.dataset, validation=dataset.validation), plan.scenario)
    dataset, request = with_validation(dataset, request)
    at = torch.device("cpu") if to_count else device
    images = view(dataset, request, plan.data.norm, plan.model, at)

    def new_model(seed: int, pretrained: bool = True) -> nn.Module:
        _, channels, side, _ = dataset.train.pixels.shape
        model = plan.model if pretrained else plan.model.untrained()
        return fresh(model, seed, len(request.classes), channels, side).to(at)

    store, benches = Store(Path(settings.out)), []
    for each in (*request.earlier, request):
        identity = identify(plan, dataset, each, images["train"], device, threads)
        benches.append(Bench(plan, each, images, identity, store, device, new_model, parallel, tuple(benches)))
    return benches[-1]


@devices.threads_kept()
def run(plan: Plan, parallel: bool = False) -> Path:
    """Make the row that `plan` describes, unless it is there; returns its path (a `metrics.json`).

    parallel: whether other jobs share the machine. Raises ConfigError, before anything is trained or written, when the
    plan cannot be carried out.
    """
    started, start, passes = datetime.now(UTC), time.monotonic(), pass_clock.seconds
    settings, bench = plan.settings, prepare(plan, parallel)
    path = row_path(Path(settings.out), plan, bench.identity)
    if finished(path) and not settings.force:
        log.info("%s: finished already; force=true runs it again", path)
        return path
    with devices.arithmetic(bench.device, settings.precision, settings.compile) as nondeterministic:
        original = initial(bench, settings.seed)  # what cannot be built says so now
        if plan.model.checkpoint:
            fit_checkpoint(original, Path(plan.model.checkpoint))
        if not writable(Path(settings.out)):
            raise ConfigError(f"out={settings.out} cannot be written; choose a folder that can")
        with hold(path.with_suffix(".lock"), "row"):
            clear_parts(path)
            if finished(path, locked=True) and not settings.force:  # another process was faster
                return path
            row = make_row(bench, original)
            row["times"] |= {"total_s": time.monotonic() - start, "passes_s": pass_clock.seconds - passes}
            row["env"] = environment(bench.device, started, datetime.now(UTC))
            row["env"] |= {"parallel": row.pop("parallel", parallel), "deterministic": not nondeterministic}
            write_row(path, row)
            for step in bench.steps:  # with save_model=false they are there until now
                discard(bench.store, "unlearned", step.identity.unlearned)
    return path


def ahead(plan: Plan, what: str) -> None:
    """Make what runs of a parallel sweep share, before any of them asks for it.

    what: "original", "retrained", or "outputs" (the original's, which is found or trained).
    """
    bench = prepare(plan, parallel=True)
    with devices.arithmetic(bench.device, plan.settings.precision, plan.settings.compile):
        if what == "retrained":
            train_or_find(bench, bench.retrained, plan.names["method"])
            return
        original = initial(bench, plan.settings.seed)
        if plan.model.checkpoint:
            fit_checkpoint(original, Path(plan.model.checkpoint))
        _weights(bench, original)
        if what == "outputs":
            evaluate(bench, bench.compiled(original), bench.steps[0].identity.original, original)


def make_row(bench: Bench, original: nn.Module) -> dict[str, Any]:
    """The row of one run, whatever its end: done, skipped with a reason, or diverged."""
    plan = bench.plan
    row = {"schema": SCHEMA, "layout": LAYOUT, "status": "done", "reason": None}
    row |= {"task": bench.identity.task, "method": plan.names["method"]}
    row |= {
        "settings": plain(asdict(plan.method)),
        "tuned": tuned_by(plan.config, bench.identity.task["target"]),
        "config": plan.config,
        "metrics": dict.fromkeys(METRICS),
    }
    row["about"] = describe(plan.metrics) | describe_sets(plan.scenario)
    row["columns"] = {key: asdict(about) for key, about in getattr(plan.method, "columns", {}).items()}
    if comparing := [name for name, metric in plan.metrics.items() if compares(metric)]:
        row["comparing"] = comparing  # what tables hand both models' outputs
    row["control"] = getattr(plan.method, "control", False)
    row["classes"] = list(bench.request.classes)
    row["samples"] = {name: len(rows) for name, (_, rows) in chosen_sets(bench).items()}
    row |= {"original_metrics": None, "details": {}, "times": {}, "cached": {}, "artefacts": {}}
    row |= {"memory": {"peak_bytes": None, "what": None}}
    try:
        skipped = {"status": "skipped", "reason": bench.skipped}
        made = skipped if bench.skipped else carry_out(bench, original, row)
        row |= made | {"about": row["about"] | made.get("about", {})}
    except Diverged as e:
        row |= {"status": "diverged", "reason": str(e)}
        trained = bench.identity.trained
        if trained and (path := bench.store.path(KIND, trained.key)).exists():
            row["artefacts"] = {"original": str(path)}
    return row | {"times": dict.fromkeys(TIMES) | row["times"]}


def carry_out(bench: Bench, original: nn.Module, row: dict[str, Any]) -> dict[str, Any]:
    """Train or find the original, unlearn request by request, evaluate all models: the sections of the row.

    row: gets what is known of the original before the method is called, which may diverge.
    """
    plan, first = bench.plan, bench.steps[0]
    trained = _weights(bench, original)
    origin = str(trained.path) if trained else plan.model.checkpoint
    model, start = bench.compiled(original), time.monotonic()
    try:
        values, seen = evaluate(bench, model, first.identity.original, original)
    except Diverged as e:
        raise Diverged(f"the original itself: {e}") from e
    of_original = time.monotonic() - start
    row["original_metrics"] = shown(values)
    stale, steps = {}, []
    for step in bench.steps:
        made, sections = forget(replace(step, stale=stale), model)
        if isinstance(plan.method, Original):
            sections["artefacts"]["unlearned"] = origin
        if not getattr(plan.scenario, "refresh", True) and step is first:
            kept = sections["artefacts"]  # under the paths that they were made under: the folder may have been moved
            stale = {kind: bench.store.moved(kept[kind]) for kind in of_data(plan.method) if kept.get(kind)}
        model = made.model
        steps.append(sections)
    sections = together(bench, steps, values) if bench.earlier else {**steps[0], "original_metrics": values}
    sections["artefacts"] |= {"original": origin, **{f"original_{name}": path for name, path in seen.items()}}
    sections["times"]["train_original_s"] = trained and trained.cost_s
    sections["times"]["evaluate_s"] += of_original
    sections["cached"]["original"] = trained is None or trained.found
    return sections


def forget(bench: Bench, model: nn.Module) -> tuple[Unlearned, dict[str, Any]]:
    """What has forgotten one request, and the sections of a row about it."""
    made = unlearn(bench, model)
    start = time.monotonic()
    anew = bench.plan.settings.force and not isinstance(bench.plan.method, Original)
    values, seen = evaluate(bench, made.model, made.key, model, anew=anew)
    sections = {"cached": {}, "artefacts": {}, **made.sections, "metrics": values}
    sections["times"]["evaluate_s"] = time.monotonic() - start
    sections["artefacts"] |= seen
    return made, sections


def _weights(bench: Bench, original: nn.Module) -> Artefact | None:
    """Put the original's weights into the model, trained now or found. None: a checkpoint gave them."""
    if bench.identity.trained is None:
        return None
    artefact = train_or_find(bench, bench.identity.trained, "original")
    original.load_state_dict(artefact.tensors)
    return artefact
