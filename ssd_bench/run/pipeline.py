"""One run from top to bottom: data, task, original, method, outputs, metrics, row."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from ssd_bench.core.about import describe
from ssd_bench.core.errors import ConfigError, Diverged
from ssd_bench.core.seeds import derive_seed
from ssd_bench.data.view import view
from ssd_bench.methods.original import Original
from ssd_bench.models.checkpoint import fit_checkpoint
from ssd_bench.models.fresh import fresh
from ssd_bench.run.bench import Bench
from ssd_bench.run.environment import environment
from ssd_bench.run.evaluate import chosen_sets, evaluate
from ssd_bench.run.identity import identify, row_path
from ssd_bench.run.plan import Plan
from ssd_bench.run.trained import train_or_find
from ssd_bench.run.unlearn import unlearn
from ssd_bench.store.artefacts import Store
from ssd_bench.store.files import clear_parts, writable
from ssd_bench.store.locks import hold
from ssd_bench.store.resume import discard
from ssd_bench.store.rows import METRICS, SCHEMA, TIMES, finished, write_row
from ssd_bench.train import devices
from ssd_bench.train.passes import in_model

log = logging.getLogger(__name__)


def prepare(plan: Plan, parallel: bool = False) -> Bench:
    """Data, task and identity of a run: all that can be known without computing. Nothing is written under `out`."""
    settings = plan.settings
    device = devices.choose_device(settings.device)
    threads = devices.use_threads(settings.threads, parallel)
    in_model.precision = devices.use_precision(settings.precision, device)
    dataset = plan.data.load()
    task = plan.scenario(dataset, plan.data.targets, plan.seed_forget)
    images = view(dataset, task, plan.data.norm, plan.model, device)
    identity = identify(plan, dataset, task, images["train"], device, threads)

    def new_model(seed: int, pretrained: bool = True) -> nn.Module:
        _, channels, side, _ = images["train"].pixels.shape
        model = plan.model if pretrained else plan.model.untrained()
        made = fresh(model, seed, len(task.classes), channels, side).to(device)
        if settings.compile:
            made.compile()
        return made

    return Bench(plan, task, images, identity, Store(Path(settings.out)), device, new_model)


def run(plan: Plan, parallel: bool = False) -> Path:
    """Make the row that `plan` describes, unless it is there; returns its path (a `metrics.json`).

    parallel: whether other jobs share the cores. Raises ConfigError, before anything is trained or written, when the
    plan cannot be carried out.
    """
    started, start, passes = datetime.now(UTC), time.monotonic(), in_model.seconds
    settings, bench = plan.settings, prepare(plan, parallel)
    path = row_path(Path(settings.out), plan, bench.identity)
    if finished(path) and not settings.force:
        log.info("%s: finished already; force=true runs it again", path)
        return path
    devices.be_deterministic()
    original = bench.new_model(derive_seed(settings.seed, "original", "init"))  # what cannot be built says so now
    if plan.model.checkpoint:
        fit_checkpoint(original, Path(plan.model.checkpoint))
    if not writable(Path(settings.out)):
        raise ConfigError(f"out={settings.out} cannot be written; choose a folder that can")
    with hold(path.with_suffix(".lock"), "row"):
        clear_parts(path)
        if finished(path, locked=True) and not settings.force:  # another process was faster
            return path
        row = make_row(bench, original)
        row["times"] |= {"total_s": time.monotonic() - start, "passes_s": in_model.seconds - passes}
        row["env"] = environment(bench.device, started, datetime.now(UTC))
        write_row(path, row)
        discard(bench.store, "unlearned", bench.identity.unlearned)  # with save_model=false they are there until now
    return path


def make_row(bench: Bench, original: nn.Module) -> dict[str, Any]:
    """The row of one run, whatever its end: done, skipped for want of what the method needs, or diverged."""
    plan, task, name = bench.plan, bench.task, bench.plan.names["method"]
    row = {"schema": SCHEMA, "status": "done", "reason": None, "task": bench.identity.task, "method": name}
    row |= {"settings": asdict(plan.method), "config": plan.config, "metrics": dict.fromkeys(METRICS)}
    row["about"] = describe(plan.metrics)
    row["columns"] = {key: asdict(about) for key, about in getattr(plan.method, "columns", {}).items()}
    row["classes"] = list(task.classes)
    row["samples"] = {name: len(rows) for name, (_, rows) in chosen_sets(bench).items()}
    row |= {"original_metrics": None, "details": {}, "times": {}, "cached": {}, "artefacts": {}}
    row |= {"memory": {"peak_bytes": None, "what": None}}
    try:
        if bench.lacking:
            needed = {"forget_label": "one class to forget"}.get(bench.lacking[0], bench.lacking[0])
            row |= {"status": "skipped", "reason": f"{name} needs {needed}; scenario={task.scenario} has none"}
        else:
            row |= carry_out(bench, original)
    except Diverged as e:
        row |= {"status": "diverged", "reason": str(e)}
        if (trained := bench.store.path("original", bench.identity.original)).exists():
            row["artefacts"] = {"original": str(trained)}
    return row | {"times": dict.fromkeys(TIMES) | row["times"]}


def carry_out(bench: Bench, original: nn.Module) -> dict[str, Any]:
    """Train or find the original, unlearn, evaluate both models: the sections of the row."""
    plan, identity = bench.plan, bench.identity
    trained = train_or_find(bench, original)
    made = unlearn(bench, original)
    start = time.monotonic()
    made["original_metrics"], seen = evaluate(bench, original, identity.original)
    made["artefacts"]["original_outputs"] = seen["outputs"]
    model = made.pop("model")
    if isinstance(plan.method, Original):
        made["metrics"] = made["original_metrics"]
        made["artefacts"]["unlearned"] = str(trained.path) if trained else plan.model.checkpoint
    else:
        made["metrics"], seen = evaluate(bench, model, identity.unlearned, anew=plan.settings.force)
    made["times"] |= {"train_original_s": trained and trained.cost_s, "evaluate_s": time.monotonic() - start}
    made["cached"] |= {"original": trained is None or trained.found}
    made["artefacts"] |= {
        "original": str(trained.path) if trained else plan.model.checkpoint,
        **seen,
    }
    return made
