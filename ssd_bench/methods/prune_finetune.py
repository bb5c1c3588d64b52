"""Prune, then unlearn (Jia et al. 2023, arXiv 2304.04934): set small weights of the original to 0, then fine-tune."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ssd_bench.core.about import About
from ssd_bench.core.errors import check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.masks import putting_back, size_of, smallest
from ssd_bench.methods.training import FurtherTraining
from ssd_bench.train.recipe import Recipe

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class PruneFinetune(FurtherTraining):
    """A share `rate` of the convolutions' weights becomes 0, and `epochs` of SGD on D_r follow, in which they stay 0.

    They are the round(rate n) smallest of all n together, by magnitude in the original; of equal ones the first. Each
    step puts them back to 0, so that neither momentum nor weight decay moves them. As released, biases, norms and
    linear layers stay whole. What is frozen is neither pruned nor counted. rate: 0 to 1; 0 is fine-tuning. The authors'
    original is sparse itself, and the retrained model has the same zeros; here the request prunes and both are dense,
    so that a gap holds what the zeros cost, too.

    A model needs a convolution whose windows overlap. One whose windows do not is a linear layer of patches: pruned
    beside others, but a ViT, which has no other, would lose most of what it sees and keep nearly all of its weights, so
    the method is not for it.
    """

    version: ClassVar[int] = 1
    rate: float = 0.95
    epochs: int = 10
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256
    columns: ClassVar[dict[str, About]] = {"zero_pct": About("percent", heading="zeros %", decimals=2, table="none")}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("rate", self.rate, 0, 1)

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        names = {name.rpartition(".")[0] for name in prunable(model)}
        trained = (module for name, module in model.named_modules() if name in names)
        if any(k > s for m in trained for k, s in zip(m.kernel_size, m.stride, strict=True)):
            return None
        return f"prune_finetune needs a trainable convolution whose windows overlap; {type(model).__name__} has none"

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        return Cost(backward=self.epochs * len(data.retain))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        weights = prunable(model)
        n = size_of(weights)
        pruned = smallest(weights, round(self.rate * n))
        with torch.no_grad():
            for name, p in weights.items():
                p.masked_fill_(pruned[name], 0)
        put_back = putting_back(model, {name: ~mask for name, mask in pruned.items()})
        self.train(model, data.images, data.retain, context, "prune_finetune", after_step=put_back)
        context.details["zero_pct"] = 100 * sum(int((p == 0).sum()) for p in weights.values()) / n
        return model


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable weights of all convolutions, by name, in the model's order."""
    convolutions = (module for module in model.modules() if isinstance(module, CONVOLUTIONS))
    of_convolutions = {id(module._parameters.get("weight")) for module in convolutions}  # a parametrised one is no own
    return {name: p for name, p in model.named_parameters() if id(p) in of_convolutions and p.requires_grad}
