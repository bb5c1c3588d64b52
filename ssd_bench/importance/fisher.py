"""Diagonal Fisher information: how much each parameter matters to a set of samples."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_bench.core.errors import Diverged, check_choice
from ssd_bench.importance.per_sample import Losses, PerSample, cross_entropies, zero_sums
from ssd_bench.train.passes import eval_mode, pass_clock

ESTIMATORS = ("batch_mean", "per_sample")
VERSION = 4  # part of the address of what is kept: raised when the numbers change by more than rounding


LOSSES: dict[str, tuple[Losses, str]] = {  # what is differentiated, and what is made of the gradient
    "loss": (cross_entropies, "square"),
    "output_sq": (lambda logits, labels: logits.square().sum(1), "abs"),
    "output": (lambda logits, labels: torch.linalg.vector_norm(logits, dim=1), "abs"),
}


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
    return sensitivity(model, batches, estimator)


def sensitivity(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], estimator: str = "batch_mean", of: str = "loss"
) -> dict[str, Tensor]:
    """The same of other functions of the output than the loss, which need no labels.

    of: "loss" (squared gradients of the cross-entropy), "output_sq" (absolute gradients of the squared norm of the
    logits; LFSSD, arXiv 2402.19308) or "output" (of their norm). Errors as `diagonal_fisher`.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    check_choice("of", of, LOSSES)
    total = zero_sums(model.named_parameters())
    losses, size = LOSSES[of]
    of_samples = PerSample(model, total, losses, size).add
    add = partial(_add_batch_mean, model, total, losses, size) if estimator == "batch_mean" else of_samples
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


def _add_batch_mean(
    model: nn.Module, total: dict[str, Tensor], losses: Losses, size: str, inputs: Tensor, labels: Tensor
) -> None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        return
    logits = model(inputs)
    loss = cross_entropy(logits, labels) if losses is cross_entropies else losses(logits, labels).mean()
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    used = [(total[name], g) for name, g in zip(parameters, gradients, strict=True) if g is not None]
    sums, gradients = [t for t, _ in used], [g for _, g in used]
    if size == "abs":
        torch._foreach_add_(sums, torch._foreach_abs(gradients))
    else:
        torch._foreach_addcmul_(sums, gradients, gradients)
