"""CT: transpose every kernel and fine-tune, the fifth of a 2023 competition (DeepUnlearn, arXiv 2410.01276)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.by_epoch import ByEpoch, cosine
from ssd_bench.methods.msg import convolutions
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class CT(FurtherTraining):
    """Swap the two spatial axes of each Conv2d's kernels, then SGD on D_r, its rate falling as a cosine by epoch.

    D_f decides on nothing. Kernels of 1x1 and frozen ones stay as they are, and so do those that are not square; what
    has no other kernel is fine-tuned alone.
    """

    version: ClassVar[int] = 1
    epochs: int = 3
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 64

    def recipe(self) -> Recipe:
        return ByEpoch.of(super().recipe(), factors=cosine(self.epochs))

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * len(data.retain))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        context.details["transposed"] = transpose_kernels(model)
        return self.train(model, data.images, data.retain, context, "ct")


def transpose_kernels(model: nn.Module) -> int:
    """Transpose the kernels in place; returns how many layers that changes."""
    square = [m for m in convolutions(model).values() if m.kernel_size[0] == m.kernel_size[1] > 1]
    with torch.no_grad():
        for module in square:
            module.weight.copy_(module.weight.transpose(2, 3).clone())
    return len(square)
