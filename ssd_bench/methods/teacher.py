"""Bad teacher (Chundawat et al. 2023, arXiv 2205.08096): follow a random model on D_f and the original on D_r."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Teacher(FurtherTraining):
    """The original, as a student, learns from two teachers: KL(teacher || student) on D_f and `retain_share` of D_r.

    reduction: batchmean sums over classes, as KL is defined; mean, as released, divides by them too (a constant factor,
    which Adam nearly takes out). teacher_init: of a pretrained architecture the incompetent teacher has a random
    backbone; pretrained, as released, is competent up to its last layer.
    """

    version: ClassVar[int] = 1
    epochs: int = 1
    lr: float = 1e-4
    batch_size: int = 256
    retain_share: float = 0.3
    temperature: float = 1.0
    reduction: str = "batchmean"
    teacher_init: str = "random"
    optimizer = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("reduction", self.reduction, ("batchmean", "mean"))
        check_choice("teacher_init", self.teacher_init, ("random", "pretrained"))
        check_range("retain_share", self.retain_share, 0, 1)
        check_range("temperature", self.temperature, above=0)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        images = self.epochs * (len(data.forget) + int(self.retain_share * len(data.retain)))
        return Cost(forward=2 * images, backward=images)

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        incompetent = context.fresh_model(context.seed_for("incompetent"), pretrained=self.teacher_init == "pretrained")
        teachers = incompetent.eval(), copy.deepcopy(model).eval()
        drawn = torch.randperm(len(data.retain), generator=context.generator("retained"))
        rows = torch.cat([data.forget, data.retain[drawn[: int(self.retain_share * len(data.retain))]]])
        forget = torch.isin(torch.arange(len(data.images)), data.forget)[:, None].to(context.device)

        def objective(student: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                bad, good = ((teacher(inputs) / self.temperature).softmax(dim=1) for teacher in teachers)
                target = torch.where(forget[rows], bad, good)
            logits = student(inputs)
            loss = nn.functional.kl_div((logits / self.temperature).log_softmax(dim=1), target, reduction="sum")
            return loss / (len(rows) if self.reduction == "batchmean" else logits.numel()), logits

        return self.train(model, data.images, rows, context, "teacher", objective=objective)
