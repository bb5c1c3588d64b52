"""Who of a pool of models is trained on what: a seeded design that grows without changing the rows that are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from scipy.linalg import hadamard
from torch import Tensor

from ssd_bench.core.errors import ConfigError
from ssd_bench.core.seeds import generator


@dataclass(frozen=True)
class Parts:
    """How the training images are divided. Shares are of the images outside of the sub-classes, class by class."""

    core: float = 0.8  # in every model
    single: float = 0.16  # each in one model of every pair, the others left to chance
    blocks: int = 8  # sets of images that are in a model as a whole or not at all
    block: float = 0.002  # size of each
    sub_classes: list[str] | None = None  # fine classes that are blocks, too; null: the first two of data.targets

    def __post_init__(self) -> None:
        if not (self.core >= 0 and self.single > 0 and self.core + self.single <= 1 + 1e-9):
            given = f"{self.core} and {self.single}"
            raise ValueError(f"core must be at least 0, single above 0 and both together at most 1, got {given}")
        if not (self.blocks >= 0 and 0 < self.block < 1):
            raise ValueError(f"blocks must be at least 0 and block in (0, 1), got {self.blocks} and {self.block}")


@dataclass(frozen=True)
class Design:
    """The parts, as rows of the training images (int64, on the CPU), and who is trained on them.

    Models 2j and 2j + 1 are a pair: what is not core or reserve is in exactly one of them. Row m depends on the seed
    and m alone, so a pool of 16 models is the beginning of one of 32.
    """

    seed: int
    core: Tensor
    single: Tensor
    strata: Tensor  # the class of each of `single`, which holds an even number of every class
    blocks: Mapping[str, Tensor] = field(default_factory=dict)
    reserve: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # in no model

    @cached_property
    def audit(self) -> Tensor:
        """The rows that models differ in: the single samples, then block by block."""
        return torch.cat([self.single, *self.blocks.values()])

    @property
    def images(self) -> int:
        """How many images a model is trained on, on average; of any pair, both together on twice as many."""
        return len(self.core) + len(self.audit) // 2

    def member(self, models: int) -> Tensor:
        """Which of `audit` each model is trained on: models x n, bool. models: a power of two from 4 on."""
        first = torch.stack([self._first(pair) for pair in range(models // 2)])
        return torch.stack([first, ~first], dim=1).flatten(0, 1)

    def rows(self, model: int) -> Tensor:
        """What this model is trained on, ascending."""
        first = self._first(model // 2)
        return torch.cat([self.core, self.audit[~first if model % 2 else first]]).sort().values

    def apart(self, models: int) -> int:
        """How many of the blocks, from the first on, are free of each other's effects in a pool of this size."""
        return min(len(self.blocks), models // 2)

    def _first(self, pair: int) -> Tensor:
        """Which of `audit` the first model of this pair is trained on: n, bool."""
        sizes = torch.tensor([len(rows) for rows in self.blocks.values()], dtype=torch.int64)
        return torch.cat([self._half(pair), self._held(pair).repeat_interleave(sizes)])

    def _half(self, pair: int) -> Tensor:
        """A random half of each class of `single`, for the first model of this pair: n, bool."""
        drawn = torch.rand(len(self.single), generator=generator(self.seed, "pool", "pair", pair), dtype=torch.float64)
        _, inverse, counts = self.strata.unique(return_inverse=True, return_counts=True)
        order = (inverse + drawn).argsort()
        place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[inverse[order]]
        half = torch.zeros(len(order), dtype=torch.bool)
        half[order] = place < counts[inverse[order]] // 2
        return half

    def _held(self, pair: int) -> Tensor:
        """Which blocks the first model of this pair holds: blocks, bool.

        A row of Sylvester's matrix H, of which the second model has the negative. In a pool of N models, among the
        first N / 2 blocks, each two are both in, both out, or one in and one out in N / 4 models each. Without random
        signs the first model would hold every block.
        """
        n = len(self.blocks)
        order = 1 << max(pair, n - 1, 0).bit_length()
        signs = 2 * torch.randint(2, (n,), generator=generator(self.seed, "pool", "signs")) - 1
        return torch.from_numpy(hadamard(order)[pair, :n]) * signs > 0


def divide(fine: Tensor, parts: Parts, whole: Mapping[str, int], seed: int) -> Design:
    """The design for training images of these (finest) classes: n, int64.

    whole: by name, the classes that are blocks as a whole. Raises ConfigError where the parts do not fit.
    """
    draws = generator(seed, "pool", "parts")
    core, single, left = [], [], []
    for of_class in range(int(fine.max()) + 1):
        rows = (fine == of_class).nonzero().flatten()
        if of_class in whole.values() or not len(rows):
            continue
        rows = rows[torch.randperm(len(rows), generator=draws)]
        n_core, n_single = int(parts.core * len(rows) + 1e-9), 2 * int(parts.single * len(rows) / 2 + 1e-9)
        for part, some in zip((core, single, left), rows.tensor_split([n_core, n_core + n_single]), strict=True):
            part.append(some)
    if not sum(map(len, single)):
        raise ConfigError(f"pool.single={parts.single} is less than two images of each class; take more")
    dealt, size = _deal(left, draws), max(1, round(parts.block * sum(map(len, (*core, *single, *left)))))
    if parts.blocks * size > len(dealt):
        raise ConfigError(
            f"pool.blocks={parts.blocks} blocks of {size} images do not fit: pool.core={parts.core} and "
            f"pool.single={parts.single} leave {len(dealt)}"
        )
    blocks = {name: (fine == of_class).nonzero().flatten() for name, of_class in whole.items()}
    blocks |= {f"random-{i}": dealt[i * size : (i + 1) * size].sort().values for i in range(parts.blocks)}
    rows = torch.cat(single).sort().values
    reserve = dealt[parts.blocks * size :].sort().values
    return Design(seed, torch.cat(core).sort().values, rows, fine[rows], blocks, reserve)


def _deal(rows: list[Tensor], draws: torch.Generator) -> Tensor:
    """These rows of each class as one pack: one of every class, in random order, then the next of every class."""
    place = torch.cat([torch.arange(len(of_class)) for of_class in rows])
    return torch.cat(rows)[(place + torch.rand(len(place), generator=draws, dtype=torch.float64)).argsort()]
