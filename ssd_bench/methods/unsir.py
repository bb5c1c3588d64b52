"""UNSIR (Tarun et al. 2023, arXiv 2111.08947): learn noise that stands for a class, impair with it, then repair."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Method, Split
from ssd_bench.methods.inputs import first_input
from ssd_bench.train.loop import fit
from ssd_bench.train.passes import eval_mode, pass_clock
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Unsir(Method):
    """Noise: `noise_steps` of Adam that raise the loss on `noise_batch` noise images of the class.
    Impair: one epoch on `copies` of `noise_images` of them, labelled as the class, and `samples_per_class` images of
    each retained class. Repair: one epoch on those images alone.

    noise_mode: eval freezes the model while the noise is learnt. train, as released, lets BatchNorm's running
    statistics take the noise in and leaves the gradients of all noise steps to the first step of impair.
    """

    version: ClassVar[int] = 1
    noise_steps: int = 25
    noise_lr: float = 0.1
    noise_penalty: float = 0.1
    noise_batch: int = 32
    noise_images: int = 32
    noise_mode: str = "eval"
    copies: int = 80
    samples_per_class: int = 500
    lr: float = 1e-4
    impair_batch_size: int = 32
    repair_batch_size: int = 128
    needs = ("retain", "forget_label")
    seeds = ("seed_unlearn",)

    def __post_init__(self) -> None:
        check_choice("noise_mode", self.noise_mode, ("eval", "train"))
        for name in ("noise_steps", "noise_batch", "noise_images", "copies", "samples_per_class"):
            check_range(name, getattr(self, name), 1)
        if self.noise_images > self.noise_batch:
            raise ValueError(f"noise_images={self.noise_images} is more than noise_batch={self.noise_batch}")
        self.recipe(self.impair_batch_size), self.recipe(self.repair_batch_size)

    def recipe(self, batch_size: int) -> Recipe:
        return Recipe.constant("adam", 1, batch_size, self.lr)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        kept = len(first_of_each_class(data.retain, data.group, self.samples_per_class))
        return Cost(backward=self.noise_steps * self.noise_batch + 2 * kept + self.copies * self.noise_images)

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        noise = self.learn_noise(model, data, context)[: self.noise_images]
        kept = first_of_each_class(data.retain, data.group, self.samples_per_class)
        n, extra = len(kept), self.copies * len(noise)
        mixed = data.images.take(torch.cat([kept, kept[:1].expand(extra)]))  # the noise takes the place of the rest
        labels = mixed.labels.clone()
        labels[n:] = data.forget_label
        mixed = mixed.with_labels(labels)

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            is_noise = (rows >= n).view(-1, *(1,) * (inputs.ndim - 1))
            logits = model(torch.where(is_noise, noise[(rows - n) % len(noise)], inputs))
            return cross_entropy(logits, labels), logits

        impair, repair = self.recipe(self.impair_batch_size), self.recipe(self.repair_batch_size)
        all_rows, kept_rows = torch.arange(n + extra), torch.arange(n)
        draws, checkpoint = context.generator("impair"), context.checkpoint("impair")
        fit(model, mixed, all_rows, impair, draws, "unsir impair", objective=objective, checkpoint=checkpoint)
        draws, checkpoint = context.generator("repair"), context.checkpoint("repair")
        return fit(model, mixed, kept_rows, repair, draws, "unsir repair", checkpoint=checkpoint)

    def learn_noise(self, model: nn.Module, data: Split, context: Context) -> Tensor:
        """Noise in the model's input space: noise_batch x channels x side x side."""
        like = first_input(data, "unsir", "learnt")
        noise = torch.randn(self.noise_batch, *like.shape[1:], generator=context.generator("noise"))
        noise = noise.to(like).requires_grad_()
        label = torch.full((self.noise_batch,), data.forget_label, device=context.device)
        optimizer = torch.optim.Adam([noise], lr=self.noise_lr, fused=noise.is_cpu or None)
        frozen = self.noise_mode == "eval"
        with eval_mode(model) if frozen else nullcontext(model.train()):
            for _ in range(self.noise_steps):
                with pass_clock():
                    penalty = self.noise_penalty * noise.square().flatten(1).sum(1).mean()
                    loss = penalty - cross_entropy(model(noise), label)
                optimizer.zero_grad()
                with pass_clock.backward():
                    loss.backward(inputs=[noise] if frozen else None)
                optimizer.step()
        return noise.detach()


def first_of_each_class(rows: Tensor, group: Tensor, most: int) -> Tensor:
    """The first `most` of these rows in each group, in their stored order. CPU tensors."""
    ordered = rows.sort().values
    ordered = ordered[group[ordered].argsort(stable=True)]
    counts = torch.bincount(group[ordered])
    place = torch.arange(len(ordered)) - (counts.cumsum(0) - counts)[group[ordered]]
    return ordered[place < most]
