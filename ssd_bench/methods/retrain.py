"""Train again without the forgotten data: the reference that every method is compared with."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.seeds import derive_seed, generator
from ssd_bench.core.task import Context, Cost, Method, Request, Split
from ssd_bench.methods.head import has_several
from ssd_bench.train.loop import fit
from ssd_bench.train.recipe import HeadReset, Recipe


@dataclass(frozen=True)
class Retrain(Method):
    """from_scratch: every parameter fresh and the original's recipe, on D_r alone.

    head_reset: what the released code calls retrain. Only the last layer is reset; the rest starts from the original,
    which has seen D_f. No augmentation, `lr`, and a warm-up that runs for two epochs to twice the rate.
    """

    version: ClassVar[int] = 2
    mode: str = "from_scratch"
    lr: float = 0.01
    batch_size: int = 64
    needs = ("retain", "recipe")
    seeds = ("seed",)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("from_scratch", "head_reset"))
        check_range("lr", self.lr, above=0)
        check_range("batch_size", self.batch_size, 1)

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        return None if self.mode == "from_scratch" else has_several(model, head, "retrain with mode=head_reset")

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=recipe.epochs * len(data.retain))

    def trains_on(self, request: Request) -> Tensor | None:
        return request.retain if self.mode == "from_scratch" else None

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        """head_reset alone: a model from scratch is trained as the original is, by whoever asked `trains_on`."""
        fresh = context.fresh_model(derive_seed(context.seed, "retrain", "init"))
        model.get_submodule(context.head).load_state_dict(fresh.get_submodule(context.head).state_dict())
        own = {"optimizer": "sgd", "lr": self.lr, "batch_size": self.batch_size, "momentum": 0.9, "weight_decay": 5e-4}
        recipe = HeadReset.of(context.recipe, **own, nesterov=False, decay_all=True)
        batches, checkpoint = generator(context.seed, "retrain", "batches"), context.checkpoint("retrain")
        return fit(model, data.images, data.retain, recipe, batches, "retrain", checkpoint=checkpoint)
