"""Forget finer classes inside coarse labels; each coarse label's other classes stay."""

from dataclasses import dataclass

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Request
from ssd_bench.scenarios.classes import Classes, class_request, find_classes


@dataclass(frozen=True)
class SubClass(Classes):
    """The model is trained on the coarse labels; D_f is all of D whose finest class is the target."""

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        if not dataset.coarse_names:
            raise ConfigError(
                f"scenario=sub_class needs a data set with finer classes than its labels, and {dataset.name} has none; "
                "allowed: data=cifar20, data=digits, data=folder with CLASS/SUB_CLASS/*, data=arrays with coarse_of"
            )
        indices = find_classes(self.targets, dataset.fine_names, {}, targets.get("sub_class", []))
        return class_request(self, "sub_class", dataset, "coarse", "fine", indices, seed)
