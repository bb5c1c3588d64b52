"""Fine-tune the original on the retained data and hope that it forgets the rest (the weakest common baseline)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ssd_bench.core.task import Context, Cost, Method, Split
from ssd_bench.train.loop import fit
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Finetune(Method):
    """`epochs` of SGD on D_r at a constant learning rate, without augmentation, as the released code does."""

    epochs: int = 5
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 64
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    seeds: ClassVar[tuple[str, ...]] = ("seed_unlearn",)

    def __post_init__(self) -> None:
        self.recipe()  # raises for values out of range

    def recipe(self) -> Recipe:
        return Recipe.constant("sgd", self.epochs, self.batch_size, self.lr, self.momentum, self.weight_decay)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * len(data.retain))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        draws, checkpoint = context.generator("batches"), context.checkpoint("finetune")
        return fit(model, data.images, data.retain, self.recipe(), draws, "finetune", checkpoint=checkpoint)
