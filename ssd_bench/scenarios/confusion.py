"""Correct a model that confuses two classes: their labels were swapped in some training images of both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Request
from ssd_bench.scenarios.classes import find_class
from ssd_bench.scenarios.corrective import Corrective, Manipulation, drawn_from

USUAL = ["3", "5"]


@dataclass(frozen=True)
class Confusion(Corrective):
    """Interclass confusion (Goel et al. 2022, arXiv 2201.06640): half of S_m from either class, drawn at random.

    `share` is that of the images of both classes. D'_f is the test images of the two, D'_r the others; `swapped` is
    D'_f, judged by the other class's label. classes: names or indices; null: those of data.targets.confusion, else 3
    and 5.
    """

    classes: list[str] | None = None
    share: float = 0.25
    own = ("swapped",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes is not None and len(self.classes) != 2:
            raise ValueError(f"classes must be two, got {len(self.classes)}")

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        names = dataset.names(dataset.labels)
        a, b = self._two(names, dataset.aliases, targets.get("confusion", USUAL))
        labels, of_test = (dataset.labelled(part, dataset.labels) for part in (dataset.train, dataset.test))
        rows = torch.cat(self._drawn(labels, (a, b), names, seed))
        affected = (of_test == a) | (of_test == b)
        if not affected.any() or affected.all():
            raise ConfigError(
                f"scenario.classes={names[a]},{names[b]}: there must be test images of them, and of other classes"
            )
        of_two = ("test", affected.nonzero().flatten())
        done = Manipulation(
            rows=rows,
            labels=labels.index_copy(0, rows, swapped(labels[rows], a, b)),
            sets={"forget": of_two, "retain": ("test", (~affected).nonzero().flatten()), "swapped": of_two},
            judged_by={"swapped": swapped(of_test[affected], a, b)},
            target=f"{names[a]}, {names[b]}",
        )
        return self.request("confusion", dataset, done, seed)

    def _two(self, names: tuple[str, ...], aliases: dict[str, str], usual: list[str]) -> list[int]:
        found = [find_class(str(c), names, aliases, [], "scenario.classes") for c in self.classes or usual]
        if found[0] == found[1]:
            raise ConfigError(f"scenario.classes names {names[found[0]]} twice; two different classes are needed")
        return found

    def _drawn(self, labels: Tensor, classes: tuple[int, int], names: tuple[str, ...], seed: int) -> list[Tensor]:
        """As many rows of either class."""
        of_each = [(labels == c).nonzero().flatten() for c in classes]
        n = self.count(sum(map(len, of_each)), f"of classes {' and '.join(names[c] for c in classes)}") // 2
        if n >= min(map(len, of_each)):
            raise ConfigError(f"scenario: {n} images of each class are to be swapped, but one of them has no more")
        return [drawn_from(rows, n, seed, place) for place, rows in enumerate(of_each)]


def swapped(labels: Tensor, a: int, b: int) -> Tensor:
    """Labels a as b and b as a."""
    return torch.where(labels == a, b, torch.where(labels == b, a, labels))
