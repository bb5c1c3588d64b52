"""What the corrective scenarios share: some training images were manipulated, a part of them has been discovered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError, check_range
from ssd_bench.core.images import Trigger
from ssd_bench.core.seeds import generator
from ssd_bench.core.task import Request


@dataclass(frozen=True)
class Manipulation:
    """What was done to the training images, and what a model is asked to show of it."""

    rows: Tensor  # S_m, in an order that the seed decides on
    labels: Tensor  # that the model was trained on, of all training images
    sets: Mapping[str, tuple[str, Tensor]]  # "forget" (what was affected), "retain", and the scenario's own
    judged_by: Mapping[str, Tensor]  # as of Request
    true_test_labels: Tensor | None = None  # with those of copies; None: as they are
    target: str | None = None
    target_index: int | None = None
    trigger: Trigger | None = None


@dataclass(frozen=True)
class Corrective:
    """S_m, `size` images or a `share` of those in question, is in D as manipulated; D_f is `discovered` of it.

    `seed_forget` draws S_m, whatever is discovered, and one order of it, of which D_f is the beginning: a larger part
    holds the smaller ones, and the original is the same for all. `share` gives way to `size`.
    """

    size: int | None = None
    share: float = 0.01
    discovered: float = 1.0
    batch_size: int = 128
    own: ClassVar[tuple[str, ...]] = ()  # sets of the scenario's own, beside `undiscovered`

    def __post_init__(self) -> None:
        if self.size is not None:
            check_range("size", self.size, 2)
        if not 0 < self.share < 1:
            raise ValueError(f"share must be between 0 and 1, got {self.share}")
        if not 0 < self.discovered <= 1:
            raise ValueError(f"discovered must be above 0 and at most 1, got {self.discovered}")

    @property
    def sets(self) -> tuple[str, ...]:
        return (*self.own, *(["undiscovered"] if self.discovered < 1 else []))

    def count(self, total: int, of_what: str) -> int:
        """How many of `total` images are manipulated. Raises ConfigError where that is none or all."""
        n = round(self.share * total) if self.size is None else self.size
        if not 2 <= n < total:
            raise ConfigError(
                f"scenario: {n} images to manipulate of {total} {of_what}; allowed: 2 to {total - 1} (scenario.size or "
                "scenario.share)"
            )
        return n

    def discover(self, manipulated: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """S_f and the rest of S_m; neither is empty, unless all is discovered."""
        order = manipulated[torch.randperm(len(manipulated), generator=generator(seed, "discovered"))]
        n = round(self.discovered * len(order))
        if self.discovered < 1:
            n = min(max(n, 1), len(order) - 1)
        return order[:n], order[n:]

    def request(self, scenario: str, dataset: Dataset, done: Manipulation, seed: int) -> Request:
        """To correct a model that was trained on D as manipulated; everything is judged by the true labels."""
        forget, undiscovered = self.discover(done.rows, seed)
        order = torch.randperm(len(done.labels), generator=generator(seed, "order"))
        retain = order[~torch.isin(order, forget)]
        clean = torch.ones(len(done.labels), dtype=torch.bool)
        clean[done.rows] = False
        sets = {
            "test": ("test", torch.arange(len(dataset.test.fine))),
            "retain_train": ("train", retain),
            "forget_train": ("train", forget),
            **done.sets,
        }
        if len(undiscovered):
            sets["undiscovered"] = ("train", undiscovered)
        true = {"train": dataset.labelled(dataset.train, dataset.labels)}
        if done.true_test_labels is not None:
            true["test"] = done.true_test_labels
        return Request(
            scenario=scenario,
            target=done.target,
            target_index=done.target_index,
            classes=dataset.names(dataset.labels),
            train_labels=done.labels,
            test_labels=dataset.labelled(dataset.test, dataset.labels),
            group=done.labels,
            train=torch.arange(len(done.labels)),
            retain=retain,
            forget=forget,
            sets=sets,
            forget_label=None,
            drawn=True,
            clean=clean.nonzero().flatten(),
            trigger=done.trigger,
            true_labels=true,
            judged_by=done.judged_by,
        )


def drawn_from(rows: Tensor, n: int, seed: int, *names: object) -> Tensor:
    """`n` of these rows in random order, manipulated by the stream of these names."""
    return rows[torch.randperm(len(rows), generator=generator(seed, "manipulated", *names))[:n]]
