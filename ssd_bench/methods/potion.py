"""Potion's search: dampen a growing share until D_f is forgotten (Schoepf et al. 2024, arXiv 2406.09173)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import nn

from ssd_bench.core.about import About
from ssd_bench.core.errors import check_range
from ssd_bench.core.task import Context, Cost, Split
from ssd_bench.methods.assd import ratios
from ssd_bench.methods.dampening import Dampening, Tensors, dampen
from ssd_bench.train.passes import predict
from ssd_bench.train.recipe import Recipe

log = logging.getLogger(__name__)

BATCH = 128  # images in one inference pass


@dataclass(frozen=True)
class Potion(Dampening):
    """Adaptive SSD with the share f of D in its percentile 100 - ln(1 + 100 f) found by trying, on D_f alone.

    The first share is |D_f| / |D| / `start_divisor`, each next one `factor` times as large; each try starts from the
    original. The first that gets the accuracy on D_f down to `cut` times the original's is taken, the last where none
    of `max_tries` does. sensitivity: output (XALFSSD), output_sq (ALFSSD), or loss.
    """

    version: ClassVar[int] = 1
    sensitivity: str = "output"
    cut: float = 0.0
    start_divisor: float = 25.0
    factor: float = 1.1
    max_tries: int = 500
    columns: ClassVar[dict[str, About]] = {
        **Dampening.columns,
        "alpha": About(heading="alpha", decimals=2, table="none"),
        "tries": About(heading="tries", decimals=0, table="none"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("cut", self.cut, 0, below=1)
        check_range("start_divisor", self.start_divisor, 1e-6)  # beyond, the first percentile could lie below 0
        check_range("factor", self.factor, above=1)
        check_range("max_tries", self.max_tries, 1)

    def cost(self, data: Split, recipe: Recipe) -> Cost:
        """With one try: how many it takes shows when they are made, and each is a forward pass of D_f more."""
        return replace(super().cost(data, recipe), forward=2 * len(data.forget))

    def threshold(self, model: nn.Module, full: Tensors, forget: Tensors, data: Split, context: Context) -> float:
        """The alpha of the first try that forgets enough."""
        finite, beyond = ratios(full, forget)
        finite.sort()
        goal = self.cut * _accuracy(model, data)
        for tries, share, percentile in self.shares(data):
            alpha = between(finite, percentile)
            tried = copy.deepcopy(model)
            dampen(tried, full, forget, alpha, self.lam)
            accuracy = _accuracy(tried, data)
            context.details.update(tries=tries, share=share, percentile=percentile, alpha=alpha, beyond=beyond)
            context.details["forget_train_acc"] = accuracy
            if accuracy <= goal:
                return alpha
        log.warning("potion: none of %d tries got the accuracy on D_f down to %.2f %%; the last is kept", tries, goal)
        return alpha

    def shares(self, data: Split) -> Iterator[tuple[int, float, float]]:
        """Of each try its number, counted from 1, its share of D, and the percentile that follows."""
        share = len(data.forget) / (len(data.rows) * self.start_divisor)
        for tries in range(1, self.max_tries + 1):
            percentile = 100 - float(np.log1p(100 * share))
            if percentile < 0:
                return
            yield tries, share, percentile
            share *= self.factor


def between(ordered: np.ndarray, percentile: float) -> float:
    """A percentile of numbers in ascending order, linear between them."""
    place = percentile / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def _accuracy(model: nn.Module, data: Split) -> float:
    """On D_f, in percent."""
    said = predict(model, data.images, data.forget, BATCH).argmax(1)
    return 100 * (said == data.images.labels.cpu()[data.forget]).double().mean().item()
