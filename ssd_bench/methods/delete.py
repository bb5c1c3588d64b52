"""DELETE (Zhou et al., CVPR 2025, arXiv 2503.23751): what the original says of D_f, without the true class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods import teaching
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.recipe import Recipe

KIND = "forget_logits"  # the original's, of D_f


@dataclass(frozen=True)
class Delete(FurtherTraining):
    """`epochs` of SGD on KL(target || model) over D_f: the original's outputs with the logit of the true class removed.

    The targets are constants, made by one forward pass over D_f that other settings of the method share. mode: eval
    keeps BatchNorm's statistics; train, as released, lets D_f's replace them. lr and epochs are ours: the authors give
    none for these networks. Needs D_f alone.
    """

    version: ClassVar[int] = 1
    epochs: int = 10
    lr: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    mode: str = "eval"
    needs = ()

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * len(data.forget), shared=teaching.cost(KIND, data.forget))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        teacher = teaching.Teaching(KIND, data.forget, model, data, context)

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(inputs)
            target = without(teacher(rows), labels).to(logits.dtype)
            return kl_div(log_softmax(logits, dim=1), target, reduction="batchmean"), logits

        return self.train(model, data.images, data.forget, context, "delete", objective=objective)


def without(logits: Tensor, labels: Tensor) -> Tensor:
    """The probabilities of the other classes, given that it is one of them: n x classes, 0 for the label's own."""
    return logits.scatter(1, labels[:, None], -torch.inf).softmax(dim=1)
