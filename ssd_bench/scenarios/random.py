"""Forget training images drawn at random, whatever their class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Request
from ssd_bench.scenarios.classes import check_no_class_is_gone

DEFAULT = 100


@dataclass(frozen=True)
class Random:
    """D_f is `n_forget` images of D, or `fraction` of it; D'_f is D_f itself and D'_r all of D', as in the paper."""

    n_forget: int | None = DEFAULT  # gives way to `fraction` where that is given
    fraction: float | None = None
    placebo: bool = False
    batch_size: int = 128

    def __post_init__(self) -> None:
        if (self.n_forget is None) == (self.fraction is None) and self.n_forget != DEFAULT:
            raise ValueError(
                f"exactly one of n_forget and fraction must be given, got n_forget={self.n_forget} and "
                f"fraction={self.fraction}"
            )
        if self.n_forget is not None and self.n_forget < 1:
            raise ValueError(f"n_forget must be at least 1, got {self.n_forget}")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, got {self.fraction}")

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        total = len(dataset.train.fine)
        n = self.n_forget if self.fraction is None else self._share(total)
        if not 0 < n < total:
            raise ConfigError(f"scenario: {n} images to forget of {total} training images; allowed: 1 to {total - 1}")
        drawn = torch.randperm(total, generator=generator(seed, "forget"))
        forget, retain = drawn[:n], drawn[n:]
        kept = (retain if self.placebo else drawn).sort().values
        return of_images("random", dataset, kept, retain, forget, placebo=self.placebo, drawn=True)

    def _share(self, total: int) -> int:
        """The size that torch's random_split gives the first part: floors, and the remainder handed out from it on."""
        first, second = (int(total * share) for share in (self.fraction, 1 - self.fraction))
        return first + (total - first - second + 1) // 2


def of_images(
    scenario: str,
    dataset: Dataset,
    train: Tensor,
    retain: Tensor,
    forget: Tensor,
    target: str | None = None,
    placebo: bool = False,
    drawn: bool = False,
) -> Request:
    """To forget single images, whatever their class: D'_f is D_f itself, D'_r all of D'. The rest as in `Request`.

    Raises ConfigError for a request that leaves no image of a class.
    """
    labels, test = dataset.labelled(dataset.train, dataset.labels), torch.arange(len(dataset.test.fine))
    check_no_class_is_gone(dataset.names(dataset.labels), labels, retain, set())
    return Request(
        scenario=scenario,
        target=target,
        target_index=None,
        classes=dataset.names(dataset.labels),
        train_labels=labels,
        test_labels=dataset.labelled(dataset.test, dataset.labels),
        group=labels,
        train=train,
        retain=retain,
        forget=forget,
        sets={
            "retain": ("test", test),
            "forget": ("train", forget),
            "test": ("test", test),
            "retain_train": ("train", retain),
            "forget_train": ("train", forget),
        },
        forget_label=None,
        placebo=placebo,
        drawn=drawn,
    )
