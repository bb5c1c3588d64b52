"""What boundary shrink and boundary expand share: they train the original on D_f alone, under other labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Context, Cost, Images, Method, Split
from ssd_bench.train.loop import fit
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Boundary(Method):
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
    needs: ClassVar[tuple[str, ...]] = ()
    seeds: ClassVar[tuple[str, ...]] = ("seed_unlearn",)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("eval", "train"))
        self.recipe()

    def recipe(self) -> Recipe:
        return Recipe.constant("sgd", self.epochs, self.batch_size, self.lr, self.momentum, self.weight_decay)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * len(data.forget))

    def train(self, model: nn.Module, images: Images, data: Split, context: Context, name: str) -> nn.Module:
        """Train the model on D_f with the labels that `images` have."""
        context.details["outside_paper"] = data.forget_label is None
        draws, checkpoint = context.generator("batches"), context.checkpoint(name)
        return fit(
            model, images, data.forget, self.recipe(), draws, name,
            ready=lambda trained: trained.train(self.mode == "train"), checkpoint=checkpoint,
        )  # fmt: skip
