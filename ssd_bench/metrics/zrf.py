"""Zero retrain forgetting (Chundawat et al. 2023, arXiv 2205.08096): how like a random model's D_f's outputs are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import Outputs
from ssd_bench.metrics import About


@dataclass(frozen=True)
class ZRF:
    """`zrf` and `zrf_official`, on D'_f. The ideal is the retrained model's value, not 1."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("random_logits",)
    about: ClassVar[dict[str, About]] = {
        "zrf": About("fraction", "retrained", "everywhere", ("forget",), 20, "ZRF", table="main"),
        "zrf_official": About(
            "fraction", "retrained", "to compare with published values alone", ("forget",), 20, table="none"
        ),
    }

    def __call__(self, seen: Outputs) -> dict[str, float | None]:
        if not seen.has("forget") or seen.random_logits is None:
            return {}
        probs, random_probs = seen.probs("forget"), seen.random_logits.double().softmax(dim=1)
        values = {
            "zrf": zrf(probs, random_probs),
            "zrf_official": zrf(probs, random_probs, variant="official"),
        }
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


def zrf(probs: Tensor, random_probs: Tensor, variant: str = "corrected") -> float:
    """1 - mean Jensen-Shannon divergence between the rows of two n x classes tensors of probabilities.

    corrected: JS in bits, the mean over rows: 1 where the rows agree, 0 where their supports are disjoint. official:
    the released formula, with the arguments of KL swapped and the mean over rows and classes, in nats; it is minus
    infinity where one model gives 0 to what the other does not. Raises ConfigError for another variant.
    """
    check_choice("variant", variant, ("corrected", "official"))
    return 1 - (js_divergence(probs, random_probs) if variant == "corrected" else _official_js(probs, random_probs))


def js_divergence(probs: Tensor, other_probs: Tensor) -> float:
    """Mean over rows of the Jensen-Shannon divergence in bits, in [0, 1]."""
    p, q = probs.double(), other_probs.double()
    m = (p + q) / 2
    # Summed as entropies: each term is finite at p = 0. Rounding may leave -1e-17 for equal rows.
    js = torch.xlogy(p, p) / 2 + torch.xlogy(q, q) / 2 - torch.xlogy(m, m)
    return js.sum(1).clamp(min=0).mean().item() / math.log(2)


def _official_js(probs: Tensor, other_probs: Tensor) -> float:
    p, q = probs.double(), other_probs.double()
    m = (p + q) / 2
    reversed_kl = (torch.where(m > 0, m * (m.log() - r.log()), 0.0) for r in (p, q))
    return sum(term.mean().item() for term in reversed_kl) / 2
