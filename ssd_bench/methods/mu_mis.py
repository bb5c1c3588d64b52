"""MU-Mis: make the model insensitive to D_f's own pixels, without D_r (Cheng, Huang et al. 2024, arXiv 2402.15109)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssd_bench.core.errors import check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.inputs import first_input
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.passes import eval_mode, pass_clock
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class MUMis(FurtherTraining):
    """Lower the squared norm of the gradient of the label's logit by the input on D_f, minus `other` times that of
    another class, drawn at random for each image in each step. From the paper's description, not from released code.

    mode: eval keeps running statistics as they are; train lets them follow D_f. The loss has no lower bound where
    `other` is above 0: a large lr or many epochs destroy the model.
    """

    version: ClassVar[int] = 1
    epochs: int = 5
    lr: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    other: float = 1.0
    mode: str = "eval"
    needs = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("other", self.other, 0)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        """Images that are looked at; each takes about the time of four, since gradients are differentiated again."""
        return Cost(backward=1 + self.epochs * len(data.forget))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        self._check(model, data)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kinds of attention cannot be differentiated twice
            return self.train(model, data.images, data.forget, context, "mu_mis", objective=self.objective)

    def _check(self, model: nn.Module, data: Split) -> None:
        """Raise ValueError for inputs that are no numbers, and for a model that cannot be differentiated twice."""
        first_input(data, "mu_mis", "differentiated by")
        inputs, labels = data.images.batch(data.forget[:1])
        try:
            with eval_mode(model), sdpa_kernel(SDPBackend.MATH), pass_clock():
                loss, _ = self.objective(model, inputs, labels, labels)
                torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        except RuntimeError as e:
            if "derivative" not in str(e):
                raise
            raise ValueError(f"mu_mis needs a model that can be differentiated twice ({e})") from e

    def objective(self, model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mean difference of squared sensitivities of a batch, and its logits."""
        inputs = inputs.detach().requires_grad_()
        logits = model(inputs)
        steps = torch.randint(1, logits.shape[1], labels.shape, device=labels.device)
        others = (labels + steps) % logits.shape[1]
        loss = sensitivity_to(inputs, logits, labels) - self.other * sensitivity_to(inputs, logits, others)
        return loss.mean(), logits


def sensitivity_to(inputs: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
    """Squared norm of the gradient of each sample's logit of its class by its input: n, to be differentiated again."""
    chosen = logits.gather(1, classes[:, None]).sum()
    gradient = torch.autograd.grad(chosen, inputs, create_graph=True)[0]
    return gradient.square().flatten(1).sum(1)
