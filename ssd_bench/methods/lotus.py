"""LoTUS (Spartalis et al., CVPR 2025, arXiv 2503.18314): what the original says of D_f, drawn at a temperature that
falls as D_f is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax, log_softmax, one_hot

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Request, Split
from ssd_bench.methods import teaching
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.methods.unseen import error, lacking, of_split
from ssd_bench.train.recipe import Recipe

BELOW = -0.01  # how far the accuracy on D_f may lie below its goal; then it is over


@dataclass(frozen=True)
class LoTUS(FurtherTraining):
    """Train on D_f and `retain_share` of D_r against the original's word, by cross-entropy.

    On D_r that is the class that it says; on D_f a Gumbel-softmax of its logits, drawn anew each time, at the
    temperature exp(alpha (accuracy on D_f - goal)), accuracies from 0 to 1, measured before each epoch. The goal is the
    original's accuracy on images of the same classes that it was not trained on (`data.validation`; a pool's models
    have them), weighed class by class as in D_f; where classes are forgotten it is 0. Once D_f is 0.01 below it, it is
    over. retain_target: said, the class; drawn, as released, one that is drawn by the original's probabilities.
    """

    version: ClassVar[int] = 1
    epochs: int = 10
    lr: float = 1e-4
    weight_decay: float = 5e-4
    batch_size: int = 128
    alpha: float = 2.0
    retain_share: float = 0.3
    retain_target: str = "said"
    optimizer = "adamw"

    def __post_init__(self) -> None:
        check_choice("retain_target", self.retain_target, ("said", "drawn"))
        check_range("retain_share", self.retain_share, 0, 1)
        check_range("alpha", self.alpha, 0)
        super().__post_init__()

    def skip(self, request: Request) -> str | None:
        if not request.forget_labels and request.clean is not None:
            return f"lotus needs rightly labelled images to forget; scenario={request.scenario} has none"
        return (None if request.forget_labels else lacking(request, "lotus")) or super().skip(request)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        """With all epochs: D_f may be forgotten sooner."""
        unseen = 0 if data.forget_labels else len(of_split(data)[0])
        images = self.epochs * (len(data.forget) + int(self.retain_share * len(data.retain)))
        measured = unseen + (self.epochs - 1) * len(data.forget)
        return Cost(measured, images, shared=teaching.cost(teaching.ORIGINAL, teaching.taught(data)))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        teacher = teaching.Teaching(teaching.ORIGINAL, teaching.taught(data), model, data, context)
        drawn = torch.randperm(len(data.retain), generator=context.generator("retained"))
        rows = torch.cat([data.forget, data.retain[drawn[: int(self.retain_share * len(data.retain))]]])
        forget = torch.isin(torch.arange(len(data.images)), data.forget)[:, None].to(context.device)
        after = Temperature(self, model, data, teacher)

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits, taught = model(inputs), teacher(rows)
            soft = gumbel_softmax(taught, after.state["temperature"])
            hard = gumbel_softmax(taught) if self.retain_target == "drawn" else taught
            target = torch.where(forget[rows], soft, one_hot(hard.argmax(1), taught.shape[1]).to(soft))
            return -(target * log_softmax(logits.float(), dim=1)).sum(1).mean(), logits

        if not after.over:
            self.train(model, data.images, rows, context, "lotus", objective=objective, after_epoch=after)
        last = None if after.over else after.state["temperature"].item()
        context.details |= {"temperature": last, "goal_pct": 100 * after.goal}
        return model


class Temperature:
    """The temperature of D_f's targets; as `after_epoch` of `fit` it sets the next epoch's, or says that it is over."""

    def __init__(self, method: LoTUS, model: nn.Module, data: Split, teacher: teaching.Teaching) -> None:
        self.method, self.model, self.data = method, model, data
        self.goal = 0.0 if data.forget_labels else 1 - error(model, data.images, *of_split(data))
        rows = data.forget.to(data.images.device)
        right = (teacher(rows).argmax(1) == data.images.labels[rows]).double().mean().item()
        self.state = {"temperature": torch.tensor(1.0, device=data.images.device)}
        self.over = self._set(right)

    def _set(self, accuracy: float) -> bool:
        above = accuracy - self.goal
        if above > BELOW:
            self.state["temperature"] = torch.full_like(self.state["temperature"], math.exp(self.method.alpha * above))
        return above <= BELOW

    def __call__(self, epoch: int) -> bool:
        if epoch == self.method.epochs:
            return False
        return self._set(1 - error(self.model, self.data.images, self.data.forget, torch.ones(len(self.data.forget))))
