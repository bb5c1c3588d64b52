"""Gradient ascent on D_f (Thudi et al. 2022, arXiv 2109.13398, and many others): unlearn by raising the loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ssd_bench.core.errors import check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.ascent import Clipped, Forgotten
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.loop import mean_cross_entropy
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class NegGrad(FurtherTraining):
    """At most `epochs` of SGD on minus the cross-entropy of D_f, which has no minimum: `lr` wants tuning.

    mode: eval keeps BatchNorm's statistics; train, as released, lets D_f's replace them. clip: the longest gradient
    that a step follows. stop_at: stop after an epoch in which at most this percentage of D_f was right; where what is
    forgotten should still be recognised (scenario=random), give the original's accuracy on unseen images. None: no
    limit, as released. Needs D_f alone.
    """

    version: ClassVar[int] = 1
    epochs: int = 10
    lr: float = 1e-4
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 64
    mode: str = "eval"
    clip: float | None = 1.0
    stop_at: float | None = 5.0
    needs = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("stop_at (percent of D_f)", self.stop_at, 0, 100, null=True)

    def recipe(self) -> Recipe:
        return Clipped.of(super().recipe(), clip=self.clip)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        """As long as nothing stops it."""
        return Cost(backward=self.epochs * len(data.forget))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        forgotten = Forgotten(len(data.forget), self.stop_at)

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            loss, logits = mean_cross_entropy(model, inputs, labels, rows)
            forgotten.count(logits, labels)
            return -loss, logits

        how = {"objective": objective, "after_epoch": forgotten}
        self.train(model, data.images, data.forget, context, "neggrad", **how)
        context.details["epochs"] = int(forgotten.state["epochs"])
        return model
