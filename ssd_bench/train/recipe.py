"""How a model is trained: optimiser, schedule, batches."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.seeds import generator

RISE = 0.2  # the share of all steps in which schedule=one_cycle reaches its peak


def later(default: Any) -> Any:
    """A field that came when addresses were in use: where it has its default, they are what they were without it."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class Recipe:
    """How the original and the retrained model are trained. Source of the defaults: the released pre-training.

    schedule: after `warmup_epochs` from 0 to lr, `multistep`, `cosine` to 0 or `constant`; or `one_cycle`, which rises
    to lr for a fifth of all steps and falls to 0, both linearly (Smith and Topin 2018, arXiv 1708.07120), and has no
    other warm-up. decay_all: weight decay for the parameters of one dimension, biases and those of norms, too.
    """

    optimizer: str = "sgd"
    epochs: int = 20
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    schedule: str = "multistep"
    milestones: list[float] = field(default_factory=list)  # shares of the epochs
    gamma: float = 0.2
    augment: bool = True
    select: str = "last"
    nesterov: bool = later(False)  # SGD's alone
    decay_all: bool = later(True)
    version: ClassVar[int] = 2  # raised when a change to the training loop changes the weights that come out

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, ("sgd", "adam", "adamw"))
        check_choice("schedule", self.schedule, ("multistep", "cosine", "constant", "one_cycle"))
        check_choice("select", self.select, ("last", "best_test"))
        check_range("epochs", self.epochs, 1)
        check_range("batch_size", self.batch_size, 1)
        check_range("warmup_epochs", self.warmup_epochs, 0)
        check_range("momentum", self.momentum, 0)
        check_range("weight_decay", self.weight_decay, 0)
        check_range("lr", self.lr, above=0)
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov=true needs optimizer=sgd and a momentum")
        if any(not 0 < m <= 1 for m in self.milestones):
            raise ValueError(f"milestones are shares of the epochs, between 0 and 1, got {list(self.milestones)}")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must ascend, got {list(self.milestones)}")

    def without_selection(self) -> Recipe:
        """The same with the last epoch's weights: who trains without test data cannot select by them."""
        return replace(self, select="last")

    @classmethod
    def constant(
        cls, optimizer: str, epochs: int, batch_size: int, lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> Recipe:
        """The recipe of most unlearning methods: one learning rate, no warm-up. momentum is SGD's alone."""
        return cls(
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            warmup_epochs=0,
            schedule="constant",
        )

    @classmethod
    def of(cls, recipe: Recipe, **more: Any) -> Self:
        """A recipe of this kind with another one's settings, but for `more`."""
        return cls(**{f.name: getattr(recipe, f.name) for f in fields(Recipe)} | more)

    def milestone_epochs(self) -> list[int]:
        """The epochs, counted from 1, from which on the learning rate is lower."""
        return [round(m * self.epochs) for m in self.milestones]

    def lr_trace(self, steps_per_epoch: int) -> list[float]:
        """The learning rate of every step: linear warm-up from 0, then as `schedule` says."""
        total = self.epochs * steps_per_epoch
        one_cycle = self.schedule == "one_cycle"
        warmup = math.ceil(RISE * total) if one_cycle else self.warmup_epochs * steps_per_epoch
        rates = [self.lr * step / warmup for step in range(min(warmup, total))]
        for step in range(warmup, total):
            if self.schedule == "cosine":
                rates.append(self.lr / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))))
            elif one_cycle:
                rates.append(self.lr * (total - step) / (total - warmup))
            elif self.schedule == "multistep":
                epoch = step // steps_per_epoch + 1
                rates.append(self.lr * self.gamma ** bisect_right(self.milestone_epochs(), epoch))
            else:
                rates.append(self.lr)
        return rates

    def epoch_rows(self, rows: Tensor, epoch: int, seed: int) -> Tensor:
        """Of the rows that a model is trained on, those of this epoch (from 1 on): each once, in any order."""
        return rows

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Of all parameters, those of one dimension without weight decay where `decay_all` is false."""
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimizer]
        more = {"momentum": self.momentum, "nesterov": self.nesterov} if self.optimizer == "sgd" else {}
        # Fused: on a GPU one kernel a step. On a CPU a step is 1 % of a batch already, but there the root in Adam's is
        # exact, else MKL's approximation, which depends on the processor. It reads memory as it lies, without gaps.
        first = next(model.parameters())
        exact = self.optimizer != "sgd" and first.is_cpu and all(_without_gaps(p) for p in model.parameters())
        fused = first.is_cuda or exact or None
        parts = [{"params": list(model.parameters())}]
        if not self.decay_all:
            flat = [p for p in model.parameters() if p.ndim < 2]
            parts = [{"params": [p for p in model.parameters() if p.ndim > 1]}, {"params": flat, "weight_decay": 0.0}]
        return kind(parts, lr=self.lr, weight_decay=self.weight_decay, fused=fused, **more)


def _without_gaps(p: nn.Parameter) -> bool:
    return p.is_contiguous() or (p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last))


@dataclass(frozen=True)
class SameSteps(Recipe):
    """As many steps whatever the number of images: `images` of them are an epoch.

    Of a model with more images, a random part of them is left out in each epoch; of one with fewer, all are seen, and a
    random part once more.
    """

    images: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("images", self.images, 1)

    def epoch_rows(self, rows: Tensor, epoch: int, seed: int) -> Tensor:
        drawn = torch.randperm(len(rows), generator=generator(seed, "trained", "epoch", epoch))
        return torch.cat([rows.repeat(self.images // len(rows)), rows[drawn[: self.images % len(rows)]]])


@dataclass(frozen=True)
class HeadReset(Recipe):
    """The released retrain's recipe: 0 to 2 lr over the first two epochs, then lr x gamma per milestone.

    The milestones count epochs from 0 there, so each comes one epoch later than in the training of the original.
    """

    def lr_trace(self, steps_per_epoch: int) -> list[float]:
        rates = [self.lr * step / steps_per_epoch for step in range(min(2, self.epochs) * steps_per_epoch)]
        for epoch in range(2, self.epochs):
            lower = bisect_right(self.milestone_epochs(), epoch)
            rates += [self.lr * self.gamma**lower] * steps_per_epoch
        return rates
