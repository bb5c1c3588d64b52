"""NTK scrubbing (Golatkar et al. 2020, arXiv 2003.02960) of the last layer: the weights it would have without D_f."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from ssd_bench.core import console
from ssd_bench.core.errors import check_choice, check_range
from ssd_bench.core.seeds import initial_seed
from ssd_bench.core.task import Context, Cost, Method, Split, row_hash
from ssd_bench.methods.head import linear_head, not_linear
from ssd_bench.train.passes import eval_mode, pass_clock, uncompiled

BATCH = 128
KIND = "head_moments"


@dataclass(frozen=True)
class NtkHead(Method):
    """theta + kappa (w(D_r) - w(D)) in the last layer, w(S) = -(P'P + |S| ridge)^-1 P'E: a ridge regression.

    P: the features that the last layer sees, and a one for its bias; E: probabilities minus one-hot labels. That is the
    whole Jacobian's formula for these parameters, in milliseconds; for all of a network's it would take terabytes, so
    the features go on knowing D_f. scale: trapezium corrects the length by where the training started; none: kappa 1.
    start: fresh, the original's own initial last layer (the library, which does not know it, takes another draw), or,
    as released, the original, as if it had never moved. The sums over D are kept for all requests.
    """

    version: ClassVar[int] = 1
    ridge: float = 0.1
    scale: str = "trapezium"
    start: str = "fresh"
    needs = ("retain",)
    seeds = ("seed",)

    def __post_init__(self) -> None:
        check_choice("scale", self.scale, ("trapezium", "none"))
        check_choice("start", self.start, ("fresh", "original"))
        check_range("ridge", self.ridge, above=0)

    def unfit(self, model: nn.Module, head: str | None) -> str | None:
        return not_linear(model, head, "ntk_head")

    def cost(self, data: Split, recipe: Any) -> Cost:
        return Cost(forward=len(data.forget), shared={KIND: (_key(data), Cost(forward=len(data.rows)))})

    def __call__(self, model: nn.Module, data: Split, context: Context) -> nn.Module:
        head = linear_head(model, context.head, "ntk_head")
        full = context.cached(KIND, _key(data), lambda: moments(model, head, data, data.rows))
        forget = moments(model, head, data, data.forget)
        # a placebo was never part of D: what is left is D itself
        retained = full if data.placebo else {name: full[name] - forget[name] for name in full}
        every = {name: retained[name] + forget[name] for name in full}
        without, before = (self.solved(sums) for sums in (retained, every))
        delta = without - before
        kappa = self.kappa(delta, without, weights(head), data, context)
        context.details["kappa"] = kappa
        move(head, kappa * delta)
        return model

    def solved(self, sums: dict[str, Tensor]) -> Tensor:
        """w(S): features (one more with a bias) x classes, float64."""
        square = sums["square"] + self.ridge * sums["count"] * torch.eye(len(sums["square"]), dtype=torch.float64)
        return -torch.linalg.solve(square, sums["errors"])

    def kappa(self, delta: Tensor, without: Tensor, now: Tensor, data: Split, context: Context) -> float:
        """|delta'| / |delta|, |delta'| = |delta| + 2 |cos(delta, e)| |e|, e = theta_o - theta_init - w(D_r)."""
        if self.scale == "none" or not delta.any():
            return 1.0
        e = -without
        if self.start == "fresh":
            fresh = context.fresh_model(initial_seed(context.seed))
            e += now - weights(linear_head(fresh, context.head, "ntk_head"))
        cosine = (delta * e).sum().abs() / (delta.norm() * e.norm()).clamp(min=torch.finfo(torch.float64).tiny)
        return (1 + 2 * cosine * e.norm() / delta.norm()).item()


def moments(model: nn.Module, head: nn.Linear, data: Split, rows: Tensor) -> dict[str, Tensor]:
    """P'P, P'E and the number of these rows, in eval mode: float64, on the CPU."""
    seen: list[Tensor] = []

    def see(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.extend([*inputs, *named.values()][:1])

    hook = head.register_forward_pre_hook(see, with_kwargs=True)
    square, errors = 0.0, 0.0
    try:
        counted = console.counted("ntk_head: images", rows.to(data.images.indexed_on).split(BATCH))
        with torch.no_grad(), eval_mode(model), uncompiled(), counted as parts:  # compiled, no hook is called
            for part in parts:
                inputs, labels = data.images.batch(part)
                with pass_clock():
                    logits = model(inputs)
                place = "cpu" if logits.device.type == "mps" else logits.device  # which has no float64
                features = seen.pop().to(place).double()
                if head.bias is not None:
                    features = pad(features, (0, 1), value=1.0)
                error = logits.to(place).double().softmax(1)
                error -= one_hot(labels.to(place), error.shape[1])
                square, errors = square + features.T @ features, errors + features.T @ error
    finally:
        hook.remove()
    sums = {"square": square.cpu(), "errors": errors.cpu()}
    return sums | {"count": torch.tensor(float(len(rows)), dtype=torch.float64)}


def weights(head: nn.Linear) -> Tensor:
    """As `NtkHead.solved`: the bias, if there is one, is the last row."""
    rows = [head.weight.T] if head.bias is None else [head.weight.T, head.bias[None]]
    return torch.cat(rows).detach().cpu().double()


@torch.no_grad()
def move(head: nn.Linear, by: Tensor) -> None:
    """Add to the layer's weights and bias."""
    head.weight.add_(by[: head.in_features].T.to(head.weight))
    if head.bias is not None:
        head.bias.add_(by[-1].to(head.bias))


def _key(data: Split) -> dict[str, str]:
    return {"rows": row_hash(data.rows)}
