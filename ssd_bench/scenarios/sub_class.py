"""Forget one of the finer classes inside a coarse label; the coarse label's other classes stay."""

from dataclasses import dataclass

from ssd_bench.core.dataset import Dataset
from ssd_bench.core.errors import ConfigError
from ssd_bench.core.task import Request
from ssd_bench.scenarios.classes import class_request, find_class


@dataclass(frozen=True)
class SubClass:
    """The model is trained on the coarse labels; D_f is all of D whose finest class is the target."""

    target: str | None = None
    placebo: bool = False
    batch_size: int = 64

    def __call__(self, dataset: Dataset, targets: dict[str, list[str]], seed: int) -> Request:
        if not dataset.coarse_names:
            raise ConfigError(
                f"scenario=sub_class needs a data set with finer classes than its labels, and {dataset.name} has none; "
                "allowed: data=cifar20, data=digits, data=folder with CLASS/SUB_CLASS/*, data=arrays with coarse_of"
            )
        index = find_class(self.target, dataset.fine_names, {}, targets.get("sub_class", []))
        return class_request("sub_class", dataset, "coarse", "fine", index, self.placebo, seed)
