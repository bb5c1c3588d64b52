"""Train again without the forgotten data: the reference that every method is compared with."""

from bisect import bisect_right
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor, nn

from ssd_bench.core.errors import check_choice
from ssd_bench.core.seeds import derive_seed, generator
from ssd_bench.core.task import Context, Cost, Method, Split
from ssd_bench.train.loop import fit
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Retrain(Method):
    """from_scratch: every parameter fresh and the original's recipe, on D_r alone.

    head_reset: what the released code calls retrain. Only the last layer is reset; the rest starts from the original,
    which has seen D_f. No augmentation, `lr`, and a warm-up that runs for two epochs to twice the rate.
    """

    mode: str = "from_scratch"
    lr: float = 0.01
    batch_size: int = 64
    needs: ClassVar[tuple[str, ...]] = ("retain", "recipe")
    seeds: ClassVar[tuple[str, ...]] = ("seed",)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("from_scratch", "head_reset"))
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=recipe.epochs * len(data.retain))

    def trains_on(self, data: Split) -> Tensor | None:
        return data.retain if self.mode == "from_scratch" else None

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        """head_reset alone: a model from scratch is trained as the original is, by whoever asked `trains_on`."""
        fresh = context.fresh_model(derive_seed(context.seed, "retrain", "init"))
        model.get_submodule(context.head).load_state_dict(fresh.get_submodule(context.head).state_dict())
        recipe = HeadReset.following(context.recipe, self.lr, self.batch_size)
        batches, checkpoint = generator(context.seed, "retrain", "batches"), context.checkpoint("retrain")
        return fit(model, data.images, data.retain, recipe, batches, "retrain", checkpoint=checkpoint)


@dataclass(frozen=True)
class HeadReset(Recipe):
    """The released retrain's recipe: 0 to 2 lr over the first two epochs, then lr x gamma per milestone.

    The milestones count epochs from 0 there, so each comes one epoch later than in the training of the original.
    """

    @classmethod
    def following(cls, recipe: Recipe, lr: float, batch_size: int) -> "HeadReset":
        """The original's recipe, as far as the released code follows it."""
        own = {"optimizer": "sgd", "lr": lr, "batch_size": batch_size, "momentum": 0.9, "weight_decay": 5e-4}
        return cls(**{f.name: getattr(recipe, f.name) for f in fields(Recipe)} | own)

    def lr_trace(self, steps_per_epoch: int) -> list[float]:
        rates = [self.lr * step / steps_per_epoch for step in range(min(2, self.epochs) * steps_per_epoch)]
        for epoch in range(2, self.epochs):
            lower = bisect_right(self.milestone_epochs(), epoch)
            rates += [self.lr * self.gamma**lower] * steps_per_epoch
        return rates
