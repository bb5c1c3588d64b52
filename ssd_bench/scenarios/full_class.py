"""Forget every training image of one class of the model's labels, or of several."""

from dataclasses import dataclass

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.task import Request
from ssd_bench.scenarios.classes import Classes, class_request, find_classes


@dataclass(frozen=True)
class FullClass(Classes):
    """D_f is all of D with y = target; D'_f is the test images of that class, D'_r the others."""

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        level = dataset.labels
        fallback = targets.get("full_class", [])
        indices = find_classes(self.targets, dataset.names(level), dataset.aliases, fallback)
        return class_request(self, "full_class", dataset, level, level, indices, seed)
