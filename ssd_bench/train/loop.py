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
from ssd_bench.train.passes import pass_clock, statistics_for
from ssd_bench.train.recipe import Recipe

log = logging.getLogger(__name__)

Objective = Callable[..., tuple[Tensor, Tensor]]  # (model, inputs, labels, rows[, beside]) -> (loss, logits)


def mean_cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The usual objective: the mean cross-entropy of a batch, and its logits."""
    logits = model(inputs)
    return cross_entropy(logits, labels), logits


@dataclass(frozen=True)
class Pass:
    """Once through some rows, in batches; an epoch is one of these, or several that share the optimiser."""

    rows: Tensor  # int64, on the CPU
    objective: Objective = mean_cross_entropy
    batch_size: int | None = None  # None: the recipe's
    labels: Tensor | None = None  # of all images, int64, on their device; None: their own
    beside: Tensor | None = (
        None  # rows of which a batch goes beside each, over and over in one order, as `(inputs, labels)`
    )
    beside_size: int = 0
    shuffle: bool = True  # anew each time


Passes = Callable[[int], list[Pass]]  # of an epoch, counted from 1; always the same for the same epoch


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

    def __call__(self, epoch: int) -> bool | None:
        """True: that was the last epoch, whatever the recipe says."""


def batch_ends(n: int, batch_size: int) -> list[int]:
    """Where each batch of n samples ends. A last batch of one joins the one before: it has no statistics of its own."""
    ends = [*range(batch_size, n, batch_size), n]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1:
        del ends[-2]
    return ends


def fit(
    model: nn.Module,
    images: Images,
    rows: Tensor | Passes,
    recipe: Recipe,
    draws: torch.Generator,
    what: str,
    *,
    augment: Augment | None = None,
    objective: Objective = mean_cross_entropy,
    ready: Callable[[nn.Module], Any] = nn.Module.train,
    after_step: Callable[[nn.Module, torch.optim.Optimizer], None] | None = None,
    after_epoch: AfterEpoch | None = None,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """Train `model` in place on these rows of `images` and return it.

    rows: int64 on the CPU, reshuffled by `draws` each epoch; or the passes of each epoch. what: the name shown beside
    the progress. objective: instead of the cross-entropy; like `after_step`, it must not keep a state of its own.
    ready: puts the model into the mode that it is trained in. after_step: (model, optimizer), called after each step.
    checkpoint: where a training that was killed goes on, with the same bytes in the end. Raises Diverged at the end of
    an epoch whose mean loss is not finite.
    """
    passes = rows if callable(rows) else lambda epoch: [Pass(rows, objective)]
    training = Training(model, images, passes, recipe, draws, what, augment, ready, after_step, after_epoch, checkpoint)
    training.run()
    return model


@dataclass
class Training:
    """One training, and how far it has come."""

    model: nn.Module
    images: Images
    passes: Passes
    recipe: Recipe
    draws: torch.Generator
    what: str
    augment: Augment | None
    ready: Callable[[nn.Module], Any]
    after_step: Callable[[nn.Module, torch.optim.Optimizer], None] | None
    after_epoch: AfterEpoch | None
    checkpoint: Checkpoint | None
    epoch: int = field(default=1, init=False)  # that is going on, counted from 1
    batches: int = field(default=0, init=False)  # of it that are done

    def __post_init__(self) -> None:
        self.device = self.images.device
        self.steps = [sum(map(len, map(self._ends, self.passes(e)))) for e in range(1, self.recipe.epochs + 1)]
        self.rates = {n: self.recipe.lr_trace(n) for n in set(self.steps)}  # by the number of steps in an epoch
        self.optimizer = self.recipe.make_optimizer(self.model)
        self.seen = torch.zeros(2, device=self.device)  # summed loss and correct answers of this epoch
        self.images_seen = 0  # of this epoch
        self.progress = console.Progress(self.what, sum(self.steps), self.recipe.epochs)

    def _ends(self, of: Pass) -> list[int]:
        return batch_ends(len(of.rows), of.batch_size or self.recipe.batch_size)

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
        return sum(self.steps[: self.epoch - 1]) + self.batches

    def rate(self, batch: int) -> float:
        """The learning rate of a batch of this epoch, counted from 0."""
        n = self.steps[self.epoch - 1]
        return self.rates[n][(self.epoch - 1) * n + batch]

    def _one_epoch(self) -> None:
        self.ready(self.model)
        at_start = self.draws.get_state()
        for objective, inputs, targets, batch, more in self._inputs():
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(self.batches)
            with pass_clock(), statistics_for(self.model, len(batch)):
                loss, logits = objective(self.model, inputs, targets, batch, *more)
            with pass_clock.backward():
                loss.backward()
            self.optimizer.step()
            if self.after_step:
                self.after_step(self.model, self.optimizer)
            self.optimizer.zero_grad()
            with torch.no_grad():
                self.seen += torch.stack([loss.detach() * len(batch), (logits.argmax(1) == targets).sum()])
            self.batches += 1
            self.images_seen += len(batch)
            self.progress.step(self.epoch, self.images_seen, self.seen)
            if self.checkpoint and self.checkpoint.due():
                self._save(at_start)

    def _inputs(self) -> Iterator[tuple[Objective, Tensor, Tensor, Tensor, list[Any]]]:
        """Of each batch of this epoch still to do its objective, inputs, labels, rows, and the batch beside it.

        All draws of a pass come before its first batch, whether that is still to do or not.
        """
        skip = self.batches
        for of in self.passes(self.epoch):
            order, ends = of.rows, self._ends(of)
            if of.shuffle:
                order = order[torch.randperm(len(order), generator=self.draws)]
            draws, beside = None, self._beside(of)
            if self.augment is not None:
                draws = draw_augmentation(len(of.rows), self.augment.rotation, self.draws).to(self.device)
            order, places = order.to(self.device), order.to(self.images.indexed_on)
            labels = self.images.labels if of.labels is None else of.labels
            for i, (start, end) in list(enumerate(pairwise([0, *ends])))[skip:]:
                pixels = self.images.raw(places[start:end])
                if draws is not None:
                    pixels = augmented(pixels, draws[start:end], self.augment.crop, self.augment.flip)
                pixels = self.images.triggered(pixels, order[start:end])
                more = [self.images.batch(beside[i % len(beside)])] if beside else []
                yield of.objective, self.images.prepare(pixels), labels[order[start:end]], order[start:end], more
            skip = max(0, skip - len(ends))

    def _beside(self, of: Pass) -> list[Tensor]:
        """The batches of rows that go beside those of a pass, in their order."""
        if of.beside is None:
            return []
        order = of.beside[torch.randperm(len(of.beside), generator=self.draws)]
        ends = batch_ends(len(order), of.beside_size)
        return [order[start:end].to(self.images.indexed_on) for start, end in pairwise([0, *ends])]

    def _end_epoch(self) -> None:
        mean_loss = self.seen[0].item() / self.images_seen
        if not math.isfinite(mean_loss):
            where = f"in epoch {self.epoch} (step {self.step}, lr {self.rate(self.batches - 1):g})"
            raise Diverged(f"{self.what}: the loss is {mean_loss} {where}")
        over = self.after_epoch is not None and self.after_epoch(self.epoch)
        self.epoch = (self.recipe.epochs if over else self.epoch) + 1
        self.batches, self.images_seen = 0, 0
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
        self.checkpoint.save(tensors, {"epoch": self.epoch, "batches": self.batches, "images": self.images_seen})

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
        self.epoch, self.batches, self.images_seen = state["epoch"], state["batches"], state["images"]
        self.seen = tensors["seen"].to(self.device)
        log.info("%s: resumes in epoch %d", self.what, self.epoch)


def check_finite(model: nn.Module, what: str) -> None:
    """Raise Diverged if a weight or a running statistic is not a finite number."""
    tensors = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    if not torch.stack([t.isfinite().all() for t in tensors.values()]).all():
        bad = next(name for name, t in tensors.items() if not t.isfinite().all())
        raise Diverged(f"{what}: {bad} holds numbers that are not finite")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
