"""Learning rates that stay the same within an epoch and change between epochs, as several methods step them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class ByEpoch(Recipe):
    """A recipe whose rate in epoch e is lr x factors[e]."""

    factors: Sequence[float] = ()

    def lr_trace(self, steps_per_epoch: int) -> list[float]:
        return [self.lr * factor for factor in self.factors for _ in range(steps_per_epoch)]


def cosine(epochs: int) -> list[float]:
    """From 1 towards 0, which would be reached in the epoch after the last."""
    return [(1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]


def triangle(epochs: int) -> list[float]:
    """Up to 1 in the middle epoch and down again: 1/3, 2/3, 1, 2/3, 1/3."""
    peak = (epochs + 1) // 2
    return [
        epoch / peak if epoch <= peak else (epochs + 1 - epoch) / (epochs + 1 - peak) for epoch in range(1, epochs + 1)
    ]


def warm_restarts(epochs: int, floor: float) -> list[float]:
    """Cosine cycles of 1, 2, 4, ... epochs from 1 to `floor` (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    cycles = (cosine(2**i) for i in range(epochs.bit_length()))
    return [floor + (1 - floor) * factor for cycle in cycles for factor in cycle][:epochs]
