"""A control for SSD: dampen as many weights of each tensor, by the same factors, but whichever chance picks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ssd_bench.core.task import Context, Images
from ssd_bench.methods.dampening import Tensors
from ssd_bench.methods.ssd import SSD


@dataclass(frozen=True)
class DampenRandom(SSD):
    """SSD with the importances of each tensor dealt out anew, those for D and for D_f of an entry together.

    So it dampens as many entries of each tensor as SSD does with these settings, by the same factors. What SSD does
    beyond it is due to which weights the importances name; what it does as well is due to dampening alone.
    """

    version: ClassVar[int] = 2
    control: ClassVar[bool] = True
    seeds = ("seed_unlearn",)

    def importances(
        self, model: nn.Module, images: Images, full: list[torch.Tensor], forget: list[torch.Tensor], context: Context
    ) -> tuple[Tensors, Tensors]:
        found = super().importances(model, images, full, forget, context)
        draws = context.generator("dampen_random")
        names = sorted(found[0])  # what was kept comes in another order than what was just made
        orders = {name: torch.randperm(found[0][name].numel(), generator=draws) for name in names}
        return tuple(
            {name: t.flatten()[orders[name].to(t.device)].view_as(t) for name, t in of.items()} for of in found
        )
