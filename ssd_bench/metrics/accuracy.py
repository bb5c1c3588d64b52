"""Accuracy (percent) and mean cross-entropy (nats) on every set of the task."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import check_choice
from ssd_bench.core.task import SETS, Outputs
from ssd_bench.metrics import About

LOSSES = ("retain", "forget", "test")
HEADINGS = ("retain D'_r %", "forget D'_f %", "test D' %", "retain D_r %", "forget D_f %")


@dataclass(frozen=True)
class Accuracy:
    """average=sample: every image counts the same. average=batch: the released code's unweighted mean over batches of
    `batch_size`, in which the images of a short last batch count more."""

    average: str = "sample"
    batch_size: int = 64
    version: ClassVar[int] = 1
    about: ClassVar[dict[str, About]] = {
        **{
            f"{name}_acc": About("percent", "retrained", "everywhere", (name,), 20, heading, 2, "main")
            for name, heading in zip(SETS, HEADINGS, strict=True)
        },
        **{
            f"{name}_loss": About("nats", "retrained", "everywhere", (name,), 20, f"loss {name}", 3, "none")
            for name in LOSSES
        },
    }

    def __post_init__(self) -> None:
        check_choice("average", self.average, ("sample", "batch"))
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def __call__(self, seen: Outputs) -> dict[str, float]:
        values = {}
        for name, logits in seen.logits.items():
            labels = seen.labels[name]
            values[f"{name}_acc"] = 100 * self._mean((logits.argmax(1) == labels).double())
            if name in LOSSES:
                values[f"{name}_loss"] = self._mean(cross_entropy(logits.double(), labels, reduction="none"))
        return values

    def _mean(self, values: Tensor) -> float:
        if self.average == "sample":
            return values.mean().item()
        return torch.stack([part.mean() for part in values.split(self.batch_size)]).mean().item()
