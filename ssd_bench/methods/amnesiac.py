"""Random labels for D_f: the "Unlearning" baseline of Graves et al. 2021 (arXiv 2010.10981).

The paper and its code call this amnesiac. It is not Graves et al.'s "Amnesiac Unlearning", which takes back the logged
updates of the batches that held D_f.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Amnesiac(FurtherTraining):
    """Train on D_f with wrong labels, drawn once, and on D_r with its own: Adam, without augmentation."""

    version: ClassVar[int] = 2
    epochs: int = 3
    lr: float = 1e-4
    batch_size: int = 128
    optimizer = "adam"

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * (len(data.forget) + len(data.retain)))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        images = data.images.with_labels(wrong_labels(data, context.generator("labels")))
        return self.train(model, images, torch.cat([data.forget, data.retain]), context, "amnesiac")


def wrong_labels(data: Split, draws_from: torch.Generator) -> Tensor:
    """The labels of all images, those of D_f drawn uniformly from the classes that may be said.

    That is every class but the forgotten one (the superclass of a sub-class); in the random scenario, but the image's
    own; where several classes are forgotten, together or before, but those and the image's own. int64, on the images'
    device.
    """
    own, unsaid = data.images.labels[data.forget.to(data.images.device)], data.unsaid
    several = data.forget_labels and data.forget_label is None
    if several or (data.forget_labels and len(data.gone) and unsaid.sum() > 1):
        allowed = may_be_said(own, unsaid).cpu()
        return data.relabelled(torch.multinomial(allowed.float(), 1, generator=draws_from).squeeze(1))
    steps = torch.randint(1, data.n_classes, own.shape, generator=draws_from).to(own.device)
    excluded = own if data.forget_label is None else data.forget_label
    return data.relabelled((excluded + steps) % data.n_classes)


def may_be_said(own: Tensor, unsaid: Tensor) -> Tensor:
    """None of the classes `unsaid` (classes, bool), nor the image's own; where no other is left, any but its own:
    n x classes, bool."""
    others = torch.arange(len(unsaid), device=own.device) != own[:, None]
    allowed = others & ~unsaid
    return torch.where(allowed.any(1, keepdim=True), allowed, others)
