"""Which weights a method works on: masks by magnitude, and steps that leave the others as they were."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def largest(tensors: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """A mask of the n entries of largest magnitude of all together; the first of equal ones."""
    return _first(tensors, n, descending=True)


def smallest(tensors: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """A mask of the n entries of smallest magnitude of all together; the first of equal ones."""
    return _first(tensors, n, descending=False)


def _first(tensors: Mapping[str, Tensor], n: int, descending: bool) -> dict[str, Tensor]:
    flat = torch.cat([t.detach().abs().reshape(-1) for t in tensors.values()])
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.argsort(descending=descending, stable=True)[:n]] = True
    parts = mask.split([t.numel() for t in tensors.values()])
    return {name: part.view(t.shape) for (name, t), part in zip(tensors.items(), parts, strict=True)}


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """How many entries they have together."""
    return sum(t.numel() for t in tensors.values())


def putting_back(model: nn.Module, masks: Mapping[str, Tensor]) -> Callable[[nn.Module, torch.optim.Optimizer], None]:
    """An `after_step` that undoes what a step did outside the masks, to weights and to SGD's momentum."""
    start = {name: p.detach().clone() for name, p in model.named_parameters() if name in masks}

    @torch.no_grad()
    def put_back(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, p in model.named_parameters():
            if name in masks:
                p.copy_(torch.where(masks[name], p, start[name]))
                if (velocity := optimizer.state[p].get("momentum_buffer")) is not None:
                    velocity.mul_(masks[name])

    return put_back
