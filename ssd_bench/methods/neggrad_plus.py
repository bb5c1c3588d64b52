"""NegGrad+ (Kurmanji et al. 2023, arXiv 2302.09880): descend on D_r and, in the same step, ascend on D_f."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.ascent import Clipped
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.loop import Pass, batch_ends, mean_cross_entropy
from ssd_bench.train.passes import statistics_for
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class NegGradPlus(FurtherTraining):
    """`epochs` over D_r of SGD on a l(D_r batch) - (1 - a) l(D_f batch), l the mean cross-entropy.

    D_f's batches come over and over, in the order that the epoch began with. a: 1 is fine-tuning. penalty: adds
    a penalty / 2 |theta - theta_o|^2 over all parameters. mode: in train mode every step moves BatchNorm's statistics
    twice, by D_f last. clip: the longest gradient that a step follows; None: any.
    """

    version: ClassVar[int] = 1
    epochs: int = 5
    lr: float = 0.01
    a: float = 0.95
    momentum: float = 0.0
    weight_decay: float = 0.0
    penalty: float = 0.0
    retain_batch_size: int = 64
    forget_batch_size: int = 64
    mode: str = "eval"
    clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("a", self.a, 0, 1)
        check_range("penalty", self.penalty, 0)
        check_range("forget_batch_size", self.forget_batch_size, 1)

    def recipe(self) -> Recipe:
        return Clipped.of(super().recipe(), clip=self.clip)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        ends = batch_ends(len(data.forget), self.forget_batch_size)
        rounds, more = divmod(len(batch_ends(len(data.retain), self.retain_batch_size)), len(ends))
        beside = rounds * len(data.forget) + (ends[more - 1] if more else 0)
        return Cost(backward=self.epochs * (len(data.retain) + (beside if self.a < 1 else 0)))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        start = [p.detach().clone() for p in model.parameters()] if self.penalty else []

        def objective(
            model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor, *forget: tuple[Tensor, Tensor]
        ) -> tuple[Tensor, Tensor]:
            loss, logits = mean_cross_entropy(model, inputs, labels, rows)
            if start:
                moved = zip(model.parameters(), start, strict=True)
                loss = loss + self.penalty / 2 * sum((p - at).square().sum() for p, at in moved)
            ascended = 0.0
            for x, y in forget:
                with statistics_for(model, len(y)):
                    ascended = ascended + cross_entropy(model(x), y)
            return self.a * loss - (1 - self.a) * ascended, logits

        beside = {"beside": data.forget, "beside_size": self.forget_batch_size} if self.a < 1 else {}
        one = Pass(data.retain, objective, **beside)
        return self.train(model, data.images, lambda epoch: [one], context, "neggrad_plus")
