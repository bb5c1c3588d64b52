"""The gradient of the loss over a set of samples, in eval mode."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import check_choice
from ssd_bench.train.passes import eval_mode, pass_clock


def loss_gradient(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], reduction: str = "sum"
) -> dict[str, Tensor]:
    """The gradient of the cross-entropy, added up over `batches` of (inputs, labels), sign and all.

    reduction: "sum" over the samples of a batch, so that batches do not matter, or their "mean". By name of each
    parameter that takes a gradient, shaped and typed like it. The model is put in eval mode and left as it was found;
    no `.grad` is touched. Raises ConfigError for an unknown reduction.
    """
    check_choice("reduction", reduction, ("sum", "mean"))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    with eval_mode(model), torch.enable_grad():
        for inputs, labels in batches:
            with pass_clock():
                loss = cross_entropy(model(inputs), labels, reduction=reduction)
            with pass_clock.backward():
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for sum_of, g in zip(total.values(), gradients, strict=True):
                if g is not None:
                    sum_of += g
    return total
