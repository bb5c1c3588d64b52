"""Apply one method to the original: exactly this call is timed, and what it made is kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.task import Context, Images, Split
from ssd_bench.methods.original import Original
from ssd_bench.run.bench import Bench
from ssd_bench.store.address import digest
from ssd_bench.store.artefacts import Store
from ssd_bench.store.resume import Checkpoints, checkpoints
from ssd_bench.train import devices
from ssd_bench.train.loop import check_finite
from ssd_bench.train.passes import in_model


@dataclass
class Cache:
    """`Context.cached`: what depends on the original alone is made once, and its cost is told apart from the rest."""

    store: Store
    original: Any  # key of the original
    device: torch.device
    aside_s: float = 0.0  # spent in here: making, but also waiting for another process, reading and writing
    cost_s: dict[str, float] = field(default_factory=dict)  # per kind, when it was made
    found: dict[str, bool] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)

    def cached(self, kind: str, key: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors (on the CPU) kept under this kind and key for this original, made by `make()` if need be."""

        def timed() -> tuple[dict[str, Tensor], dict[str, Any]]:
            tensors = make()
            devices.synchronise(self.device)
            return tensors, {}

        devices.synchronise(self.device)
        start = time.monotonic()
        artefact = self.store.get_or_make(kind, {"original": self.original, **key}, timed)
        self.aside_s += time.monotonic() - start
        self.cost_s[kind] = artefact.cost_s
        self.found[kind] = artefact.found
        self.paths[kind] = str(artefact.path)
        return artefact.tensors


def split_of(bench: Bench) -> Split:
    """The training side of the task."""
    task = bench.task
    return Split(
        images=bench.images["train"],
        rows=task.train,
        retain=task.retain,
        forget=task.forget,
        group=task.group,
        scenario=task.scenario,
        forget_label=task.forget_label,
        n_classes=len(task.classes),
    )


def unlearn(bench: Bench, original: nn.Module) -> dict[str, Any]:
    """The unlearned model, found in the store or made now, and the row's sections about its making."""
    plan, key = bench.plan, bench.identity.unlearned
    if isinstance(plan.method, Original):
        times = {"method_s": 0.0, "online_s": 0.0, "shared_s": {}}
        return {"model": original, "times": times, "cached": {}, "artefacts": {}}
    with checkpoints(bench.store, "unlearned", key, keep=not plan.settings.save_model) as resumed:
        if not plan.settings.force and (found := bench.store.get("unlearned", key, locked=True)):
            model = copy.deepcopy(original)
            model.load_state_dict(found.tensors)
            return {
                "model": model,
                **found.about,
                "cached": found.about["cached"] | {"unlearned": True},
                "artefacts": found.about["artefacts"] | {"unlearned": str(found.path)},
            }
        return make(bench, original, resumed)


def make(bench: Bench, original: nn.Module, resumed: Checkpoints) -> dict[str, Any]:
    """Call the method, time it, and keep what comes out."""
    plan, task, key = bench.plan, bench.task, bench.identity.unlearned
    cache = Cache(bench.store, bench.identity.original, bench.device)
    data = split_of(bench)
    context = Context(
        device=bench.device,
        seed=plan.settings.seed,
        seed_unlearn=plan.seed_unlearn,
        recipe=plan.train,
        augment=plan.data.augment,
        fresh_model=bench.new_model,
        head=plan.model.head,
        cached=cache.cached,
        checkpoint=resumed,
    )
    _warm_up(original, data.images, task.train[:64], bench.identity.original["model"])
    model = copy.deepcopy(original)
    with devices.measured(bench.device, resumed.clock) as measured:
        model = plan.method(model, data, context)
    if not isinstance(model, nn.Module):
        raise TypeError(f"method {plan.names['method']} returned {type(model).__name__}; it has to return the model")
    check_finite(model, plan.names["method"])
    full = "importance_full"
    about = {
        "times": {
            "method_s": measured.seconds,
            "online_s": measured.seconds - cache.aside_s,
            f"{full}_s": 0.0 if cache.found.get(full) else cache.cost_s.get(full),
            f"{full}_cost_s": cache.cost_s.get(full),
            "shared_s": cache.cost_s,
        },
        "details": context.details,
        "memory": {"peak_bytes": measured.peak_bytes, "what": measured.what},
        "cached": cache.found,
        "artefacts": cache.paths,
    }
    made = {
        "model": model,
        **about,
        "cached": cache.found | {"unlearned": False},
        "artefacts": cache.paths | {"unlearned": None},
    }
    if plan.settings.save_model:
        kept = bench.store.put("unlearned", key, model.state_dict(), about, measured.seconds)
        made["artefacts"]["unlearned"] = str(kept.path)
    return made


_warm: set[str] = set()  # what this process has warmed up


def _warm_up(model: nn.Module, images: Images, rows: Tensor, architecture: dict[str, Any]) -> None:
    """One forward and backward pass, so that no method pays for the first use of the device's kernels.

    Once in a process for each architecture and device: later runs find them warm.
    """
    inputs, labels = images.batch(rows.to(images.pixels.device))
    what = digest([architecture, str(inputs.device), list(inputs.shape)])
    if what in _warm:
        return
    _warm.add(what)
    with in_model():
        cross_entropy(copy.deepcopy(model)(inputs), labels).backward()
