"""A control: random weights, a model that was never trained on anything."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ssd_bench.core.task import Context, Cost, Method, Split
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Random(Method):
    """A newly initialised model in place of the original: D_f is forgotten, and everything else.

    What judges forgetting alone must find nothing better; what judges a model must find nothing worse.
    """

    version: ClassVar[int] = 1
    control = True
    seeds = ("seed_unlearn",)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost()

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        return context.fresh_model(context.seed_for("random", "init"), pretrained=False)
