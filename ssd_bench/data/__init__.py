"""Image sources. Each file holds the settings of one source and a `load` that returns a Dataset."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd_bench.errors import ConfigError, check_choice
from ssd_bench.task import Images, Task, generator

CIFAR100_STATS = (
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)


@dataclass(frozen=True)
class Part:
    """The training or the test images of a data set, on the CPU."""

    pixels: Tensor  # N x channels x side x side, uint8
    fine: Tensor  # N, int64: the finest class

    def rows(self, keep: Tensor) -> Part:
        return Part(self.pixels[keep], self.fine[keep])


@dataclass(frozen=True)
class Dataset:
    """A data set on the CPU: two parts, the names of their classes, and the statistics to normalise with."""

    name: str
    train: Part
    test: Part
    fine_names: tuple[str, ...]
    coarse_names: tuple[str, ...]  # empty where there are no coarser classes
    coarse_of: tuple[int, ...]  # coarse class of each fine one
    labels: str  # "fine" or "coarse": what a model is trained on, but for sub_class, where it is always coarse
    aliases: dict[str, str]  # other names of classes
    mean: tuple[float, ...]  # per channel, of pixels / 255
    std: tuple[float, ...]
    fingerprint: str  # sha256 over pixels, labels and their order

    def labelled(self, part: Part, level: str) -> Tensor:
        """The classes of a part's images at one level ("fine" or "coarse")."""
        return part.fine if level == "fine" else torch.tensor(self.coarse_of)[part.fine]

    def names(self, level: str) -> tuple[str, ...]:
        return self.fine_names if level == "fine" else self.coarse_names


def fingerprint(*parts: Part) -> str:
    """sha256 over shapes, pixels and labels of the parts, in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(tuple(part.pixels.shape)).encode())
        digest.update(np.ascontiguousarray(part.pixels.numpy()))
        digest.update(part.fine.numpy().astype("<i8"))
    return digest.hexdigest()


def view(dataset: Dataset, task: Task, norm: str, model: Any, device: torch.device) -> dict[str, Images]:
    """The "train" and "test" images on the device, as `model` (its settings) wants to see them, with the task's labels.

    norm=auto: the statistics that the model's checkpoint asks for, else the data set's default.
    """
    mean, std = CIFAR100_STATS if norm == "cifar100" else (dataset.mean, dataset.std)
    if norm == "auto" and model.norm():
        mean, std = model.norm()
    channels = dataset.train.pixels.shape[1]
    if len(mean) != channels:  # grey images under colour statistics
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    side = model.input_side(dataset.train.pixels.shape[-1])
    mean, std = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
    return {
        part: Images(pixels.to(device), labels.to(device), mean, std, side)
        for part, pixels, labels in (
            ("train", dataset.train.pixels, task.train_labels),
            ("test", dataset.test.pixels, task.test_labels),
        )
    }


@dataclass(frozen=True)
class Augment:
    """The random transform of training images: crop after padding by `crop` pixels, flip, rotation in degrees."""

    crop: int = 4
    flip: bool = True
    rotation: float = 15.0


@dataclass(frozen=True)
class DataSettings(ABC):
    """What every source can be asked for; the sources add their own."""

    train_per_class: int | None = None
    test_per_class: int | None = None
    subset_seed: int | None = 0
    holdout: float | None = None
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

    def load(self) -> Dataset:
        """The data set, subsets taken. Raises ConfigError where there is no sound data."""
        whole = self.load_all()
        if self.holdout is not None:
            whole = held_out(whole, self.holdout, self.subset_seed)
        parts = {
            name: subset(getattr(whole, name), per_class, self.subset_seed, whole, name)
            for name, per_class in (("train", self.train_per_class), ("test", self.test_per_class))
        }
        if parts["train"] is whole.train and parts["test"] is whole.test:
            return whole
        return replace(whole, **parts, fingerprint=fingerprint(*parts.values()))

    @abstractmethod
    def load_all(self) -> Dataset:
        """The whole data set; each source has its own."""


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
    return part.rows(keep.sort().values)


def held_out(dataset: Dataset, share: float, seed: int | None) -> Dataset:
    """The same data set with `share` of each class's training images as its test set; the test images stay unseen."""
    part = dataset.train
    counts = torch.bincount(part.fine, minlength=len(dataset.fine_names))
    order = torch.randperm(len(part.fine), generator=generator(seed or 0, "holdout"))
    by_class = order[part.fine[order].argsort(stable=True)]
    starts = (counts.cumsum(0) - counts)[part.fine[by_class]]
    chosen = by_class[(torch.arange(len(by_class)) - starts) < (counts[part.fine[by_class]] * share).round()]
    is_test = torch.zeros(len(part.fine), dtype=torch.bool)
    is_test[chosen] = True
    train, test = part.rows(~is_test), part.rows(is_test)
    return replace(dataset, train=train, test=test, fingerprint=fingerprint(train, test))
