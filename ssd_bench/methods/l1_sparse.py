"""l1-sparse (Jia et al. 2023, arXiv 2304.04934): fine-tune on D_r with a penalty on the sum of absolute weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.about import About
from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.loop import batch_ends, mean_cross_entropy
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class L1Sparse(FurtherTraining):
    """`epochs` of SGD on D_r on l + gamma_e |theta|_1, where gamma_e falls from gamma by equal steps.

    The last `free_epochs` have none; with 0 of them the last has gamma / epochs; with as many as `epochs`, as released,
    all have gamma. gamma: how it was chosen is published nowhere; null: 1e-4 for 1,590 steps (40,500 images, batches of
    256), more for fewer, so that the pull is the same. penalise: weights (of more than one dimension), or all, as
    released. prox: after each step weights are moved towards 0 by lr gamma_e and stay there; else, as released, a
    subgradient joins the loss's, and no weight is ever exactly 0. `pull` in the row is how far a weight moves that
    nothing defends: compare it with the weights.
    """

    version: ClassVar[int] = 1
    epochs: int = 10
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256
    gamma: float | None = None
    free_epochs: int = 0
    penalise: str = "weights"
    prox: bool = True
    columns: ClassVar[dict[str, About]] = {
        "pull": About(heading="pull", table="none"),
        "zero_pct": About("percent", heading="zeros %", decimals=2, table="none"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("penalise", self.penalise, ("weights", "all"))
        check_range("gamma", self.gamma, 0, null=True)
        if not 0 <= self.free_epochs <= self.epochs:
            raise ValueError(f"free_epochs must be between 0 and epochs ({self.epochs}), got {self.free_epochs}")
        check_range("momentum", self.momentum, below=1)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * len(data.retain))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        steps = self.epochs * len(batch_ends(len(data.retain), self.batch_size))
        strengths, epoch = self.strengths(steps), Epoch()

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            loss, logits = mean_cross_entropy(model, inputs, labels, rows)
            return loss + strengths[epoch.done] * sum(p.abs().sum() for p in self.penalised(model)), logits

        @torch.no_grad()
        def shrink(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            by = optimizer.param_groups[0]["lr"] * strengths[epoch.done]
            for p in self.penalised(model):
                p.copy_(p.sign() * (p.abs() - by).clamp(min=0))

        how = {"after_step": shrink} if self.prox else {"objective": objective}
        self.train(model, data.images, data.retain, context, "l1_sparse", after_epoch=epoch, **how)
        pull = self.lr * sum(strengths) * steps / self.epochs
        context.details["pull"] = pull if self.prox else pull / (1 - self.momentum)
        zeros = [(int((p == 0).sum()), p.numel()) for p in self.penalised(model)]
        context.details["zero_pct"] = 100 * sum(z for z, _ in zeros) / max(1, sum(n for _, n in zeros))
        return model

    def strengths(self, steps: int) -> list[float]:
        """gamma_e of each epoch, for so many steps in all of them."""
        gamma = 1e-4 * 1590 / steps if self.gamma is None else self.gamma
        falling = self.epochs - self.free_epochs
        return [gamma * max(0.0, 1 - e / falling) if falling else gamma for e in range(self.epochs)]

    def penalised(self, model: nn.Module) -> Iterator[nn.Parameter]:
        """The parameters whose size counts."""
        return (p for p in model.parameters() if p.requires_grad and (p.ndim > 1 or self.penalise == "all"))


class Epoch:
    """How many epochs are over, also where a training resumes (as `after_epoch` of `fit`)."""

    def __init__(self) -> None:
        self.state = {"done": torch.tensor(0)}

    @property
    def done(self) -> int:
        return int(self.state["done"])

    def __call__(self, epoch: int) -> None:
        self.state["done"] = torch.tensor(epoch)
