"""What the original says about its own training images: a teacher that costs one pass for all who ask for the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core.task import Context, Cost, Split, row_hash
from ssd_bench.train.passes import predict

BATCH = 128
ORIGINAL = "original_logits"  # the kind of what is `taught`


class Teaching:
    """The original's logits of some rows in eval mode, made once per original and method, and looked up by row.

    Methods do not augment, so they are constants: one forward pass of these rows instead of one for every image of
    every epoch. They take 4 rows classes bytes (20 MB for CIFAR-100) and lie where batches are made. kind: the name
    that they are kept under.
    """

    def __init__(self, kind: str, rows: Tensor, model: nn.Module, data: Split, context: Context) -> None:
        made = context.cached(kind, _key(rows), lambda: {"logits": predict(model, data.images, rows, BATCH)})
        self.logits = made["logits"].to(data.images.device)
        self.place = torch.zeros(len(data.images), dtype=torch.int64)
        self.place[rows] = torch.arange(len(rows))
        self.place = self.place.to(data.images.device)

    def __call__(self, rows: Tensor) -> Tensor:
        """n x classes, float32, of these rows (int64, on the images' device)."""
        return self.logits[self.place[rows]]


def taught(data: Split) -> Tensor:
    """The rows of D and D_f, ascending: the same for all requests, but with a placebo, whose D_f is no part of D."""
    return torch.cat([data.rows, data.forget]).unique()


def cost(kind: str, rows: Tensor) -> dict[str, tuple[Any, Cost]]:
    """The shared part of a method's cost."""
    return {kind: (_key(rows), Cost(forward=len(rows)))}


def _key(rows: Tensor) -> dict[str, Any]:
    """What the logits depend on beside the original."""
    return {"rows": row_hash(rows)}
