"""EU-k: forget the last layers exactly, by training them from a fresh start (Goel et al. 2022, arXiv 2201.06640)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Context, Split
from ssd_bench.methods.forward_order import LastPart, has_weights
from ssd_bench.methods.last_k import LastK


@dataclass(frozen=True)
class EUk(LastK):
    """Initialise the last part anew and train it on D_r, by default as the original was trained. The rest of LastK.

    init: default, all of it as a new model's, running statistics included. kaiming, as released: weights from a normal
    distribution by fan-in and biases 0, in the layers that are counted; normalisations keep the original's values.
    """

    version: ClassVar[int] = 2
    epochs: int | None = None
    init: str = "default"
    needs = ("retain", "recipe")
    seeds = ("seed_unlearn",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("init", self.init, ("default", "kaiming"))

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        part = self.part(model, data, context)
        if self.init == "kaiming":
            _kaiming(part, context.generator("init"))
        else:
            _as_new(part, context.fresh_model(context.seed_for("init"), pretrained=False))
        return self.train_last(part, data, context)


def _as_new(part: LastPart, fresh: nn.Module) -> None:
    """Give the part what a new model has there; what is frozen, or used before the part too, stays."""
    ours, theirs = {id(p) for p in part.parameters}, dict(fresh.named_modules())
    with torch.no_grad():
        for name, module in part.after.items():
            for key, p in module.named_parameters(recurse=False):
                if id(p) in ours:
                    p.copy_(getattr(theirs[name], key))
            for key, buffer in module.named_buffers(recurse=False):
                buffer.copy_(getattr(theirs[name], key))


def _kaiming(part: LastPart, draws: torch.Generator) -> None:
    ours = {id(p) for p in part.parameters}
    for module in filter(has_weights, part.after.values()):
        for p in module.parameters(recurse=False):
            if id(p) in ours:
                new = torch.zeros(p.shape, dtype=p.dtype)
                p.data.copy_(nn.init.kaiming_normal_(new, generator=draws) if p.ndim > 1 else new)
