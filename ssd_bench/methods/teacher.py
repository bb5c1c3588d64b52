"""Bad teacher (Chundawat et al. 2023, arXiv 2205.08096): follow a random model on D_f and the original on D_r."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, softmax

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Context, Cost, Method, Split
from ssd_bench.train.loop import fit
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Teacher(Method):
    """The original, as a student, learns from two teachers: KL(teacher || student) on D_f and `retain_share` of D_r.

    reduction: batchmean sums over classes, as KL is defined; mean, as released, divides by them too (a constant factor,
    which Adam nearly takes out). teacher_init: of a pretrained architecture the incompetent teacher has a random
    backbone; pretrained, as released, is competent up to its last layer.
    """

    epochs: int = 1
    lr: float = 1e-4
    batch_size: int = 256
    retain_share: float = 0.3
    temperature: float = 1.0
    reduction: str = "batchmean"
    teacher_init: str = "random"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    seeds: ClassVar[tuple[str, ...]] = ("seed_unlearn",)

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, ("batchmean", "mean"))
        check_choice("teacher_init", self.teacher_init, ("random", "pretrained"))
        if not 0 <= self.retain_share <= 1:
            raise ValueError(f"retain_share must be between 0 and 1, got {self.retain_share}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        self.recipe()

    def recipe(self) -> Recipe:
        return Recipe.constant("adam", self.epochs, self.batch_size, self.lr)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        images = self.epochs * (len(data.forget) + int(self.retain_share * len(data.retain)))
        return Cost(forward=2 * images, backward=images)

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        competent = copy.deepcopy(model).eval()
        incompetent = context.fresh_model(
            context.seed_for("incompetent"), pretrained=self.teacher_init == "pretrained"
        ).eval()
        drawn = torch.randperm(len(data.retain), generator=context.generator("retained"))
        retained = data.retain[drawn[: int(self.retain_share * len(data.retain))]]
        forget = torch.zeros(len(data.images), 1, dtype=torch.bool)
        forget[data.forget] = True
        forget = forget.to(context.device)

        def objective(student: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                bad, good = (softmax(t(inputs) / self.temperature, dim=1) for t in (incompetent, competent))
                target = torch.where(forget[rows], bad, good)
            logits = student(inputs)
            loss = kl_div(log_softmax(logits / self.temperature, dim=1), target, reduction="sum")
            return loss / (len(rows) if self.reduction == "batchmean" else logits.numel()), logits

        rows = torch.cat([data.forget, retained])
        draws, checkpoint = context.generator("batches"), context.checkpoint("teacher")
        return fit(
            model, data.images, rows, self.recipe(), draws, "teacher", objective=objective, checkpoint=checkpoint
        )  # fmt: skip
