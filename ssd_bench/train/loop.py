"""The one training loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core import console
from ssd_bench.core.errors import Diverged
from ssd_bench.core.seeds import global_state, set_global_state
from ssd_bench.core.task import Images
from ssd_bench.train.augment import Augment, augmented, draw_augmentation
from ssd_bench.train.devices import synchronise
from ssd_bench.train.passes import pass_clock
from ssd_bench.train.recipe import Recipe

log = logging.getLogger(__name__)

Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Checkpoint(Protocol):
    """Where a training that was killed goes on. The loop says what it is made of, not where it lies."""

    def due(self) -> bool:
        """Whether it is time for one in the middle of an epoch."""

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace what is kept: tensors on the CPU, and a JSON-able state."""

    def restore(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last; None where nothing was."""


class AfterEpoch(Protocol):
    """Called when an epoch is over (counted from 1); what it remembers is part of the training's checkpoint."""

    state: dict[str, Tensor]

    def __call__(self, epoch: int) -> None: ...


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
    draws: torch.Generator,
    what: str,
    *,
    augment: Augment | None = None,
    objective: Objective | None = None,
    after_epoch: AfterEpoch | None = None,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """Train `model` in place on these rows of `images` and return it.

    rows: int64 on the CPU, reshuffled by `draws` each epoch. what: the name shown beside the progress. objective:
    (model, inputs, labels, rows) -> (loss, logits), instead of the cross-entropy; it must not keep a state of its own.
    checkpoint: where a training that was killed goes on, with the same bytes in the end. Raises Diverged at the end of
    an epoch whose mean loss is not finite.
    """
    training = Training(model, images, rows, recipe, draws, what, augment, objective or mean_cross_entropy)
    training.after_epoch, training.checkpoint = after_epoch, checkpoint
    training.run()
    return model


@dataclass
class Training:
    """One training, and how far it has come."""

    model: nn.Module
    images: Images
    rows: Tensor
    recipe: Recipe
    draws: torch.Generator
    what: str
    augment: Augment | None
    objective: Objective
    after_epoch: AfterEpoch | None = None
    checkpoint: Checkpoint | None = None
    epoch: int = field(default=1, init=False)  # that is going on, counted from 1
    batches: int = field(default=0, init=False)  # of it that are done

    def __post_init__(self) -> None:
        self.device = self.images.device
        self.ends = batch_ends(len(self.rows), self.recipe.batch_size)
        self.rates = self.recipe.lr_trace(len(self.ends))
        self.optimizer = self.recipe.make_optimizer(self.model)
        self.seen = torch.zeros(2, device=self.device)  # summed loss and correct answers of this epoch
        self.progress = console.Progress(self.what, self.recipe.epochs * len(self.ends), self.recipe.epochs)

    def run(self) -> None:
        """Every epoch that is still to do."""
        self._restore()
        with self.progress:
            self.progress.begin(self.step)
            while self.epoch <= self.recipe.epochs:
                self._one_epoch()
                self._end_epoch()
        check_finite(self.model, self.what)

    @property
    def step(self) -> int:
        """How many batches are done, of all epochs."""
        return (self.epoch - 1) * len(self.ends) + self.batches

    def _one_epoch(self) -> None:
        self.model.train()
        at_start = self.draws.get_state()
        for inputs, targets, batch in self._inputs():
            for group in self.optimizer.param_groups:
                group["lr"] = self.rates[self.step]
            with pass_clock():
                loss, logits = self.objective(self.model, inputs, targets, batch)
            with pass_clock.backward():
                loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            with torch.no_grad():
                self.seen += torch.stack([loss.detach() * len(batch), (logits.argmax(1) == targets).sum()])
            self.batches += 1
            self.progress.step(self.epoch, self.ends[self.batches - 1], self.seen)
            if self.checkpoint and self.checkpoint.due():
                self._save(at_start)

    def _inputs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Inputs, labels and rows of the batches of this epoch still to do. All draws of an epoch come first."""
        order = self.rows[torch.randperm(len(self.rows), generator=self.draws)]
        order, places = order.to(self.device), order.to(self.images.indexed_on)
        draws = None
        if self.augment is not None:
            draws = draw_augmentation(len(self.rows), self.augment.rotation, self.draws).to(self.device)
        for start, end in list(pairwise([0, *self.ends]))[self.batches :]:
            batch = order[start:end]
            pixels = self.images.raw(places[start:end])
            if draws is not None:
                pixels = augmented(pixels, draws[start:end], self.augment.crop, self.augment.flip)
            yield self.images.prepare(pixels), self.images.labels[batch], batch

    def _end_epoch(self) -> None:
        mean_loss = self.seen[0].item() / len(self.rows)
        if not math.isfinite(mean_loss):
            where = f"in epoch {self.epoch} (step {self.step}, lr {self.rates[self.step - 1]:g})"
            raise Diverged(f"{self.what}: the loss is {mean_loss} {where}")
        if self.after_epoch is not None:
            self.after_epoch(self.epoch)
        self.epoch, self.batches = self.epoch + 1, 0
        self.seen = torch.zeros_like(self.seen)
        if self.checkpoint:
            self._save(self.draws.get_state())

    def _save(self, draws: Tensor) -> None:
        """draws: the generator's state at the start of this epoch."""
        synchronise(self.device)  # what it still has to do is training
        parts = {"model": self.model.state_dict(), "random": global_state(self.device)}
        parts["after_epoch"] = self.after_epoch.state if self.after_epoch else {}
        for i, state in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer.{i}"] = {name: torch.as_tensor(t) for name, t in state.items() if t is not None}
        tensors = {f"{part}.{name}": t for part, of_part in parts.items() for name, t in of_part.items()}
        tensors |= {"draws": draws, "seen": self.seen}
        self.checkpoint.save(tensors, {"epoch": self.epoch, "batches": self.batches})

    def _restore(self) -> None:
        """Put everything into the state that was saved, if there is one."""
        saved = self.checkpoint.restore() if self.checkpoint else None
        if saved is None:
            return
        tensors, state = saved
        self.model.load_state_dict(_under("model.", tensors))
        of_optimizer: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            i, key = name.split(".", 1)
            of_optimizer.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": of_optimizer, "param_groups": groups})  # each to its device
        for p, of_p in self.optimizer.state.items():  # and in the order of the parameter's memory, which is faster
            of_p.update({key: torch.empty_like(p).copy_(t) for key, t in of_p.items() if t.shape == p.shape})
        self.optimizer.zero_grad()  # what came before this training may have left some behind
        self.draws.set_state(tensors["draws"])
        set_global_state(_under("random.", tensors), self.device)
        if self.after_epoch:
            self.after_epoch.state.update(_under("after_epoch.", tensors))
        self.epoch, self.batches, self.seen = state["epoch"], state["batches"], tensors["seen"].to(self.device)
        log.info("%s: resumes in epoch %d", self.what, self.epoch)


def check_finite(model: nn.Module, what: str) -> None:
    """Raise Diverged if a weight or a running statistic is not a finite number."""
    tensors = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    if not torch.stack([t.isfinite().all() for t in tensors.values()]).all():
        bad = next(name for name, t in tensors.items() if not t.isfinite().all())
        raise Diverged(f"{what}: {bad} holds numbers that are not finite")


def mean_cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The usual objective: the mean cross-entropy of a batch, and its logits."""
    logits = model(inputs)
    return cross_entropy(logits, labels), logits


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
