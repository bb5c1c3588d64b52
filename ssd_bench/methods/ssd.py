"""Selective Synaptic Dampening (Foster, Schoepf and Brintrup, AAAI 2024, arXiv 2308.07707)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ssd_bench.core.errors import check_range
from ssd_bench.core.task import Context, Split
from ssd_bench.methods.dampening import ORDERS, Dampening, Tensors, dampen

__all__ = ["ORDERS", "SSD", "dampen"]


@dataclass(frozen=True)
class SSD(Dampening):
    """Dampen the parameters that matter more than `alpha` times as much to D_f as to D; the rest is in Dampening.

    With sensitivity=output_sq it is LFSSD (Foster et al. 2024, arXiv 2402.19308), which needs no labels.
    """

    version: ClassVar[int] = 1
    alpha: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alpha", self.alpha, 0)

    def threshold(self, model: nn.Module, full: Tensors, forget: Tensors, data: Split, context: Context) -> float:
        return self.alpha
