"""MSG: draw anew what both sets agree on, the second of a 2023 competition (DeepUnlearn, arXiv 2410.01276)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core import console
from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.by_epoch import ByEpoch, triangle
from ssd_bench.methods.masks import smallest
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.passes import eval_mode, pass_clock, statistics_for
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class MSG(FurtherTraining):
    """In each Conv2d, draw anew the share `rate` of weights with the smallest |gradient on as many images of D_r minus
    gradient on D_f|; then SGD on D_r, in which the other weights of these layers go at `keep_scale` of the speed.

    score: mean, of each set's mean loss; sums, as released, of batch means, which weighs the sets by their batches.
    score_mode: eval; train, as released, lets running statistics move while gradients are taken. scaled: update, with
    weight decay; gradient, as released, without it. keep_bias: false, as released, draws these layers' biases anew.
    What is frozen stays. A ViT has one Conv2d, the embedding of its patches.
    """

    version: ClassVar[int] = 1
    rate: float = 0.3
    keep_scale: float = 0.1
    epochs: int = 5
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 64
    score: str = "mean"
    score_mode: str = "eval"
    scaled: str = "update"
    keep_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("score", self.score, ("mean", "sums"))
        check_choice("score_mode", self.score_mode, ("eval", "train"))
        check_choice("scaled", self.scaled, ("update", "gradient"))
        check_range("rate", self.rate, 0, 1)
        check_range("keep_scale", self.keep_scale, 0, 1)

    def recipe(self) -> Recipe:
        return ByEpoch.of(super().recipe(), factors=triangle(self.epochs))

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        scored = len(data.forget) + min(len(data.forget), len(data.retain))
        return Cost(backward=scored + self.epochs * len(data.retain))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        drawn = torch.randperm(len(data.retain), generator=context.generator("retained"))[: len(data.forget)]
        scores = self.scores(model, data, data.retain[drawn])
        chosen = {name: self.mask(score) for name, score in scores.items()}
        self.draw_anew(model, chosen, context.generator("weights"))
        context.details["drawn_anew"] = sum(int(mask.sum()) for mask in chosen.values())
        return self.finetune(model, chosen, data, context)

    def mask(self, score: Tensor) -> Tensor:
        """Of a layer's scores: the round(rate n) of smallest magnitude, the earlier ones of equal."""
        return smallest({"": score}, round(self.rate * score.numel()))[""]

    def scores(self, model: nn.Module, data: Split, retained: Tensor) -> dict[str, Tensor]:
        """Gradient on these rows of D_r minus gradient on D_f, of each convolution by its name."""
        layers = convolutions(model)
        total = {name: torch.zeros_like(m.weight) for name, m in layers.items()}
        with eval_mode(model), console.counting("msg: images", len(retained) + len(data.forget)) as more:
            model.train(self.score_mode == "train")
            for rows, sign in ((retained, 1), (data.forget, -1)) if layers else ():
                for batch in rows.split(self.batch_size):
                    inputs, labels = data.images.batch(batch)
                    with pass_clock(), statistics_for(model, len(batch)):
                        loss = cross_entropy(model(inputs), labels)
                    gradients = torch.autograd.grad(loss, [m.weight for m in layers.values()], allow_unused=True)
                    weight = sign * (len(batch) / len(rows) if self.score == "mean" else 1)
                    used = [(t, g) for t, g in zip(total.values(), gradients, strict=True) if g is not None]
                    torch._foreach_add_([t for t, _ in used], [g for _, g in used], alpha=weight)
                    more(len(batch))
        return total

    def draw_anew(self, model: nn.Module, chosen: Mapping[str, Tensor], draws: torch.Generator) -> None:
        """Kaiming's normal distribution by fan-out; where biases are drawn too, as PyTorch begins them."""
        for name, module in convolutions(model).items():
            weight = module.weight.data
            new = nn.init.kaiming_normal_(
                torch.empty(weight.shape), mode="fan_out", nonlinearity="relu", generator=draws
            )
            weight.copy_(torch.where(chosen[name], new.to(weight), weight))
            if module.bias is not None and module.bias.requires_grad and not self.keep_bias:
                fan_in = weight[0].numel()
                module.bias.data.copy_((2 * torch.rand(module.bias.shape, generator=draws) - 1) / fan_in**0.5)

    def finetune(self, model: nn.Module, chosen: Mapping[str, Tensor], data: Split, context: Context) -> nn.Module:
        """Train on D_r, the weights of convolutions that are not `chosen` at a slower pace."""
        decay = self.weight_decay if self.scaled == "update" else 0.0
        scales = {name: torch.where(mask, 1.0, self.keep_scale) for name, mask in chosen.items()}
        with slowed(model, scales, decay):
            return self.train(model, data.images, data.retain, context, "msg")


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Those whose weights are parameters of their own, not made of others, and not frozen; by name."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    weights = {name: m._parameters.get("weight") for name, m in found.items()}
    return {name: found[name] for name, weight in weights.items() if weight is not None and weight.requires_grad}


@contextmanager
def slowed(model: nn.Module, scales: Mapping[str, Tensor], decay: float) -> Iterator[None]:
    """While it lasts, gradients of these layers' weights are scaled, and what weight decay of `decay` adds to them."""

    def of(weight: nn.Parameter, scale: Tensor, gradient: Tensor) -> Tensor:
        return (scale * gradient + (scale - 1) * decay * weight.detach()).to(gradient.dtype)

    weights = {name: model.get_submodule(name).weight for name in scales}
    handles = [w.register_hook(lambda g, w=w, name=name: of(w, scales[name], g)) for name, w in weights.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
