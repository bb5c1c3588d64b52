"""SSD that finds its own alpha: adaptive SSD (Schoepf, Foster and Brintrup 2024, arXiv 2402.10098)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from ssd_bench.core.about import About
from ssd_bench.core.task import Context, Split
from ssd_bench.methods.dampening import Dampening, Tensors


@dataclass(frozen=True)
class ASSD(Dampening):
    """alpha is the percentile 100 - ln(1 + 100 |D_f| / |D|) of the ratios I_f / I_D of all parameters together.

    Entries of which the reference has an importance of 0 are left out of the percentile, and dampened all the same.
    """

    version: ClassVar[int] = 1
    columns: ClassVar[dict[str, About]] = {
        **Dampening.columns,
        "alpha": About(heading="alpha", decimals=2, table="none"),
    }

    def threshold(self, model: nn.Module, full: Tensors, forget: Tensors, data: Split, context: Context) -> float:
        """The alpha that suits the share of D_f."""
        share = len(data.forget) / len(data.rows)
        percentile = 100 - np.log1p(100 * share)
        alpha, beyond = percentile_of_ratios(full, forget, percentile)
        context.details.update(alpha=alpha, percentile=float(percentile), beyond=beyond)
        return alpha


def percentile_of_ratios(full: Tensors, forget: Tensors, percentile: float) -> tuple[float, int]:
    """This percentile of I_f / I_ref over all entries where it is finite, and how many have I_ref = 0 < I_f.

    Linear between order statistics.
    """
    finite, beyond = ratios(full, forget)
    return float(np.percentile(finite, percentile)), beyond


def ratios(full: Tensors, forget: Tensors) -> tuple[np.ndarray, int]:
    """I_f / I_ref of all entries where it is finite, and how many have I_ref = 0 < I_f.

    In float64 on the CPU, since `torch.quantile` takes 2^24 entries at most.
    """
    top, bottom = (  # name by name: what comes from the store is in another order
        np.concatenate([of[name].double().cpu().numpy().ravel() for name in full]) for of in (forget, full)
    )
    finite = bottom > 0
    return top[finite] / bottom[finite], int((top[~finite] > 0).sum())
