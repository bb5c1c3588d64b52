"""Train again without the forgotten data: the reference that every method is compared with."""

from bisect import bisect_right
from dataclasses import dataclass, replace

from torch import nn

from ssd_bench.core.errors import check_choice
from ssd_bench.core.seeds import derive_seed, generator
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.train.loop import batch_ends, fit
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Retrain:
    """from_scratch: every parameter fresh and the original's recipe, on D_r alone.

    head_reset: what the released code calls retrain. Only the last layer is reset; the rest starts from the original,
    which has seen D_f. No augmentation, `lr`, and a warm-up that runs for two epochs to twice the rate.
    """

    mode: str = "from_scratch"
    lr: float = 0.01
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("from_scratch", "head_reset"))
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=recipe.epochs * len(data.retain))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        batches, checkpoint = generator(context.seed, "retrain", "batches"), context.checkpoint("retrain")
        fresh = context.fresh_model(derive_seed(context.seed, "retrain", "init"))
        if self.mode == "from_scratch":
            recipe = replace(context.recipe, select="last")  # a method has no test data to select by
            augment = context.augment if recipe.augment else None
            return fit(
                fresh, data.images, data.retain, recipe, batches, "retrain", augment=augment, checkpoint=checkpoint
            )  # fmt: skip
        model.get_submodule(context.head).load_state_dict(fresh.get_submodule(context.head).state_dict())
        recipe = replace(
            context.recipe,
            optimizer="sgd",
            lr=self.lr,
            batch_size=self.batch_size,
            momentum=0.9,
            weight_decay=5e-4,
        )
        rates = released_rates(recipe, len(batch_ends(len(data.retain), self.batch_size)))
        return fit(model, data.images, data.retain, recipe, batches, "retrain", rates=rates, checkpoint=checkpoint)


def released_rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    """The released retrain's learning rate: 0 to 2 lr over the first two epochs, then lr x gamma per milestone.

    The milestones count epochs from 0 there, so each comes one epoch later than in the training of the original.
    """
    rates = [recipe.lr * step / steps_per_epoch for step in range(min(2, recipe.epochs) * steps_per_epoch)]
    for epoch in range(2, recipe.epochs):
        lower = bisect_right(recipe.milestone_epochs(), epoch)
        rates += [recipe.lr * recipe.gamma**lower] * steps_per_epoch
    return rates
