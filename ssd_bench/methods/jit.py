"""JiT: smooth the network around D_f, which needs neither labels nor D_r (Foster et al. 2024, arXiv 2402.01401)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Context, Cost, Method, Split
from ssd_bench.train.loop import fit
from ssd_bench.train.recipe import Recipe

TINY = 1e-12  # below any distance between an image and its noisy copy


@dataclass(frozen=True)
class JiT(Method):
    """Lower the mean over `n_samples` noisy copies x' of ||f(x) - f(x')|| / ||x - x'|| on D_f, by plain SGD.

    sigma: of the noise, in the units of the model's inputs. clamp: copies are kept in the range of D_f's inputs; batch,
    as released, in the batch's. gradient: one_sided, as released, of f(x) alone; both, of f(x') too, without which the
    step fades x's own features rather than smooth. reduction: over the batch; sum, as released, makes lr follow its
    size. mode: of the model; train, as released, lets BatchNorm and dropout differ between x and x'. accumulate: as
    released, each step takes the gradients of all batches before it too.
    """

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
    needs: ClassVar[tuple[str, ...]] = ()
    seeds: ClassVar[tuple[str, ...]] = ("seed_unlearn",)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("reduction", ("mean", "sum")),
            ("mode", ("eval", "train")),
            ("gradient", ("one_sided", "both")),
            ("clamp", ("data", "batch")),
        ):
            check_choice(name, getattr(self, name), allowed)
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if self.n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {self.n_samples}")
        self.recipe()

    def recipe(self) -> Recipe:
        momentum = float(self.accumulate)  # of 1: a step along the sum of all gradients so far
        return Recipe.constant("sgd", self.epochs, self.batch_size, self.lr, momentum)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        images = self.epochs * len(data.forget)
        if self.gradient == "both":
            return Cost(backward=images * (1 + self.n_samples))
        return Cost(forward=images * self.n_samples, backward=images)

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        first, _ = data.images.batch(data.forget[:1])
        if not first.is_floating_point():
            raise ValueError(f"jit needs inputs that are numbers to be moved, not {first.dtype}")
        ends = [torch.stack(data.images.batch(rows)[0].aminmax()) for rows in data.forget.split(self.batch_size)]
        low, high = torch.stack(ends)[:, 0].min(), torch.stack(ends)[:, 1].max()

        def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            ends = inputs.aminmax() if self.clamp == "batch" else (low, high)
            logits = model(inputs)
            rough = sum(self.roughness(model, inputs, logits, *ends) for _ in range(self.n_samples)) / self.n_samples
            return (rough.sum() if self.reduction == "sum" else rough.mean()), logits

        draws, checkpoint = context.generator("batches"), context.checkpoint("jit")
        return fit(
            model, data.images, data.forget, self.recipe(), draws, "jit", objective=objective,
            ready=lambda trained: trained.train(self.mode == "train"), checkpoint=checkpoint,
        )  # fmt: skip

    def roughness(self, model: nn.Module, inputs: Tensor, logits: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """How far the output moves for one noisy copy of each input, per distance: n."""
        moved = (inputs + self.sigma * torch.randn_like(inputs)).clamp(low, high)
        with torch.set_grad_enabled(self.gradient == "both"):
            theirs = model(moved)
        far = torch.linalg.vector_norm((inputs - moved).flatten(1), dim=1).clamp_min(TINY)
        return torch.linalg.vector_norm(logits - theirs, dim=1) / far
