"""What a model says about the sets of a task, found by one inference pass and kept; and the metrics made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.artefacts import Artefact
from ssd_bench.bench import Bench
from ssd_bench.identity import hash_rows
from ssd_bench.results import METRICS
from ssd_bench.task import Outputs, Task, derive_seed
from ssd_bench.training import predict

Model = Callable[[], nn.Module]  # asked for only where an inference pass is needed


def infer(model: Model, key: Any, rows: dict[str, Tensor], bench: Bench, anew: bool = False) -> Artefact:
    """The logits of these rows of the "train" and "test" images, kept under `key`; with `anew`, made again."""
    batch_size = bench.plan.evaluate.batch_size
    key = {"model": key, "rows": {part: hash_rows(r) for part, r in rows.items()}, "batch_size": batch_size}

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        ready = model()
        return {part: predict(ready, bench.images[part], r, batch_size) for part, r in rows.items()}, {}

    return bench.store.get_or_make("outputs", key, make, anew)


def rows_of(task: Task, sets: list[str]) -> dict[str, Tensor]:
    """The rows of the "train" and "test" images that these sets need, each once, ascending.

    All sets of a class scenario need every row, whatever the class: the original's outputs are shared by all requests.
    """
    parts: dict[str, list[Tensor]] = {}
    for name in sets:
        part, rows = task.sets[name]
        parts.setdefault(part, []).append(rows)
    return {part: torch.cat(rows).unique() for part, rows in sorted(parts.items())}


def outputs(
    task: Task,
    sets: list[str],
    rows: dict[str, Tensor],
    logits: dict[str, Tensor],
    random_logits: Tensor | None,
) -> Outputs:
    """The outputs set by set, out of the logits of `rows`."""
    labels = {"train": task.train_labels, "test": task.test_labels}
    wanted = {name: task.sets[name] for name in sets}
    return Outputs(
        logits={name: logits[part][torch.searchsorted(rows[part], r)] for name, (part, r) in wanted.items()},
        labels={name: labels[part][r] for name, (part, r) in wanted.items()},
        random_logits=random_logits,
    )


def evaluate(bench: Bench, model: nn.Module, key: Any, anew: bool = False) -> tuple[dict[str, float | None], Artefact]:
    """All metrics of one model, and the outputs they are made of: found under `key`, or inferred (always if `anew`)."""
    plan, task = bench.plan, bench.task
    options = plan.evaluate
    rows = rows_of(task, options.sets)
    seen = infer(lambda: model, key, rows, bench, anew)
    random_logits = None
    if "forget" in options.sets:
        part, forget = task.sets["forget"]
        seed = derive_seed(options.zrf_seed, "zrf")
        like = {name: bench.identity.original[name] for name in ("model", "view", "data", "labels")}
        at_random = infer(
            lambda: bench.new_model(seed, pretrained=False), {"seed": seed, **like}, {part: forget}, bench
        )
        random_logits = at_random.tensors[part]
    said = outputs(task, options.sets, rows, seen.tensors, random_logits)
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    for metric in plan.metrics.values():
        values.update(metric(said))
    return values, seen
