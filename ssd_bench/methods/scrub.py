"""SCRUB (Kurmanji et al. 2023, arXiv 2302.09880): a student leaves its teacher, the original, on D_f alone."""

import logging
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.nn.modules.batchnorm import _BatchNorm

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Request, Split
from ssd_bench.methods import teaching
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.methods.unseen import error, lacking, of_split
from ssd_bench.train.loop import Pass
from ssd_bench.train.recipe import Recipe, later

log = logging.getLogger(__name__)
STILL = 1e-6  # nats: a divergence that ascent cannot begin from


@dataclass(frozen=True)
class Scrub(FurtherTraining):
    """Every epoch minimises gamma l + alpha d on D_r; the first `max_epochs` of them maximise d on D_f as well.

    d is temperature^2 KL(teacher || student) of softened outputs, l the cross-entropy; train mode, one optimiser.
    order: which pass comes first. Ascent begins where d and its gradient are 0, and only BatchNorm's batch statistics
    make the student differ; auto therefore begins with D_r (min_first) in a model without BatchNorm. decay_at: after
    these epochs the learning rate is a tenth. The published settings are for CIFAR-10 and Lacuna alone.
    rewind: SCRUB+R, against an attack that tells D_f by errors that are too high. Of the original and the students of
    all epochs it takes the one whose error on D_f is nearest to the last student's on images of the same classes that
    the original was not trained on, the earliest of equals. These are what `data.validation` (0.1, say) takes out of D,
    and for a pool's models what they leave out anyway; a run that has none is skipped. They weigh class by class as in
    D_f; of a sub-class they are its own, or where it has none left those of its whole class. The released code cannot
    take the original: it never saves it. Its settings: 5 epochs, max_epochs 3, gamma 1, alpha 0.5, decay_at [3, 5, 9],
    batches of 16 and 32. Every checkpoint holds all students so far.
    """

    version: ClassVar[int] = 2
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
    rewind: bool = later(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("order", self.order, ("auto", "max_first", "min_first"))
        check_range("max_epochs", self.max_epochs, 0)
        check_range("gamma", self.gamma, 0)
        check_range("alpha", self.alpha, 0)
        check_range("forget_batch_size", self.forget_batch_size, 1)
        check_range("temperature", self.temperature, above=0)

    def skip(self, request: Request) -> str | None:
        if self.rewind and request.clean is not None:
            return "scrub with rewind=true compares errors, and the labels of D_f are wrong"
        return (lacking(request, "scrub with rewind=true") if self.rewind else None) or super().skip(request)

    def recipe(self) -> Recipe:
        milestones = [(epoch + 1) / self.epochs for epoch in sorted(self.decay_at) if epoch < self.epochs]
        return replace(super().recipe(), schedule="multistep", milestones=milestones, gamma=0.1)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        ascended = min(self.max_epochs, self.epochs) * len(data.forget)
        forward = 0
        if self.rewind:
            others, _ = of_split(data)
            forward = (self.epochs + 1) * len(data.forget) + len(others)
        backward = ascended + self.epochs * len(data.retain)
        return Cost(forward, backward, shared=teaching.cost(teaching.ORIGINAL, teaching.taught(data)))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        teacher = teaching.Teaching(teaching.ORIGINAL, teaching.taught(data), model, data, context)
        first = FirstAscent(len(data.forget) if self.max_epochs else 0)
        after = Students(first, model) if self.rewind else first

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
        self.train(model, data.images, passes, context, "scrub", after_epoch=after)
        if self.rewind:
            taken = context.details["rewound_to"] = after.rewind(data)
            if taken == 0:
                log.warning("scrub: rewound to the original, whose error on D_f is nearest: nothing is forgotten")
        return model


def divergence(logits: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of outputs softened by T, the mean over a batch. Both n x classes."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 rounds as much as they differ by
    target = softmax(teachers.to(logits.dtype) / temperature, dim=1)
    total = kl_div(log_softmax(logits / temperature, dim=1), target, reduction="sum")
    return total * temperature**2 / len(logits)


class FirstAscent:
    """Warns (as `after_epoch` of `fit`) when the student never left its teacher in the first pass over D_f.

    n: how many samples that pass has; 0: there is none.
    """

    def __init__(self, n: int) -> None:
        self.n, self.state = n, {"divergence": torch.tensor(0.0)}

    def add(self, divergence: Tensor) -> None:
        """Summed over a batch of D_f."""
        self.state["divergence"] = self.state["divergence"].to(divergence.device) + divergence

    def __call__(self, epoch: int) -> None:
        if epoch == 1 and self.n and self.state["divergence"].item() / self.n < STILL:
            log.warning(
                "scrub: the student agrees with its teacher on all of D_f, so ascent has nothing to begin from; "
                "try method.order=min_first, or a higher method.lr"
            )


class Students:
    """Keeps the original and, as `after_epoch` of `fit`, the student of each epoch."""

    def __init__(self, first: FirstAscent, model: nn.Module) -> None:
        self.first, self.model, self.state = first, model, first.state
        self._keep(0)

    def _keep(self, epoch: int) -> None:
        self.state.update({f"{epoch}.{name}": t.clone() for name, t in self.model.state_dict().items()})

    def __call__(self, epoch: int) -> None:
        self.first(epoch)
        self._keep(epoch)

    def rewind(self, data: Split) -> int:
        """Give the model the weights of the student that is taken, and say after which epoch (0: the original)."""
        wanted = error(self.model, data.images, *of_split(data))
        epochs = 1 + max(int(name.split(".", 1)[0]) for name in self.state if name[0].isdecimal())
        away = [abs(self._error_after(epoch, data) - wanted) for epoch in range(epochs)]
        taken = away.index(min(away))
        self._restore(taken)
        return taken

    def _restore(self, epoch: int) -> None:
        start = f"{epoch}."
        of_epoch = {name.removeprefix(start): t for name, t in self.state.items() if name.startswith(start)}
        self.model.load_state_dict(of_epoch)

    def _error_after(self, epoch: int, data: Split) -> float:
        self._restore(epoch)
        return error(self.model, data.images, data.forget, torch.ones(len(data.forget)))


def _has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())
