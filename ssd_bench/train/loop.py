"""The one training loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core import console
from ssd_bench.core.errors import Diverged
from ssd_bench.core.task import Images
from ssd_bench.train.augment import augmented, draw_augmentation
from ssd_bench.train.passes import in_model
from ssd_bench.train.recipe import Recipe

log = logging.getLogger(__name__)

RECIPE_VERSION = 1  # part of every artefact's address: raise it when a change here changes the weights that come out


@dataclass
class Position:
    """How far a training has come."""

    epoch: int = 1  # counted from 1
    batches: int = 0  # done in this epoch
    seen: Tensor | None = None  # summed loss and correct answers of this epoch


class Checkpoint(Protocol):
    """Where a training that was killed goes on; the loop does not know who keeps it."""

    def due(self) -> bool:
        """Whether it is time for one in the middle of an epoch."""

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        draws: Tensor,
        at: Position,
        kept: dict[str, Tensor],
    ) -> None:
        """Keep everything that the rest of the training depends on."""

    def restore(
        self,
        what: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        draws_from: torch.Generator,
        kept: dict[str, Tensor],
    ) -> Position:
        """Put everything into the state that was saved; the start, where nothing was."""


def batch_ends(n: int, batch_size: int) -> list[int]:
    """Where each batch of n samples ends. A last batch of one joins the one before: BatchNorm cannot train on it."""
    ends = [*range(batch_size, n, batch_size), n]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1:
        del ends[-2]
    return ends


def fit(
    model: nn.Module,
    images: Images,
    rows: Tensor,
    recipe: Recipe,
    draws_from: torch.Generator,
    what: str,
    augment: Any = None,
    rates: Sequence[float] | None = None,
    objective: Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    labels: Tensor | None = None,
    after_epoch: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    kept: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Train `model` in place on these rows of `images` and return it.

    rows: int64 on the CPU, reshuffled by `draws_from` each epoch. rates: the learning rate of every step, instead of
    the recipe's own. objective: (model, inputs, labels, rows) -> (loss, logits), instead of the cross-entropy.
    labels: of all images, instead of their own. after_epoch: called with the epoch, counted from 1. what: the name
    shown beside the progress. checkpoint: where a training that was killed goes on, with the same bytes in the end;
    not for an objective that keeps a state of its own. kept: tensors of `after_epoch`'s that belong to it. Raises
    Diverged at the end of an epoch whose mean loss is not finite.
    """
    device = images.pixels.device
    ends = batch_ends(len(rows), recipe.batch_size)
    steps_per_epoch = len(ends)
    rates = recipe.lr_trace(steps_per_epoch) if rates is None else rates
    labels = images.labels if labels is None else labels
    objective = objective or _cross_entropy
    optimizer = recipe.make_optimizer(model)
    progress = console.Progress(what, recipe.epochs * steps_per_epoch, recipe.epochs)
    kept = {} if kept is None else kept
    begun = checkpoint.restore(what, model, optimizer, draws_from, kept) if checkpoint else Position()
    step = (begun.epoch - 1) * steps_per_epoch + begun.batches
    with progress:
        progress.begin(step)
        for epoch in range(begun.epoch, recipe.epochs + 1):
            model.train()
            before = draws_from.get_state()
            order = rows[torch.randperm(len(rows), generator=draws_from)].to(device)
            draws = None
            if augment is not None:
                draws = draw_augmentation(len(rows), augment.rotation, draws_from).to(device)
            seen = torch.zeros(2, device=device) if begun.seen is None else begun.seen.to(device)
            for start, end in list(pairwise([0, *ends]))[begun.batches :]:
                batch = order[start:end]
                pixels, targets = images.pixels[batch], labels[batch]
                if draws is not None:
                    pixels = augmented(pixels, draws[start:end], augment.crop, augment.flip)
                inputs = images.prepare(pixels)
                for group in optimizer.param_groups:
                    group["lr"] = rates[step]
                with in_model():
                    loss, logits = objective(model, inputs, targets, batch)
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                with torch.no_grad():
                    seen += torch.stack([loss.detach() * len(batch), (logits.argmax(1) == targets).sum()])
                step += 1
                progress.step(epoch, end, seen)
                if checkpoint and checkpoint.due():
                    done = step - (epoch - 1) * steps_per_epoch
                    checkpoint.save(model, optimizer, before, Position(epoch, done, seen), kept)
            mean_loss = seen[0].item() / len(rows)
            if not math.isfinite(mean_loss):
                raise Diverged(
                    f"{what}: the loss is {mean_loss} in epoch {epoch} (step {step}, lr {rates[step - 1]:g})"
                )
            if after_epoch is not None:
                after_epoch(epoch)
            begun = Position(epoch + 1, 0, torch.zeros(2, device=device))
            if checkpoint:
                checkpoint.save(model, optimizer, draws_from.get_state(), begun, kept)
    check_finite(model, what)
    return model


def check_finite(model: nn.Module, what: str) -> None:
    """Raise Diverged if a weight or a running statistic is not a finite number."""
    tensors = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    if not torch.stack([t.isfinite().all() for t in tensors.values()]).all():
        bad = next(name for name, t in tensors.items() if not t.isfinite().all())
        raise Diverged(f"{what}: {bad} holds numbers that are not finite")


def _cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(inputs)
    return cross_entropy(logits, labels), logits
