"""What methods share that train the original further: a recipe from their settings, the mode, and the training loop."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Context, Images, Method
from ssd_bench.train.loop import Passes, fit
from ssd_bench.train.recipe import Recipe


class FurtherTraining(Method):
    """The original is trained further, without augmentation, at a constant learning rate if nothing else is said."""

    # a method names `epochs`, `lr` and `batch_size` among its settings, and what of these it leaves to its user
    optimizer: ClassVar[str] = "sgd"
    momentum: ClassVar[float] = 0.9
    weight_decay: ClassVar[float] = 0.0
    mode: ClassVar[str] = "train"  # eval: running statistics stay as they are
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    seeds: ClassVar[tuple[str, ...]] = ("seed_unlearn",)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("eval", "train"))
        self.recipe()

    @property
    def batch_size(self) -> int:
        """Of a method without a setting of this name: it has two, for D_f and for D_r."""
        return self.retain_batch_size

    def recipe(self) -> Recipe:
        """Raises ValueError for a setting out of range."""
        settings = self.optimizer, self.epochs, self.batch_size, self.lr, self.momentum, self.weight_decay
        return Recipe.constant(*settings)

    def train(
        self, model: nn.Module, images: Images, rows: Tensor | Passes, context: Context, name: str, **how: Any
    ) -> nn.Module:
        """The model, trained on these rows of `images`, or by these passes; how: what else `fit` takes."""
        draws, checkpoint = context.generator("batches"), context.checkpoint(name)
        how |= {"ready": lambda trained: trained.train(self.mode == "train"), "checkpoint": checkpoint}
        return fit(model, images, rows, self.recipe(), draws, name, **how)
