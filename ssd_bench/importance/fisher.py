"""Diagonal Fisher information: how much each parameter matters to a set of samples."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import Diverged, check_choice
from ssd_bench.importance.per_sample import PerSample, zero_sums
from ssd_bench.train.passes import eval_mode, pass_clock

ESTIMATORS = ("batch_mean", "per_sample")
VERSION = 2  # part of the address of what is kept: raised when the numbers change by more than rounding


def diagonal_fisher(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], estimator: str = "batch_mean"
) -> dict[str, Tensor]:
    """Importance of every parameter for the samples in `batches` of (inputs, labels).

    batch_mean: (1/B) sum_b (grad of the mean cross-entropy of batch b)^2, as the released SSD code computes it; what
    is in a batch matters, since gradients of different classes cancel. per_sample: (1/N) sum_x (grad of x's
    cross-entropy)^2, which no batching changes. The keys are those of `named_parameters()`, the tensors float32
    (float64 for parameters in float64) and on the model's device; a parameter that takes no gradient has importance 0.
    The model is put in eval mode and left as it was found. Raises ConfigError for an unknown estimator, ValueError
    without samples, Diverged when an importance is not finite.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    total = zero_sums(model.named_parameters())
    add = partial(_add_batch_mean, model, total) if estimator == "batch_mean" else PerSample(model, total).add
    count = 0
    with eval_mode(model), torch.enable_grad():
        for inputs, labels in batches:
            with pass_clock():
                add(inputs, labels)
            count += 1 if estimator == "batch_mean" else len(labels)
    if count == 0:
        raise ValueError("importances need at least one sample, got no batch")
    torch._foreach_div_(list(total.values()), float(count))
    if not torch.stack([t.isfinite().all() for t in total.values()]).all():
        bad = next(name for name, t in total.items() if not t.isfinite().all())
        raise Diverged(f"the importance of {bad} is not finite")
    return total


def _add_batch_mean(model: nn.Module, total: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        return
    loss = cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    used = [(total[name], g) for name, g in zip(parameters, gradients, strict=True) if g is not None]
    torch._foreach_addcmul_([t for t, _ in used], [g for _, g in used], [g for _, g in used])
