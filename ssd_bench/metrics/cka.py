"""Centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) of a model's stages with those of others."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import check_range
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Cost, Outputs, Probed, Request
from ssd_bench.metrics import About
from ssd_bench.metrics.features import VALID, told_by_images, why_not
from ssd_bench.train.features import LAST, MOST, features, stages

log = logging.getLogger(__name__)

SETS = ("forget", "retain")  # D_f and D_r
PLACES = (*map(str, range(1, MOST + 1)), LAST)
HEADINGS = {"forget": "CKA D_f", "retain": "CKA D_r"}
RETRAINED = "cka_retrained_"  # what is derived from two models' features
ABOUT = {
    f"{RETRAINED}{name}_{place}": About(
        "CKA", "1", "beside the floor", (f"{name}_train",), 20, f"{HEADINGS[name]} to retrained", 3,
        "second" if place == LAST else "none",
    )
    for name in SETS
    for place in PLACES
}  # fmt: skip


@dataclass(frozen=True)
class CKA:
    """Debiased linear CKA to the original on at most `samples` images each of D_f and D_r: 1 is the same up to a
    rotation. At each stage, and of what the last layer sees.

    The model's own features are kept beside the values, so that tables can compare them with the retrained model's
    (`alike`).
    """

    samples: int = 2000
    seed: int = 0
    version: ClassVar[int] = 2
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

    def cost(self, request: Request) -> Cost:
        each = sum(min(self.samples, len(rows)) for rows in (request.forget, request.retain))
        return Cost(forward=2 * each) if told_by_images(request) else Cost()

    def __call__(self, seen: Outputs, probed: Probed) -> dict[str, float | Tensor | None]:
        reason = "the original is not known" if probed.original is None else why_not(probed)
        if reason:
            log.info("cka: no value, for %s", reason)
            return dict.fromkeys(self.about)
        values: dict[str, float | Tensor | None] = dict.fromkeys(self.about)
        for name, rows in zip(SETS, (probed.request.forget, probed.request.retain), strict=True):
            drawn = rows[torch.randperm(len(rows), generator=generator(self.seed, "cka", name))[: self.samples]]
            ours, theirs = (_features(probed, model, drawn) for model in (probed.model, probed.original))
            values |= {f"cka_{name}_{place}": cka(x, theirs[place]) for place, x in ours.items()}
            values |= {f"features.{name}.{place}": _small(x) for place, x in ours.items()}
            values[f"features.{name}.rows"] = drawn
        return values


def _features(probed: Probed, model: nn.Module, rows: Tensor) -> dict[str, Tensor]:
    """By place: what these training images become in a model, n x d."""
    names = stages(probed.model, probed.head)
    found = features(model, probed.head, probed.images["train"], rows, probed.batch_size, names)
    return {place: found[name] for place, name in zip(PLACES, names, strict=False)} | {LAST: found[LAST]}


def _small(x: Tensor) -> Tensor:
    """The same but for its scale, which CKA does not see, in half the bytes."""
    return (x / x.abs().max().clamp(min=torch.finfo(x.dtype).tiny)).half()


def alike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """CKA of two models from the features that the metric keeps, set by set and place by place: `ABOUT`.

    A set of which they did not see the same images is left out.
    """
    values = {}
    for name in SETS:
        rows, others = (each.get(f"features.{name}.rows") for each in (ours, theirs))
        if rows is None or others is None or not torch.equal(rows, others):
            continue
        for place in PLACES:
            both = [each.get(f"features.{name}.{place}") for each in (ours, theirs)]
            if all(x is not None for x in both):
                values[f"{RETRAINED}{name}_{place}"] = cka(*both)
    return {name: value for name, value in values.items() if value is not None}


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
