"""What every image source can be asked for: subsets, held-out images, statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset, Part, fingerprint
from ssd_bench.core.errors import ConfigError, check_choice, check_range
from ssd_bench.core.seeds import generator
from ssd_bench.data.mapped import rows
from ssd_bench.train.augment import Augment
from ssd_bench.train.recipe import later


@dataclass(frozen=True)
class DataSettings(ABC):
    """What every source can be asked for; the sources add their own.

    Both `holdout` and `validation` take that share of each class out of the training images, drawn by `subset_seed`
    (null: 0): the first before subsets are taken, in place of the test images, the second of what is then left, as
    images that no model is trained on.
    """

    train_per_class: int | None = None
    test_per_class: int | None = None
    subset_seed: int | None = 0
    holdout: float | None = None
    validation: float = later(0.0)
    norm: str = "auto"
    targets: dict[str, list[str]] = field(default_factory=dict)  # per scenario, the paper's first
    augment: Augment = field(default_factory=Augment)
    recipe: dict[str, Any] = field(default_factory=dict)  # epochs and milestones per model family, read by train.*

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, ("auto", "own", "cifar100"))
        for name in ("train_per_class", "test_per_class"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be null or at least 1, got {value}")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ValueError(f"holdout must be null or between 0 and 1, got {self.holdout}")
        check_range("validation", self.validation, 0, below=1)

    def load(self) -> Dataset:
        """The data set, subsets taken. Raises ConfigError where there is no sound data."""
        kept = whole = self.load_all()
        if self.holdout is not None:
            train, test = taken_out(kept, "holdout", self.holdout, self.subset_seed)
            kept = replace(kept, train=train, test=test)
        parts = {
            name: subset(getattr(kept, name), per_class, self.subset_seed, kept, name)
            for name, per_class in (("train", self.train_per_class), ("test", self.test_per_class))
        }
        kept = replace(kept, **parts)
        if self.validation:
            train, validation = taken_out(kept, "validation", self.validation, self.subset_seed)
            kept = replace(kept, train=train, validation=validation)
        if kept.train is whole.train and kept.test is whole.test:
            return whole
        return replace(kept, fingerprint=fingerprint(*kept.parts))

    @abstractmethod
    def load_all(self) -> Dataset:
        """The whole data set; each source has its own."""


_caches: list[Any] = []  # of what sources keep in memory, so that the jobs of a sweep share it


def remembered(maxsize: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Keep what a source's function returns in memory, until `forget_loaded`."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        _caches.append(lru_cache(maxsize)(function))
        return _caches[-1]

    return wrap


def forget_loaded() -> None:
    """Load data anew next time: what is in memory may have been changed."""
    for cache in _caches:
        cache.cache_clear()


def vouched(dataset: Dataset, source: Any) -> Dataset:
    """The same with a fingerprint of what it holds, unless its source is the package's: others may say anything."""
    if type(source).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return dataset
    for part in dataset.parts:
        pixels, labels = part.pixels, part.fine
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[2] != pixels.shape[3]:
            got = f"{pixels.dtype} of shape {' x '.join(map(str, pixels.shape))}"
            raise ConfigError(f"{type(source).__name__}: pixels must be uint8, N x channels x side x side, got {got}")
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            got = f"{labels.dtype} of shape {' x '.join(map(str, labels.shape))}"
            raise ConfigError(f"{type(source).__name__}: labels must be int64, one for each image, got {got}")
    return replace(dataset, fingerprint=fingerprint(*dataset.parts))


def subset(part: Part, per_class: int | None, seed: int | None, dataset: Dataset, name: str) -> Part:
    """`per_class` images of each finest class in their stored order: drawn by `seed`, or the first ones (None)."""
    if per_class is None:
        return part
    counts = torch.bincount(part.fine, minlength=len(dataset.fine_names))
    if (counts < per_class).any():
        few = int(counts.argmin())
        raise ConfigError(
            f"data.{name}_per_class={per_class} is more than there are: {dataset.fine_names[few]} has "
            f"{int(counts[few])} {name} images; at most {int(counts.min())} (null for all)"
        )
    order = torch.arange(len(part.fine))
    if seed is not None:
        order = torch.randperm(len(part.fine), generator=generator(seed, "subset", name))
    by_class = order[part.fine[order].argsort(stable=True)]  # classes together, the order above inside each
    starts = counts.cumsum(0) - counts
    keep = by_class[(starts[:, None] + torch.arange(per_class)).flatten()]
    return rows(part, keep.sort().values)


def taken_out(dataset: Dataset, setting: str, share: float, seed: int | None) -> tuple[Part, Part]:
    """The training images without `share` of each finest class, and these.

    setting: "holdout", which leaves an image of each class, or "validation". Raises ConfigError for a share that takes
    no image, and for one that would take all of a class.
    """
    part = dataset.train
    counts = torch.bincount(part.fine, minlength=len(dataset.fine_names))
    wanted = (counts * share).round()
    if setting == "holdout":
        wanted = wanted.minimum(counts - 1).clamp(min=0)
    if not wanted.any():
        raise ConfigError(
            f"data.{setting}={share} of {int(counts.max())} images a class or fewer is none; take a larger share"
        )
    if whole := (wanted >= counts.clamp(min=1)).nonzero().flatten().tolist():
        raise ConfigError(
            f"data.{setting}={share} leaves no training image of {dataset.fine_names[whole[0]]}, which has "
            f"{int(counts[whole[0]])}; take a smaller share"
        )
    taken = drawn_from_each(part.fine, wanted, generator(seed or 0, setting))
    return rows(part, ~taken), rows(part, taken)


def drawn_from_each(fine: Tensor, wanted: Tensor, draws: torch.Generator) -> Tensor:
    """A mask of as many images of each class as `wanted` says. fine: the class of each image."""
    counts = torch.bincount(fine, minlength=len(wanted))
    order = torch.randperm(len(fine), generator=draws)
    by_class = order[fine[order].argsort(stable=True)]
    starts = (counts.cumsum(0) - counts)[fine[by_class]]
    chosen = by_class[(torch.arange(len(by_class)) - starts) < wanted[fine[by_class]]]
    mask = torch.zeros(len(fine), dtype=torch.bool)
    mask[chosen] = True
    return mask
