"""Fine-tune the original on the retained data and hope that it forgets the rest (the weakest common baseline)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Finetune(FurtherTraining):
    """`epochs` of SGD on D_r at a constant learning rate, without augmentation, as the released code does."""

    version: ClassVar[int] = 1
    epochs: int = 5
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 64

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * len(data.retain))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        return self.train(model, data.images, data.retain, context, "finetune")
