"""What a model says about the sets of a task, found by one inference pass and kept; and the metrics made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import Diverged
from ssd_bench.core.seeds import derive_seed, generator
from ssd_bench.core.task import outputs
from ssd_bench.run.bench import Bench
from ssd_bench.run.plan import Plan
from ssd_bench.store.address import hash_rows
from ssd_bench.store.artefacts import Artefact
from ssd_bench.store.rows import METRICS
from ssd_bench.train.passes import predict

# What a random model's outputs depend on.
LIKE = ("model", "view", "data", "labels", "device", "threads", "torch", "precision", "compile")
Model = Callable[[], nn.Module]  # asked for only where an inference pass is needed


def infer(model: Model, key: Any, rows: dict[str, Tensor], bench: Bench, anew: bool = False) -> Artefact:
    """The logits of these rows of the "train" and "test" images, kept under `key`; with `anew`, made again."""
    batch_size = bench.plan.evaluate.batch_size

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        ready = model()
        logits = {part: predict(ready, bench.images[part], r, batch_size) for part, r in rows.items()}
        if not all(said.isfinite().all() for said in logits.values()):
            raise Diverged("the model's outputs are not finite")
        return logits, {}

    return bench.store.get_or_make("outputs", outputs_key(key, rows, bench.plan), make, anew)


def outputs_key(model: Any, rows: dict[str, Tensor], plan: Plan) -> dict[str, Any]:
    """The key of a model's outputs for these rows of each part."""
    row_hashes = {part: hash_rows(r) for part, r in rows.items()}
    return {"model": model, "rows": row_hashes, "batch_size": plan.evaluate.batch_size}


def chosen_sets(bench: Bench) -> dict[str, tuple[str, Tensor]]:
    """What is evaluated: of each set the part that it lies in and its rows; of D_r a sample, where one is asked for.

    The sample is the same for every request but for the images that are to be forgotten.
    """
    asked = bench.plan.evaluate
    wanted = {name: bench.task.sets[name] for name in asked.sets}
    if asked.retain_train_samples is not None and "retain_train" in wanted:
        part, rows = wanted["retain_train"]
        order = torch.randperm(len(bench.images["train"]), generator=generator(asked.sample_seed, "retain_train"))
        drawn = order[torch.isin(order, rows)][: asked.retain_train_samples]
        wanted["retain_train"] = part, drawn.sort().values
    return wanted


def needed_rows(bench: Bench) -> dict[str, Tensor]:
    """Per part of the data, the rows that a model has to be asked about, ascending."""
    wanted = chosen_sets(bench).values()
    parts = sorted({part for part, _ in wanted})
    return {p: torch.cat([rows for part, rows in wanted if part == p]).unique() for p in parts}


def find_sets(bench: Bench) -> Artefact:
    """Which rows of the outputs each set is made of, and their labels; kept, so that tables can be derived later.

    All sets of a class scenario need every row, whatever the class: the original's outputs are shared by all requests.
    """
    task = bench.task
    labels = {"train": task.train_labels, "test": task.test_labels}
    wanted = chosen_sets(bench)
    key = {
        "sets": {name: [part, hash_rows(rows)] for name, (part, rows) in wanted.items()},
        "labels": {part: hash_rows(of_part) for part, of_part in labels.items()},
    }

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        needed = needed_rows(bench)
        tensors = {f"rows.{part}": rows for part, rows in needed.items()}
        for name, (part, rows) in wanted.items():
            tensors[f"place.{name}"] = torch.searchsorted(needed[part], rows)
            tensors[f"labels.{name}"] = labels[part][rows]
        return tensors, {name: part for name, (part, _) in wanted.items()}

    return bench.store.get_or_make("sets", key, make)


def evaluate(
    bench: Bench, model: nn.Module, key: Any, anew: bool = False
) -> tuple[dict[str, float | None], dict[str, str]]:
    """All metrics of one model, and the paths of what they are made of.

    One inference pass serves them all; it is found under `key`, or made (always if `anew`).
    """
    plan, sets = bench.plan, find_sets(bench)
    rows = {name.removeprefix("rows."): t for name, t in sets.tensors.items() if name.startswith("rows.")}
    seen = infer(lambda: model, key, rows, bench, anew)
    random_logits, paths = None, {"outputs": str(seen.path), "sets": str(sets.path)}
    if "forget" in sets.about:
        part, forget = bench.task.sets["forget"]
        seed = derive_seed(plan.evaluate.zrf_seed, "zrf")
        like = {name: bench.identity.original[name] for name in LIKE}
        at_random = infer(
            lambda: bench.new_model(seed, pretrained=False), {"seed": seed, **like}, {part: forget}, bench
        )
        random_logits, paths["random_outputs"] = at_random.tensors[part], str(at_random.path)
    said = outputs(sets.tensors, sets.about, seen.tensors, random_logits)
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    for metric in plan.metrics.values():
        values.update(metric(said))
    return values, paths
