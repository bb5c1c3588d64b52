"""CF-k: fine-tune the last layers alone, and let them forget catastrophically (Goel et al. 2022, arXiv 2201.06640)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ssd_bench.core.task import Context, Split
from ssd_bench.methods.last_k import LastK


@dataclass(frozen=True)
class CFk(LastK):
    """Fine-tune the last part of the original on D_r. What earlier layers hold of D_f stays; settings as in LastK."""

    version: ClassVar[int] = 1
    needs = ("retain",)
    seeds = ("seed_unlearn",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is None:
            raise ValueError("epochs must be a number for cf_k, which does not follow the original's recipe")

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        return self.train_last(self.part(model, data, context), data, context)
