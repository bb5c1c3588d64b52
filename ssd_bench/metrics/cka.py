"""Centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) of a model's stages with the original's."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssd_bench.core.errors import check_range
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Outputs, Probed
from ssd_bench.metrics import About
from ssd_bench.metrics.features import VALID, why_not
from ssd_bench.train.features import LAST, MOST, features, stages

log = logging.getLogger(__name__)

SETS = ("forget", "retain")  # D_f and D_r
PLACES = (*map(str, range(1, MOST + 1)), LAST)
HEADINGS = {"forget": "CKA D_f", "retain": "CKA D_r"}


@dataclass(frozen=True)
class CKA:
    """Debiased linear CKA to the original on at most `samples` images each of D_f and D_r: 1 is the same up to a
    rotation. At each stage, and of what the last layer sees."""

    samples: int = 2000
    seed: int = 0
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("model",)
    about: ClassVar[dict[str, About]] = {
        f"cka_{name}_{place}": About(
            "CKA", "retrained", VALID, (f"{name}_train",), 20, HEADINGS[name], 3, "second" if place == LAST else "none"
        )
        for name in SETS
        for place in PLACES
    }

    def __post_init__(self) -> None:
        check_range("samples", self.samples, 4)

    def __call__(self, seen: Outputs, probed: Probed) -> dict[str, float | None]:
        reason = "the original is not known" if probed.original is None else why_not(probed)
        if reason:
            log.info("cka: no value, for %s", reason)
            return dict.fromkeys(self.about)
        values: dict[str, float | None] = dict.fromkeys(self.about)
        for name, rows in zip(SETS, (probed.request.forget, probed.request.retain), strict=True):
            drawn = rows[torch.randperm(len(rows), generator=generator(self.seed, "cka", name))[: self.samples]]
            for place, alike in self._of(probed, drawn).items():
                values[f"cka_{name}_{place}"] = alike
        return values

    def _of(self, probed: Probed, rows: Tensor) -> dict[str, float | None]:
        names = stages(probed.model, probed.head)
        both = [
            features(model, probed.head, probed.images["train"], rows, probed.batch_size, names)
            for model in (probed.model, probed.original)
        ]
        places = {name: str(i) for i, name in enumerate(names, 1)} | {LAST: LAST}
        return {place: cka(*(each[name] for each in both)) for name, place in places.items()}


def cka(x: Tensor, y: Tensor) -> float | None:
    """Debiased linear CKA of the same n samples' features in two networks, n x d and n x d2; computed in float64.

    The ratio hsic(x, y) / sqrt(hsic(x, x) hsic(y, y)) of unbiased estimates (Song et al. 2012), as Nguyen et al. 2021
    (arXiv 2010.15327) use it: 1 for x and any rotation of it, about 0 for what is unrelated, whatever d / n is. None
    for fewer than 4 samples and where the samples do not differ in one of them.
    """
    if len(x) < 4:
        return None
    x, y = (each.double() - each.double().mean(0) for each in (x, y))
    mixed, own, other = hsic(x, y), hsic(x, x), hsic(y, y)
    return mixed / math.sqrt(own * other) if min(own, other) > 0 else None


def hsic(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate (Song et al. 2012, JMLR 13, eq. 5) for linear kernels: n x d and n x d2, float64.

    All but one of its terms take n (d + d2) steps; that one by features or by pairs of samples, whichever are fewer.
    """
    n = len(x)
    k, l = x.square().sum(1), y.square().sum(1)  # the diagonals, which do not count  # noqa: E741
    product = (x.T @ y).square().sum() if x.shape[1] * y.shape[1] <= n * n else ((x @ x.T) * (y @ y.T)).sum()
    rows_k, rows_l = x @ x.sum(0) - k, y @ y.sum(0) - l
    total = product - (k * l).sum() + rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
    return ((total - 2 / (n - 2) * (rows_k * rows_l).sum()) / (n * (n - 3))).item()
