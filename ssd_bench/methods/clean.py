"""Train again without anything that was manipulated, discovered or not: the ideal of the corrective scenarios."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ssd_bench.core.task import Cost, Method, Request, Split
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Clean(Method):
    """Every parameter fresh and the original's recipe, on D without S_m. No method that knows D_f alone could do it."""

    version: ClassVar[int] = 1
    needs = ("clean", "retain", "recipe")
    seeds = ("seed",)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        """At most: what was not discovered is left out, too."""
        return Cost(backward=recipe.epochs * len(data.retain))

    def trains_on(self, request: Request) -> Tensor | None:
        return request.clean
