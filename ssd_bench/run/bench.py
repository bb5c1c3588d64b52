"""What every step of a run shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ssd_bench.core.task import Images, Task
from ssd_bench.run.identity import Identity
from ssd_bench.run.plan import Plan
from ssd_bench.store.artefacts import Store


@dataclass(frozen=True)
class Bench:
    """The plan, its task, and the place it is carried out."""

    plan: Plan
    task: Task
    images: dict[str, Images]  # "train" and "test", on the device
    identity: Identity
    store: Store
    device: torch.device
    new_model: Callable[..., nn.Module]  # (seed, pretrained=True) -> a newly initialised model on the device

    @property
    def lacking(self) -> list[str]:
        """What the method needs and the task does not offer."""
        needs = getattr(self.plan.method, "needs", ())
        return [need for need in needs if getattr(self.task, need, None) is None]
