"""Sums of squared per-sample gradients at little more than the price of one backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, pad

CHUNK = 32  # samples whose whole gradients `_add_slowly` holds at once
CACHE_BYTES = {"cpu": 2**21}  # what `_squares` may hold per step: near a core's L2 cache
DEVICE_BYTES = 2**28  # the same on any other device, where large products pay

Squares = dict[str, Tensor]  # by the name of a module's own parameter: sum over samples of squared gradients


def add_per_sample(
    model: nn.Module, inputs: Tensor, labels: Tensor, total: dict[str, Tensor], weights: Tensor | None = None
) -> None:
    """Add sum_n sum_k weights[n, k] (gradient of the cross-entropy of sample n with label labels[n, k])^2 to `total`.

    inputs: n x ...; labels: n, or n x k for k labels a sample; weights: as labels, at least 0, default 1. total: by
    name of every parameter. The model must be in eval mode, so that no sample's output depends on another's.

    The gradient of a linear, convolution or normalisation layer's weights for one sample is a product of what went in
    and of the gradient of what came out, so that one backward pass for the batch yields those of all samples. Layers
    of other types, layers used twice and shared parameters go the general way, `torch.func`, which is 2 to 3 times as
    slow. Measured on a CPU against one backward pass for the batch mean: 1.65 times (ResNet18 of width 16), 1.5 (64).
    """
    labels = labels[:, None] if labels.ndim == 1 else labels
    scale = torch.ones_like(labels, dtype=inputs.dtype) if weights is None else weights.view_as(labels).sqrt()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        return
    names = {id(p): name for name, p in trainable.items()}
    with _recorded(model, names, len(labels), total) as handled, torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        logits = model(inputs)
        for k in range(labels.shape[1]):
            loss = (scale[:, k] * cross_entropy(logits, labels[:, k], reduction="none")).sum()
            torch.autograd.grad(loss, inputs, retain_graph=k + 1 < labels.shape[1], allow_unused=True)
    rest = {name: p for name, p in trainable.items() if name not in handled}
    for k in range(labels.shape[1] if rest else 0):
        _add_slowly(model, rest, inputs, labels[:, k], scale[:, k], total)


@contextmanager
def _recorded(model: nn.Module, names: dict[int, str], n: int, total: dict[str, Tensor]) -> Iterator[set[str]]:
    """While it lasts, a forward pass over n samples readies the layers whose squares the backward pass then adds.

    Yields the names of the parameters that are dealt with; it is filled by the forward pass.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    used: Counter[nn.Module] = Counter()
    handled: set[str] = set()

    def record(rule: Callable[..., Squares], module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        used[module] += 1
        own = {name: names[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in names}
        alone = all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
        if used[module] > 1 or not alone or len(out) != n or not out.requires_grad:
            handled.difference_update(own.values())  # its gradient is a sum, or the first dimension is not the samples
            return
        seen = args[0].detach()

        def add(gradient: Tensor) -> None:
            if handled.isdisjoint(own.values()):
                return
            with torch.no_grad(), torch.autocast(seen.device.type, enabled=False):
                for name, squares in rule(module, seen.float(), gradient.float()).items():
                    if name in own:
                        total[own[name]] += squares

        handled.update(own.values())
        out.register_hook(add)  # before an in-place activation changes `out`, so it sees the layer's own gradient

    rules = ((module, _rule(module)) for module in model.modules())
    handles = [module.register_forward_hook(partial(record, rule)) for module, rule in rules if rule]
    try:
        yield handled
    finally:
        for handle in handles:
            handle.remove()


def _rule(module: nn.Module) -> Callable[..., Squares] | None:
    """How the squares of this layer are found, or None for the general way. Subclasses may compute anything."""
    kind = type(module)
    if kind is nn.Linear:
        return _linear
    if kind is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros" and module.padding != "same":
        return _convolution
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and module.affine and module.track_running_stats:
        return _batch_norm
    timms = (kind.__module__, kind.__name__) == ("timm.layers.norm", "LayerNorm")  # the parent's, and faster in float16
    if (kind is nn.LayerNorm or timms) and module.elementwise_affine and len(module.normalized_shape) == 1:
        return _layer_norm
    return None


def _linear(module: nn.Linear, seen: Tensor, gradient: Tensor) -> Squares:
    if seen.ndim == 2:
        return {"weight": gradient.square().T @ seen.square(), "bias": gradient.square().sum(0)}
    seen, gradient = seen.flatten(1, -2), gradient.flatten(1, -2)  # n x tokens x features
    return {"weight": _squares(gradient, seen, lambda x: x), "bias": gradient.sum(1).square().sum(0)}


def _convolution(module: nn.Conv2d, seen: Tensor, gradient: Tensor) -> Squares:
    gradient = gradient.permute(0, 2, 3, 1).flatten(1, 2)  # n x places x channels out; a view in channels-last
    out, into, high, wide = module.weight.shape
    squares = _squares(gradient, seen, partial(_patches, module), high * wide * into * gradient.shape[1])
    return {
        "weight": squares.view(out, high, wide, into).permute(0, 3, 1, 2),
        "bias": gradient.sum(1).square().sum(0),
    }


def _patches(module: nn.Conv2d, seen: Tensor) -> Tensor:
    """What each place of the output sees: n x places x (high wide channels).

    Copied along the channels of channels-last memory, which takes a tenth to a half of `unfold`'s time.
    """
    down, right = (0, 0) if module.padding == "valid" else module.padding
    padded = pad(seen.permute(0, 2, 3, 1), (0, 0, right, right, down, down)).contiguous()
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    places = [(side - r - 1) // s + 1 for side, r, s in zip(padded.shape[1:3], reach, module.stride, strict=True)]
    n, channels, strides = len(padded), padded.shape[3], padded.stride()
    steps = [strides[1] * module.stride[0], strides[2] * module.stride[1]]
    inner = [strides[1] * module.dilation[0], strides[2] * module.dilation[1]]
    patches = padded.as_strided((n, *places, *module.kernel_size, channels), (strides[0], *steps, *inner, strides[3]))
    return patches.reshape(n, places[0] * places[1], -1)


def _squares(gradient: Tensor, seen: Tensor, prepare: Callable[[Tensor], Tensor], size: int = 0) -> Tensor:
    """Sum over samples of (gradient_n^T prepare(seen)_n)^2, in steps that fit the cache: that is worth a third.

    gradient: n x places x out; prepare(seen): n x places x in. size: numbers that prepare makes of a sample.
    """
    one = prepare(seen[:1])
    total = torch.zeros(gradient.shape[2], one.shape[2], device=gradient.device, dtype=gradient.dtype)
    numbers = size + total.numel()
    budget = CACHE_BYTES.get(gradient.device.type, DEVICE_BYTES)
    step = max(4, budget // (numbers * gradient.element_size()))
    for g, s in zip(gradient.split(step), seen.split(step), strict=True):
        total += (g.transpose(1, 2) @ prepare(s)).square_().sum(0)
    return total


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, seen: Tensor, gradient: Tensor) -> Squares:
    places = list(range(2, seen.ndim))
    of_bias = gradient.sum(places) if places else gradient
    with_input = (gradient * seen).sum(places) if places else gradient * seen
    of_weight = (with_input - of_bias * module.running_mean) * (module.running_var + module.eps).rsqrt()
    return {"weight": of_weight.square().sum(0), "bias": of_bias.square().sum(0)}


def _layer_norm(module: nn.LayerNorm, seen: Tensor, gradient: Tensor) -> Squares:
    normalised = nn.functional.layer_norm(seen, module.normalized_shape, eps=module.eps)
    gradient, normalised = (t.reshape(len(t), -1, t.shape[-1]) for t in (gradient, normalised))
    return {"weight": (gradient * normalised).sum(1).square().sum(0), "bias": gradient.sum(1).square().sum(0)}


def _add_slowly(
    model: nn.Module, parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor, scale: Tensor, total: Squares
) -> None:
    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        return s * cross_entropy(functional_call(model, values, (x[None],)), y[None])

    values = {name: p.detach() for name, p in parameters.items()}
    gradients_of = vmap(grad(loss), in_dims=(None, 0, 0, 0))
    for x, y, s in zip(*(t.detach().split(CHUNK) for t in (inputs, labels, scale)), strict=True):
        for name, g in gradients_of(values, x, y, s).items():
            total[name] += g.square().sum(0)  # not in place: two gradients may share memory
