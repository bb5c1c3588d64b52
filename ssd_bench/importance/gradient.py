"""Gradients of the loss over samples, in eval mode: their sum, each along a direction, and each by every other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, one_hot

from ssd_bench.core.errors import check_choice
from ssd_bench.importance.per_sample import CHUNK
from ssd_bench.train.passes import eval_mode, pass_clock

GRADIENT_BYTES = 2**31  # what `gradient_products` holds at once, where the gradients of two samples fit


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
    return _added_up(model, parameters, batches, partial(cross_entropy, reduction=reduction))


def weighted_gradient(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], weights: Iterable[Tensor], of: Iterable[str]
) -> dict[str, Tensor]:
    """sum_i w_i g_i over the gradients g_i of samples' cross-entropies, by name of the parameters in `of`.

    weights: those of each batch. The model is put in eval mode and left as it was found.
    """
    parameters = {name: model.get_parameter(name) for name in of}
    weighted = ((*batch, each) for batch, each in zip(batches, weights, strict=True))
    return _added_up(model, parameters, weighted, lambda z, y, w: cross_entropy(z, y, reduction="none").dot(w))


def _added_up(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
) -> dict[str, Tensor]:
    """The gradients of loss(logits, *what else is in a batch than its inputs), added up over batches."""
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    with eval_mode(model), torch.enable_grad():
        for inputs, *others in batches:
            with pass_clock():
                value = loss(model(inputs), *others)
            with pass_clock.backward():
                gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            for sum_of, g in zip(total.values(), gradients, strict=True):
                if g is not None:
                    sum_of += g
    return total


def gradient_products(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], of: Iterable[str]) -> Tensor:
    """The inner product of the gradients of each two samples, over the parameters in `of`: n x n, of their type.

    At most two blocks of gradients are in memory at once, `GRADIENT_BYTES` together: where b blocks are needed, each is
    worked out (b + 1) / 2 times. The model is put in eval mode and left as it was found.
    """
    values = {name: model.get_parameter(name).detach() for name in of}
    inputs, labels = map(torch.cat, zip(*batches, strict=True))
    bytes_each = sum(p.numel() * p.element_size() for p in values.values())
    blocks = torch.arange(len(labels)).split(max(1, GRADIENT_BYTES // (2 * bytes_each)))
    found = next(iter(values.values())).new_zeros(len(labels), len(labels))
    with eval_mode(model), sdpa_kernel(SDPBackend.MATH):
        for i, first in enumerate(blocks):
            ours = _gradients(model, values, inputs[first], labels[first])
            for second in blocks[i:]:
                theirs = ours if second is first else _gradients(model, values, inputs[second], labels[second])
                block = sum(ours[name] @ theirs[name].T for name in ours).to(found)
                found[first[:, None], second] = block
                found[second[:, None], first] = block.T
    return found


def _gradients(model: nn.Module, values: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Each sample's gradient of the cross-entropy by these parameters, n x numbers each."""

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, values, (x[None],)), y[None])

    def one_by_one(values: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        each = [grad(loss)(values, x, y) for x, y in zip(inputs, labels, strict=True)]
        return {name: torch.stack([g[name] for g in each]) for name in values}

    parts = []
    for x, y in zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True):
        with pass_clock.backward():
            try:
                each = vmap(grad(loss), in_dims=(None, 0, 0))(values, x, y)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # PyTorch cannot map this model over samples
                each = one_by_one(values, x, y)
        parts.append({name: g.detach().reshape(len(g), -1) for name, g in each.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in values}


def slopes(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], direction: Mapping[str, Tensor]) -> Tensor:
    """The derivative of each sample's cross-entropy along `direction`, g_i . u: n.

    direction: by name of the parameters that it changes. The model is put in eval mode and left as it was found.
    """
    with eval_mode(model), torch.enable_grad():  # without, PyTorch's encoder layers take a way that has no derivative
        return torch.cat([_slopes(model, inputs, labels, direction)[2] for inputs, labels in batches])


def fisher_product(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], direction: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The empirical Fisher matrix of the samples times `direction`, mean_i g_i (g_i . u), without any g_i in memory.

    One forward pass with tangents and one backward pass a batch. Arguments as `slopes`; shaped like `direction`.
    """
    parameters = [model.get_parameter(name) for name in direction]
    total, count = [torch.zeros_like(u) for u in direction.values()], 0
    with eval_mode(model), torch.enable_grad():
        for inputs, labels in batches:
            logits, errors, along = _slopes(model, inputs, labels, direction)
            with pass_clock.backward():
                gradients = torch.autograd.grad(logits, parameters, along[:, None] * errors, allow_unused=True)
            for sum_of, g in zip(total, gradients, strict=True):
                if g is not None:
                    sum_of += g
            count += len(labels)
    return {name: t / count for name, t in zip(direction, total, strict=True)}


def _slopes(
    model: nn.Module, inputs: Tensor, labels: Tensor, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, their errors p - y (the loss's gradient by the logits; both n x classes), and g_i . u."""
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), pass_clock(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's forward mode uses what PyTorch has deprecated
        moving = {name: forward_ad.make_dual(model.get_parameter(name), u) for name, u in direction.items()}
        try:
            logits, tangent = forward_ad.unpack_dual(functional_call(model, moving, (inputs,)))
        except NotImplementedError as e:
            why = str(e).splitlines()[0]
            raise ValueError(f"the model has a layer that PyTorch's forward mode cannot go through ({why})") from e
        errors = logits.detach().softmax(1) - one_hot(labels, logits.shape[1])
        return logits, errors, (errors * tangent.detach()).sum(1)
