"""What boundary shrink and boundary expand share: they train the original on D_f alone, under other labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Boundary(FurtherTraining):
    """Move the boundary of a class: SGD on D_f under labels that say something else; D_r is never read.

    The paper forgets classes; single samples run too, which the row's details say (`outside_paper`). mode: eval keeps
    running statistics as they are; train, as released, lets them follow D_f.
    """

    epochs: int = 10
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    mode: str = "eval"
    needs = ()

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * len(data.forget))

    def train_as(self, classes: Tensor | int, model: nn.Module, data: Split, context: Context, name: str) -> nn.Module:
        """The model, trained on D_f as if its images were of these classes."""
        context.details["outside_paper"] = not data.forget_labels
        images = data.images.with_labels(data.relabelled(classes))
        return self.train(model, images, data.forget, context, name)
