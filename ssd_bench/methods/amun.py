"""AMUN (Ebrahimpour-Boroojeny et al., ICML 2025, arXiv 2503.00917): D_f's nearest adversarial examples as others see
them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core import console
from ssd_bench.core.errors import check_range
from ssd_bench.core.task import Context, Cost, Request, Split, row_hash
from ssd_bench.methods.amnesiac import may_be_said
from ssd_bench.methods.by_epoch import ByEpoch
from ssd_bench.methods.inputs import pixel_units
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.passes import eval_mode, pass_clock
from ssd_bench.train.recipe import Recipe

KIND = "adversaries"  # of the original, of D_f
BATCH = 128  # images that are attacked at once; in eval mode no image's result depends on the others
STEP = 10  # a step is this part of the radius
TINY = 1e-10  # beside a gradient's length
See = Callable[[Tensor, Tensor], Tensor]  # (pixels, which images they are of) -> logits


@dataclass(frozen=True)
class Amun(FurtherTraining):
    """Train on D_r, D_f and, for each image of D_f, one close to it that the original takes for another class, as that.

    It is found by `steps` steps up the loss in eval mode, a tenth of the radius each, inside a ball around the image
    (L2, pixels from 0 to 1); where the class is the same then, in one twice as large, from `bound` on. An image that
    the original is wrong about stays as it is. with_forget: D_f with its own labels, too; a class would stay then, and
    the paper forgets single images (`outside_paper` in the row's details). lr falls to a tenth every `lr_step` epochs.
    What is made of D_f is as large as its inputs in single precision, and is kept.
    """

    version: ClassVar[int] = 1
    epochs: int = 10
    lr: float = 0.01
    lr_step: int = 1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    with_forget: bool = True
    steps: int = 50
    bound: float = 0.04

    def __post_init__(self) -> None:
        check_range("lr_step", self.lr_step, 1)
        check_range("steps", self.steps, 1)
        check_range("bound", self.bound, above=0)
        super().__post_init__()

    def skip(self, request: Request) -> str | None:
        if self.with_forget and request.clean is not None:
            needs = "amun with with_forget=true needs rightly labelled images to forget"
            return f"{needs}; scenario={request.scenario} has none"
        return super().skip(request)

    def recipe(self) -> Recipe:
        return ByEpoch.of(super().recipe(), factors=[0.1 ** (epoch // self.lr_step) for epoch in range(self.epochs)])

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        """With the first radius alone: how many it takes shows when they are tried."""
        n = len(data.forget)
        images = self.epochs * (len(data.retain) + n * (1 + self.with_forget))
        return Cost(backward=images, shared={KIND: (self._key(data), Cost(forward=2 * n, backward=self.steps * n))})

    def _key(self, data: Split) -> dict[str, Any]:
        """What the examples depend on beside the original: other settings share them."""
        said = {"unsaid": data.unsaid.nonzero().flatten().tolist()} if data.unsaid.any() else {}
        return {"rows": row_hash(data.forget), "steps": self.steps, "bound": self.bound} | said

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        made = context.cached(KIND, self._key(data), lambda: self.adversaries(model, data))
        context.details["crossed_pct"] = 100 * made["crossed"].item() / len(data.forget)
        context.details["outside_paper"] = bool(data.forget_labels)
        rows = torch.cat([data.retain, data.forget]) if self.with_forget else data.retain
        n, moved = len(rows), made["inputs"].to(context.device)
        mixed = data.images.take(torch.cat([rows, data.forget]))  # the examples take the place of the last
        mixed = mixed.with_labels(torch.cat([mixed.labels[:n], made["labels"].to(mixed.labels)]))

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            is_moved = (rows >= n).view(-1, *(1,) * (inputs.ndim - 1))
            logits = model(torch.where(is_moved, moved[(rows - n).clamp(min=0)], inputs))
            return cross_entropy(logits, labels), logits

        return self.train(model, mixed, torch.arange(len(mixed)), context, "amun", objective=objective)

    def adversaries(self, model: nn.Module, data: Split) -> dict[str, Tensor]:
        """`inputs`: for each image of D_f one that the model takes for another class, of those that may be said;
        `labels`: that class; `crossed`: for how many one was found. The others have moved as far as they can, and have
        their most likely other class."""
        mean, std = pixel_units(data, "amun")
        found, labels, crossed = [], [], torch.zeros((), dtype=torch.int64, device=data.images.device)
        with console.counting("amun: images changed", len(data.forget)) as more:
            for rows in data.forget.split(BATCH):
                inputs, own = data.images.batch(rows)
                others = may_be_said(own, data.unsaid)

                def see(pixels: Tensor, places: Tensor, own: Tensor = own, others: Tensor = others) -> Tensor:
                    seen = others[places].scatter(1, own[places][:, None], True)
                    with pass_clock():
                        return model((pixels - mean) / std).float().masked_fill(~seen, -math.inf)

                with eval_mode(model):
                    moved = self.climb(see, inputs * std + mean, own)
                    with torch.no_grad():
                        logits = see(moved, torch.arange(len(own), device=own.device))
                found.append((moved - mean) / std)
                crossed += (logits.argmax(1) != own).sum()
                labels.append(logits.masked_fill(~others, -math.inf).argmax(1))
                more(len(rows))
        return {"inputs": torch.cat(found), "labels": torch.cat(labels), "crossed": crossed}

    def climb(self, see: See, start: Tensor, own: Tensor) -> Tensor:
        """Pixels, n x ..., each as `start` or just beyond the boundary of its own class."""
        moved, left, radius = start.clone(), torch.arange(len(start), device=start.device), self.bound
        while len(left) and radius < 2 * math.sqrt(start[0].numel()):  # twice the diagonal of all images
            x, around, label = moved[left], start[left], own[left]
            for _ in range(self.steps):
                x = step_up(partial(see, places=left), x, around, label, radius)
            moved[left] = x
            with torch.no_grad():
                left = left[see(x, left).argmax(1) == label]
            radius *= 2
        return moved


def step_up(see: Callable[[Tensor], Tensor], x: Tensor, around: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Pixels one step up the loss and back into the ball and the range of pixels; those that crossed stay.

    The way up the loss is that down the margin, whose gradient is not rounded to 0 where the model is sure.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = see(x)
        others = logits.scatter(1, labels[:, None], -math.inf).logsumexp(dim=1)
        with pass_clock.backward():
            gradient = torch.autograd.grad((others - logits.gather(1, labels[:, None])[:, 0]).sum(), x)[0]
    each = (-1, *(1,) * (x.ndim - 1))
    far = x.detach() + radius / STEP * gradient / (gradient.flatten(1).norm(dim=1) + TINY).view(each) - around
    inside = (radius / far.flatten(1).norm(dim=1).clamp(min=TINY)).clamp(max=1).view(each)
    stays = (logits.argmax(1) != labels).view(each)
    return torch.where(stays, x.detach(), (around + far * inside).clamp(0, 1))
