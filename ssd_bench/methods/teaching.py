"""What the original says about its own training images: a teacher that costs one pass for all requests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.task import Context, Cost, Split, row_hash
from ssd_bench.train.passes import predict

KIND = "original_logits"
BATCH = 128


class Teaching:
    """The original's logits of D and D_f in eval mode, made once per original and looked up by row.

    No unlearning method augments, so they are constants: |D| forward passes once instead of one for every image of
    every epoch. They take 4 |D| classes bytes (20 MB for CIFAR-100) and lie where batches are made. With a placebo, D_f
    is no part of D, and every request has rows of its own.
    """

    def __init__(self, model: nn.Module, data: Split, context: Context) -> None:
        rows = taught(data)
        made = context.cached(KIND, key(rows), lambda: {"logits": predict(model, data.images, rows, BATCH).clone()})
        self.logits = made["logits"].to(data.images.device)
        self.place = torch.zeros(len(data.images), dtype=torch.int64)
        self.place[rows] = torch.arange(len(rows))
        self.place = self.place.to(data.images.device)

    def __call__(self, rows: Tensor) -> Tensor:
        """n x classes, float32, of these rows (int64, on the images' device)."""
        return self.logits[self.place[rows]]


def taught(data: Split) -> Tensor:
    """The rows of D and D_f, ascending."""
    return torch.cat([data.rows, data.forget]).unique()


def key(rows: Tensor) -> dict[str, Any]:
    """What the logits depend on beside the original."""
    return {"rows": row_hash(rows)}


def cost(data: Split) -> dict[str, tuple[Any, Cost]]:
    """The shared part of a method's cost."""
    rows = taught(data)
    return {KIND: (key(rows), Cost(forward=len(rows)))}
