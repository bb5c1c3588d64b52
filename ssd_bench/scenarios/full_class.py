"""Forget every training image of one class of the model's labels."""

from dataclasses import dataclass

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.task import Request
from ssd_bench.scenarios.classes import class_request, find_class


@dataclass(frozen=True)
class FullClass:
    """D_f is all of D with y = target; D'_f is the test images of that class, D'_r the others."""

    target: str | None = None
    placebo: bool = False
    batch_size: int = 64

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        level = dataset.labels
        index = find_class(self.target, dataset.names(level), dataset.aliases, targets.get("full_class", []))
        return class_request("full_class", dataset, level, level, index, self.placebo, seed)
