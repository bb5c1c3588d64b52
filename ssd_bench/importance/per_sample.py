"""Sums of squared per-sample gradients at little more than the price of one backward pass."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, pad

log = logging.getLogger(__name__)

CHUNK = 32  # samples whose whole gradients `_add_mapped` holds at once, at most
GRADIENT_BYTES = 2**30  # what they may take, at most, where one sample's fit
CACHE_BYTES = {"cpu": 2**21}  # what `_sums` may hold per step: near a core's L2 cache
DEVICE_BYTES = 2**28  # the same on any other device, where large products pay

Squares = dict[str, Tensor]  # by the name of a module's own parameter: sum over samples of squared gradients
Losses = Callable[[Tensor, Tensor], Tensor]  # (logits n x classes, labels n) -> n


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each sample: n."""
    return cross_entropy(logits, labels, reduction="none")


class PerSample:
    """Adds up squared per-sample gradients of one model, batch by batch, in `total` (by name of every parameter).

    losses: (logits, labels) -> n, whose gradients they are. size: "square", or "abs" to add up absolute values.

    The gradient of a linear, convolution or normalisation layer's weights for one sample is a product of what went in
    and of the gradient of what came out, so that one backward pass for the batch yields those of all samples. Layers
    of other types, layers used twice and shared parameters go the general way, `torch.func`, which is 2 to 3 times as
    slow. On a CPU they take 2.1 times as long as the batch mean, in bfloat16 2 to 2.9, by the processor (width 16,
    results/benchmark).

    The fast way trusts that a layer's first dimension is the samples and that its parameters are used nowhere else.
    So the first batch is a check: where the sums over two of its samples are not those of their own gradients, the
    whole model goes the general way.
    """

    def __init__(
        self, model: nn.Module, total: dict[str, Tensor], losses: Losses = cross_entropies, size: str = "square"
    ) -> None:
        self.model, self.total, self.losses, self.size = model, total, losses, size
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._general: set[str] = set()  # once there, for good: in a later batch the dimensions may agree by chance
        self._mapped = True  # the general way; False where PyTorch cannot map a layer over samples
        self._checked = 0  # samples: a single one does not show whether gradients of several are mixed

    def add(self, inputs: Tensor, labels: Tensor, weights: Tensor | None = None) -> None:
        """Add sum_n sum_k weights[n, k] (gradient of the loss of sample n with label labels[n, k])^2.

        inputs: n x ...; labels: n, or n x k for k labels a sample; weights: as labels, at least 0, default 1. The
        model must be in eval mode, so that no sample's output depends on another's.
        """
        if not self._trainable:
            return
        labels = labels[:, None] if labels.ndim == 1 else labels
        scale = torch.ones(labels.shape, device=labels.device) if weights is None else weights.view_as(labels)
        if weights is not None and self.size == "square":
            scale = scale.rsqrt().reciprocal()  # sqrt() depends on the processor
        if min(2, len(labels)) > self._checked:
            self._check(inputs)
        self._general |= self._add_fast(inputs, labels, scale, self.total)
        rest = {name: p for name, p in self._trainable.items() if name in self._general}
        for k in range(labels.shape[1] if rest else 0):
            self._add_slowly(rest, inputs, labels[:, k], scale[:, k])

    def _add_slowly(self, rest: dict[str, Tensor], inputs: Tensor, labels: Tensor, scale: Tensor) -> None:
        """Add the squares of these parameters; n labels and factors."""
        if self._mapped:
            try:
                return self._add_mapped(rest, inputs, labels, scale)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as e:  # from the first samples: nothing has been added
                why = " ".join(str(e).split())
                log.info("per-sample gradients: PyTorch cannot map this model over samples (%s); one by one", why)
                self._mapped = False
        return self._add_one_by_one(rest, inputs, labels, scale)

    def _add_one_by_one(self, rest: dict[str, Tensor], inputs: Tensor, labels: Tensor, scale: Tensor) -> None:
        for x, y, s in zip(inputs.split(1), labels.split(1), scale.tolist(), strict=True):
            with torch.enable_grad():
                loss = self.losses(self.model(x), y).sum()
            gradients = torch.autograd.grad(loss, list(rest.values()), allow_unused=True)
            for name, g in zip(rest, gradients, strict=True):
                if g is not None:
                    self.total[name] += _sized(s * _widened(g), self.size)

    def _add_mapped(self, rest: dict[str, Tensor], inputs: Tensor, labels: Tensor, scale: Tensor) -> None:
        def loss(values: dict[str, Tensor], x: Tensor, y: Tensor, s: Tensor) -> Tensor:
            return s * self.losses(functional_call(self.model, others | values, (x[None],)), y[None]).sum()

        values = {name: p.detach() for name, p in rest.items()}
        others = {name: p.detach() for name, p in self._trainable.items() if name not in rest}  # or sums hold a graph
        gradients_of = vmap(grad(loss), in_dims=(None, 0, 0, 0))
        bytes_each = sum(p.numel() * p.element_size() for p in values.values())
        chunk = max(1, min(CHUNK, GRADIENT_BYTES // bytes_each))
        for x, y, s in zip(*(t.detach().split(chunk) for t in (inputs, labels, scale)), strict=True):
            for name, g in gradients_of(values, x, y, s).items():
                self.total[name] += _sized(_widened(g), self.size).sum(0)  # not in place: gradients may share memory

    def _add_fast(
        self, inputs: Tensor, labels: Tensor, scale: Tensor, total: dict[str, Tensor], sparse: bool = False
    ) -> set[str]:
        """Returns the names of the parameters that have to go the general way. sparse: most of `scale` is 0."""
        names = {id(p): name for name, p in self._trainable.items() if name not in self._general}
        if not names:
            return set()
        with _recorded(self.model, names, len(labels), total, sparse, self.size) as handled, torch.enable_grad():
            if inputs.is_floating_point():  # else the parameters' own gradients are worked out as well
                inputs = inputs.detach().requires_grad_()
            leaves = [inputs] if inputs.requires_grad else list(self._trainable.values())
            logits = self.model(inputs)
            for k in range(labels.shape[1]):
                loss = (scale[:, k] * self.losses(logits, labels[:, k])).sum()
                torch.autograd.grad(loss, leaves, retain_graph=k + 1 < labels.shape[1], allow_unused=True)
        return set(names.values()) - handled

    def _check(self, inputs: Tensor) -> None:
        """Compare the fast way, in a batch of this size, with the gradients of two of its samples, each by itself.

        Both get the same label, the one that they find least likely: so both have large gradients, in the same
        entries, and gradients that are mixed up give other squares.
        """
        pair = inputs[[0, -1]] if len(inputs) > 1 else inputs
        with torch.enable_grad():
            logits = self.model(pair)
            label = logits.detach().softmax(1).sum(0).argmin()
            losses = self.losses(logits, label.expand(len(pair)))
        true, fast = (zero_sums(self._trainable.items()) for _ in range(2))
        for loss in losses:
            gradients = torch.autograd.grad(loss, list(self._trainable.values()), retain_graph=True, allow_unused=True)
            for squares, g in zip(true.values(), gradients, strict=True):
                if g is not None:
                    squares += _sized(g.to(squares.dtype), self.size)
        scale = torch.zeros(len(inputs), 1, device=label.device)
        scale[[0, -1]] = 1
        self._general |= self._add_fast(inputs, label.expand(len(inputs), 1), scale, fast, sparse=True)
        self._checked = len(pair)
        both = {name: (fast[name], true[name]) for name in fast if name not in self._general}
        wrong = _differing(both, _eps(logits), self.size)
        if wrong:
            self._general.update(self._trainable)
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            log.info(
                "per-sample gradients: the fast way does not suit this model (%s%s); all parameters go the general "
                "way, which is slower",
                wrong[0],
                more,
            )


def zero_sums(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Where to add squares to: float32 (float64 for parameters in float64), since half precision would overflow."""
    return {name: torch.zeros_like(p, dtype=_wide(p), requires_grad=False) for name, p in parameters}


def _wide(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)


def _widened(t: Tensor) -> Tensor:
    return t.to(_wide(t))


def _eps(logits: Tensor) -> float:
    """Relative rounding error of the arithmetic that the model runs in."""
    kind = logits.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else logits.dtype
    return max(torch.finfo(dtype).eps for dtype in (low, logits.dtype))


def _sized(t: Tensor, size: str) -> Tensor:
    """The squares or the absolute values of a tensor."""
    return t.abs() if size == "abs" else t.square()


def _differing(sums: dict[str, tuple[Tensor, Tensor]], eps: float, size: str) -> list[str]:
    """Names of the pairs of sums that differ by more than rounding. Sums that are not finite do not count.

    Of squares the square roots are compared, which are of a gradient's size: a gradient that cancels to nothing (such
    as that of the keys' bias in attention) is rounding noise, small against the others.
    """
    if not sums:
        return []
    roots = list(sums.values()) if size == "abs" else [(fast.sqrt(), true.sqrt()) for fast, true in sums.values()]
    off = torch.stack([(fast - true).norm().double() for fast, true in roots])
    size = torch.stack([true.norm().double() for _, true in roots])
    share = torch.tensor([true.numel() for _, true in roots], dtype=torch.float64, device=size.device).sqrt()
    noise = 4 * eps * size.norm() / share.norm() * share
    differs = (off > (0.05 if eps < 1e-5 else 0.25) * size + noise) & off.isfinite()
    return [name for name, each in zip(sums, differs.tolist(), strict=True) if each]


@contextmanager
def _recorded(
    model: nn.Module, names: dict[int, str], n: int, total: dict[str, Tensor], sparse: bool, size: str
) -> Iterator[set[str]]:
    """While it lasts, a forward pass over n samples readies the layers whose squares the backward pass then adds.

    Yields the names of the parameters that are dealt with; it is filled by the forward pass. sparse: samples without
    gradient are left out.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    used: Counter[nn.Module] = Counter()
    handled: set[str] = set()

    def record(rule: Callable[..., Squares], owner: nn.Module, _: nn.Module, args: tuple, out: Tensor) -> None:
        used[owner] += 1
        own = {name: names[id(p)] for name, p in owner.named_parameters(recurse=False) if id(p) in names}
        alone = all(owners[id(p)] == 1 for p in owner.parameters(recurse=False))
        if not args or used[owner] > 1 or not alone or out.ndim < 2 or len(out) != n or not out.requires_grad:
            # its gradient is a sum, the first dimension is not the samples, or its input is handed in by name
            handled.difference_update(own.values())
            return
        seen = args[0].detach()

        def add(gradient: Tensor) -> None:
            if handled.isdisjoint(own.values()):
                return
            rows = gradient.flatten(1).any(1) if sparse else slice(None)
            with torch.no_grad(), torch.autocast(seen.device.type, enabled=False):
                for name, squares in rule(owner, seen[rows], gradient[rows], size).items():
                    if name in own:
                        total[own[name]] += squares

        handled.update(own.values())
        out.register_hook(add)  # before an in-place activation changes `out`, so it sees the layer's own gradient

    handles = []
    for owner in model.modules():
        if rule := _rule(owner):
            watched = owner.pos_drop if rule is _tokens else owner
            handles.append(watched.register_forward_hook(partial(record, rule, owner)))
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
    path = f"{kind.__module__}.{kind.__name__}"
    timms = path == "timm.layers.norm.LayerNorm"  # computes what its parent does, in float16 faster
    if (kind is nn.LayerNorm or timms) and module.elementwise_affine and len(module.normalized_shape) == 1:
        return _layer_norm
    if path == "timm.models.vision_transformer.VisionTransformer" and not module.dynamic_img_size:
        return _tokens
    return None


def _tokens(module: nn.Module, seen: Tensor, gradient: Tensor, size: str) -> Squares:
    """Class token, register tokens and position embedding of timm's VisionTransformer.

    Each is put before the tokens of every sample or added to them, so its gradient is theirs; `gradient` is that of
    `pos_drop`, which comes next and does nothing in eval mode.
    """
    squares = _sized(_widened(gradient), size).sum(0, keepdim=True)
    prefix = module.num_prefix_tokens
    first = prefix - module.num_reg_tokens
    placed = squares[:, prefix:] if module.no_embed_class else squares
    return {"cls_token": squares[:, :first], "reg_token": squares[:, first:prefix], "pos_embed": placed}


def _linear(module: nn.Linear, seen: Tensor, gradient: Tensor, size: str) -> Squares:
    if seen.ndim == 2:
        seen, gradient = _widened(seen), _widened(gradient)
        sizes = _sized(gradient, size)
        return {"weight": sizes.T @ _sized(seen, size), "bias": sizes.sum(0)}
    seen, gradient = seen.flatten(1, -2), gradient.flatten(1, -2)  # n x tokens x features
    squares = {"weight": _sums(gradient, seen, lambda x: [x], size, seen.shape[1:].numel())[0]}
    return squares | _of_bias(module, gradient, size)


def _convolution(module: nn.Conv2d, seen: Tensor, gradient: Tensor, size: str) -> Squares:
    gradient = gradient.permute(0, 2, 3, 1)  # n x rows x columns x channels out; a view in channels-last
    rows, columns = gradient.shape[1:3]
    into, (high, wide), down = seen.shape[1], module.kernel_size, module.stride[0]
    made = (rows + high // down) * down * columns * wide * into
    gradient = gradient.flatten(1, 2)
    squares = _sums(gradient, seen, partial(_patches, module, rows, columns), size, made)
    of_weight = squares.view(high, -1, wide, into).permute(1, 3, 0, 2)
    return {"weight": of_weight} | _of_bias(module, gradient, size)


def _patches(module: nn.Conv2d, rows: int, columns: int, seen: Tensor) -> list[Tensor]:
    """What each place of the output sees of each row of the kernel: high times n x places x (wide channels).

    Only what lies side by side in a row is copied, along the channels of channels-last memory. The rows are read where
    they lie, the kernel's next one a row further on; for a stride they are sorted, so that one step is one row.
    """
    down, right = (0, 0) if module.padding == "valid" else module.padding
    (high, wide), (step, stride), (apart, dilation) = module.kernel_size, module.stride, module.dilation
    beyond = -(seen.shape[2] + 2 * down) % step
    padded = pad(seen.permute(0, 2, 3, 1), (0, 0, right, right, down, down + beyond)).contiguous()
    beside = padded.unfold(2, dilation * (wide - 1) + 1, stride)[..., ::dilation].unflatten(1, (-1, step))
    sorted_ = beside.permute(0, 2, 1, 3, 5, 4).flatten(4).flatten(2, 3)  # n x step x places x (wide channels)
    starts = [divmod(apart * i, step) for i in range(high)]
    return [sorted_[:, which, first * columns : (first + rows) * columns] for first, which in starts]


def _of_bias(module: nn.Linear | nn.Conv2d, gradient: Tensor, size: str) -> Squares:
    """Of a bias that is added at every place; gradient: n x places x out."""
    if module.bias is None:
        return {}
    return {"bias": _sized(gradient.sum(1, dtype=_wide(gradient)), size).sum(0)}


def _sums(gradient: Tensor, seen: Tensor, parts: Callable[[Tensor], list[Tensor]], size: str, made: int) -> Tensor:
    """Sums over samples of (gradient_n^T part_n)^2 for each of parts(seen), in steps that fit the cache.

    gradient: n x places x out; each part: n x places x in; returned: parts x out x in. made: numbers that all parts
    hold of a sample.

    Where the gradient is bfloat16, so are the products, as gradients of weights are in training: it reaches as far as
    float32, so that the square of a single sample does not vanish. Steps are added up in float32.
    """
    wide = _wide(gradient)
    kind = gradient.dtype if gradient.dtype is torch.bfloat16 else wide
    gradient, seen = gradient.to(kind), seen.to(kind)
    one = parts(seen[:1])
    total = torch.zeros(len(one), gradient.shape[2], one[0].shape[2], device=gradient.device, dtype=wide)
    step = _step(gradient, made + total[0].numel())
    for g, s in zip(gradient.split(step), seen.split(step), strict=True):
        for sums, part in zip(total, parts(s), strict=True):
            product = g.transpose(1, 2) @ part
            sums += (product.abs_() if size == "abs" else product.square_()).sum(0)
    return total


def _step(like: Tensor, numbers: int) -> int:
    """How many samples to take at once, if one takes so many numbers of this kind."""
    return max(4, CACHE_BYTES.get(like.device.type, DEVICE_BYTES) // (numbers * like.element_size()))


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, seen: Tensor, gradient: Tensor, size: str) -> Squares:
    places = list(range(2, seen.ndim))
    sums = {"weight": 0.0, "bias": 0.0}
    rsqrt = (module.running_var + module.eps).rsqrt()
    step = _step(gradient, 6 * seen.shape[1:].numel())  # both, both widened, and what is made of them
    for g, s in zip(gradient.split(step), seen.split(step), strict=True):
        g, s = _widened(g), _widened(s)
        of_bias = g.sum(places) if places else g
        with_input = (g * s).sum(places) if places else g * s
        of_weight = (with_input - of_bias * module.running_mean) * rsqrt
        sums["weight"] += _sized(of_weight, size).sum(0)
        sums["bias"] += _sized(of_bias, size).sum(0)
    return sums


def _layer_norm(module: nn.LayerNorm, seen: Tensor, gradient: Tensor, size: str) -> Squares:
    seen, gradient = _widened(seen), _widened(gradient)
    normalised = nn.functional.layer_norm(seen, module.normalized_shape, eps=module.eps)
    gradient, normalised = (t.reshape(len(t), -1, t.shape[-1]) for t in (gradient, normalised))
    of_weight, of_bias = (gradient * normalised).sum(1), gradient.sum(1)
    return {"weight": _sized(of_weight, size).sum(0), "bias": _sized(of_bias, size).sum(0)}
