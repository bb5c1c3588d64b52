"""A control: make the forgotten classes unsayable in the last layer, and forget nothing."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ssd_bench.core.task import Context, Cost, Method, Request, Split
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class MaskHead(Method):
    """The last layer's weights of a forgotten class become 0 and its bias `bias`, far below any logit and finite.

    All features are the original's, and so are the odds of the other classes: what judges outputs alone sees the class
    gone, what looks at features must see nothing gone. Only of classes of the model's labels that are forgotten whole.
    """

    version: ClassVar[int] = 1
    bias: float = -1e4
    control = True
    seeds = ()

    def __post_init__(self) -> None:
        if not -math.inf < self.bias < 0:
            raise ValueError(f"bias must be negative and finite, got {self.bias}")

    def skip(self, request: Request) -> str | None:
        if not request.forget_labels:
            return f"mask_head needs classes to forget; scenario={request.scenario} has none"
        for label in request.forget_labels:
            if (request.train_labels[request.retain] == label).any():
                kept = request.classes[label]
                return f"mask_head needs classes that are forgotten whole; some of {kept} is to be kept"
        return None

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        layer = model.get_submodule(head) if head else None
        if getattr(layer, "bias", None) is None:
            return f"mask_head needs a last layer with a bias and a row for each class, not {layer}"
        return None

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost()

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        head = model.get_submodule(context.head)
        with torch.no_grad():
            head.weight[list(data.forget_labels)] = 0
            head.bias[list(data.forget_labels)] = self.bias
        return model
