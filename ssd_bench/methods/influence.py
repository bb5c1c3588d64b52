"""Influence unlearning (Izzo et al. 2021; "IU" of Jia et al. 2023, arXiv 2304.04934): one Newton step away from D_f."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssd_bench.core import console
from ssd_bench.core.errors import Diverged, check_choice, check_range
from ssd_bench.core.task import Context, Cost, Method, Split, row_hash
from ssd_bench.importance import fisher_product, gradient_products, loss_gradient, slopes, weighted_gradient
from ssd_bench.train.passes import pass_clock

BATCH = 64
RELEASED = 1000  # samples in the released recursion, up to two more
KIND = "gradient_full"
PRODUCTS = "gradient_products"
PRODUCTS_COST = 50  # passes each way that they take as long as: 30 to 80 on a CPU, at 700,000 parameters


@dataclass(frozen=True)
class Influence(Method):
    """theta + step (F + damping)^-1 v, with v = N_f / N (mean gradient of D_f - that of D_r), F the empirical Fisher.

    F is that of `n_samples` images of D_r, drawn at random. The inner products of their gradients, which are kept,
    invert it but for rounding, whatever the damping; conjugate gradients that begin with that inverse stop when the
    residual is `tolerance` of v or after so many `iterations`; the row has both. damping: above 0; at 1 hardly more
    than a step along v. variant=official: the released recursion (WoodFisher), which inverts nothing: v plus a multiple
    of the gradient of one retained image. In eval mode; the gradient of D is kept for all requests.
    """

    variant: str = "inverse"
    step: float = 1.0
    damping: float = 0.01
    n_samples: int = 1000
    iterations: int = 10
    tolerance: float = 1e-3
    version = 2
    needs = ("retain",)
    seeds = ("seed_unlearn",)

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ("inverse", "official"))
        check_range("damping", self.damping, above=0)
        check_range("n_samples", self.n_samples, 1)
        check_range("iterations", self.iterations, 1)
        check_range("tolerance", self.tolerance, 0)

    def cost(self, data: Split, recipe: Any) -> Cost:
        """With one iteration, which is what it takes but for rounding, and products that are not there yet."""
        shared = {KIND: (_key(data), Cost(backward=len(data.rows)))}
        if self.variant == "official":
            forward = 2 * (min(len(data.retain), RELEASED + 2) - 1)
            return Cost(forward=forward, backward=len(data.forget) + 1, shared=shared)
        samples = min(self.n_samples, len(data.retain))
        return Cost(forward=samples, backward=len(data.forget) + (2 + PRODUCTS_COST) * samples, shared=shared)

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        v = direction(model, data, context)
        moved = self.released(model, data, v) if self.variant == "official" else self.solved(model, data, v, context)
        with torch.no_grad():
            for name, d in moved.items():
                model.get_parameter(name).add_(d, alpha=self.step)
        return model

    def solved(self, model: nn.Module, data: Split, v: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """(F + damping)^-1 v."""
        drawn = torch.randperm(len(data.retain), generator=context.generator("samples"))[: self.n_samples]
        rows = data.retain[drawn].sort().values

        def products() -> dict[str, Tensor]:
            return {"products": gradient_products(model, _batches(data, rows), v)}

        found = context.cached(PRODUCTS, {"rows": row_hash(rows)}, products)["products"]
        if not found.isfinite().all():
            raise Diverged("the gradients of D_r are not finite")
        eigenvalues, turned = torch.linalg.eigh(found.cpu().double())
        weights = (turned / (eigenvalues.clamp(min=0) + len(rows) * self.damping)) @ turned.T

        def product(u: Tensor) -> Tensor:
            return _flat(fisher_product(model, _batches(data, rows), _like(u, v))) + self.damping * u

        def inverse(u: Tensor) -> Tensor:  # of F + damping, by Woodbury's identity
            along = weights @ slopes(model, _batches(data, rows), _like(u, v)).to(weights)
            parts = along.to(u).split(BATCH)
            return (u - _flat(weighted_gradient(model, _batches(data, rows), parts, v))) / self.damping

        with pass_clock.using(rows.device, "float32"):  # what bfloat16 rounds, damping multiplies
            solution, steps, residual = conjugate_gradients(product, _flat(v), self.iterations, self.tolerance, inverse)
        context.details.update(iterations=steps, residual=residual)
        return _like(solution, v)

    def released(self, model: nn.Module, data: Split, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """The released recursion o <- o - (o.g / (N + o.g)) o, k <- k - (k.g / (N + o.g)) o over samples' gradients g.

        o begins as the first one and only changes its length, so that k - v is a multiple of it, too.
        """
        first, *rest = data.retain[: RELEASED + 2].split([1, min(len(data.retain), RELEASED + 2) - 1])
        g_0 = loss_gradient(model, _batches(data, first))
        on_first, on_v = (slopes(model, _batches(data, rest[0]), u).tolist() for u in (g_0, v))
        o, k = 1.0, 0.0  # in multiples of g_0
        for by_first, by_v in zip(on_first, on_v, strict=True):
            scale = RELEASED + o * by_first
            o, k = o - o * by_first / scale * o, k - (by_v + k * by_first) / scale * o
        return {name: t + k * g_0[name] for name, t in v.items()}


def direction(model: nn.Module, data: Split, context: Context) -> dict[str, Tensor]:
    """v, by name of each parameter that takes a gradient."""

    def of_all() -> dict[str, Tensor]:
        with console.counted("influence: images", data.rows.to(data.images.indexed_on).split(BATCH)) as parts:
            return loss_gradient(model, map(data.images.batch, parts))

    full = context.cached(KIND, _key(data), of_all)
    forget = loss_gradient(model, _batches(data, data.forget))
    n_forget, n_retain = len(data.forget), len(data.retain)
    share = n_forget / (n_forget + n_retain)
    v = {}
    for name, of_forget in forget.items():
        of_full = full[name].to(of_forget.device)
        of_retain = of_full if data.placebo else of_full - of_forget
        v[name] = share * (of_forget / n_forget - of_retain / n_retain)
    return v


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    iterations: int,
    tolerance: float,
    inverse: Callable[[Tensor], Tensor] = lambda u: u,
) -> tuple[Tensor, int, float]:
    """x with A x = b for a symmetric positive A, given as `product`: x, iterations, and |b - A x| / |b| as tracked.

    inverse: about that of A, and as symmetric and positive; the nearer it is, the fewer iterations.
    """
    x, residual, target = torch.zeros_like(b), b.clone(), tolerance * b.norm()
    along, size = residual, None
    for done in range(iterations):
        if residual.norm() <= target:
            return x, done, (residual.norm() / b.norm().clamp(min=torch.finfo(b.dtype).tiny)).item()
        guess = inverse(residual)
        before, size = size, residual.dot(guess)
        along = guess if before is None else guess + size / before * along
        turned = product(along)
        length = size / along.dot(turned)
        x, residual = x + length * along, residual - length * turned
    return x, iterations, (residual.norm() / b.norm()).item()


def _key(data: Split) -> dict[str, str]:
    return {"rows": row_hash(data.rows)}


def _batches(data: Split, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return map(data.images.batch, rows.to(data.images.indexed_on).split(BATCH))


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def _like(flat: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = flat.split([t.numel() for t in tensors.values()])
    return {name: part.view(t.shape) for (name, t), part in zip(tensors.items(), parts, strict=True)}
