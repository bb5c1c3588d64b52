"""JiT: smooth the network around D_f, which needs neither labels nor D_r (Foster et al. 2024, arXiv 2402.01401)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.inputs import extremes, first_input
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.loop import Pass
from ssd_bench.train.passes import pass_clock
from ssd_bench.train.recipe import Recipe, later

TINY = 1e-12  # below any distance between an image and its noisy copy


@dataclass(frozen=True)
class JiT(FurtherTraining):
    """Lower the mean over `n_samples` noisy copies x' of ||f(x) - f(x')|| / ||x - x'|| on D_f, by plain SGD.

    sigma: of the noise, in the units of the model's inputs. clamp: copies are kept in the range of D_f's inputs; batch,
    as released, in the batch's. gradient: one_sided, as released, of f(x) alone; both, of f(x') too, without which the
    step fades x's own features rather than smooth. reduction: over the batch; sum, as released, makes lr follow its
    size. mode: of the model; train, as released, lets BatchNorm and dropout differ between x and x'. accumulate: as
    released, each step takes the gradients of all batches before it too. order: of D_f, shuffled or, as released,
    stored.

    With precision=bfloat16, too, it computes in float32: bfloat16 rounds as much as a small sigma moves.
    """

    version: ClassVar[int] = 2
    lr: float = 0.01
    sigma: float = 0.5
    n_samples: int = 25
    epochs: int = 1
    batch_size: int = 128
    reduction: str = "mean"
    mode: str = "eval"
    gradient: str = "one_sided"
    accumulate: bool = False
    clamp: str = "data"
    order: str = later("shuffled")
    needs = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("reduction", self.reduction, ("mean", "sum"))
        check_choice("gradient", self.gradient, ("one_sided", "both"))
        check_choice("clamp", self.clamp, ("data", "batch"))
        check_choice("order", self.order, ("shuffled", "stored"))
        check_range("sigma", self.sigma, above=0)
        check_range("n_samples", self.n_samples, 1)

    @property
    def momentum(self) -> float:
        """Of 1: a step along the sum of all gradients so far."""
        return float(self.accumulate)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        images = self.epochs * len(data.forget)
        if self.gradient == "both":
            return Cost(backward=images * (1 + self.n_samples))
        return Cost(forward=images * self.n_samples, backward=images)

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        first_input(data, "jit", "moved")
        low, high = extremes(data.images, data.forget, self.batch_size)

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            ends = inputs.aminmax() if self.clamp == "batch" else (low, high)
            logits = model(inputs)
            rough = sum(self.roughness(model, inputs, logits, *ends) for _ in range(self.n_samples)) / self.n_samples
            return (rough.sum() if self.reduction == "sum" else rough.mean()), logits

        batches = Pass(data.forget, objective, shuffle=self.order == "shuffled")
        with pass_clock.using(data.forget.device, "float32"):
            return self.train(model, data.images, lambda epoch: [batches], context, "jit")

    def roughness(self, model: nn.Module, inputs: Tensor, logits: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """How far the output moves for one noisy copy of each input, per distance: n."""
        moved = (inputs + self.sigma * torch.randn_like(inputs)).clamp(low, high)
        with torch.set_grad_enabled(self.gradient == "both"):
            theirs = model(moved)
        far = torch.linalg.vector_norm((inputs - moved).flatten(1), dim=1).clamp_min(TINY)
        return torch.linalg.vector_norm(logits - theirs, dim=1) / far
