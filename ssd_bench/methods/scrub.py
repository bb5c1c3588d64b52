"""SCRUB (Kurmanji et al. 2023, arXiv 2302.09880): a student leaves its teacher, the original, on D_f alone."""

import logging
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.nn.modules.batchnorm import _BatchNorm

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods import teaching
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.loop import Pass
from ssd_bench.train.recipe import Recipe

log = logging.getLogger(__name__)
KIND = "original_logits"  # of D and D_f
STILL = 1e-6  # nats: a divergence that ascent cannot begin from


@dataclass(frozen=True)
class Scrub(FurtherTraining):
    """Every epoch minimises gamma l + alpha d on D_r; the first `max_epochs` of them maximise d on D_f as well.

    d is temperature^2 KL(teacher || student) of softened outputs, l the cross-entropy; train mode, one optimiser.
    order: which pass comes first. Ascent begins where d and its gradient are 0, and only BatchNorm's batch statistics
    make the student differ; auto therefore begins with D_r (min_first) in a model without BatchNorm. decay_at: after
    these epochs the learning rate is a tenth.
    The published settings are for CIFAR-10 and Lacuna alone. SCRUB+R's rewinding is not here: it needs images that the
    original was not trained on, and a method gets none.
    """

    epochs: int = 3
    max_epochs: int = 2
    optimizer: str = "sgd"
    lr: float = 5e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    gamma: float = 0.99
    alpha: float = 0.001
    temperature: float = 4.0
    forget_batch_size: int = 64
    retain_batch_size: int = 64
    decay_at: list[int] = field(default_factory=list)
    order: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("order", self.order, ("auto", "max_first", "min_first"))
        check_range("max_epochs", self.max_epochs, 0)
        check_range("gamma", self.gamma, 0)
        check_range("alpha", self.alpha, 0)
        check_range("forget_batch_size", self.forget_batch_size, 1)
        check_range("temperature", self.temperature, above=0)

    def recipe(self) -> Recipe:
        milestones = [(epoch + 1) / self.epochs for epoch in self.decay_at if epoch < self.epochs]
        return replace(super().recipe(), schedule="multistep", milestones=milestones, gamma=0.1)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        ascended = min(self.max_epochs, self.epochs) * len(data.forget)
        return Cost(backward=ascended + self.epochs * len(data.retain), shared=teaching.cost(KIND, taught(data)))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        teacher = teaching.Teaching(KIND, taught(data), model, data, context)
        first = FirstAscent(len(data.forget))

        def maximise(student: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = student(inputs)
            d = divergence(logits, teacher(rows), self.temperature)
            first.add(d.detach() * len(rows))
            return -d, logits

        def minimise(student: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = student(inputs)
            d = divergence(logits, teacher(rows), self.temperature)
            return self.gamma * cross_entropy(logits, labels) + self.alpha * d, logits

        def passes(epoch: int) -> list[Pass]:
            ascent, descent = Pass(data.forget, maximise, self.forget_batch_size), Pass(data.retain, minimise)
            both = [ascent, descent] if max_first else [descent, ascent]
            return both if epoch <= self.max_epochs else [descent]

        max_first = self.order == "max_first" or (self.order == "auto" and _has_batchnorm(model))
        return self.train(model, data.images, passes, context, "scrub", after_epoch=first)


def taught(data: Split) -> Tensor:
    """The rows of D and D_f, ascending: the same for all requests, but with a placebo, whose D_f is no part of D."""
    return torch.cat([data.rows, data.forget]).unique()


def divergence(logits: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of outputs softened by T, the mean over a batch. Both n x classes."""
    target = softmax(teachers.to(logits.dtype) / temperature, dim=1)
    total = kl_div(log_softmax(logits / temperature, dim=1), target, reduction="sum")
    return total * temperature**2 / len(logits)


class FirstAscent:
    """Warns (as `after_epoch` of `fit`) when the student never left its teacher in the first pass over D_f."""

    def __init__(self, n: int) -> None:
        self.n, self.state = n, {"divergence": torch.tensor(0.0)}

    def add(self, divergence: Tensor) -> None:
        """Summed over a batch of D_f."""
        self.state["divergence"] = self.state["divergence"].to(divergence.device) + divergence

    def __call__(self, epoch: int) -> None:
        if epoch == 1 and self.state["divergence"].item() / self.n < STILL:
            log.warning(
                "scrub: the student agrees with its teacher on all of D_f, so ascent has nothing to begin from; "
                "try method.order=min_first, or a higher method.lr"
            )


def _has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())
