"""The one training loop, the one inference loop, the random transform of training images, and the recipe."""

from __future__ import annotations

import copy
import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench import console
from ssd_bench.errors import Diverged, check_choice
from ssd_bench.resume import Checkpoint, Position
from ssd_bench.task import Images, generator

log = logging.getLogger(__name__)

RECIPE_VERSION = 1  # part of every artefact's address: raise it when a change here changes the weights that come out


class PassClock:
    """Seconds spent inside forward and backward passes by this process (on an asynchronous device: launching them)."""

    seconds = 0.0
    precision: Callable[[], AbstractContextManager] = nullcontext  # what passes run in, see `devices.use_precision`

    @contextmanager
    def __call__(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with self.precision():
                yield
        finally:
            self.seconds += time.perf_counter() - start


in_model = PassClock()


@dataclass(frozen=True)
class Recipe:
    """How the original and the retrained model are trained. Source of the defaults: the released pre-training."""

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

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, ("sgd", "adam", "adamw"))
        check_choice("schedule", self.schedule, ("multistep", "cosine", "constant"))
        check_choice("select", self.select, ("last", "best_test"))
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("warmup_epochs", 0),
            ("momentum", 0),
            ("weight_decay", 0),
        ):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (0 < self.lr < math.inf):
            raise ValueError(f"lr must be positive, got {self.lr}")
        if any(not 0 < m <= 1 for m in self.milestones):
            raise ValueError(f"milestones are shares of the epochs, between 0 and 1, got {list(self.milestones)}")

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

    def milestone_epochs(self) -> list[int]:
        """The epochs, counted from 1, from which on the learning rate is lower."""
        return [round(m * self.epochs) for m in self.milestones]

    def lr_trace(self, steps_per_epoch: int) -> list[float]:
        """The learning rate of every step: linear warm-up from 0, then as `schedule` says."""
        warmup = self.warmup_epochs * steps_per_epoch
        total = self.epochs * steps_per_epoch
        rates = [self.lr * step / warmup for step in range(min(warmup, total))]
        for step in range(warmup, total):
            if self.schedule == "cosine":
                rates.append(self.lr / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))))
            elif self.schedule == "multistep":
                epoch = step // steps_per_epoch + 1
                rates.append(self.lr * self.gamma ** bisect_right(self.milestone_epochs(), epoch))
            else:
                rates.append(self.lr)
        return rates

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimizer]
        more = {"momentum": self.momentum} if self.optimizer == "sgd" else {}
        fused = next(model.parameters()).is_cuda or None  # one kernel a step; on a CPU a step is 1 % of a batch already
        return kind(model.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused, **more)


def augmented(pixels: Tensor, draws: Tensor, crop: int, flip: bool) -> Tensor:
    """Each image cropped after zero-padding, flipped and rotated about its centre by draws of its own.

    pixels: n x channels x side x side, uint8. draws: n x 4, float32: shift down and right in [-1, 1] times `crop`
    pixels, flip if below 0.5, angle in degrees. Nearest neighbour; what comes from outside is 0. One gather does all
    three, in the order crop, flip, rotation.
    """
    side = pixels.shape[-1]
    grid = torch.arange(side, device=pixels.device) - (side - 1) / 2
    angle = torch.deg2rad(draws[:, 3])[:, None, None]
    down, right = grid[None, :, None], grid[None, None, :]
    y = (down * angle.cos() - right * angle.sin() + (side - 1) / 2).round().long()  # where a rotated pixel was
    x = (down * angle.sin() + right * angle.cos() + (side - 1) / 2).round().long()
    inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
    if flip:
        x = torch.where((draws[:, 2] < 0.5)[:, None, None], side - 1 - x, x)
    shift = (draws[:, :2] * (crop + 0.5)).round().clamp(-crop, crop).long()  # each of -crop..crop equally often
    y, x = y + shift[:, :1, None], x + shift[:, 1:, None]
    inside &= (y >= 0) & (y < side) & (x >= 0) & (x < side)
    where = (y.clamp(0, side - 1) * side + x.clamp(0, side - 1)).flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
    return (pixels.flatten(2).gather(2, where) * inside.flatten(1)[:, None]).view_as(pixels)


def draw_augmentation(n: int, rotation: float, draws_from: torch.Generator) -> Tensor:
    """The random numbers that `augmented` wants for n images: n x 4, float32, on the CPU."""
    draws = torch.rand(n, 4, generator=draws_from)
    draws[:, :2] = draws[:, :2] * 2 - 1
    draws[:, 3] = (draws[:, 3] * 2 - 1) * rotation
    return draws


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


def _cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(inputs)
    return cross_entropy(logits, labels), logits


@torch.inference_mode()
def predict(model: nn.Module, images: Images, rows: Tensor, batch_size: int) -> Tensor:
    """The logits of these rows in eval mode: n x classes, float32, CPU. The model's modes are left as they were.

    Where the device's memory does not suffice, half as many images are taken at once, down to one.
    """
    order = rows.to(images.pixels.device)
    logits = []
    with eval_mode(model):
        start = 0
        while start < len(order):
            try:
                inputs, _ = images.batch(order[start : start + batch_size])
                with in_model():
                    logits.append(model(inputs).float())
                start += batch_size
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                log.warning("out of memory: going on with evaluate.batch_size=%d", batch_size)
    return torch.cat(logits).cpu()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The whole model in eval mode; each module is put back into the mode it was found in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
