"""Correct a model with a backdoor: a trigger was put on some training images and their label changed to a target."""

from dataclasses import dataclass

import torch

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError, check_range
from ssd_bench.core.images import Trigger
from ssd_bench.core.task import Request
from ssd_bench.scenarios.classes import find_class
from ssd_bench.scenarios.corrective import Corrective, Manipulation, drawn_from


@dataclass(frozen=True)
class Poison(Corrective):
    """BadNets (Gu et al. 2017, arXiv 1708.06733), partly discovered as in Goel et al. 2024 (arXiv 2402.14015).

    The trigger is a square of `trigger_size` pixels, `trigger_margin` from the lower right corner, put on after
    augmentation. S_m is drawn from images of other classes than the target. D'_f (`triggered`) is the test images of
    other classes with the trigger, D'_r (`clean`) all test images; `attacked` is `triggered`, judged by the target.
    """

    target: str = "0"
    trigger_size: int = 3
    trigger_margin: int = 0
    trigger_value: int = 255
    own = ("triggered", "clean", "attacked")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("trigger_size", self.trigger_size, 1)
        check_range("trigger_margin", self.trigger_margin, 0)
        check_range("trigger_value", self.trigger_value, 0, 255)

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        names = dataset.names(dataset.labels)
        target = find_class(self.target, names, dataset.aliases, [])
        labels, of_test = (dataset.labelled(part, dataset.labels) for part in (dataset.train, dataset.test))
        others, test_others = ((of != target).nonzero().flatten() for of in (labels, of_test))
        if not len(test_others):
            raise ConfigError(
                f"scenario.target={names[target]} is the only class with test images; D'_f would be empty"
            )
        rows = drawn_from(others, self.count(len(others), f"that are not of class {names[target]}"), seed)
        triggered = ("test", torch.arange(len(of_test), len(of_test) + len(test_others)))
        clean = ("test", torch.arange(len(of_test)))
        done = Manipulation(
            rows=rows,
            labels=labels.index_fill(0, rows, target),
            sets={
                "forget": triggered, "retain": clean, "triggered": triggered, "clean": clean, "attacked": triggered,
            },
            judged_by={"attacked": torch.full_like(test_others, target)},
            true_test_labels=torch.cat([of_test, of_test[test_others]]),
            target=names[target],
            target_index=target,
            trigger=self._trigger(dataset.train.pixels.shape[-1], rows, test_others),
        )  # fmt: skip
        return self.request("poison", dataset, done, seed)

    def _trigger(self, side: int, rows: torch.Tensor, test_rows: torch.Tensor) -> Trigger:
        if self.trigger_size + self.trigger_margin > side:
            raise ConfigError(
                f"scenario.trigger_size={self.trigger_size} and trigger_margin={self.trigger_margin} do not fit images "
                f"of {side}x{side} pixels"
            )
        return Trigger(self.trigger_size, self.trigger_margin, self.trigger_value, rows.sort().values, test_rows)
