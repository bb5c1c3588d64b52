"""The original: found in the store, or trained now."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Images
from ssd_bench.run.bench import Bench
from ssd_bench.store.artefacts import Artefact
from ssd_bench.store.resume import Checkpoint, checkpoints
from ssd_bench.train.loop import fit
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe


def train_original(
    model: nn.Module,
    images: dict[str, Images],
    rows: Tensor,
    recipe: Recipe,
    augment: Any,
    seeds: tuple[object, ...],
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train `model` in place on these rows of the "train" images, its draws from `task.generator(*seeds)`.

    recipe.select=last keeps the last epoch's weights; best_test those of the epoch with the best accuracy on the
    "test" images, as the released code does: a leak, and there for comparison alone.
    """
    best: dict[str, Tensor] = {}  # "accuracy" and the weights
    test = images["test"]

    def keep_best(epoch: int) -> None:
        right = predict(model, test, torch.arange(len(test)), 128).argmax(1) == test.labels.cpu()
        if "accuracy" not in best or right.double().mean() > best["accuracy"]:
            best.update(copy.deepcopy(model.state_dict()), accuracy=right.double().mean())

    fit(
        model,
        images["train"],
        rows,
        recipe,
        generator(*seeds),
        "original",
        augment=augment if recipe.augment else None,
        after_epoch=keep_best if recipe.select == "best_test" else None,
        checkpoint=checkpoint,
        kept=best,
    )
    if best:
        model.load_state_dict({name: t for name, t in best.items() if name != "accuracy"})


def train_or_find(bench: Bench, model: nn.Module) -> Artefact | None:
    """Put the original's weights into `model`: found in the store or trained now. None: a checkpoint gave them."""
    plan = bench.plan
    if plan.model.checkpoint:
        return None

    key, seeds = bench.identity.original, (plan.settings.seed, "original", "batches")
    with checkpoints(bench.store, "original", key) as resumed:

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            checkpoint = resumed("training")
            train_original(model, bench.images, bench.task.train, plan.train, plan.data.augment, seeds, checkpoint)
            return model.state_dict(), {}

        artefact = bench.store.get_or_make("original", key, make, clock=resumed.clock)
    model.load_state_dict(artefact.tensors)
    return artefact
