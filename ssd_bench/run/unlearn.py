"""Apply one method to the original: exactly this call is timed, and what it made is kept."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any

from torch import nn

from ssd_bench.core.task import Context, ask
from ssd_bench.methods.original import Original
from ssd_bench.run.bench import Bench
from ssd_bench.run.cache import Cache
from ssd_bench.run.call import call, makes_it_again, plain, warm_up
from ssd_bench.run.identity import Trained, seed_unlearn
from ssd_bench.run.trained import KIND, train_or_find
from ssd_bench.store.address import address, digest
from ssd_bench.store.resume import Checkpoints, checkpoints
from ssd_bench.train import devices

log = logging.getLogger(__name__)


@dataclass
class Unlearned:
    """A model, the key under which it is found again, and the row's sections about its making."""

    model: nn.Module
    key: Any
    sections: dict[str, Any]


def unlearn(bench: Bench, original: nn.Module) -> Unlearned:
    """The unlearned model: found in the store, or made now."""
    plan, key = bench.plan, bench.identity.unlearned
    if isinstance(plan.method, Original):
        return Unlearned(
            original, bench.identity.original, {"times": {"method_s": 0.0, "online_s": 0.0, "shared_s": {}}}
        )
    if bench.retrained:
        return _retrain(bench, bench.retrained)
    with checkpoints(bench.store, "unlearned", key, keep=not plan.settings.save_model) as resumed:
        if not plan.settings.force and (found := bench.store.get("unlearned", key, locked=True)):
            model = copy.deepcopy(ask(plan.method, "holder", original))
            model.load_state_dict(found.tensors)
            sections = copy.deepcopy(found.about)
            sections["cached"]["unlearned"] = True
            sections["artefacts"]["unlearned"] = str(found.path)
            return Unlearned(bench.compiled(model), key, sections)
        return _make(bench, original, resumed)


def _retrain(bench: Bench, wanted: Trained) -> Unlearned:
    """A model that was trained without D_f: like the original, made once and found by what it was trained on."""
    with devices.measured(bench.device) as measured:
        artefact = train_or_find(bench, wanted, bench.plan.names["method"], anew=bench.plan.settings.force)
    model = bench.new_model(0, pretrained=False)
    model.load_state_dict(artefact.tensors)
    sections = {
        "times": {"method_s": measured.seconds, "online_s": 0.0, "shared_s": {KIND: artefact.cost_s}},
        "memory": {"peak_bytes": measured.peak_bytes, "what": measured.what},
        "cached": {"unlearned": artefact.found},
        "artefacts": {"unlearned": str(artefact.path)},
        "parallel": bench.parallel or artefact.about["parallel"],
    }
    return Unlearned(bench.compiled(model), wanted.key, sections)


def _make(bench: Bench, original: nn.Module, resumed: Checkpoints) -> Unlearned:
    """Call the method, time it, and keep what comes out."""
    plan, key, name = bench.plan, bench.identity.unlearned, bench.plan.names["method"]
    how = {"stale": bench.stale, "clock": resumed.clock, "keeps": plan.settings.save_model}
    cache = Cache(bench.store, bench.identity.kept, bench.device, bench.parallel, **how)
    data, context = bench.split(), _context(bench, cache, resumed)
    model = bench.compiled(copy.deepcopy(original))
    warm_up(model, data, None if plan.settings.compile else digest(address(plan.model)))
    model, measured = call(name, plan.method, model, data, context, cache.given, resumed.clock)
    kept = {
        "times": _times(measured.seconds, cache),
        "details": plain(context.details),
        "memory": {"peak_bytes": measured.peak_bytes, "what": measured.what},
        "cached": cache.found | {"unlearned": False},
        "artefacts": cache.paths | {"unlearned": None},
        "parallel": bench.parallel or cache.beside,
    }
    sections = copy.deepcopy(kept)
    holder = ask(plan.method, "holder", original)
    if plan.settings.save_model and not makes_it_again(model, holder, data):
        log.warning("method %s changes more than weights and buffers: its model cannot be kept, only its numbers", name)
    elif plan.settings.save_model:
        artefact = bench.store.put("unlearned", key, model.state_dict(), kept, measured.seconds)
        sections["artefacts"]["unlearned"] = str(artefact.path)
    return Unlearned(model, key, sections)


def _times(seconds: float, cache: Cache) -> dict[str, Any]:
    full = "importance_full"
    cost = cache.shared_s.get(full)
    return {
        "method_s": seconds,
        "online_s": seconds - cache.aside_s,
        "shared_s": cache.shared_s,
        f"{full}_s": 0.0 if cache.found.get(full) else cost,
        f"{full}_cost_s": cost,
    }


def _context(bench: Bench, cache: Cache, resumed: Checkpoints) -> Context:
    plan = bench.plan
    return Context(
        device=bench.device,
        seed=plan.settings.seed,
        seed_unlearn=seed_unlearn(plan, bench.request),
        recipe=plan.train,
        augment=plan.data.augment,
        fresh_model=lambda *args, **kwargs: bench.compiled(bench.new_model(*args, **kwargs)),
        head=plan.model.head,
        cached=cache.cached,
        checkpoint=resumed,
    )
