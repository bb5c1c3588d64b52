"""What keeps methods that raise a loss within bounds: clipped gradients, and an end once enough is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.errors import check_range
from ssd_bench.train.recipe import Recipe


@dataclass(frozen=True)
class Clipped(Recipe):
    """A recipe whose gradient, of all parameters together, is never longer than `clip` (None: any length)."""

    clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("clip", self.clip, above=0, null=True)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = super().make_optimizer(model)
        if self.clip is not None:

            def shorten(*step: Any) -> None:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip)

            optimizer.register_step_pre_hook(shorten)
        return optimizer


class Forgotten:
    """Ends a training (as `after_epoch` of `fit`) after an epoch in which few enough of `n` images of D_f were right.

    stop_at: percent; None: never. What counts is what the model said while it was trained, batch by batch.
    """

    def __init__(self, n: int, stop_at: float | None) -> None:
        self.n, self.stop_at = n, stop_at
        self.state = {"right": torch.tensor(0), "epochs": torch.tensor(0)}

    def count(self, logits: Tensor, labels: Tensor) -> None:
        """To be called with every batch of D_f."""
        right = (logits.detach().argmax(1) == labels).sum()
        self.state["right"] = self.state["right"].to(right.device) + right

    def __call__(self, epoch: int) -> bool:
        share = 100 * self.state["right"].item() / self.n
        self.state.update(right=torch.tensor(0), epochs=torch.tensor(epoch))
        return self.stop_at is not None and share <= self.stop_at
